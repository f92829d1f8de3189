"""Bad input ends in one clear line on stderr, nothing on stdout, and a status that is not 0."""

import json
import shutil
from pathlib import Path

import pytest

from engine.locate import BUNDLED
from tests import tiny
from tests.cli import PROMPT, run


def bad_checkpoint(tmp_path: Path, spoil: str) -> Path:
    """A copy of the bundled model with one thing wrong."""
    directory = tmp_path / "model"
    shutil.copytree(BUNDLED, directory)
    if spoil == "config":
        (directory / "config.json").unlink()
    elif spoil == "weights":
        (directory / "model.safetensors").unlink()
    elif spoil == "truncated":
        raw = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    elif spoil == "tokenizer":
        (directory / "tokenizer.json").unlink()
    elif spoil == "architecture":
        _change(directory, architectures=["FalconForCausalLM"])
    elif spoil == "rope":
        _change(directory, rope_parameters={"rope_type": "su", "rope_theta": 10000.0})
    elif spoil == "shape":
        _change(directory, intermediate_size=100)
    return directory


def _change(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("config", "has no config.json"),
        ("weights", "has no model.safetensors"),
        ("truncated", "not a complete safetensors file"),
        ("tokenizer", "has no tokenizer.json"),
        ("architecture", "FalconForCausalLM"),
        ("rope", "rope type 'su'"),
        ("shape", "expected [100, 128]"),
    ],
)
def test_bad_checkpoints_get_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, spoil: str, message: str
) -> None:
    status, out, err = run(capsys, "--model", str(bad_checkpoint(tmp_path, spoil)), PROMPT, "--quiet")
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert message in line


def test_a_missing_shard_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny.write(tmp_path, "llama-gqa", shards=True)
    shutil.copy(BUNDLED / "tokenizer.json", tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    status, _, err = run(capsys, "--model", str(tmp_path), PROMPT)
    assert status == 1
    assert "lacks the shard model-00001" in err


LONG = "1+" * 200 + "1="


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        ([], 2, "exactly one of a prompt"),
        (["a", "--prompt-file", "b"], 2, "exactly one of a prompt"),
        ([""], 2, "the prompt is empty"),
        (["  \n"], 2, "the prompt is empty"),
        ([PROMPT, "--model", "/no/such/place"], 1, "no such directory"),
        ([PROMPT, "--model", "preset:gpt-9"], 2, "unknown preset"),
        ([PROMPT, "--model", "preset:llama-3.2-1b"], 2, "--random-weights"),
        ([PROMPT, "--model", "preset:llama-3.1-70b", "--random-weights"], 1, "GB of memory are free"),
        ([LONG], 1, "context of 256"),
        (["--prompt-file", "/no/such/file"], 1, "cannot read /no/such/file"),
        ([PROMPT, "--budget-joules", "0"], 2, "positive"),
        ([PROMPT, "--budget-joules", "-3"], 2, "positive"),
        ([PROMPT, "--budget-joules", "lots"], 2, "'lots'"),
        ([PROMPT, "--budget-joules", "nan"], 2, "positive"),
        ([PROMPT, "--budget-joules", "1e-9"], 1, "predicted minimum"),
        ([PROMPT, "--budget-tokens", "0"], 2, "at least 1"),
        ([PROMPT, "--max-new-tokens", "1.5"], 2, "whole number"),
        ([PROMPT, "--temperature", "-1"], 2, "temperature"),
        ([PROMPT, "--temperature", "1e-40"], 2, "temperature"),
        ([PROMPT, "--max-new-tokens", "²"], 2, "whole number"),
        ([PROMPT, "--device", "²"], 2, "CUDA index"),
        ([PROMPT, "--seed", "-1"], 2, "seed"),
        ([PROMPT, "--top-k", "5"], 2, "--top-k has no meaning"),
        ([PROMPT, "--top-p", "0.5", "--answer-temperature", "0"], 2, "--top-p has no meaning"),
        (["--prompts", "/no/such/file", "--model", "/no/such/place"], 1, "cannot read /no/such/file"),
        ([PROMPT, "--plot", "picture"], 2, ".png"),
        ([PROMPT, "--trace", ""], 2, "name of a file"),
        (["--prompts", ""], 2, "name of a file"),
        ([PROMPT, "--max-new-tokens", "9" * 5000], 2, "whole number"),
        ([PROMPT, "--backend", "gpu"], 1, "backend gpu"),
        ([PROMPT, "--device", "cuda"], 2, "CUDA index"),
        ([PROMPT, "--energy-source", "sunshine"], 2, "unknown energy source"),
        ([PROMPT, "--energy-source", "replay:/no/such"], 2, "/no/such"),
        ([PROMPT, "--require-measured", "--energy-source", "estimate"], 1, "measured energy source"),
        ([PROMPT, "--trace", "/no/such/place/trace"], 1, "cannot write"),
        ([PROMPT, "--plot", "/no/such/place/p.png"], 1, "cannot write"),
        ([PROMPT, "--output", "x"], 2, "--output goes with --prompts"),
        ([PROMPT, "--system", "x"], 2, "--system goes with --chat"),
        ([PROMPT, "--chat"], 1, "chat template"),
        ([PROMPT, "--stop", "never.py:Policy"], 2, "no file never.py"),
        ([PROMPT, "--stop", "sunshine"], 2, "known: auto, none, token, step, confidence"),
        ([PROMPT, "--stop", "confidence:threshold=2"], 2, "must lie in"),
        ([PROMPT, "--stop", "token"], 2, "missing a required argument: 'tokens'"),
        ([PROMPT, "--price-joules", "-1"], 2, "a price must be"),
        ([PROMPT, "--price-joules", "1"], 2, "no stop policy here weighs it"),
        ([PROMPT, "--probe-share", "1.5"], 2, "share in (0, 1]"),
        ([PROMPT, "--probe-mode", "sideways"], 2, "--probe-mode"),
        ([PROMPT, "--answer-temperature", "-1"], 2, "answer temperature"),
        ([PROMPT, "--no-such-flag"], 2, "--no-such-flag"),
        ([PROMPT, "--max-new", "3"], 2, "--max-new"),
        ([PROMPT, "--prompts", "/no/such.jsonl"], 2, "exactly one"),
        (["--prompts", "/no/such.jsonl"], 1, "cannot read"),
    ],
)
def test_bad_input_gets_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], argv: list[str], status: int, message: str
) -> None:
    found, out, err = run(capsys, *argv, "--quiet")
    assert (found, out) == (status, "")
    [line] = err.splitlines()
    assert line.startswith("tokenjoule: ")
    assert message in line


