"""MMLU's 57 subjects in the paper's eight clusters, by a mapping of ours: theirs is unpublished.

    python -m bench.benchmarks.clusters --mmlu mmlu.zip

prints each cluster's subjects and number of questions, and what no cluster takes. The mapping is
`mmlu_clusters.json`: MMLU's own subcategories (categories.py of the authors' repository), each whole.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from bench.benchmarks.load import load_items
from bench.benchmarks.mmlu import NAME, SPLITS
from bench.tables import markdown
from engine.cli import Parser, guarded, leave
from engine.strict import read_text

FILE = Path(__file__).parent / "mmlu_clusters.json"
UNASSIGNED = "unassigned"


@cache
def clusters() -> Mapping[str, tuple[str, ...]]:
    """Cluster to its subjects, in the order of the paper's table."""
    return {name: tuple(subjects) for name, subjects in json.loads(read_text(FILE))["clusters"].items()}


def cluster_of(subject: str) -> str | None:
    """The cluster of a subject; None for one that no cluster takes."""
    return next((name for name, subjects in clusters().items() if subject in subjects), None)


def table(counts: Mapping[str, int]) -> tuple[str, dict[str, object]]:
    """Markdown and plain findings from the number of questions by subject."""
    rows, found = [], {}
    loose = sorted(subject for subject in counts if cluster_of(subject) is None)
    for name, subjects in [*clusters().items(), (UNASSIGNED, tuple(loose))]:
        here = [subject for subject in subjects if subject in counts]
        questions = sum(counts[subject] for subject in here)
        rows.append([name, str(questions), str(len(here)), ", ".join(here)])
        found[name] = {"questions": questions, "subjects": here}
    missing = sorted(s for subjects in clusters().values() for s in subjects if s not in counts)
    return markdown(("Cluster", "questions", "subjects", "which"), rows), {
        "clusters": found,
        "missing": missing,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(argv))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(
        prog="bench.benchmarks.clusters",
        description=(__doc__ or "").split("\n\n")[0],
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_argument("--mmlu", type=Path, metavar="PATH", help="default: the test data, else the Hub")
    cli.add_argument("--split", choices=SPLITS, default="test")
    return cli


def _main(argv: Sequence[str] | None) -> int:
    options = parser().parse_args(argv)
    items = load_items(NAME, options.mmlu, options.split)
    text, found = table(Counter(item.category for item in items))
    print(text, end="\n\n")
    print(json.dumps({"schema": "tokenjoule.bench.clusters/1", "split": options.split, **found}))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
