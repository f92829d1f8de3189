"""Whole decode steps of a model under a meter, beside the sum of their stages (`bench.stage_energy`)."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from bench.contender import best_threads
from bench.lineup import Skipped
from bench.record import Arm, Case, Metric, Record, Stamp, Value
from bench.stage_energy import StageMeter
from bench.stages import Subject
from engine.config import ModelConfig
from engine.errors import TokenjouleError
from engine.model import Model
from engine.placement import check_memory
from engine.schemes import SCHEMES
from engine.weights import RandomCheckpoint, load_weights
from kernels import cost
from kernels.api import Backend, load
from kernels.cost import RowWork


def step_records(
    config: ModelConfig,
    given: Subject,
    backends: Sequence[str],
    cases: Sequence[tuple[int, int]],
    model_id: str,
    where: Stamp,
    skipped: list[Skipped],
    meter: StageMeter,
) -> Iterator[Record]:
    """A record for each backend and each (rows, context); a model that does not fit is added to `skipped`.

    `config`: of the whole model, of which `given` is one layer.
    """
    layers, dtype = config.n_layers, str(given.dtype).removeprefix("torch.")
    for name in backends:
        label = f"{name} {given.scheme}"
        print(f"whole steps of {label}", file=sys.stderr, flush=True)
        try:
            model = random_model(config, given, load(name, meter.device))
        except TokenjouleError as error:
            skipped.append(Skipped(f"{label} whole step", str(error)))
            print(f"skipped {label} whole step: {error}", file=sys.stderr, flush=True)
            continue
        own = getattr(model.backend, "threads", None)
        for rows, context in cases:
            step = decode_step(model, rows, context)
            threads = own or best_threads(step, torch.set_num_threads)
            torch.set_num_threads(threads)
            found = meter.repeat(step)
            note = "stage by stage, no captured graph" if model.backend.captures else ""
            work = cost.forward(model.dims(), [RowWork(1, context)] * rows)
            yield Record(
                "kernels",
                where,
                Arm(label, "tokenjoule", name, given.scheme, dtype, threads, note),
                Case(model_id, True, "step", rows, context, 1, (layers,)),
                f"{where.run}/step {label} {rows}x{context}",
                {"run_s": Metric("s", (found.call_s,))},
                {
                    "bandwidth": Value("B/s", work.bytes / found.call_s, source="kernels.cost"),
                    "compute": Value("FLOP/s", work.flops / found.call_s, source="kernels.cost"),
                    **meter.reconciled(found, label, layers, rows, context),
                },
            )


def random_model(config: ModelConfig, given: Subject, backend: Backend) -> Model:
    """The whole model of random weights, in the subject's dtype and packing.

    Raises `TokenjouleError` where it does not fit into memory.
    """
    config, packing = replace(config, quantization=None), SCHEMES.get(given.scheme)
    check_memory(config, given.dtype, packing, backend.device)
    checkpoint = RandomCheckpoint(config, 0)
    weights = load_weights(checkpoint, config, dtype=given.dtype, device=backend.device, scheme=packing)
    return Model(config, weights, backend)


def decode_step(model: Model, rows: int, context: int) -> Callable[[], None]:
    """A step that needs no captured graph: cache, embedding, layers, head, greedy choice, rolled back.

    Every row has `context` positions with it; those before are random.
    """
    cache = model.new_cache(rows * context, rows=rows)
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    ids = tuple(cache.add_row() for _ in range(rows))
    if context > 1:
        cache.extend(dict.fromkeys(ids, context - 1))
    tokens = [1] * rows

    def step() -> None:
        nonlocal tokens
        layout = cache.extend(dict.fromkeys(ids, 1))
        tokens = model.forward(tokens, layout, cache)[0].argmax(-1).tolist()
        for row in ids:
            cache.truncate(row, context - 1)

    return step
