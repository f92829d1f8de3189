"""Gate and up with SwiGLU, and down, against torch."""

import dataclasses

import pytest
import torch
from torch import Tensor

from kernels.gpu.mlp import down, gate_up
from kernels.gpu.stream import Stream
from kernels.gpu.tiles import Tile
from kernels.quantize import Format
from tests.kernels.interpreted.decode_layer import FORMS, Bench, Case, close

ALL_FORMS = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
CASES = {
    "odd": Case(hidden=46, wide=70),
    "whole tiles": Case(hidden=64, wide=128, positions=(1, 2)),
    "several steps": Case(hidden=520, wide=50, positions=(1, 2, 3)),
    "biases": Case(biases=True, positions=(4, -1)),
    "many rows": Case(hidden=72, wide=40, positions=tuple(range(11))),
}


def run(bench: Bench, **how: Tile) -> tuple[Tensor, Stream]:
    weights = bench.layer.library.weights
    stream = bench.stream(weights.mlp_norm)
    hidden = torch.full((len(bench.x), bench.case.wide), 7.0)
    gate_up(stream, bench.layer, hidden, dependent=False, **how)
    down(hidden, bench.layer, stream, weights.attention_norm, dependent=False)
    return hidden, stream


@ALL_FORMS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_is_the_reference(case: Case, form: torch.dtype | Format) -> None:
    bench = Bench(case, form)
    _, stream = run(bench)
    expected = bench.torch.mlp(bench.x, bench.expected)
    assert close(stream.x, expected, form)
    assert close(stream.scaled, expected * bench.layer.library.weights.attention_norm, form)


@pytest.mark.parametrize("tile", [Tile(32, 64, 1, 1), Tile(32, 128, 4, 2), Tile(64, 64, 2, 1)], ids=str)
def test_tiles_of_gate_and_up(tile: Tile) -> None:
    bench = Bench(Case(hidden=200, wide=72, positions=(5, 6)), FORMS["int8"])
    hidden, _ = run(bench, tile=tile)
    assert close(hidden, run(bench)[0], FORMS["int8"])


def test_the_last_layer_leaves_no_norm_behind() -> None:
    bench = Bench(Case(), torch.bfloat16)
    stream = bench.stream(bench.layer.library.weights.mlp_norm)
    before = stream.scaled.clone(), stream.squares.clone()
    down(bench.hidden, bench.layer, stream, None, dependent=False)
    assert torch.equal(stream.scaled, before[0]) and torch.equal(stream.squares, before[1])
    expected = bench.x + bench.hidden @ bench.expected.weights.down.T
    assert close(stream.x, expected, torch.bfloat16)


@pytest.mark.parametrize("form", [FORMS["bf16"], FORMS["int8"], FORMS["int4"]], ids=["bf16", "int8", "int4"])
@pytest.mark.parametrize("part", ["gate and up", "last pair", "last column", "scale"])
def test_what_is_wrong_is_found(part: str, form: torch.dtype | Format) -> None:
    bench = Bench(Case(hidden=96, wide=70), form)
    weight = bench.expected.weights.gate_up.clone()
    match part:
        case "gate and up":
            weight[[5, 75]] = weight[[75, 5]]
        case "last pair":
            weight[69] = 0
        case "last column":
            weight[:, -1] = 0
        case "scale":
            weight[30, 32:64] *= 1.02
    changed = dataclasses.replace(bench.expected.weights, gate_up=weight)
    wrong = dataclasses.replace(bench.expected, weights=changed)
    assert not close(run(bench)[1].x, bench.torch.mlp(bench.x, wrong), form)


def test_what_does_not_fit_is_refused() -> None:
    bench = Bench(Case(), torch.bfloat16)
    stream = bench.stream(bench.layer.library.weights.mlp_norm)
    with pytest.raises(ValueError, match=r"hidden is \[1, 71\], not contiguous \[1, 70\]"):
        gate_up(stream, bench.layer, torch.zeros(1, 71), dependent=False)
