"""The picture of a characterised sensor: true power, readings, model, what is left, and the lag's profile."""

from pathlib import Path
from typing import Any

import numpy as np

from bench.characterise import Characterisation
from engine.energy.power_trace import Array, PowerTrace, Smoothed
from engine.energy.sensor_fit import half_way
from engine.energy.sensor_verdict import switches
from engine.errors import TokenjouleError
from engine.plot import check_plot

# Okabe and Ito's palette for colour-blind readers.
TRUE, SENSOR, MODEL, LOAD = "#999999", "#0072B2", "#D55E00", "#F0E442"
_POINTS = 4000  # of the true power: more than a picture has columns


def draw_sensor(found: Characterisation, path: Path) -> None:
    """Write the picture. Raises `TokenjouleError` where it cannot be drawn or written."""
    check_plot(str(path))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times_s, _ = found.recording.channels[found.channel]
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    rows: dict[str, Any] = figure.subplot_mosaic([["whole", "whole"], ["first", "second"], ["left", "lag"]])
    span = (float(times_s[0]), float(times_s[-1]))
    _draw_power(rows["whole"], found, span)
    rows["whole"].set_title(_title(found), fontsize=10, loc="left")
    handles, labels = rows["whole"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    for name, zoom in zip(("first", "second"), _zooms(found, span), strict=True):
        _draw_power(rows[name], found, zoom)
    _draw_left(rows["left"], found, span)
    _draw_profile(rows["lag"], found)
    for axes in rows.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise TokenjouleError(f"cannot write {path}: {error}") from error


def _title(found: Characterisation) -> str:
    shown = {"period": "period_ms", "window": "window_ms", "lag": "lag_ms"}
    parts = [f"{name} {_number(found.figures.get(key))} ms" for name, key in shown.items()]
    if found.figures.get("gain") is not None:
        parts.append(f"gain {found.figures['gain']:.3f}, offset {found.figures['offset_w']:.1f} W")
    parts.append(f"residual {_number(found.figures.get('rmse_w'), '.2g')} W")
    gpu = f" ({found.recording.gpu})" if found.recording.gpu else ""
    return f"{found.recording.path.name}, channel {found.channel}{gpu}\n" + " · ".join(parts)


def _number(value: float | None, form: str = ".1f") -> str:
    return "?" if value is None else format(value, form)


def _draw_power(axes: Any, found: Characterisation, span: tuple[float, float]) -> None:
    """True power, polled readings and the model's readings at the updates, within a span of time."""
    times_s, readings = found.recording.channels[found.channel]
    low_s, high_s = span
    marks_s = found.recording.marks_s
    for index in range(0, len(marks_s) - 1, 2):
        label = "load" if index == 0 else None
        axes.axvspan(marks_s[index], marks_s[index + 1], color=LOAD, alpha=0.25, lw=0, label=label)
    meter = found.recording.meter
    if meter is not None:
        at_s, power_w = _thinned(meter, span)
        axes.plot(at_s, power_w, color=TRUE, lw=0.8, label="external meter")
    if found.channel != "counter":
        axes.step(times_s, readings, where="post", color=SENSOR, lw=1.2, label="sensor, as polled")
    if found.updates is not None and len(found.updates.times_s):
        inside = (found.updates.times_s >= low_s) & (found.updates.times_s <= high_s)
        updates = found.updates.part(inside)
        axes.plot(updates.times_s, updates.readings, "o", ms=2.5, color=SENSOR, label="its updates")
        shown = found.shown(updates.times_s)
        if shown is not None:
            axes.plot(updates.times_s, shown, "x", ms=4.5, mew=1, color=MODEL, label="model")
    axes.set_xlim(low_s, high_s)
    axes.set_ylabel("W", fontsize=9)
    axes.set_xlabel("s", fontsize=9)


def _thinned(meter: PowerTrace, span: tuple[float, float]) -> tuple[Array, Array]:
    """The meter's means over as many stretches as a picture can show; no stretch shorter than 1 ms."""
    low_s, high_s = max(span[0], meter.start_s), min(span[1], meter.end_s)
    if high_s <= low_s:
        return np.array([]), np.array([])
    width_s = max((high_s - low_s) / _POINTS, 0.001)
    ends_s = np.arange(low_s + width_s, high_s, width_s)
    return ends_s - width_s / 2, Smoothed(meter).mean(ends_s, width_s)


def _zooms(found: Characterisation, span: tuple[float, float]) -> list[tuple[float, float]]:
    """Six periods around the first and the last switching of the true power, or of the readings."""
    period_s = (found.updates.period_s if found.updates else 0.0) or (span[1] - span[0]) / 50
    window_s = found.fit.kernel.window_s if found.fit else found.model.window_s if found.model else 0.0
    reach_s = 3 * max(period_s, window_s / 2)
    trace = found.recording.meter or found.recording.load()
    edges_s = switches(trace) if trace else np.array([])
    if len(edges_s) == 0 and found.updates is not None and len(found.updates.times_s) > 2:
        edges_s = np.array([half_way(found.updates)])
    centres = (float(edges_s[0]), float(edges_s[-1])) if len(edges_s) else span
    return [(centre - reach_s / 2, centre + 1.5 * reach_s) for centre in centres]


def _draw_left(axes: Any, found: Characterisation, span: tuple[float, float]) -> None:
    shown = found.shown(found.updates.times_s) if found.updates else None
    axes.set_xlim(*span)
    axes.set_xlabel("s", fontsize=9)
    axes.set_ylabel("sensor − model, W", fontsize=9)
    if shown is None or found.updates is None:
        axes.text(0.5, 0.5, "no model", transform=axes.transAxes, ha="center")
        return
    axes.axhline(0, color="black", lw=0.6)
    left_w = found.updates.readings - shown
    axes.vlines(found.updates.times_s, 0, left_w, color=SENSOR, lw=1)
    if found.fit is not None:
        axes.axvline(half_way(found.updates), color=MODEL, lw=1, ls="--")
        axes.text(
            half_way(found.updates),
            1.0,
            " held out →",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
            color=MODEL,
            va="bottom",
        )


def _draw_profile(axes: Any, found: Characterisation) -> None:
    axes.set_xlabel("lag, ms", fontsize=9)
    axes.set_ylabel("least residual, W", fontsize=9)
    if found.fit is None:
        text = "the sensor was given, nothing was fitted" if found.model else found.reason or ""
        axes.set_axis_off()
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", wrap=True, fontsize=9)
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    lags_ms = found.fit.lags_s * 1e3
    axes.plot(lags_ms, found.fit.lag_rmse_w, color=SENSOR, lw=1.2, label="all readings")
    if found.fit.inside_rmse_w is not None:
        axes.plot(lags_ms, found.fit.inside_rmse_w, color=SENSOR, lw=1, ls="--", label="inside the wave")
        axes.legend(fontsize=8, frameon=False, loc="best")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.plot([found.fit.lag_s * 1e3], [found.fit.rmse_w], "x", color=MODEL)
    axes.axhline(found.fit.nearly_w, color=MODEL, lw=0.8, ls=":")
    verdict = "identifiable" if found.identifiable else f"NOT identifiable: {found.reason}"
    axes.set_title(verdict, fontsize=8, loc="left", wrap=True)
