"""Strategies on the bundled model: what each computes, what it chooses, and what it costs."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.energy.forecast import Forecast
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.result import Generation
from engine.steps import Step, StopReason
from engine.strategy import BestOfN, Cot, Direct, Outcome, Vote, run
from engine.strategy.vote import Until
from tests.cli import run as run_cli
from tests.letters import CountedMeter

CHAIN = "47+35-18+6="  # the bundled model thinks it through, and answers 70
EASY = {"temperature": 0.7, "seed": 5}
WILD: dict[str, Any] = {"temperature": 4.0, "seed": 5, "max_new_tokens": 60}
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(backend="cpu", meter=CountedMeter()) as loaded:  # type: ignore[arg-type]
        yield loaded


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward from here on."""
    found: list[int] = []
    right = Model.forward

    def forward(model: Model, tokens: Sequence[int], *given: Any, **options: Any) -> Any:
        found.append(len(tokens))
        return right(model, tokens, *given, **options)

    monkeypatch.setattr(Model, "forward", forward)
    return found


def test_a_chain_of_thought_is_plain_generation(engine: Engine) -> None:
    plain = engine.generate(CHAIN, **EASY)
    outcome = run(engine, CHAIN, Cot(), **EASY)
    assert outcome.result.token_ids == plain.token_ids
    assert (outcome.strategy, outcome.answer, outcome.samples) == ("cot", plain.answer, None)
    asked = run(engine, "1+", Cot(instruction="2="), max_new_tokens=1)
    assert asked.result.prompt_tokens == len(engine.encode("1+\n\n2="))


def test_a_direct_answer_comes_without_a_thought(engine: Engine, fed: list[int]) -> None:
    outcome = run(engine, CHAIN, Direct())
    assert set(outcome.result.phases_by_token) == {"answer"}
    assert outcome.answer == outcome.result.text.strip()
    assert len(fed) == len(outcome.result.token_ids) < 6
    assert fed[0] == len(CHAIN) + 3, "beginning of text, closer and answer prefix"


def test_a_thought_that_the_prompt_has_closed_is_not_closed_again(engine: Engine) -> None:
    closed = run(engine, f"{CHAIN}47+35=82\n</think><answer>", Direct(), max_new_tokens=1)
    assert closed.result.prompt_tokens == len(engine.encode(f"{CHAIN}47+35=82\n</think><answer>"))


def test_a_choice_is_read_from_one_forward(engine: Engine, fed: list[int]) -> None:
    outcome = run(engine, CHAIN, Direct(choices=DIGITS))
    assert len(fed) == 1
    assert outcome.probabilities is not None
    assert sum(outcome.probabilities.values()) == pytest.approx(1)
    best = max(outcome.probabilities, key=lambda answer: outcome.probabilities[answer])  # type: ignore[index]
    assert outcome.answer == outcome.result.text == best
    assert engine.tokenizer.decode(list(outcome.result.token_ids)) == best
    assert outcome.samples is None


def test_sixteen_votes_among_choices_cost_one_forward(engine: Engine, fed: list[int]) -> None:
    outcome = run(engine, CHAIN, Vote(16, DIGITS), temperature=1.0, seed=3)
    assert len(fed) == 1
    assert outcome.samples is not None
    assert outcome.votes is not None
    assert sum(outcome.votes.values()) == len(outcome.samples) == 16
    assert outcome.answer in outcome.votes
    row_j = outcome.result.energy.rows[0].total_j
    assert sum(sample.energy_j or 0 for sample in outcome.samples) == pytest.approx(row_j)
    first = run(engine, CHAIN, Direct(DIGITS), temperature=1.0, seed=3)
    assert first.answer == outcome.samples[0].answer, "a direct draw is the first vote"


def test_votes_among_choices_follow_the_distribution(engine: Engine) -> None:
    counts = dict.fromkeys(DIGITS, 0)
    for seed in range(40):
        outcome = run(engine, "47+35-18+6-9=", Vote(16, DIGITS), temperature=2.0, seed=seed)
        for answer, votes in (outcome.votes or {}).items():
            counts[answer] += votes
    assert outcome.probabilities is not None
    warm = {answer: math.sqrt(p) for answer, p in outcome.probabilities.items()}  # at temperature 2
    for answer, weight in warm.items():
        expected = 640 * weight / sum(warm.values())
        assert abs(counts[answer] - expected) < 4 * math.sqrt(expected) + 3


def test_a_vote_is_the_majority_of_rows_that_share_one_prefill(engine: Engine, fed: list[int]) -> None:
    outcome = run(engine, CHAIN, Vote(8, until=Until.ALL), **EASY)
    first, *others = fed
    rows = engine.generate_many([CHAIN] * 8, **EASY)
    assert outcome.samples is not None
    assert [sample.token_ids for sample in outcome.samples] == [row.token_ids for row in rows]
    assert [sample.answer for sample in outcome.samples] == [row.answer for row in rows]
    assert (outcome.answer, outcome.ended) == ("70", "all samples were drawn")
    assert outcome.votes is not None
    assert sum(outcome.votes.values()) == 8
    assert first == len(CHAIN) + 1
    assert max(others) == 8
    assert all(sample.log_probability is not None for sample in outcome.samples)


