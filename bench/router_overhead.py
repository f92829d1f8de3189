"""What routing costs beyond reading the query: seconds and joules of deciding, beside the whole query's.

    python -m bench.router_overhead --estimator FILE.npz --prompts FILE.jsonl

Prints one JSON object. Joules are those of the machine's energy source; `measured` says what kind it is.
They are means: a meter that ticks tells most queries 0 J of deciding and a few a whole tick. null where no
meter watched.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.cli import Parser, guarded, leave
from engine.prompts import read_items
from router.arms import DEFAULT, load_arms
from router.estimator import Estimator
from router.router import Routed, Router


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python -m bench.router_overhead", description=__doc__.split("\n\n")[0])
    cli.add_argument("--estimator", type=Path, required=True, metavar="FILE.npz")
    cli.add_argument("--prompts", required=True, metavar="FILE.jsonl")
    cli.add_argument("--arms", type=Path, default=DEFAULT, metavar="arms.toml")
    cli.add_argument("--energy-source", default="auto", metavar="SOURCE")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    return guarded(lambda: _run(parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    prompts = [item.prompt for item in read_items(options.prompts)]
    with Router(
        load_arms(options.arms), Estimator.load(options.estimator), energy_source=options.energy_source
    ) as router:
        router.answer(prompts[0])  # loads, and warms up
        found = [router.answer(prompt) for prompt in prompts]
    print(json.dumps(summary(found, len(router.arms.arms))))
    return 0


def summary(found: Sequence[Routed], arms: int) -> dict[str, object]:
    """Of queries as they went."""
    deciding_j, query_j = _mean([one.router_j for one in found]), _mean([one.total_j for one in found])
    return {
        "queries": len(found),
        "arms": arms,
        "fallbacks": sum(one.choices[0].fallback is not None for one in found),
        "prefills_reused": sum(one.energy()["prefill_reused"] for one in found),
        "router_s": statistics.median(one.router_s for one in found),
        "query_s": statistics.median(one.elapsed_s for one in found),
        "router_j": deciding_j,
        "features_j": _mean([one.features_j for one in found]),
        "query_j": query_j,
        "router_share": deciding_j / query_j if deciding_j is not None and query_j else None,
        "source": found[0].energy()["source"],
        "measured": all(one.energy()["measured"] for one in found),
    }


def _mean(joules: Sequence[float | None]) -> float | None:
    """None where those of any query are not known."""
    known = [one for one in joules if one is not None]
    return statistics.fmean(known) if len(known) == len(joules) else None


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