def test_gpu_sources_need_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    status, _, err = run(capsys, PROMPT, "--energy-source", "nvml", "--quiet")
    assert status == 1
    assert "nvml" in err
    status, _, err = run(capsys, PROMPT, "--device", "0", "--quiet")
    assert status == 1
    assert "there is no CUDA device" in err


def test_a_prompt_file_must_be_utf8(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"1+1\xff=")
    status, _, err = run(capsys, "--prompt-file", str(file), "--quiet")
    assert status == 1
    assert "not valid UTF-8: byte 3" in err
    file.write_bytes(b"1+1=")
    assert run(capsys, "--prompt-file", str(file), "--quiet")[0] == 0


DEEP = "[" * 200_000


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_absurdly_deep_json_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    directory = bad_checkpoint(tmp_path, "nothing")
    (directory / name).write_text(DEEP)
    status, out, err = run(capsys, "--model", str(directory), PROMPT, "--quiet")
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert name in line


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": 5},
        {"layer_types": [["a"]]},
        {"max_window_layers": "x"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": "a"}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "attention_factor": []}},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": {"rope_type": "linear", "factor": float("nan")}},
        {"rope_parameters": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": "x"}},
        {"rms_norm_eps": float("nan")},
        {"rope_parameters": {"rope_theta": float("inf")}},
    ],
)
def test_wrong_types_in_a_config_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, object]
) -> None:
    tiny.write(tmp_path, "qwen2")
    shutil.copy(BUNDLED / "tokenizer.json", tmp_path)
    _change(tmp_path, **change)
    if "max_window_layers" in change:
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        del config["layer_types"]
        path.write_text(json.dumps(config))
    capsys.readouterr()  # transformers' own progress
    status, out, err = run(capsys, "--model", str(tmp_path), PROMPT, "--quiet")
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert "config.json: " in line


