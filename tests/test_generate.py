"""The command line: what goes to which stream, what the JSON promises, and how bad input ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.energy.estimate import CpuEstimateMeter
from engine.errors import MeterError
from tests.cli import PROMPT, run

ROOT = Path(__file__).parents[1]


def test_the_bundled_model_thinks_answers_and_counts_joules(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, PROMPT, "--budget-joules", "400")
    assert status == 0
    assert out.endswith("</think><answer>70\n")
    assert "47+35=82" in out
    assert "NOT MEASURED" in err
    assert "stop: eos" in err
    assert "budget: 400 J" in err


def test_json_is_one_object_that_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, PROMPT, "--json", "--budget-joules", "400")
    assert status == 0
    [line] = out.splitlines()
    found = json.loads(line)
    assert found["schema"] == "tokenjoule.generation/1"
    assert found["answer"] == "70"
    assert found["stop"]["reason"] == "eos"
    assert not found["stop"]["forced_answer"]
    energy = found["energy"]
    phases = energy["phases"]
    assert set(phases) == {"prefill", "think", "answer"}
    total = sum(phase["energy_j"] for phase in phases.values()) + energy["unattributed_j"]
    assert total == pytest.approx(energy["total_j"], abs=1e-6)
    assert not energy["measured"]
    assert energy["complete"]
    assert energy["setup_j"] > 0
    assert len(energy["per_token_j"]) == found["new_tokens"] == len(found["token_ids"])
    assert energy["per_token_j"][0] is None
    assert sum(energy["per_token_j"][1:]) == pytest.approx(
        phases["think"]["energy_j"] + phases["answer"]["energy_j"], abs=1e-6
    )
    assert phases["prefill"]["tokens"] == found["prompt_tokens"]
    assert phases["think"]["tokens"] + phases["answer"]["tokens"] == found["new_tokens"]
    budget = found["budget"]
    assert budget["joules"] == 400
    assert budget["overshoot_j"] == 0
    assert 0 < budget["spent_j"] <= energy["total_j"]
    assert found["timing"]["decode_tokens_per_s"] > 0


def test_quiet_and_json_keep_the_streams_clean(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, PROMPT, "--quiet")
    assert (status, err) == (0, "")
    _, out_json, _ = run(capsys, PROMPT, "--quiet", "--json")
    assert json.loads(out_json)["text"] + "\n" == out


def test_a_token_budget_forces_an_answer_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys, PROMPT, "--json", "--budget-tokens", "5", "--answer-tokens", "4")
    found = json.loads(out)
    assert found["stop"]["reason"] == "token_budget"
    assert found["stop"]["policy"] == "TokenBudget"
    assert found["stop"]["forced_answer"]
    assert found["stop"]["answer_end"] == "eos"
    assert found["text"].startswith("47+35</think><answer>")
    assert found["answer"].isdigit()
    assert "answer forced" in err


def test_a_joule_budget_cuts_the_thinking_short(capsys: pytest.CaptureFixture[str]) -> None:
    """With a simulated device the joules do not depend on how busy this machine is: 350 W decode, fresh."""
    _, out, _ = run(capsys, PROMPT, "--json", "--budget-steps", "1")
    found = json.loads(out)
    assert found["stop"] == {
        "reason": "policy",
        "policy": "StepBudget",
        "forced_answer": True,
        "answer_end": "eos",
        "policies": [{"name": "StepBudget", "parameters": {"steps": 1}, "description": ""}],
        "probes": 0,
        "probe_j": 0.0,
        "probes_ridden": 0,
        "probe_mode": "truncate",
    }
    assert found["text"].startswith("47+35=82\n</think><answer>")
    full = json.loads(run(capsys, PROMPT, "--json")[1])
    spent_j = full["energy"]["total_j"]
    _, out, _ = run(
        capsys, PROMPT, "--json", "--answer-tokens", "4", "--budget-joules", f"{spent_j * 0.6:.6f}"
    )
    cut = json.loads(out)
    if cut["stop"]["reason"] == "joule_budget":  # unless this machine was much busier a moment ago
        assert cut["stop"]["forced_answer"]
        assert cut["budget"]["reserve_j"] > 0
        assert cut["answer"] is not None


def test_a_simulated_device_says_that_it_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"idle_w": 50, "period_s": 0.02, "lag_s": 0.004}')
    status, out, err = run(capsys, PROMPT, "--json", "--energy-source", f"simulated:{profile}")
    found = json.loads(out)
    assert status == 0
    assert found["energy"]["source"] == "simulated"
    assert not found["energy"]["measured"]
    assert found["energy"]["tick_ms"] == pytest.approx(20, rel=0.2)
    assert found["energy"]["uncertainty_j"] > 0.05 * found["energy"]["total_j"] - 1e-9
    assert "NOT MEASURED" in err


def test_a_trace_holds_every_step_and_replays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    _, out, _ = run(capsys, PROMPT, "--json", "--trace", str(trace))
    found = json.loads(out)
    events = [json.loads(line) for line in trace.read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    forwards = [event for event in events if event["event"] == "forward"]
    readings = [event for event in events if event["event"] == "reading"]
    assert [step["token_id"] for step in steps] == found["token_ids"]
    assert len(forwards) == found["new_tokens"], "one prefill and N-1 decodes"
    assert readings[-1]["energy_uj"] - readings[0]["energy_uj"] == round(found["energy"]["total_j"] * 1e6)
    spent = [step["spent_j"] for step in steps]
    assert spent == sorted(spent)
    assert events[-1]["result"] == found
    out = run(capsys, "1+1=", "--json", "--energy-source", f"replay:{trace}")[1]
    assert json.loads(out)["energy"]["source"] == "replay"


def test_a_meter_that_fails_in_mid_run_leaves_the_text_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import engine.energy.estimate as estimate\n"
        "from engine.errors import MeterError\n"
        "from engine.stop import Policy\n"
        "def gone(self): raise MeterError('the sensor is gone')\n"
        "class Unplug(Policy):\n"
        "    def on_token(self, step):\n"
        "        if step.index == 9: estimate.CpuEstimateMeter.read = gone\n"
    )
    monkeypatch.setattr(CpuEstimateMeter, "read", CpuEstimateMeter.read)  # put back afterwards
    arguments = ("--json", "--energy-source", "estimate", "--budget-joules", "500")
    status, out, err = run(capsys, PROMPT, *arguments, "--stop", f"{file}:Unplug")
    found = json.loads(out)
    assert status == 0
    assert found["answer"] == "70"
    assert not found["energy"]["complete"]
    assert "the sensor is gone" in found["energy"]["problem"]
    assert "ENERGY INCOMPLETE" in err
    known = [j is not None for j in found["energy"]["per_token_j"]]
    assert known[1:9] == [True] * 8
    assert not any(known[10:])


def test_a_full_disk_costs_the_trace_not_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    status, out, err = run(capsys, PROMPT, "--json", "--quiet", "--trace", "/dev/full")
    assert status == 1
    assert json.loads(out)["answer"] == "70"
    assert "cannot write /dev/full" in err


def test_a_plot_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "joules.png"
    status, _, _ = run(capsys, PROMPT, "--quiet", "--plot", str(picture), "--budget-joules", "100")
    assert status == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_prompts_are_resumed_where_they_ended(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "1+2="}\n\n{"prompt": "3+4=", "id": "second"}\n{"prompt": "5+6="}\n')
    arguments = ("--prompts", str(prompts), "--output", str(results), "--quiet")
    assert run(capsys, *arguments)[:2] == (0, "")
    lines = results.read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, "second", 2]
    assert all(json.loads(line)["answer"].isdigit() for line in lines)
    # A kill in the middle of the second line: it is done again, the first is not.
    results.write_text(lines[0] + "\n" + lines[1][:50])
    assert run(capsys, *arguments)[0] == 0
    again = results.read_text().splitlines()
    assert again[0] == lines[0]
    assert [json.loads(line)["id"] for line in again] == [0, "second", 2]
    before = results.read_bytes()
    assert run(capsys, *arguments)[0] == 0
    assert results.read_bytes() == before


def test_a_required_measurement_that_fails_is_run_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --require-measured an incomplete account is a failed line, which the next run takes up again."""

    def breaks(meter: CpuEstimateMeter) -> None:
        raise MeterError("the sensor is gone")

    file = tmp_path / "mine.py"
    file.write_text(
        "import engine.energy.estimate as estimate\n"
        "from engine.stop import Policy\n"
        "class Unplug(Policy):\n"
        "    def on_token(self, step): estimate.CpuEstimateMeter.read = estimate.CpuEstimateMeter.breaks\n"
    )
    monkeypatch.setattr(CpuEstimateMeter, "read", CpuEstimateMeter.read)
    monkeypatch.setattr(CpuEstimateMeter, "breaks", breaks, raising=False)
    monkeypatch.setattr(CpuEstimateMeter, "measured", True)
    prompts, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "47+35="}\n')
    arguments = ("--prompts", str(prompts), "--output", str(results), "--quiet", "--require-measured")
    source = ("--energy-source", "estimate")
    assert run(capsys, *arguments, *source, "--stop", f"{file}:Unplug")[0] == 1
    monkeypatch.undo()
    monkeypatch.setattr(CpuEstimateMeter, "measured", True)
    assert run(capsys, *arguments, *source)[0] == 0
    first, second = map(json.loads, results.read_text().splitlines())
    assert "the sensor is gone" in first["error"]
    assert first["answer"] == second["answer"] == "82"
    assert second["error"] is None


