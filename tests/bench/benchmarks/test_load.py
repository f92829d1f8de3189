"""The real files by their own counts, and files that are broken."""

import json
import sys
import tarfile
import types
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from bench.benchmarks import BENCHMARKS, load_items
from bench.benchmarks.clusters import cluster_of, clusters, main
from engine.errors import TokenjouleError, UsageError

ROW = '"Is it, so?",yes,no,maybe,never,B\n'


def mmlu(root: Path, text: str = ROW, subject: str = "anatomy", split: str = "test") -> Path:
    folder = root / "data" / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{subject}_{split}.csv").write_text(text)
    return root


@pytest.mark.parametrize(
    ("name", "split", "count"),
    [
        ("mmlu", "test", 14042),
        ("mmlu", "val", 1531),
        ("mmlu", "dev", 285),
        ("math-500", "test", 500),
        ("gsm8k", "test", 1319),
        ("mt-bench", "test", 80),
    ],
)
def test_the_real_benchmarks_have_as_many_questions_as_their_authors_say(shared_data, name, split, count):
    items = load_items(name, split=split)
    assert len(items) == count == len({item.id for item in items})
    assert {item.benchmark for item in items} == {name}


def test_the_real_questions_are_read_as_they_stand(shared_data):
    first = load_items("mmlu")[0]
    assert first.question.startswith("Find the degree for the given field extension")
    assert (first.choices, first.answer, first.category) == (("0", "4", "2", "6"), "B", "abstract_algebra")
    assert load_items("gsm8k")[0].answer == "18"
    levels = Counter(item.category for item in load_items("math-500"))
    assert levels["Algebra"] == 124 and len(levels) == 7


def test_a_directory_a_zip_and_a_tar_give_the_same_questions(tmp_path):
    folder = mmlu(tmp_path / "folder", ROW * 2)
    mmlu(folder, ROW, split="dev")
    mmlu(folder, ROW, subject="virology")
    with (
        zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive,
        tarfile.open(tmp_path / "data.tar", "w") as tar,
    ):
        for file in folder.rglob("*.csv"):
            archive.write(file, file.relative_to(folder))
            tar.add(file, file.relative_to(folder))
    items = load_items("mmlu", folder)
    assert [item.id for item in items] == ["anatomy/test/0", "anatomy/test/1", "virology/test/0"]
    assert items[0].question == "Is it, so?"
    assert load_items("mmlu", tmp_path / "mmlu.zip") == load_items("mmlu", tmp_path / "data.tar") == items


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ROW + "one,two\n", "anatomy_test.csv, line 2: 2 columns"),
        (ROW + ROW.replace("B\n", "E\n"), "line 2: the answer is 'E'"),
        (ROW + '"open,1,2,3,4,A\n', "line 2: not CSV"),
    ],
)
def test_a_broken_row_of_mmlu_is_named_by_file_and_line(tmp_path, text, complaint):
    with pytest.raises(TokenjouleError, match=complaint):
        load_items("mmlu", mmlu(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("gsm8k", '{"question": "q", "answer": "no mark"}', "line 2: the answer does not end"),
        ("gsm8k", '{"question": "q"}', "line 2: needs a text 'answer'"),
        ("math-500", '{"problem": "p"', "line 2: not valid JSON"),
        ("math-500", "[]", "line 2: not an object"),
        ("mt-bench", '{"turns": []}', "line 2: not a question with a turn 1"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, name, line, complaint):
    good = {
        "gsm8k": {"question": "q", "answer": "a #### 1"},
        "math-500": {"problem": "p", "answer": "1", "subject": "s", "unique_id": "i"},
        "mt-bench": {"turns": ["one", "two"], "question_id": 81, "category": "writing"},
    }[name]
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert len(load_items(name, path)) == 1
    path.write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(TokenjouleError, match=f"file.jsonl, {complaint}"):
        load_items(name, path)


def test_what_is_no_benchmark_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="unknown benchmark 'mmlu-2'; there are mmlu"):
        load_items("mmlu-2")
    with pytest.raises(UsageError, match="no split 'train'; it has test"):
        load_items("math-500", split="train")
    with pytest.raises(TokenjouleError, match="cannot read"):
        load_items("gsm8k", tmp_path / "none.jsonl")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(TokenjouleError, match=r"broken\.zip"):
        load_items("mmlu", tmp_path / "broken.zip")
    (tmp_path / "text.cfg").write_text("no packing at all")
    with pytest.raises(TokenjouleError, match=r"text\.cfg: it is no directory, no zip and no tar$"):
        load_items("mmlu", tmp_path / "text.cfg")
    with pytest.raises(TokenjouleError, match="holds no test/SUBJECT_test"):
        load_items("mmlu", tmp_path)
    twice = json.dumps({"problem": "p", "answer": "1", "subject": "s", "unique_id": "i"}) + "\n"
    (tmp_path / "twice.jsonl").write_text(twice * 2)
    with pytest.raises(TokenjouleError, match="'i' comes twice"):
        load_items("math-500", tmp_path / "twice.jsonl")


def test_without_path_and_data_the_hub_is_asked_and_its_failure_is_one_line(monkeypatch, tmp_path):
    asked = []

    def download(repository: str, file: str, *, repo_type: str) -> str:
        asked.append((repository, file, repo_type))
        if repository == "openai/gsm8k":
            raise OSError("no network\nand more")
        return str(tmp_path / "test.jsonl")

    line = {"problem": "p", "answer": "1", "subject": "s", "unique_id": "i"}
    (tmp_path / "test.jsonl").write_text(json.dumps(line) + "\n")
    monkeypatch.delenv("TOKENJOULE_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    assert load_items("math-500")[0].id == "i"
    with pytest.raises(TokenjouleError, match=r"OSError: no network\); give a local path"):
        load_items("gsm8k")
    assert asked == [
        ("HuggingFaceH4/MATH-500", "test.jsonl", "dataset"),
        ("openai/gsm8k", "main/test-00000-of-00001.parquet", "dataset"),
    ]


def test_the_hub_s_parquet_is_read_where_pyarrow_is(tmp_path, monkeypatch):
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TokenjouleError, match="parquet"):
        load_items("gsm8k", path)
    monkeypatch.undo()
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"question": ["q"], "answer": ["a #### 7"]}), path)
    assert load_items("gsm8k", path)[0].answer == "7"


def test_every_subject_has_one_cluster_or_is_named_as_unassigned(shared_data):
    subjects = {item.category for item in load_items("mmlu", split="dev")}
    assigned = [subject for these in clusters().values() for subject in these]
    assert len(subjects) == 57
    assert len(assigned) == len(set(assigned)) == 54
    assert subjects - set(assigned) == {"global_facts", "miscellaneous", "professional_accounting"}
    assert len(clusters()) == 8
    assert cluster_of("virology") == "Health" and cluster_of("miscellaneous") is None


def test_the_command_lists_clusters_and_what_none_takes(tmp_path, capsys):
    folder = mmlu(tmp_path, ROW * 3)
    mmlu(folder, ROW, subject="miscellaneous")
    assert main(["--mmlu", str(folder)]) == 0
    out = capsys.readouterr().out
    told = json.loads(out.strip().split("\n")[-1])
    assert told["clusters"]["Health"] == {"questions": 3, "subjects": ["anatomy"]}
    assert told["clusters"]["unassigned"] == {"questions": 1, "subjects": ["miscellaneous"]}
    assert "virology" in told["missing"]
    assert main(["--mmlu", str(tmp_path / "none")]) == 1


def test_every_benchmark_names_its_place_on_the_hub():
    assert all("/" in one.repository and one.file for one in BENCHMARKS.values())
