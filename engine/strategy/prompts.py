"""What a question is wrapped in, so that a model answers at once or writes its steps out first.

The question comes first and the technique's instruction last, so that every technique on one question shares
the question's prefix in the cache. Meta's own order is the reverse; the instructions are otherwise theirs:

- `llama-math`: Meta's evaluation of Llama 3.2 on MATH, which the paper used for its chain of thought; the
  text
  as huggingface/search-and-learn (src/sal/config.py, `system_prompt`) and EleutherAI/lm-evaluation-harness
  (lm_eval/tasks/llama3/instruct/math/utils.py, `template`) have it.
- `llama-mmlu`: its twin for multiple choice,
  lm_eval/tasks/llama3/instruct/mmlu_cot/_mmlu_cot_llama_template_yaml.
- `llama-mmlu-direct`: lm_eval/tasks/llama3/instruct/mmlu/_continuation_template_yaml, whose answer begins
  "The best answer is".
- `llama-math-direct`, `own-thinking`, `plain` and the directives: ours.

A model that marks its own thinking needs no format for it: it is only told how to give the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from engine.errors import UsageError
from engine.thinking import ThinkingFormat

STEPS = 5  # the paper's section 4.3: "up to 5 steps and … a maximum of up to 512 token"
NEW_TOKENS = 512
_FOLDER = Path(__file__).parent / "templates"


class Directive(StrEnum):
    """How much to write, after the three levels of Sprout's generation directives (arXiv 2403.12900)."""

    NONE = "none"
    BRIEF = "brief"
    VERY_BRIEF = "very-brief"


# The words are ours.
_DIRECTIVES = {
    Directive.BRIEF: "Keep the reasoning brief.",
    Directive.VERY_BRIEF: "Keep the reasoning very brief: a few words a step, and no step too many.",
}


@dataclass(frozen=True, slots=True)
class Schema:
    """One way to ask. `begins`: what the answer is made to begin with, behind the prompt; "" for nothing.

    `thinking`: how the written steps of a model without thinking tags are told from its answer, so that stop
    policies and budgets can act on them; None where nothing is written before the answer, or where the
    model's own tags hold. A step is a block that ends in an empty line, as in Meta's format.
    """

    name: str
    instruction: str
    begins: str = ""
    thinking: ThinkingFormat | None = None
    new_tokens: int = NEW_TOKENS

    def prompt(
        self, question: str, *, choices: Sequence[str] | None = None, directive: Directive = Directive.NONE
    ) -> str:
        """The user's turn: question, choices, instruction, directive. Raises `UsageError` for a wrong mix."""
        if directive is not Directive.NONE and not self.instruction:
            raise UsageError(
                f"the prompt {self.name} takes no directive: the model is only given the question"
            )
        if directive is not Directive.NONE and self.begins:
            raise UsageError(
                f"the prompt {self.name} takes no directive: it asks for an answer without reasoning"
            )
        parts = [question.strip() if choices is None else multiple_choice(question, choices)]
        parts += [part for part in (self.instruction, _DIRECTIVES.get(directive, "")) if part]
        return "\n\n".join(parts)


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """The question and its lettered choices, a line each."""
    if not 2 <= len(choices) <= 26:
        raise UsageError(f"a multiple-choice question has 2 to 26 choices, not {len(choices)}")
    lines = [f"{chr(ord('A') + place)}. {text.strip()}" for place, text in enumerate(choices)]
    return "\n".join([f"Question: {question.strip()}", *lines])


# In front of an injected answer line. No prompt holds three line breaks in a row: the instruction words the
# same line, and without them the prompt would seem to have closed the thinking already. A model that writes
# the line by itself so ends within its thinking, where the grader finds the answer in the text.
_BREAK = "\n\n\n"


@cache
def schemas() -> dict[str, Schema]:
    """All of them, by name. Reads the templates beside this file."""
    best, final = "The best answer is", "The final answer is:"
    math = ThinkingFormat(None, f"{_BREAK}Therefore, the final answer is:", " $\\boxed{", "\n\n")
    letter = ThinkingFormat(None, f"{_BREAK}{best}", "", "\n\n")
    found = (
        Schema("llama-math", _read("llama-math"), thinking=math),
        Schema("llama-mmlu", _read("llama-mmlu"), thinking=letter),
        Schema("llama-math-direct", _read("llama-math-direct"), f"{final} $\\boxed{{", new_tokens=32),
        Schema("llama-mmlu-direct", _read("llama-mmlu-direct"), best, new_tokens=1),
        # As DeepSeek-R1's model card recommends.
        Schema("own-thinking", "Please reason step by step, and put your final answer within \\boxed{}."),
        Schema("plain", ""),
    )
    return {one.name: one for one in found}


def schema(name: str) -> Schema:
    """By its name. Raises `UsageError`."""
    if name not in schemas():
        raise UsageError(f"unknown prompt {name!r}; there are {', '.join(schemas())}")
    return schemas()[name]


def reasoning_schema(thinking: ThinkingFormat | None, *, multiple_choice: bool) -> Schema:
    """What has a model reason before it answers. `thinking`: its own format, None where it has none.

    A model whose thinking nothing opens (the bundled ones) was trained on bare questions and gets those.
    """
    if thinking is None:
        return schema("llama-mmlu" if multiple_choice else "llama-math")
    return schema("plain" if thinking.opener is None else "own-thinking")


def direct_schema(thinking: ThinkingFormat | None, *, multiple_choice: bool) -> Schema:
    """What has a model answer at once; the thinking of one that thinks is to be closed for it."""
    if thinking is not None:
        return reasoning_schema(thinking, multiple_choice=multiple_choice)
    return schema("llama-mmlu-direct" if multiple_choice else "llama-math-direct")


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()
