"""The four families: what is asked, what is thought, what is answered."""

import random
from collections import Counter
from itertools import combinations, pairwise
from math import sqrt

import pytest

from bench.testbed import chain, recall, search, verify
from bench.testbed.chain import Chain
from bench.testbed.folds import DEVELOPMENT, FOLDS, HELD_OUT, TRAINING, fold
from bench.testbed.options import Options
from bench.testbed.question import CATEGORIES, accepts
from bench.testbed.sample import family_of, mixed, numbered, problem, question
from bench.testbed.search import MOST_TRIES, NONE, Search
from bench.testbed.verify import RATES, Verify
from bench.testbed.vocabulary import LETTERS, TOKEN_ID
from tests.testbed_prompts import taken_apart

DRAWS = 150


def drawn(category, count=DRAWS, *, folds=HELD_OUT, difficulty=None):
    rng = random.Random(category)
    return [problem(category, rng, folds=folds, difficulty=difficulty) for _ in range(count)]


# What all have in common


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_character_is_a_token_and_a_prompt_ends_in_its_familys_mark(category):
    for found in drawn(category):
        text = found.prompt + "".join(found.think(random.Random(1))) + found.answer
        assert set(text) <= set(TOKEN_ID)
        assert found.prompt.endswith(family_of(category).mark)
        assert 1 <= len(found.answer) <= 2
        assert found.difficulty in family_of(category).difficulties


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_number_names_the_same_question_for_ever(category):
    assert numbered(category, 7) == numbered(category, 7) != numbered(category, 8)
    asked = question(category, random.Random(3))
    assert asked == numbered(category, asked.seed) and asked.category == category


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_difficulty_can_be_asked_for(category):
    for difficulty in family_of(category).difficulties:
        assert {found.difficulty for found in drawn(category, 10, difficulty=difficulty)} == {difficulty}


@pytest.mark.parametrize("category", [name for name in CATEGORIES if name.endswith("-choice")])
def test_exactly_one_of_four_options_is_right(category):
    letters = Counter()
    for found in drawn(category):
        _, shown = taken_apart(found.prompt)
        assert list(shown) == list(LETTERS) and len(set(shown.values())) == 4
        assert found.answer in LETTERS
        letters[found.answer] += 1
    if not category.startswith("search"):  # there D is always none
        assert all(abs(letters[letter] / DRAWS - 0.25) < 5 * sqrt(0.25 * 0.75 / DRAWS) for letter in LETTERS)


@pytest.mark.parametrize("family", ["chain", "verify", "search"])
def test_what_is_held_out_is_never_drawn_for_training(family):
    # Options are no part of what is hashed: a held-out question is held out in both forms.
    for category in (family, family + "-choice"):
        for folds, count in ((TRAINING, DRAWS), (DEVELOPMENT, 30)):
            for found in drawn(category, count, folds=folds):
                core, options = taken_apart(found.prompt)
                assert core == found.core and fold(core) in folds
                assert bool(options) == category.endswith("-choice")


def test_the_folds_never_move():
    # Models were trained on one side of them: another hash would evaluate on training questions.
    assert [fold(core) for core in ("a+5b-8>47", "3859", "3852>4")] == [18, 19, 24]


def test_an_answer_is_accepted_as_it_is_and_nothing_else():
    asked = numbered("chain", 7)
    assert accepts(asked, asked.answer) and accepts(asked, f" {asked.answer}\n")
    assert not accepts(asked, None) and not accepts(asked, "") and not accepts(asked, asked.answer + "0")


def test_an_unknown_category_is_refused_with_the_ones_there_are():
    with pytest.raises(ValueError, match=r"unknown category 'chains'; there are chain, verify"):
        numbered("chains", 1)


def test_the_mix_asks_every_category():
    rng = random.Random(1)
    assert {mixed(rng).category for _ in range(120)} == set(CATEGORIES)


def test_options_must_differ():
    with pytest.raises(ValueError, match="four different"):
        Options(("1", "2", "2", "3"))


# Chain


