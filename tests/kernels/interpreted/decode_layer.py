"""One layer for the tests of the decode kernels, beside what torch makes of it in fp32.

Kernels are given fp32 vectors throughout, whatever their weights: what the interpreter then computes differs
from torch by fp32's roundings only, and a wrong scale or column cannot hide behind bf16's.
"""

import dataclasses

import torch
from torch import Tensor

from kernels.api import AttentionShape, LayerCache, LayerWeights, Layout, RowSpan
from kernels.gpu.rows import Rows
from kernels.gpu.stream import Stream, begin
from kernels.gpu.tiles import Chip
from kernels.gpu.weights import GpuLayer
from kernels.quantize import Format, Matrix, Quantized, dequantize, quantize
from kernels.reference import TorchBackend, TorchLayer
from tests.kernels.interpreted.where import DEVICE, bound

PAGE = 4
EPS = 1e-5
SMALL = Chip(3, 80)
FORMS = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": Format(8, 128),
    "int4": Format(4, 32),
    "int8 small groups": Format(8, 32),
    "int4 large groups": Format(4, 64),
}


def rand(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, device="cpu").to(DEVICE)


def held(weight: Tensor, form: torch.dtype | Format) -> Matrix:
    return quantize(weight, form) if isinstance(form, Format) else weight.to(form)


def wide(weight: Matrix) -> Tensor:
    return dequantize(weight) if isinstance(weight, Quantized) else weight.float()


def close(found: Tensor, expected: Tensor, form: torch.dtype | Format) -> bool:
    """Both add up some hundred products in fp32, in different orders; of packed numbers with 136 or 384
    added.
    """
    largest = expected.abs().max().item()
    fine = 2.0**-14 if isinstance(form, Format) else 2.0**-18
    allowed = bound(fine, exact=form == torch.float32) * largest
    return bool((found - expected).abs().max() <= allowed) and found.shape == expected.shape


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a layer, and where each row's new token stands; a negative row rests."""

    heads: int = 6
    kv_heads: int = 2
    dim: int = 12
    hidden: int = 56
    wide: int = 70
    positions: tuple[int, ...] = (9,)
    biases: bool = False
    norms: bool = False


class Bench:
    """The layer, prepared for both; caches of equal content, the pages of the rows dealt out in a mixed
    order.
    """

    def __init__(self, case: Case, form: torch.dtype | Format, *, chip: Chip = SMALL) -> None:
        self.case, self.form = case, form
        width = (case.heads + 2 * case.kv_heads) * case.dim
        shapes = {
            "qkv": (width, case.hidden),
            "output": (case.hidden, case.heads * case.dim),
            "gate_up": (2 * case.wide, case.hidden),
            "down": (case.hidden, case.wide),
        }
        matrices = {
            name: held(rand(*shape, seed=k) / shape[1] ** 0.5, form)
            for k, (name, shape) in enumerate(shapes.items())
        }
        vectors = {"attention_norm": case.hidden, "mlp_norm": case.hidden}
        if case.biases:
            vectors |= {f"{name}_bias": shape[0] for name, shape in shapes.items()}
        if case.norms:
            vectors |= {"q_norm": case.dim, "k_norm": case.dim}
        drawn = {name: rand(size, seed=20 + k) for k, (name, size) in enumerate(vectors.items())}
        shape = AttentionShape(case.heads, case.kv_heads, case.dim)
        self.torch = TorchBackend(DEVICE)
        weights = LayerWeights(**drawn, **matrices)
        self.layer = GpuLayer.of(TorchLayer(weights, shape, EPS), chip)
        widened = {name: wide(matrix) for name, matrix in matrices.items()}
        self.expected = TorchLayer(dataclasses.replace(weights, **widened), shape, EPS)
        rows = len(case.positions)
        self.x = rand(rows, case.hidden, seed=50)
        self.hidden = rand(rows, case.wide, seed=51)
        self.attended = rand(rows, case.heads, case.dim, seed=52)
        self.rows, self.layout = batch(case)
        pool = (int(self.rows.pages.max() + 1) * PAGE, case.kv_heads, case.dim)
        self.cache = LayerCache(rand(*pool, seed=60), rand(*pool, seed=61))

    def stream(self, gain: Tensor) -> Stream:
        """Of `x`, before a norm of `gain`."""
        stream = Stream.make(len(self.x), self.case.hidden, torch.float32, DEVICE)
        begin(self.x, gain, stream, dependent=False)
        return stream

    def fresh_cache(self) -> LayerCache:
        return LayerCache(self.cache.keys.clone(), self.cache.values.clone())


def batch(case: Case) -> tuple[Rows, Layout]:
    """The same rows as kernels take them and as stages do, for those that do not rest."""
    lengths = [max(position, 0) + 1 for position in case.positions]
    needs = [-(-length // PAGE) for length in lengths]
    draw = torch.Generator().manual_seed(7)
    free = torch.randperm(sum(needs), generator=draw, device="cpu").tolist()
    pages = torch.zeros(len(lengths), max(needs), dtype=torch.int32)
    spans, slots, active = [], [], []
    for row, (position, need) in enumerate(zip(case.positions, needs, strict=True)):
        own = torch.tensor([free.pop() for _ in range(need)])
        pages[row, :need] = own
        if position >= 0:
            spans.append(RowSpan(len(spans), len(spans) + 1, position + 1, own, None))
            slots.append(int(own[position // PAGE]) * PAGE + position % PAGE)
            active.append(position)
    angle = torch.arange(max(lengths)).unsqueeze(1) * 0.3 ** torch.arange(case.dim // 2)
    positions = torch.tensor(case.positions, dtype=torch.int32)
    at = torch.tensor(active, dtype=torch.int64)
    layout = Layout(tuple(spans), at, torch.tensor(slots), angle.cos()[at], angle.sin()[at], PAGE)
    return Rows(positions, pages, angle.cos(), angle.sin(), PAGE), layout
