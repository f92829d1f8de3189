"""The config, the weights and the tokenizer of a model that `locate` found."""

import torch

from engine.config import ModelConfig, load_config, parse_config
from engine.errors import UsageError
from engine.locate import Location
from engine.presets import PRESETS
from engine.shards import SafetensorsCheckpoint
from engine.tokenizer import Tokenizer
from engine.weights import Checkpoint, RandomCheckpoint


def read_config(where: Location, *, random_weights: bool) -> ModelConfig:
    """Raises `UsageError` for a preset without random weights, `TokenjouleError` for a bad config.json."""
    if where.preset is not None:
        if not random_weights:
            raise UsageError(f"{where.id} has no weights; add --random-weights (figures are then shape only)")
        return parse_config(PRESETS[where.preset], {}, where.id)
    assert where.directory is not None
    return load_config(where.directory)


def open_checkpoint(
    where: Location, config: ModelConfig, *, random_weights: bool, seed: int, device: torch.device
) -> Checkpoint:
    """`device`: where random weights are drawn.

    Raises `TokenjouleError` for files that are absent or do not hold what the config says.
    """
    if random_weights:
        return RandomCheckpoint(config, seed, device=device)
    assert where.directory is not None
    return SafetensorsCheckpoint(where.directory, config)


def open_tokenizer(where: Location, config: ModelConfig) -> Tokenizer:
    """The model's own; of bytes for random weights, which need none. Raises `TokenjouleError`."""
    if where.directory is None or (config.shape_only and not (where.directory / "tokenizer.json").exists()):
        return Tokenizer.bytes(config.vocab_size)
    return Tokenizer.load(where.directory)
