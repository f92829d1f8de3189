"""What each part of a decode step saves: graph, dependent launch, the late host, fused kernels; and what
several steps in one graph would save.
"""

from functools import partial
from typing import Any

import torch

from bench.contender import Contender
from bench.cuda.cases import filled, made, run_case
from bench.cuda.decode import ours
from bench.cuda.device_source import DeviceSource
from bench.cuda.loop_contender import GRAPH_STEPS, Way
from bench.cuda.readers import fastest_readers
from bench.cuda.setting import NO_DEPENDENT, Setting, arm_of
from bench.engine_contender import EngineContender
from bench.record import Case

NO_GRAPH = "gpu none, no graph"
IN_TURN = "gpu none, not ahead"
NO_FUSION = "torch none, no fusion"
# What is asked about dependent launch comes first.
HOW: dict[str, dict[str, Any]] = {
    NO_DEPENDENT: {"dependent": False},
    IN_TURN: {"way": Way.IN_TURN},
    NO_GRAPH: {"way": Way.LAUNCHED},
}


def run(setting: Setting) -> None:
    """All arms beside the engine's own way, in one case of each model."""
    readers = fastest_readers(setting)
    for model in setting.scale.models:
        source = DeviceSource.open(model, setting.device, torch.bfloat16)
        context = sorted(setting.scale.contexts)[len(setting.scale.contexts) // 2]
        case = Case(source.model, source.shape_only, "decode", 1, context)
        arms: list[Contender] = [ours(setting, source)]
        at_once = min(GRAPH_STEPS, setting.scale.steps)
        several = {f"gpu none, {at_once} steps a graph": {"graph_steps": at_once}}
        for name, how in (HOW | several).items() if setting.backend == "gpu" else ():
            arm = arm_of(setting, "none", name)
            changed = made(setting, arm, case, partial(ours, setting, source, name=name, **how))
            if changed is not None:
                arms.append(changed)
        arms.append(EngineContender(source, "torch", "none", name=NO_FUSION, note="torch's stages, eager"))
        cache = filled(setting, source, 1, context)
        run_case(setting, arms, cache, case, f"{source.model} 1x{context}", readers)
        del arms, cache
