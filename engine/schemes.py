"""How a model's matrices are packed: the schemes there are to choose from, and their form in config.json.

Knows formats and names, no tensors. What one packed matrix is, `kernels.quantize` says to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import TokenjouleError, UsageError
from kernels.quantize import Format

KEY = "quantization_config"  # where transformers looks for it, and so refuses by name what it cannot read
METHOD, VERSION = "tokenjoule", 1
NONE = "none"


@dataclass(frozen=True, slots=True)
class Scheme:
    """The formats of the layers' matrices, and of those with a row per token: the embedding and the head."""

    layers: Format
    head: Format

    @property
    def name(self) -> str:
        """Its name among `SCHEMES`, else its formats, as "int4/64 head int8/64"."""
        known = (name for name, scheme in SCHEMES.items() if scheme == self)
        spelled = [f"int{part.bits}/{part.group}" for part in (self.layers, self.head)]
        return next(known, " head ".join(spelled))

    def to_json(self) -> dict[str, Any]:
        """The value of `KEY` in config.json."""
        formats = {"layers": self.layers, "head": self.head}
        parts = {name: {"bits": part.bits, "group": part.group} for name, part in formats.items()}
        return {"quant_method": METHOD, "version": VERSION, **parts}


SCHEMES = {
    "int8": Scheme(Format(8, 128), Format(8, 128)),
    "int4": Scheme(Format(4, 32), Format(8, 128)),
}


def choose_scheme(name: str | None, stored: Scheme | None) -> Scheme | None:
    """What is to be computed with. `name`: "none", a key of `SCHEMES`, or None for what is `stored`.

    Raises `UsageError` for an unknown name, and for any other than that of weights that are packed already.
    """
    if name is None:
        return stored
    if name != NONE and name not in SCHEMES:
        raise UsageError(f"unknown quantisation {name!r}; known: {NONE}, {', '.join(SCHEMES)}")
    if stored is not None and name != stored.name:
        raise UsageError(f"the checkpoint is quantised as {stored.name} already; {name} needs the original")
    return SCHEMES.get(name)


def parse_quantization(raw: Mapping[str, Any], source: str) -> Scheme | None:
    """The scheme of a raw config.json, None where it names none.

    Raises `TokenjouleError` naming the method, version, key or value that this engine does not read.
    """
    for key in (KEY, "compression_config"):
        stated = raw.get(key)
        if not stated:
            continue
        if not isinstance(stated, dict):
            raise TokenjouleError(f"{source}: {key} must be an object, found {stated!r}")
        method = stated.get("quant_method", "?")
        if key != KEY or method != METHOD:
            raise TokenjouleError(
                f"{source}: checkpoint quantised by {method} is not supported; only {METHOD}'s own is, which "
                "`python -m engine.quantize` makes of an unquantised one"
            )
        return _parse(stated, source)
    return None


def _parse(stated: Mapping[str, Any], source: str) -> Scheme:
    version = stated.get("version")
    if version != VERSION or isinstance(version, bool):
        raise TokenjouleError(f"{source}: {KEY} has version {version!r}; this engine reads {VERSION}")
    unknown = sorted(set(stated) - {"quant_method", "version", "layers", "head"})
    if unknown:
        raise TokenjouleError(f"{source}: {KEY} has unknown keys: {', '.join(unknown)}")
    return Scheme(*(_format(stated.get(part), f"{source}: {KEY}: {part}") for part in ("layers", "head")))


def _format(stated: object, source: str) -> Format:
    if not isinstance(stated, dict) or set(stated) != {"bits", "group"}:
        raise TokenjouleError(f"{source} must be an object with bits and group, found {stated!r}")
    if any(isinstance(value, bool) or not isinstance(value, int) for value in stated.values()):
        raise TokenjouleError(f"{source}: bits and group must be whole numbers, found {stated!r}")
    try:
        return Format(stated["bits"], stated["group"])
    except ValueError as error:
        raise TokenjouleError(f"{source}: {error}") from error
