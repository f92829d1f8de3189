"""Parallel sampling: rows that share a prompt, step time over one row's, and whether rows change each other.

Where it pays by `kernels.gpu.shared_prefix.pays`, a step reads the shared keys and values once for all rows;
the note of the arm says so. The attention alone is timed both ways, which tells where it pays indeed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from bench.bandwidth import Reader
from bench.cells import Cell, started
from bench.contender import fill
from bench.cuda.cases import NO_JOULES, block_j, filled
from bench.cuda.checks import check
from bench.cuda.decode import ours
from bench.cuda.device_source import DeviceSource
from bench.cuda.device_time import graph_timed
from bench.cuda.readers import emit_reader, fastest_readers
from bench.cuda.setting import Setting, arm_of, near, spread
from bench.record import Case, Record, Value
from bench.timing import WrongAnswer, interleave, ratio
from engine.engine import Engine
from engine.model import PAGE_SIZE

ROUNDS = 9


def run(setting: Setting) -> None:
    """The small model, then the large one."""
    readers = fastest_readers(setting)
    for model in setting.scale.models:
        source = DeviceSource.open(model, setting.device, torch.bfloat16)
        _steps(setting, source, readers)
        for rows in (count for count in setting.scale.rows if count > 1 and setting.backend == "gpu"):
            _kernels(setting, source, rows)
    _alone(setting)


def _steps(setting: Setting, source: DeviceSource, readers: list[Reader]) -> None:
    """Every number of rows is an arm of one group, so that steps are compared round by round."""
    scale, group = setting.scale, setting.group(f"{source.model} shared prompt {setting.scale.prompt}")
    own = ours(setting, source)
    cells: list[Cell] = []
    with ExitStack() as held:
        for rows in scale.rows:
            cache = filled(setting, source, rows, scale.prompt, shared=True)
            case = Case(source.model, source.shape_only, "decode", rows, scale.prompt)

            def drop(_: object, reason: str, case: Case = case) -> None:
                setting.failed(own.arm, case, reason, "shared prompt")

            cells += started([own], cache, case, scale.steps, held, drop, tolerate=Exception)
        timed = [*(cell.timed(scale.steps) for cell in cells), *(reader.timed for reader in readers)]
        taken = interleave(
            timed,
            rounds=min(scale.rounds, ROUNDS),
            synchronise=setting.synchronise,
            budget_s=2 * scale.case_s,
        )
        best = readers[0]
        read = [seconds / best.bytes for seconds in taken[best.timed.name]]
        for reader in readers:
            emit_reader(setting, reader, taken[reader.timed.name], group)
        for cell in cells:
            energy = NO_JOULES
            if scale.energy_s and cell.case.rows in (1, 8):
                energy = block_j(setting, cell)
            record = cell.record(
                setting.where,
                group,
                taken[cell.name],
                best.timed.name,
                read,
                energy,
                benchmark=setting.benchmark,
            )
            setting.emit(record)
            took_s = record.metrics["step_s"].median or 0.0
            setting.say(f"{source.model}: {cell.case.rows} rows, {took_s * 1e6:.1f} µs a step")


def _kernels(setting: Setting, source: DeviceSource, rows: int) -> None:
    """Attention of a shared prompt: each row by itself beside the prefix read once, in a graph."""
    from kernels.gpu.attention import decode_attention
    from kernels.gpu.attention_scratch import AttentionScratch
    from kernels.gpu.rows import Rows
    from kernels.gpu.shared_prefix import SharedPrefixScratch, most_shared_queries, shared_prefix_attention

    config, device, prompt = source.config, setting.device, setting.scale.prompt
    shape, layers = config.attention_shape(0), min(config.n_layers, 16)
    if rows * (shape.n_heads // shape.n_kv_heads) > most_shared_queries(source.dtype):
        return
    few = replace(config, n_layers=layers, windows=config.windows[:layers])
    held = fill(few, source.dtype, rows, prompt, device=device, shared=True)
    layout = held.cache.extend(dict.fromkeys(held.ids, 1))
    pages = torch.stack([row.pages for row in layout.rows]).to(torch.int32)
    nothing = torch.zeros(1, 1, device=device)
    prefix = torch.tensor([prompt], dtype=torch.int32, device=device)
    batch = Rows(layout.positions.to(torch.int32), pages, nothing, nothing, PAGE_SIZE, prefix)
    q = torch.randn(rows, config.n_heads, config.head_dim, device=device).to(source.dtype)
    own = AttentionScratch.make(rows, shape, pages.shape[1] * PAGE_SIZE, device)
    shared = SharedPrefixScratch.make(rows, shape, prompt, 64, device)
    outs = {name: torch.zeros_like(q) for name in ("each row", "shared prefix")}

    def each(index: int) -> None:
        cache = held.cache.layers[index]
        out = outs["each row"]
        decode_attention(q, cache.keys, cache.values, batch, shape, own, out, dependent=False)

    def once(index: int) -> None:
        cache = held.cache.layers[index]
        out = outs["shared prefix"]
        shared_prefix_attention(q, cache.keys, cache.values, batch, shape, shared, out, dependent=False)

    case = Case(source.model, True, "attention of a shared prompt", rows, prompt)
    try:
        _time_both(setting, case, {"each row": each, "shared prefix": once}, outs, layers)
    except Exception as error:
        setting.failed(arm_of(setting, "none", "shared prefix"), case, error, "attention", metric="run_s")


def _time_both(
    setting: Setting,
    case: Case,
    calls: dict[str, Callable[[int], None]],
    outs: dict[str, Tensor],
    layers: int,
) -> None:
    for call in calls.values():
        call(0)
    setting.synchronise()
    error, allowed = near(outs["shared prefix"], outs["each row"], 2.0**-6)
    if not error <= allowed:
        raise WrongAnswer(f"off by {error:.3g}, {allowed:.3g} is allowed")
    timed = [graph_timed(name, call, layers, setting.device) for name, call in calls.items()]
    rounds = ROUNDS if setting.device.type == "cuda" else 2
    taken = interleave(timed, rounds=rounds, synchronise=setting.synchronise)
    gain = ratio(taken["each row"], taken["shared prefix"])
    group = setting.group(f"{case.model} attention {case.rows}")
    for name in calls:
        derived = (
            {"times_each_row": Value("1", gain.medians, gain.low, gain.high)} if name != "each row" else {}
        )
        arm = arm_of(setting, "none", name)
        setting.emit(
            Record(
                setting.benchmark, setting.where, arm, case, group, {"run_s": spread(taken[name])}, derived
            )
        )
    setting.say(
        f"{case.model}: attention of {case.rows} rows, shared prefix {gain.medians:.2f} times as fast"
    )


def _alone(setting: Setting) -> None:
    """Greedy tokens of rows by themselves and of the same rows in a batch, in whole engines."""
    on_device = setting.device.type == "cuda"
    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17], [3]]
    new = 48 if on_device else 3
    model = setting.scale.models[0]
    preset = model is not None and model.startswith("preset:")

    def found() -> tuple[float, float]:
        with Engine.load(
            model,
            random_weights=preset,
            backend=setting.backend,
            device=setting.cuda_device if on_device else "cpu",
            energy_source=setting.energy_source,
        ) as engine:
            together = [
                r.token_ids for r in engine.generate_many(prompts, max_new_tokens=new, ignore_eos=True)
            ]
            alone = [engine.generate(p, max_new_tokens=new, ignore_eos=True).token_ids for p in prompts]
        return float(sum(one != other for one, other in zip(together, alone, strict=True))), 0.0

    check(setting, "rows", "rows whose tokens change in a batch", found)
