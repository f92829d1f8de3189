"""Figure 3: energy and J/token against exactly 1, 2, 4 … 128 new tokens behind identical prompts, with fits.

    python -m bench.experiments.fig3 --model presets --random-weights --out fig3.jsonl --plot fig3.png

E and J/token are fitted apart: over m new tokens J/token = (a + b·m) / (n + m) bends by amortisation alone,
although E is straight. Whether E itself bends is the quadratic term of E. Wilkins' form stands beside, and a
test of the paper's "same shape, different amplitude".
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.arguments import counts
from bench.experiments import experiment, fig3_picture
from bench.experiments.cell_record import ABOVE, by_model, joules, joules_per_token, label
from bench.experiments.curve_table import HEADER, curve, fit_json, shown
from bench.experiments.experiment import Experiment
from bench.experiments.fits import CommonShape, amortised, common_shape, polynomial, wilkins
from bench.experiments.protocol import Cell
from bench.experiments.questions import Questions
from bench.experiments.subject import Subject
from bench.record import Record
from bench.tables import joules as joules_shown
from bench.tables import markdown
from engine.cli import leave

NEW_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT_TOKENS = (64, 512)  # two, so that Wilkins' form can be told


def add_options(cli: argparse.ArgumentParser) -> None:
    """The grid."""
    cli.add_argument("--new-tokens", type=counts, default=NEW_TOKENS, metavar="M,M")
    cli.add_argument("--prompt-tokens", type=counts, default=PROMPT_TOKENS, metavar="N,N")


def cells(options: argparse.Namespace, subject: Subject, questions: Questions) -> list[Cell]:
    """Every number of new tokens behind the same prompt of every length."""
    what = f"text of {questions.name}, turn {questions.turn}"
    return [
        Cell((questions.exactly(subject.tokenizer, tokens),), new, what)
        for tokens in dict.fromkeys(options.prompt_tokens)
        for new in dict.fromkeys(options.new_tokens)
    ]


Curves = dict[tuple[str, int], list[Record]]  # (model, prompt tokens): records by new tokens


def curves(records: Sequence[Record]) -> Curves:
    """Those with joules."""
    found: Curves = {}
    for name, these in by_model(records).items():
        for record in these:
            if joules(record) is not None:
                found.setdefault((name, record.case.context), []).append(record)
    return found


def report(records: Sequence[Record]) -> tuple[str, dict[str, object]]:
    """Fits of E, fits of J/token, Wilkins' form, and whether the shapes agree."""
    found = curves(records)
    energy_rows, token_rows, findings = [], [], {}
    for (name, prompt), these in found.items():
        new = [float(r.case.new_tokens) for r in these]
        fitted = curve(new, [value for r in these if (value := joules(r)) is not None])
        energy_rows.append([name, str(prompt), *fitted.cells(), str(len(new))])
        row, told = _per_token(prompt, new, [v for r in these if (v := joules_per_token(r)) is not None])
        token_rows.append([name, str(prompt), *row])
        findings[f"{name}, {prompt} prompt tokens"] = {"energy": fitted.to_json(), "per_token": told}
    wilkins_rows, wilkins_found = _wilkins(found)
    shape_lines, shapes = _shapes(found)
    parts = [
        markdown(("J of x new tokens", "prompt", *HEADER, "points"), energy_rows),
        markdown(
            ("J/token, Eq. 1", "prompt", "amortisation (a+bm)/(n+m): left", "parabola: left", "parabola: m²"),
            token_rows,
        ),
        markdown(("Wilkins: α0·n + α1·m + α2·n·m", "α0", "α1", "α2", "left"), wilkins_rows),
        *shape_lines,
        markdown(POINTS, [_point(r) for these in by_model(records).values() for r in these]),
    ]
    return "\n\n".join(parts), {"curves": findings, "wilkins": wilkins_found, "common_shape": shapes}


POINTS = ("", "prompt", "new", "J", "less idle", "J/token", "windows", "spread")


