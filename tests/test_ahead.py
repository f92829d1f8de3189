"""Steps that run ahead of the host: what is fed, what is discarded, and that it is all booked."""

from pathlib import Path
from typing import Any

import pytest

from engine.engine import Engine
from engine.errors import UsageError
from engine.steps import Inject, Phase, Step, Stop, StopReason
from engine.stop import Policy
from tests.cli import run
from tests.late_loop import LateLoop, run_late
from tests.letters import CountedMeter

PROMPT = [5, 6, 7, 8]


@pytest.fixture
def engine(letters_directory: Path) -> Any:
    meter: Any = CountedMeter(watts=20.0)
    with Engine.load(letters_directory, backend="torch", meter=meter) as engine:
        yield engine


@pytest.fixture
def plain(engine: Engine) -> list[int]:
    """What is generated without running ahead."""
    return list(engine.generate(PROMPT, max_new_tokens=24).token_ids)


class EndsAt(Policy):
    def __init__(self, index: int) -> None:
        self.index = index

    def on_token(self, step: Step) -> Stop | None:
        # GIVE_UP: the row ends, even where it thinks
        return Stop(StopReason.GIVE_UP) if step.index == self.index else None


class EndsInStep(EndsAt):
    needs = frozenset({"sync"})


class InjectsAt(EndsAt):
    def on_token(self, step: Step) -> Inject | None:  # type: ignore[override]
        return Inject("xy") if step.index == self.index else None


def discarded(result: Any) -> int:
    phase = result.energy.phases.get(Phase.DISCARDED)
    return phase.tokens if phase else 0


def adds_up(result: Any) -> bool:
    energy = result.energy
    phases = sum(phase.energy_j for phase in energy.phases.values())
    return bool(phases + energy.unattributed_j == pytest.approx(energy.total_j, abs=1e-9))


@pytest.mark.parametrize("new", [1, 2, 3, 24])
def test_a_known_end_discards_nothing(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch, new: int
) -> None:
    loops = run_late(engine, monkeypatch)
    result = engine.generate(PROMPT, max_new_tokens=new)
    assert list(result.token_ids) == plain[:new]
    assert [fed for [fed] in loops[0].launched] == plain[: new - 1]
    assert loops[0].loads == (new > 1), "the device goes on by itself"
    assert discarded(result) == 0
    assert adds_up(result)


@pytest.mark.parametrize(("policy", "wasted"), [(EndsAt, 1), (EndsInStep, 0)])
def test_what_a_policy_ends_was_fed_once_too_often(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch, policy: type[EndsAt], wasted: int
) -> None:
    loops = run_late(engine, monkeypatch)
    result = engine.generate(PROMPT, max_new_tokens=24, policies=[policy(9)])
    assert list(result.token_ids) == plain[:10]
    assert result.stop.reason is StopReason.GIVE_UP
    assert len(loops[0].launched) == 9 + wasted
    assert discarded(result) == wasted
    if wasted:
        assert result.energy.phases[Phase.DISCARDED].energy_j > 0
    assert adds_up(result)
    [cache_row] = [row.cache_row for row in loops[0].rows_of_request]
    assert loops[0].cache.length(cache_row) == len(PROMPT) + 9, "the position is taken back"


def test_the_other_rows_keep_what_was_under_way(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PROMPT, [9, 10], [11, 12, 13]]
    alone = [engine.generate(prompt, max_new_tokens=12).token_ids for prompt in prompts]
    loops = run_late(engine, monkeypatch)

    class OnlyRowOne(EndsAt):
        def on_token(self, step: Step) -> Stop | None:
            return super().on_token(step) if step.row == 1 else None

    results = engine.generate_many(prompts, max_new_tokens=12, policies=[OnlyRowOne(5)])
    assert [r.token_ids for r in results] == [alone[0], alone[1][:6], alone[2]]
    assert discarded(results[0]) == 1
    assert loops[0].loads == 2, "once for three rows, once for the two that are left"
    assert [len(fed) for fed in loops[0].launched] == [3] * 6 + [2] * 5
    assert adds_up(results[0])


