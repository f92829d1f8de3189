"""The project's habits as checks: each gives a list of violations, and is tested on a planted one."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.line_ceiling import CEILING, ROOT, line_ceiling, main, project_files

LAYERS = ("kernels", "engine", "router", "bench")  # imports point from right to left only
HEAVY = {
    "codecarbon",
    "fastapi",
    "httpx",
    "lm_eval",
    "math_verify",
    "matplotlib",
    "pyarrow",
    "ray",
    "scipy",
    "sklearn",
} | {"transformers"}
# Spelled in parts, so that this file does not hold what it looks for. A word before the slash makes it
# the middle of a URL or of a relative path.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "|".join(("root", "home", "work")) + r")/")


def plant(root: Path, **files: str) -> Path:
    """Write `files` below `root`, `__` standing for a slash: `engine__a` is engine/a.py."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return root


def sources(root: Path, layers: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    """(path relative to `root`, syntax tree) of every Python file of `layers`."""
    for path in project_files(root, ".py"):
        relative = path.relative_to(root)
        if relative.parts[0] in layers:
            yield str(relative), ast.parse(path.read_text(encoding="utf-8"), str(relative))


def imported(node: ast.AST) -> list[str]:
    """Top-level packages that `node` itself imports; a relative import stays in its own package."""
    match node:
        case ast.Import(names=names):
            return [alias.name.split(".")[0] for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module.split(".")[0]]
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module.split(".")[0]]
    return []


def executed_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below `node` that run when the module is imported: no function bodies, no TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from executed_on_import(child)


def import_direction(root: Path) -> list[str]:
    """Imports, wherever in a file they stand, of a layer further up or of the tests."""
    found = []
    for name, tree in sources(root, LAYERS):
        layer = LAYERS.index(name.split("/")[0])
        forbidden = {*LAYERS[layer + 1 :], "tests"}
        for node in ast.walk(tree):
            found += [
                f"{name}:{getattr(node, 'lineno', 0)}: {LAYERS[layer]} must not import {target}"
                for target in imported(node)
                if target in forbidden
            ]
    return found


def heavy_imports(root: Path) -> list[str]:
    """Heavy or optional packages that importing a module of kernels, engine or router would import."""
    return [
        f"{name}:{getattr(node, 'lineno', 0)}: imports {target} at module level"
        for name, tree in sources(root, ("kernels", "engine", "router"))
        for node in executed_on_import(tree)
        for target in imported(node)
        if target in HEAVY
    ]


def missing_packages(root: Path) -> list[str]:
    """Folders with modules but no `__init__.py`: they work in a checkout and are missing in a wheel."""
    folders = {Path(name).parent for name, _ in sources(root, LAYERS)}
    return sorted(
        f"{folder}: no __init__.py" for folder in folders if not (root / folder / "__init__.py").exists()
    )


