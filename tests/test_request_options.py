"""What a request says beside its prompt: the temperature of its answer, and its category."""

from pathlib import Path
from typing import Any

import pytest

from engine.engine import Engine
from engine.errors import UsageError
from engine.sampler import Sampling
from engine.stop import Policy, TokenBudget
from tests.late_loop import run_late
from tests.letters import CountedMeter
from tests.stop.scripted import play, thinker

PROMPT = [5, 6, 7, 8]


@pytest.mark.parametrize("temperature", [None, 0.0, 1.0])
def test_an_answer_can_have_a_temperature_of_its_own(temperature: float | None) -> None:
    """Half of the answers are "z" where they are sampled; none where they are read greedily."""
    script = thinker(["a=1"], ["7"], [0.6])
    answers = set()
    for seed in range(12):
        sampling = Sampling(1.0, seed=seed, answer_temperature=temperature)
        [free], _ = play(script, sampling=sampling)
        [forced], _ = play(script, TokenBudget(2), sampling=sampling)
        answers |= {free.answer, forced.answer}
    assert answers == ({"7"} if temperature == 0 else {"7", "z7", "z"} & answers)
    assert (len(answers) > 1) == (temperature != 0)


def test_an_answer_temperature_runs_by_the_host_and_only_where_thinking_is_marked(
    letters_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's own loop is told once how rows sample: its first answer token would still be a thought's."""
    options: dict[str, Any] = {
        "max_new_tokens": 30,
        "temperature": 1.5,
        "seed": 1,
        "budget_tokens": 5,
        "answer_tokens": 8,
    }
    with Engine.load(letters_directory, backend="torch", meter=CountedMeter()) as engine:  # type: ignore
        cold = engine.generate(PROMPT, answer_temperature=0.0, **options)
        warm = engine.generate(PROMPT, **options)
        loops = run_late(engine, monkeypatch)
        assert engine.generate(PROMPT, answer_temperature=0.0, **options).token_ids == cold.token_ids
        assert not loops
        assert engine.generate(PROMPT, answer_temperature=1.5, **options).token_ids == warm.token_ids
        assert loops, "the same temperature changes nothing"
        fed = [*PROMPT, *cold.token_ids[:7]]
        monkeypatch.setattr(engine, "thinking", None)
        assert engine.generate(fed, max_new_tokens=8).token_ids == cold.token_ids[7:], (
            "greedy behind the prefix"
        )
        with pytest.raises(UsageError, match="marks its thinking"):
            engine.generate(PROMPT, answer_temperature=0.0)
    assert cold.token_ids[:7] == warm.token_ids[:7]
    assert cold.token_ids != warm.token_ids


def test_categories_are_one_for_all_or_one_for_each(letters_directory: Path) -> None:
    seen: list[str | None] = []

    class Asked(Policy):
        def reset(self, context: Any) -> None:
            seen.append(context.category)

    with Engine.load(letters_directory, backend="torch", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        engine.generate_many([PROMPT, PROMPT], max_new_tokens=1, policies=[Asked()], category="chain")
        engine.generate_many(
            [PROMPT, PROMPT], max_new_tokens=1, policies=[Asked()], category=["search", None]
        )
        assert seen == ["chain", "chain", "search", None]
        with pytest.raises(UsageError, match="1 categories for 2 prompts"):
            engine.generate_many([PROMPT, PROMPT], category=["search"])