def test_one_bad_prompt_does_not_stop_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text(json.dumps({"prompt": "1" * 300}) + '\n{"prompt": "1+2="}\n')
    status, out, err = run(capsys, "--prompts", str(prompts), "--quiet")
    first, second = map(json.loads, out.splitlines())
    assert status == 1
    assert "context of 256" in first["error"]
    assert second["answer"].isdigit()
    assert "prompt 0" in err


BAD_LINES = [
    '{"prompt": ""}',
    '{"text": "x"}',
    "[1]",
    "{",
    '{"prompt": "a", "temperature": 1}',
    '{"prompt": 5}',
]


def test_two_processes_do_not_write_the_same_results(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "1+2="}\n')
    arguments = ("--prompts", str(prompts), "--output", str(results), "--quiet")
    with open(results, "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        status, _, err = run(capsys, *arguments)
    assert status == 1 and "by another process" in err and results.read_text() == ""
    assert run(capsys, *arguments)[0] == 0 and len(results.read_text().splitlines()) == 1


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_wrong_line_of_prompts_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    prompts = tmp_path / "in.jsonl"
    prompts.write_text('{"prompt": "1+1="}\n' + line + "\n")
    status, _, err = run(capsys, "--prompts", str(prompts), "--quiet")
    assert status == 1
    assert f"{prompts}, line 2" in err


def test_a_policy_from_a_file_steers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from engine.steps import Stop\n"
        "from engine.stop import Policy\n"
        "class Third(Policy):\n"
        "    def on_token(self, step):\n"
        "        return Stop() if step.index == 2 else None\n"
        "class Broken(Policy):\n"
        "    def on_token(self, step):\n"
        "        return 1 / (5 - step.index) and None\n"
    )
    _, out, _ = run(capsys, PROMPT, "--json", "--stop", f"{file}:Third")
    assert json.loads(out)["text"].startswith("47+</think><answer>")
    assert json.loads(out)["stop"]["policy"] == "Third"
    status, out, err = run(capsys, PROMPT, "--stop", f"{file}:Broken")
    assert status == 1
    assert out == "47+35=\n", "what was there before the policy failed is kept"
    assert "Broken failed: ZeroDivisionError" in err