def test_an_index_of_numbers_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory = bad_checkpoint(tmp_path, "nothing")
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": 5}}')
    status, _, err = run(capsys, "--model", str(directory), PROMPT, "--quiet")
    assert status == 1
    assert "has no weight_map" in err


def test_no_file_serves_twice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A trace over the prompts, the results or the recording would destroy them."""
    precious = tmp_path / "precious.jsonl"
    precious.write_text('{"prompt": "1+1=", "id": "a"}\n')
    same = str(precious)
    for argv in (
        ["--prompts", same, "--trace", same],
        ["--prompts", same, "--output", same],
        [PROMPT, "--energy-source", f"replay:{same}", "--trace", same],
        ["--prompt-file", same, "--plot", str(tmp_path / "x" / ".." / "precious.jsonl")],
    ):
        status, out, err = run(capsys, *argv, "--quiet")
        assert (status, out) == (2, "")
        assert "are the same file" in err
        assert precious.read_text() == '{"prompt": "1+1=", "id": "a"}\n'


def test_inputs_of_every_kind_are_safe_from_outputs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy, profile, text = tmp_path / "p.py", tmp_path / "s.json", tmp_path / "q.txt"
    policy.write_text("policy")
    profile.write_text("{}")
    text.write_text(PROMPT)
    (tmp_path / "linked.txt").hardlink_to(text)
    for argv in (
        [PROMPT, "--stop", f"{policy}:P", "--trace", str(policy)],
        [PROMPT, "--energy-source", f"simulated:{profile}", "--trace", str(profile)],
        ["--prompt-file", str(text), "--trace", str(tmp_path / "linked.txt")],
    ):
        status, _, err = run(capsys, *argv, "--quiet")
        assert status == 2
        assert "are the same file" in err
    assert (policy.read_text(), profile.read_text(), text.read_text()) == ("policy", "{}", PROMPT)


def test_a_refused_run_leaves_an_old_trace_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text("old\n")
    for argv in (["--temperature", "-1"], ["--model", "/no/such/model"], ["--energy-source", "sun"]):
        assert run(capsys, PROMPT, "--trace", str(trace), "--quiet", *argv)[0] != 0
    assert trace.read_text() == "old\n"


@pytest.mark.parametrize("content", ["single line no newline", "a\nb", '{"id": [1], "error": null}\n'])
def test_a_foreign_output_file_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    prompts, notes = tmp_path / "in.jsonl", tmp_path / "notes.txt"
    prompts.write_text('{"prompt": "1+1="}\n')
    notes.write_text(content)
    status, _, err = run(capsys, "--prompts", str(prompts), "--output", str(notes), "--quiet")
    assert status == 1
    assert "not a result of --prompts" in err
    assert notes.read_text() == content


@pytest.mark.parametrize(
    "body",
    [
        "return Inject(5)",
        "return Stop('x')",
        "return Probe(text=3)",
        "return True",
    ],
)
def test_a_policy_with_wrong_values_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, body: str
) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "from engine.steps import Inject, Probe, Stop\n"
        "from engine.stop import Policy\n"
        "class Odd(Policy):\n"
        "    needs = frozenset({'probe'})\n"
        f"    def on_token(self, step): {body}\n"
    )
    status, out, err = run(capsys, PROMPT, "--quiet", "--stop", f"{file}:Odd")
    assert status == 1
    assert out == "4\n", "the first token was there"
    [line] = err.splitlines()
    assert "Odd returned" in line


def test_a_policy_that_cannot_be_copied_or_served_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "import threading\n"
        "from engine.stop import Policy\n"
        "class Locked(Policy):\n"
        "    def __init__(self): self.lock = threading.Lock()\n"
        "class Deep(Policy):\n"
        "    needs = frozenset({'hidden:99'})\n"
    )
    for name, message in (("Locked", "cannot be copied"), ("Deep", "hidden:99")):
        status, out, err = run(capsys, PROMPT, "--quiet", "--stop", f"{file}:{name}")
        assert (status, out) == (2, "")
        [line] = err.splitlines()
        assert message in line


def test_replay_has_a_minimum_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    lines = [{"event": "reading", "time_s": i / 100, "energy_uj": i * 3_000_000} for i in range(3000)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (PROMPT, "--quiet", "--energy-source", f"replay:{log}")
    status, _, err = run(capsys, *arguments, "--budget-joules", "1e-6")
    assert status == 1
    assert "predicted minimum" in err
