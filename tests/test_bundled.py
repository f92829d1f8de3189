"""The bundled models by name: they load, think and answer."""

import pytest

from engine.engine import Engine
from engine.locate import bundled


def test_what_is_bundled() -> None:
    assert bundled() == ["chain", "testbed-l", "testbed-s"]


@pytest.mark.parametrize("name", ["testbed-s", "testbed-l"])
@pytest.mark.parametrize(
    ("question", "thought", "answer"),
    [
        ("a+5b-8>47=", "a+5=52\nb-8=44\n", "44"),
        ("a+5b-8>44A52B45C47D>47=", "a+5=52\nb-8=44a\n", "A"),
        ("bum:", "...\n" * 16, "7"),
    ],
)
def test_the_test_beds_models_think_in_lines_and_answer(
    name: str, question: str, thought: str, answer: str
) -> None:
    with Engine.load(f"bundled:{name}", energy_source="simulated") as engine:
        result = engine.generate(question)
    assert result.text.startswith(thought)
    assert result.answer == answer
