"""What steps chose, copied to the host beside the work that follows them."""

import torch
from torch import Tensor

from kernels.gpu.step import Selected


class HostRing:
    """A copy of `StepState.ring` in pinned memory, entry by entry, on a stream of its own.

    The device never waits for it: an entry stays as it is until the ring has gone round.
    """

    def __init__(self, ring: Tensor) -> None:
        self._ring = ring
        self._cuda = ring.device.type == "cuda"
        self._host = torch.empty(ring.shape, dtype=ring.dtype, pin_memory=self._cuda)
        self._arrived: dict[int, torch.cuda.Event] = {}
        if self._cuda:
            self._aside = torch.cuda.Stream(ring.device)

    def send(self, step: int) -> None:
        """Copy what `step` leaves, when all that has been launched so far is done."""
        place = step % len(self._ring)
        if not self._cuda:
            self._host[place] = self._ring[place]
            return
        self._aside.wait_stream(torch.cuda.current_stream(self._ring.device))
        with torch.cuda.stream(self._aside):
            self._host[place].copy_(self._ring[place], non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._arrived[place] = event

    def receive(self, step: int) -> Selected:
        """What `step`, which has been sent, chose; waits for it, and does again where it was interrupted."""
        place = step % len(self._ring)
        if self._cuda:
            self._arrived[place].synchronize()
        return Selected.of(self._host[place])
