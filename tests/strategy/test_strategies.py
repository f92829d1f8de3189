"""Strategies on the bundled model: what each computes, what it chooses, and what it costs."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.energy.forecast import Forecast
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.result import Generation
from engine.steps import EnergySoFar, Phase, Step, StopReason
from engine.strategy import BestOfN, Cot, Direct, Outcome, Vote, run
from engine.strategy.ballot import POINTS, expected_gain
from engine.strategy.likelihood import Likelihood
from engine.strategy.samples import Samples, as_written
from engine.strategy.vote import Until, Watch
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


class Scripted:
    """A session whose rows answer what they are told to, for `Watch` alone."""

    def __init__(self, answers: Sequence[str], at_once: int) -> None:
        self.answers, self.rows_at_once, self.cancelled = answers, at_once, set[int]()
        self.over: dict[int, StopReason] = {}

    def answer(self, row: int) -> str:
        return self.answers[row]

    def ended(self, row: int) -> StopReason | None:
        return self.over.get(row)

    def cancel(self, rows: set[int]) -> None:
        self.cancelled |= rows


def watched(
    vote: Vote,
    answers: Sequence[str],
    spent_j: Sequence[float],
    budget_j: float | None,
    *,
    at_once: int | None = None,
) -> Any:
    """(rows cancelled, why) when rows end one after the other, with so many joules spent by then.

    `at_once`: fewer rows begin together than the vote would have.
    """
    waves = vote.until in (Until.POSTERIOR, Until.UNANIMOUS, Until.PRICE)
    session: Any = Scripted(answers, at_once or (vote.wave if waves else vote.samples))
    watch = Watch(vote, Samples(session, Likelihood(), as_written, vote.samples))
    for row, joules in [(-1, spent_j[0]), *enumerate(spent_j[1:])]:
        if row in session.cancelled:
            break
        ended = None if row < 0 else StopReason.EOS
        if ended is not None:
            session.over[row] = ended
        spent = EnergySoFar(joules, None, joules)
        step = Step(max(row, 0), 0, 0, "", Phase.ANSWER, 1, stop=ended)
        step._energy, step._budget_j = partial(lambda so_far: so_far, spent), budget_j
        watch(step)
    return session.cancelled, watch.ended


def test_an_answer_that_the_budget_cut_in_the_middle_is_no_vote() -> None:
    ends = [StopReason.EOS, StopReason.JOULE_BUDGET, StopReason.MAX_TOKENS]
    session: Any = SimpleNamespace(
        ended=lambda row: ends[row], answer=lambda row: ["70", "7", "70"][row], rows_at_once=3
    )
    rows = Samples(session, Likelihood(), as_written, 3)
    assert not rows.catch_up(Step(0, 0, 0, "", Phase.ANSWER, 3)), "no other wave waits"
    assert rows.answers == {0: "70", 1: None, 2: "70"}


def test_no_wave_begins_that_the_budget_may_not_hold() -> None:
    """The prefill took 7 J, which no further wave will take; two rows 2 J each."""
    vote = Vote(8, until=Until.UNANIMOUS, wave=2)
    spent_j = [7, 9, 11, 13, 15, 17, 19, 21, 23]
    assert watched(vote, "abcdefgh", spent_j, None) == (set(), "all samples were drawn")
    assert watched(vote, "abcdefgh", spent_j, 15.0)[0] == {2 + 2, 5, 6, 7}
    assert watched(vote, "abcdefgh", spent_j, 14.9)[0] == {2, 3, 4, 5, 6, 7}
    assert watched(vote, "abcdefgh", spent_j, 14.9)[1].startswith("budget")


def test_samples_that_a_budget_held_back_begin_only_if_another_wave_fits() -> None:
    """Two at a time because of a budget, 2 J each; whatever else ends the vote."""
    spent_j = [7, 9, 11, 13, 15, 17, 19, 21, 23]
    for until in (Until.ALL, Until.DECIDED):
        cancelled, why = watched(Vote(8, until=until), "abcdefgh", spent_j, 15.0, at_once=2)
        assert cancelled == {4, 5, 6, 7}
        assert why == "budget: 4 of 8 samples; another wave may not fit in it"
        assert watched(Vote(8, until=until), "abcdefgh", spent_j, 99.0, at_once=2)[0] == set()


def test_one_sample_alone_is_not_unanimous() -> None:
    vote = Vote(8, until=Until.UNANIMOUS)
    assert watched(vote, "aaaaaaaa", [0.0] * 9, 99.0, at_once=1)[0] == {4, 5, 6, 7}


@pytest.mark.parametrize("strategy", [Vote(16, until=Until.ALL), Vote(16), BestOfN(16)])
def test_a_budget_begins_no_more_samples_than_it_holds_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    asked: list[tuple[Sequence[int], Sequence[int], int]] = []

    def rows_held(self: Forecast, budget_j: float, *given: Any) -> int:
        asked.append(given)
        return 2

    monkeypatch.setattr(Forecast, "rows_held", rows_held)
    outcome = run(engine, CHAIN, strategy, budget_joules=1e9, **EASY)
    prompt, answer = len(engine.encode(CHAIN)), 18  # closer, prefix and 16 tokens
    assert asked == [([prompt], [prompt] * 16, answer)], "one prefill for all rows"
    assert len(outcome.samples or ()) > 2, "there was enough for further waves"
    monkeypatch.setattr(Step, "budget_left_j", lambda step: 0.0)
    outcome = run(engine, CHAIN, strategy, budget_joules=1e9, **EASY)
    assert len(outcome.samples or ()) == 2
    assert outcome.ended == "budget: 2 of 16 samples; another wave may not fit in it"
    assert outcome.answer == "70"


def test_without_a_budget_all_samples_begin_together(engine: Engine) -> None:
    assert BestOfN(16).begin(engine, CHAIN, **EASY).session.rows_at_once == 16
    assert Vote(16).begin(engine, CHAIN, budget_joules=1e12, **EASY).session.rows_at_once == 16


def test_a_wave_is_priced_by_what_its_samples_took() -> None:
    vote = Vote(8, until=Until.PRICE, wave=2, price_joules=1.0)
    gain = max(POINTS * expected_gain([1, 1], more) / more for more in range(1, 7))  # points a sample
    for cost_j, drawn in ((gain * 0.99, 4), (gain * 1.01, 2)):
        spent_j = [100 + cost_j * ended for ended in range(4)]
        cancelled, why = watched(vote, "ababcccc", [*spent_j, *[1e9] * 5], None)  # the second wave is dear
        assert len(cancelled) == 8 - drawn
        assert why.startswith("price")


@pytest.mark.parametrize(
    ("answers", "cancelled"), [("aaaaazzz", {5, 6, 7}), ("ababaaaa", {7}), ("abababab", set())]
)
def test_rows_are_cancelled_at_the_very_vote_that_decides(answers: str, cancelled: set[int]) -> None:
    found, why = watched(Vote(8), answers, [0.0] * 9, None)
    assert found == cancelled
    assert why.startswith("decided" if cancelled else "all")
    assert watched(Vote(8, until=Until.ALL), answers, [0.0] * 9, None)[0] == set()


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
