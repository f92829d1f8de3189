"""A deepened model computes what the shallow one does, and learns with all of its blocks."""

import torch
from transformers import LlamaForCausalLM

from bench.train.grow import deepened
from bench.train.model_directory import model_config
from bench.train.recipe import SHAPES


def models():
    torch.manual_seed(1)
    small = LlamaForCausalLM(model_config(SHAPES["S"])).eval()
    deep = LlamaForCausalLM(model_config(SHAPES["L"])).eval()
    return small, deep


def test_a_deepened_model_gives_the_same_logits():
    small, deep = models()
    ids = torch.arange(12).reshape(2, 6)
    before = deep(ids).logits
    deep.load_state_dict(deepened(small.state_dict(), 2))
    torch.testing.assert_close(deep(ids).logits, small(ids).logits)
    assert not torch.allclose(before, small(ids).logits, atol=1e-2)


def test_every_new_block_receives_a_gradient():
    small, deep = models()
    deep.load_state_dict(deepened(small.state_dict(), 2))
    deep(torch.arange(12).reshape(2, 6)).logits.logsumexp(-1).sum().backward()
    for block in deep.model.layers[5:]:
        assert block.self_attn.o_proj.weight.grad.abs().sum() > 0
        assert block.mlp.down_proj.weight.grad.abs().sum() > 0
