"""The fidelity benchmark: its arithmetic, both paths against transformers, its verdicts and its refusals."""

import math
import sys
from pathlib import Path

import pytest
import torch

from bench import fidelity_table as table_module
from bench import report
from bench.divergence import Divergence, Mean, divergence
from bench.fidelity import BUNDLED, PEER, Subject, chosen_arms, fidelity, main, record
from bench.fidelity_table import fidelity_table, kept
from bench.forced import paths
from bench.passages import Passage, chain_passages, text_passages
from bench.peers import transformers_logits
from bench.record import Arm, Record, read
from bench.stamp import stamp
from bench.train.chain_task import TOKEN_ID, VOCABULARY, is_held_out
from engine.engine import Engine
from engine.errors import TokenjouleError
from tests import tiny

LETTERS = "abcdefghijklmnopqrst\n\nABCABCABCABC\n\nx"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(LETTERS)
    return path


@pytest.fixture
def subject(letters_directory: Path, text: Path) -> Subject:
    return Subject.of(str(letters_directory), text)


def of_kl(*kl: float) -> Divergence:
    values = torch.tensor(kl, dtype=torch.float64)
    return Divergence(values, values, values, values > 0, (len(kl),))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


def test_kl_and_nll_are_their_formulas() -> None:
    passage = Passage((0, 1, 2), judged=1)
    p, q = (
        torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]),
        torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.2, 0.6]]),
    )
    found = divergence([p.log() + 7], [q.log() - 3], [passage])  # logits are known but for a constant
    expected = [(p * (p / q).log()).sum(1), -q[[0, 1], [1, 2]].log(), -p[[0, 1], [1, 2]].log()]
    for values, formula in zip((found.kl, found.nll, found.reference_nll), expected, strict=True):
        assert torch.allclose(values.float(), formula, atol=1e-6)
    assert found.agrees.tolist() == [False, True] and found.top1 == 0.5
    mean = Mean.of(found.kl)
    assert mean.value == pytest.approx(found.kl.mean().item())
    assert mean.error == pytest.approx(abs(found.kl[0] - found.kl[1]).item() / 2)


def test_the_same_predictions_differ_by_exactly_0(subject: Subject) -> None:
    found = divergence(subject.expected, subject.expected, subject.passages)
    assert found.kl.tolist() == [0.0] * 30 and found.top1 == 1
    assert torch.equal(found.nll, found.reference_nll)
    assert found.sizes == (19, 11)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_decoding_equals_prefill_in_fp32(letters_directory: Path, subject: Subject, backend: str) -> None:
    with Engine.load(letters_directory, backend=backend, energy_source="estimate") as engine:
        found = dict(fidelity(subject, paths(engine.model)))
    assert set(found) == {"prefill", "decode"}
    for (
        path
    ) in found.values():  # in fp32, sums of 72 terms and logits up to 10: nats², as KL is of second order
        assert path.kl.abs().max() < 1e-9
        assert (path.nll - path.reference_nll).abs().max() < 1e-4


def test_both_paths_are_transformers_own(letters_directory: Path, subject: Subject) -> None:
    theirs = dict(fidelity(subject, transformers_logits.paths(letters_directory, torch.float32)))
    assert all(path.kl.abs().max() < 1e-9 for path in theirs.values())
    late = [Passage((*passage.ids[1:], 0)) for passage in subject.passages]  # one token off
    shifted = divergence(
        subject.expected, paths(tiny.load_model(letters_directory))["decode"](late), subject.passages
    )
    assert shifted.kl.mean() > 0.1


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_planted_wrong_weight_shows(letters_directory: Path, subject: Subject, path: str) -> None:
    with Engine.load(letters_directory, backend="torch", energy_source="estimate") as engine:
        sound = dict(fidelity(subject, paths(engine.model)))[path]
        engine.model._layers[1].weights.down[5].mul_(1.5)
        wrong = dict(fidelity(subject, paths(engine.model)))[path]
    assert wrong.kl.mean() > 1e-5 > 1e4 * sound.kl.mean()


def test_int8_is_nearer_than_int4_and_bf16_as_near_as_transformers(
    letters_directory: Path, subject: Subject
) -> None:
    kl = {}
    for scheme, dtype in (("none", "bf16"), ("int8", "fp32"), ("int4", "fp32")):
        with Engine.load(
            letters_directory, backend="torch", dtype=dtype, quantize=scheme, energy_source="estimate"
        ) as engine:
            kl[scheme] = dict(fidelity(subject, paths(engine.model)))["prefill"].kl.mean().item()
    theirs = dict(fidelity(subject, transformers_logits.paths(letters_directory, torch.bfloat16)))[
        "prefill"
    ].kl
    assert 1e-6 < kl["int8"] < 0.1 * kl["int4"] < 0.1
    assert kl["none"] == pytest.approx(theirs.mean().item(), rel=0.5)


