"""The most registers that a thread of each kernel may use, and why that many."""

from collections.abc import Mapping

from kernels.aot.record import Variant

# By "module:name", or by that and a constant that tells variants apart: "module:name N=16".
CEILINGS: Mapping[str, tuple[int, str]] = {}


def ceiling_of(variant: Variant) -> int | None:
    """The ceiling of a variant by one of its constants, else of its kernel, None where there is neither."""
    names = [name for name, _ in variant.signature]
    keys = [f"{variant.kernel} {names[path[0]]}={value}" for path, value in variant.constants]
    return next((CEILINGS[key][0] for key in [*keys, variant.kernel] if key in CEILINGS), None)
