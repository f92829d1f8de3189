"""Joules of a stored text: from an operating curve, or from what others measured per token. Never measured
here.

`Served`: ML.ENERGY's leaderboard v2, J/request over output tokens of whole serving runs (its prefill is
inside), by model, GPU and batch. A model that the table does not hold has no joules.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.energy.curve import OperatingCurve
from engine.energy.curve_store import load_curve
from engine.errors import TokenjouleError

GPU, BATCH = "H100", 64


class Joules(Protocol):
    """`note`: what the joules are, for every table and record."""

    @property
    def note(self) -> str: ...

    def of(self, prompt_tokens: int, new_tokens: int) -> float: ...


@dataclass(frozen=True)
class ByCurve:
    """An operating curve's own model and device, whatever model wrote the texts."""

    curve: OperatingCurve
    note: str

    def of(self, prompt_tokens: int, new_tokens: int) -> float:
        return self.curve.predict(max(prompt_tokens, 1), max(new_tokens, 1))[0]


@dataclass(frozen=True)
class Served:
    """A measured mean of a serving run. `where`: on what, and whose measurement."""

    per_token_j: float
    note: str
    where: str = ""

    def of(self, prompt_tokens: int, new_tokens: int) -> float:
        return self.per_token_j * new_tokens


def by_curve(path: Path) -> ByCurve:
    """Raises as `load_curve`."""
    curve = load_curve(path)
    worth = f"by {curve.fits.source}" + ("" if curve.measured else ", not measured")
    return ByCurve(
        curve,
        f"operating curve of {curve.fits.model} on {curve.fits.device} ({worth}); not measured on the texts",
    )


def served(path: Path, model: str, *, gpu: str = GPU, batch: int = BATCH) -> Served | None:
    """What the table has for a model: on `gpu`, at most `batch` requests at once, the fewest GPUs.

    Some of its runs were limited to 63 or 127 requests where the others had 64 or 128: those are taken for
    the same. None where it has none. Raises `TokenjouleError` for a file that is no such table.
    """
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)["record"]
            near = 0 <= batch - record["Max BS (reqs)"] <= batch // 64
            if _same(record["Model"], model) and gpu in record["GPU"] and near:
                found.append(record)
        if not found:
            return None
        best = min(found, key=lambda record: (record["TP"] * record["PP"], record["Energy/req (J)"]))
        gpus = best["TP"] * best["PP"]
        per_token_j = best["Energy/req (J)"] / best["Avg Output Tokens"]
    except OSError as error:
        raise TokenjouleError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TokenjouleError(f"{path} is no table of ML.ENERGY's leaderboard: {error!r}") from error
    on = f"{gpus} × {best['GPU']}, batch {best['Avg BS (reqs)']:.0f}"
    note = f"{per_token_j:.3g} J/token, ML.ENERGY leaderboard v2, {best['Model']} on {on}; not measured here"
    return Served(per_token_j, note, f"ML.ENERGY leaderboard v2, {on}")


def _same(listed: str, model: str) -> bool:
    """Whether two spellings name one model: without owner, "Meta-", "Instruct", separators."""
    return _plain(listed) == _plain(model)


def _plain(name: str) -> str:
    words: Sequence[str] = re.split(r"[^a-z0-9.]+", name.lower().rpartition("/")[2])
    return "-".join(word for word in words if word not in ("meta", "instruct", "it", "4k", "v0.1", "2407"))