def test_ctrl_c_keeps_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from engine.stop import Policy\n"
        "class Interrupt(Policy):\n"
        "    def on_token(self, step):\n"
        "        if step.index == 4: raise KeyboardInterrupt\n"
    )
    status, out, _ = run(capsys, PROMPT, "--json", "--stop", f"{file}:Interrupt")
    assert status == 130
    found = json.loads(out)
    assert found["stop"]["reason"] == "cancelled"
    assert found["text"] == "47+35"
    assert found["energy"]["complete"]


def start(*argv: str, stdout: int | None = subprocess.PIPE) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "engine.generate", *argv],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell lets what it runs in the background ignore Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_closed_pipe_is_quiet() -> None:
    """`… | head -c 1`: the reader goes away while the answer streams."""
    process = start(PROMPT, "--quiet")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert err == ""
    assert process.returncode == 141


def test_a_real_sigint_ends_a_run_with_130() -> None:
    arguments = (*("--temperature", "3"), "--ignore-eos", "--energy-source", "simulated")
    process = start("1+1=", "--model", "preset:qwen2.5-0.5b", "--random-weights", "--json", *arguments)
    assert process.stderr is not None
    for line in process.stderr:  # the run has begun once joules are shown
        if " tokens · " in line:
            break
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["stop"]["reason"] == "cancelled"
    assert found["model"]["shape_only"]
    assert 0 < found["new_tokens"] < 512
