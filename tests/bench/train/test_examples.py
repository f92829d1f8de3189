"""Training sequences: what they hold, what of them is learned, and that cuts do not lie."""

import random
from collections import Counter
from itertools import pairwise
from math import sqrt

import pytest

from bench.testbed.folds import TRAINING, fold
from bench.testbed.question import CATEGORIES
from bench.testbed.verify import RATES
from bench.testbed.verify import RESULT as LAST_SUM
from bench.testbed.vocabulary import ANSWER_PREFIX, BOS, CLOSER, EOS, VOCABULARY, tokens
from bench.train import examples
from bench.train.examples import (
    ANSWER_WEIGHT,
    CHOICE_SHARE,
    DECISION_WEIGHT,
    DRILL_SHARE,
    FAMILY_SHARES,
    KIND_SHARES,
    MID_LINE_SHARE,
    PLANTED_SHARE,
    Example,
    Kind,
    sample_example,
)
from bench.train.recipe import CONTEXT
from tests.testbed_prompts import taken_apart


@pytest.fixture(scope="module")
def everything():
    rng = random.Random(1)
    return [sample_example(rng) for _ in range(5000)]


@pytest.fixture(scope="module")
def drawn(everything):
    """All but the drill."""
    return [example for example in everything if example.kind is not Kind.DRILL]


@pytest.fixture(scope="module")
def drilled(everything):
    return [example for example in everything if example.kind is Kind.DRILL]


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
    chosen = Counter(example.category for example in drawn)
    for family in FAMILY_SHARES:
        assert near(chosen[family + "-choice"], families[family], CHOICE_SHARE)
    cut = [example for example in drawn if example.kind is Kind.CUT]
    assert near(sum(not example.lines[-1].endswith("\n") for example in cut), len(cut), MID_LINE_SHARE)
    assert {example.category for example in drawn} == set(CATEGORIES)


def test_a_drill_asks_once_for_every_letter_of_a_question_and_teaches_nothing_else(everything, drilled):
    assert near(len(drilled), len(everything), DRILL_SHARE)
    assert {example.category for example in drilled} == {name for name in CATEGORIES if "-" in name}
    for example in drilled:
        _, options = taken_apart(example.prompt)
        pairs = {f"{value}{letter.lower()}\n" for letter, value in options.items() if value != "N"}
        assert set(example.lines) == pairs and len(example.lines) == len(pairs)
        ids, weights = example.tokens()
        text = [VOCABULARY[token] for token in ids]
        assert text == [BOS, *tokens(example.prompt), *"".join(example.lines)]
        learned = [token for token, weight in zip(text, weights, strict=True) if weight]
        assert learned == [line[-2] for line in example.lines]


def test_training_never_sees_a_held_out_question(everything):
    for example in everything:
        core, _ = taken_apart(example.prompt)
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
        prompt = 1 + len(tokens(example.prompt))
        assert not any(weights[:prompt])
        assert weights[closer + 2 : -1] == [ANSWER_WEIGHT] * len(example.answer)
        starts = [prompt + len("".join(example.lines[:number])) for number in range(len(example.lines) + 1)]
        assert starts[-1] == closer and text[prompt:closer] == [*"".join(example.lines)]
        forgotten = [
            index
            for number, ends in enumerate(pairwise(starts))
            for index in range(*ends)[: LAST_SUM + 1]  # the letter behind the last sum is learned
            if number in example.planted
        ]
        if example.kind is not Kind.FULL:
            forgotten.append(closer)
        assert [index for index in range(prompt, len(ids)) if not weights[index]] == forgotten


def weights_of(prompt, lines, answer, category, planted=()):
    """Of the characters behind the prompt of a full thought, line by line, then those of the rest."""
    made = Example(prompt, Kind.FULL, tuple(lines), answer, category, frozenset(planted))
    weights = made.tokens()[1][1 + len(tokens(prompt)) :]
    found = []
    for line in lines:
        found.append(weights[: len(line)])
        weights = weights[len(line) :]
    return [*found, weights]


def test_no_weight_depends_on_what_was_chosen():
    # A closer that counted more than another line in its place would be written too often.
    miss, hit = "326-\n", "384+\n"
    for lines in ([miss, hit], [miss, miss, hit], [hit]):
        *tries, rest = weights_of("3852>4+?", lines, "38", "search")
        assert tries == [[1, 1, DECISION_WEIGHT, DECISION_WEIGHT, 1]] * len(lines)
        assert rest == [1, 1, ANSWER_WEIGHT, ANSWER_WEIGHT, 1]
    for category, letter in (("verify", ""), ("verify-choice", "a")):
        right, wrong = f"3815695{letter}\n", f"3815692{letter and 'N'}\n"
        prompt = "3859" + (letter and "5A2B3C4D") + "~"
        *passes, _ = weights_of(prompt, [right, wrong, right], "5", category)
        assert passes == [[1, 1, 4, 1, 4, 1, 4, 4, 1][: len(right)]] * 3


def test_weights_stand_on_what_is_computed_or_chosen():
    operation, last, rest = weights_of(
        "a+5b-8>44A52B39C47D>47=", ["a+5=52\n", "b-8=44a\n"], "A", "chain-choice"
    )
    assert operation == [1, 1, 1, 1, 4, 4, 4] and last == [1, 1, 1, 1, 4, 4, 4, 1]
    assert rest == [1, 1, ANSWER_WEIGHT, 1]
    dots, _ = weights_of("qzt:", ["...\n"], "7", "recall")
    assert dots == [1] * 4


