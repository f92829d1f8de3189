"""Every module of Triton kernels against the reference, each in a process of its own.

Triton decides when it is imported whether kernels are compiled or interpreted, for the whole process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_module_in_the_interpreter(module: Path) -> None:
    pytest.importorskip("triton", reason="triton is published for Linux only")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(module)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
