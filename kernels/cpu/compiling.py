"""Who waits for the compiler can be told what it is doing.

numba's events of this kind come from its compiler alone: a function found in the cache on disk has none
(numba 0.68, `Dispatcher.compile`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba.core.event import Event, Listener, install_listener


class _Counter(Listener):
    """Calls `report` with the number of functions compiled so far, once before the first is."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report, self._done, self._begun = report, 0, False

    def on_start(self, event: Event) -> None:
        if not self._begun:
            self._begun = True
            self._report(0)

    def on_end(self, event: Event) -> None:
        self._done += 1
        self._report(self._done)


@contextmanager
def compilations(report: Callable[[int], None]) -> Iterator[None]:
    """In here `report` hears of every function that is compiled: how many are done, 0 when the first begins.

    It is called in the thread that compiles, and not at all where everything was compiled before.
    """
    with install_listener("numba:compile", _Counter(report)):
        yield
