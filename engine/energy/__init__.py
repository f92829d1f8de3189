"""Meters, the ledger of joules, and `measure`, which puts that ledger around anybody's code."""

from engine.energy.window import Window, measure

__all__ = ["Window", "measure"]
