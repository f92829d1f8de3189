"""What is refused of quantised models and of the command that makes them, and that command line."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import quantize as command
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.locate import BUNDLED
from engine.save import save_quantized
from tests.cli import PROMPT
from tests.cli import run as run_generate

FILE = "model.safetensors"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The bundled model in int8."""
    save_quantized(str(BUNDLED), tmp_path / "packed", "int8")
    return tmp_path / "packed"


def refusal(directory: Path, **options: Any) -> str:
    with pytest.raises(TokenjouleError) as caught:
        Engine.load(directory, backend="torch", energy_source="simulated", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stated(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what config.json says of the quantisation."""

    def spoil(directory: Path) -> None:
        path = directory / "config.json"
        raw = json.loads(path.read_text())
        change(raw["quantization_config"])
        path.write_text(json.dumps(raw))

    return spoil


def stored(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        tensors = load_file(directory / FILE)
        with safe_open(directory / FILE, framework="pt") as file:
            metadata = file.metadata()
        change(tensors)
        save_file(tensors, directory / FILE, metadata)

    return spoil


def narrower(directory: Path) -> None:
    """A feed-forward size whose matrices would be padded to the same words."""
    path = directory / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "intermediate_size": raw["intermediate_size"] - 2}))


def without_sizes(directory: Path) -> None:
    save_file(load_file(directory / FILE), directory / FILE)


def cut(directory: Path) -> None:
    raw = (directory / FILE).read_bytes()
    (directory / FILE).write_bytes(raw[: len(raw) // 2])


DOWN = "model.layers.1.mlp.down_proj"
SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "gptq": (stated(lambda q: q.update(quant_method="gptq")), "quantised by gptq is not supported"),
    "awq": (stated(lambda q: q.update(quant_method="awq")), "quantised by awq is not supported"),
    "bitsandbytes": (
        stated(lambda q: q.update(quant_method="bitsandbytes", load_in_4bit=True)),
        "quantised by bitsandbytes is not supported",
    ),
    "no method": (stated(lambda q: q.pop("quant_method")), "quantised by ? is not supported"),
    "version": (stated(lambda q: q.update(version=2)), "version 2; this engine reads 1"),
    "no version": (stated(lambda q: q.pop("version")), "version None"),
    "bits": (stated(lambda q: q["layers"].update(bits=3)), "layers: weights of 3 bits are not supported"),
    "group": (stated(lambda q: q["head"].update(group=48)), "head: groups of 48 columns are not supported"),
    "no group": (stated(lambda q: q["head"].pop("group")), "must be an object with bits and group"),
    "true": (stated(lambda q: q["head"].update(bits=True)), "must be whole numbers"),
    "extra key": (stated(lambda q: q.update(zero_points=True)), "unknown keys: zero_points"),
    "other bits": (stated(lambda q: q["layers"].update(bits=4)), "qkv_proj.words has shape"),
    "other group": (stated(lambda q: q["layers"].update(group=32)), "qkv_proj.scales has shape"),
    "words of int8": (
        stored(lambda t: t.update({f"{DOWN}.words": t[f"{DOWN}.words"].to(torch.int8)})),
        f"{DOWN}.words has dtype I8, expected I32",
    ),
    "scales of fp32": (
        stored(lambda t: t.update({f"{DOWN}.scales": t[f"{DOWN}.scales"].float()})),
        f"{DOWN}.scales has dtype F32, expected BF16",
    ),
    "missing": (stored(lambda t: t.pop(f"{DOWN}.scales")), f"lacks 1 tensors, the first is {DOWN}.scales"),
    "extra": (
        stored(lambda t: t.update({f"{DOWN}.bias": torch.zeros(128)})),
        f"does not have, the first is {DOWN}.bias",
    ),
    "unpacked head": (
        stored(lambda t: t.update({"lm_head.weight": torch.zeros(20, 128)})),
        "does not have, the first is lm_head.weight",
    ),
    "infinite": (
        stored(lambda t: t[f"{DOWN}.scales"][0, 0].fill_(torch.inf)),
        f"{DOWN} has scales that are not finite",
    ),
    "nan": (
        stored(lambda t: t["model.embed_tokens.scales"][0, 0, 3].fill_(torch.nan)),
        "model.embed_tokens has scales that are not finite",
    ),
    "norm": (
        stored(lambda t: t["model.norm.weight"][3].fill_(torch.nan)),
        "model.norm.weight has numbers that are not finite",
    ),
    "narrower": (narrower, "gate_up_proj.words packs a matrix of"),
    "without sizes": (without_sizes, "packs a matrix of unknown size"),
    "truncated": (cut, "not a complete safetensors file"),
    "absent": (lambda d: (d / FILE).unlink(), "has no model.safetensors"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_wrong_directory_is_refused_in_one_line(packed: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    spoil(packed)
    assert message in refusal(packed)


@pytest.mark.parametrize("asked", ["int4", "none"])
def test_packed_weights_are_not_packed_again(packed: Path, asked: str) -> None:
    assert f"quantised as int8 already; {asked} needs the original" in refusal(packed, quantize=asked)


def test_asking_for_what_is_there_is_no_error(packed: Path) -> None:
    with Engine.load(packed, quantize="int8", backend="torch", energy_source="simulated") as engine:
        assert engine.origin.card.quantization == "int8"


def test_an_unknown_scheme_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown quantisation 'int5'; known: none, int8, int4"):
        Engine.load(quantize="int5", energy_source="simulated")
    with pytest.raises(UsageError, match="unknown quantisation 'none'"):
        save_quantized(str(BUNDLED), tmp_path / "x", "none")


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = command.main(argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_places_that_are_taken_or_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, packed: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(BUNDLED, source)
    (tmp_path / "link").symlink_to(source)
    before = sorted(source.iterdir())
    for argv, status, message in (
        ((source, source), 1, "is within the source"),
        ((source, source / "int8"), 1, "is within the source"),
        ((tmp_path / "link", source / "int8"), 1, "is within the source"),
        ((source, packed), 1, "exists already"),
        ((source, packed / "config.json"), 1, "exists already"),
        ((source, tmp_path / "no" / "such"), 1, "no such directory"),
        ((packed, tmp_path / "again"), 1, "is quantised already, as int8"),
        ((tmp_path / "nothing", tmp_path / "again"), 1, "no such directory"),
        ((source,), 2, "DST"),
    ):
        found, out, err = run(capsys, *map(str, argv), "--quantize", "int4")
        assert (found, out) == (status, ""), argv
        [line] = err.splitlines()
        assert message in line
    assert run(capsys, str(source), str(tmp_path / "t"))[0] == 2, "--quantize is required"
    assert run(capsys, str(source), str(tmp_path / "t"), "--quantize", "int5")[0] == 2
    assert sorted(source.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "packed", "source"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (str(BUNDLED), str(tmp_path / "target"), "--quantize", "int8", "--quiet")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # bytes of a file
    try:
        status, out, err = run(capsys, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, out) == (1, "")
    assert f"cannot write {tmp_path / 'target'}: File too large" in err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))  # type: ignore[attr-defined]
    status, _, err = run(capsys, *arguments)
    assert status == 1
    assert "0.00 GB of its disk are free" in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_lines_as_a_user_types_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "chain-int8"
    done = subprocess.run(
        [sys.executable, "-m", "engine.quantize", str(BUNDLED), str(target), "--quantize", "int8"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"{target}: int8, 0.8 MB of weights" in done.stderr.splitlines()[-1]
    options = ("--json", "--energy-source", "simulated")
    status, out, err = run_generate(capsys, PROMPT, "--model", str(target), *options)
    assert status == 0
    assert "int8 weights" in err
    loaded = json.loads(run_generate(capsys, PROMPT, "--quantize", "int8", *options)[1])
    saved = json.loads(out)
    assert saved["text"] == loaded["text"]
    assert saved["model"]["quantization"] == loaded["model"]["quantization"] == "int8"
    plain = json.loads(run_generate(capsys, PROMPT, "--quantize", "none", *options)[1])
    assert plain["model"]["quantization"] == "none"
    status, out, err = run_generate(capsys, PROMPT, "--model", str(target), "--quantize", "none", "--quiet")
    assert (status, out) == (2, "")
    assert "quantised as int8 already" in err
