"""transformers on a device, over our own weights there: its static cache, eager, captured by us, or compiled.

`COMPILED` is what its own generate does with a static cache on a GPU: torch.compile of the whole forward in
mode "reduce-overhead", which captures CUDA graphs itself. `CAPTURED` is its eager forward in one CUDA graph
of ours: no compiler, no launch gaps.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.contender import Filled
from bench.peers.transformers_peer import StaticDecoding, build, weight_bytes
from bench.record import Arm
from bench.source import ModelSource


class Mode(Enum):
    """How a decode step is run; the value is the arm's backend."""

    EAGER = "torch"
    CAPTURED = "cuda-graph"
    COMPILED = "inductor"


NOTES = {
    Mode.EAGER: "static cache, eager, sdpa",
    Mode.CAPTURED: "static cache, eager in a CUDA graph of ours, sdpa",
    Mode.COMPILED: "static cache, torch.compile of the forward, reduce-overhead, sdpa",
}


def arm_of(mode: Mode, dtype: torch.dtype) -> Arm:
    """The arm's name and what it is."""
    name = f"transformers {mode.name.lower()}"
    return Arm(name, "transformers", mode.value, "none", str(dtype).removeprefix("torch."), None, NOTES[mode])


class DeviceTransformers:
    """A contender, see `bench.contender`. Several modes may share one model: pass that of the first."""

    def __init__(self, source: ModelSource, mode: Mode, model: Any = None) -> None:
        self.model = build(source.raw, source.config, source.weights) if model is None else model
        self.mode, self._device = mode, source.device
        self._weight_bytes = weight_bytes(self.model, source.config)
        self.arm = arm_of(mode, source.dtype)

    def start(self, filled: Filled, steps: int) -> "DeviceDecoding":
        return DeviceDecoding(self.model, self._weight_bytes, filled, steps, self.mode)

    def ready(self) -> None:
        """Nothing to be set on a device."""

    @torch.no_grad()
    def prefill(self, tokens: Sequence[int]) -> Tensor:
        import transformers

        cache = transformers.DynamicCache(config=self.model.config)
        ids = torch.tensor([list(tokens)], device=self._device)
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()

    def close(self) -> None:
        self.model = None


class DeviceDecoding:
    """See `bench.contender.Decoding`."""

    note = ""

    def __init__(self, model: Any, weight_bytes: int, filled: Filled, steps: int, mode: Mode) -> None:
        layers = filled.layers()
        keys = layers[0][0]
        position_bytes = 2 * len(layers) * filled.rows * keys.shape[1] * keys.shape[3] * keys.element_size()
        self.bytes = weight_bytes + position_bytes * (filled.start + 1 + steps)
        self._static = StaticStep(model, layers, filled.start + 2 + steps, mode)

    def ready(self) -> None:
        """Nothing to be set on a device."""

    def step(self) -> None:
        self._static.step()

    def rollback(self) -> None:
        self._static.rollback()

    def logits(self) -> Tensor:
        found = self._static.step().float().clone()
        self._static.rollback()
        return found

    def close(self) -> None:
        self._static.close()
        del self._static


class StaticStep(StaticDecoding):
    """A step over the static cache in one of the modes; token and cache lie in fixed memory."""

    def __init__(self, model: Any, filled: Sequence[tuple[Tensor, Tensor]], length: int, mode: Mode) -> None:
        keys = filled[0][0]
        self._fed = torch.ones(len(keys), 1, dtype=torch.long, device=keys.device)
        super().__init__(model, filled, length)
        forward: Callable[..., Any] = partial(self._model, use_cache=True, logits_to_keep=1)
        if mode is Mode.COMPILED:
            compiled = torch.compile(self._model.forward, mode="reduce-overhead", dynamic=False)
            forward = partial(compiled, use_cache=True, logits_to_keep=1)
        self._forward = forward
        self._replay: Callable[[], None] | None = None
        if mode is Mode.CAPTURED:
            self._capture()

    @torch.no_grad()
    def step(self) -> Tensor:
        """One token per row, the next ones chosen -> their logits (B, V), valid until the next step."""
        if self._replay is not None:
            self._replay()
            return self._logits
        torch.compiler.cudagraph_mark_step_begin()  # what the last step gave is not needed any more
        logits = self._forward(self._fed, past_key_values=self._cache).logits
        self._fed.copy_(logits.argmax(-1))
        return logits[:, -1]

    def rollback(self) -> None:
        super().rollback()
        self._fed.fill_(1)

    def close(self) -> None:
        """The graph and what it holds, this step among it, let go of each other."""
        self._replay = None

    @torch.no_grad()
    def _capture(self) -> None:
        from kernels.gpu.captured import Captured

        def work() -> None:
            logits = self._forward(self._fed, past_key_values=self._cache).logits
            self._fed.copy_(logits.argmax(-1))
            self._logits = logits[:, -1]

        self._replay = Captured(work, self._fed.device)
        self.rollback()