def test_a_vote_that_is_decided_cancels_the_rest_without_changing_its_answer(engine: Engine) -> None:
    for seed in range(3):
        options = {**EASY, "seed": seed}
        everyone = run(engine, CHAIN, Vote(9, until=Until.ALL), **options)
        early = run(engine, CHAIN, Vote(9), **options)
        assert early.answer == everyone.answer
    session_rows = [sample.stop for sample in early.samples or ()]
    if "cancelled" in session_rows:
        assert (early.ended or "").startswith("decided")


def test_an_independent_vote_has_the_same_samples_and_a_prefill_each(engine: Engine, fed: list[int]) -> None:
    shared = run(engine, CHAIN, Vote(4, until=Until.ALL), **EASY)
    fed.clear()
    apart = run(engine, CHAIN, Vote(4, until=Until.ALL, independent=True), **EASY)
    assert fed[:4] == [len(CHAIN) + 1] * 4
    assert apart.votes == shared.votes


@pytest.mark.parametrize(
    ("until", "price", "drawn", "why"),
    [
        (Until.POSTERIOR, None, 4, "posterior"),
        (Until.UNANIMOUS, None, 4, "unanimous"),
        (Until.PRICE, 1e6, 4, "price"),
        (Until.PRICE, 0.0, 12, "decided"),
    ],
)
def test_a_vote_in_waves_ends_where_its_rule_says(
    engine: Engine, until: Until, price: float | None, drawn: int, why: str
) -> None:
    """All samples of a sure model agree: 4 votes are certain to 95 %, one window is unanimous."""
    outcome = run(engine, CHAIN, Vote(16, until=until, price_joules=price), temperature=0.05)
    assert outcome.samples is not None
    assert len(outcome.samples) == drawn
    assert (outcome.ended or "").startswith(why)
    assert outcome.answer == "70"
    assert set(outcome.result.energy.rows) == set(range(drawn))


def test_samples_that_disagree_are_drawn_to_the_end(engine: Engine) -> None:
    outcome = run(engine, CHAIN, Vote(8, until=Until.UNANIMOUS), **WILD)
    assert outcome.samples is not None
    assert (len(outcome.samples), outcome.ended) == (8, "all samples were drawn")


def test_a_budget_covers_all_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forecast, "rows_held", lambda *given: 4)  # this meter's joules are no watts
    free = run(engine, CHAIN, Vote(4, until=Until.ALL), **WILD)
    assert free.result.energy.window_j is not None
    budget_j = free.result.energy.window_j / 2
    outcome = run(engine, CHAIN, Vote(4, until=Until.ALL), budget_joules=budget_j, **WILD)
    assert "joule_budget" in {sample.stop for sample in outcome.samples or ()}
    assert outcome.result.budget is not None
    assert outcome.result.budget.overshoot_j == 0
    assert outcome.result.budget.spent_j == outcome.result.energy.window_j


def test_the_best_of_n_is_the_likeliest_of_those_that_answered(engine: Engine) -> None:
    outcome = run(engine, CHAIN, BestOfN(6), temperature=1.5, seed=2, max_new_tokens=60)
    assert outcome.samples is not None
    answered = [sample for sample in outcome.samples if sample.answer is not None]
    best = max(answered, key=lambda sample: sample.log_probability or -math.inf)
    assert outcome.result.token_ids == best.token_ids
    assert (outcome.answer, outcome.strategy, outcome.votes) == (best.answer, "best-of-n", None)


def test_without_any_answer_the_first_sample_stands_for_the_vote(engine: Engine) -> None:
    outcome = run(engine, CHAIN, Vote(3), temperature=1.0, max_new_tokens=2)
    assert (outcome.answer, outcome.votes, outcome.result.row) == (None, {}, 0)
    assert {sample.stop for sample in outcome.samples or ()} == {"max_tokens"}


def test_a_reader_decides_what_counts(engine: Engine) -> None:
    outcome = run(engine, CHAIN, Vote(4, until=Until.ALL, read=lambda text: text[:1] or None), **EASY)
    assert set(outcome.votes or ()) <= set("0123456789-")
    assert outcome.answer == "7"


def test_a_vote_cut_short_from_outside_keeps_what_it_has(engine: Engine) -> None:
    attempt = Vote(4).begin(engine, CHAIN, **EASY)
    for step in attempt.steps():
        if step.index == 3:
            attempt.cancel()
    outcome = attempt.outcome()
    assert outcome.cancelled
    assert outcome.answer is None
    assert {sample.stop for sample in outcome.samples or ()} == {"cancelled"}