def test_the_worked_example_of_a_chain_is_written_as_documented():
    worked = Chain(47, (("+", 5), ("-", 8)), Options(("44", "52", "39", "47")))
    assert worked.prompt == "a+5b-8>44A52B39C47D>47="
    assert worked.think(random.Random(0)) == ["a+5=52\n", "b-8=44a\n"]
    plain = Chain(47, (("+", 5), ("-", 8)))
    assert plain.prompt == "a+5b-8>47=" and plain.core == worked.core == "a+5b-8>47"
    assert plain.think(random.Random(0)) == ["a+5=52\n", "b-8=44\n"]
    assert worked.answer == "A" and plain.answer == "44"


def test_values_of_a_chain_have_two_digits():
    small = Chain(3, (("+", 2), ("-", 4)))
    assert small.prompt == "a+2b-4>03=" and small.think(random.Random(0)) == ["a+2=05\n", "b-4=01\n"]
    assert small.answer == "01"


def worked_out(core):
    """The result of a chain by Python, which evaluates + and - from left to right too."""
    operations, start = core.split(">")
    return eval(
        str(int(start)) + "".join(character for character in operations if character not in "abcdefgh")
    )


@pytest.mark.parametrize("operations", chain.OPERATIONS)
def test_chains_are_right_and_stay_in_range(operations):
    for found in drawn("chain", 40, difficulty=operations):
        core, _ = taken_apart(found.prompt)
        assert found.answer == f"{worked_out(core):02d}"
        asked, value = core.split(">")
        lines = found.think(random.Random(0))
        assert asked == "".join(line.split("=")[0] for line in lines) and len(lines) == operations
        for name, line in zip("abcdefgh", lines, strict=False):
            operation, result = line.strip().split("=")
            assert operation[0] == name and result == f"{eval(str(int(value)) + operation[1:]):02d}"
            value = result
        assert value == found.answer


def test_operands_are_drawn_alike_where_all_of_them_keep_the_range():
    changes = Counter()
    for found in drawn("chain", 800, difficulty=8):
        for value, operation in zip(found.values, found.operations, strict=False):
            if 9 <= value <= 90:
                changes[operation] += 1
    assert len(changes) == 18
    assert all(
        abs(count / changes.total() - 1 / 18) < 5 * sqrt(17 / 18**2 / changes.total())
        for count in changes.values()
    )


def test_the_right_option_of_a_chain_is_its_result_and_no_two_end_in_the_same_digit():
    for found in drawn("chain-choice"):
        core, shown = taken_apart(found.prompt)
        assert int(shown[found.answer]) == worked_out(core)
        assert len({value[-1] for value in shown.values()}) == 4
        assert found.think(random.Random(0))[-1].endswith(f"={shown[found.answer]}{found.answer.lower()}\n")


def test_no_option_of_a_chain_gives_itself_away():
    # Its rank among the four, and how near it lies to the others, are what a guess could go by.
    ranks, nearest = Counter(), 0
    for found in drawn("chain-choice", 2000):
        _, shown = taken_apart(found.prompt)
        values = sorted(map(int, shown.values()))
        right = int(shown[found.answer])
        assert values[-1] - values[0] < 10
        ranks[values.index(right)] += 1
        apart = {value: sum(abs(value - other) for other in values) for value in values}
        least = [value for value in values if apart[value] == min(apart.values())]
        nearest += (right in least) / len(least)
    assert all(abs(ranks[rank] / 2000 - 0.25) < 0.05 for rank in range(4))
    assert abs(nearest / 2000 - 0.25) < 0.05


@pytest.mark.parametrize(
    ("start", "operations"),
    [
        (90, (("+", 10),)),
        (3, (("-", 4),)),
        (1, (("*", 1),)),
        (0, (("+", -1),)),
        (5, (("+", 0),)),
        (5, (("+", 10),)),
        (0, ()),
        (0, (("+", 1),) * 9),
    ],
)
def test_a_chain_outside_the_task_is_refused(start, operations):
    with pytest.raises(ValueError, match="found"):
        Chain(start, operations)