@pytest.mark.parametrize(("category", "letters"), [("verify", "   "), ("verify-choice", "aNa")])
def test_a_planted_line_has_no_weight_up_to_its_letter_and_changes_none_beside_it(category, letters):
    written = zip(("3815695", "3825796", "3815695"), letters, strict=True)
    lines = [line + letter.strip() + "\n" for line, letter in written]
    prompt = "3859~" if category == "verify" else "38595A2B3C4D~"
    tail = [4, 1][: len(lines[0]) - 7]  # letter and line end
    for planted in ((), (1,), (0, 2)):
        *found, rest = weights_of(prompt, lines, "5", category, planted)
        for index, weights in enumerate(found):
            assert weights == ([0] * 7 if index in planted else [1, 1, 4, 1, 4, 1, 4]) + tail
        assert rest == [1, 1, ANSWER_WEIGHT, 1]
    part = Example(prompt, Kind.CUT, (lines[0], "382"), "5", category, frozenset({1})).tokens()[1]
    assert part[1 + len(tokens(prompt)) + len(lines[0]) :] == [0, 0, 0, 0, 1, ANSWER_WEIGHT, 1]


def right_line(example):
    """The right line of a verify question, worked out from its prompt alone."""
    digits, options = taken_apart(example.prompt)
    line = digits[0] + "".join(
        digits[place] + str(sum(map(int, digits[: place + 1])) % 10) for place in range(1, len(digits))
    )
    if options:
        line += {value: letter.lower() for letter, value in options.items()}.get(line[-1], "N")
    return line + "\n"


def test_wrong_lines_are_planted_in_the_stated_share_whatever_stood_before(drawn):
    counts = Counter()
    for example in drawn:
        if not example.category.startswith("verify"):
            assert not example.planted
            continue
        right = right_line(example)
        whole = [line for line in example.lines if line.endswith("\n")]
        for index, line in enumerate(whole):
            before = "nothing" if not index else "right" if whole[index - 1] == right else "wrong"
            counts[before] += 1
            counts[before, "planted"] += index in example.planted
            assert index not in example.planted or line[6] != right[6]
    for before in ("nothing", "right", "wrong"):
        assert near(counts[before, "planted"], counts[before], PLANTED_SHARE)


def test_what_is_learned_of_a_check_follows_the_kernel_over_planted_lines_as_over_others(drawn):
    # Rates of the lines that have weight. A planted error is mended as often as any other.
    counts = Counter()
    for example in drawn:
        if example.category.startswith("verify"):
            right = right_line(example)
            whole = [line for line in example.lines if line.endswith("\n")]
            for index, line in enumerate(whole):
                if index in example.planted:
                    continue
                before = whole[index - 1] if index else ""
                name = "first" if not index else "broken" if before == right else "mended"
                name += " over planted" if index - 1 in example.planted else ""
                counts[name, "seen"] += 1
                counts[name] += (line != right) if name in ("first", "broken") else (line == right)
                assert not name.startswith("mended") or line in (right, before)  # mended or copied
    for name, rate in (
        ("first", RATES.epsilon),
        ("mended", RATES.fix),
        ("mended over planted", RATES.fix),
        ("broken", RATES.break_),
    ):
        assert near(counts[name], counts[name, "seen"], rate)
    assert counts["mended over planted", "seen"] > 2 * counts["mended", "seen"]  # what planting is for
    assert not counts["broken over planted"]


def test_a_cut_ends_before_its_thought_would_have(drawn):
    for example in drawn:
        if example.kind is Kind.DIRECT:
            assert example.lines == ()
        if example.kind is Kind.CUT:
            assert example.lines and all(line.endswith("\n") for line in example.lines[:-1])
            mid_line = not example.lines[-1].endswith("\n")
            if example.category.startswith("chain"):
                assert len(example.lines) <= sum(c in "+-" for c in example.prompt) - (not mid_line)
            if example.category.startswith(("verify", "recall")):
                assert len(example.lines) <= RATES.lines - (not mid_line)
            if example.category.startswith("search") and not mid_line:
                target = example.prompt.split(">")[1][0]
                assert all(line[2] != target for line in example.lines)


def test_a_forced_answer_of_verify_is_the_last_whole_line(drawn):
    for example in drawn:
        lines = [line for line in example.lines if line.endswith("\n")]
        if example.category == "verify" and lines:
            assert example.answer == lines[-1][-2]
            assert len(lines) == RATES.lines or example.kind is Kind.CUT
        if example.category == "verify-choice" and lines:
            assert lines[-1][-2] in (example.answer.lower(), "N")


def test_a_cut_search_is_as_likely_solvable_as_its_misses_allow():
    # After k misses among p pairs, three in four being solvable: 3 (1 - 1/p)^k / (3 (1 - 1/p)^k + 1).
    rng, seen = random.Random(4), Counter()
    for _ in range(5000):
        example = examples._cut(rng, "search", 8)
        misses = len(example.lines)
        if len(example.prompt.split(">")[0]) == 4 and example.lines[-1].endswith("\n") and misses <= 4:
            seen[misses] += 1
            seen[misses, "solvable"] += example.answer != "N"
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


def test_the_same_seed_gives_the_same_sequences(everything):
    rng = random.Random(1)
    assert [sample_example(rng) for _ in range(50)] == everything[:50]
