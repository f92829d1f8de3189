"""What hooks and policies that ask for nothing cost: decode with and without them, interleaved in one run.

    python -m bench.hook_overhead --model DIR

Prints one JSON object: median seconds per decode step of each arm, the ratio to plain of the fastest rounds,
and the median ratio within a round with its quartiles.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.steps import Prefill, Step
from engine.stop import Policy


class Idle:
    """A hook that watches nothing."""

    needs = frozenset[str]()

    def on_prefill(self, prefill: Prefill) -> None:
        """Nothing."""

    def on_step(self, step: Step) -> None:
        """Nothing."""

    def on_end(self, result: object) -> None:
        """Nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    cli = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    cli.add_argument("--model", metavar="DIR|HF-ID|bundled:NAME|preset:NAME", help="default: bundled:chain")
    cli.add_argument("--random-weights", action="store_true")
    cli.add_argument("--tokens", type=int, default=100, metavar="N")
    cli.add_argument("--rounds", type=int, default=20, metavar="N")
    options = cli.parse_args(argv)
    try:
        with Engine.load(options.model, random_weights=options.random_weights) as engine:
            print(json.dumps(run(engine, options.tokens, options.rounds)))
    except TokenjouleError as error:
        print(f"hook_overhead: {error}", file=sys.stderr)
        return 1
    return 0


def run(engine: Engine, tokens: int, rounds: int) -> dict[str, object]:
    """Each round runs every arm once, in an order that turns from round to round."""
    arms: dict[str, dict[str, object]] = {
        "plain": {},
        "hook": {"hooks": [Idle()]},
        "policy": {"policies": [Policy()]},
        "joule_budget": {"budget_joules": 1e6},
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for index in range(rounds + 1):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            begun = time.perf_counter()
            result = engine.generate([1], max_new_tokens=tokens, ignore_eos=True, **arms[name])
            elapsed = time.perf_counter() - begun
            if index:  # the first round warms up
                seconds[name].append(elapsed / len(result.token_ids))
    ratios = {name: [a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)] for name in arms}
    return {
        "model": engine.origin.card.id,
        "backend": engine.origin.backend,
        "device": engine.origin.device,
        "tokens": tokens,
        "rounds": rounds,
        "step_s": {name: statistics.median(values) for name, values in seconds.items()},
        # The fastest round of each arm: what it costs where no other job takes the core away.
        "fastest_ratio": {name: min(values) / min(seconds["plain"]) for name, values in seconds.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio_quartiles": {name: statistics.quantiles(values, n=4)[::2] for name, values in ratios.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