# Verify


def test_a_line_of_verify_holds_the_digits_and_their_running_sums():
    worked = Verify("3859")
    assert worked.right_line == "3815695\n" and worked.answer == "5" and worked.prompt == "3859~"
    for found in drawn("verify"):
        assert found.answer == str(sum(map(int, taken_apart(found.prompt)[0])) % 10)


def test_a_wrong_line_has_one_error_and_a_wrong_end():
    rng, places = random.Random(0), Counter()
    for found in drawn("verify", 600):
        line = found.wrong_line(rng).removesuffix("\n")
        assert line[0] + line[1::2] == found.digits
        total, jumps = int(line[0]), []
        for place, (digit, written) in enumerate(zip(line[1::2], line[2::2], strict=True)):
            if int(written) != (total + int(digit)) % 10:
                jumps.append(place)
            total = int(written)
        assert len(jumps) == 1 and line[-1] != found.answer
        places[jumps[0]] += 1
    assert all(abs(places[place] / 600 - 1 / 3) < 5 * sqrt(2 / 9 / 600) for place in range(3))


def test_the_lines_of_verify_follow_the_stated_markov_chain():
    rng, counts = random.Random(0), Counter()
    for found in drawn("verify", 1500):
        lines, right = found.think(rng), found.right_line
        assert len(lines) == RATES.lines
        counts["first"] += 1
        counts["first wrong"] += lines[0] != right
        for before, line in pairwise(lines):
            name = "right" if before == right else "wrong"
            counts[name] += 1
            counts[name + " changed"] += line != before
            assert line in (right, before) or before == right
    for rate, changed, of in (
        (RATES.epsilon, "first wrong", "first"),
        (RATES.fix, "wrong changed", "wrong"),
        (RATES.break_, "right changed", "right"),
    ):
        assert abs(counts[changed] / counts[of] - rate) < 5 * sqrt(rate * (1 - rate) / counts[of])


def test_a_next_line_depends_on_the_line_before_alone():
    asked = Verify("3859")
    for before in ("3815695\n", "3825796\n"):
        alone = [asked.next_line([before], random.Random(seed)) for seed in range(200)]
        after_others = [asked.next_line(["3815693\n", before], random.Random(seed)) for seed in range(200)]
        assert alone == after_others and len(set(alone)) > 1


def test_verify_teaches_what_the_last_line_says_right_or_wrong():
    rng = random.Random(0)
    shown = Verify("3859", Options(("5", "2", "3", "4")))
    assert Verify("3859").conclude(["3815695\n"], rng) == "5"
    assert Verify("3859").conclude(["3815695\n", "3815692\n"], rng) == "2"
    assert shown.right_line == "3815695a\n"
    assert shown.conclude(["3815695a\n"], rng) == "A"
    assert shown.conclude(["3815692b\n"], rng) == "B"
    # The digit is not among the options: any letter.
    assert {shown.conclude(["3815699N\n"], rng) for _ in range(100)} == set(LETTERS)
    for found in drawn("verify-choice", 50):
        letters = {value: letter.lower() for letter, value in taken_apart(found.prompt)[1].items()}
        for line in found.think(rng):
            assert line[7:] == letters.get(line[6], "N") + "\n"


def test_with_no_line_written_verify_teaches_a_fresh_attempt():
    rng, worked = random.Random(0), Verify("3859")
    right = sum(worked.conclude([], rng) == "5" for _ in range(1000)) / 1000
    assert abs(right - (1 - RATES.epsilon)) < 5 * sqrt(0.25 / 1000)


# Search


def test_a_search_has_one_solution_or_none():
    unsolvable = 0
    for found in drawn("search", 600):
        hits = [a + b for a, b in combinations(found.digits, 2) if int(a) * int(b) % 10 == int(found.target)]
        assert len(hits) <= 1 and len(set(found.digits)) == len(found.digits)
        assert found.answer == (hits[0] if hits else NONE)
        unsolvable += not hits
    assert abs(unsolvable / 600 - search.UNSOLVABLE_SHARE) < 5 * sqrt(0.25 * 0.75 / 600)


