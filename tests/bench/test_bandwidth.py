"""Readers of memory: that they read all of it, and what the command line prints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import timing
from bench.bandwidth import buffer, main, readers
from bench.crew_reader import CHUNK, crew_reader
from bench.record import read


@pytest.mark.parametrize("words", [1, CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_our_reader_sees_every_word(words: int, threads: int) -> None:
    data = np.random.default_rng(words).integers(-(2**62), 2**62, words)
    read_once = crew_reader(data, threads)
    assert read_once() == read_once() == int(data.sum())
    data[-1] += 1
    assert read_once() == int(data.sum())


def test_the_buffer_is_written_and_every_reader_takes_all_of_it() -> None:
    data = buffer(1 << 20)
    assert data.nbytes == 1 << 20 and data.min() >= 0.5
    found = readers(data, (1, 2))
    assert [reader.timed.name for reader in found] == [
        "read: torch sum fp32",
        "read: torch mv fp32",
        "read: numpy sum fp32",
        "read: our crew of 1",
        "read: our crew of 2",
    ]
    assert {reader.bytes for reader in found} == {data.nbytes}
    assert torch.as_tensor(found[0].timed.run()) == pytest.approx(data.double().sum().item(), rel=1e-3)


def test_the_command_line_prints_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    out = tmp_path / "records.jsonl"
    assert main(["--rounds", "2", "--megabytes", "1", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    records = list(read([out]))
    assert [record.arm.name for record in records] == list(printed)
    for record in records:
        rate = record.derived["bandwidth"].value
        assert rate is not None and record.metrics["run_s"].median is not None
        assert rate == pytest.approx(2**20 / record.metrics["run_s"].median)
    assert main(["--rounds", "1"]) == 2