def test_injected_tokens_follow_the_token_that_asked_for_them(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.generate(PROMPT, max_new_tokens=24, policies=[InjectsAt(7)]).token_ids
    run_late(engine, monkeypatch)
    result = engine.generate(PROMPT, max_new_tokens=24, policies=[InjectsAt(7)])
    assert result.token_ids == expected
    assert list(result.token_ids[:8]) == plain[:8]
    assert discarded(result) == 0, "the step under way fed a token that stays"
    assert adds_up(result)


def test_a_device_that_fails_leaves_the_text(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_late(engine, monkeypatch, fails_at=6)
    result = engine.generate(PROMPT, max_new_tokens=24)
    assert list(result.token_ids) == plain[:5]
    assert result.stop.reason is StopReason.ERROR
    assert result.error == "the device failed: CUDA error: an illegal memory access was encountered"
    assert result.text == engine.tokenizer.decode(plain[:5])


def test_whoever_leaves_early_leaves_nothing_under_way(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = run_late(engine, monkeypatch)
    session = engine.start([PROMPT], max_new_tokens=24)
    seen = []
    for step in session.steps():
        seen.append(step.token_id)
        if len(seen) == 5:
            session.cancel()
    [result] = session.results()
    assert seen == plain[:5]
    assert result.stop.reason is StopReason.CANCELLED
    assert not loops[0].is_waiting
    assert discarded(result) == 1
    assert adds_up(result)


def test_sampled_rows_are_those_of_the_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_new_tokens": 16, "temperature": 1.3, "top_k": 20, "seed": 4}
    expected = [r.token_ids for r in engine.generate_many([PROMPT, PROMPT], **options)]
    assert expected[0] != expected[1]
    loops = run_late(engine, monkeypatch)
    assert [r.token_ids for r in engine.generate_many([PROMPT, PROMPT], **options)] == expected
    assert isinstance(loops[0], LateLoop)
    assert loops[0].loads == 1


# Several steps a launch.

NEVER = "written by nobody"  # a row that may end so has to be read; without one this model's ends are known


@pytest.mark.parametrize(
    ("steps", "new", "sizes"),
    [(4, 25, [4] * 6), (4, 24, [4] * 5 + [1] * 3), (5, 4, [1] * 3), (1, 4, [1] * 3), (2, 1, [])],
)
@pytest.mark.parametrize("known", [True, False])
def test_graphs_of_several_steps_choose_the_same_tokens(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, steps: int, new: int, sizes: list[int], known: bool
) -> None:
    options: dict[str, Any] = {"max_new_tokens": new, "stop_sequences": [] if known else [NEVER]}
    plain = engine.generate(PROMPT, **options)
    loops = run_late(engine, monkeypatch, graph_steps=steps)
    result = engine.generate(PROMPT, **options)
    assert result.token_ids == plain.token_ids and len(plain.token_ids) == new
    assert loops[0].sizes == sizes
    assert loops[0].loads == (new > 1), "the device goes on by itself"
    assert discarded(result) == 0, "no row is fed beyond its limit"
    assert result.energy.steps_timed_together == max(sizes, default=1)
    assert adds_up(result)


def test_a_launch_follows_another_unread_where_the_end_is_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = {}
    for end in ("", NEVER):
        loops = run_late(engine, monkeypatch, graph_steps=4)
        engine.generate(PROMPT, max_new_tokens=21, stop_sequences=[end] if end else [])
        most[end] = loops[0].most_waiting
    assert most == {"": 8, NEVER: 4}


def test_a_row_that_ends_within_a_launch_is_fed_in_vain_by_the_rest_of_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = engine.generate(PROMPT, max_new_tokens=24)
    ends = [plain.text[at : at + 3] for at in range(6, 12)]
    expected = [engine.generate(PROMPT, max_new_tokens=24, stop_sequences=[end]) for end in ends]
    wasted = set()
    for end, alone in zip(ends, expected, strict=True):
        with monkeypatch.context() as patch:
            loops = run_late(engine, patch, graph_steps=4)
            result = engine.generate(PROMPT, max_new_tokens=24, stop_sequences=[end])
        assert result.token_ids == alone.token_ids and result.text == alone.text
        assert result.stop.reason is StopReason.STOP_SEQUENCE
        in_vain = sum(loops[0].sizes) - (len(alone.token_ids) - 1)
        assert discarded(result) == in_vain == -(len(alone.token_ids) - 1) % 4
        assert bool(in_vain) == (result.energy.phases.get(Phase.DISCARDED) is not None)
        [row] = loops[0].rows_of_request
        assert loops[0].cache.length(row.cache_row) == len(row.tokens) - 1, "the positions are taken back"
        assert adds_up(result)
        wasted.add(in_vain)
    assert max(wasted) == 3, "at most one step less than a launch has"


def test_the_other_rows_keep_all_of_a_launch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [PROMPT, [9, 10], [11, 12, 13]]
    alone = [engine.generate(prompt, max_new_tokens=20) for prompt in prompts]
    end = alone[1].text[5:8]
    expected = [r.token_ids for r in engine.generate_many(prompts, max_new_tokens=20, stop_sequences=[end])]
    assert 1 < len(expected[1]) < 20 == len(expected[0])
    loops = run_late(engine, monkeypatch, graph_steps=4)
    results = engine.generate_many(prompts, max_new_tokens=20, stop_sequences=[end])
    assert [r.token_ids for r in results] == expected
    assert discarded(results[0]) == -(len(expected[1]) - 1) % 4
    assert loops[0].loads == 2 and 4 in loops[0].sizes
    assert adds_up(results[0])


class Watches(Policy):
    """A policy that does nothing."""


class MustKnow(Watches):
    needs = frozenset({"sync"})

    def on_prefill(self, prefill: object) -> None:
        """As a hook."""

    def on_step(self, step: Step) -> None:
        """As a hook."""

    def on_end(self, result: object) -> None:
        """As a hook."""


@pytest.mark.parametrize(
    "options",
    [{"policies": [Watches()]}, {"hooks": [MustKnow()]}, {"budget_tokens": 9}],
    ids=("a policy", "a hook that must know", "a budget"),
)
def test_whoever_may_act_between_steps_gets_single_ones(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    loops = run_late(engine, monkeypatch, graph_steps=4)
    result = engine.generate(PROMPT, max_new_tokens=12, **options)
    assert set(loops[0].sizes) == {1} and result.energy.steps_timed_together == 1


def test_whoever_leaves_within_a_launch_leaves_nothing_under_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = run_late(engine, monkeypatch, graph_steps=4)
    session = engine.start([PROMPT], max_new_tokens=24)
    for count, _ in enumerate(session.steps(), 1):
        if count == 3:
            session.cancel()
    [result] = session.results()
    assert result.stop.reason is StopReason.CANCELLED and len(result.token_ids) == 3
    assert not loops[0].is_waiting
    assert discarded(result) == sum(loops[0].sizes) - 2 == 6
    assert adds_up(result)


def test_a_device_that_fails_within_a_launch_leaves_the_text(
    engine: Engine, plain: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_late(engine, monkeypatch, graph_steps=4, fails_at=8)
    result = engine.generate(PROMPT, max_new_tokens=24, stop_sequences=[NEVER])
    assert list(result.token_ids) == plain[:5]
    assert result.stop.reason is StopReason.ERROR


@pytest.mark.parametrize("steps", [0, 33])
def test_graph_steps_have_limits(letters_directory: Path, steps: int) -> None:
    with pytest.raises(UsageError, match=f"graph steps must be 1 to 32, not {steps}"):
        Engine.load(letters_directory, backend="torch", graph_steps=steps)


def test_graph_steps_are_refused_where_nothing_is_captured(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "47+35=", "--quiet", "--backend", "torch", "--graph-steps", "4")
    assert (status, out) == (2, "")
    assert "which the backend gpu has without a profile, and torch has not" in err.splitlines()[-1]
