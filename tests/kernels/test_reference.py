"""The torch stages against their formulas, written out with loops, and the refusals of `load`."""

import math

import pytest
import torch

from kernels import api, reference
from kernels.api import AttentionShape, HeadWeights, LayerCache, LayerWeights, Layout, RowSpan
from kernels.reference import TorchBackend, linear, product_dtype, rmsnorm, rotate

CPU = torch.device("cpu")
TOLERANCE = 2e-6  # fp32, sums of at most a hundred terms


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_row(
    length: int, new: int, *, page_size: int = 4, pages: list[int] | None = None, d: int = 6
) -> Layout:
    held = pages or list(range(-(-length // page_size)))
    slots = [held[p // page_size] * page_size + p % page_size for p in range(length - new, length)]
    consecutive = held == list(range(held[0], held[0] + len(held)))
    span = RowSpan(0, new, length, torch.tensor(held), held[0] * page_size if consecutive else None)
    angle = rand(new, d // 2)
    return Layout(
        (span,), torch.arange(length - new, length), torch.tensor(slots), angle.cos(), angle.sin(), page_size
    )


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("length", "new"), [(1, 1), (9, 1), (9, 9), (9, 4)])
@pytest.mark.parametrize("pages", [None, [7, 2, 5]])
def test_attention_is_its_formula(length: int, new: int, window: int | None, pages: list[int] | None) -> None:
    heads, kv_heads, dim = 6, 2, 6
    held = (pages or [0, 1, 2])[: -(-length // 4)]
    layout = one_row(length, new, pages=held)
    cache = LayerCache(rand(40, kv_heads, dim, seed=1), rand(40, kv_heads, dim, seed=2))
    q = rand(new, heads, dim, seed=3)
    backend = TorchBackend(CPU)
    layer = backend.prepare_layer(
        _weights(heads, kv_heads, dim), AttentionShape(heads, kv_heads, dim, window), 1e-5
    )
    found = backend.attention(q, layer, cache, layout)
    where = [held[p // 4] * 4 + p % 4 for p in range(length)]
    for t in range(new):
        position = length - new + t
        oldest = 0 if window is None else max(0, position - window + 1)
        seen = where[oldest : position + 1]
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = torch.stack([q[t, head] @ cache.keys[s, group] for s in seen]) / math.sqrt(dim)
            expected = sum(w * cache.values[s, group] for w, s in zip(scores.softmax(0), seen, strict=True))
            assert torch.allclose(found[t, head], expected, atol=TOLERANCE, rtol=1e-5)


def _weights(
    heads: int = 4, kv_heads: int = 2, dim: int = 6, hidden: int = 10, wide: int = 14
) -> LayerWeights:
    return LayerWeights(
        attention_norm=rand(hidden, seed=10),
        qkv=rand((heads + 2 * kv_heads) * dim, hidden, seed=11),
        qkv_bias=rand((heads + 2 * kv_heads) * dim, seed=12),
        q_norm=rand(dim, seed=13),
        k_norm=rand(dim, seed=14),
        output=rand(hidden, heads * dim, seed=15),
        output_bias=rand(hidden, seed=16),
        mlp_norm=rand(hidden, seed=17),
        gate_up=rand(2 * wide, hidden, seed=18),
        gate_up_bias=rand(2 * wide, seed=19),
        down=rand(hidden, wide, seed=20),
        down_bias=rand(hidden, seed=21),
    )


def test_attention_input_writes_the_cache_and_returns_turned_queries() -> None:
    heads, kv_heads, dim = 4, 2, 6
    backend, weights = TorchBackend(CPU), _weights()
    layer = backend.prepare_layer(weights, AttentionShape(heads, kv_heads, dim), 1e-5)
    layout = one_row(7, 3, pages=[3, 1])
    cache = LayerCache(torch.zeros(20, kv_heads, dim), torch.zeros(20, kv_heads, dim))
    x = rand(3, 10)
    q = backend.attention_input(x, layer, cache, layout)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights.attention_norm
    heads_out = (normed @ weights.qkv.T + weights.qkv_bias).view(3, heads + 2 * kv_heads, dim)
    expected_q = rotate(rmsnorm(heads_out[:, :4], weights.q_norm, 1e-5), layout.cos, layout.sin)
    expected_k = rotate(rmsnorm(heads_out[:, 4:6], weights.k_norm, 1e-5), layout.cos, layout.sin)
    assert torch.allclose(q, expected_q, atol=1e-5)
    assert layout.slots.tolist() == [4, 5, 6]
    assert torch.allclose(cache.keys[4:7], expected_k, atol=1e-5)
    assert torch.allclose(cache.values[4:7], heads_out[:, 6:], atol=1e-5)
    assert cache.keys[:4].abs().sum() == cache.keys[7:].abs().sum() == 0


def test_rotation_turns_pairs_of_halves_and_keeps_lengths() -> None:
    x, angle = rand(5, 2, 8), rand(5, 4)
    turned = rotate(x, angle.cos(), angle.sin())
    for i in range(4):
        a, b, t = x[:, :, i], x[:, :, i + 4], angle[:, i].unsqueeze(1)
        assert torch.allclose(turned[:, :, i], a * t.cos() - b * t.sin(), atol=TOLERANCE)
        assert torch.allclose(turned[:, :, i + 4], b * t.cos() + a * t.sin(), atol=TOLERANCE)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_mlp_output_and_head_are_their_formulas() -> None:
    backend, weights = TorchBackend(CPU), _weights()
    layer = backend.prepare_layer(weights, AttentionShape(4, 2, 6), 1e-5)
    x, attended = rand(3, 10), rand(3, 4, 6, seed=5)
    assert torch.allclose(
        backend.attention_output(x, attended, layer),
        x + attended.view(3, 24) @ weights.output.T + weights.output_bias,
        atol=1e-5,
    )
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights.mlp_norm
    gate, up = (normed @ weights.gate_up.T + weights.gate_up_bias).split(14, dim=-1)
    expected = x + (gate * gate.sigmoid() * up) @ weights.down.T + weights.down_bias
    assert torch.allclose(backend.mlp(x, layer), expected, atol=1e-4)
    head = backend.prepare_head(HeadWeights(rand(10, seed=6), rand(9, 10, seed=7)), 1e-5)
    logits = backend.head_logits(x.bfloat16().float(), head)
    assert logits.shape == (3, 9)
    assert logits.dtype is torch.float32


@pytest.mark.parametrize("tokens", [1, 3, 4, 37])
@pytest.mark.parametrize("at_once", [32 * 24, 1 << 19])
def test_a_cpu_without_products_of_bf16_multiplies_wide_and_rounds_once(
    tokens: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_multiplies_bf16", lambda: False)
    monkeypatch.setattr(reference, "_WIDENED_AT_ONCE", at_once)  # of 75 rows, in parts of 32 or at once
    x, weight, bias = (
        rand(*shape, seed=n).bfloat16() for n, shape in enumerate([(tokens, 24), (75, 24), (75,)])
    )
    exact = x.double() @ weight.double().T + bias.double()
    found = linear(x, weight, bias)
    assert found.dtype is torch.bfloat16 and found.shape == (tokens, 75)
    # half a step of bf16 (8 bits), and what bf16 operands' own rounding before the bias adds for few tokens
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=2**-7)
    assert not torch.allclose(linear(x, weight.roll(1, 0), bias).double(), exact, rtol=2**-8, atol=2**-7)
    wide = tokens >= 4
    assert product_dtype(x) is (torch.float32 if wide else torch.bfloat16)
    assert product_dtype(x.float()) is torch.float32 and product_dtype(x.half()) is torch.float16


def test_strided_inputs_are_taken_as_they_are() -> None:
    backend = TorchBackend(CPU)
    layer = backend.prepare_layer(_weights(), AttentionShape(4, 2, 6), 1e-5)
    wide = rand(3, 20)
    assert torch.equal(backend.mlp(wide[:, ::2], layer), backend.mlp(wide[:, ::2].contiguous(), layer))


def test_backends_that_cannot_run_say_why() -> None:
    assert api.load("torch", CPU).name == "torch"
    with pytest.raises(ValueError, match="unknown backend 'tpu'"):
        api.load("tpu", CPU)
    with pytest.raises(api.BackendUnavailable, match="runs on a CPU, not on cuda:1"):
        api.load("cpu", torch.device("cuda", 1))
    if not torch.cuda.is_available():
        with pytest.raises(api.BackendUnavailable, match="runs on a CUDA device, not on cpu"):
            api.load("gpu", CPU)
