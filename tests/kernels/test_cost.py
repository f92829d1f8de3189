"""The roofline's counts, against the figures of known models and a count by hand."""

import pytest

from engine.config import parse_config
from engine.presets import PRESETS
from engine.tensors import expected_shapes
from kernels import cost
from kernels.cost import Dims, RowWork

LLAMA_1B = Dims(16, 2048, 8192, 32, 8, 64, 128256, 2, 2, 2)
LLAMA_8B = Dims(32, 4096, 14336, 32, 8, 128, 128256, 2, 2, 2)


@pytest.mark.parametrize(("dims", "gigabytes"), [(LLAMA_1B, 2.4716), (LLAMA_8B, 15.01)])
def test_a_decode_step_reads_the_known_bytes(dims: Dims, gigabytes: float) -> None:
    """Anchors: 2.4716 GB per token of Llama-3.2-1B in bf16, 15.01 GB of Llama-3.1-8B."""
    assert cost.forward(dims, [RowWork(1, 1)]).bytes / 1e9 == pytest.approx(gigabytes, rel=2e-3)


def test_operations_are_two_per_weight_and_token() -> None:
    weights = cost.forward(LLAMA_1B, [RowWork(1, 1)]).bytes / 2
    assert cost.forward(LLAMA_1B, [RowWork(1, 1)]).flops == pytest.approx(2 * weights, rel=1e-3)
    ten = cost.forward(LLAMA_1B, [RowWork(10, 10)])
    body = 2 * (weights - 128256 * 2048)
    assert ten.flops == pytest.approx(10 * body + 2 * 128256 * 2048, rel=1e-2)


def test_weights_are_read_once_for_all_rows() -> None:
    one, four = (cost.forward(LLAMA_1B, [RowWork(1, 100)] * rows) for rows in (1, 4))
    cache = 2 * 100 * 8 * 64 * 2 * 16
    assert four.bytes - one.bytes == pytest.approx(3 * cache, rel=0.02)
    assert four.flops == pytest.approx(4 * one.flops)


@pytest.mark.parametrize("window", [None, 5])
def test_attention_counts_the_pairs_that_are_seen(window: int | None) -> None:
    dims = Dims(1, 8, 8, 2, 1, 4, 8, 4, 4, 4, window)
    seen = [min(p + 1, window or 99) for p in range(3, 10)]
    assert cost.attention(dims, [RowWork(7, 10)]).flops == 4 * sum(seen) * 2 * 4


def test_a_presets_tensors_add_up_to_its_models_name() -> None:
    """Parameters as published: 1.24 B, 8.03 B, 7.25 B, 7.62 B, 8.19 B."""
    published = {
        "llama-3.2-1b": 1.2358e9,
        "llama-3.2-3b": 3.2128e9,
        "llama-3.1-8b": 8.0303e9,
        "llama-3.1-70b": 70.554e9,
        "mistral-7b": 7.248e9,
        "qwen2.5-0.5b": 0.49403e9,
        "qwen2.5-1.5b": 1.5437e9,
        "qwen2.5-7b": 7.6156e9,
        "qwen3-0.6b": 0.59605e9,
        "qwen3-1.7b": 1.7206e9,
        "qwen3-4b": 4.0225e9,
        "qwen3-8b": 8.1907e9,
    }
    assert set(published) == set(PRESETS)
    for name, parameters in published.items():
        total = 0
        for shape in expected_shapes(parse_config(PRESETS[name], {}, name)).values():
            count = 1
            for size in shape:
                count *= size
            total += count
        assert total == pytest.approx(parameters, rel=1e-3), name
