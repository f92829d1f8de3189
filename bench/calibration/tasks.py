"""Which questions a calibration or an experiment asks: `testbed[:CATEGORY,…]`, of a frozen split."""

from pathlib import Path

from bench.testbed.question import CATEGORIES, Question
from bench.testbed.splits import SEALED, open_split
from engine.errors import UsageError


def categories_of(tasks: str) -> tuple[str, ...]:
    """Raises `UsageError` naming what there is."""
    bed, colon, named = tasks.partition(":")
    chosen = tuple(name for name in named.split(",") if name) if colon else CATEGORIES
    unknown = [name for name in chosen if name not in CATEGORIES]
    if bed != "testbed" or unknown or not chosen:
        raise UsageError(f"tasks are testbed[:CATEGORY,…] of {', '.join(CATEGORIES)}, not {tasks!r}")
    return chosen


def questions(
    tasks: str, split: str, per_category: int, *, reason: str | None = None, curve: Path | None = None
) -> list[Question]:
    """So many of each category, the categories in turn.

    `curve`: the operating curve whose rule is applied; the test split needs one, and that it was frozen.
    Raises `UsageError` and as `open_split` does.
    """
    categories = categories_of(tasks)
    if split == SEALED and curve is None:
        raise UsageError(
            f"the {SEALED} split opens to a frozen curve and rule only: name its file with --curve"
        )
    fitted = () if curve is None else (curve,)
    return open_split(split, per_category=per_category, categories=categories, reason=reason, fitted=fitted)


def refuse_test(splits: set[str]) -> None:
    """What is fitted, thresholds and all, never sees the test questions. Raises `UsageError`."""
    if SEALED in splits:
        raise UsageError(f"nothing is fitted to the {SEALED} split: it only tells how good a fit is")
