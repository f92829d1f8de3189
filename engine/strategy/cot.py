"""Chain of thought: the model writes as it was trained to, thinking first if it thinks. Plain generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.result import Generation
from engine.strategy.base import Attempt, Outcome

if TYPE_CHECKING:
    from engine.engine import Engine, Prompt


@dataclass(frozen=True, slots=True)
class Cot:
    """`instruction`: what is asked for behind the question, such as a format for the steps, or brevity.

    The question comes first, so that others who ask the same can share its prefix.
    """

    instruction: str = ""
    name: str = "cot"
    streams: bool = True

    def begin(self, engine: "Engine", prompt: "Prompt", **options: Any) -> Attempt:
        if self.instruction:
            if not isinstance(prompt, str):
                raise UsageError("an instruction goes behind a prompt of text, not of token ids")
            prompt = f"{prompt}\n\n{self.instruction}"
        session = engine.start([prompt], **options)
        temperature = options.get("temperature", 0.0)

        def conclude(results: Sequence[Generation]) -> Outcome:
            return Outcome(self.name, results[0], temperature)

        return Attempt(session, conclude)
