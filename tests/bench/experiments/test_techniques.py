"""One question by each technique, on a real model of 260 k parameters that knows no answer."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.benchmarks.item import Item
from bench.experiments.techniques import TECHNIQUES, Ask, attempt
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.stop import TokenBudget

ITEM = Item("x/0", "Who ran?", ("Tim", "Sue", "the cat", "no one"), "B", "x", "mmlu")
ASK = Ask(new_tokens=40, samples=6, answer_tokens=4, policies=(TokenBudget(5),))


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> Iterator[Engine]:
    path = shared_data / "models/stories260K"
    with Engine.load(path, backend="torch", device="cpu", energy_source="estimate") as engine:
        yield engine


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_technique_gives_an_attempt_with_its_joules(stories, technique):
    made = attempt(stories, ITEM, technique, ASK)
    assert made.energy_j is not None and made.energy_j > 0
    assert made.prompt_tokens > 50 and made.elapsed_s > 0
    assert stories.thinking is None  # the schema's format is gone again


def test_direct_takes_one_forward_and_the_likeliest_letter(stories):
    made = attempt(stories, ITEM, "direct", ASK)
    assert made.new_tokens == 1
    assert made.grade.answer in tuple("ABCD") and made.grade.correct == (made.grade.answer == "B")
    assert made.votes is None


def test_votes_of_one_forward_cost_one_token_and_are_the_same_again(stories):
    made, again = attempt(stories, ITEM, "vote", ASK), attempt(stories, ITEM, "vote", ASK)
    assert made.new_tokens == 1 and made.votes == again.votes
    assert made.votes is not None and sum(made.votes.values()) == 6
    assert made.votes[made.grade.answer] == max(made.votes.values())
    hot = [replace(ASK, temperature=50.0, seed=seed) for seed in range(4)]
    assert len({str(attempt(stories, ITEM, "vote", ask).votes) for ask in hot}) > 1


def test_cold_votes_are_all_for_the_direct_answer(stories):
    made = attempt(stories, ITEM, "vote", replace(ASK, temperature=1e-4))
    assert made.votes == {attempt(stories, ITEM, "direct", ASK).grade.answer: 6}


def test_independent_votes_prefill_each_time(stories):
    made, direct = attempt(stories, ITEM, "vote-independent", ASK), attempt(stories, ITEM, "direct", ASK)
    assert made.votes is not None and sum(made.votes.values()) <= 6  # what is no letter has no vote
    assert (made.new_tokens, made.prompt_tokens) == (6, 6 * direct.prompt_tokens)


def test_a_policy_cuts_the_written_steps_and_has_the_model_answer(stories):
    free, cut = attempt(stories, ITEM, "cot", ASK), attempt(stories, ITEM, "cot+stop", ASK)
    assert cut.forced and cut.stop == "token_budget" and not cut.grade.censored
    assert cut.new_tokens < free.new_tokens
    assert "The best answer is" in cut.text


def test_without_a_limit_of_steps_nothing_is_forced_and_a_cut_text_is_censored(stories):
    made = attempt(stories, ITEM, "cot", replace(ASK, steps=0))
    assert made.new_tokens == 40 and made.stop == "max_tokens"
    assert made.grade.censored and made.grade.correct is None and not made.forced


def test_what_cannot_be_asked_is_refused(stories):
    with pytest.raises(TokenjouleError, match="context of 512"):
        attempt(stories, replace(ITEM, question="run " * 600), "direct", ASK)
    with pytest.raises(UsageError, match="questions with choices"):
        attempt(stories, replace(ITEM, choices=None), "direct", ASK)
    with pytest.raises(UsageError, match="unknown technique"):
        attempt(stories, ITEM, "tree", ASK)


def test_a_model_that_thinks_has_its_thinking_closed_for_a_direct_answer(letters_directory):
    item = replace(ITEM, question="a", choices=("b", "c", "d", "e"))
    with Engine.load(letters_directory, backend="torch", device="cpu", energy_source="estimate") as engine:
        made = attempt(engine, item, "direct", ASK)
        reasoned = attempt(engine, item, "cot+stop", ASK)
    assert made.new_tokens == 1 and made.grade.answer in tuple("ABCD")
    assert reasoned.stop == "token_budget" and reasoned.forced
