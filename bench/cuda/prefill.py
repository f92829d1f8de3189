"""Prompts at once: ours, whose dense products are torch's, beside transformers with sdpa attention."""

import time
from functools import partial
from statistics import median

import torch

from bench.cells import check_near
from bench.contender import Contender
from bench.cuda.cases import made
from bench.cuda.device_source import DeviceSource
from bench.cuda.setting import Setting, spread
from bench.engine_contender import EngineContender
from bench.peers import transformers_device
from bench.peers.transformers_device import DeviceTransformers, Mode
from bench.record import Case, Record, Value
from bench.timing import Timed, interleave
from kernels import cost
from kernels.cost import RowWork

ROUNDS = 9


def run(setting: Setting) -> None:
    """Each length of each model as one group."""
    for model in setting.scale.models:
        source = DeviceSource.open(model, setting.device, torch.bfloat16)
        own = EngineContender(source, setting.backend, "none")
        first = Case(source.model, source.shape_only, "prefill", 1, 0, setting.scale.prefill[0])
        theirs = transformers_device.arm_of(Mode.EAGER, source.dtype)
        peer = made(setting, theirs, first, partial(DeviceTransformers, source, Mode.EAGER))
        arms: list[Contender] = [own] if peer is None else [own, peer]
        for tokens in setting.scale.prefill:
            _length(setting, source, own, arms, tokens)


def _length(
    setting: Setting, source: DeviceSource, own: EngineContender, arms: list[Contender], tokens: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(source.config.vocab_size, (tokens,), generator=draw).tolist()
    case, name = Case(source.model, source.shape_only, "prefill", 1, 0, tokens), f"{source.model} {tokens}"
    reference = own.prefill(prompt)
    timed: dict[str, Timed] = {}
    for arm in arms:
        try:
            check_near("none", arm.prefill(prompt), reference)
        except Exception as error:  # of one arm: a wrong answer, no memory; the others are still timed
            setting.failed(arm.arm, case, error, name)
            continue
        timed[arm.arm.name] = Timed(arm.arm.name, partial(arm.prefill, prompt))
    begun_s = time.monotonic()
    rounds = ROUNDS if setting.device.type == "cuda" else 2
    taken = interleave(
        list(timed.values()),
        rounds=rounds,
        synchronise=setting.synchronise,
        budget_s=2 * setting.scale.case_s,
    )
    flops = cost.forward(own.model.dims(), [RowWork(tokens, tokens)]).flops
    for arm in (arm for arm in arms if arm.arm.name in timed):
        samples = taken[arm.arm.name]
        took_s = median(samples)
        derived = {"rate": Value("tok/s", tokens / took_s), "compute": Value("FLOP/s", flops / took_s)}
        group = setting.group(name)
        setting.emit(
            Record(
                setting.benchmark, setting.where, arm.arm, case, group, {"step_s": spread(samples)}, derived
            )
        )
        setting.say(
            f"{name} tokens: {arm.arm.name} {took_s * 1e3:.2f} ms, {flops / took_s / 1e12:.0f} TFLOP/s"
        )
    setting.say(f"{name}: {time.monotonic() - begun_s:.1f} s")
