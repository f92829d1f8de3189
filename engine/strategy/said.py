"""What was said to a question, here or on a server, and what that took; nothing that goes wrong is raised."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import TokenjouleError
from engine.steps import StopReason
from engine.strategy.ask import Technique, ask

if TYPE_CHECKING:
    from engine.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`energy_j`: None where nobody can tell. `confidence`: in `answer`. `votes`: of a vote, by answer.
    `reused_tokens`: read before.

    `error`: why there is no answer, or what failed behind it. `cut`: by its joule budget, so that it took
    less than it would have. `note`: what else is not as it should be.
    """

    answer: str | None = None
    text: str = ""
    confidence: float | None = None
    votes: Mapping[str, int] | None = None
    energy_j: float | None = None
    energy_source: str = ""
    measured: bool = False
    prompt_tokens: int = 0
    new_tokens: int = 0
    elapsed_s: float = 0.0
    reused_tokens: int = 0
    error: str | None = None
    cut: bool = False
    note: str | None = None


def answer_here(engine: "Engine", question: str, way: Technique, **options: Any) -> Said:
    """`options` as `ask` has them. What is refused before it begins has taken nothing."""
    begun_s = time.monotonic()
    try:
        found = ask(engine, question, way, **options)
    except TokenjouleError as error:
        return Said(energy_j=0.0, elapsed_s=time.monotonic() - begun_s, error=str(error))
    result = found.outcome.result
    stops = {result.stop.reason, *(sample.stop for sample in found.outcome.samples or ())}
    return Said(
        answer=found.answer,
        text=result.text,
        confidence=found.confidence,
        votes=found.outcome.votes,
        energy_j=result.energy.window_j if result.energy.complete else None,
        energy_source=result.energy.source,
        measured=result.energy.measured,
        prompt_tokens=result.prompt_tokens,
        new_tokens=found.outcome.new_tokens,
        elapsed_s=time.monotonic() - begun_s,
        reused_tokens=found.reused_tokens,
        error=result.error or (None if found.answer else "it gave no answer"),
        cut=StopReason.JOULE_BUDGET in stops,
    )
