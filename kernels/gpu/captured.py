"""Work on a device launched at once, as one CUDA graph; and the device's times on the host's clock."""

from collections.abc import Callable

import torch


class Captured:
    """`work()`, which must neither allocate nor wait, recorded once and replayed by every call.

    It runs twice beforehand, unrecorded: kernels are compiled and loaded then. Without CUDA it is called.
    What `work` holds is kept: a graph knows addresses, and reads them whoever has the memory by then.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._run = self._work = work
        if device.type != "cuda":
            return
        with torch.cuda.device(device):
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                work()
                work()
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=aside):  # its own would be the first captured device's
                    work()
            finally:  # where a capture fails, torch (2.13) leaves its stream current
                torch.cuda.set_stream(current)
        self._run = graph.replay

    def __call__(self) -> None:
        self._run()


class DeviceClock:
    """Moments in the order of a device's work, told in the seconds of `clock`.

    A device's timer and ours drift apart by parts per million, and an event's time is a float32 of
    milliseconds: the zero is moved along, so that microseconds are still told after minutes.
    """

    _FAR_S = 2.0

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._cuda, self._device, self._clock = device.type == "cuda", device, clock
        if self._cuda:
            torch.cuda.synchronize(device)
            self._zero = self._event()
            self._zero.synchronize()
        self._zero_s = clock()

    def mark(self) -> "torch.cuda.Event | float":
        """The moment when all that was launched so far is done."""
        return self._event() if self._cuda else self._clock()

    def seconds(self, mark: "torch.cuda.Event | float") -> float:
        """When that was; waits until it has come. Marks are asked for in their order."""
        if isinstance(mark, float):
            return mark
        mark.synchronize()
        since_s = self._zero.elapsed_time(mark) / 1e3
        when_s = self._zero_s + since_s
        if since_s > self._FAR_S:
            self._zero, self._zero_s = mark, when_s
        return when_s

    def _event(self) -> "torch.cuda.Event":
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))  # of this device, whichever is current
        return event
