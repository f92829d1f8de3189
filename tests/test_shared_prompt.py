"""Rows of one prompt fork one prefill: tokens stay theirs, its joules are shared to the microjoule."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.energy.forecast import Forecast
from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.model import Model
from engine.result import Generation
from engine.steps import Prefill, Probe, Step, StopReason
from engine.stop import Policy
from tests import letters
from tests.late_loop import run_late
from tests.letters import CountedMeter

PROMPT = [5 + (7 * i) % 80 for i in range(37)]  # two whole pages and a begun one
OTHER = [9, 8, 7]
SAMPLED: dict[str, Any] = {"temperature": 1.0, "seed": 11, "max_new_tokens": 24}


@pytest.fixture(scope="module", params=["torch", "cpu"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory: Path = tmp_path_factory.mktemp("letters")
    letters.write(directory)
    with Engine.load(directory, backend=request.param, meter=CountedMeter()) as loaded:  # type: ignore[arg-type]
        yield loaded


class Forwards:
    """Counts prefills by what they feed, and decode forwards."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fed: list[int] = []
        right = Model.forward

        def forward(model: Model, tokens: Sequence[int], *given: Any, **options: Any) -> Any:
            self.fed.append(len(tokens))
            return right(model, tokens, *given, **options)

        monkeypatch.setattr(Model, "forward", forward)


def tokens(results: Sequence[Generation]) -> list[tuple[int, ...]]:
    return [result.token_ids for result in results]


def test_sixteen_rows_of_one_prompt_cost_one_prefill(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(engine, monkeypatch)
    results = engine.generate_many([PROMPT] * 16, **SAMPLED)
    assert forwards.fed == [37] + [16] * 23
    assert len(set(tokens(results))) > 8, "each row has its own random numbers"
    assert results[0].energy.phases["prefill"].tokens == 37
    assert {result.prompt_tokens for result in results} == {37}


def test_forked_rows_have_the_tokens_of_rows_with_a_prefill_each(engine: Engine) -> None:
    prompts = [PROMPT, OTHER, PROMPT, PROMPT, OTHER]
    forked = engine.generate_many(prompts, **SAMPLED)
    apart = engine.generate_many(prompts, share_prompts=False, **SAMPLED)
    assert tokens(forked) == tokens(apart)
    assert forked[0].energy.phases["prefill"].tokens == 40
    assert apart[0].energy.phases["prefill"].tokens == 3 * 37 + 2 * 3


def test_row_0_of_many_samples_is_a_single_run(engine: Engine) -> None:
    [single] = engine.generate_many([PROMPT], **SAMPLED)
    assert engine.generate_many([PROMPT] * 5, **SAMPLED)[0].token_ids == single.token_ids


@pytest.mark.parametrize("prompt", [1, 16, 31, 33])
def test_prompts_that_end_anywhere_in_a_page_are_forked_right(engine: Engine, prompt: int) -> None:
    prompts = [PROMPT[:prompt]] * 3
    assert tokens(engine.generate_many(prompts, **SAMPLED)) == tokens(
        engine.generate_many(prompts, share_prompts=False, **SAMPLED)
    )


def test_a_fork_that_writes_into_the_prompts_page_is_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: rows that go on in one another's page."""
    from engine.cache import KVCache

    right = engine.generate_many([PROMPT] * 3, **SAMPLED)
    monkeypatch.setattr(
        KVCache,
        "fork",
        lambda cache, row: cache._admit(
            type(cache._rows[row])(list(cache._rows[row].pages), cache._rows[row].length)
        ),
    )
    try:
        wrong = tokens(engine.generate_many([PROMPT] * 3, **SAMPLED))
    except AssertionError:
        return
    assert wrong != tokens(right)


def test_a_shared_prefill_is_split_equally_and_nothing_is_lost(engine: Engine) -> None:
    results = engine.generate_many([PROMPT] * 3, max_new_tokens=4)
    energy = results[0].energy
    prefill_uj = round((energy.phases["prefill"].energy_j or 0) * 1e6)
    parts = [round(row.by_forward[0][0] * 1e6) for row in energy.rows.values()]
    assert sum(parts) == prefill_uj
    assert max(parts) - min(parts) <= 1
    assert energy.total_j is not None
    assert energy.unattributed_j is not None
    rows_uj = sum(round(row.total_j * 1e6) for row in energy.rows.values())
    assert rows_uj + round(energy.unattributed_j * 1e6) == round(energy.total_j * 1e6)


def test_a_budget_needs_the_prefill_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[int]] = []

    def minimum_j(self: Forecast, prompts: Sequence[int]) -> float:
        asked.append(list(prompts))
        return 10.0 * len(prompts)

    monkeypatch.setattr(Forecast, "minimum_j", minimum_j)
    engine.start([PROMPT] * 4, budget_joules=15.0)
    engine.start([PROMPT, OTHER, PROMPT], budget_joules=25.0)
    assert asked == [[37], [37, 3]]
    with pytest.raises(TokenjouleError, match="less than the predicted minimum of 40"):
        engine.start([PROMPT] * 4, budget_joules=15.0, share_prompts=False)


