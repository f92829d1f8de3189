"""A model that is to be measured: what is known of it before its weights are loaded, and loading it."""

from argparse import Namespace
from dataclasses import dataclass

import torch

from engine.engine import Engine
from engine.loading import LoadingLine
from engine.locate import locate
from engine.placement import choose_backend, choose_device, choose_dtype
from engine.schemes import NONE, choose_scheme
from engine.source import open_tokenizer, read_config
from engine.tokenizer import Tokenizer

# Near the paper's: its text names Mistral and Llamas, of the 7B class, on one GPU.
PRESETS = (
    "preset:llama-3.2-1b",
    "preset:llama-3.2-3b",
    "preset:llama-3.1-8b",
    "preset:mistral-7b",
    "preset:qwen2.5-7b",
    "preset:qwen3-8b",
)


@dataclass(frozen=True)
class Subject:
    """`given`: as on the command line. The rest as the loaded engine will say it."""

    given: str
    id: str
    shape_only: bool
    backend: str
    quantization: str
    dtype: str
    device: torch.device
    tokenizer: Tokenizer
    max_context: int


def describe(given: str, options: Namespace) -> Subject:
    """Raises as `Engine.load` does, for all that can be told without the weights."""
    where = locate(given)
    random_weights = options.random_weights and where.preset is not None
    config = read_config(where, random_weights=random_weights)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, config)
    scheme = choose_scheme(options.quantize, config.quantization)
    return Subject(
        given=given,
        id=where.id,
        shape_only=random_weights or config.shape_only,
        backend=choose_backend(options.backend, device, dtype).name,
        quantization=NONE if scheme is None else scheme.name,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        tokenizer=open_tokenizer(where, config),
        max_context=config.max_context,
    )


def load(subject: Subject, options: Namespace) -> Engine:
    """The engine, warmed up. Raises as `Engine.load`."""
    with LoadingLine(quiet=False) as line:
        return Engine.load(
            subject.given,
            backend=options.backend,
            device=options.device,
            dtype=options.dtype,
            quantize=options.quantize,
            random_weights=options.random_weights and subject.given.startswith("preset:"),
            seed=options.seed,
            energy_source=options.energy_source,
            require_measured_energy=options.require_measured,
            on_progress=line,
        )
