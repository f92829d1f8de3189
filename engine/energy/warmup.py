"""Two timed forwards after loading: they wake the library and the device, and set the prediction's scale."""

import statistics

from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.energy.poller import Poller
from engine.energy.predict import StepPredictor, WarmUp
from engine.model import Model
from kernels.cost import RowWork

_PREFILL_TOKENS = 16
_REPEATS = 3


def warm_up(model: Model, poller: Poller) -> tuple[StepPredictor, float | None]:
    """(predictor, watts while decoding where every read of the meter is fresh, else None).

    Token ids are 0: the cost of a forward does not depend on them.
    """
    tokens = min(_PREFILL_TOKENS, model.config.max_context // 2)
    cache = model.new_cache(tokens + _REPEATS + 1)
    row = cache.add_row()
    ledger = Ledger(poller)

    def timed(kind: str, count: int) -> float:
        ledger.begin(kind, [RowWork(count, cache.length(row) + count)])
        logits, _ = model.forward([0] * count, cache.extend({row: count}), cache)
        int(logits[0].argmax())  # waits for the device
        return ledger.end([Share(0, kind, count)])

    timed("prefill", tokens)  # the first forward pays for the library's own start
    cache.truncate(row, 0)
    prefill_s = timed("prefill", tokens)
    timed("decode", 1)
    readings = [poller.poll()]
    decode_s = statistics.median(timed("decode", 1) for _ in range(_REPEATS))
    readings.append(poller.poll())
    power_w = None
    if poller.fresh and readings[1].time_s > readings[0].time_s:
        rise_uj = readings[1].energy_uj - readings[0].energy_uj
        power_w = rise_uj * 1e-6 / (readings[1].time_s - readings[0].time_s)
    return StepPredictor(model.dims(), WarmUp(tokens + 2, decode_s, tokens, prefill_s)), power_w
