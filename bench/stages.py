"""The stages of one layer as things to be timed: cold weights, inputs, the reference's answers, their cost.

Weights are random, of a model's shapes. A stage runs over as many copies of its weights as are needed for
three times the last-level cache: when it comes back to the first, that one is cold again, as while decoding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contender import CPU, fill
from bench.timing import Timed, WrongAnswer
from engine.config import ModelConfig
from engine.schemes import NONE, SCHEMES
from engine.weights import RandomCheckpoint, element_bytes, load_weights
from kernels import cost
from kernels.api import Backend, HeadWeights, LayerCache, LayerWeights, Layout
from kernels.cost import Cost, Dims, RowWork
from kernels.quantize import Matrix, Quantized
from kernels.reference import TorchBackend

COLD = 3  # times the last-level cache
MOST_COPIES = 400  # of tiny weights, which then stay in caches; the record says so
UNKNOWN_CACHE = 64 << 20
# Both sides round in the dtype after every operation: eight half units in the last place of the largest
# number, as in the tests of the backends.
TOLERANCES = {torch.bfloat16: 8 * 2.0**-9, torch.float16: 8 * 2.0**-12, torch.float32: 8 * 2.0**-23}

CostOf = Callable[[Dims, Sequence[RowWork]], Cost]


def _layers(dims: Dims, rows: Sequence[RowWork]) -> Cost:
    """Of one layer, all its stages."""
    parts = (cost.attention_input, cost.attention, cost.attention_output, cost.mlp)
    return sum((part(dims, rows) for part in parts), Cost())


COSTS: Mapping[str, CostOf] = {
    "attention_input": cost.attention_input,
    "attention": cost.attention,
    "attention_output": cost.attention_output,
    "mlp": cost.mlp,
    "layers": _layers,
    "head_logits": cost.head_logits,
}
# Fields of the layer or of the head.
READ: Mapping[str, tuple[str, ...]] = {
    "attention_input": ("qkv",),
    "attention": (),
    "attention_output": ("output",),
    "mlp": ("gate_up", "down"),
    "layers": ("qkv", "output", "gate_up", "down"),
    "head_logits": ("weight",),
}


def last_level_cache(device: torch.device) -> int:
    """Bytes of the largest cache in front of the memory; `UNKNOWN_CACHE` where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        sizes.append(int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text))
    return max(sizes, default=UNKNOWN_CACHE)


@dataclass(frozen=True, slots=True)
class Subject:
    """One layer and head of a model's shape, packed in one scheme: what every backend is given."""

    config: ModelConfig
    layer: LayerWeights
    head: HeadWeights
    dtype: torch.dtype
    scheme: str

    def dims(self) -> Dims:
        """Of one layer."""
        config = self.config
        windows = set(config.windows)
        return Dims(
            n_layers=1,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            weight_bytes=element_bytes(self.layer.qkv),
            head_bytes=element_bytes(self.head.weight),
            cache_bytes=self.dtype.itemsize,
            window=windows.pop() if len(windows) == 1 else None,
        )

    def shape(self, stage: str) -> tuple[int, ...]:
        """Of the stage's matrix; of attention: heads, key heads, head-dim. mlp: of its up projection."""
        config = self.config
        heads = config.n_heads * config.head_dim
        wide = heads + 2 * config.n_kv_heads * config.head_dim
        return {
            "attention_input": (wide, config.hidden_size),
            "attention": (config.n_heads, config.n_kv_heads, config.head_dim),
            "attention_output": (config.hidden_size, heads),
            "mlp": (config.intermediate_size, config.hidden_size),
            "layers": (config.hidden_size,),
            "head_logits": (config.vocab_size, config.hidden_size),
        }[stage]

    def cost(self, stage: str, rows: int, context: int) -> Cost:
        """Of one call. `context`: positions of each row, the new one included."""
        return COSTS[stage](self.dims(), [RowWork(1, context)] * rows)


def subject(config: ModelConfig, dtype: torch.dtype, scheme: str, device: torch.device = CPU) -> Subject:
    """Random weights of the config's first layer on `device`; what comes out is of the order of one.

    Else a narrow model's stage would hardly change the residual, and a wrong one would pass.
    """
    one = replace(config, n_layers=1, windows=config.windows[:1], quantization=None)
    packing = None if scheme == NONE else SCHEMES[scheme]
    checkpoint = RandomCheckpoint(one, device=device)
    weights = load_weights(checkpoint, one, dtype=dtype, device=device, scheme=packing)
    layer, head = weights.layers[0], weights.head
    layer = replace(
        layer,
        qkv=_unit(layer.qkv),
        output=_unit(layer.output),
        gate_up=_unit(layer.gate_up),
        down=_unit(layer.down),
    )
    return Subject(one, layer, replace(head, weight=_unit(head.weight)), dtype, scheme)


