"""The command line, called in this process."""

import pytest

from engine.generate import main

PROMPT = "47+35-18+6="


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr); there is never a traceback."""
    status = main(list(argv))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err
