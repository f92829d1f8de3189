"""The compiled stages against torch's, at odd sizes; what batches and threads must not change."""

import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import pytest
import torch

from engine.engine import Engine
from kernels import api
from kernels.api import (
    AttentionShape,
    HeadWeights,
    LayerCache,
    LayerWeights,
    Layout,
    RowSpan,
    stage_by_stage,
)
from kernels.cpu.backend import MANY_TOKENS, CpuBackend
from kernels.cpu.crew import Crew, cores
from kernels.quantize import Format, Matrix, Quantized, quantize
from kernels.reference import TorchBackend

CPU = torch.device("cpu")
PAGE = 4
BF16, FP32 = torch.bfloat16, torch.float32


@dataclasses.dataclass(frozen=True)
class Kind:
    """The dtype of activations and plain weights, and how matrices are packed."""

    dtype: torch.dtype
    format: Format | None = None

    def unit(self) -> float:
        """Half a unit in the last place of a bf16; of an fp32, whose sums of some hundred terms in another
        order differ by a few more; a unit of the 16-bit numbers that meet packed weights.
        """
        if self.dtype is BF16:
            return 2.0**-9
        return 2.0**-23 if self.format is None else 2.0**-16


KINDS = {
    "bf16": Kind(BF16),
    "fp32": Kind(FP32),
    "int8": Kind(FP32, Format(8, 32)),
    "int8-bf16": Kind(BF16, Format(8, 128)),
    "int4": Kind(FP32, Format(4, 32)),
    "int4-bf16": Kind(BF16, Format(4, 64)),
}
DTYPES = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
PLAIN = pytest.mark.parametrize("dtype", [BF16, FP32], ids=["bf16", "fp32"])


