import multiprocessing

import pytest

from engine.errors import TokenjouleError
from engine.line_file import add, alone, mend


def test_lines_are_added_and_folders_made(tmp_path):
    path = tmp_path / "a" / "b.jsonl"
    add(path, "1\n2\n")
    add(path, "3\n")
    assert path.read_text() == "1\n2\n3\n"


def test_a_full_disk_leaves_no_part_of_what_belongs_together(tmp_path, monkeypatch):
    path, write = tmp_path / "a.jsonl", __import__("os").write
    add(path, "1\n")
    monkeypatch.setattr("os.write", lambda file, data: write(file, data[:2]))
    with pytest.raises(TokenjouleError, match="No space"):
        add(path, "2\n3\n")
    assert path.read_text() == "1\n"


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("{}\n", "{}\n"), ('{}\n{"id', "{}\n"), ('{"i', ""), ("{}\n{", "{}\n")]
)
def test_the_part_of_a_line_that_a_kill_left_is_taken_away(tmp_path, before, after):
    path = tmp_path / "a.jsonl"
    path.write_text(before)
    mend(path, '{"id":', "ours")
    assert path.read_text() == after


@pytest.mark.parametrize("foreign", ["notes", '{}\n{"x', '{"id": 1}\nno newline'])
def test_what_is_not_ours_is_left_alone(tmp_path, foreign):
    path = tmp_path / "a.txt"
    path.write_text(foreign)
    with pytest.raises(TokenjouleError, match=r"line \d: not ours"):
        mend(path, '{"id":', "ours")
    assert path.read_text() == foreign


def _try(path, found):
    try:
        with alone(path):
            found.put("had")
    except TokenjouleError as error:
        found.put(str(error))


def test_two_processes_do_not_write_one_file(tmp_path):
    path, context = tmp_path / "a.jsonl", multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def other() -> str:
        process = context.Process(target=_try, args=(path, found))
        process.start()
        process.join()
        return found.get()

    with alone(path):
        assert "being written by another process" in other()
    assert other() == "had"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(TokenjouleError, match="cannot write"), alone(tmp_path):
        pass
