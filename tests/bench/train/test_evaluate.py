"""What the evaluation makes of a model's thoughts and answers, and that the card says the same."""

import json
import math
import random

import pytest

from bench.testbed.chain import Chain
from bench.testbed.options import Options
from bench.testbed.recall import Recall
from bench.testbed.sample import problem
from bench.testbed.search import MOST_TRIES, Search
from bench.testbed.verify import RATES, Verify
from bench.testbed.vocabulary import CLOSER
from bench.train import examples, thoughts
from bench.train.behaviour import transitions, tries
from bench.train.card import _CARD, _history, card_text
from bench.train.evaluate import evaluate, main, think_about
from bench.train.recipe import Recipe
from bench.train.run import Run
from bench.train.thoughts import Thought, answer, think
from engine.engine import Engine


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model that knows nothing, published after one step."""
    path = tmp_path_factory.mktemp("untrained")
    run = Run.begin(Recipe("S", 1, 8, 2, 2e-3))
    run.advance()
    run.publish(path)
    return path / "latest"


@pytest.fixture(scope="module")
def engine(directory):
    with Engine.load(directory, backend="torch", device="cpu", energy_source="simulated") as loaded:
        yield loaded


def thought(*lines, closed=True):
    return Thought(tuple("".join(line + "\n" for line in lines)), closed)


def test_transitions_count_the_lines_that_follow_right_and_wrong_ones():
    asked = Verify("3859")  # right: 3815695
    right, wrong, other = "3815695", "3825796", "3815692"
    seen = [thought(right, right, wrong), thought(wrong, wrong, right), thought(wrong, other)]
    found = transitions([asked] * 3, seen)
    assert found["epsilon"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["fix"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["rewritten"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["break"] == 0.5
    assert (found["attempts"], found["passes_over_wrong"], found["passes_over_right"]) == (3, 3, 2)


def test_the_generators_own_thoughts_have_the_generators_rates():
    rng = random.Random(0)
    asked = [problem("verify", rng) for _ in range(1500)]
    found = transitions(asked, [Thought(tuple("".join(one.think(rng))), True) for one in asked])
    for name, rate in (("epsilon", RATES.epsilon), ("fix", RATES.fix), ("break", RATES.break_)):
        assert found[name] == pytest.approx(rate, abs=0.06)
    assert found["rewritten"] == 0


def test_what_was_never_seen_is_no_rate():
    found = transitions([Verify("3859")], [Thought((), False)])
    assert all(math.isnan(found[name]) for name in ("epsilon", "fix", "break"))


def test_tries_count_right_lines_and_how_thoughts_end():
    asked = Search("3852", "4")  # 38 hits
    seen = [
        thought("326-", "384+"),  # ends with its hit
        thought("384+", "326-"),  # goes on after it
        thought("385-", "xyz-"),  # a wrong product, no pair
        thought(*["326-"] * MOST_TRIES),  # ran through
    ]
    found = tries([asked] * 4, seen)
    assert found["right"] == pytest.approx((4 + MOST_TRIES) / (6 + MOST_TRIES), abs=1e-4)
    assert (found["ended_at_hit"], found["hits"]) == (0.5, 2)
    assert (found["ran_through"], found["misses"]) == (0.5, 2)


def test_a_line_that_was_not_ended_is_none():
    assert Thought(tuple("3815695\n38"), False).lines == ["3815695\n"]


def test_half_a_thought_is_its_first_lines():
    assert "".join(thought("1", "2", "3", "4", "5").half()) == "1\n2\n"
    assert "".join(Thought((*"1\n2\n3", "<answer>"), False).half()) == "1\n"
    assert thought("1").half() == thought().half() == ()


def test_thoughts_and_answers_come_row_by_row_and_the_same_again(engine, monkeypatch):
    monkeypatch.setattr(thoughts, "ROWS", 2)  # three problems are two requests
    monkeypatch.setattr(thoughts, "THINK_TOKENS", 12)
    rng = random.Random(0)
    asked = [problem(category, rng) for category in ("chain", "recall", "search-choice")]
    thinking = think(engine, asked, seed=5)
    assert thinking == think(engine, asked, seed=5) != think(engine, asked, seed=6)
    assert all(CLOSER not in one.tokens and len(one.tokens) <= 12 for one in thinking)
    together = answer(engine, asked, [one.tokens for one in thinking])
    assert together == [
        answer(engine, [one], [two.tokens])[0] for one, two in zip(asked, thinking, strict=True)
    ]


def test_the_questions_of_an_evaluation_are_held_out_and_fixed(engine, monkeypatch):
    monkeypatch.setattr(thoughts, "THINK_TOKENS", 4)
    cell = think_about(engine, "verify", 1, 3)
    assert cell.problems == think_about(engine, "verify", 1, 3).problems
    assert all(fold in range(90, 92) for fold in map(_fold, cell.problems))


def _fold(asked):
    from bench.testbed.folds import fold

    return fold(asked.core)


@pytest.mark.slow
def test_the_card_holds_the_figures_of_the_record(engine, directory, monkeypatch):
    monkeypatch.setattr(thoughts, "THINK_TOKENS", 12)
    record = evaluate(engine, questions=2, report=lambda line: None, categories=("verify", "search"))
    cells = [(row["category"], row["difficulty"]) for row in record["accuracy"]]
    assert cells == [("verify", 1), ("search", 3), ("search", 4)]
    assert set(record["transitions"]) == {"verify"} and set(record["tries"]) == {"search"}
    training, config = (
        json.loads((directory / f"{name}.json").read_text()) for name in ("training", "config")
    )
    record["accuracy"][1] |= {
        "direct": 0.123,
        "half": 0.456,
        "full": 0.789,
        "closed": 0.5,
        "full_tokens": 12.3,
    }
    record["transitions"]["verify"] |= {"fix": 0.7654}
    card = card_text(training, record, config)
    assert "| search | 3 | 12.3% | 45.6% | 78.9% | 50.0% | 12.3 |" in card and "| 0.7654 |" in card
    assert f"{training['parameters']:,}" in card and "Apache-2.0" in card and "{" not in card
    assert training["command"] in card
    assert f"{examples.PLANTED_SHARE:.0%} of the lines" in card


def test_a_card_tells_where_the_weights_came_from():
    run = {"name": "S", "steps_done": 9, "steps": 10, "tokens": 1234, "elapsed_s": 60, "command": "go"}
    first = {**run, "curriculum": 0.25, "mix": {"drill": 0.1}}
    second = {**run, "mix": {"drill": 0.2}, "before": first}
    grown = {**run, "name": "L", "mix": {"drill": 0.2}, "before": second}
    assert "over 25% of the run" in _history(first)
    assert "S, 9 of 10 steps (1,234 tokens, 1 minutes, `go`)" in _history(second)
    assert "shares and weights of their own" in _history(second) and "copies" not in _history(second)
    assert _history(grown).count("`go`") == 2 and "L is that S with copies of its blocks" in _history(grown)
    alike = {**grown, "before": {**second, "before": None}}
    assert "of their own" not in _history(alike)


def test_the_cards_examples_are_those_of_the_generators():
    chain, chosen = (
        Chain(47, (("+", 5), ("-", 8)), shown) for shown in (None, Options(("44", "52", "39", "47")))
    )
    checked, listed = Verify("3859"), Verify("3859", Options(("5", "2", "3", "4")))
    search, hit = Search("3852", "4"), Search("3852", "4", Options(("38", "32", "85", "N")))
    rng = random.Random(0)
    (*_, hitting), (*_, lettered) = search.think(rng), hit.think(rng)
    for text in (
        *(one.prompt for one in (chain, chosen, checked, listed, search, hit)),
        *(line.strip() for line in (*chain.think(rng), chosen.think(rng)[-1])),
        *(line.strip() for line in (checked.right_line, listed.right_line, hitting, lettered)),
        *(f"`{one.answer}`" for one in (chain, search)),
        Recall(0).think(rng)[0].strip(),
    ):
        assert text in _CARD, text


def test_a_directory_without_a_model_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 1
    assert "no such directory" in capsys.readouterr().err
