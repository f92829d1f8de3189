"""What a request promises beyond its tokens: its own joules, one at a time, answers that are answers."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.steps import Inject, Phase, Probe, Step, Stop, StopReason
from engine.stop import Policy, TokenBudget
from tests import letters, tiny
from tests.letters import CountedMeter

PROMPT = [5, 6, 7, 8]
CLOSER, PREFIX = 91, 92


@pytest.fixture
def engine(letters_directory: Path) -> Any:
    with Engine.load(letters_directory, meter=CountedMeter(watts=10)) as engine:  # type: ignore[arg-type]
        yield engine


def test_what_ran_before_a_request_is_not_billed_to_it(engine: Engine) -> None:
    """10 W for as long as it takes: half a second between two requests belongs to neither."""
    engine.generate(PROMPT, max_new_tokens=3)
    time.sleep(0.5)
    session = engine.start([PROMPT], max_new_tokens=3)
    time.sleep(0.5)  # nor does the time between making a session and running it
    for _ in session.steps():
        pass
    [result] = session.results()
    assert result.energy.total_j is not None
    assert result.energy.total_j < 2.0
    assert result.energy.window_j == pytest.approx(result.energy.total_j, abs=0.05)
    assert result.timing.first_token_s < 0.3
    assert result.joules_per_token == pytest.approx(result.energy.window_j / 7)


def test_rows_share_what_lies_between_their_steps(engine: Engine) -> None:
    rows = engine.generate_many([PROMPT, PROMPT, PROMPT], max_new_tokens=20)
    total = sum((row.joules_per_new_token or 0.0) * len(row.token_ids) for row in rows)
    assert total == pytest.approx(rows[0].energy.window_j)


def test_one_engine_runs_one_request_at_a_time(engine: Engine) -> None:
    first, second = (engine.start([PROMPT], max_new_tokens=9) for _ in range(2))
    steps = first.steps()
    next(steps)
    with pytest.raises(UsageError, match="another request"):
        next(second.steps())
    steps.close()
    first.results()
    assert len(list(second.steps())) == 9


def test_a_meter_that_has_failed_serves_no_further_request(engine: Engine) -> None:
    meter: Any = engine.poller.meter
    meter.fails_after = meter.reads + 3
    result = engine.generate(PROMPT, max_new_tokens=9)
    assert not result.energy.complete
    with pytest.raises(TokenjouleError, match="the meter failed"):
        engine.generate(PROMPT, max_new_tokens=9)


def test_a_meter_that_never_answered_gives_nulls_not_zeros(engine: Engine) -> None:
    meter: Any = engine.poller.meter
    session = engine.start([PROMPT], max_new_tokens=5)
    meter.fails_after = meter.reads
    assert len(list(session.steps())) == 5
    [result] = session.results()
    found = result.to_json()
    energy = found["energy"]
    for key in ("total_j", "window_j", "unattributed_j", "joules_per_token", "uncertainty_j"):
        assert energy[key] is None, key
    assert {phase["energy_j"] for phase in energy["phases"].values()} == {None}
    assert energy["per_token_j"] == [None] * 5
    json.dumps(found, allow_nan=False)


def test_probes_are_no_decoded_tokens(engine: Engine) -> None:
    class Probing(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe | None:
            return Probe(max_tokens=4) if step.phase is Phase.THINK else None

    result = engine.generate(PROMPT, max_new_tokens=30, policies=[Probing()])
    decoded = sum(j is not None for j in result.per_token_j)
    spoken_s = decoded / result.timing.decode_tokens_per_s
    assert result.timing.decode_s == pytest.approx(spoken_s, rel=0.01)
    assert "probe" in result.energy.phases


def test_a_probe_too_large_is_refused_and_the_text_kept(engine: Engine) -> None:
    class Greedy(Policy):
        needs = frozenset({"probe"})

        def on_token(self, step: Step) -> Probe | None:
            return Probe("ab" * 60, max_tokens=120) if step.index == 2 else None

    probed = engine.generate(PROMPT, max_new_tokens=5, policies=[Greedy()])
    assert probed.error is None, "240 of 256 positions: no room in the context, so no reading"

    class Huge(Greedy):
        def on_token(self, step: Step) -> Probe | None:
            return Probe("a", max_tokens=600) if step.index == 2 else None

    refused = engine.generate(PROMPT, max_new_tokens=5, policies=[Huge()])
    assert refused.error is not None
    assert "512 are the most" in refused.error
    assert len(refused.token_ids) == 3


def test_a_policy_that_does_nothing_changes_nothing(engine: Engine) -> None:
    plain = engine.generate(PROMPT, max_new_tokens=10)
    assert engine.generate(PROMPT, max_new_tokens=10, policies=[Policy()]).token_ids == plain.token_ids


def test_a_budget_leaves_room_for_an_answer_but_thinks_half_the_time(engine: Engine) -> None:
    cut = engine.generate(PROMPT, max_new_tokens=20, policies=[TokenBudget(500)], answer_tokens=500)
    assert cut.token_ids[10:12] == (CLOSER, PREFIX)
    assert cut.stop.reason is StopReason.MAX_TOKENS
    assert cut.stop.forced_answer
    none = engine.generate(PROMPT, max_new_tokens=2, policies=[TokenBudget(500)])
    assert not none.stop.forced_answer, "closer, prefix and a token of an answer do not fit"


def test_a_stop_sequence_does_not_stop_the_closer(engine: Engine) -> None:
    result = engine.generate(
        PROMPT, max_new_tokens=60, policies=[TokenBudget(5)], answer_tokens=3, stop_sequences=["<answer>"]
    )
    assert result.token_ids[5:7] == (CLOSER, PREFIX)
    assert len(result.token_ids) == 10


def test_an_answer_is_what_was_generated_and_ends_where_the_text_does(engine: Engine) -> None:
    closed = engine.generate([*PROMPT, CLOSER, PREFIX], max_new_tokens=6)
    assert closed.answer == closed.text
    assert set(closed.phases_by_token) == {"answer"}
    forced = engine.generate(PROMPT, max_new_tokens=60, policies=[TokenBudget(5)], answer_tokens=8)
    assert forced.answer is not None
    word = forced.answer[3:5]
    cut = engine.generate(
        PROMPT, max_new_tokens=60, policies=[TokenBudget(5)], answer_tokens=8, stop_sequences=[word]
    )
    if cut.stop.answer_end is StopReason.STOP_SEQUENCE and cut.stop.forced_answer:
        assert cut.answer == forced.answer[: forced.answer.index(word)]
    assert engine.generate(PROMPT, max_new_tokens=4).answer is None, "it was still thinking"


def opener_model(tmp_path: Path) -> Path:
    """The letters model, thinking between `!` (token 0) and the closer, as Qwen3 does between its marks."""
    letters.write(tmp_path)
    (tmp_path / "generation_config.json").write_text(
        '{"thinking": {"opener": "!", "closer": "</think>", "answer_prefix": "", "step_separator": "x"}}'
    )
    return tmp_path


def test_a_model_with_an_opener_thinks_only_once_it_opened(tmp_path: Path) -> None:
    class Open(Policy):
        def on_token(self, step: Step) -> Inject | Stop | None:
            return Inject("!") if step.index == 1 else Stop() if step.index == 4 else None

    with Engine.load(opener_model(tmp_path), meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        plain = engine.generate(PROMPT, max_new_tokens=4)
        opened = engine.generate([*PROMPT, 0], max_new_tokens=4)
        both = engine.generate(PROMPT, max_new_tokens=12, policies=[Open()], answer_tokens=3)
    assert set(plain.phases_by_token) == {"answer"}
    assert plain.answer == plain.text.strip()
    assert set(opened.phases_by_token) == {"think"}
    assert opened.answer is None
    assert both.phases_by_token[:2] == ("answer", "answer")
    assert set(both.phases_by_token[2:5]) == {"think"}
    assert both.token_ids[5] == CLOSER
    assert both.stop.forced_answer
    assert set(both.phases_by_token[5:]) == {"answer"}


def test_a_head_that_is_said_to_be_tied_must_be(tmp_path: Path) -> None:
    tiny.write(tmp_path, "llama-tied")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.randn(97, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(TokenjouleError, match="tie_word_embeddings is true"):
        tiny.load_model(tmp_path)


def test_a_budget_that_ends_with_the_models_own_closer_leaves_it_its_answer() -> None:
    """The bundled model closes this chain by itself after 27 tokens; a budget of 27 costs nothing."""
    with Engine.load(energy_source="estimate") as engine:
        free = engine.generate("47+35-18+6=")
        thought = free.phases_by_token.count("think")
        for tokens in range(thought - 2, thought + 3):
            result = engine.generate("47+35-18+6=", budget_tokens=tokens)
            assert result.answer == "70", tokens
            assert result.stop.answer_end is StopReason.EOS
            assert result.stop.forced_answer == (tokens < thought)


@pytest.mark.parametrize("new", [3, 4, 5, 6])
def test_a_forced_answer_uses_what_is_left(new: int) -> None:
    with Engine.load(energy_source="estimate") as engine:
        result = engine.generate("47+35-18+6=", budget_tokens=1, max_new_tokens=new)
    if new > 3:
        assert result.answer
    assert len(result.token_ids) == new or result.stop.answer_end is StopReason.EOS


def test_results_are_the_same_when_asked_again_and_a_session_runs_once(engine: Engine) -> None:
    session = engine.start([PROMPT], max_new_tokens=4)
    for _ in session.steps():
        pass
    first = session.results()
    assert session.results() is first
    with pytest.raises(UsageError, match="runs once"):
        next(session.steps())


def test_a_session_that_never_ran_books_nothing(engine: Engine) -> None:
    time.sleep(0.2)
    [result] = engine.start([PROMPT], max_new_tokens=4).results()
    assert result.token_ids == ()
    assert result.stop.reason is StopReason.CANCELLED
    assert (result.energy.window_j or 0.0) < 0.1


def test_results_free_the_engine_whoever_holds_the_iterator(engine: Engine) -> None:
    session = engine.start([PROMPT], max_new_tokens=9)
    steps = session.steps()
    next(steps)
    session.results()
    assert len(engine.generate(PROMPT, max_new_tokens=4).token_ids) == 4
    steps.close()
    assert len(engine.generate(PROMPT, max_new_tokens=4).token_ids) == 4
