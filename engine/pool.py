"""Several engines: each loaded when first used, the one that waits longest put away for memory."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from engine.energy.sources import check_source
from engine.engine import Engine
from engine.errors import MeterError, TokenjouleError, UsageError
from engine.locate import locate
from engine.placement import choose_dtype
from engine.schemes import choose_scheme
from engine.source import read_config
from engine.weights import memory_bytes


class Pool:
    """`models`: by name, what `Engine.load` is to be told of each. Close it when done.

    `loaded`: by name, the latest used last. `notes`: what was not as asked. `memory_gb`: what the weights of
    all engines may take; None for no limit but the machine's. `load`: makes an engine, as `Engine.load` does.
    Raises `UsageError` for an energy source or a limit that is none.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Any]],
        *,
        energy_source: str = "auto",
        memory_gb: float | None = None,
        load: Callable[..., Engine] = Engine.load,
    ) -> None:
        check_source(energy_source)  # as each model would say when it is loaded, which may be much later
        if memory_gb is not None and not 0 < memory_gb < math.inf:
            raise UsageError(f"memory must be a number of GB above 0, not {memory_gb}")
        self.loaded: OrderedDict[str, Engine] = OrderedDict()
        self.notes: list[str] = []
        self._models, self._source, self._load = models, energy_source, load
        self._limit = None if memory_gb is None else int(memory_gb * 1e9)

    def smallest(self) -> str | None:
        """The model with the fewest bytes of weights, of those that are there; None without any."""
        sizes: dict[str, int] = {}
        for name in self._models:
            try:
                sizes[name] = self.bytes_of(name)
            except TokenjouleError as error:
                self._note(f"{name} is left out: {error}")
        return min(sizes, key=lambda name: sizes[name], default=None)

    def bytes_of(self, name: str) -> int:
        """Of the model's weights, in memory. Raises `TokenjouleError` for a model that cannot be had."""
        options = self._models[name]
        config = read_config(
            locate(options.get("model")), random_weights=options.get("random_weights", False)
        )
        scheme = choose_scheme(options.get("quantize"), config.quantization)
        return memory_bytes(config, choose_dtype("auto", config), scheme)

    def engine(self, name: str) -> Engine:
        """Raises `TokenjouleError` for a model that cannot be had."""
        if name not in self.loaded:
            self._make_room(name)
            self.loaded[name] = self._open(self._models[name])
        self.loaded.move_to_end(name)
        return self.loaded[name]

    def close(self) -> None:
        """Of every engine."""
        while self.loaded:
            self.loaded.popitem()[1].close()

    def _make_room(self, name: str) -> None:
        if self._limit is None:
            return
        wanted = self.bytes_of(name)
        if wanted > self._limit:
            raise TokenjouleError(
                f"{name} takes {wanted / 1e9:.3g} GB; the limit is {self._limit / 1e9:.3g} GB"
            )
        while self.loaded and wanted + sum(map(self.bytes_of, self.loaded)) > self._limit:
            self.loaded.popitem(last=False)[1].close()

    def _open(self, options: Mapping[str, Any]) -> Engine:
        try:
            return self._load(energy_source=self._source, **options)
        except MeterError as error:
            self._note(f"no energy meter ({error}): joules are an estimate")
            return self._load(energy_source="estimate", **options)

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)
