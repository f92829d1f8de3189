"""One model, one decode loop, one ledger of joules. `from engine import Engine` is the way in."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    """`Engine`, when it is asked for: importing a part of this package must not load torch."""
    if name == "Engine":
        from engine.engine import Engine

        return Engine
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
