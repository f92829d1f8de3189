"""Whether anything is wrong, and where: the device, its meter, every decode kernel, graphs, whole engines.

Groups are independent, each check is a record. A check that breaks the device (an illegal address) takes the
process with it; the groups after it then go on in a process of their own.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.contender import fill
from bench.cuda.checks import DeviceBroken, check, is_broken
from bench.cuda.setting import Setting, arm_of, near
from bench.record import Case
from bench.stages import Subject, subject
from engine.config import ModelConfig, load_config, parse_config
from engine.engine import Engine
from engine.locate import locate
from engine.presets import PRESETS
from kernels.api import load
from kernels.gpu.backend import GpuBackend
from kernels.gpu.prefill import PrefillTiles, prefill_attention

SCHEMES = ("none", "int8", "int4")
# Rows and context of a check: one row in its first block; GQA, several rows, across pages and parts.
SHAPES = ((1, 17), (3, 130), (8, 1025))
NEW_TOKENS = 24


def run(setting: Setting) -> None:
    """All groups, or those that the setting names."""
    groups: dict[str, Callable[[Setting], None]] = {"device": device, "meter": meter}
    if setting.backend == "gpu":
        from bench.cuda.stage_work import STAGES

        groups |= {stage: (lambda given, stage=stage: kernel(given, stage)) for stage in STAGES}  # type: ignore[misc]
        groups |= {"prefill": prefill, "graph": graph}
    groups["tokens"] = tokens
    wanted = setting.only or tuple(groups)
    for index, name in enumerate(wanted):
        try:
            groups[name](setting)
        except DeviceBroken:
            _go_on(setting, wanted[index + 1 :])
            return
        except Exception as error:  # of one group: the others are still worth knowing
            arm, case = arm_of(setting, "none", name), Case("kernel", True, name, 1, 0)
            setting.failed(arm, case, error, name, metric="error")
            if is_broken(setting):
                _go_on(setting, wanted[index + 1 :])
                return


def device(setting: Setting) -> None:
    """What the device is, as far as figures depend on it; clocks and driver are in the stamp."""

    def work() -> tuple[float, float]:
        a = torch.ones(256, 256, device=setting.device)
        return near((a @ a).cpu(), torch.full((256, 256), 256.0), 1e-6)

    note = "a CPU"
    if setting.device.type == "cuda":
        found = torch.cuda.get_device_properties(setting.device)
        free, total = torch.cuda.mem_get_info(setting.device)
        note = (
            f"{found.name}, sm_{found.major}{found.minor}, {found.multi_processor_count} multiprocessors, "
            f"L2 {found.L2_cache_size / 1e6:.0f} MB, memory {total / 1e9:.0f} GB, free {free / 1e9:.0f} GB, "
            f"CUDA {torch.version.cuda}"
        )
    check(setting, "device", "a product of ones", work, note)


def meter(setting: Setting) -> None:
    """NVML finds the device by torch's UUID, and its counter rises."""
    if setting.device.type != "cuda":
        check(setting, "meter", "energy source", lambda: (0.0, 0.0), setting.energy_source)
        return
    from engine.energy.nvml import NvmlReadings, uuid_of_cuda_device

    uuid = uuid_of_cuda_device(setting.device.index or 0)
    readings = NvmlReadings(uuid)

    def power(read: Callable[[], float | None]) -> Callable[[], tuple[float, float]]:
        def found() -> tuple[float, float]:
            value = read()
            if value is None:
                raise ValueError("this GPU does not tell")
            return (0.0 if 5.0 < value < 2000.0 else value), 0.0

        return found

    def counter() -> tuple[float, float]:
        before = readings.counter_j()
        time.sleep(0.5)
        after = readings.counter_j()
        if before is None or after is None:
            raise ValueError("this GPU has no energy counter")
        return (0.0 if after > before else 1.0), 0.0

    try:
        same = readings.name == torch.cuda.get_device_name(setting.device)
        check(
            setting,
            "meter",
            "uuid",
            lambda: (0.0 if same else 1.0, 0.0),
            f"{uuid}: {readings.name}, driver {readings.driver}",
        )
        check(setting, "meter", "counter rises", counter)
        check(setting, "meter", "instant power", power(readings.instant_w))
        check(setting, "meter", "power draw", power(readings.draw_w))
    finally:
        readings.close()


def config_of(setting: Setting) -> ModelConfig:
    """Of the scale's first model."""
    where = locate(setting.scale.models[0])
    if where.preset is not None:
        return parse_config(PRESETS[where.preset], {}, where.id)
    assert where.directory is not None
    return load_config(where.directory)


def kernel(setting: Setting, stage: str) -> None:
    """One stage's kernel against the reference in fp32, in every packing."""
    backend = load("gpu", setting.device)
    assert isinstance(backend, GpuBackend)
    config = config_of(setting)
    small = setting.device.type != "cuda"
    schemes = SCHEMES[:1] if small or stage == "attention" else SCHEMES
    for scheme in schemes:
        given = subject(config, torch.bfloat16, scheme, setting.device)
        # Every variant takes a second to compile: packed weights at two shapes, plain launches at one.
        cases = [
            (*shape, backend.chip.dependent)
            for shape in SHAPES[: 1 if small else 3 if scheme == "none" else 2]
        ]
        if backend.chip.dependent and scheme == "none":
            cases.append((*SHAPES[0], False))
        for rows, context, dependent in cases:
            backend.dependent = dependent
            name = f"{scheme}, {rows} rows, context {context}" + (", dependent" if dependent else "")
            check(
                setting,
                stage,
                name,
                partial(_against_reference, setting, backend, given, stage, rows, context),
            )