def _unit(matrix: Matrix) -> Matrix:
    """Times a power of two: its rows, drawn from N(0, 0.02²), then have a norm of about one."""
    factor = 2.0 ** round(math.log2(1 / (0.02 * math.sqrt(matrix.shape[1]))))
    if isinstance(matrix, Quantized):
        return replace(matrix, scales=matrix.scales * factor)
    return matrix * factor


@dataclass(frozen=True, slots=True)
class Bench:
    """One stage of one backend, ready to be timed over rotating copies. `note`: how cold it is.

    `once` is one call, of the last copy: the first, with which a run begins, stays cold. Layers are called
    all together, so there it is a whole run.
    """

    timed: Timed
    once: Callable[[], object]
    note: str


def prepare(
    backend: Backend, given: Subject, stage: str, rows: int, context: int, *, cache_bytes: int, name: str
) -> Bench:
    """The stage with its inputs; its `check` compares one call with the reference backend's."""
    wanted = cache_bytes * COLD
    size = max(given.cost(stage, rows, context).bytes, 1.0)
    copies = max(2, min(MOST_COPIES, math.ceil(wanted / size)))
    note = f"{copies} copies, {copies * size / 1e6:.0f} MB"
    if copies * size < wanted:
        note += ", warm: they fit into the cache"
    shape, eps = given.config.attention_shape(0), given.config.norm_eps
    layers, heads, caches = [given.layer], [given.head], 1
    if stage == "attention":
        caches = copies
    elif stage == "head_logits":
        heads = [_copy(given.head, stage) for _ in range(copies)]
    else:
        layers = [_copy(given.layer, stage) for _ in range(copies)]
        caches = copies if stage == "layers" else 1
    ready_heads = [backend.prepare_head(head, eps) for head in heads]
    ready_layers = [backend.prepare_layer(layer, shape, eps) for layer in layers]
    filled = fill(replace(given.config, n_layers=caches), given.dtype, rows, context - 1)
    layout = filled.cache.extend(dict.fromkeys(filled.ids, 1))
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, given.config.hidden_size, generator=draw).to(given.dtype)
    reference = TorchBackend(backend.device)
    plain = reference.prepare_layer(given.layer, shape, eps)
    q = reference.attention_input(x, plain, filled.cache.layers[0], layout)
    own_q = backend.attention_input(x, ready_layers[0], filled.cache.layers[0], layout)
    inputs = _Inputs(x, q.to(own_q.dtype), layout)

    def call(index: int) -> Tensor:
        layer, head = ready_layers[index % len(layers)], ready_heads[index % len(heads)]
        return _call(backend, stage, inputs, layer, head, filled.cache.layers[index % caches])

    def run() -> None:
        if stage == "layers":  # all of them in one call, as a forward does
            backend.layers(x, ready_layers, filled.cache.layers, layout)
            return
        for index in range(copies):
            call(index)

    def check() -> None:
        found = call(0)
        head = reference.prepare_head(given.head, eps)
        expected = _call(reference, stage, _Inputs(x, q, layout), plain, head, filled.cache.layers[0])
        _same(found.float(), expected.float(), given.dtype)

    once = run if stage == "layers" else partial(call, copies - 1)
    return Bench(Timed(name, run, check=check, repeats=copies), once, note)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """x (N, E); q (N, H, D), which also stands in for the attended values."""

    x: Tensor
    q: Tensor
    layout: Layout


def _call(backend: Backend, stage: str, inputs: _Inputs, layer: Any, head: Any, cache: LayerCache) -> Tensor:
    if stage == "attention_input":
        return backend.attention_input(inputs.x, layer, cache, inputs.layout)
    if stage == "attention":
        return backend.attention(inputs.q, layer, cache, inputs.layout)
    if stage == "attention_output":
        return backend.attention_output(inputs.x, inputs.q, layer)
    if stage == "mlp":
        return backend.mlp(inputs.x, layer)
    if stage == "layers":
        return backend.layers(inputs.x, [layer], [cache], inputs.layout)
    return backend.head_logits(inputs.x, head)


def _same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (found - expected).abs().max().item()
    largest = expected.abs().max().item()
    if found.shape != expected.shape or not error <= TOLERANCES[dtype] * largest:
        raise WrongAnswer(f"off by {error:.3g} where the largest number is {largest:.3g}")


def _copy(weights: Any, stage: str) -> Any:
    """The same weights, the matrices that the stage reads in memory of their own."""
    return replace(weights, **{name: clone(getattr(weights, name)) for name in READ[stage]})


def clone(matrix: Matrix) -> Matrix:
    """The same numbers in memory of their own."""
    if isinstance(matrix, Quantized):
        return replace(matrix, words=matrix.words.clone(), scales=matrix.scales.clone())
    return matrix.clone()
