"""Whole decode steps of the 1B and the 8B: ours, our torch stages launched one by one, and transformers.

Every step is at a position of its own and chooses its token. First what needs no compiler, at every context;
then transformers as it is compiled by its own generate, at the shortest one.
"""

import time
from typing import Any

import torch

from bench.bandwidth import Reader
from bench.contender import Contender
from bench.cuda.cases import filled, made, run_case
from bench.cuda.device_source import DeviceSource
from bench.cuda.loop_contender import GpuContender, Way
from bench.cuda.readers import fastest_readers
from bench.cuda.setting import Setting
from bench.engine_contender import EngineContender
from bench.peers import transformers_device
from bench.peers.transformers_device import DeviceTransformers, Mode
from bench.record import Case

COMPILE_S = 100.0  # what compiling a forward may take, at the least, for it to be begun


def ours(setting: Setting, source: DeviceSource, scheme: str = "none", **how: Any) -> Contender:
    """The engine's own way to decode; on a CPU, where tests run, one step after the other."""
    if setting.backend == "gpu":
        return GpuContender(source, scheme, **how)
    name = how.get("name")
    return EngineContender(source, setting.backend, scheme, name=None if name is None else str(name))


def run(setting: Setting) -> None:
    """All models, the first one first."""
    readers = fastest_readers(setting)
    for model in setting.scale.models:
        source = DeviceSource.open(model, setting.device, torch.bfloat16)
        _model(setting, source, readers)


def _model(setting: Setting, source: DeviceSource, readers: list[Reader]) -> None:
    scale, shortest = setting.scale, min(setting.scale.contexts)
    first = Case(source.model, source.shape_only, "decode", 1, shortest)
    begun_s = time.monotonic()
    own = ours(setting, source)
    setting.say(f"{source.model} loaded in {time.monotonic() - begun_s:.1f} s")
    arms: list[Contender] = [own]
    if setting.backend == "gpu":
        arms.append(GpuContender(source, "none", way=Way.REPLAYED, name="gpu none, replayed"))
    arms.append(EngineContender(source, "torch", "none", name="torch none, eager"))
    # Ours alone before anything of a peer's is imported.
    for context in scale.contexts:
        case = Case(source.model, source.shape_only, "decode", 1, context)
        cache = filled(setting, source, 1, context)
        joules = context == sorted(scale.contexts)[len(scale.contexts) // 2]
        run_case(setting, arms, cache, case, f"{source.model} 1x{context}", readers, joules=joules)
        del cache
    captured = made(
        setting,
        transformers_device.arm_of(Mode.CAPTURED, source.dtype),
        first,
        lambda: DeviceTransformers(source, Mode.CAPTURED if setting.device.type == "cuda" else Mode.EAGER),
    )
    if captured is None:
        arm = transformers_device.arm_of(Mode.COMPILED, source.dtype)
        setting.failed(arm, first, "transformers could not be loaded", "compiled")
        return
    for context in sorted({shortest, max(scale.contexts)}):
        case = Case(source.model, source.shape_only, "decode", 1, context)
        cache = filled(setting, source, 1, context)
        name = f"{source.model} 1x{context} beside transformers"
        run_case(setting, [own, captured], cache, case, name, readers)
        del cache
    _compiled(setting, source, own, captured, first, readers)


def _compiled(
    setting: Setting,
    source: DeviceSource,
    own: Contender,
    captured: Contender,
    case: Case,
    readers: list[Reader],
) -> None:
    """Interleaved with ours at the shortest context; left out, by name, where time is short."""
    arm = transformers_device.arm_of(Mode.COMPILED, source.dtype)
    left_s = setting.until_s - time.monotonic()
    if not setting.scale.compiles:
        setting.failed(arm, case, "compiling is left out at this scale", "compiled")
        return
    if left_s < COMPILE_S:
        reason = f"compiling a forward may take {COMPILE_S:.0f} s, {left_s:.0f} s of the part were left"
        setting.failed(arm, case, reason, "compiled")
        return
    assert isinstance(captured, DeviceTransformers)
    compiled = DeviceTransformers(source, Mode.COMPILED, captured.model)
    cache = filled(setting, source, 1, case.context)
    name = f"{source.model} 1x{case.context} beside compiled transformers"
    run_case(setting, [own, compiled], cache, case, name, readers, joules=True)
