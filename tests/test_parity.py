"""Same checkpoint, same logits and same tokens as transformers, for every family, rope type and spelling."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import TokenjouleError
from engine.model import Model
from tests import tiny

# Stages are fused and sums run in another order than in transformers; fp32 keeps about 1e-6 of that.
TOLERANCE = 1e-4
PROMPT = 41  # longer than every window here, and no multiple of the page size


@pytest.fixture(scope="module", params=list(tiny.VARIANTS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    directory = tmp_path_factory.mktemp(request.param)
    theirs = tiny.write(directory, request.param)
    return tiny.load_model(directory), theirs


def assert_same_logits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@torch.no_grad()
def test_prefill_and_single_steps_give_their_logits(pair: tuple[Model, Any]) -> None:
    model, theirs = pair
    tokens = tiny.prompt(PROMPT + 8)
    expected = theirs(torch.tensor([tokens])).logits[0]
    assert expected.std() > 0.3, "these weights could not tell a wrong model from a right one"
    cache = model.new_cache(PROMPT + 8)
    row = cache.add_row()
    logits, _ = model.forward(tokens[:PROMPT], cache.extend({row: PROMPT}), cache)
    assert_same_logits(logits[0], expected[PROMPT - 1])
    for position in range(PROMPT, PROMPT + 8):
        logits, _ = model.forward(tokens[position : position + 1], cache.extend({row: 1}), cache)
        assert_same_logits(logits[0], expected[position])


@torch.no_grad()
def test_64_greedy_tokens_are_theirs(pair: tuple[Model, Any]) -> None:
    model, theirs = pair
    tokens = tiny.prompt(PROMPT, seed=2)
    expected = theirs.generate(
        torch.tensor([tokens]), max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None
    )[0, PROMPT:].tolist()
    assert greedy(model, tokens, 64) == expected


def greedy(model: Model, tokens: list[int], new: int) -> list[int]:
    cache = model.new_cache(len(tokens) + new)
    row = cache.add_row()
    found: list[int] = []
    fed = tokens
    while len(found) < new:
        logits, _ = model.forward(fed, cache.extend({row: len(fed)}), cache)
        fed = [int(logits[0].argmax())]
        found += fed
    return found


def test_a_wrong_window_would_be_noticed(tmp_path: Path) -> None:
    """The comparison can fail: the same weights under another window give other logits."""
    theirs = tiny.write(tmp_path, "mistral-window")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "sliding_window": 8}))
    tokens = tiny.prompt(PROMPT)
    model = tiny.load_model(tmp_path)
    cache = model.new_cache(PROMPT)
    logits, _ = model.forward(tokens, cache.extend({cache.add_row(): PROMPT}), cache)
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_same_logits(logits[0], theirs(torch.tensor([tokens])).logits[0, -1])


def test_shards_give_the_same_weights_as_one_file(tmp_path: Path) -> None:
    tiny.write(tmp_path / "one", "qwen3")
    tiny.write(tmp_path / "many", "qwen3", shards=True)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    tokens = tiny.prompt(12)
    one, many = tiny.load_model(tmp_path / "one"), tiny.load_model(tmp_path / "many")
    assert greedy(one, tokens, 20) == greedy(many, tokens, 20)


@pytest.mark.parametrize(
    "variant", ["llama-rope-llama3", "llama-rope-linear", "llama-rope-yarn", "llama-gqa"]
)
def test_the_older_spelling_of_rope_settings_is_the_same_model(tmp_path: Path, variant: str) -> None:
    tiny.write(tmp_path, variant)
    tokens = tiny.prompt(30)
    expected = greedy(tiny.load_model(tmp_path), tokens, 16)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))
    assert greedy(tiny.load_model(tmp_path), tokens, 16) == expected
    if config["rope_scaling"]:
        config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")
        path.write_text(json.dumps(config))
        assert greedy(tiny.load_model(tmp_path), tokens, 16) == expected


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_their_own(tmp_path: Path, dtype: torch.dtype) -> None:
    """The error against fp32 is no worse than twice that of transformers in the same dtype."""
    theirs = tiny.write(tmp_path, "llama-gqa")
    tokens = torch.tensor([tiny.prompt(PROMPT)])
    exact = theirs(tokens).logits[0, -1]
    their_error = (theirs.to(dtype)(tokens).logits[0, -1].float() - exact).abs().max()
    model = tiny.load_model(tmp_path, dtype)
    cache = model.new_cache(PROMPT)
    logits, _ = model.forward(tokens[0].tolist(), cache.extend({cache.add_row(): PROMPT}), cache)
    our_error = (logits[0] - exact).abs().max()
    assert 0 < our_error <= 2 * their_error


def test_the_real_model_tells_its_story(shared_data: Path) -> None:
    """TinyStories 260K from `<s>` alone: the known beginning, and transformers' own continuation."""
    import transformers

    from engine.tokenizer import Tokenizer

    directory = shared_data / "models/stories260K"
    found = greedy(tiny.load_model(directory), [1], 200)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    expected = theirs.generate(torch.tensor([[1]]), max_new_tokens=200, do_sample=False)[0, 1:].tolist()
    assert found[: len(expected)] == expected
    text = Tokenizer.load(directory).decode([1, *found])
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball."
    )


def test_bfloat16_checkpoint_loads(shared_data: Path) -> None:
    model = tiny.load_model(shared_data / "data/llama_random_init", torch.bfloat16)
    assert len(greedy(model, [3, 4, 5], 5)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": -4}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"eos_token_id": "end"}, "eos_token_id"),
    ],
)
def test_what_the_engine_cannot_run_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    tiny.write(tmp_path, "llama-gqa")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TokenjouleError, match=message):
        tiny.load_model(tmp_path)
