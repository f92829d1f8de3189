"""Real benchmarks as questions with answers, from a local path or the Hugging Face Hub."""

from bench.benchmarks.item import Item
from bench.benchmarks.load import BENCHMARKS, load_items

__all__ = ["BENCHMARKS", "Item", "load_items"]
