"""What is to be said of an arena: arms that ran and controls from the log, on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.arena import controls
from bench.arena.arms import DIRECT, FULL, MARGINAL, TOKENS
from bench.arena.noisy_verify import Regret, regret
from bench.arena.outcomes import Played
from bench.arena.scores import Estimate, Reference, Score
from bench.calibration.grid import Grid
from bench.calibration.log import Entry, Trace
from bench.calibration.replay import Outcome, replay_all
from bench.testbed.question import CHOICE
from engine.errors import TokenjouleError
from engine.stop.rule import POINTS, StoppingRule

ALL = "all"
VERIFY = {"verify", "verify" + CHOICE}


@dataclass(frozen=True)
class Line:
    """One arm or control. `played` None: computed from the log. `probes`: share of its joules."""

    name: str
    outcome: Outcome
    score: Score
    played: int | None
    tokens: float | None
    elapsed_s: float | None
    probes: float | None
    ledger_j: float | None


@dataclass(frozen=True)
class Arena:
    """`price`: points per joule at which utilities are told. `permuted`: the rule above its own stops
    shuffled. `over_tokens`: its accuracy above token budgets as they were played, at its own joules.

    `replay`: joules of the rule by the log over those that it really took, and the share of equal stops; both
    None where no rule played. `verify`: how far it is from the optimum of the chain that the model follows;
    only for noisy verification.
    """

    category: str
    grid: Grid
    price: float
    lines: tuple[Line, ...]
    permuted: Estimate | None
    permuted_within: Estimate | None
    over_fixed: Estimate | None
    over_tokens: Estimate | None
    replay: tuple[float, float] | None
    verify: Regret | None


def compare(
    traces: Sequence[Trace],
    played: Sequence[Played],
    price: float,
    rule: StoppingRule | None,
    *,
    seed: int = 0,
) -> Arena:
    """Of all given runs.

    Raises `TokenjouleError` where an arm and the log differ in their questions, and for runs of two settings.
    """
    setting_of(traces, played)
    grid = Grid.of(traces)
    keys = [(trace.end.category, trace.end.seed) for trace in traces]
    arms: dict[str, dict[tuple[str, int], Played]] = {}
    for line in played:
        arms.setdefault(line.arm, {})[line.category, line.seed] = line
    for name, found in arms.items():
        if set(found) != set(keys):
            raise TokenjouleError(f"arm {name} and the log differ: {len(found)} and {len(keys)} questions")
    ran = {name: [found[key] for key in keys] for name, found in arms.items()}
    reference = Reference(grid, price, seed=seed)
    lines = [_played(name, found, traces, reference) for name, found in ran.items()]
    outcomes = {line.name: line.outcome for line in lines}
    own = outcomes.get(MARGINAL)
    tokens = [found for name, found in outcomes.items() if name in (FULL, DIRECT) or name.startswith(TOKENS)]
    lines += [
        Line(name, found, reference.score(found), None, None, None, None, None)
        for name, found in _controls(grid, own, price, seed).items()
    ]
    names = {trace.end.category for trace in traces}
    return Arena(
        category=ALL if len(names) > 1 else min(names),
        grid=grid,
        price=price,
        lines=tuple(lines),
        permuted=reference.beats(own, _permuted(grid, own, False, seed)) if own else None,
        permuted_within=reference.beats(own, _permuted(grid, own, True, seed)) if own else None,
        over_tokens=reference.above(own, tokens) if own and len(tokens) > 2 else None,
        over_fixed=reference.beats(own, controls.best_fixed(grid, price / POINTS)) if own else None,
        replay=_replayed(traces, rule, own, ran[MARGINAL]) if own and rule else None,
        verify=_verify_regret(traces, own, price) if own and names <= VERIFY else None,
    )


def setting_of(traces: Sequence[Trace], played: Sequence[Played]) -> tuple[str, str, str, str]:
    """(model, quantisation, energy source, split) of the log and the runs; `TokenjouleError` for several."""
    lines: list[Entry | Played] = [*(trace.end for trace in traces), *played]
    found = {(line.model, line.quantization, line.energy_source, line.split) for line in lines}
    if len(found) != 1:
        raise TokenjouleError(f"log and runs are of {len(found)} settings, not of one: {sorted(found)}")
    return found.pop()


def _played(name: str, found: Sequence[Played], traces: Sequence[Trace], reference: Reference) -> Line:
    outcome = Outcome(
        controls.stops_of(traces, [line.think_tokens for line in found]),
        np.array([line.energy_j for line in found]),
        np.array([float(line.correct) for line in found]),
    )
    ledgers = [line.ledger_j for line in found if line.ledger_j is not None]
    return Line(
        name=name,
        outcome=outcome,
        score=reference.score(outcome),
        played=len(found),
        tokens=float(np.mean([line.new_tokens for line in found])),
        elapsed_s=float(np.mean([line.elapsed_s for line in found])),
        probes=float(sum(line.probe_j for line in found) / sum(line.energy_j for line in found)),
        ledger_j=float(np.mean(ledgers)) if len(ledgers) == len(found) else None,
    )


def _controls(grid: Grid, own: Outcome | None, price: float, seed: int) -> dict[str, Outcome]:
    per_j = price / POINTS
    found = {
        "best fixed steps": controls.best_fixed(grid, per_j),
        "best fixed steps by category": controls.best_fixed(grid, per_j, by_category=True),
        "random steps": controls.averaged(controls.random_budgets(grid, seed)),
    }
    if own is not None:
        found["permuted stops"] = _permuted(grid, own, False, seed)
        found["permuted stops within category"] = _permuted(grid, own, True, seed)
    return found | {
        "oracle: first stably correct": controls.first_stably_correct(grid),
        "oracle: first correct": controls.first_correct(grid),
        "oracle: best stop": controls.best_stop(grid, per_j),
    }


def _permuted(grid: Grid, own: Outcome, within: bool, seed: int) -> Outcome:
    return controls.averaged(controls.permuted(grid, own.stops, seed, within=within))


def _replayed(
    traces: Sequence[Trace], rule: StoppingRule, own: Outcome, played: Sequence[Played]
) -> tuple[float, float]:
    """At the price that it was played at. Raises `TokenjouleError` where that changed on the way."""
    prices = {line.price for line in played if line.price is not None}
    if len(prices) != 1:
        raise TokenjouleError(f"{MARGINAL} was played at {len(prices)} prices: its file is of several rules")
    found = replay_all(traces, rule, prices.pop())
    same = float((found.stops == own.stops).mean())
    return float(found.energy_j.mean() / own.energy_j.mean()), same


def _verify_regret(traces: Sequence[Trace], own: Outcome, price: float) -> Regret | None:
    """None where the model shows no chain: lines that are all right, or all wrong."""
    try:
        return regret(traces, own, price)
    except TokenjouleError:
        return None


def parts(
    traces: Sequence[Trace], played: Sequence[Played], price: float, rule: StoppingRule | None
) -> list[Arena]:
    """All questions together, then each category; only arms that played every question of the log."""
    keys = {(trace.end.category, trace.end.seed) for trace in traces}
    whole = [line for line in played if (line.category, line.seed) in keys]
    counts = {name: sum(line.arm == name for line in whole) for name in {line.arm for line in whole}}
    whole = [line for line in whole if counts[line.arm] == len(keys)]
    if not any(line.arm == FULL for line in whole):
        raise TokenjouleError("full thinking was not played on every question of the log")
    found = [compare(traces, whole, price, rule)]
    categories = list(dict.fromkeys(trace.end.category for trace in traces))
    if len(categories) > 1:
        for name in categories:
            some = [trace for trace in traces if trace.end.category == name]
            found.append(compare(some, [line for line in whole if line.category == name], price, rule))
    return found
