"""Decode steps over packed weights beside our own bf16, interleaved in one case."""

from functools import partial

import torch

from bench.contender import Contender
from bench.cuda.cases import filled, made, run_case
from bench.cuda.decode import ours
from bench.cuda.device_source import DeviceSource
from bench.cuda.readers import fastest_readers
from bench.cuda.setting import Setting, arm_of
from bench.record import Case
from engine.schemes import SCHEMES


def run(setting: Setting) -> None:
    """The large model first: it is the one that packing is for."""
    readers = fastest_readers(setting)
    context = min(setting.scale.contexts)
    for model in reversed(setting.scale.models):
        source = DeviceSource.open(model, setting.device, torch.bfloat16)
        case = Case(source.model, source.shape_only, "decode", 1, context)
        arms: list[Contender] = [ours(setting, source)]
        for scheme in SCHEMES:
            arm = arm_of(setting, scheme, f"{setting.backend} {scheme}")
            packed = made(setting, arm, case, partial(ours, setting, source, scheme))
            if packed is not None:
                arms.append(packed)
        cache = filled(setting, source, 1, context)
        run_case(setting, arms, cache, case, f"{source.model} 1x{context}", readers, joules=True)
        del arms, cache
