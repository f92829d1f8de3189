"""A model on the device of a run: a preset's random weights are drawn there, none are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from engine.config import ModelConfig, read_json
from engine.locate import Location, locate
from engine.presets import PRESETS
from engine.schemes import NONE, SCHEMES
from engine.source import open_checkpoint, read_config
from engine.weights import ModelWeights, load_weights


@dataclass(frozen=True)
class DeviceSource:
    """A `bench.source.ModelSource`. Weights of the last scheme asked for are kept, others are made anew."""

    where: Location
    device: torch.device
    dtype: torch.dtype
    seed: int = 0

    @classmethod
    def open(cls, model: str | None, device: torch.device, dtype: torch.dtype) -> "DeviceSource":
        """`model`: as on the command line, "preset:NAME" for random weights. Raises `TokenjouleError`."""
        return cls(locate(model), device, dtype)

    @property
    def model(self) -> str:
        return self.where.id

    @property
    def shape_only(self) -> bool:
        return self.where.preset is not None

    @cached_property
    def config(self) -> ModelConfig:
        return read_config(self.where, random_weights=self.shape_only)

    @cached_property
    def raw(self) -> Mapping[str, Any]:
        if self.where.preset is not None:
            return PRESETS[self.where.preset]
        assert self.where.directory is not None
        return read_json(self.where.directory / "config.json")

    @cached_property
    def weights(self) -> ModelWeights:
        return self.scheme_weights(NONE)

    def scheme_weights(self, scheme: str) -> ModelWeights:
        """Of the same numbers, packed where the scheme says so; "none" is loaded once."""
        if scheme == NONE and "weights" in self.__dict__:
            return self.weights
        checkpoint = open_checkpoint(
            self.where,
            self.config,
            random_weights=self.shape_only,
            seed=self.seed,
            device=self.device,
        )
        packing = None if scheme == NONE else SCHEMES[scheme]
        found = load_weights(checkpoint, self.config, dtype=self.dtype, device=self.device, scheme=packing)
        if scheme == NONE:
            self.__dict__["weights"] = found
        return found
