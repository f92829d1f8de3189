"""Stop policies, probes, temperatures and categories on the command line."""

import json
from pathlib import Path

import pytest

from tests.cli import PROMPT, run


def test_a_stop_policy_by_name_steers_and_is_in_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--stop", "confidence:threshold=0.5", "--probe-share", "1", "--probe-mode", "piggyback")
    _, out, _ = run(capsys, PROMPT, "--json", "--backend", "cpu", *arguments)
    stop = json.loads(out)["stop"]
    assert stop["policy"] == "AnswerConfidence"
    assert stop["policies"][0]["parameters"] == {
        "threshold": 0.5,
        "choices": "",
        "every": None,
        "probe_share": 1.0,
    }
    assert stop["probes"] == stop["probes_ridden"] >= 1
    assert stop["probe_j"] > 0
    assert stop["probe_mode"] == "piggyback"


def test_auto_says_what_it_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys, PROMPT, "--json", "--stop", "auto", "--price-joules", "0.5")
    [used] = json.loads(out)["stop"]["policies"]
    assert (used["name"], used["parameters"]["probe_share"]) == ("AnswerStability", 0.05)
    assert used["description"].startswith("auto: answer stability")
    assert f"AnswerStability: {used['description']}" in err


def test_what_cannot_ride_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--backend", "torch", "--stop", "stability", "--probe-mode", "piggyback")
    _, _, err = run(capsys, PROMPT, "--json", *arguments)
    assert "probes: truncate: rows of the torch backend change with their number" in err


def test_thoughts_and_answers_have_a_temperature_each(capsys: pytest.CaptureFixture[str]) -> None:
    def answers(*arguments: str) -> set[str]:
        seeds = (("--seed", str(seed)) for seed in range(4))
        runs = [
            run(capsys, PROMPT, "--json", "--stop", "token:tokens=9", "--temperature", "3", *s, *arguments)
            for s in seeds
        ]
        found = [json.loads(out) for _, out, _ in runs]
        thoughts = {result["text"].partition("</think>")[0] for result in found}
        assert len(thoughts) > 1, "the thoughts are sampled"
        return {(result["text"].partition("</think>")[0], result["answer"]) for result in found}

    sampled, greedy = answers(), answers("--answer-temperature", "0")
    assert {thought for thought, _ in sampled} == {thought for thought, _ in greedy}
    assert sampled != greedy


def test_the_category_of_a_prompt_reaches_the_policy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, prompts = tmp_path / "mine.py", tmp_path / "prompts.jsonl"
    file.write_text(
        "from engine.steps import Stop\n"
        "from engine.stop import Policy\n"
        "class Named(Policy):\n"
        "    def reset(self, context):\n"
        "        self.category = context.category\n"
        "    def on_token(self, step):\n"
        "        return Stop()\n"
    )
    prompts.write_text('{"prompt": "1+1=", "category": "recall"}\n{"prompt": "2+1="}\n')
    options = ("--category", "chain", "--stop", f"{file}:Named", "--quiet")
    _, out, _ = run(capsys, "--prompts", str(prompts), *options)
    found = [json.loads(line) for line in out.splitlines()]
    assert [result["category"] for result in found] == ["recall", "chain"]
    used = [result["stop"]["policies"][0]["parameters"]["category"] for result in found]
    assert used == ["recall", "chain"]
    prompts.write_text('{"prompt": "1+1=", "category": 3}\n')
    status, _, err = run(capsys, "--prompts", str(prompts), "--quiet")
    assert status == 1
    assert "category must be a string" in err


@pytest.mark.parametrize("mode", ["truncate", "piggyback"])
def test_the_forwards_of_a_trace_hold_the_joules_of_probes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, mode: str
) -> None:
    trace = tmp_path / "trace.jsonl"
    asked = ("--stop", "stability", "--probe-share", "1", "--probe-mode", mode)
    _, out, _ = run(capsys, PROMPT, "--json", "--backend", "cpu", "--trace", str(trace), *asked)
    result = json.loads(out)
    phases, timing = result["energy"]["phases"], result["timing"]
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    forwards = [event for event in events if event["event"] == "forward"]
    assert phases["probe"]["energy_j"] > 0
    decoded_j = sum(phase["energy_j"] for name, phase in phases.items() if name != "prefill")
    found_j = sum(event["energy_j"] or 0 for event in forwards if event["kind"] == "decode")
    assert found_j == pytest.approx(decoded_j, abs=1e-5)
    stepped = [[phase for _, phase, _ in event["rows"]] for event in forwards if event["kind"] == "decode"]
    own = sum("probe" not in phase for phases_of in stepped for phase in phases_of)
    assert round(timing["decode_tokens_per_s"] * timing["decode_s"]) == own, "probes are no tokens"
