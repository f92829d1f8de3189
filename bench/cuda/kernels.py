"""Every decode kernel by itself, cold, in one graph: µs, GB/s, share of the read bandwidth, and peers."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from bench.bandwidth import Reader
from bench.cuda.device_time import graph_timed
from bench.cuda.readers import emit_reader, fastest_readers
from bench.cuda.setting import Setting, arm_of, near
from bench.cuda.stage_peers import Peer, attention_peers, product_peers
from bench.cuda.stage_work import StageWork, stage_work
from bench.record import Arm, Case, Metric, Record, Value
from bench.stages import Subject, last_level_cache, subject
from bench.timing import Timed, WrongAnswer, interleave, ratio
from engine.locate import locate
from engine.source import read_config
from kernels.api import load
from kernels.cost import Cost
from kernels.gpu.backend import GpuBackend

ROUNDS, CASE_S = 15, 3.0
# The ones that what must hold is about come first: (stage, rows, context), None for the longest.
CASES: tuple[tuple[str, int, int | None], ...] = (
    ("gate_up", 1, 128),
    ("head_select", 1, 128),
    ("attention", 8, None),
    ("down", 1, 128),
    ("attention_input", 1, 128),
    ("attention_output", 1, 128),
    ("attention", 1, None),
    ("attention", 1, 1024),
    ("gate_up", 8, 128),
    ("head_select", 8, 128),
)
COMPILED = ("gate_up", "head_select", "attention")
COMPILE_S = 60.0  # a peer that compiles begins only with so much of the part left


def run(setting: Setting) -> None:
    """The large model first, then the small one, then packed weights of the large one."""
    backend = load("gpu", setting.device)
    assert isinstance(backend, GpuBackend)
    readers = fastest_readers(setting)
    on_device = setting.device.type == "cuda"
    cases = CASES if on_device else CASES[:1]
    plan = [(model, "none") for model in reversed(setting.scale.models)]
    if on_device:
        plan += [(setting.scale.models[-1], scheme) for scheme in ("int8", "int4")]
    for model, scheme in plan:
        where = locate(model)
        config = read_config(where, random_weights=where.preset is not None)
        given = subject(config, torch.bfloat16, scheme, setting.device)
        for stage, rows, context in cases:
            if scheme != "none" and stage == "attention":
                continue
            long = (
                max(setting.scale.contexts) if context is None else min(context, max(setting.scale.contexts))
            )
            case = Case(where.id, True, stage, rows, long, 1, _shape(given, stage))
            try:
                _measure(setting, backend, given, case, readers)
            except Exception as error:  # of one stage; the others go on
                arm = arm_of(setting, scheme, f"gpu {scheme}")
                setting.failed(arm, case, error, f"{where.id} {stage} {scheme} {rows}x{long}", metric="run_s")
            _forget(setting)


def _shape(given: Subject, stage: str) -> tuple[int, ...]:
    names = {"gate_up": given.layer.gate_up, "down": given.layer.down}
    if stage in names:
        return tuple(names[stage].shape)
    return given.shape("head_logits" if stage.startswith("head") else stage)


def _measure(
    setting: Setting, backend: GpuBackend, given: Subject, case: Case, readers: Sequence[Reader]
) -> None:
    """One stage: ours, ours without dependent launch, and the peers whose answers are right."""
    name = f"{case.model} {case.phase} {given.scheme} {case.rows}x{case.context}"
    cache_bytes = setting.scale.cache_bytes
    if cache_bytes is None:
        cache_bytes = last_level_cache(setting.device)
    arms: list[tuple[Arm, Timed, Cost]] = []
    group = setting.group(name)

    def add(
        arm: Arm, call: Callable[[int], object], copies: int, check: Callable[[], None], cost: Cost
    ) -> None:
        try:
            timed = graph_timed(arm.name, call, copies, setting.device, check=check)
        except Exception as error:
            setting.failed(arm, case, error, name, metric="run_s")
            return
        arms.append((arm, timed, cost))

    work: StageWork | None = None
    for dependent in (True, False) if backend.chip.dependent else (False,):
        backend.dependent = dependent
        label = f"gpu {given.scheme}" + (
            "" if dependent == backend.chip.dependent else ", no dependent launch"
        )
        mine = stage_work(backend, given, case.phase, case.rows, case.context, cache_bytes=cache_bytes)
        note = f"{mine.copies} copies, {mine.copies * mine.cost.bytes / 1e6:.0f} MB"

        def check(mine: StageWork = mine) -> None:
            mine.call(0)
            setting.synchronise()
            _same(mine.answer(), mine.expected(), mine.share)

        arm = replace(arm_of(setting, given.scheme, label, note), backend="gpu")
        add(arm, mine.call, mine.copies, check, mine.cost)
        work = work or mine
    backend.dependent = backend.chip.dependent
    assert work is not None
    for peer in _peers(setting, work, given, case) if given.scheme == "none" else ():
        arm = Arm(peer.name, "torch", peer.backend, "none", "bfloat16")

        def right(peer: Peer = peer, share: float = work.share) -> None:
            found = peer.call(0)
            setting.synchronise()
            _same(found, peer.expected(), share)

        add(arm, peer.call, work.copies, right, work.cost)
    if not arms:
        return
    timed = [*(t for _, t, _ in arms), *(reader.timed for reader in readers)]
    taken = interleave(
        timed,
        rounds=ROUNDS if setting.device.type == "cuda" else 2,
        synchronise=setting.synchronise,
        budget_s=CASE_S,
    )
    best = min(readers, key=lambda reader: median(taken[reader.timed.name]) / reader.bytes)
    read = [seconds / best.bytes for seconds in taken[best.timed.name]]
    for reader in readers:
        emit_reader(setting, reader, taken[reader.timed.name], group)
    for arm, one, cost in arms:
        samples = taken[one.name]
        share = ratio(read, [seconds / cost.bytes for seconds in samples])
        took_s = median(samples)
        derived = {
            "bandwidth": Value("B/s", cost.bytes / took_s, source="kernels.cost"),
            "compute": Value("FLOP/s", cost.flops / took_s, source="kernels.cost"),
            "bytes": Value("B", cost.bytes, source="kernels.cost"),
            "roofline_share": Value("1", share.medians, share.low, share.high, best.timed.name),
        }
        metrics = {"run_s": Metric("s", tuple(samples))}
        setting.emit(Record(setting.benchmark, setting.where, arm, case, group, metrics, derived))
        setting.say(f"{name}: {arm.name} {took_s * 1e6:.2f} µs, {share.medians:.1%} of read")


def _peers(setting: Setting, work: StageWork, given: Subject, case: Case) -> Iterator[Peer]:
    left_s = setting.until_s - time.monotonic()
    compiles = (
        setting.scale.compiles and case.phase in COMPILED and case.rows in (1, 8) and left_s > COMPILE_S
    )
    if case.phase == "attention":
        return attention_peers(work, given.config.attention_shape(0), compiles=compiles)
    return product_peers(work, compiles=compiles)


def _same(found: Tensor, expected: Tensor, share: float) -> None:
    error, allowed = near(found, expected, share)
    if not error <= allowed:
        raise WrongAnswer(f"off by {error:.3g}, {allowed:.3g} is allowed")


def _forget(setting: Setting) -> None:
    """The copies of a case are gone before the next ones are made."""
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
