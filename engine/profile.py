"""What each stage of the forward takes: `--profile`. Every stage is waited for, which makes the whole slower.

A backend around a backend: stages run one by one, none captured, and the time between two waits is the
stage's. Bytes and operations come from `kernels.cost`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels import cost
from kernels.api import AttentionShape, Backend, HeadWeights, LayerCache, LayerWeights, Layout, stage_by_stage
from kernels.cost import Cost, Dims, RowWork

Rows = tuple[RowWork, ...]


@dataclass(frozen=True, slots=True)
class StageTime:
    """All calls of one stage in one kind of forward (prefill or decode).

    `energy_j`: the stage's part of the kind's joules by its share of the time, as if every stage drew the
    same power. It is attributed, not measured (`python -m bench.kernels --energy` measures stages by
    repetition); None where the meter told nothing.
    """

    kind: str
    stage: str
    calls: int
    elapsed_s: float
    cost: Cost
    energy_j: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain object, with what follows from the time."""
        return {
            "kind": self.kind,
            "stage": self.stage,
            "calls": self.calls,
            "elapsed_s": self.elapsed_s,
            "us_per_call": self.elapsed_s / self.calls * 1e6,
            "gb_per_s": self.cost.bytes / self.elapsed_s / 1e9,
            "gflop_per_s": self.cost.flops / self.elapsed_s / 1e9,
            "energy_by_time_share_j": self.energy_j,
        }


def shared_by_time(
    stages: Sequence[StageTime], forwards: Mapping[str, tuple[float, float]]
) -> tuple[StageTime, ...]:
    """The stages with their part of the joules. `forwards`: (J, s) of all forwards of a kind.

    What a forward does between its stages keeps its own share. Kinds that are missing have no joules.
    """
    timed: dict[str, float] = {}
    for stage in stages:
        timed[stage.kind] = timed.get(stage.kind, 0.0) + stage.elapsed_s
    found = []
    for stage in stages:
        joules, elapsed_s = forwards.get(stage.kind, (0.0, 0.0))
        # a prompt of one token is a prefill to the ledger and a decode step to the stages
        whole_s = max(elapsed_s, timed[stage.kind])
        part = joules * stage.elapsed_s / whole_s if stage.kind in forwards else None
        found.append(replace(stage, energy_j=part))
    return tuple(found)


class ProfiledBackend:
    """`inner`, its stages timed. What else it is asked for, `inner` answers."""

    captures = False

    def __init__(self, inner: Backend, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.inner, self._clock = inner, clock
        self.name, self.device = inner.name, inner.device
        self.batch_invariant_tokens = inner.batch_invariant_tokens
        self._seconds: dict[tuple[str, Rows], tuple[int, float]] = {}
        self._rows: Rows = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forget(self) -> None:
        """What has been timed so far is not told of."""
        self._seconds.clear()

    def report(self, dims: Dims) -> tuple[StageTime, ...]:
        """What has been timed, of a model of these dims: prefill first, stages in their order."""
        found: dict[tuple[str, str], StageTime] = {}
        one_layer = Dims(**{**_fields(dims), "n_layers": 1})
        for (stage, rows), (calls, elapsed_s) in self._seconds.items():
            kind = "decode" if all(row.new == 1 for row in rows) else "prefill"
            done = getattr(cost, stage)(one_layer, rows).times(calls)
            before = found.get((kind, stage), StageTime(kind, stage, 0, 0.0, Cost()))
            found[kind, stage] = StageTime(
                kind, stage, before.calls + calls, before.elapsed_s + elapsed_s, before.cost + done
            )
        return tuple(sorted(found.values(), key=lambda time: time.kind != "prefill"))

    def prepare_layer(self, weights: LayerWeights, shape: AttentionShape, norm_eps: float) -> Any:
        return self.inner.prepare_layer(weights, shape, norm_eps)

    def prepare_head(self, weights: HeadWeights, norm_eps: float) -> Any:
        return self.inner.prepare_head(weights, norm_eps)

    def attention_input(self, x: Tensor, layer: Any, cache: LayerCache, layout: Layout) -> Tensor:
        self._rows = tuple(RowWork(row.stop - row.start, row.length) for row in layout.rows)
        return self._timed("attention_input", x, layer, cache, layout)

    def attention(self, q: Tensor, layer: Any, cache: LayerCache, layout: Layout) -> Tensor:
        return self._timed("attention", q, layer, cache, layout)

    def attention_output(self, x: Tensor, attended: Tensor, layer: Any) -> Tensor:
        return self._timed("attention_output", x, attended, layer)

    def mlp(self, x: Tensor, layer: Any) -> Tensor:
        return self._timed("mlp", x, layer)

    def layers(
        self, x: Tensor, layers: Sequence[Any], caches: Sequence[LayerCache], layout: Layout
    ) -> Tensor:
        return stage_by_stage(self, x, layers, caches, layout)

    def head_logits(self, x: Tensor, head: Any) -> Tensor:
        return self._timed("head_logits", x, head)

    def _timed(self, stage: str, *arguments: Any) -> Tensor:
        """The stage of `inner`, waited for. Stages behind the first know the batch from it."""
        run: Callable[..., Tensor] = getattr(self.inner, stage)
        begun_s = self._clock()
        result = run(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elapsed_s = self._clock() - begun_s
        calls, before_s = self._seconds.get((stage, self._rows), (0, 0.0))
        self._seconds[stage, self._rows] = (calls + 1, before_s + elapsed_s)
        return result


def _fields(dims: Dims) -> dict[str, Any]:
    return {name: getattr(dims, name) for name in Dims.__dataclass_fields__}
