"""Strategies that are ended from outside, or whose rows end where no token says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.engine import Engine
from engine.session import Session
from engine.steps import Step
from engine.stop import GiveUp
from engine.strategy import BestOfN, Vote, run
from engine.strategy.vote import Until
from tests.cli import run as run_cli
from tests.letters import CountedMeter

CHAIN = "47+35-18+6="
EASY: dict[str, Any] = {"temperature": 0.7, "seed": 5}
CHOICES = ("--strategy", "vote", "--choices", "1,2", "--temperature", "1")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(backend="cpu", meter=CountedMeter()) as loaded:  # type: ignore[arg-type]
        yield loaded


@pytest.mark.parametrize("strategy", [Vote(3), BestOfN(3)])
def test_cancelled_before_the_first_token_there_are_no_samples(engine: Engine, strategy: Any) -> None:
    attempt = strategy.begin(engine, CHAIN, **EASY)
    attempt.cancel()
    outcome = attempt.outcome()
    assert outcome.cancelled
    assert (outcome.answer, outcome.samples, outcome.ended) == (None, (), "cancelled")


@pytest.mark.parametrize("strategy", [Vote(3), BestOfN(3)])
def test_a_cancelled_outcome_does_not_say_that_all_was_drawn(engine: Engine, strategy: Any) -> None:
    attempt = strategy.begin(engine, CHAIN, **EASY)
    for step in attempt.steps():
        if step.index == 3:
            attempt.cancel()
    assert attempt.outcome().to_json()["sampling_ended"] == "cancelled"


def test_an_outcome_that_failed_does_not_say_that_all_was_drawn(engine: Engine) -> None:
    class Broken(GiveUp):
        def on_token(self, step: Any) -> None:
            raise RuntimeError("no more")

    outcome = run(engine, CHAIN, Vote(3), policies=[Broken(tokens=1)], **EASY)
    assert outcome.result.error is not None
    assert outcome.ended == "an error ended it"


@pytest.mark.parametrize("more", [("--strategy", "best-of-n", "--temperature", "1"), CHOICES])
def test_ctrl_c_before_the_first_token_is_cancelled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...]
) -> None:
    def interrupted(session: Session) -> Iterator[Step]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Session, "steps", interrupted)
    options = ("--energy-source", "estimate", "--quiet", *more)
    assert run_cli(capsys, *options, CHAIN)[0] == 130
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(f'{{"prompt": "{CHAIN}"}}\n{{"prompt": "1+1="}}\n')
    status, out, _ = run_cli(capsys, *options, "--prompts", str(prompts))
    assert (status, out) == (130, ""), "no line for what was cancelled, and no second prompt"


def test_rows_that_a_probe_ended_count_for_their_wave(engine: Engine) -> None:
    """Every row is given up by its first probe, behind a token that says nothing of it."""
    heard: list[tuple[int, int]] = []
    vote = Vote(4, until=Until.UNANIMOUS, wave=2)
    attempt = vote.begin(engine, CHAIN, policies=[GiveUp(steps=1, below=1.0)], **EASY)
    for step in attempt.steps():
        assert attempt._watch is not None
        heard.append((step.row, len(attempt._watch._rows.answers)))  # type: ignore[attr-defined]
    outcome = attempt.outcome()
    assert {sample.stop for sample in outcome.samples or ()} == {"give_up"}
    first_of_second_wave = next(ended for row, ended in heard if row >= 2)
    assert first_of_second_wave == 2


def test_draws_of_choices_follow_the_temperature_of_answers(engine: Engine) -> None:
    vote = Vote(16, tuple("0123456789"))
    outcome = run(engine, CHAIN, vote, temperature=2.0, answer_temperature=0.0)
    assert len(outcome.votes or ()) == 1
    assert outcome.temperature == 0.0
    assert len(run(engine, CHAIN, vote, temperature=2.0).votes or ()) > 1


def test_draws_from_one_forward_are_one_new_token(engine: Engine) -> None:
    found = run(engine, CHAIN, Vote(16, tuple("0123456789")), temperature=1.0).to_json()
    assert found["energy"]["joules_per_new_token"] == found["energy"]["window_j"] / found["new_tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CHOICES, "--max-new-tokens", "9"), "--max-new-tokens has no meaning with --choices"),
        ((*CHOICES, "--stop", "tail"), "--stop has no meaning with --choices"),
        (("--stop", "none", "--stop", "tail"), "--stop none goes with no other"),
        (("--strategy", "direct", "--stop", "tail"), "tail has nothing to end"),
        (("--strategy", "direct", "--budget-tokens", "3"), "a token budget has nothing to end"),
        (("--strategy", "direct", "--budget-steps", "3"), "a step budget has nothing to end"),
        (("--probe-share", "0.5"), "a probe share was given, and no stop policy here probes"),
        (("--probe-mode", "piggyback", "--stop", "tail"), "a way to probe was given, and no stop policy"),
        (("--strategy", "vote", "--temperature", "1", "--plot", "x.png"), "vote writes several"),
    ],
)
def test_what_would_be_ignored_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    status, _, complaint = run_cli(capsys, *arguments, "--quiet", "--energy-source", "estimate", CHAIN)
    assert status == 2
    assert message in complaint


@pytest.mark.parametrize(
    "change",
    [
        ("--temperature", "0.5"),
        ("--answer-temperature", "0.5"),
        ("--stop", "confidence"),
        ("--seed", "3"),
        ("--budget-tokens", "5"),
        ("--strategy", "direct"),
        ("--category", "chain"),
        ("--quantize", "int8"),
        ("--backend", "torch"),
    ],
)
def test_results_of_another_setting_are_not_continued(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: tuple[str, ...]
) -> None:
    prompts, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(f'{{"prompt": "{CHAIN}"}}\n')
    arguments = ("--prompts", str(prompts), "--output", str(results), "--quiet")
    assert run_cli(capsys, *arguments)[0] == 0
    before = results.read_bytes()
    status, _, complaint = run_cli(capsys, *arguments, *change)
    assert status == 2
    assert "another --output" in complaint and change[0][2:8] in complaint
    assert results.read_bytes() == before
    assert run_cli(capsys, *arguments)[0] == 0
    assert results.read_bytes() == before


def test_another_prompt_under_the_same_id_is_not_taken_for_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    arguments = ("--prompts", str(prompts), "--output", str(results), "--quiet")
    prompts.write_text(f'{{"prompt": "{CHAIN}", "id": "a"}}\n')
    assert run_cli(capsys, *arguments)[0] == 0
    prompts.write_text('{"prompt": "1+2=", "id": "a"}\n')
    status, _, complaint = run_cli(capsys, *arguments)
    assert status == 2 and "id 'a' was another prompt" in complaint
