"""The packing against its documentation, read bit by bit in loops; its errors against their bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import quantize as module
from kernels.quantize import GROUPS, PANEL, Format, Quantized, dequantize, quantize, take_rows

INT8, INT4 = Format(8, 32), Format(4, 32)
FORMATS = [Format(bits, group) for bits in (8, 4) for group in GROUPS]
# Rows and columns: one, whole panels and groups, one more or less, and a piece of each.
SHAPES = [(1, 1), (16, 256), (17, 33), (31, 130), (48, 257), (5, 8)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored_number(packed: Quantized, row: int, column: int) -> int:
    """The number at (row, column) as the documentation of the layout has it; padding can be asked for too."""
    word_of = {8: column // 4, 4: column // 8}[packed.format.bits]
    word = int(packed.words[row // 16, word_of, row % 16]) & 0xFFFFFFFF
    if packed.format.bits == 8:
        return (word >> 8 * (column % 4) & 0xFF) - 128
    low = 8 * (column % 4)
    return (word >> (low if column % 8 < 4 else low + 4) & 0xF) - 8


def by_hand(packed: Quantized) -> Tensor:
    """(M, C) fp32, weight by weight."""
    rows, columns = packed.shape
    out = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            scale = packed.scales[row // 16, column // packed.format.group, row % 16].float()
            out[row, column] = scale * stored_number(packed, row, column)
    return out


def any_packed(shape: tuple[int, int], format: Format, seed: int = 0) -> Quantized:
    """Every bit and every scale at random."""
    generator = torch.Generator().manual_seed(seed)
    words, scales = format.shapes(*shape)
    bits = torch.randint(-(2**31), 2**31, words, generator=generator, dtype=torch.int64)
    return Quantized(bits.to(torch.int32), rand(*scales, seed=seed).bfloat16(), shape, format)


def group_scales(packed: Quantized) -> Tensor:
    """(M, groups) fp32."""
    return packed.scales.transpose(1, 2).flatten(0, 1)[: packed.shape[0]].float()


def grouped(values: Tensor, group: int) -> Tensor:
    """(M, C) -> (M, groups, group), padded with zeros."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % group)).unflatten(1, (-1, group))


def excess(weight: Tensor, packed: Quantized) -> float:
    """The largest error over what it may be; above 1 the packing is wrong.

    int8: half a scale, of one weight. int4: half of 1.125/8 of the largest magnitude, on average over the
    group; a scale of 1.125/8 clips nothing. 1 % is for the scale in bf16.
    """
    error = grouped((dequantize(packed) - weight.float()).double(), packed.format.group)
    if packed.format.bits == 8:
        return (error.abs().amax(-1) / (0.505 * group_scales(packed).abs())).max().item()
    largest = grouped(weight.float().double(), packed.format.group).abs().amax(-1).clamp_min(1e-300)
    return (error.square().mean(-1).sqrt() / (1.01 * 0.5 * 1.125 / 8 * largest)).max().item()


def test_int8_words_are_the_documented_bits() -> None:
    weight = torch.zeros(2, 32)
    weight[0, :8] = torch.tensor([1.0, -1, 127, -127, 0, 2, -2, 64]) / 16
    packed = quantize(weight, INT8)
    assert packed.words.shape == (1, 8, 16) and packed.scales.shape == (1, 1, 16)
    assert packed.scales[0, 0, 0] == 1 / 16
    assert int(packed.words[0, 0, 0]) & 0xFFFFFFFF == 0x01_FF_7F_81
    assert int(packed.words[0, 1, 0]) & 0xFFFFFFFF == 0xC0_7E_82_80
    assert int(packed.words[0, 2, 0]) & 0xFFFFFFFF == int(packed.words[0, 0, 1]) & 0xFFFFFFFF == 0x80808080


def test_int4_words_are_the_documented_bits() -> None:
    weight = torch.zeros(2, 32)
    weight[1, :10] = torch.tensor([-8.0, 7, 1, -1, 0, 2, -2, 5, 3, -8]) / 4
    packed = quantize(weight, INT4)
    assert packed.words.shape == (1, 4, 16) and packed.scales.shape == (1, 1, 16)
    assert packed.scales[0, 0, 1] == 1 / 4
    assert int(packed.words[0, 0, 1]) & 0xFFFFFFFF == 0xD7_69_AF_80
    assert int(packed.words[0, 1, 1]) & 0xFFFFFFFF == 0x88_88_80_8B
    assert int(packed.words[0, 0, 0]) & 0xFFFFFFFF == 0x88888888


def test_the_largest_weight_of_a_group_takes_minus_eight_whatever_its_sign() -> None:
    weight = torch.tensor([[8.0, -7, 3] + [0.0] * 29, [-8.0, 7, -3] + [0.0] * 29])
    packed = quantize(weight, INT4)
    assert packed.scales[0, 0, :2].tolist() == [-1, 1]
    assert [stored_number(packed, row, 0) for row in (0, 1)] == [-8, -8]
    assert torch.equal(dequantize(packed), weight)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (20, 130)])
