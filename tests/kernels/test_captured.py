"""Graphs, events and the host's ring where CUDA alone tells them apart, with what stands in for it."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="kernels.gpu imports Triton, which is published for Linux alone")

from engine.device_loop import GpuLoop, _Launch
from kernels.gpu.captured import Captured, DeviceClock
from kernels.gpu.host_ring import HostRing

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


class Cuda:
    """As much of `torch.cuda` as captures and events take; `current`: the stream that work is given to."""

    def __init__(self) -> None:
        self.current: Any = SimpleNamespace(name="default", wait_stream=lambda other: None)
        self.replays = 0
        self.recorded_on: list[object] = []

    def device(self, device: torch.device) -> Any:
        return nullcontext()

    def current_stream(self, device: torch.device | None = None) -> Any:
        return self.current if device is None else ("stream of", device)

    def set_stream(self, stream: object) -> None:
        self.current = stream

    def Stream(self) -> Any:
        return SimpleNamespace(name="aside", wait_stream=lambda other: None)

    def stream(self, stream: object) -> Any:
        return nullcontext()

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=partial(setattr, self, "replays", self.replays + 1))

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        """As torch 2.13: where the end of a capture raises, the stream before it does not come back."""
        before, self.current = self.current, stream
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        self.current = before

    def Event(self, *, enable_timing: bool = False) -> Any:
        return SimpleNamespace(record=self.recorded_on.append, synchronize=lambda: None)

    def synchronize(self, device: torch.device) -> None:
        """Nothing is under way."""


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr("kernels.gpu.captured.torch.cuda", cuda)
    return cuda


class Memory:
    """What a kernel is given the address of."""

    def work(self) -> None:
        """A kernel's launch."""


def test_what_a_graph_reads_lives_as_long_as_the_graph(cuda: Cuda) -> None:
    memory = Memory()
    lives = weakref.ref(memory)
    captured = Captured(memory.work, FIRST)
    del memory
    gc.collect()
    assert lives() is not None, "its memory would be another's, or nobody's, when the graph is replayed"
    captured()
    assert cuda.replays == 1
    del captured
    assert lives() is None


def test_a_capture_that_fails_leaves_the_stream_as_it_was(cuda: Cuda) -> None:
    before, calls = cuda.current, 0

    def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # behind the two that are not recorded
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="during capture"):
        Captured(work, FIRST)
    assert cuda.current is before, "what comes next would be given to the stream of captures"


def test_moments_are_those_of_the_clocks_own_device(cuda: Cuda) -> None:
    DeviceClock(SECOND, lambda: 0.0).mark()
    assert cuda.recorded_on == [("stream of", SECOND)] * 2


def test_a_step_whose_wait_was_interrupted_is_collected_by_the_next_one() -> None:
    waits = iter([KeyboardInterrupt, None])

    def synchronize() -> None:
        if (interrupt := next(waits)) is not None:
            raise interrupt

    ring = HostRing(torch.tensor([[[7, 0, 0, 0]]], dtype=torch.int32))
    ring.send(0)
    ring._cuda, ring._arrived = True, {0: SimpleNamespace(synchronize=synchronize)}  # type: ignore[dict-item]
    loop = object.__new__(GpuLoop)
    loop._captured, loop._rows = SimpleNamespace(ring=ring), (None,)  # type: ignore[assignment]
    loop._clock, loop._keep_logits = SimpleNamespace(seconds=lambda mark: mark), False  # type: ignore[assignment]
    loop._flying, loop._ended_s = [_Launch(0, 1, 1.0, 2.0)], 0.0
    with pytest.raises(KeyboardInterrupt):
        loop.collect()
    chosen = loop.collect()
    assert (chosen.tokens, chosen.begun_s, chosen.ended_s) == ((7,), 1.0, 2.0)
    assert not loop._flying


def test_steps_of_one_launch_have_equal_parts_of_its_time() -> None:
    kept = torch.arange(20).reshape(5, 1, 4).int()
    ring, cache = HostRing(kept), SimpleNamespace(advance=lambda row: None)
    loop, times = object.__new__(GpuLoop), iter([1.0, 2.5, 3.5])
    loop._captured = SimpleNamespace(ring=ring, launch=lambda steps: None)  # type: ignore[assignment]
    loop._rows, loop._cache = (SimpleNamespace(cache_row=0),), cache  # type: ignore[assignment]
    clock = SimpleNamespace(seconds=lambda mark: mark, mark=lambda: next(times))
    loop._clock, loop._keep_logits = clock, False  # type: ignore[assignment]
    loop._flying, loop._ended_s, loop._launched = [], 0.0, 0
    loop.launch(3)
    loop.launch(2)  # behind the other: no time of its own to begin at
    found = [loop.collect() for _ in range(5)]
    assert [chosen.tokens for chosen in found] == [(0,), (4,), (8,), (12,), (16,)]
    assert [chosen.begun_s for chosen in found] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert [chosen.ended_s for chosen in found] == [1.5, 2.0, 2.5, 3.0, 3.5]
    assert [chosen.timed_together for chosen in found] == [3, 3, 3, 2, 2]
    assert not loop._flying