def test_tries_end_with_the_first_hit_or_after_the_last():
    rng, tried = random.Random(0), Counter()
    for found in drawn("search", 400):
        lines = found.think(rng)
        for line in lines:
            assert line[:2] in found.pairs and int(line[2]) == int(line[0]) * int(line[1]) % 10
            assert line[3:] == ("+\n" if line[2] == found.target else "-\n")
        hits = [index for index, line in enumerate(lines) if line[2] == found.target]
        assert hits in ([], [len(lines) - 1]) and (hits or len(lines) == MOST_TRIES)
        assert found.conclude(lines, rng) == (found.answer if hits else NONE)
        if found.difficulty == 3:
            tried[found.pairs.index(lines[0][:2])] += 1
    assert all(
        abs(tried[pair] / tried.total() - 1 / 3) < 5 * sqrt(2 / 9 / tried.total()) for pair in range(3)
    )


def test_the_worked_example_of_a_search_is_written_as_documented():
    worked, shown = Search("3852", "4"), Search("3852", "4", Options(("38", "32", "85", NONE)))
    assert [a + b for a, b in combinations("3852", 2) if int(a) * int(b) % 10 == 4] == ["38"]
    assert (worked.prompt, worked.answer) == ("3852>4+?", "38")
    assert (shown.prompt, shown.answer) == ("3852>4+38A32B85CND?", "A")
    assert worked.think(random.Random(0))[-1] == "384+\n" and shown.think(random.Random(0))[-1] == "384a\n"
    assert "326-\n" in {line for seed in range(20) for line in shown.think(random.Random(seed))}


def test_an_early_answer_of_a_search_is_taught_the_truth():
    worked = Search("3852", "4")
    assert worked.conclude(["326-\n"], random.Random(0)) == "38"
    assert worked.conclude(["326-\n"] * MOST_TRIES, random.Random(0)) == NONE


def test_the_last_option_of_a_search_is_none_and_right_where_nothing_hits():
    for found in drawn("search-choice"):
        _, shown = taken_apart(found.prompt)
        assert shown["D"] == NONE
        hits = [
            letter
            for letter in "ABC"
            if int(shown[letter][0]) * int(shown[letter][1]) % 10 == int(found.target)
        ]
        assert [found.answer] == (hits or ["D"])
        assert all(shown[letter] in found.pairs for letter in "ABC")
        last = found.think(random.Random(2))[-1]
        assert last[3] == (found.answer.lower() if last[2] == found.target else "-")


# Recall


def test_facts_are_fixed_and_different():
    table = recall.facts()
    assert len(table) == recall.FACTS == len({key for key, _ in table})
    assert table[:2] == (("bum", "7"), ("mrs", "3"))
    assert set("".join(digit for _, digit in table)) == set("0123456789")


def test_facts_are_met_in_proportion_to_their_rank():
    bands = Counter(found.difficulty for found in drawn("recall", 2000))
    assert all(abs(bands[band] / 2000 - 0.25) < 5 * sqrt(0.25 * 0.75 / 2000) + 0.01 for band in recall.BANDS)
    sizes = Counter(recall.Recall(rank).difficulty for rank in range(recall.FACTS))
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] and sizes.total() == recall.FACTS


def test_thinking_about_a_fact_says_nothing_of_it():
    asked = [*drawn("recall", 20), *drawn("recall-choice", 20)]
    assert {tuple(found.think(random.Random(1))) for found in asked} == {("...\n",) * recall.LINES}
    assert all(found.conclude(["...\n"] * 3, random.Random(0)) == found.answer for found in asked)


def test_verify_is_drawn_from_all_digits():
    assert len({found.digits for found in drawn("verify", 500, folds=range(FOLDS))}) > 470
    assert {digit for found in drawn("verify", 100) for digit in found.digits} == set("0123456789")
    assert verify.DIGITS == 4