def test_any_bits_mean_what_the_documentation_says(shape: tuple[int, int], format: Format) -> None:
    packed = any_packed(shape, format)
    assert torch.equal(dequantize(packed), by_hand(packed))


@pytest.mark.parametrize("format", [INT8, INT4, Format(4, 128)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_padding_is_the_number_0_and_errors_keep_their_bound(shape: tuple[int, int], format: Format) -> None:
    rows, columns = shape
    weight = rand(rows, columns)
    packed = quantize(weight, format)
    (panels, words, _), _ = format.shapes(rows, columns)
    width = words * format.per_word
    assert packed.shape == shape and packed.numel() == rows * columns
    assert all(stored_number(packed, row, c) == 0 for row in range(rows) for c in range(columns, width))
    assert all(stored_number(packed, r, c) == 0 for r in range(rows, panels * PANEL) for c in range(width))
    assert torch.equal(dequantize(packed), by_hand(packed))
    assert excess(weight, packed) <= 1


def swap_halves(packed: Quantized) -> tuple[Tensor, Tensor]:
    return packed.words >> 4 & 0x0F0F0F0F | (packed.words & 0x0F0F0F0F) << 4, packed.scales


def flip_bit(packed: Quantized) -> tuple[Tensor, Tensor]:
    words = packed.words.clone()
    words[0, 4, 6] ^= 0x40
    return words, packed.scales


PLANTED = {
    "the next row": lambda q: (q.words.roll(1, 2), q.scales),
    "the next word": lambda q: (q.words.roll(1, 1), q.scales),
    "halves swapped": swap_halves,
    "one bit": flip_bit,
    "the next group's scales": lambda q: (q.words, q.scales.roll(1, 1)),
    "scales of the next row": lambda q: (q.words, q.scales.roll(1, 2)),
    "a sign": lambda q: (q.words, -q.scales),
    "scales 1.5 % off": lambda q: (q.words, (q.scales.float() * 1.015).bfloat16()),
}


# In int4, 1.5 % of a number up to 8 hides in its rounding.
FOUND = [(error, INT8) for error in PLANTED] + [(error, INT4) for error in PLANTED if "%" not in error]


@pytest.mark.parametrize(("error", "format"), FOUND, ids=str)
def test_a_planted_error_breaks_the_bound(error: str, format: Format) -> None:
    weight = rand(16, 64)
    packed = quantize(weight, format)
    words, scales = PLANTED[error](packed)
    assert excess(weight, packed) <= 1 < excess(weight, Quantized(words, scales, packed.shape, format))


@pytest.mark.parametrize("group", GROUPS)
def test_int4_scales_are_nearly_the_best_there_are(group: int) -> None:
    weight = rand(64, 256)
    error = (dequantize(quantize(weight, Format(4, group))) - weight).square().sum()
    cut = grouped(weight, group)
    largest = cut.gather(-1, cut.abs().argmax(-1, keepdim=True))
    each = []
    for stretch in torch.linspace(0.5, 1.2, 141):
        scale = largest / -8 * stretch
        each.append(((cut / scale).round().clamp(-8, 7) * scale - cut).square().sum(-1))
    errors = torch.stack(each)
    assert error < 1.02 * errors.amin(0).sum()
    assert error < 0.93 * errors[100].sum()  # stretch 1: the largest magnitude becomes -8
    doubled = quantize(weight, Format(4, group))
    worse = Quantized(doubled.words, (doubled.scales.float() * 1.05).bfloat16(), (64, 256), Format(4, group))
    assert (dequantize(worse) - weight).square().sum() > 1.02 * errors.amin(0).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", [INT8, INT4], ids=str)
def test_taken_rows_are_rows(format: Format, dtype: torch.dtype) -> None:
    packed = any_packed((50, 70), format)
    rows = torch.tensor([0, 49, 15, 16, 16, 31, 3])
    assert torch.equal(take_rows(packed, rows, dtype), dequantize(packed, dtype)[rows])
    assert take_rows(packed, rows[:0], dtype).shape == (0, 70)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", [INT8, INT4], ids=str)
def test_weights_of_any_float_dtype_and_strides(format: Format, dtype: torch.dtype) -> None:
    weight = rand(40, 100).to(dtype)
    wide = quantize(weight.float(), format)
    for view in (weight, weight.t().contiguous().t(), torch.cat((weight, weight), 1)[:, :100]):
        packed = quantize(view, format)
        assert torch.equal(packed.words, wide.words) and torch.equal(packed.scales, wide.scales)
    assert torch.equal(dequantize(wide, dtype), by_hand(wide).to(dtype))


@pytest.mark.parametrize("format", [INT8, INT4, Format(4, 256)], ids=str)
@pytest.mark.parametrize("power", [-100, -60, 60, 120])
def test_a_power_of_two_moves_to_the_scales(format: Format, power: int) -> None:
    weight = rand(20, 300).clamp(-4, 4)
    plain, moved = quantize(weight, format), quantize(torch.ldexp(weight, torch.tensor(power)), format)
    assert torch.equal(moved.words, plain.words)
    assert torch.equal(moved.scales.double(), _times(plain, power))


def _times(packed: Quantized, power: int) -> Tensor:
    """Its scales · 2^power, but 1 where a row is padding."""
    scales = packed.scales.double() * 2.0**power
    real = torch.arange(scales.shape[0] * PANEL).view(-1, 1, PANEL) < packed.shape[0]
    return torch.where(real.expand_as(scales), scales, 1.0)


@pytest.mark.parametrize("format", [INT8, INT4], ids=str)
@pytest.mark.parametrize("magnitude", [0.0, 1e-44, 1e-38])
def test_groups_of_nothing_are_exactly_0(format: Format, magnitude: float) -> None:
    weight = rand(3, 96)
    weight[1, 32:64] = magnitude
    packed = quantize(weight, format)
    assert packed.scales[0, 1, 1] == 1
    assert dequantize(packed)[1, 32:64].abs().sum() == 0
    assert dequantize(packed)[1, :32].abs().sum() > 0


@pytest.mark.parametrize("format", [INT8, INT4, Format(8, 128)], ids=str)
@pytest.mark.parametrize("chunk", [1, 16 * 256 * 2, 10**9])
def test_chunks_change_nothing(format: Format, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = rand(100, 250)
    packed = quantize(weight, format)
    wide = dequantize(packed)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    again = quantize(weight, format)
    assert torch.equal(again.words, packed.words) and torch.equal(again.scales, packed.scales)
    assert torch.equal(dequantize(packed), wide)
    for first in range(0, 100, 32):  # as a loader packs a matrix piece by piece
        piece = quantize(weight[first : first + 32], format)
        some = slice(first // PANEL, -(-min(first + 32, 100) // PANEL))
        assert torch.equal(piece.words, packed.words[some]) and torch.equal(piece.scales, packed.scales[some])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("format", [INT8, INT4], ids=str)
@pytest.mark.parametrize("at", [(0, 0), (99, 249), (50, 31)])
def test_weights_that_are_not_finite_are_refused(format: Format, bad: float, at: tuple[int, int]) -> None:
    weight = rand(100, 250)
    weight[at] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(weight, format)


@pytest.mark.parametrize(
    ("bits", "group", "line"), [(3, 32, "3 bits"), (8, 48, "groups of 48"), (4, 0, "groups of 0")]
)
def test_unknown_formats_are_refused(bits: int, group: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Format(bits, group)


@pytest.mark.parametrize(
    "weight", [torch.zeros(4, dtype=torch.float32), torch.zeros(4, 4, dtype=torch.int32)]
)
def test_what_is_no_matrix_of_floats_is_refused(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="a matrix of floats"):
        quantize(weight, INT8)


def test_words_and_scales_that_do_not_fit_are_refused() -> None:
    words, scales = torch.zeros(2, 8, 16, dtype=torch.int32), torch.ones(2, 1, 16, dtype=torch.bfloat16)
    assert Quantized(words, scales, (17, 32), INT8).nbytes == 2 * 8 * 16 * 4 + 2 * 16 * 2
    for shape, format in [((33, 32), INT8), ((17, 33), INT8), ((17, 32), INT4), ((16, 32), INT8)]:
        with pytest.raises(ValueError, match="words are"):
            Quantized(words, scales, shape, format)
    with pytest.raises(ValueError, match=r"words are .* torch\.int64, not .* int32"):
        Quantized(words.long(), scales, (17, 32), INT8)
    with pytest.raises(ValueError, match=r"scales are .* torch\.float32, not .* bfloat16"):
        Quantized(words, scales.float(), (17, 32), INT8)
    with pytest.raises(ValueError, match=r"scales are \[2, 2, 16\]"):
        Quantized(words, scales.expand(2, 2, 16), (17, 32), INT8)


@pytest.mark.parametrize(("format", "size"), [(Format(8, 128), 1 + 1 / 64), (Format(4, 32), 0.5 + 1 / 16)])
def test_bytes_of_a_weight(format: Format, size: float) -> None:
    packed = quantize(rand(32, 256), format)
    assert format.weight_bytes == size
    assert packed.nbytes == packed.numel() * size


VALUES = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([0.0, 1.0, -1.0, 1e-20, -1e-30])
)


@settings(max_examples=60, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    columns=st.integers(1, 70),
    values=st.lists(VALUES, min_size=1, max_size=12),
    rows=st.integers(1, 18),
)
def test_any_matrix_keeps_the_bound(format: Format, columns: int, values: list[float], rows: int) -> None:
    weight = (
        torch.tensor(values).repeat(-(-rows * columns // len(values)))[: rows * columns].view(rows, columns)
    )
    packed = quantize(weight, format)
    assert excess(weight, packed) <= 1
    rows_of = torch.arange(rows).flip(0)
    assert torch.equal(take_rows(packed, rows_of, torch.float32), dequantize(packed).flip(0))