def _point(record: Record) -> list[str]:
    derived, case = record.derived, record.case
    found = derived["spread"].value
    wild = " above the limit" if ABOVE in derived["spread"].source else ""
    return [
        label(record),
        str(case.context),
        str(case.new_tokens),
        *(joules_shown(derived[name]) for name in ("energy", "energy_less_idle", "energy_per_token")),
        str(len(record.metrics["request_s"].samples)),
        "" if found is None else f"{found:.1%}{wild}",
    ]


def _per_token(prompt: int, new: Sequence[float], y: Sequence[float]) -> tuple[list[str], dict[str, object]]:
    """Amortisation has one coefficient fewer than a parabola; where it leaves less, nothing else bends."""
    try:
        two, three = amortised(prompt, new, y), polynomial(new, y, 2)
    except ValueError as error:
        return [f"not fitted: {error}", "", ""], {"reason": str(error)}
    told = {"amortisation": fit_json(two), "parabola": fit_json(three)}
    return [f"{two.error:.1%}", f"{three.error:.1%}", shown(three, "x²")], dict(told)


def _wilkins(found: Curves) -> tuple[list[list[str]], dict[str, object]]:
    rows: list[list[str]] = []
    told: dict[str, object] = {}
    for name in dict.fromkeys(name for name, _ in found):
        these = [r for (model, _), records in found.items() if model == name for r in records]
        n, m = [float(r.case.context) for r in these], [float(r.case.new_tokens) for r in these]
        try:
            fit = wilkins(n, m, [value for r in these if (value := joules(r)) is not None])
        except ValueError as error:
            rows.append([name, str(error), "", "", ""])
            told[name] = {"reason": str(error)}
            continue
        rows.append([name, *(shown(fit, term) for term in fit.names), f"{fit.error:.1%}"])
        told[name] = fit_json(fit)
    return rows, told


def _shapes(found: Curves) -> tuple[list[str], dict[str, object]]:
    """For every prompt length, over the models that have the same numbers of new tokens."""
    lines: list[str] = []
    told: dict[str, object] = {}
    for prompt in dict.fromkeys(prompt for _, prompt in found):
        models = {name: records for (name, length), records in found.items() if length == prompt}
        grid = [r.case.new_tokens for r in next(iter(models.values()))]
        alike = {name: rs for name, rs in models.items() if [r.case.new_tokens for r in rs] == grid}
        try:
            shape = common_shape([[r.metrics["energy"].samples for r in rs] for rs in alike.values()])
        except ValueError as error:
            lines.append(f"Same shape, {prompt} prompt tokens: not tested, {error}.")
            told[str(prompt)] = {"reason": str(error)}
            continue
        lines.append(_verdict(prompt, list(alike), shape))
        told[str(prompt)] = {
            "models": list(alike),
            "amplitudes": list(shape.amplitudes),
            "largest_deviation": shape.largest,
            "f": shape.f,
            "freedom": [shape.above, shape.below],
            "p": shape.p,
        }
    return lines, told


def _verdict(prompt: int, names: Sequence[str], shape: CommonShape) -> str:
    factors = ", ".join(f"{name} {a:.3g}" for name, a in zip(names, shape.amplitudes, strict=True))
    if shape.p is None or shape.f is None:
        test = "no test without repeats that scatter"
    else:
        verdict = "rejected" if shape.p < 0.05 else "not rejected"
        test = f"{verdict} at 5 %: F({shape.above}, {shape.below}) = {shape.f:.3g}, p = {shape.p:.2g}"
    return (
        f"Same shape, different amplitude, {prompt} prompt tokens: {test}; the furthest point lies "
        f"{shape.largest:.1%} off the common shape. Amplitudes: {factors}."
    )


def draw(records: Sequence[Record], path: Path) -> None:
    """See `bench.experiments.fig3_picture`."""
    fig3_picture.draw(records, curves(records), path)


EXPERIMENT = Experiment("fig3", __doc__.split("\n\n")[0], add_options, cells, report, draw)
main = partial(experiment.main, EXPERIMENT)

if __name__ == "__main__":
    leave(main(sys.argv[1:]))
