"""How far loading is: what `Engine.load` tells who asks, and the line on stderr that shows it."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

_REDRAW_S, _LINE_S = 0.1, 1.0


class Work(StrEnum):
    """What takes time before a model is ready; the values are what is shown."""

    WEIGHTS = "loading weights"
    PACKING = "quantising weights"
    KERNELS = "compiling kernels for this CPU, once"


@dataclass(frozen=True, slots=True)
class LoadStep:
    """`done` parts of the work, of so many in all; None where nobody knows how many there will be."""

    work: Work
    done: int
    of: int | None


OnProgress = Callable[[LoadStep], None]


def ignore(step: LoadStep) -> None:
    """Nobody asked."""


class LoadingLine:
    """Shows steps on stderr: a line that is redrawn on a terminal, else one a second. Call it with each."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._work: Work | None = None
        self._shown_s = time.monotonic()

    def __enter__(self) -> "LoadingLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, step: LoadStep) -> None:
        # What will have been done once says so at once: the wait is not going to come again.
        announced = step.work is Work.KERNELS and self._work is not Work.KERNELS
        interval_s = _REDRAW_S if self._console.is_terminal else _LINE_S
        now = time.monotonic()
        self._work = step.work
        if self._quiet or not (announced or now - self._shown_s >= interval_s):
            return
        self._shown_s = now
        count = f"{step.done} so far" if step.of is None else f"{step.done} of {step.of}"
        line = f"{step.work}: {count}"
        if not self._console.is_terminal:
            print(line, file=sys.stderr, flush=True)
            return
        if self._live is None:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Text(line, style="dim"), refresh=True)
