"""One arm's go at a query, on an engine of ours; nothing that goes wrong is raised."""

import time
from dataclasses import dataclass

from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.prefilled import Prefilled
from engine.strategy.ask import ask
from router.arms import Arm


@dataclass(frozen=True, slots=True)
class Stage:
    """`energy_j`: None where nobody can tell. `confidence`: in `answer`. `reused_tokens`: read before.

    `error`: why it has no answer, or failed behind it.
    """

    arm: str
    answer: str | None = None
    text: str = ""
    confidence: float | None = None
    energy_j: float | None = None
    energy_source: str = ""
    measured: bool = False
    prompt_tokens: int = 0
    new_tokens: int = 0
    elapsed_s: float = 0.0
    reused_tokens: int = 0
    error: str | None = None


def answer_here(
    engine: Engine,
    arm: Arm,
    query: str,
    *,
    chat: bool,
    budget_tokens: int,
    budget_joules: float | None = None,
    known: Prefilled | None = None,
    seed: int = 0,
) -> Stage:
    """`known`: the query as it was read. A stage that is refused before it begins has taken nothing."""
    begun_s = time.monotonic()
    try:
        found = ask(
            engine,
            query,
            arm.way,
            chat=chat,
            budget_tokens=budget_tokens,
            budget_joules=budget_joules,
            known=known,
            seed=seed,
        )
    except TokenjouleError as error:
        elapsed_s = time.monotonic() - begun_s
        return Stage(arm.name, energy_j=0.0, elapsed_s=elapsed_s, error=str(error))
    result = found.outcome.result
    return Stage(
        arm=arm.name,
        answer=found.answer,
        text=result.text,
        confidence=found.confidence,
        energy_j=result.energy.window_j if result.energy.complete else None,
        energy_source=result.energy.source,
        measured=result.energy.measured,
        prompt_tokens=result.prompt_tokens,
        new_tokens=found.outcome.new_tokens,
        elapsed_s=time.monotonic() - begun_s,
        reused_tokens=found.reused_tokens,
        error=result.error or (None if found.answer else "it gave no answer"),
    )