def _against_reference(
    setting: Setting, backend: GpuBackend, given: Subject, stage: str, rows: int, context: int
) -> tuple[float, float]:
    from bench.cuda.stage_work import stage_work

    work = stage_work(backend, given, stage, rows, context, cache_bytes=1)
    work.call(0)
    setting.synchronise()
    return near(work.answer(), work.expected(), work.share)


def prefill(setting: Setting) -> None:
    """Prefill attention against the reference: chunks behind cached positions, a window, several rows."""
    from dataclasses import replace

    from kernels.api import LayerCache
    from kernels.reference import TorchBackend

    config = replace(config_of(setting), n_layers=1)
    for window in (None, 40):
        shape = replace(config.attention_shape(0), window=window)

        def found(shape: object = shape) -> tuple[float, float]:
            held = fill(config, torch.bfloat16, 2, 70, device=setting.device, room=80)
            layout = held.cache.extend({held.ids[0]: 65, held.ids[1]: 3})
            cache = held.cache.layers[0]
            draw = torch.Generator().manual_seed(0)
            q = torch.randn(68, config.n_heads, config.head_dim, generator=draw)
            q = q.to(setting.device, torch.bfloat16)
            tiles = PrefillTiles.make(layout, shape, torch.bfloat16, setting.device)  # type: ignore[arg-type]
            out = torch.empty_like(q)
            prefill_attention(q, cache.keys, cache.values, tiles, shape, out)  # type: ignore[arg-type]
            torch_backend = TorchBackend(setting.device)
            layer = torch_backend.prepare_layer(None, shape, 0.0)  # type: ignore[arg-type]
            wide = LayerCache(cache.keys.float(), cache.values.float())
            return near(out, torch_backend.attention(q.float(), layer, wide, layout), 2.0**-6)

        check(setting, "prefill", f"window {window}", found)


def graph(setting: Setting) -> None:
    """A captured step and the same kernels launched one by one agree to the bit, position after position."""
    from bench.cuda.device_source import DeviceSource
    from bench.cuda.loop_contender import ROOM, GpuContender, Way

    source = DeviceSource.open(setting.scale.models[0], setting.device, torch.bfloat16)
    steps = 4 if setting.device.type == "cuda" else 1

    def tokens_of(way: Way) -> tuple[Tensor, list[tuple[int, ...]]]:
        held = fill(source.config, source.dtype, 2, 30, room=steps + ROOM, device=setting.device)
        decoding = GpuContender(source, "none", way=way).start(held, steps)
        logits = decoding.logits()
        decoding.ready()
        for _ in range(steps):
            decoding.step()
        return logits, decoding.drain()

    def found() -> tuple[float, float]:
        captured, captured_tokens = tokens_of(Way.AHEAD)
        launched, launched_tokens = tokens_of(Way.LAUNCHED)
        if captured_tokens != launched_tokens:
            raise ValueError(f"replayed steps chose {captured_tokens}, launched ones {launched_tokens}")
        return near(captured, launched, 0.0)

    check(setting, "graph", "captured steps are the launched ones", found)


def tokens(setting: Setting) -> None:
    """Greedy tokens of whole engines: `gpu` beside `torch`, trained weights and random ones."""
    with tempfile.TemporaryDirectory() as folder:
        _write_random(Path(folder))
        # Trained weights leave no doubt between tokens; random ones are compared in fp32 only.
        runs = [("random", folder, "fp32", "none"), ("bundled", None, "fp32", "none")]
        if setting.device.type == "cuda":
            runs += [("bundled", None, "bf16", scheme) for scheme in SCHEMES]
        for label, model, dtype, scheme in runs:

            def found(
                model: str | None = model, dtype: str = dtype, scheme: str = scheme
            ) -> tuple[float, float]:
                expected = _generate(setting, model, "torch", dtype, scheme)
                given = _generate(setting, model, setting.backend, dtype, scheme)
                differ = sum(one != other for one, other in zip(given, expected, strict=True))
                return float(differ), 0.0

            check(setting, "tokens", f"{label} {dtype} {scheme}, tokens that differ", found)


def _generate(setting: Setting, model: str | None, backend: str, dtype: str, scheme: str) -> list[int]:
    on_device = setting.device.type == "cuda"
    with Engine.load(
        model,
        backend=backend,
        device=setting.cuda_device if on_device else "cpu",
        dtype=dtype,
        quantize=scheme,
        energy_source=setting.energy_source,
    ) as engine:
        prompt = "47+35-18+6=" if model is None else [1, 5, 7, 2]
        new = NEW_TOKENS if on_device else 3
        result = engine.generate(prompt, max_new_tokens=new, ignore_eos=True)
    if result.error:
        raise RuntimeError(result.error)
    return list(result.token_ids)


def _write_random(folder: Path) -> None:
    """A tiny model of random weights: grouped heads, its own head, logits far apart."""
    import json

    from safetensors.torch import save_file

    from engine.tensors import expected_shapes

    raw = {**PRESETS["qwen3-0.6b"], "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2}
    raw |= {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300}
    raw |= {
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "shape_only": True,
    }
    shapes = expected_shapes(parse_config(raw, {}, "random"))
    draw = torch.Generator().manual_seed(3)
    drawn = {
        name: 0.2 * torch.randn(shape, generator=draw) + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in shapes.items()
    }
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})


def _go_on(setting: Setting, groups: tuple[str, ...]) -> None:
    """The rest in a process that has a device of its own."""
    if not groups:
        return
    from bench.cuda.run_part import command_of

    left_s = max(setting.until_s - time.monotonic(), 10.0)
    subprocess.run([sys.executable, *command_of(setting, left_s, groups)], check=True, timeout=left_s)
