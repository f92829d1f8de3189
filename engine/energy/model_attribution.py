"""Joules of each step by a power model: one request fitted together with what is known of the device.

Two figures for every step. The model's: its power times its span, the better estimate. The account's: each
tick's own µJ, distributed over the steps and the idle time in it in proportion to what the model expects of
them there, so that everything adds up to the counter's difference; it carries the noise of its ticks.
"""

import math
from collections.abc import Sequence

import numpy as np

from engine.energy.attribution import Attribution, ModelPhase, StepMark, split
from engine.energy.meter import MICROJOULES_PER_JOULE, Sensor
from engine.energy.power_design import Design
from engine.energy.power_features import Features
from engine.energy.power_fit import fitted
from engine.energy.power_model import NotIdentifiable, PowerModel, Run
from engine.energy.power_trace import Array
from engine.energy.row_parts import row_parts
from engine.energy.sensor_response import Block, blocks
from kernels.cost import Dims

MARK_SD_S = 5e-7  # of a step's marked start and end: the resolution of a CUDA event
_BEHIND = 0.1  # share of a tick's energy from which on it counts as one behind a phase


def attribute_by_model(
    run: Run, sensor: Sensor, power: PowerModel | None, *, dims: Dims | None = None
) -> Attribution:
    """The conserved account and the model's figures, each with deviations, in µJ.

    Deviations hold the coefficients' and that of the marked times (`MARK_SD_S`), not the sensor's gain.
    Without `power` the request is fitted alone. `dims`: of the model that ran, for a step's rows.
    The deviation of an account's step is that of the model and the distance between the two, added in
    squares: the model says what the truth may be, and the account is off from it by so much.

    Raises `NotIdentifiable` where the model does not cover this request's steps or its ticks cannot tell a
    new kind of step, `ValueError` for readings that fall or steps that overlap.
    """
    features = Features.of(run.marks) if power is None else Features.of_model(power).with_new_kinds(run.marks)
    design = Design.of(run, features, sensor)
    found = fitted([run], [design], features, sensor, power)
    spans_s = np.array([mark.end_s - mark.start_s for mark in run.marks])
    rows = design.features * spans_s[:, None]  # (m, p): a step's energy is its row times theta
    try:
        spread = np.asarray(
            np.linalg.cholesky(found.covariance + 1e-18 * np.eye(len(found.theta))), np.float64
        )
    except np.linalg.LinAlgError:
        raise NotIdentifiable("the ticks leave some combination of the powers untold") from None
    model_uj = rows @ found.theta * MICROJOULES_PER_JOULE
    edge_j = math.sqrt(2) * MARK_SD_S * (design.features @ found.theta)  # of a step's two ends
    model_sd_uj = np.hypot(np.linalg.norm(rows @ spread, axis=1), edge_j) * MICROJOULES_PER_JOULE

    gaps = _gaps(run)
    steps_uj, gaps_uj = _account(design, run, gaps, sensor, found.theta)
    total_uj = sum(design.ticks.energy_uj)
    window = rows.sum(axis=0)
    window[0] += sum(stop - start for start, stop in gaps)
    return Attribution(
        steps_uj=steps_uj,
        step_sd_uj=tuple(
            math.hypot(sd, step - model)
            for sd, step, model in zip(model_sd_uj.tolist(), steps_uj, model_uj.tolist(), strict=True)
        ),
        total_uj=total_uj,
        unattributed_uj=total_uj - sum(steps_uj),
        window_uj=sum(steps_uj) + sum(gaps_uj),
        ticks=len(design.energy_j),
        model_uj=tuple(model_uj.tolist()),
        model_sd_uj=tuple(model_sd_uj.tolist()),
        phases=_phases(run.marks, rows, spread, found.theta, design, dims),
        model_window_uj=float(window @ found.theta) * MICROJOULES_PER_JOULE,
        model_window_sd_uj=float(np.linalg.norm(window @ spread)) * MICROJOULES_PER_JOULE,
        doubts=power.doubts if power is not None else (),
    )


def _gaps(run: Run) -> list[tuple[float, float]]:
    """The idle time of the request: before, between and after its steps."""
    edges = [run.start_s, *(time for mark in run.marks for time in (mark.start_s, mark.end_s)), run.end_s]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _account(
    design: Design, run: Run, gaps: Sequence[tuple[float, float]], sensor: Sensor, theta: Array
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(µJ of each step, µJ of each gap): every tick's µJ in proportion to what the model expects in it."""
    power_w = design.features @ theta
    pieces_uj = [0] * (len(run.marks) + len(gaps))
    parts: list[list[tuple[int, Array]]] = [[] for _ in design.ticks.energy_uj]
    for block in design.blocks:
        _collect(parts, block, block.seconds * power_w[block.steps], 0)
    if gaps:
        starts_s, ends_s = (np.array([gap[i] for gap in gaps]) for i in (0, 1))
        for block in blocks(design.ticks, starts_s, ends_s, sensor):
            _collect(parts, block, block.seconds * theta[0], len(run.marks))
    whole_j = np.maximum(design.seconds @ theta, 0.0)
    for energy_uj, part, expected_j in zip(design.ticks.energy_uj, parts, whole_j.tolist(), strict=True):
        seen = [(first, row, np.flatnonzero(row > 0)) for first, row in part]
        numbers = [first + place for first, _, places in seen for place in places.tolist()]
        weights = [weight for _, row, places in seen for weight in row[places].tolist()]
        rest_j = max(expected_j - sum(weights), 0.0)
        shares_uj = split(energy_uj, [*weights, rest_j])
        for number, share_uj in zip(numbers, shares_uj, strict=False):  # the rest is nobody's
            pieces_uj[number] += share_uj
    return tuple(pieces_uj[: len(run.marks)]), tuple(pieces_uj[len(run.marks) :])


def _collect(parts: list[list[tuple[int, Array]]], block: Block, expected_j: Array, offset: int) -> None:
    """Put (number of the first piece, joules expected of each) to every tick of the block."""
    for row, tick in enumerate(range(block.ticks.start, block.ticks.stop)):
        parts[tick].append((block.steps.start + offset, expected_j[row]))


def _phases(
    marks: Sequence[StepMark],
    rows: Array,
    spread: Array,
    theta: Array,
    design: Design,
    dims: Dims | None,
) -> dict[str, ModelPhase]:
    """Each phase's joules by the model; a step of several phases counts for each by its rows' part."""
    names = list(dict.fromkeys(share.phase for mark in marks for share in mark.shares))
    weights = np.zeros((len(marks), len(names)))
    for index, mark in enumerate(marks):
        for share, part in zip(mark.shares, row_parts(mark, dims), strict=True):
            weights[index, names.index(share.phase)] += part
    power_w = design.features @ theta
    seen_j = np.zeros((len(design.energy_j), len(names)))
    for block in design.blocks:
        seen_j[block.ticks] += (block.seconds * power_w[block.steps]) @ weights[block.steps]
    whole_j = design.seconds @ theta
    behind = (seen_j >= _BEHIND * whole_j[:, None]) & (seen_j > 0)
    ends_j = math.sqrt(2) * MARK_SD_S * np.linalg.norm(weights * power_w[:, None], axis=0)
    found = {}
    for column, name in enumerate(names):
        of_phase = weights[:, column] @ rows
        found[name] = ModelPhase(
            float(of_phase @ theta) * MICROJOULES_PER_JOULE,
            float(np.hypot(np.linalg.norm(of_phase @ spread), ends_j[column])) * MICROJOULES_PER_JOULE,
            int(behind[:, column].sum()),
        )
    return found
