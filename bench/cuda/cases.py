"""Contenders interleaved in one case, with the fastest readers beside them: records of time and of joules."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median

from bench.bandwidth import Reader
from bench.cells import Cell, started
from bench.contender import Contender, Filled, fill
from bench.cuda.device_source import DeviceSource
from bench.cuda.loop_contender import ROOM
from bench.cuda.readers import emit_reader
from bench.cuda.setting import Setting, first_line
from bench.joules import joules_per_token
from bench.record import Arm, Case, Record, Value
from bench.timing import interleave
from engine.energy import measure

NO_JOULES = Value("J/tok", None, reason="no block of joules was run in this case")


def filled(
    setting: Setting, source: DeviceSource, rows: int, context: int, *, shared: bool = False
) -> Filled:
    """A cache on the device such that the last step of a sample has `context` positions."""
    steps = setting.scale.steps
    return fill(
        source.config,
        source.dtype,
        rows,
        context - 1 - steps,
        room=steps + ROOM,
        device=setting.device,
        shared=shared,
    )


def made(setting: Setting, arm: Arm, case: Case, make: Callable[[], Contender]) -> Contender | None:
    """A contender; None, and a record that says why, where it cannot be loaded."""
    try:
        return make()
    except Exception as error:  # of one arm; the others go on
        setting.failed(arm, case, error, "load")
        return None


def run_case(
    setting: Setting,
    arms: Sequence[Contender],
    cache: Filled,
    case: Case,
    name: str,
    readers: Sequence[Reader],
    *,
    joules: bool = False,
    rounds: int | None = None,
) -> list[Record]:
    """The arms of one case, answers checked, interleaved; their records, which are written already."""
    scale, group = setting.scale, setting.group(name)

    def drop(contender: Contender, reason: str) -> None:
        setting.failed(contender.arm, case, reason, name)

    with ExitStack() as held:
        cells = list(started(arms, cache, case, scale.steps, held, drop, tolerate=Exception))
        if not cells:
            return []
        timed = [*(cell.timed(scale.steps) for cell in cells), *(reader.timed for reader in readers)]
        taken = interleave(
            timed,
            rounds=rounds or scale.rounds,
            synchronise=setting.synchronise,
            budget_s=scale.case_s * max(len(cells), 2) / 2,
        )
        best = min(readers, key=lambda reader: median(taken[reader.timed.name]) / reader.bytes)
        read = [seconds / best.bytes for seconds in taken[best.timed.name]]
        for reader in readers:
            emit_reader(setting, reader, taken[reader.timed.name], group)

        def record(cell: Cell, energy: Value) -> Record:
            return cell.record(
                setting.where,
                group,
                taken[cell.name],
                best.timed.name,
                read,
                energy,
                benchmark=setting.benchmark,
            )

        for cell in cells:
            took_s, n = median(taken[cell.name]), len(taken[cell.name])
            setting.say(f"{name}: {cell.contender.arm.name} {took_s * 1e6:.1f} µs a step, {n} rounds")
        # Times first, in case the joules do not come to an end; a record with joules then takes its place.
        records = [record(cell, NO_JOULES) for cell in cells]
        setting.emit(*records)
        if joules and scale.energy_s:
            records = [record(cell, block_j(setting, cell)) for cell in cells]
            setting.emit(*records)
    return records


def block_j(setting: Setting, cell: Cell) -> Value:
    """Joules per token of a block of steps long enough for the meter, on a ledger of its own."""
    decoding, scale, tokens = cell.decoding, setting.scale, 0
    try:
        with measure(setting.energy_source, cuda_device=setting.cuda_device) as window:
            decoding.ready()
            setting.synchronise()
            window.skip()
            begun_s = time.monotonic()
            while time.monotonic() - begun_s < scale.energy_s:
                for _ in range(scale.steps):
                    decoding.step()
                decoding.rollback()
                tokens += scale.steps * cell.case.rows
            setting.synchronise()
            window.mark("decode", tokens=tokens)
        return joules_per_token(window.report, "decode", tokens)
    except Exception as error:  # the times are worth having without
        return Value("J/tok", None, reason=first_line(error))
