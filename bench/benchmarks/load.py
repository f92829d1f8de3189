"""A benchmark by name: from a path the user gives, from the test data, or from the Hugging Face Hub.

The Hub's files go through huggingface_hub's own cache; its token and HF_HUB_OFFLINE apply. The `datasets`
library is not needed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.benchmarks import gsm8k, math500, mmlu, mt_bench
from bench.benchmarks.files import Line, json_lines, parquet_lines
from bench.benchmarks.item import Item
from bench.passages import DATA
from engine.errors import TokenjouleError, UsageError


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`repository` and `file`: where the Hub has it; `stored`: where the test data has it, by split.

    `graded`: its answers can be marked right or wrong without a judge.
    """

    name: str
    splits: tuple[str, ...]
    repository: str
    file: str
    stored: str
    read: Callable[[Path, str], list[Item]]
    graded: bool = True


def _lines(path: Path) -> list[Line]:
    return list(parquet_lines(path) if path.suffix == ".parquet" else json_lines(path))


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(mmlu.NAME, mmlu.SPLITS, "cais/mmlu", "data.tar", "mmlu/mmlu.zip", mmlu.read_mmlu),
        Benchmark(
            math500.NAME,
            ("test",),
            "HuggingFaceH4/MATH-500",
            "test.jsonl",
            "math500/test.jsonl",
            lambda path, split: math500.parse_math500(_lines(_file(path, f"{split}.jsonl"))),
        ),
        Benchmark(
            gsm8k.NAME,
            ("test", "train"),
            "openai/gsm8k",
            "main/{split}-00000-of-00001.parquet",
            "gsm8k/{split}.jsonl",
            lambda path, split: gsm8k.parse_gsm8k(_lines(_file(path, f"{split}.jsonl")), split),
        ),
        Benchmark(
            mt_bench.NAME,
            ("test",),
            "HuggingFaceH4/mt_bench_prompts",
            "raw/question.jsonl",
            "mt_bench/question.jsonl",
            lambda path, split: mt_bench.parse_mt_bench(_lines(_file(path, "question.jsonl"))),
            graded=False,
        ),
    )
}


def load_items(name: str, path: Path | None = None, split: str = "test") -> list[Item]:
    """The questions of a benchmark's split.

    `path`: a file, or a directory that holds it; None: the test data below TOKENJOULE_DATA where that is set,
    else the Hub. Raises `UsageError` for an unknown name or split, `TokenjouleError` for what cannot be read.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if split not in benchmark.splits:
        raise UsageError(f"{name} has no split {split!r}; it has {', '.join(benchmark.splits)}")
    items = benchmark.read(path or stored(benchmark, split) or _download(benchmark, split), split)
    if not items:
        raise TokenjouleError(f"{path or benchmark.repository} holds no question of {name}")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise TokenjouleError(f"{path or benchmark.repository}: the id {item.id!r} comes twice")
        seen.add(item.id)
    return items


def stored(benchmark: Benchmark, split: str) -> Path | None:
    """Its file in the test data; None without test data, or where they lack it."""
    root = os.environ.get(DATA)
    if not root:
        return None
    path = Path(root) / "data" / benchmark.stored.format(split=split)
    return path if path.exists() else None


def _file(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def _download(benchmark: Benchmark, split: str) -> Path:
    import huggingface_hub  # slow to import, and not needed for local files

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                benchmark.repository, benchmark.file.format(split=split), repo_type="dataset"
            )
        )
    except Exception as error:  # what its HTTP client raises differs by version
        first = (str(error).strip().splitlines() or [""])[0]
        raise TokenjouleError(
            f"{benchmark.name}: cannot get {benchmark.repository} from the Hub "
            f"({type(error).__name__}: {first}); give a local path"
        ) from error
