"""The kernels that write the residual stream against torch: sizes, forms, tiles, what the next norm is
given.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from kernels.gpu.attention_output import attention_output
from kernels.gpu.stream import Stream, add, begin
from kernels.gpu.tiles import Chip, Tile
from kernels.gpu.weights import GpuMatrix
from kernels.quantize import Format
from tests.kernels.interpreted.decode_layer import EPS, FORMS, Bench, Case, close, held, rand, wide
from tests.kernels.interpreted.where import DEVICE, ON_DEVICE

ALL_FORMS = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
CHIP = Chip(3, 80)


def added(
    weight: GpuMatrix, vectors: Tensor, bias: Tensor | None, gain: Tensor | None, **how: Tile
) -> Stream:
    """A stream of seeded numbers after W·vectors was added."""
    rows, hidden = len(vectors), weight.shape[0]
    stream = Stream.make(rows, hidden, torch.float32, DEVICE)
    begin(rand(rows, hidden, seed=9), torch.ones(hidden), stream, dependent=False)
    add(vectors, weight, bias, stream, gain, dependent=False, **how)
    return stream


def is_right(stream: Stream, expected: Tensor, gain: Tensor | None, form: torch.dtype | Format) -> bool:
    """x, and what the next norm is given: x times its gain, and the squares of each 16 columns."""
    if not close(stream.x, expected, form):
        return False
    if gain is None:
        return True
    padded = torch.nn.functional.pad(expected, (0, -expected.shape[1] % 16))
    squares = padded.square().unflatten(1, (-1, 16)).sum(-1)
    return close(stream.scaled, expected * gain, form) and close(stream.squares, squares, form)


@ALL_FORMS
@pytest.mark.parametrize(
    ("rows", "columns", "batch"), [(16, 32, 1), (70, 46, 3), (33, 258, 9), (96, 512, 16)]
)
def test_sizes(rows: int, columns: int, batch: int, form: torch.dtype | Format) -> None:
    weight = held(rand(rows, columns, seed=1) / columns**0.5, form)
    vectors, bias, gain = rand(batch, columns, seed=2), rand(rows, seed=3), rand(rows, seed=4)
    stream = added(GpuMatrix.of(weight, CHIP), vectors, bias, gain)
    expected = rand(batch, rows, seed=9) + torch.nn.functional.linear(vectors, wide(weight), bias)
    assert is_right(stream, expected, gain, form)


TILES = {
    "one program for all": Tile(32, 64, 1, 1),
    "several tiles a program": Tile(32, 128, 2, 2),
    "taller": Tile(64, 64, 1, 2),
    "a step for all columns": Tile(32, 512, 4, 3),
    "a program for each": Tile(32, 256, 8, 5),
}


@ALL_FORMS
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES.keys())
def test_tiles(tile: Tile, form: torch.dtype | Format) -> None:
    weight = held(rand(150, 260, seed=1) / 16, form)
    vectors, gain = rand(2, 260, seed=2), rand(150, seed=4)
    stream = added(GpuMatrix.of(weight, CHIP), vectors, None, gain, tile=tile)
    expected = rand(2, 150, seed=9) + vectors @ wide(weight).T
    assert is_right(stream, expected, gain, form)


def test_tiles_that_share_columns_and_warps_agree_to_the_bit() -> None:
    numbers, vectors = rand(96, 256, seed=1), rand(3, 256, seed=2)
    if not ON_DEVICE:  # the interpreter's products are numpy's, whose order goes with their shape and the CPU
        numbers, vectors = numbers.round(), vectors.round()  # sums of whole numbers are exact in any order
    weight = GpuMatrix.of(numbers.bfloat16(), CHIP)
    one = added(weight, vectors, None, torch.ones(96), tile=Tile(16, 128, 2, 3))
    other = added(weight, vectors, None, torch.ones(96), tile=Tile(32, 128, 2, 2))
    assert torch.equal(one.x, other.x) and torch.equal(one.scaled, other.scaled)


@ALL_FORMS
def test_the_stage_is_the_reference(form: torch.dtype | Format) -> None:
    bench = Bench(Case(biases=True, positions=(3, 4, 5)), form)
    weights = bench.layer.library.weights
    stream = bench.stream(weights.attention_norm)
    attention_output(bench.attended, bench.layer, stream, dependent=False)
    expected = bench.torch.attention_output(bench.x, bench.attended, bench.expected)
    assert is_right(stream, expected, weights.mlp_norm, form)
    normed = stream.scaled * torch.rsqrt(stream.squares.sum(-1, keepdim=True) / bench.case.hidden + EPS)
    mean = expected.square().mean(-1, keepdim=True)
    assert close(normed, expected * torch.rsqrt(mean + EPS) * weights.mlp_norm, form)


def test_vectors_in_bf16_are_taken() -> None:
    bench = Bench(Case(positions=(3, 4)), torch.bfloat16)
    stream = bench.stream(bench.layer.library.weights.attention_norm)
    attended = bench.attended.bfloat16()
    attention_output(attended, bench.layer, stream, dependent=False)
    expected = bench.torch.attention_output(bench.x, attended.float(), bench.expected)
    assert close(stream.x, expected, torch.bfloat16)


@pytest.mark.parametrize("form", [FORMS["bf16"], FORMS["int8"], FORMS["int4"]], ids=["bf16", "int8", "int4"])
@pytest.mark.parametrize("part", ["last column", "column", "row", "scale", "gain"])
def test_what_is_wrong_is_found(part: str, form: torch.dtype | Format) -> None:
    bench = Bench(Case(positions=(3,)), form)
    weight, gain = bench.expected.weights.output.clone(), bench.layer.library.weights.mlp_norm.clone()
    match part:
        case "last column":
            weight[:, -1] = 0
        case "column":
            weight[:, [40, 41]] = weight[:, [41, 40]]
        case "row":
            weight[[9, 25]] = weight[[25, 9]]
        case "scale":
            weight[3, 32:64] *= 1.01
        case "gain":
            gain[-1] *= 1.01
    wrong = dataclasses.replace(
        bench.expected, weights=dataclasses.replace(bench.expected.weights, output=weight)
    )
    stream = bench.stream(bench.layer.library.weights.attention_norm)
    attention_output(bench.attended, bench.layer, stream, dependent=False)
    expected = bench.torch.attention_output(bench.x, bench.attended, wrong)
    assert not is_right(stream, expected, gain, form)


def test_what_does_not_fit_is_refused() -> None:
    bench = Bench(Case(), torch.bfloat16)
    stream = bench.stream(bench.layer.library.weights.attention_norm)
    with pytest.raises(ValueError, match=r"vectors are \[1, 70\]; the matrix takes contiguous \[B, 72\]"):
        add(torch.zeros(1, 70), bench.layer.output, None, stream, None, dependent=False)
    with pytest.raises(ValueError, match="not in fp16"):
        add(torch.zeros(1, 72).half(), bench.layer.output, None, stream, None, dependent=False)
    with pytest.raises(ValueError, match="1 to 16 rows, not 17"):
        Stream.make(17, 8, torch.float32, DEVICE)
    with pytest.raises(ValueError, match="45 columns: numbers are read in pairs"):
        GpuMatrix.of(rand(16, 45, seed=0), CHIP)
