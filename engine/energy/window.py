"""The ledger around anybody's code: transformers, vLLM, a loop of your own.

with measure() as window:
    first = prefill(prompt)
    window.mark("prefill", tokens=len(prompt))
    for _ in range(63):
        decode_one()
        window.mark("decode")
print(window.report.phases["decode"].energy_j)
"""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.energy.attribution import Share
from engine.energy.ledger import Ledger
from engine.energy.meter import Meter, play
from engine.energy.poller import Poller
from engine.energy.report import EnergyReport
from engine.energy.sources import open_meter, require_measured


class Window:
    """What `measure` gives: `mark` while it is open, `report` once it has closed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._report: EnergyReport | None = None
        play(ledger.poller.meter)
        ledger.start()
        ledger.begin("decode")

    def mark(self, kind: str, *, tokens: int = 1) -> None:
        """What ran since the last mark (or the start) was one step of `kind` and dealt with `tokens` tokens.

        Kinds are yours: they become the phases of the report ("idle" or "load" as well as "decode"). A device
        that works asynchronously must be synchronised before the call, or the step ends too early.
        """
        self._ledger.end([Share(0, kind, max(tokens, 1))], kind=kind)
        self._ledger.count(kind, tokens)
        self._ledger.begin("decode")

    def skip(self) -> None:
        """What ran since the last mark is nobody's: it goes to `unattributed`."""
        self._ledger.begin("decode")

    @property
    def report(self) -> EnergyReport:
        """The account; joules of each step are in `report.rows[0].by_forward`, numbered as the marks came.

        Raises `ValueError` while the window is open.
        """
        if self._report is None:
            raise ValueError("the report is made when the window closes")
        return self._report

    def close(self) -> None:
        """Settle the account. `measure` calls it."""
        if self._report is None:
            self._report = self._ledger.finish()


@contextmanager
def measure(
    source: str = "auto",
    *,
    cuda_device: int | None = None,
    require_measured_energy: bool = False,
    meter: Meter | None = None,
) -> Iterator[Window]:
    """Joules of the code inside the `with`, step by step, from the same meters and the same attribution.

    `source` as on the command line; `cuda_device` is torch's index of the GPU to read. None means the CPU,
    on a machine with a GPU, too: name the device that the code runs on.
    `meter` replaces both. Raises `UsageError` and `MeterError` before anything ran. An exception of the code
    inside passes through; the report is there all the same.
    """
    opened = meter if meter is not None else open_meter(source, cuda_device=cuda_device)
    try:
        if require_measured_energy:
            require_measured(opened)
        with Poller(opened) as poller:
            window = Window(Ledger(poller))
            try:
                yield window
            finally:
                window.close()
    finally:
        if meter is None:
            opened.close()
