"""A few timed forwards after loading: they wake the device, choose threads, set the prediction's scale."""

import statistics
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from engine.decode import Decoder
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller
from engine.energy.predict import StepPredictor, WarmUp
from engine.errors import TokenjouleError
from engine.model import Model
from engine.rows import Request
from engine.tokenizer import Tokenizer

_PREFILL_TOKENS = 16
_REPEATS = 3
_MOST_THREADS = torch.get_num_threads()  # as the process began
_WORTH_IT = 0.9  # more threads must take at most this share of one thread's time


@runtime_checkable
class MeasuresThreads(Protocol):
    """A backend with threads of its own, which leaves to torch what torch does faster."""

    @property
    def threads(self) -> int: ...


def warm_up(model: Model, tokenizer: Tokenizer, poller: Poller) -> tuple[StepPredictor, float | None]:
    """(predictor, watts of a request where every read of the meter is fresh, else None).

    Runs small requests as any other, so that whatever a request will take, a captured step too, is made here.
    On a CPU this sets torch's number of threads, for the whole process: to that of a backend which has
    measured its own, else to 1 where more do not decode faster.
    """
    tokens = min(_PREFILL_TOKENS, model.config.max_context // 2)

    def request() -> tuple[float, float]:
        """Seconds of the prefill, and of a decode step."""
        ledger = Ledger(poller)
        ledger.start()
        # Token ids are 0: the cost of a forward does not depend on them. No end of sequence ends it.
        decoder = Decoder(model, tokenizer, [Request((0,) * tokens, 1 + _REPEATS)], ledger)
        for _ in decoder.steps():
            pass
        if decoder.error is not None:
            raise TokenjouleError(decoder.error)
        taken = [(mark.kind, mark.end_s - mark.start_s) for mark in ledger.marks]
        decoded = [seconds for kind, seconds in taken if kind == "decode"]
        return sum(s for kind, s in taken if kind == "prefill"), statistics.median(decoded or [taken[0][1]])

    request()  # the first forwards pay for the library's own start
    if isinstance(model.backend, MeasuresThreads):
        torch.set_num_threads(model.backend.threads)
    elif model.backend.device.type == "cpu":
        _choose_threads(lambda: request()[1])
    readings = [poller.poll()]
    prefill_s, decode_s = request()
    readings.append(poller.poll())
    power_w = None
    if poller.fresh and readings[1].time_s > readings[0].time_s:
        rise_uj = readings[1].energy_uj - readings[0].energy_uj
        power_w = rise_uj * 1e-6 / (readings[1].time_s - readings[0].time_s)
    return StepPredictor(model.dims(), WarmUp(tokens + 2, decode_s, tokens, prefill_s)), power_w


def _choose_threads(decode: Callable[[], float]) -> None:
    """One thread, unless the present number decodes clearly faster.

    A step of the bundled model (0.7 M parameters) takes 0.8 ms on one thread of a 2-core EPYC and as long on
    two, which burn twice the CPU time; on a busy machine two take 20 ms, spent waiting for each other.
    """
    many = max(_MOST_THREADS, torch.get_num_threads())  # an earlier, smaller model may have left 1
    if many == 1:
        return
    torch.set_num_threads(many)
    with_many = decode()
    torch.set_num_threads(1)
    if with_many < _WORTH_IT * decode():
        torch.set_num_threads(many)