def test_long_prompts_are_prefilled_in_chunks_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokens(engine.generate_many([PROMPT] * 3, max_new_tokens=6))
    monkeypatch.setattr("engine.shared_prompt.PREFILL_CHUNK", 16)
    forwards = Forwards(engine, monkeypatch)
    assert tokens(engine.generate_many([PROMPT] * 3, max_new_tokens=6)) == whole
    assert forwards.fed[:4] == [16, 16, 5, 3]


def test_waves_run_one_after_another_on_one_prefill(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    together = tokens(engine.generate_many([PROMPT] * 5, **SAMPLED))
    forwards = Forwards(engine, monkeypatch)
    session = engine.start([PROMPT] * 5, rows_at_once=2, **SAMPLED)
    order = [step.row for step in session.steps()]
    results = session.results()
    assert tokens(results) == together, "a row's tokens do not depend on when it began"
    assert forwards.fed == [37] + [2] * 23 + [2] * 23 + [1] * 23
    assert [row // 2 for row in order] == sorted(row // 2 for row in order)
    rows = results[0].energy.rows
    assert [0 in rows[row].by_forward for row in range(5)] == [True, True, False, False, False]
    assert results[0].energy.phases["prefill"].tokens == 37


def test_rows_that_wait_can_be_cancelled_and_cost_nothing(engine: Engine) -> None:
    session = engine.start([PROMPT] * 6, rows_at_once=2, **SAMPLED)
    for step in session.steps():
        if step.row == 1 and step.stop is not None:
            session.cancel({2, 3, 4, 5})
    results = session.results()
    assert [len(result.token_ids) for result in results] == [24, 24, 0, 0, 0, 0]
    assert {result.stop.reason for result in results[2:]} == {StopReason.CANCELLED}
    assert set(results[0].energy.rows) == {0, 1}


def test_a_running_row_can_be_cancelled_alone(engine: Engine) -> None:
    session = engine.start([PROMPT] * 3, **SAMPLED)
    for step in session.steps():
        if step.row == 0 and step.index == 4:
            session.cancel({1})
    assert [len(result.token_ids) for result in session.results()] == [24, 4, 24]


@pytest.mark.parametrize("at_once", [None, 2])
def test_steps_of_a_device_serve_forks_and_waves(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, at_once: int | None
) -> None:
    expected = tokens(engine.generate_many([PROMPT] * 5, **SAMPLED))
    loops = run_late(engine, monkeypatch)
    found = engine.generate_many([PROMPT] * 5, rows_at_once=at_once, **SAMPLED)
    assert tokens(found) == expected
    assert loops[0].launched


def test_the_device_is_told_of_the_pages_that_rows_will_share(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def device_loop(cache: Any, rows: Any, *, prefix: int, **_: Any) -> None:
        told.append((len(rows), prefix))

    monkeypatch.setattr(engine.model, "device_loop", device_loop)
    for prompts, options in (
        ([PROMPT] * 4, {}),
        ([PROMPT] * 4, {"rows_at_once": 2}),
        ([PROMPT] * 4, {"share_prompts": False}),
        ([PROMPT], {}),
        ([PROMPT, PROMPT, OTHER], {}),
    ):
        engine.start(prompts, **options)  # type: ignore[arg-type]
    assert told == [(4, 32), (2, 32), (4, 0), (1, 0), (3, 0)]


def test_probes_hooks_and_log_probabilities_see_forked_rows_as_their_own(engine: Engine) -> None:
    class Probing(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe | None:
            return Probe("x", max_tokens=2) if step.index == 3 else None

    class Watching:
        needs = frozenset({"logprob", "hidden:1"})

        def __init__(self) -> None:
            self.seen: dict[tuple[int, int], tuple[float, float]] = {}

        def on_prefill(self, prefill: Prefill) -> None:
            assert prefill.prompt_tokens == (37, 37, 37)

        def on_step(self, step: Step) -> None:
            self.seen[step.row, step.index] = step.log_probability(), float(step.hidden(1).sum())

        def on_end(self, result: Generation) -> None:
            """Nothing."""

    forked, apart = Watching(), Watching()
    options = {**SAMPLED, "max_new_tokens": 8, "policies": [Probing()]}
    first = engine.generate_many([PROMPT] * 3, hooks=[forked], **options)
    second = engine.generate_many([PROMPT] * 3, hooks=[apart], share_prompts=False, **options)
    assert first[0].error is None, first[0].error
    assert tokens(first) == tokens(second)
    assert forked.seen == apart.seen
    assert all(log_probability < 0 for log_probability, _ in forked.seen.values())


class Scores:
    """The log-probability of every token, and nothing else."""

    needs = frozenset({"logprob"})

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_prefill(self, prefill: Prefill) -> None:
        """Nothing."""

    def on_step(self, step: Step) -> None:
        self.seen.append(step.log_probability())

    def on_end(self, result: Generation) -> None:
        """Nothing."""


def test_log_probabilities_do_not_keep_a_device_from_running_ahead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, late = Scores(), Scores()
    engine.generate_many([PROMPT] * 3, hooks=[alone], **SAMPLED)
    loops = run_late(engine, monkeypatch)
    engine.generate_many([PROMPT] * 3, hooks=[late], **SAMPLED)
    assert late.seen == pytest.approx(alone.seen, abs=1e-5) and len(set(late.seen)) > 24
    assert loops[0].most_waiting == 2 and not loops[0].keep_logits


def test_a_log_probability_is_the_models_own(engine: Engine) -> None:
    class Both:
        needs = frozenset({"logprob", "logits"})

        def on_prefill(self, prefill: Prefill) -> None:
            """Nothing."""

        def on_step(self, step: Step) -> None:
            expected = torch.log_softmax(step.logits(), -1)[step.token_id]
            assert step.log_probability() == pytest.approx(float(expected), abs=1e-6)

        def on_end(self, result: Generation) -> None:
            """Nothing."""

    for late in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if late:
                run_late(engine, patch)
            [first, *_] = engine.generate_many(
                [PROMPT] * 3, hooks=[Both()], temperature=0.5, top_k=5, max_new_tokens=6
            )
            assert first.error is None, first.error


def test_what_nobody_asked_for_is_not_there(engine: Engine) -> None:
    step = next(engine.start([PROMPT], max_new_tokens=2).steps())
    with pytest.raises(ValueError, match='"logprob" is not in needs'):
        step.log_probability()


def test_waves_of_no_rows_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="rows_at_once must be at least 1, not 0"):
        engine.start([PROMPT], rows_at_once=0)
