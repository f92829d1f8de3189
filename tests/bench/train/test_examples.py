"""Training sequences: what they hold, what of them is learned, and that cuts do not lie."""

import random
from collections import Counter
from math import sqrt

import pytest

from bench.testbed.folds import TRAINING, fold
from bench.testbed.options import LETTERS
from bench.testbed.question import CATEGORIES
from bench.testbed.verify import RATES
from bench.testbed.vocabulary import ANSWER_PREFIX, BOS, CLOSER, EOS, VOCABULARY
from bench.train import examples
from bench.train.examples import (
    ANSWER_WEIGHT,
    CHOICE_SHARES,
    DECISION_WEIGHT,
    FAMILY_SHARES,
    KIND_SHARES,
    MID_LINE_SHARE,
    Example,
    Kind,
    sample_example,
)
from bench.train.recipe import CONTEXT


@pytest.fixture(scope="module")
def drawn():
    rng = random.Random(1)
    return [sample_example(rng) for _ in range(4000)]


def near(count, of, share):
    """Within five standard deviations of a share."""
    return abs(count / of - share) < 5 * sqrt(share * (1 - share) / of)


def test_the_mix_has_the_stated_shares(drawn):
    families = Counter(example.category.split("-")[0] for example in drawn)
    assert all(near(families[family], len(drawn), share) for family, share in FAMILY_SHARES.items())
    kinds = Counter((example.category.split("-")[0], example.kind) for example in drawn)
    for family, shares in KIND_SHARES.items():
        assert sum(shares.values()) == pytest.approx(1)
        assert all(near(kinds[family, kind], families[family], share) for kind, share in shares.items())
    for family, share in CHOICE_SHARES.items():
        chosen = sum(example.category == family + "-choice" for example in drawn)
        assert near(chosen, families[family], share)
    cut = [example for example in drawn if example.kind is Kind.CUT]
    assert near(sum(not example.thought.endswith("\n") for example in cut), len(cut), MID_LINE_SHARE)
    assert {example.category for example in drawn} == set(CATEGORIES)


def test_training_never_sees_a_held_out_question(drawn):
    for example in drawn:
        core = example.prompt[:-1]
        for letter in LETTERS:
            core = core.split(letter)[0]
        assert example.category.startswith("recall") or fold(core) in TRAINING


def test_what_is_learned_starts_after_the_prompt_and_leaves_out_a_forced_closer(drawn):
    for example in drawn[:300]:
        ids, weights = example.tokens()
        text = [VOCABULARY[token] for token in ids]
        assert len(ids) == len(weights) <= CONTEXT
        assert text[0] == BOS and text[-1] == EOS
        closer = text.index(CLOSER)
        assert text[closer + 1] == ANSWER_PREFIX
        assert "".join(text[closer + 2 : -1]) == example.answer
        prompt = 1 + len(example.prompt)
        assert not any(weights[:prompt])
        assert weights[closer + 2 : -1] == [ANSWER_WEIGHT] * len(example.answer)
        forgotten = [index for index in range(prompt, len(ids)) if not weights[index]]
        assert forgotten == ([] if example.kind is Kind.FULL else [closer])


def test_no_weight_depends_on_what_was_chosen():
    # A closer that counted more than another line in its place would be written too often.
    miss, hit = "384-\n", "326+\n"
    long = Example("3852>6?", Kind.FULL, miss + miss + hit, "32", "search").tokens()[1]
    short = Example("3852>6?", Kind.FULL, miss + hit, "32", "search").tokens()[1]
    closer = 1 + len("3852>6?" + miss + hit)
    assert long[:closer] == short[:closer]
    assert [long[place] for place in range(8, closer + 5) if long[place] != 1.0] == [DECISION_WEIGHT] * 3
    key = Example("qzt:", Kind.FULL, "abc\ndef\n", "7", "recall").tokens()[1]
    assert len({*key[5:14]}) == 1
    line = Example("38592~", Kind.FULL, "1657\n1657\n", "7", "verify").tokens()[1]
    assert line[7:18] == ([4.0] * 4 + [1.0]) * 2 + [1.0]
    worked = Example("1+1A2B3C4D5=", Kind.FULL, "1+1=2A\n", "A", "chain-choice").tokens()
    assert [VOCABULARY[i] for i, weight in zip(*worked, strict=True) if weight == ANSWER_WEIGHT] == ["A", "A"]


def test_a_cut_ends_before_its_thought_would_have(drawn):
    for example in drawn:
        if example.kind is Kind.DIRECT:
            assert example.thought == ""
        if example.kind is Kind.CUT:
            assert example.thought
            lines = example.thought.splitlines()
            if example.category.startswith("chain"):
                assert len(lines) <= len([c for c in example.prompt if c in "+-"])
            if example.category.startswith("search") and example.thought.endswith("\n"):
                target = example.prompt.split(">")[1][0]
                assert all(line[2] != target for line in lines)


def test_a_forced_answer_of_verify_is_the_last_whole_line(drawn):
    for example in drawn:
        lines = [line for line in example.thought.splitlines(keepends=True) if line.endswith("\n")]
        if example.category == "verify" and lines:
            assert example.answer == lines[-1][-2]
            assert len(lines) == RATES.lines or example.kind is Kind.CUT


def test_a_cut_search_is_as_likely_solvable_as_its_misses_allow():
    # After k misses among p pairs, three in four being solvable: 3 (1 - 1/p)^k / (3 (1 - 1/p)^k + 1).
    rng, seen = random.Random(4), Counter()
    for _ in range(5000):
        example = examples._cut(rng, "search", 8)
        lines = example.thought.splitlines()
        if len(example.prompt.split(">")[0]) == 4 and example.thought.endswith("\n") and len(lines) <= 4:
            seen[len(lines)] += 1
            seen[len(lines), "solvable"] += example.answer != "N"
    for misses in (1, 2, 3, 4):
        weight = 3 * (5 / 6) ** misses
        assert near(seen[misses, "solvable"], seen[misses], weight / (weight + 1))


def test_the_curriculum_bounds_the_chains():
    rng = random.Random(2)
    short = [sample_example(rng, longest=3) for _ in range(400)]
    chains = [example.prompt for example in short if example.category.startswith("chain")]
    assert max(sum(character in "+-" for character in prompt) for prompt in chains) == 3
    with pytest.raises(ValueError, match=r"longest must be in 2\.\.8"):
        sample_example(rng, longest=9)


def test_the_same_seed_gives_the_same_sequences(drawn):
    rng = random.Random(1)
    assert [sample_example(rng) for _ in range(50)] == drawn[:50]
