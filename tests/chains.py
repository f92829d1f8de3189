"""Chains of the test bed as bundled:chain knows them."""

from dataclasses import replace

from bench.testbed.question import Question
from bench.testbed.splits import open_split


def spelled(*split: str, **asked) -> list[Question]:
    """A split's: `a+5b-8>47=` is `47+5-8=`, and `05` is `5`. Other categories stay as they are."""
    found = []
    for question in open_split(*split, **asked):
        if question.category == "chain":
            operations, start = question.prompt.removesuffix("=").split(">")
            operations = "".join(character for character in operations if not character.isalpha())
            question = replace(
                question, prompt=f"{int(start)}{operations}=", answer=str(int(question.answer))
            )
        found.append(question)
    return found
