"""Tables and picture of replayed points, from their lines and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.experiments import picture
from bench.tables import markdown

Line = Mapping[str, Any]
ALL = "all"
NO_JOULES = "no joules: nothing was measured for this model"


def report(lines: Sequence[Line]) -> str:
    """A table for each file's budgets and for each file's votes, the whole benchmark alone, and where it is
    from.
    """
    parts = ["Replayed from stored outputs; joules NOT MEASURED here."]
    for (source, model), points in _grouped(lines, "budget").items():
        whole = [point for point in points if point["category"] == ALL]
        header = (
            f"{source}, {model}",
            "right",
            "finished",
            "right of finished",
            "finished, no answer",
            "tokens",
            "J/question",
        )
        rows = [
            [
                "no budget" if p["budget"] is None else f"{p['budget']} tokens",
                spread(p["right"], "{:.3f}"),
                f"{p['finished']:.3f}",
                "" if p["finished_right"] is None else f"{p['finished_right']:.3f}",
                f"{p['unanswered']:.3f}",
                f"{p['tokens']:.0f}",
                spread(p["energy_j"], "{:.3g}"),
            ]
            for p in whole
        ]
        parts += [markdown(header, rows), _about(whole[0], f"{whole[0]['questions']} questions")]
    for (source, model), points in _grouped(lines, "vote").items():
        named = (f"{source}, {model}", "right", "samples", "tokens", "J/question", "no answer")
        rows = [
            [
                p["policy"],
                spread(p["right"], "{:.3f}"),
                f"{p['samples']:.2f}",
                f"{p['tokens']:.0f}",
                spread(p["energy_j"], "{:.3g}"),
                f"{p['undecided']:.3f}",
            ]
            for p in points
        ]
        parts += [markdown(named, rows), _about(points[0], f"{points[0]['questions']} questions")]
    return "\n\n".join([*parts, *_origins(lines)])


def draw(lines: Sequence[Line], path: Path) -> None:
    """Share of right answers against tokens; a panel for each source. Raises `TokenjouleError`."""
    panels: dict[tuple[str, str], dict[tuple[str, str], list[Line]]] = {}
    for kind in ("budget", "vote"):
        for key, points in _grouped(lines, kind).items():
            whole = [point for point in points if point["category"] == ALL]
            panels.setdefault((key[0], kind), {})[key] = whole

    def fill(figure: Any) -> None:
        across = min(len(panels), 2)
        axes = figure.subplots(-(-len(panels) // across), across, squeeze=False).ravel()
        for place, ((source, kind), curves) in zip(axes, panels.items(), strict=False):
            (_budgets if kind == "budget" else _votes)(place, source, curves)
        for place in axes[len(panels) :]:
            place.set_axis_off()

    title = (
        "Replayed outputs: right answers against tokens\nnothing was measured; cut texts count as not right"
    )
    height = 0.9 + 4.0 * -(-len(panels) // 2)
    picture.finish(path, (11, height), fill, title, picture.wrapped(" ".join(_origins(lines)), 200))


def _budgets(axes: Any, source: str, curves: Mapping[tuple[str, str], Sequence[Line]]) -> None:
    style = picture.styles([model for _, model in curves])
    for (_, model), points in curves.items():
        tokens = [p["tokens"] for p in points]
        right = [p["right"]["value"] for p in points]
        axes.plot(tokens, right, lw=1, ms=3, label=model, **style[model])
    axes.set_title(f"{source}: a budget of tokens, right only if finished", fontsize=9)
    _finish(axes, "tokens per question", "upper left")


def _votes(axes: Any, source: str, curves: Mapping[tuple[str, str], Sequence[Line]]) -> None:
    kinds = ("fixed", "adaptive", "window")
    style = picture.styles(kinds)
    for (_, model), points in curves.items():
        for kind in kinds:
            these = [p for p in points if p["rule"]["kind"] == kind]
            tokens = [p["tokens"] for p in these]
            right = [p["right"]["value"] for p in these]
            axes.plot(tokens, right, lw=1 if kind == "fixed" else 0, ms=4, label=kind, **style[kind])
        axes.set_title(f"{source}: votes, {model}", fontsize=9)
    axes.set_xscale("log", base=2)
    _finish(axes, "tokens of all samples, per question", "lower right")
    top = max(p["right"]["value"] for points in curves.values() for p in points)
    axes.set_ylim(0, min(1.3 * top, 1.03))


def _finish(axes: Any, name: str, legend: str) -> None:
    axes.set_xlabel(name, fontsize=8)
    axes.set_ylabel("right", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False, loc=legend)


def _grouped(lines: Iterable[Line], kind: str) -> dict[tuple[str, str], list[Line]]:
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line["kind"] == kind:
            found.setdefault((line["source"], line["model"]), []).append(line)
    return found


def _about(line: Line, questions: str) -> str:
    joules = line["joules"] or NO_JOULES
    return f"{questions}; tokens counted by {line['tokens_by']}; prompt: {line['prompt']}; {joules}."


def _origins(lines: Iterable[Line]) -> list[str]:
    return [
        f"{line['stamp']['utc'][:10]}, commit {(line['stamp']['commit'] or 'unknown')[:9]}. "
        f"`{' '.join(line['stamp']['command'])}`"
        for line in lines
        if line["kind"] == "run"
    ]


def spread(value: Mapping[str, float | None], form: str) -> str:
    """A number with its interval."""
    if value["value"] is None:
        return ""
    text = form.format(value["value"])
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} ({form.format(value['low'])} to {form.format(value['high'])})"
