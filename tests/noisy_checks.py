"""Checkpoint logs of a checker whose chain is known: attempt and passes, each of the same joules."""

import random

from bench.calibration.log import Entry, Trace
from bench.testbed.optimal_stop import Checker, simulate

LINE_J, ANSWER_J, PROBE_J = 1.0, 0.2, 0.1
CHECKER = Checker(epsilon=0.5, fix=0.6, break_=0.02, passes=11)


def entry(category: str, question: int, **given: object) -> Entry:
    """An entry with what a test does not care about filled in."""
    usual: dict[str, object] = {
        "model": "toy", "quantization": "none", "category": category, "question": f"{category} {question}",
        "seed": question, "split": "calibration", "prompt_tokens": 7, "checkpoint": 0, "think_tokens": 1,
        "answer": "", "correct": False, "confidence": 0.5, "entropy": 0.5, "stability": 0, "tail": "",
        "closed": False, "energy_j": 0.0, "probe_j": PROBE_J, "answer_j": ANSWER_J,
        "energy_source": "simulated",
    }  # fmt: skip
    return Entry(**(usual | given))  # type: ignore[arg-type]


def check_run(checker: Checker, question: int, rng: random.Random, *, category: str = "verify") -> Trace:
    """Attempt and passes; an answer before it is as good as the attempt. A changed line is another tail."""
    right, changed = simulate(checker, rng)
    tails, stability = ["0"], [1]
    for number, change in enumerate(changed, 1):
        tails.append(str(number) if change else tails[-1])
        stability.append(1 if change else stability[-1] + 1)
    blind = rng.random() >= checker.epsilon
    entries = [entry(category, question, correct=blind, energy_j=0.5)]
    for line, correct in enumerate(right, 1):
        entries.append(
            entry(
                category,
                question,
                checkpoint=line,
                think_tokens=5 * line,
                correct=correct,
                stability=stability[line - 1],
                tail=tails[line - 1],
                energy_j=0.5 + LINE_J * line,
            )
        )
    end = entry(
        category,
        question,
        checkpoint=len(entries),
        think_tokens=5 * len(right) + 1,
        correct=right[-1],
        confidence=None,
        entropy=None,
        closed=True,
        energy_j=entries[-1].energy_j + 0.1,
        probe_j=0.0,
    )
    return Trace(tuple(entries), end)


def check_runs(checker: Checker, count: int, seed: int, *, category: str = "verify") -> list[Trace]:
    rng = random.Random(seed)
    return [check_run(checker, seed * 1_000_000 + number, rng, category=category) for number in range(count)]