def test_an_outcome_as_json_holds_every_sample_and_the_tokens_of_all(engine: Engine) -> None:
    outcome: Outcome = run(engine, CHAIN, Vote(3, until=Until.ALL), **EASY)
    found = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert (found["strategy"], found["answer"], found["temperature"]) == ("vote", "70", 0.7)
    assert found["votes"]["70"] >= 2
    assert "log-probability" in found["tie_rule"]
    new = sum(sample["new_tokens"] for sample in found["samples"])
    energy = found["energy"]
    assert energy["joules_per_token"] == pytest.approx(energy["window_j"] / (new + found["prompt_tokens"]))
    between_j = energy["window_j"] - sum(sample["energy_j"] for sample in found["samples"])
    assert 0 <= between_j < energy["window_j"]


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (lambda: Vote(4), {}, "vote at temperature 0"),
        (lambda: BestOfN(4), {}, "best-of-n at temperature 0"),
        (lambda: Vote(17), {}, "samples must be 1 to 16, not 17"),
        (lambda: Vote(0), {}, "samples must be 1 to 16, not 0"),
        (lambda: Vote(4, until=Until.PRICE), {}, "price per joule"),
        (lambda: Vote(4, price_joules=1.0), {}, "price per joule"),
        (lambda: Vote(4, until=Until.PRICE, price_joules=math.nan), {}, "price per joule must be a number"),
        (lambda: Vote(4, ("A", "B"), until=Until.UNANIMOUS), {}, "drawn from one forward"),
        (lambda: Direct(("1",)), {}, "2 to 26 different answers, not 1"),
        (lambda: Direct(("1", "1")), {}, "different answers"),
        (lambda: Direct(("1", "23")), {}, "'23' is not a single token"),
        (lambda: Direct(("1", "2")), {"repetition_penalty": 1.2}, "nothing to repeat"),
        (lambda: Cot("briefly"), {"prompt": [1, 2]}, "behind a prompt of text"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    engine: Engine, strategy: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(engine, options.pop("prompt", CHAIN), strategy(), **options)
    assert "\n" not in str(caught.value)


def test_an_error_in_mid_vote_is_the_outcomes_error(engine: Engine) -> None:
    class Broken:
        needs = frozenset[str]()

        def on_prefill(self, prefill: Any) -> None:
            """Nothing."""

        def on_step(self, step: Step) -> None:
            if step.index == 3:
                raise RuntimeError("no more")

        def on_end(self, result: Generation) -> None:
            """Nothing."""

    outcome = run(engine, CHAIN, Vote(3), hooks=[Broken()], **EASY)
    assert outcome.result.error is not None
    assert "no more" in outcome.result.error
    assert outcome.result.stop.reason is StopReason.ERROR
    with pytest.raises(TokenjouleError, match="cancelled before the first token"):
        Direct(DIGITS).begin(engine, CHAIN).outcome()


def test_the_command_line_votes_and_shows_the_winner_alone(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperature", "0.7", "--energy-source", "estimate", CHAIN]
    status, out, err = run_cli(capsys, "--strategy", "vote", "--samples", "5", *options)
    assert status == 0
    assert out.count("</think>") == 1
    assert out.endswith("70\n")
    assert "vote: 5 samples" in err
    _, out, _ = run_cli(capsys, "--json", "--quiet", *options)
    plain = json.loads(out)
    assert (plain["strategy"], plain["samples"], plain["answer"]) == ("cot", None, "70")
    choices = ["--strategy", "vote", "--choices", ",".join(DIGITS), "--energy-source", "estimate", CHAIN]
    _, out, _ = run_cli(capsys, "--json", "--quiet", *choices)
    found = json.loads(out)
    assert len(found["samples"]) == 16
    assert list(found["votes"].values()) == [16], "at temperature 0 every draw is the likeliest choice"


def test_prompts_of_a_file_are_voted_on_one_by_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (CHAIN, "3+4=")))
    options = ["--strategy", "best-of-n", "--samples", "3", "--temperature", "0.5", "--quiet"]
    status, out, _ = run_cli(capsys, "--prompts", str(prompts), *options, "--energy-source", "estimate")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(one["strategy"], len(one["samples"])) for one in found] == [("best-of-n", 3)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "vote"], "temperature 0"),
        (["--strategy", "guess"], "unknown strategy 'guess'; there are direct, cot, vote, best-of-n"),
        (["--samples", "4"], "go with --strategy"),
        (["--strategy", "cot", "--samples", "4"], "cot takes no samples"),
        (["--strategy", "cot", "--choices", "A,B"], "cot takes no choices"),
        (["--strategy", "best-of-n", "--vote-until", "all"], "takes no end of the vote"),
        (["--strategy", "vote", "--samples", "40"], "1 to 16"),
        (["--strategy", "vote", "--vote-until", "price"], "price per joule"),
        (["--strategy", "direct", "--choices", ""], "--choices needs answers"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Before a model is loaded: --quiet leaves the complaint alone on stderr."""
    status, _, complaint = run_cli(capsys, *arguments, "--quiet", "--model", "nowhere", CHAIN)
    assert status == 2
    assert message in complaint
    assert complaint.count("\n") == 1
