"""q, keys and values of a decode step against torch: forms of weights, heads, pages, rows that rest."""

import dataclasses

import pytest
import torch
from torch import Tensor

from kernels.api import LayerCache
from kernels.gpu.attention_input import NormScratch, attention_input
from kernels.quantize import Format
from tests.kernels.interpreted.decode_layer import FORMS, Bench, Case, close
from tests.kernels.interpreted.where import DEVICE

CASES = {
    "odd head": Case(),
    "first token": Case(positions=(0,)),
    "whole tiles": Case(heads=4, kv_heads=4, dim=32, hidden=64, positions=(3, 4)),
    "one kv head": Case(heads=7, kv_heads=1, dim=16, positions=(8, 2, 30)),
    "biases": Case(biases=True, positions=(1, 7)),
    "norms": Case(norms=True, positions=(1, 7)),
    "norms of heads in tiles": Case(heads=2, kv_heads=1, dim=64, norms=True, biases=True, positions=(11,)),
    "rows that rest": Case(positions=(-1, 5, -1, 12), norms=True),
    "nine rows": Case(heads=3, kv_heads=3, dim=16, positions=(4, 8, 12, 3, 0, 9, 1, -1, 17)),
}


def run(bench: Bench) -> tuple[Tensor, LayerCache, NormScratch]:
    weights, shape = bench.layer.library.weights, bench.layer.shape
    q = torch.full((len(bench.x), shape.n_heads, shape.head_dim), 7.0)
    cache, scratch = bench.fresh_cache(), NormScratch.make(len(bench.x), shape, DEVICE)
    attention_input(
        bench.stream(weights.attention_norm), bench.layer, cache, bench.rows, q, scratch, dependent=False
    )
    return q, cache, scratch


def agrees(bench: Bench, expected: Bench) -> bool:
    """Whether `bench`'s kernel computes what torch does with the weights of `expected`."""
    q, cache, scratch = run(bench)
    assert not scratch.counters.any()  # for the next launch
    active = bench.rows.positions >= 0
    there = expected.fresh_cache()
    wanted = expected.torch.attention_input(expected.x[active], expected.expected, there, expected.layout)
    same = close(q[active], wanted, bench.form)
    return (
        same and close(cache.keys, there.keys, bench.form) and close(cache.values, there.values, bench.form)
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("form", [FORMS["bf16"], FORMS["int4"]], ids=["bf16", "int4"])
def test_it_is_the_reference(case: Case, form: torch.dtype | Format) -> None:
    bench = Bench(case, form)
    assert agrees(bench, bench)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_weights(form: torch.dtype | Format) -> None:
    bench = Bench(Case(heads=2, kv_heads=1, dim=32, hidden=200, biases=True, positions=(5, 2)), form)
    assert agrees(bench, bench)


def test_a_resting_row_writes_nothing() -> None:
    bench = Bench(dataclasses.replace(CASES["rows that rest"], positions=(-1, -1)), torch.float32)
    _, cache, _ = run(bench)
    assert torch.equal(cache.keys, bench.cache.keys) and torch.equal(cache.values, bench.cache.values)


@pytest.mark.parametrize("part", ["position", "page", "scale", "bias", "norm"])
def test_what_is_wrong_is_found(part: str) -> None:
    case = Case(heads=2, kv_heads=1, dim=32, biases=True, norms=True, positions=(6, 9))
    bench = Bench(case, FORMS["int4"])
    wrong = Bench(case, FORMS["int4"])
    weights = wrong.layer.library.weights
    match part:
        case "position":
            wrong.rows.positions[1] -= 1
        case "page":
            wrong.rows.pages[1, 2] = wrong.rows.pages[1, 1]
        case "scale":
            wrong.layer.qkv.scales[1, 0, 5] *= 1.01
        case "bias":
            assert weights.qkv_bias is not None
            weights.qkv_bias[-1] += 0.01
        case "norm":
            assert weights.k_norm is not None
            weights.k_norm[17] *= 1.2
    assert not agrees(wrong, bench)


def test_shapes_that_do_not_fit_are_refused() -> None:
    bench = Bench(Case(positions=(3, 1)), torch.float32)
    stream = bench.stream(bench.layer.library.weights.attention_norm)
    scratch = NormScratch.make(2, bench.layer.shape, DEVICE)
    with pytest.raises(ValueError, match=r"q \[1, 6, 12\] and 2 rows of a stream do not fit 2 rows"):
        attention_input(
            stream, bench.layer, bench.cache, bench.rows, torch.empty(1, 6, 12), scratch, dependent=False
        )
