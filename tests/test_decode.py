"""The decode loop: how many forwards, which tokens, why a row ended, what policies and probes do."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.steps import Inject, Phase, Prefill, Probe, ProbeReading, Step, Stop, StopReason
from engine.stop import Policy, StepBudget, TokenBudget
from tests.late_loop import run_late
from tests.letters import CountedMeter


@pytest.fixture(params=["cpu", "torch"])
def hosted(letters_directory: Path, request: pytest.FixtureRequest) -> Any:
    """Every step is a forward that the host asks for."""
    with Engine.load(letters_directory, backend=request.param, meter=CountedMeter()) as engine:  # type: ignore
        yield engine


@pytest.fixture(params=["cpu", "torch", "late"])
def engine(letters_directory: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    backend = "torch" if request.param == "late" else request.param
    with Engine.load(letters_directory, backend=backend, meter=CountedMeter()) as engine:  # type: ignore
        if request.param == "late":
            run_late(engine, monkeypatch)
        yield engine


PROMPT = [5, 6, 7, 8]


def count_forwards(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """New tokens per row of every forward from now on."""
    seen: list[list[int]] = []
    real = engine.model.forward

    def forward(tokens: Any, layout: Any, cache: Any, **options: Any) -> Any:
        seen.append([row.stop - row.start for row in layout.rows])
        return real(tokens, layout, cache, **options)

    monkeypatch.setattr(engine.model, "forward", forward)
    return seen


@pytest.mark.parametrize("new", [1, 2, 20])
def test_n_tokens_cost_one_prefill_and_n_minus_1_decodes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, new: int
) -> None:
    forwards = count_forwards(engine, monkeypatch)
    result = engine.generate(PROMPT, max_new_tokens=new)
    assert len(result.token_ids) == new
    assert forwards == [[4]] + [[1]] * (new - 1)


def test_tokens_are_those_of_plain_generation(engine: Engine) -> None:
    """With no policy and no hook, with idle ones, and with a policy that probes at every token."""

    class Watching(Policy):
        needs = frozenset({"logits", "hidden:1"})

        def on_token(self, step: Step) -> None:
            assert step.logits().shape == (97,)
            assert step.hidden(1).shape == (48,)

    class Probing(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe | None:
            return Probe(max_tokens=3) if step.phase is Phase.THINK else None

    plain = engine.generate(PROMPT, max_new_tokens=40)
    cache = engine.model.new_cache(60)
    row = cache.add_row()
    fed, expected = PROMPT, []
    while len(expected) < 40:
        logits, _ = engine.model.forward(fed, cache.extend({row: len(fed)}), cache)
        fed = [int(logits[0].argmax())]
        expected += fed
    assert list(plain.token_ids) == expected
    for policies in ([Policy()], [Watching()], [Probing()]):
        steered = engine.generate(PROMPT, max_new_tokens=400, policies=policies, answer_tokens=1)
        assert steered.token_ids[:40] == plain.token_ids
    assert "probe" in steered.energy.phases
    assert steered.energy.phases["probe"].tokens > 40


def test_what_nobody_needs_is_refused_not_served(engine: Engine) -> None:
    class Curious(Policy):
        def on_token(self, step: Step) -> None:
            step.logits()

    result = engine.generate(PROMPT, max_new_tokens=4, policies=[Curious()])
    assert result.stop.answer_end is StopReason.ERROR
    assert result.error is not None
    assert '"logits" is not in needs' in result.error
    assert len(result.token_ids) == 1, "what was generated before the error is kept"


def test_rows_end_on_their_own_and_match_their_rows_alone(engine: Engine) -> None:
    prompts = [PROMPT, [9, 10], list(range(30))]
    together = engine.generate_many(prompts, max_new_tokens=30, temperature=0.9, seed=4)
    assert [len(result.token_ids) for result in together] == [30, 30, 30]
    alone = engine.generate(prompts[0], max_new_tokens=30, temperature=0.9, seed=4)
    assert together[0].token_ids == alone.token_ids
    greedy = engine.generate_many(prompts, max_new_tokens=30)
    for prompt, row in zip(prompts, greedy, strict=True):
        assert engine.generate(prompt, max_new_tokens=30).token_ids == row.token_ids


def test_a_row_that_ends_early_leaves_the_others_running(
    hosted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(Policy):
        def reset(self, context: Any) -> None:
            self.row = context.row

        def on_token(self, step: Step) -> Stop | None:
            return Stop(StopReason.GIVE_UP) if self.row == 0 and step.index == 2 else None

    forwards = count_forwards(hosted, monkeypatch)
    rows = hosted.generate_many([PROMPT, PROMPT], max_new_tokens=30, policies=[Short()], answer_tokens=1)
    assert rows[0].stop.reason is StopReason.GIVE_UP
    assert rows[0].stop.policy == "Short"
    assert len(rows[0].token_ids) == 3
    assert len(rows[1].token_ids) > 20
    assert forwards[:4] == [[4], [1, 1], [1, 1], [1]]


def test_the_same_seed_gives_the_same_tokens(engine: Engine) -> None:
    def tokens(seed: int) -> tuple[int, ...]:
        return engine.generate(PROMPT, max_new_tokens=30, temperature=1.0, seed=seed).token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_chunked_prefill_books_one_prompt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.generate(list(range(50)), max_new_tokens=10)
    monkeypatch.setattr("engine.shared_prompt.PREFILL_CHUNK", 16)
    forwards = count_forwards(engine, monkeypatch)
    chunked = engine.generate(list(range(50)), max_new_tokens=10)
    assert forwards[:4] == [[16], [16], [16], [2]]
    assert chunked.token_ids == whole.token_ids
    assert chunked.energy.phases["prefill"].tokens == 50


def test_a_token_budget_closes_the_thinking_and_bounds_the_answer(
    hosted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = count_forwards(hosted, monkeypatch)
    result = hosted.generate(PROMPT, max_new_tokens=60, policies=[TokenBudget(10)], answer_tokens=5)
    plain = hosted.generate(PROMPT, max_new_tokens=10)
    assert result.token_ids[:10] == plain.token_ids
    assert result.token_ids[10:12] == (91, 92), "closer and answer prefix"
    assert len(result.token_ids) == 17
    assert result.stop.reason is StopReason.TOKEN_BUDGET
    assert result.stop.policy == "TokenBudget"
    assert result.stop.forced_answer
    assert result.stop.answer_end is StopReason.MAX_TOKENS
    assert result.answer is not None
    assert len(result.answer) <= 5
    # The last thinking token, the closer and the prefix go through the model in one forward.
    assert forwards[: 1 + 9 + 1] == [[4]] + [[1]] * 9 + [[3]]
    assert result.per_token_j[0] is None
    assert result.per_token_j[10:12] == (None, None)
    assert all(j is not None for j in result.per_token_j[1:10] + result.per_token_j[12:])
    assert result.phases_by_token == ("think",) * 10 + ("answer",) * 7


def test_a_step_budget_cuts_where_a_step_ends(engine: Engine, letters_directory: Path) -> None:
    for seed in range(50):  # until one does not close by itself
        free = engine.generate(PROMPT, max_new_tokens=80, temperature=1.0, seed=seed)
        if 91 not in free.token_ids:
            break
    token = statistics.mode(token for token in free.token_ids[:60] if token < 26)  # its letter is in no mark
    letter = chr(33 + token)
    assert free.token_ids[:60].count(token) >= 2
    config = letters_directory / "generation_config.json"
    config.write_text(config.read_text().replace('"x"', f'"{letter}"'))
    with Engine.load(letters_directory, meter=CountedMeter()) as other:  # type: ignore[arg-type]
        cut = other.generate(
            PROMPT,
            max_new_tokens=80,
            temperature=1.0,
            seed=seed,
            policies=[StepBudget(2)],
            answer_tokens=4,
        )
    config.write_text(config.read_text().replace(f'"{letter}"', '"x"'))
    assert cut.stop.reason is StopReason.POLICY
    assert cut.stop.policy == "StepBudget"
    thought = cut.text.split("</think>")[0]
    assert thought.count(letter) == 2
    assert thought.endswith(letter)


def test_injected_text_is_part_of_the_row(engine: Engine) -> None:
    class Wait(Policy):
        def on_token(self, step: Step) -> Inject | None:
            return Inject("ab") if step.index == 3 else None

    result = engine.generate(PROMPT, max_new_tokens=12, policies=[Wait()], answer_tokens=1)
    assert result.token_ids[4:6] == (ord("a") - 33, ord("b") - 33)
    assert result.per_token_j[4:6] == (None, None)
    fed = [*PROMPT, *result.token_ids[:6]]
    assert result.token_ids[6] == engine.generate(fed, max_new_tokens=1).token_ids[0]


def test_a_probe_reads_what_a_forced_answer_would_say(engine: Engine) -> None:
    readings: list[ProbeReading] = []

    class Once(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe | None:
            return Probe(max_tokens=4) if step.index == 6 else None

        def on_probe(self, step: Step, reading: ProbeReading) -> Stop | None:
            readings.append(reading)
            return Stop()

    policy = Once()
    result = engine.generate(PROMPT, max_new_tokens=60, policies=[policy], answer_tokens=4)
    [reading] = readings
    assert result.stop.reason is StopReason.POLICY
    assert result.stop.policy == "Once"
    assert result.token_ids[7:9] == (91, 92)
    assert tuple(result.token_ids[9:13]) == reading.token_ids
    assert reading.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert int(reading.probabilities.argmax()) == reading.token_ids[0]
    assert 0 < reading.entropy < 5
    assert reading.energy_j > 0
    assert result.energy.phases["probe"].energy_j > 0


@pytest.mark.parametrize("action", ["stop", True, Stop, StopReason.POLICY])
def test_a_policy_that_returns_something_else_is_named(engine: Engine, action: object) -> None:
    class Odd(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Any:
            return action if step.index == 3 else None

    result = engine.generate(PROMPT, max_new_tokens=60, policies=[Odd()], answer_tokens=1)
    assert result.stop.answer_end is StopReason.ERROR
    assert result.error is not None
    assert result.error.startswith("Odd returned")
    assert len(result.token_ids) == 4


def test_a_hook_that_fails_at_the_end_leaves_the_result(engine: Engine) -> None:
    class Late:
        needs = frozenset[str]()

        def on_prefill(self, prefill: Prefill) -> None: ...
        def on_step(self, step: Step) -> None: ...
        def on_end(self, result: Any) -> None:
            raise KeyError("late")

    result = engine.generate(PROMPT, max_new_tokens=5, hooks=[Late()])
    assert len(result.token_ids) == 5
    assert result.error == "Late failed: KeyError: 'late'"


def test_probing_without_saying_so_is_an_error(engine: Engine) -> None:
    class Sly(Policy):
        def on_token(self, step: Step) -> Probe:
            return Probe()

    result = engine.generate(PROMPT, max_new_tokens=8, policies=[Sly()], answer_tokens=1)
    assert result.error is not None
    assert '"probe" is not in its needs' in result.error


def test_ends_are_named(engine: Engine) -> None:
    plain = engine.generate(PROMPT, max_new_tokens=30)
    word = plain.text[10:12]
    at = plain.text.index(word)
    stopped = engine.generate(PROMPT, max_new_tokens=30, stop_sequences=[word, "never there"])
    assert stopped.text == plain.text[:at]
    assert stopped.stop.reason is StopReason.STOP_SEQUENCE
    full = engine.generate(list(range(90)) * 2 + list(range(70)), max_new_tokens=30)
    assert full.stop.reason is StopReason.CONTEXT_FULL
    assert full.prompt_tokens + len(full.token_ids) == 256


def test_an_eos_ends_the_row_unless_it_is_ignored(letters_directory: Path, tmp_path: Path) -> None:
    with Engine.load(letters_directory, meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        plain = engine.generate(PROMPT, max_new_tokens=20).token_ids
    import shutil

    shutil.copytree(letters_directory, tmp_path / "eos")
    (tmp_path / "eos/generation_config.json").write_text(f'{{"eos_token_id": [96, {plain[7]}]}}')
    with Engine.load(tmp_path / "eos", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        ended = engine.generate(PROMPT, max_new_tokens=20)
        going_on = engine.generate(PROMPT, max_new_tokens=20, ignore_eos=True)
    assert ended.token_ids == plain[: plain.index(plain[7]) + 1]
    assert ended.stop.reason is StopReason.EOS
    assert going_on.token_ids == plain


def test_hooks_see_everything_and_needs_are_checked(engine: Engine) -> None:
    class Hook:
        needs = frozenset[str]()

        def __init__(self) -> None:
            self.prefills: list[Prefill] = []
            self.steps: list[Step] = []
            self.ends: list[Any] = []

        def on_prefill(self, prefill: Prefill) -> None:
            self.prefills.append(prefill)

        def on_step(self, step: Step) -> None:
            self.steps.append(step)

        def on_end(self, result: Any) -> None:
            self.ends.append(result)

    hook = Hook()
    result = engine.generate(PROMPT, max_new_tokens=12, hooks=[hook])
    assert [p.prompt_tokens for p in hook.prefills] == [(4,)]
    assert tuple(step.token_id for step in hook.steps) == result.token_ids
    assert "".join(step.text for step in hook.steps) == result.text
    assert [step.stop for step in hook.steps] == [None] * 11 + [StopReason.MAX_TOKENS]
    assert hook.ends == [result]
    hook.needs = frozenset({"hidden:99"})
    with pytest.raises(ValueError, match="hidden:99"):
        engine.generate(PROMPT, hooks=[hook])
    hook.needs = frozenset({"telepathy"})
    with pytest.raises(ValueError, match="telepathy"):
        engine.generate(PROMPT, hooks=[hook])


def test_energy_is_booked_to_tokens_and_adds_up(hosted: Engine) -> None:
    result = hosted.generate(PROMPT, max_new_tokens=10)
    energy = result.energy
    phases = sum(phase.energy_j for phase in energy.phases.values())
    assert phases + energy.unattributed_j == pytest.approx(energy.total_j, abs=1e-9)
    known = [j for j in result.per_token_j if j is not None]
    assert len(known) == 9
    assert sum(known) == pytest.approx(energy.phases["think"].energy_j, abs=1e-9)
    assert known == [1.0] * 9, "this meter gives a joule from one reading to the next"
    assert energy.uncertainty_j is None, "a source without a bound on its gain has no honest interval"
    assert result.to_json()["energy"]["per_token_sd_j"] == [None] * 10


def test_a_meter_that_fails_leaves_the_text_and_says_so(letters_directory: Path) -> None:
    meter = CountedMeter(watts=10)
    with Engine.load(letters_directory, meter=meter) as engine:  # type: ignore[arg-type]
        whole = engine.generate(PROMPT, max_new_tokens=20)
        meter.fails_after = meter.reads + 12
        result = engine.generate(PROMPT, max_new_tokens=20, budget_joules=1000, answer_tokens=1)
    assert result.token_ids[:16] == whole.token_ids[:16]
    assert len(result.token_ids) == 20
    assert not result.energy.complete
    assert result.energy.problem == "the meter failed: the counter is gone"
    known = [j for j in result.per_token_j if j is not None]
    assert 0 < len(known) < 19
    phases = sum(phase.energy_j or 0.0 for phase in result.energy.phases.values())
    assert phases + result.energy.unattributed_j == pytest.approx(result.energy.total_j, abs=1e-9)


def test_requests_that_make_no_sense_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="empty"):
        engine.generate([])
    with pytest.raises(UsageError, match="max_new_tokens"):
        engine.generate(PROMPT, max_new_tokens=0)
    with pytest.raises(UsageError, match="stop sequence"):
        engine.generate(PROMPT, stop_sequences=[""])
    with pytest.raises(TokenjouleError, match="token id 97"):
        engine.generate([97])
    with pytest.raises(TokenjouleError, match="256 tokens"):
        engine.generate([1] * 256)
    with pytest.raises(TokenjouleError, match="predicted minimum"):
        engine.generate([1] * 200, budget_joules=1e-9)


def test_unneeded_hidden_states_are_not_kept(hosted: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = hosted.model.forward

    def forward(*given: Any, taps: Any = (), **options: Any) -> Any:
        asked.append(taps)
        return real(*given, taps=taps, **options)

    monkeypatch.setattr(hosted.model, "forward", forward)
    hosted.generate(PROMPT, max_new_tokens=3)
    assert asked == [frozenset()] * 3


def test_bfloat16_rows_run(letters_directory: Path) -> None:
    with Engine.load(letters_directory, dtype="bf16", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        assert engine.model.dtype is torch.bfloat16
        assert len(engine.generate(PROMPT, max_new_tokens=5).token_ids) == 5