def test_int8_and_int4_of_the_bundled_model() -> None:
    found = {}
    expected = Subject.of(BUNDLED)
    for scheme in ("int8", "int4"):
        with Engine.load(backend="torch", dtype="bf16", quantize=scheme, energy_source="estimate") as engine:
            forced = paths(engine.model)["prefill"]
            found[scheme] = divergence(expected.expected, forced(expected.passages), expected.passages)
    assert found["int8"].kl.mean() < 1e-5 and found["int8"].top1 == 1
    assert found["int4"].kl.mean() < 5e-4 and found["int4"].top1 > 0.99


def test_int8_of_the_stories_model(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENJOULE_DATA", str(shared_data))
    directory = shared_data / "models" / "stories260K"
    expected = Subject.of(str(directory))
    assert 1.1 < divergence(expected.expected, expected.expected, expected.passages).nll.mean() < 1.5
    with Engine.load(
        directory, backend="torch", dtype="bf16", quantize="int8", energy_source="estimate"
    ) as engine:
        forced = paths(engine.model)["prefill"]
        found = divergence(expected.expected, forced(expected.passages), expected.passages)
    assert 1e-4 < found.kl.mean() < table_module.INT8_BOUND


def test_the_bundled_model_reads_held_out_solutions() -> None:
    passages = chain_passages()
    assert passages == chain_passages() and len(passages) == 24
    for passage in passages:
        words = [VOCABULARY[token] for token in passage.ids]
        prompt = "".join(words[1 : passage.judged])
        assert words[0] == "<bos>" and prompt.endswith("=") and prompt.count("=") == 1 and is_held_out(prompt)
        assert passage.ids[-1] == TOKEN_ID["<eos>"]


def test_passages_of_a_file_are_cut_to_the_context(letters_directory: Path, text: Path) -> None:
    with Engine.load(letters_directory, energy_source="estimate") as engine:
        passages = text_passages(text, engine.tokenizer, 15)
    assert [len(passage.ids) for passage in passages] == [15, 12]  # a single letter predicts nothing
    with pytest.raises(ValueError, match="cannot be judged"):
        Passage((1,))


def test_logits_that_are_not_finite_are_an_error(subject: Subject) -> None:
    bad = [logits.clone() for logits in subject.expected]
    bad[1][3, 4] = math.nan
    with pytest.raises(TokenjouleError, match="not finite"):
        divergence(subject.expected, bad, subject.passages)
    with pytest.raises(ValueError, match="logits are"):
        divergence(subject.expected, [logits[1:] for logits in subject.expected], subject.passages)


def test_what_must_hold() -> None:
    run = stamp("bench.fidelity", [], torch.device("cpu"))
    [_, none, int8, int4] = chosen_arms(["torch"], ["none", "int8", "int4"], ["bf16"])

    def of(arm: Arm, *kl: float, path: str = "decode") -> Record:
        return record(Subject("model", Path(), (), ()), arm, path, of_kl(*kl), run)

    theirs = of(PEER, 0.9e-3, 1.1e-3)  # 1e-3 ± 1e-4
    assert kept(of(int8, 0.004, 0.0059), []) is True
    assert kept(of(int8, 0.004, 0.0061), []) is False
    assert kept(of(none, 1.08e-3, 1.1e-3), [theirs]) is True
    assert kept(of(none, 1.1e-3, 1.2e-3), [theirs]) is False
    assert kept(of(none, 9.0, 9.0), [of(PEER, 9e-4, 11e-4, path="prefill")]) is None  # another path's bound
    assert kept(of(int4, 5.0, 5.0), [theirs]) is kept(theirs, [theirs]) is None
    rows = fidelity_table([theirs, of(none, 1.1e-3, 1.2e-3), of(int4, 0.0, 5.0)]).splitlines()
    assert rows[2] == (
        "| transformers none, bfloat16 | decode | 1.00e-03 ± 1e-04 | 1.1e-03 | 0.0010 | +0.00000 ± 0e+00 "
        "| 100.00% |  |"
    )
    assert rows[3].endswith("| NO |") and "| 50.00% |" in rows[4]


def test_arms_are_the_product_with_transformers_first() -> None:
    arms = chosen_arms(["torch", "cpu"], ["none", "int4"], ["bf16"])
    assert [arm.name for arm in arms] == [
        "transformers none",
        "torch none",
        "cpu none",
        "torch int4",
        "cpu int4",
    ]
    assert PEER not in chosen_arms(["torch"], ["none"], ["fp32"])
    assert PEER not in chosen_arms(["torch"], ["int8"], ["bf16"])


def test_a_run_prints_a_table_and_writes_records(
    capsys: pytest.CaptureFixture[str], letters_directory: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    argv = ["--model", str(letters_directory), "--text", str(text), "--backends", "torch", "--out", str(out)]
    status, table, _ = run(capsys, *argv, "--quantize", "none,int8")
    records = list(read([out]))
    assert [(found.arm.name, found.case.phase) for found in records] == [
        (name, path)
        for name in ("transformers none", "torch none", "torch int8")
        for path in ("prefill", "decode")
    ]
    assert table.strip() == fidelity_table(records) and fidelity_table(records) in report.everything(records)
    for found, line in zip(records, table.splitlines()[2:], strict=False):
        kl, samples = found.derived["kl"], found.metrics["kl"].samples
        assert line.startswith(f"| {found.arm.name}, bfloat16 | {found.case.phase} | {kl.value:.2e} ± ")
        assert kl.value == pytest.approx((19 * samples[0] + 11 * samples[1]) / 30)
        assert kl.low < kl.value < kl.high and found.case.new_tokens == 30
        assert found.derived["kl_max"].value >= max(samples)
    assert status == int("| NO |" in table)


def test_a_broken_bound_is_a_failure(
    capsys: pytest.CaptureFixture[str], letters_directory: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [
        "--model",
        str(letters_directory),
        "--text",
        str(text),
        "--backends",
        "torch",
        "--quantize",
        "int8",
    ]
    monkeypatch.setattr(table_module, "INT8_BOUND", 1.0)
    assert run(capsys, *argv)[0] == 0
    monkeypatch.setattr(table_module, "INT8_BOUND", 1e-9)
    status, table, _ = run(capsys, *argv)
    assert status == 1 and table.count("| NO |") == 2


def test_a_missing_peer_is_named_and_a_missing_arm_of_ours_is_a_failure(
    capsys: pytest.CaptureFixture[str], letters_directory: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    argv = ["--model", str(letters_directory), "--text", str(text), "--quantize", "none"]
    status, table, errors = run(capsys, *argv, "--backends", "torch")
    assert status == 0 and "skipped fidelity of transformers none bf16: " in errors
    assert table.count("torch none") == 2 and "| yes |" not in table
    status, table, errors = run(capsys, *argv, "--backends", "gpu,torch")
    assert (
        status == 1
        and "skipped fidelity of gpu none bf16: backend gpu: " in errors
        and table.count("torch none") == 2
    )


@pytest.mark.parametrize(
    ("argv", "status", "line"),
    [
        (["--backends", "tpu"], 2, "unknown backend 'tpu'; known: gpu, cpu, torch"),
        (["--quantize", "int3"], 2, "unknown quantisation 'int3'"),
        (["--dtypes", "fp8"], 2, "unknown dtype 'fp8'"),
        (["--model", "preset:llama-3.2-1b"], 2, "no trained weights"),
        (["--model", "./nowhere"], 1, "no such directory: ./nowhere"),
        (["--model", "LETTERS"], 2, "no text is known for"),
        (["--model", "LETTERS", "--text", "nowhere.txt"], 1, "cannot read nowhere.txt: No such file"),
        (["--text", "EMPTY"], 2, "holds no passage"),
        (["--text", "BINARY"], 1, "is not UTF-8"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    capsys: pytest.CaptureFixture[str],
    letters_directory: Path,
    tmp_path: Path,
    argv: list[str],
    status: int,
    line: str,
) -> None:
    (tmp_path / "empty").write_text("\n\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    names = {"LETTERS": letters_directory, "EMPTY": tmp_path / "empty", "BINARY": tmp_path / "binary"}
    found, out, errors = run(capsys, *(str(names.get(part, part)) for part in argv))
    assert (found, out) == (status, "") and line in errors and errors.count("\n") == 1


def test_the_stories_model_of_the_test_data_must_be_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENJOULE_DATA", str(tmp_path))
    status, out, errors = run(capsys, "--backends", "torch")
    assert status == 1 and out == "" and f"no such directory: {tmp_path}/models/stories260K" in errors