def rand(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(found: torch.Tensor, expected: torch.Tensor, kind: Kind) -> None:
    """Both round, the reference after every operation: up to eight roundings of the largest terms."""
    largest = expected.float().abs().max().item()
    assert (found.float() - expected.float()).abs().max().item() <= 8 * kind.unit() * largest
    assert found.shape == expected.shape


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of one layer; none is a multiple of a vector register unless said so."""

    heads: int = 6
    kv_heads: int = 2
    dim: int = 10
    hidden: int = 46
    wide: int = 70
    vocabulary: int = 131
    window: int | None = None
    extras: bool = True  # biases and qk-norm
    rows: tuple[tuple[int, int], ...] = ((9, 1),)  # (length, new tokens) of each row


CASES = {
    "one-token": Case(),
    "first-token": Case(rows=((1, 1),)),
    "plain": Case(extras=False),
    "ragged": Case(rows=((9, 1), (3, 3), (17, 2), (140, 1))),
    "most-tokens": Case(rows=((MANY_TOKENS + 4, MANY_TOKENS),)),
    "no-groups": Case(heads=3, kv_heads=3, rows=((6, 5),)),
    "one-kv-head": Case(heads=9, kv_heads=1, rows=((7, 2), (5, 1))),
    "odd-hidden": Case(hidden=45, wide=71),
    "whole-registers": Case(heads=8, kv_heads=2, dim=64, hidden=128, wide=96, rows=((300, 1), (130, 2))),
    "window": Case(window=7, rows=((9, 1), (3, 1), (150, 2), (30, 9))),
    "window-of-one": Case(window=1, rows=((9, 1), (5, 3))),
    "window-over-a-split": Case(window=140, rows=((300, 1),)),
    "torch-takes-many": Case(rows=((MANY_TOKENS + 24, MANY_TOKENS + 5),)),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Bench:
    """One layer and head on both backends, with equal caches and the layout of the case's rows."""

    def __init__(self, case: Case, kind: Kind, *, threads: int = 2, shuffle: int = 0) -> None:
        self.case, dtype = case, kind.dtype

        def held(weight: torch.Tensor) -> Matrix:
            return (
                weight.to(dtype) if kind.format is None or weight.dim() < 2 else quantize(weight, kind.format)
            )

        width = (case.heads + 2 * case.kv_heads) * case.dim
        shapes: dict[str, tuple[int, ...]] = {
            "attention_norm": (case.hidden,),
            "qkv": (width, case.hidden),
            "output": (case.hidden, case.heads * case.dim),
            "mlp_norm": (case.hidden,),
            "gate_up": (2 * case.wide, case.hidden),
            "down": (case.hidden, case.wide),
        }
        if case.extras:
            shapes |= {"qkv_bias": (width,), "q_norm": (case.dim,), "k_norm": (case.dim,)}
            shapes |= {"output_bias": (case.hidden,), "gate_up_bias": (2 * case.wide,)}
            shapes |= {"down_bias": (case.hidden,)}
        # 1/√columns: outputs of the order of one, as in a trained model
        drawn = {
            name: rand(*shape, seed=k, dtype=FP32) / (shape[1] ** 0.5 if len(shape) == 2 else 1)
            for k, (name, shape) in enumerate(shapes.items())
        }
        weights = LayerWeights(**{name: held(tensor) for name, tensor in drawn.items()})
        head = HeadWeights(
            rand(case.hidden, seed=30, dtype=dtype),
            held(rand(case.vocabulary, case.hidden, seed=31, dtype=FP32) / case.hidden**0.5),
        )
        shape = AttentionShape(case.heads, case.kv_heads, case.dim, case.window)
        self.torch, self.cpu = TorchBackend(CPU), CpuBackend(CPU, threads=threads)
        self.layers = [b.prepare_layer(weights, shape, 1e-5) for b in (self.torch, self.cpu)]
        self.heads = [b.prepare_head(head, 1e-5) for b in (self.torch, self.cpu)]
        self.layout = layout(case, shuffle)
        slots = sum(-(-length // PAGE) for length, _ in case.rows) * PAGE
        pool = (slots, case.kv_heads, case.dim)
        cache = LayerCache(rand(*pool, seed=40, dtype=dtype), rand(*pool, seed=41, dtype=dtype))
        self.caches = [cache, LayerCache(cache.keys.clone(), cache.values.clone())]
        new = sum(new for _, new in case.rows)
        self.x = rand(new, case.hidden, seed=50, dtype=dtype)
        self.q = rand(new, case.heads, case.dim, seed=51, dtype=dtype)


def layout(case: Case, shuffle: int) -> Layout:
    """Pages dealt out in a shuffled order."""
    total = sum(-(-length // PAGE) for length, _ in case.rows)
    free = torch.randperm(total, generator=torch.Generator().manual_seed(shuffle)).tolist()
    spans, positions, slots, start = [], [], [], 0
    for length, new in case.rows:
        held = [free.pop() for _ in range(-(-length // PAGE))]
        spans.append(RowSpan(start, start + new, length, torch.tensor(held), None))
        positions += range(length - new, length)
        slots += [held[p // PAGE] * PAGE + p % PAGE for p in range(length - new, length)]
        start += new
    angle = torch.tensor(positions).unsqueeze(1) * 0.3 ** torch.arange(case.dim // 2)
    return Layout(tuple(spans), torch.tensor(positions), torch.tensor(slots), angle.cos(), angle.sin(), PAGE)


@DTYPES
@ALL
def test_every_stage_is_the_reference(case: Case, kind: Kind) -> None:
    bench = Bench(case, kind)
    theirs, ours = bench.layers
    there, here = bench.caches
    expected = bench.torch.attention_input(bench.x, theirs, there, bench.layout)
    found = bench.cpu.attention_input(bench.x, ours, here, bench.layout)
    assert_close(found, expected, kind)
    assert_close(here.keys, there.keys, kind)
    assert_close(here.values, there.values, kind)
    q = bench.q if len(bench.q) > MANY_TOKENS else bench.q.float()
    expected = bench.torch.attention(bench.q, theirs, there, bench.layout)
    assert_close(bench.cpu.attention(q, ours, there, bench.layout), expected, kind)
    assert_close(
        bench.cpu.attention_output(bench.x, q, ours),
        bench.torch.attention_output(bench.x, bench.q, theirs),
        kind,
    )
    assert_close(bench.cpu.mlp(bench.x, ours), bench.torch.mlp(bench.x, theirs), kind)
    logits = bench.cpu.head_logits(bench.x, bench.heads[1])
    assert logits.dtype is FP32
    assert_close(logits, bench.torch.head_logits(bench.x, bench.heads[0]), kind)


@DTYPES
@ALL
def test_layers_in_one_call_are_the_stages_to_the_bit(case: Case, kind: Kind) -> None:
    bench = Bench(case, kind)
    another = Bench(dataclasses.replace(case, window=None), kind)  # layers may differ in their window
    layers = [bench.layers[1], another.layers[1]]
    pools = [[LayerCache(c.keys.clone(), c.values.clone()) for c in bench.caches] for _ in range(2)]
    given = bench.x.clone()
    together = bench.cpu.layers(bench.x, layers, pools[0], bench.layout)
    apart = stage_by_stage(bench.cpu, bench.x, layers, pools[1], bench.layout)
    assert torch.equal(together, apart) and torch.equal(bench.x, given)
    for one, other in zip(*pools, strict=True):
        assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
    assert torch.equal(
        together, bench.cpu.layers(bench.x, layers, pools[0], bench.layout)
    )  # tables are reused
    fewer = bench.cpu.layers(bench.x, layers[1:], pools[0][1:], bench.layout)
    assert torch.equal(fewer, stage_by_stage(bench.cpu, bench.x, layers[1:], pools[1][1:], bench.layout))


def test_tables_of_other_layers_or_caches_that_begin_alike_are_not_reused() -> None:
    case = Case(hidden=48)
    bench, another = Bench(case, Kind(FP32)), Bench(dataclasses.replace(case, window=3), Kind(FP32))
    first, same, other = bench.layers[1], bench.layers[1], another.layers[1]

    def fresh() -> LayerCache:
        return LayerCache(bench.caches[0].keys.clone(), bench.caches[0].values.clone())

    head, one, two = fresh(), fresh(), fresh()
    bench.cpu.layers(bench.x, [first, same], [head, one], bench.layout)
    kept = one.keys.clone()
    for layers in ([first, same], [first, other]):
        expected = stage_by_stage(bench.cpu, 2 * bench.x, layers, [fresh(), fresh()], bench.layout)
        assert torch.equal(bench.cpu.layers(2 * bench.x, layers, [head, two], bench.layout), expected)
    assert torch.equal(one.keys, kept) and not torch.equal(two.keys, kept)


@PLAIN
def test_the_tolerance_catches_a_forgotten_tail(dtype: torch.dtype) -> None:
    bench = Bench(Case(), Kind(dtype))
    weights = bench.layers[0].weights
    short = dataclasses.replace(weights, down=weights.down.clone(), output=weights.output.clone())
    short.down[:, 64:] = 0  # of 70 columns: what a kernel without the masked tail would compute
    short.output[:, 48:] = 0  # of 60
    wrong = bench.torch.prepare_layer(short, bench.layers[0].shape, 1e-5)
    with pytest.raises(AssertionError):
        assert_close(bench.cpu.mlp(bench.x, bench.layers[1]), bench.torch.mlp(bench.x, wrong), Kind(dtype))
    found = bench.cpu.attention_output(bench.x, bench.q.float(), bench.layers[1])
    with pytest.raises(AssertionError):
        assert_close(found, bench.torch.attention_output(bench.x, bench.q, wrong), Kind(dtype))


@PLAIN
def test_the_tolerance_catches_one_position_too_many(dtype: torch.dtype) -> None:
    bench = Bench(Case(window=7, rows=((30, 1),)), Kind(dtype))
    wrong = dataclasses.replace(bench.layers[0], shape=AttentionShape(6, 2, 10, 8))
    found = bench.cpu.attention(bench.q.float(), bench.layers[1], bench.caches[0], bench.layout)
    with pytest.raises(AssertionError):
        assert_close(found, bench.torch.attention(bench.q, wrong, bench.caches[0], bench.layout), Kind(dtype))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_tolerance_catches_a_wrong_group_a_wrong_column_and_coarse_vectors(name: str) -> None:
    kind = KINDS[name]
    bench = Bench(Case(), kind)
    weights = bench.layers[0].weights
    assert isinstance(weights.down, Quantized)
    found = bench.cpu.mlp(bench.x, bench.layers[1])
    swapped = dataclasses.replace(weights.down, words=weights.down.words.roll(1, dims=1))
    shifted = dataclasses.replace(weights.down, scales=weights.down.scales.roll(1, dims=1))
    for down in (swapped, shifted):
        wrong = bench.torch.prepare_layer(
            dataclasses.replace(weights, down=down), bench.layers[0].shape, 1e-5
        )
        with pytest.raises(AssertionError):
            assert_close(found, bench.torch.mlp(bench.x, wrong), kind)
    scale = bench.x.abs().amax(-1, keepdim=True) / 127  # what 8-bit activations would give
    coarse = bench.torch.head_logits((bench.x / scale).round() * scale, bench.heads[0])
    with pytest.raises(AssertionError):
        assert_close(coarse, bench.torch.head_logits(bench.x, bench.heads[0]), kind)


def stages(bench: Bench, rows: slice) -> list[torch.Tensor]:
    """All stages of the rows `rows` of a case with one new token each."""
    whole = bench.layout
    spans = [dataclasses.replace(span, start=n, stop=n + 1) for n, span in enumerate(whole.rows[rows])]
    part = Layout(
        tuple(spans), whole.positions[rows], whole.slots[rows], whole.cos[rows], whole.sin[rows], PAGE
    )
    x, layer, cache = bench.x[rows], bench.layers[1], bench.caches[1]
    q = bench.cpu.attention_input(x, layer, cache, part)
    attended = bench.cpu.attention(q, layer, cache, part)
    x = bench.cpu.attention_output(x, attended, layer)
    return [q, attended, x, bench.cpu.mlp(x, layer), bench.cpu.head_logits(x, bench.heads[1])]


@DTYPES
def test_a_row_does_not_depend_on_its_neighbours_or_on_the_threads(kind: Kind) -> None:
    case = Case(dim=64, heads=8, rows=tuple((length, 1) for length in (9, 300, 1, 140, 20, 77, 30)))
    together = stages(Bench(case, kind), slice(None))
    for n in range(len(case.rows)):
        alone = stages(Bench(case, kind, threads=1), slice(n, n + 1))
        assert all(torch.equal(a[0], b[n]) for a, b in zip(alone, together, strict=True))


def test_strided_inputs_and_odd_memory_are_taken_as_they_are() -> None:
    bench = Bench(Case(), Kind(BF16))
    wide = rand(3, 2 * bench.case.hidden, seed=5, dtype=BF16)
    layer = bench.layers[1]
    assert torch.equal(bench.cpu.mlp(wide[:, ::2], layer), bench.cpu.mlp(wide[:, ::2].contiguous(), layer))
    weights = bench.layers[0].weights
    shifted = torch.empty(weights.down.numel() + 1, dtype=BF16)[1:].view_as(weights.down)  # 2 mod 4 bytes
    shifted.copy_(weights.down)
    moved = bench.cpu.prepare_layer(dataclasses.replace(weights, down=shifted), layer.shape, 1e-5)
    assert torch.equal(bench.cpu.mlp(bench.x, moved), bench.cpu.mlp(bench.x, layer))


def test_weights_are_not_copied() -> None:
    bench = Bench(Case(), Kind(BF16))
    assert bench.layers[1].arrays.gate_up.ctypes.data == bench.layers[0].weights.gate_up.data_ptr()


def test_half_precision_is_refused_by_name() -> None:
    bench = Bench(Case(), Kind(BF16))
    half = dataclasses.replace(bench.layers[0].weights, qkv=bench.layers[0].weights.qkv.half())
    with pytest.raises(api.BackendUnavailable, match=r"float16; it takes bf16 and fp32"):
        bench.cpu.prepare_layer(half, bench.layers[1].shape, 1e-5)


def test_the_number_of_threads_is_measured_within_the_cores() -> None:
    bench = Bench(Case(), Kind(FP32))
    backend = CpuBackend(CPU)
    backend.prepare_head(bench.heads[0].weights, 1e-5)
    assert 1 <= backend.threads <= cores()


def test_every_chunk_is_done_once_whoever_comes() -> None:
    bench = Bench(CASES["ragged"], Kind(FP32), threads=7)  # more threads than cores: some come late, or never
    expected = bench.torch.mlp(bench.x, bench.layers[0])
    bench.cpu._crew.run, run = (lambda *args, alone: run(*args, alone=False)), bench.cpu._crew.run
    for _ in range(200):
        assert_close(bench.cpu.mlp(bench.x, bench.layers[1]), expected, Kind(FP32))


def test_a_crew_that_is_gone_leaves_no_threads() -> None:
    crew = Crew(4)
    helpers = [seat.thread for seat in crew._seats]
    assert len(helpers) == 3 and all(helper.is_alive() for helper in helpers)
    del crew
    gc.collect()
    for helper in helpers:
        helper.join(timeout=5)
        assert not helper.is_alive()


def host_features() -> set[str]:
    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}


@pytest.mark.slow
@pytest.mark.parametrize(
    "features",
    ["+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx2,+fma,+f16c,+avx", "+avx2,+fma,+f16c,+avx", ""],
    ids=["avx512", "avx2", "plain"],
)
def test_other_processors_give_the_same(features: str) -> None:
    """The stages compiled for less than this machine has: no bf16 and byte products, no AVX-512, no AVX.

    A minute each. A processor that lacks what is asked for skips.
    """
    missing = {name.removeprefix("+") for name in features.split(",") if name} - host_features()
    if missing:
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": "generic"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("prompt", ["47+35-18+6=", "9-3+5="])
def test_the_bundled_model_gives_the_reference_text(prompt: str) -> None:
    texts = []
    for backend in ("torch", "cpu"):
        with Engine.load(backend=backend, dtype="fp32", energy_source="simulated") as engine:
            assert engine.origin.backend == backend
            result = engine.generate(prompt, max_new_tokens=80)
            texts.append((result.token_ids, result.text))
    assert texts[0] == texts[1]


def test_stories_are_the_reference_text(shared_data: Path) -> None:
    texts = []
    for backend in ("torch", "cpu"):
        model = shared_data / "models" / "stories260K"
        with Engine.load(model, backend=backend, dtype="fp32", energy_source="simulated") as engine:
            texts.append(engine.generate("Once upon a time", max_new_tokens=200, ignore_eos=True).text)
    assert texts[0] == texts[1]
