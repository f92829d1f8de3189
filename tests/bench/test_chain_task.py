"""The bundled model and what it was made of: task, split, tokenizer, evaluation, card."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

import engine.models
from bench.train.chain_card import card_text
from bench.train.chain_task import (
    ANSWER_PREFIX,
    BOS,
    CLOSER,
    EOS,
    MAX_OPERATIONS,
    STEP_SEPARATOR,
    TOKEN_ID,
    UNK,
    VOCABULARY,
    Chain,
    Kind,
    is_held_out,
    sample_chain,
    sample_example,
)
from bench.train.chain_tokenizer import build_tokenizer
from bench.train.evaluate_chain import (
    answer_in,
    continue_greedily,
    evaluate_length,
    first_steps,
    held_out_problems,
    token_ids,
)
from bench.train.train_chain import (
    Recipe,
    learning_rate_at,
    longest_at,
    loss_sum,
    micro_batches,
    model_config,
)

MODEL = Path(engine.models.__file__).parent / "chain"
LENGTHS = range(1, MAX_OPERATIONS + 1)


def _json(name: str) -> dict:
    return json.loads((MODEL / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


# The task


def test_the_worked_example_is_written_as_documented():
    chain = Chain(47, (("+", 35), ("-", 18)))
    assert chain.prompt == "47+35-18="
    assert chain.steps == ("47+35=82\n", "82-18=64\n")
    assert chain.result == 64


@pytest.mark.parametrize("operations", LENGTHS)
@pytest.mark.parametrize("held_out", [False, True])
def test_chains_are_right_and_stay_in_range(operations, held_out):
    rng = random.Random(operations)
    for _ in range(40):
        chain = sample_chain(rng, operations, held_out=held_out)
        # Python evaluates + and - from left to right too, and knows nothing of this generator.
        assert eval(chain.prompt[:-1]) == chain.result
        assert len(chain.steps) == operations == len(re.findall(r"[+-]", chain.prompt))
        for step in chain.steps:
            left, right = step.removesuffix(STEP_SEPARATOR).split("=")
            assert eval(left) == int(right)
        assert all(
            0 <= int(number) <= 99 for number in re.findall(r"\d+", chain.prompt + "".join(chain.steps))
        )
        assert all(0 <= value <= 99 for value in chain.values)
        assert is_held_out(chain.prompt) == held_out


def test_each_step_starts_from_the_result_of_the_one_before():
    chain = sample_chain(random.Random(5), 12, held_out=False)
    results = [step.strip().split("=")[1] for step in chain.steps]
    starts = [re.match(r"\d+", step)[0] for step in chain.steps]
    assert starts[1:] == results[:-1]
    assert results[-1] == str(chain.result)


@pytest.mark.parametrize(
    ("start", "operations"),
    [
        (90, (("+", 10),)),
        (3, (("-", 4),)),
        (100, (("-", 1),)),
        (1, (("*", 1),)),
        (0, (("+", -1),)),
        (0, ()),
        (0, (("+", 1),) * 13),
        (50, (("+", 60), ("-", 20))),
    ],
)
def test_a_chain_outside_the_task_is_refused(start, operations):
    with pytest.raises(ValueError, match="found"):
        Chain(start, operations)


def test_the_split_never_moves():
    # The shipped weights were trained on one side of it: another hash would evaluate on training prompts.
    prompts = [f"{start}+{operand}=" for start in range(20) for operand in range(20)]
    held_out = [prompt for prompt in prompts if is_held_out(prompt)]
    assert held_out[:4] == ["0+0=", "0+8=", "0+9=", "1+13="]
    assert 20 <= len(held_out) <= 60


def test_training_never_sees_a_held_out_prompt():
    rng = random.Random(1)
    assert not any(is_held_out(sample_example(rng).chain.prompt) for _ in range(3000))


@pytest.mark.parametrize("operations", [1, 12])
def test_evaluation_problems_are_held_out_different_and_fixed(operations):
    problems = held_out_problems(operations, 300)
    assert all(is_held_out(chain.prompt) for chain in problems)
    assert len({chain.prompt for chain in problems}) == 300
    assert problems == held_out_problems(operations, 300)


def test_the_same_seed_gives_the_same_sequences():
    drawn = [[sample_example(rng) for _ in range(50)] for rng in (random.Random(7), random.Random(7))]
    assert drawn[0] == drawn[1]
    assert drawn[0] != [sample_example(random.Random(8)) for _ in range(50)]


def test_the_mix_has_the_stated_shares():
    rng = random.Random(2)
    examples = [sample_example(rng) for _ in range(4000)]
    counts = Counter(example.kind for example in examples)
    for kind in Kind:  # five standard deviations of a share of 0.45 in 4000 draws: 0.04
        assert counts[kind] / 4000 == pytest.approx(kind.value, abs=0.04)
    cut = [example for example in examples if example.kind is Kind.CUT]
    assert all("".join(example.chain.steps).startswith(example.thought) for example in cut)
    assert not any(example.thought == "".join(example.chain.steps) for example in cut)
    mid_step = sum(1 for example in cut if example.thought and not example.thought.endswith(STEP_SEPARATOR))
    assert 0.15 < mid_step / len(cut) < 0.35
    assert {len(example.chain.operations) for example in examples} == set(LENGTHS)
    assert max(len(sample_example(rng, longest=3).chain.operations) for _ in range(300)) == 3


def test_what_is_learned_starts_after_the_prompt_and_leaves_out_a_forced_closer():
    rng = random.Random(3)
    for _ in range(200):
        example = sample_example(rng)
        ids, learned = example.tokens()
        text = [VOCABULARY[token] for token in ids]
        assert text[0] == BOS
        assert text[-1] == EOS
        assert answer_in(text[:-1]) == str(example.chain.result)
        prompt_tokens = 1 + len(example.chain.prompt)
        assert not any(learned[:prompt_tokens])
        unlearned = [
            token
            for token, mask in zip(text[prompt_tokens:], learned[prompt_tokens:], strict=True)
            if not mask
        ]
        assert unlearned == ([] if example.kind is Kind.FULL else [CLOSER])


# Training


def test_schedules_begin_and_end_where_they_should():
    recipe = Recipe(seed=0, steps=1000)
    assert longest_at(0, recipe) == 2
    assert longest_at(250, recipe) == longest_at(999, recipe) == 12
    assert learning_rate_at(0, recipe) == pytest.approx(2e-3 / 100)
    assert learning_rate_at(999, recipe) < 1e-7 + 2e-3 * 1e-5
    with pytest.raises(ValueError, match="steps must be at least 1, found 0"):
        Recipe(seed=0, steps=0)


def test_padding_and_the_prompt_do_not_touch_the_loss():
    torch.manual_seed(0)
    untrained = LlamaForCausalLM(model_config()).eval()
    rng = random.Random(4)
    rows = sorted((sample_example(rng).tokens() for _ in range(6)), key=lambda row: len(row[0]))
    ((ids, learned),) = micro_batches(rows, 1)
    together = loss_sum(untrained, ids, learned)
    alone = sum(loss_sum(untrained, *next(micro_batches([row], 1))) for row in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)  # fp32 sums of some 300 terms
    unmasked = loss_sum(untrained, ids, torch.ones_like(learned))
    assert unmasked > together * 1.2


# The tokenizer


def test_the_shipped_tokenizer_is_the_one_the_code_builds(tokenizer):
    assert tokenizer.to_str() == build_tokenizer().to_str()
    assert tokenizer.get_vocab() == TOKEN_ID


def test_text_and_training_ids_agree_and_come_back_unchanged(tokenizer):
    rng = random.Random(6)
    for _ in range(200):
        example = sample_example(rng)
        ids, _ = example.tokens()
        text = f"{example.chain.prompt}{example.thought}{CLOSER}{ANSWER_PREFIX}{example.chain.result}{EOS}"
        assert tokenizer.encode(text).ids == ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == BOS + text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.removesuffix(EOS)
        pieces = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
        assert "".join(pieces) == BOS + text


@pytest.mark.parametrize(
    "typed", ["47+35-18=", "47+35-18", " 47 + 35 - 18 =", "47+35-18\n", "47 +35-18=\r\n"]
)
def test_a_chain_may_be_typed_with_spaces_and_without_its_equals_sign(tokenizer, typed):
    assert tokenizer.encode(typed).ids == [TOKEN_ID[token] for token in (BOS, *"47+35-18=")]


@pytest.mark.parametrize(
    "text",
    ["47+35=82\n", "47+35=82\n82-18=64\n", "47+35-18=47+35=82\n82-1", "\n", "64", "82-", "+35", "=", ""],
)
def test_other_text_is_encoded_as_it_stands(tokenizer, text):
    assert tokenizer.encode(text, add_special_tokens=False).ids == [TOKEN_ID[token] for token in text]
    assert tokenizer.encode(text).ids == [TOKEN_ID[token] for token in (BOS, *text)]


def test_unknown_characters_become_unk(tokenizer):
    assert tokenizer.encode("4*2=é漢").tokens == [BOS, "4", UNK, "2", "=", UNK, UNK]


def test_transformers_loads_the_same_tokenizer():
    loaded = AutoTokenizer.from_pretrained(MODEL)
    assert loaded("47+35-18")["input_ids"] == [TOKEN_ID[token] for token in (BOS, *"47+35-18=")]
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token, loaded.unk_token) == (
        "<bos>",
        "<eos>",
        "<pad>",
        "<unk>",
    )
    assert set(loaded.all_special_ids) == {TOKEN_ID[token] for token in ("<pad>", BOS, EOS, UNK)}
    text = "9-4=9-4=5\n</think><answer>5<eos>"
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text.removesuffix(EOS)


# The model


def test_the_directory_is_complete_small_and_says_how_thinking_ends():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 4_000_000
    generation = _json("generation_config.json")
    assert generation["thinking"] == {
        "opener": None,
        "closer": "</think>",
        "answer_prefix": "<answer>",
        "step_separator": "\n",
    }
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (TOKEN_ID[BOS], TOKEN_ID[EOS])
    assert GenerationConfig.from_pretrained(MODEL).eos_token_id == TOKEN_ID[EOS]
    assert _json("config.json")["vocab_size"] == len(VOCABULARY)


def test_transformers_loads_the_model():
    loaded = AutoModelForCausalLM.from_pretrained(MODEL)
    assert loaded.num_parameters() == _json("training.json")["parameters"] == 740_992
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_model_writes_out_the_worked_example(model):
    (text,) = continue_greedily(model, [token_ids([BOS, *"47+35-18="])], 40)
    assert "".join(text) == "47+35=82\n82-18=64\n</think><answer>64"


def test_a_forced_answer_is_a_number_and_ends(model):
    prefixes = [token_ids([BOS, *chain.prompt, CLOSER, ANSWER_PREFIX]) for chain in held_out_problems(8, 30)]
    answers = ["".join(text) for text in continue_greedily(model, prefixes, 4)]
    assert all(re.fullmatch(r"\d\d?", answer) for answer in answers)


@pytest.mark.parametrize("operations", [1, 5])
def test_the_recorded_accuracy_is_that_of_these_weights(model, operations):
    measured = evaluate_length(model, operations, 60)
    recorded = _json("evaluation.json")["by_length"][operations - 1]
    for key in ("full", "one_left", "half", "direct"):
        # The first 60 of the same problems: four standard errors at 50 % are 0.26.
        assert measured[key] == pytest.approx(recorded[key], abs=0.26)
    assert measured["full"] >= 0.93


def test_the_recorded_accuracy_meets_the_goal():
    rows = _json("evaluation.json")["by_length"]
    assert [row["operations"] for row in rows] == list(LENGTHS)
    assert all(row["problems"] >= 400 for row in rows)
    assert all(row["full"] >= 0.95 for row in rows if row["operations"] <= 8)
    assert all(row["full"] > row["direct"] for row in rows)


def test_cutting_a_thought_keeps_whole_steps():
    text = [*"1+1=2\n2+1=3\n", CLOSER, ANSWER_PREFIX, "3"]
    assert "".join(first_steps(text, 1)) == "1+1=2\n"
    assert first_steps(text, 0) == []
    assert "".join(first_steps(text, 5)) == "1+1=2\n2+1=3\n"
    assert answer_in(text) == "3"
    assert answer_in(list("1+1=2")) is None


# The card


def test_the_card_is_the_one_the_records_give():
    expected = card_text(_json("training.json"), _json("evaluation.json"), _json("config.json"))
    assert (MODEL / "README.md").read_text(encoding="utf-8") == expected


def test_the_figures_in_the_card_are_those_of_the_evaluation():
    # Read back from the text, so that an error in the renderer shows too.
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) " + r"\| ([\d.]+)% " * 5 + r"\| ([\d.]+) \|$", card, re.M)
    recorded = _json("evaluation.json")["by_length"]
    assert len(rows) == len(recorded) == MAX_OPERATIONS
    for cells, row in zip(rows, recorded, strict=True):
        assert int(cells[0]) == row["operations"]
        shares = [100 * row[key] for key in ("full", "one_left", "half", "direct", "full_every_step")]
        assert [float(cell) for cell in cells[1:6]] == pytest.approx(shares, abs=0.051)
        assert float(cells[6]) == pytest.approx(row["full_tokens"], abs=0.051)
    training = _json("training.json")
    assert f"{training['tokens']:,}" in card
    assert training["command"] in card
    assert "Apache-2.0" in card
