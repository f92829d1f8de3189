"""Where a policy looks."""

import pytest

from engine.errors import UsageError
from engine.steps import Context, Phase, Step
from engine.stop import Checkpoints, StepBudget, TailStability


def context(separator: str | None) -> Context:
    return Context(0, 5, 100, None, 8, separator, None)


def look(pieces: list[str], separator: str, every: int | None = None) -> list[tuple[int, str]]:
    """(count, text) wherever a checkpoint was reached."""
    checkpoints, found = Checkpoints(every), []
    checkpoints.begin(context(separator))
    for index, piece in enumerate(pieces):
        if checkpoints.reached(Step(0, index, 0, piece, Phase.THINK, 1)):
            found.append((checkpoints.count, checkpoints.text))
    return found


def test_a_step_ends_at_its_separator_however_the_text_comes() -> None:
    assert look(["a", "b\n", "c", "\nd", "\n"], "\n") == [(1, "ab"), (2, "c"), (3, "d")]
    assert look(["a\n", "\nb\n\nc"], "\n\n") == [(2, "b")], "both ends came with one piece"
    assert look(["a\n", "b"], "\n\n") == []


def test_or_behind_so_many_tokens() -> None:
    assert look(["a", "", "bc", "d", "e"], "\n", every=2) == [(1, "a"), (2, "bcd")]


def test_the_answer_has_no_checkpoints() -> None:
    checkpoints = Checkpoints()
    checkpoints.begin(context("\n"))
    assert not checkpoints.reached(Step(0, 0, 0, "a\n", Phase.ANSWER, 1))


@pytest.mark.parametrize("policy", [StepBudget(2), TailStability(2)])
def test_a_model_that_marks_no_steps_is_refused(policy: StepBudget | TailStability) -> None:
    with pytest.raises(UsageError, match="marks its thinking"):
        policy.reset(context(None))


def test_every_is_a_number_of_tokens() -> None:
    with pytest.raises(UsageError, match="every"):
        Checkpoints(0)