def machine_paths(root: Path) -> list[str]:
    """Lines of the project's text files that name a place on somebody's machine."""
    found = []
    for path in project_files(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # weights, figures
            continue
        if path.name != "LICENSE":
            lines = enumerate(text.splitlines(), 1)
            found += [f"{path.relative_to(root)}:{n}" for n, line in lines if MACHINE_PATH.search(line)]
    return found


PROBE_IMPORTS = """
import importlib, logging, sys
import torch

def state():
    return logging.root.level, list(logging.root.handlers), logging.root.manager.disable

for name in sys.argv[1:]:
    before = state()
    importlib.import_module(name)
    if state() != before:
        print(name + ": sets up logging on import")
    if torch.cuda.is_initialized():
        print(name + ": initialises CUDA on import")
"""

PROBE_TRANSFORMERS = """
import kernels, transformers
from transformers.utils import is_kernels_available

transformers.LlamaForCausalLM  # resolves lazily to the modules that would import the other `kernels`
if hasattr(kernels, "__version__"):
    print("kernels has a __version__, which transformers reads")
if is_kernels_available():
    print("transformers takes our kernels for the PyPI package of that name")
"""


def probe(root: Path, code: str, *arguments: str) -> list[str]:
    """Lines that `code` prints in a fresh interpreter that looks in `root` first; a crash is one more."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    crash = [] if done.returncode == 0 else [f"exit {done.returncode}: {done.stderr.strip()[-800:]}"]
    return done.stdout.splitlines() + crash


def import_side_effects(root: Path) -> list[str]:
    """Modules of kernels, engine and router that print, set up logging or initialise CUDA when imported."""
    names = [name for name, _ in sources(root, ("kernels", "engine", "router"))]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    return probe(root, PROBE_IMPORTS, *(module for module in modules if not module.endswith("__main__")))


@pytest.mark.parametrize(
    "check",
    [import_direction, heavy_imports, missing_packages, machine_paths, line_ceiling, import_side_effects],
)
def test_the_project_keeps_the_habit(check):
    assert check(ROOT) == []


def test_transformers_imports_beside_our_kernels():
    assert probe(ROOT, PROBE_TRANSFORMERS) == []


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("kernels__a", "import engine.model"),
        ("kernels__gpu__a", "from router import arms"),
        ("engine__a", "def late():\n    from router.policy import choose"),
        ("engine__a", "import os, bench"),
        ("router__a", "import importlib\nimportlib.import_module('bench.record')"),
        ("engine__a", "from tests.fakes import Model"),
    ],
)
def test_an_import_against_the_direction_is_found(tmp_path, importer, statement):
    found = import_direction(plant(tmp_path, **{importer: statement}))
    assert len(found) == 1
    assert "must not import" in found[0]


def test_imports_with_the_direction_are_not_found(tmp_path):
    plant(
        tmp_path, bench__a="import router, engine, kernels", engine__a="from . import b\nimport kernels.api"
    )
    assert import_direction(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    ["import transformers", "try:\n    from sklearn.svm import SVC\nexcept ImportError:\n    SVC = None"],
)
def test_a_heavy_import_at_module_level_is_found(tmp_path, statement):
    assert len(heavy_imports(plant(tmp_path, engine__a=statement))) == 1


def test_a_heavy_import_inside_a_function_or_for_types_is_not_found(tmp_path):
    lazy = "def draw():\n    import matplotlib.pyplot"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import httpx"
    assert heavy_imports(plant(tmp_path, engine__a=lazy, kernels__a=typed)) == []


def test_a_folder_without_init_is_found(tmp_path):
    plant(tmp_path, engine__a="", engine__stop__a="", tests__stop__test_a="")
    assert missing_packages(tmp_path) == []
    for package in ("engine", "tests"):
        (tmp_path / package / "stop/__init__.py").unlink()
    assert missing_packages(tmp_path) == ["engine/stop: no __init__.py"]


@pytest.mark.parametrize("place", ["root", "home", "work"])
def test_a_machine_path_is_found_outside_the_licence(tmp_path, place):
    line = f"DATA = '/{place}/someone/data'\n"
    (tmp_path / "README.md").write_text("first line\n" + line)
    (tmp_path / "LICENSE").write_text(line)
    (tmp_path / "weights.bin").write_bytes(b"\xff\xfe" + line.encode())
    (tmp_path / "links.md").write_text(f"https://example.org/{place}/page and docs/{place}/page\n")
    assert machine_paths(tmp_path) == ["README.md:2"]


def test_a_file_over_the_ceiling_is_found_by_function_and_script(tmp_path, capsys):
    plant(tmp_path, engine__a="\n" * CEILING, kernels__a="\n" * (CEILING + 1))
    plant(tmp_path / ".venv", big="\n" * (CEILING + 1))
    assert line_ceiling(tmp_path) == [f"kernels/a.py: {CEILING + 1} lines, the ceiling is {CEILING}"]
    assert main([str(tmp_path)]) == 1
    assert "kernels/a.py" in capsys.readouterr().err


def test_a_new_file_counts_and_an_ignored_one_does_not(tmp_path):
    plant(tmp_path, new="", added="", ignored="", gone="")
    (tmp_path / ".gitignore").write_text("ignored.py\n__init__.py\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "added.py", "gone.py"], cwd=tmp_path, check=True)
    (tmp_path / "gone.py").unlink()
    assert [path.name for path in project_files(tmp_path, ".py")] == ["added.py", "new.py"]


def test_side_effects_of_an_import_are_found(tmp_path):
    plant(
        tmp_path,
        engine__broken_last="raise OSError('no such device')",
        engine__a="import logging\nlogging.basicConfig()",
        kernels__a="print('hello')",
        # What torch reports once any call has made a context, on a machine without a device too.
        engine__b="import torch\ntorch.cuda.is_initialized = lambda: True",
    )
    found = import_side_effects(tmp_path)
    assert found[:2] == ["engine.a: sets up logging on import", "engine.b: initialises CUDA on import"]
    assert "OSError: no such device" in found[-1]
    (tmp_path / "engine/broken_last.py").unlink()
    assert "hello" in import_side_effects(tmp_path)


def test_a_version_on_kernels_is_found(tmp_path):
    plant(tmp_path, kernels__api="")
    (tmp_path / "kernels/__init__.py").write_text("__version__ = '0.0.0'")
    assert probe(tmp_path, PROBE_TRANSFORMERS) == ["kernels has a __version__, which transformers reads"]


def test_a_distribution_that_transformers_would_import_from_is_found(tmp_path):
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    metadata = plant(tmp_path, kernels__api="") / f"kernels-{KERNELS_MIN_VERSION}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    (crash,) = probe(tmp_path, PROBE_TRANSFORMERS)
    assert "ImportError" in crash
