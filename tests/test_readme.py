"""What the README tells a newcomer to type works as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_python_runs_as_written(index: int, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(PYTHON[index])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_policy_of_the_readme_is_ten_lines() -> None:
    policy = re.search(r"^class .*?\n\n\n", PYTHON[0], re.DOTALL | re.MULTILINE)
    assert policy is not None
    assert len(policy[0].strip().splitlines()) <= 10


def test_make_demo_runs_what_the_readme_says() -> None:
    [command] = re.findall(r"^python -m (engine\.generate --budget-joules .*)$", README, re.MULTILINE)
    assert f"$(RUN) {command}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_file_of_the_tree_exists() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    folder = ""
    for line in tree.strip().splitlines():
        name = line.split()[0]
        folder = folder if line.startswith("  ") else name.rstrip("/").split("/")[0]
        path = ROOT / folder / name if line.startswith("  ") else ROOT / name
        assert path.exists(), line
        for other in re.findall(r"\b([a-z]+\.py)\b", line.split(maxsplit=1)[1]):
            assert (ROOT / folder / other).exists(), f"{line}: {other}"


def test_flags_that_the_readme_names_exist() -> None:
    from bench import attribution_study, calibrate, curves, decode, emissions, gpu, kernels, report, sensor
    from bench import router_overhead as overhead
    from bench.benchmarks import clusters
    from bench.experiments import experiment, fig1, fig2, fig3, fig4, replay, stop, table1
    from bench.experiments import router as routers
    from bench.routing import stored
    from bench.train import train
    from engine import generate
    from router import calibrate as estimator
    from router import route

    modules = (
        generate,
        attribution_study,
        calibrate,
        curves,
        decode,
        emissions,
        gpu,
        kernels,
        report,
        routers,
        sensor,
        stored,
    )
    parsers = [
        module.parser()
        for module in (*modules, clusters, replay, stop, table1, train, estimator, overhead, route)
    ]
    parsers += [experiment.parser(figure.EXPERIMENT) for figure in (fig1, fig2, fig3, fig4)]
    known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--no-binary"}  # pip's
    assert named <= known, named - known
