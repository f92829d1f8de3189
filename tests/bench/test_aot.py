"""Every kernel that a model launches, compiled without a GPU; and that a kernel which fails is named."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import triton.runtime.jit as triton_jit

from bench import aot
from bench.aot_launches import CHIPS, SELECTIONS, Use, variants
from bench.record import read
from engine.config import parse_config
from engine.presets import PRESETS
from kernels.aot import ceilings
from kernels.aot.ceilings import Ceiling, ceiling_of
from kernels.aot.compile import Code, Refusal, compile_all
from kernels.aot.contracts import CONTRACTS, judged, straight_to_registers
from kernels.aot.record import Variant, recording
from kernels.gpu.dealing import FIRST_OF_EQUALS
from tests.kernels.aot import toys

SMALL = ("preset:llama-3.2-1b", "--quantize", "none", "--rows", "1", "--select", "greedy", "--arch", "90")
FEW = ("gate_up_kernel", "decode_kernel", "dense_kernel")


def model(name: str) -> dict:
    return {f"preset:{name}": parse_config(PRESETS[name], {}, name)}


def launched(name: str, **options) -> dict[Variant, list[Use]]:
    given = {"schemes": ["none"], "rows": [1], "selections": ["greedy"], "capability": 90, **options}
    return variants(model(name), torch.bfloat16, *given.values())


@pytest.fixture(scope="module")
def compiled() -> dict[Variant, Code | Refusal]:
    """Some kernels of a step of the 1B in bf16 on sm_90, each once, and one that does not compile."""
    once = {variant.name: variant for variant in launched("llama-3.2-1b")}
    chosen = [once[name] for name in FEW]
    with recording(90) as launches:
        toys.redefined[(1,)](toys.meta(64), 2)
    chosen.append(launches[0].variant)
    return dict(zip(chosen, compile_all(chosen), strict=True))


@pytest.fixture
def run(compiled, monkeypatch, capsys):
    """Runs the command on those of the kernels compiled: (exit status, lines of stdout, stderr)."""
    monkeypatch.setattr(aot, "compile_all", lambda asked, workers: (compiled[v] for v in asked))

    def command(*arguments: str, kernels: tuple[str, ...] = FEW) -> tuple[int, list[str], str]:
        asked = {v: [USE] for v in compiled if v.name in kernels}
        monkeypatch.setattr(aot, "_asked", lambda options, models: asked)
        status = aot.main(["--model", *SMALL, *arguments])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    return command


USE = Use("preset:llama-3.2-1b", "none", "decode greedy", 1, 1024)


def test_kernels_of_the_1b_compile_and_hold(run, tmp_path: Path):
    out = tmp_path / "records.jsonl"
    status, lines, err = run("--out", str(out))
    rows = [line.split() for line in lines[1:-1]]
    assert {row[0] for row in rows} == set(FEW)
    assert all("yes" in row for row in rows) and status == 0
    assert json.loads(lines[-1]).items() >= {"variants": len(rows), "failed": 0, "holds": True}.items()
    assert f"{len(rows)}/{len(rows)} " in err, "progress"
    records = list(read([out]))
    assert len(records) == len(rows)
    [gate_up] = [record for record in records if record.arm.name == "gate_up_kernel sm_90"]
    figures = {name: value.value for name, value in gate_up.derived.items()}
    assert (figures["stack"], figures["holds"]) == (0, 1) and 64 < figures["registers"] <= 128
    assert figures["weights_before_wait"] == 256, "a thread asks for 16 times 128 bits"
    assert figures["weights_in_flight"] >= 128 << 10, "of two programs of 8 warps"


def test_a_kernel_over_its_ceiling_fails_by_name(run, monkeypatch):
    rows = (Ceiling("gate_up_kernel", 100, "planted"), *ceilings.CEILINGS)
    monkeypatch.setattr(ceilings, "CEILINGS", rows)
    status, lines, _ = run()
    assert status == 1
    at = next(index for index, line in enumerate(lines) if line.startswith("gate_up_kernel"))
    assert " NO " in lines[at] and "registers, at most 100" in lines[at + 1]
    assert json.loads(lines[-1])["failed"] == 1 and not json.loads(lines[-1])["holds"]


def test_weights_that_pass_through_shared_memory_are_found(compiled):
    [code] = [code for variant, code in compiled.items() if variant.name == "gate_up_kernel"]
    assert straight_to_registers(code) == []
    moved = dataclasses.replace(code, shared=64 << 10)  # as Triton 3.6 did: a tile of 16 rows of 2048
    assert straight_to_registers(moved) == ["65536 bytes of shared memory, 4096 without weights"]
    assert "shared" in {gate for gate, lines in judged(moved).items() if lines}


def test_a_kernel_that_does_not_compile_fails_by_name(run, tmp_path: Path):
    status, lines, _ = run("--out", str(tmp_path / "records.jsonl"), kernels=("redefined",))
    assert status == 1 and lines[1].startswith("redefined")
    assert "FAILS: does not compile" in lines[2] and "redefines" in lines[2]
    [record] = read([tmp_path / "records.jsonl"])
    assert record.derived["registers"].value is None and "redefines" in record.derived["registers"].reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arch", "70"), "unknown compute capability '70'; known: 80, 89, 90"),
        (("--quantize", "int2"), "unknown scheme 'int2'"),
        (("--select", "beam"), "unknown selection 'beam'; known: greedy"),
        (("--rows", "17"), "take 1 to 16 rows, not 17"),
        (("--model", "preset:gpt-2"), "unknown preset 'gpt-2'"),
        (("--jobs", "0"), "at least 1 job is needed"),
        (("--quantize", "none", "--only", "softmax"), "no kernel's name holds 'softmax'"),
    ],
)
def test_what_is_not_known_is_refused(capsys, arguments, message):
    assert aot.main(["--model", *SMALL, *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err


def test_the_interpreter_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert aot.main([]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err


def test_every_kernel_is_launched_by_some_preset():
    found = launched("llama-3.2-1b", schemes=["none", "int8"], rows=[1, 8], selections=list(SELECTIONS))
    assert {variant.kernel for variant in found} == set(CONTRACTS)


def test_what_a_model_does_not_share_with_another_is_compiled_anew():
    one = launched("llama-3.2-1b")
    assert all(use.model == "preset:llama-3.2-1b" for uses in one.values() for use in uses)
    assert {v.named_constants["WIDTH"] for v in one if v.name == "decode_kernel"} == {64}
    large = launched("llama-3.1-8b")
    assert {v.named_constants["WIDTH"] for v in large if v.name == "decode_kernel"} == {128}
    biased = launched("qwen2.5-7b")
    kinds = [dict(v.signature)["bias"] for v in biased if v.name == "attention_input_kernel"]
    assert kinds == ["*bf16"]
    normed = launched("qwen3-8b")
    assert [dict(v.signature)["q_norm"] for v in normed if v.name == "attention_input_kernel"] == ["*bf16"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_launches_of_every_preset_can_be_recorded(name):
    found = launched(name, rows=[1, 2])
    assert all(ceiling_of(variant) is not None for variant in found)
    assert {variant.kernel for variant in found} <= set(CONTRACTS)


def test_a_step_is_five_launches_a_layer_and_attention_is_cut_by_length():
    found = launched("llama-3.2-1b")
    by_context = {use.context for v, uses in found.items() if v.name == "decode_kernel" for use in uses}
    assert by_context == {1024 << power for power in range(8)}  # up to the model's 131,072
    splits = [v.named_constants["SPLITS"] for v in found if v.name == "decode_kernel"]
    assert splits == [16, 32]
    layer = {"attention_input_kernel", "decode_kernel", "add_kernel", "gate_up_kernel"}  # add_kernel twice
    assert {v.name for v in found} == layer | {
        "dense_kernel",
        "begin_kernel",
        "head_kernel",
        "prefill_kernel",
    }


def test_dependent_launch_is_asked_for_where_there_is_any():
    for capability, chip in CHIPS.items():
        found = launched("llama-3.2-1b", capability=capability)
        dependent = {v.dependent for v in found if v.name != "prefill_kernel"}
        assert dependent == {chip.dependent}
        assert {v.capability for v in found} == {capability}


def test_nothing_of_a_model_takes_memory_or_starts_a_device():
    launched("llama-3.1-70b")  # 140 GB
    assert not torch.cuda.is_initialized()
    assert getattr(triton_jit.driver, "_active", None) is None


# With Triton 3.6.0 these keep 8 to 24 bytes a thread on the stack, once a tile: addresses that do not change.
SPILLS_BEFORE_3_7 = re.compile(
    r"^(head|attention_input)_kernel .*: +FAILS: (\d+ bytes of stack|.*local memory)$"
)


def holds(capsys, *arguments: str) -> None:
    status = aot.main(list(arguments))
    lines = capsys.readouterr().out.splitlines()
    failing, row = [], ""
    for line in lines:  # a kernel's row, then a line for each thing that fails
        if "FAILS" in line:
            failing.append(f"{row}: {line}")
        else:
            row = line
    assert status == bool(failing)
    if FIRST_OF_EQUALS.value:
        failing = [line for line in failing if not SPILLS_BEFORE_3_7.match(line)]
    assert failing == []


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_variant_of_the_1b_and_the_8b_holds_on_sm_90(capsys):
    holds(capsys, "--arch", "90")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rows", "schemes"), [("8", "none,int8"), ("1", "int4")])
def test_a_sample_holds_on_older_cards(capsys, rows, schemes):
    sample = ("--model", "preset:llama-3.2-1b", "--arch", "80,89", "--select", "greedy")
    holds(capsys, *sample, "--rows", rows, "--quantize", schemes)
