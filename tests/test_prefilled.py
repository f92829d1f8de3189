"""A prompt that was read once: what it told, and that a request behind it computes only what is new."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from engine.engine import Engine
from engine.errors import TokenjouleError, UsageError
from engine.prefilled import ReadError, prefill
from engine.session import Session
from engine.strategy import Cot, Direct, Vote, run
from engine.strategy.base import Attempt

QUESTION = "47+35-18+6-20="


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(backend="torch", dtype="fp32", energy_source="estimate", curve="none") as found:
        yield found


def fed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward from here on is fed."""
    seen: list[int] = []
    forward = engine.model.forward

    def counting(tokens, *arguments, **options):
        seen.append(len(tokens))
        return forward(tokens, *arguments, **options)

    monkeypatch.setattr(engine.model, "forward", counting)
    return seen


def finish(attempt: Attempt):
    for _ in attempt.steps():
        pass
    return attempt.outcome()


@pytest.mark.parametrize(
    ("strategy", "options"),
    [(Cot(), {}), (Direct(), {}), (Vote(3), {"temperature": 0.8, "seed": 3})],
    ids=["cot", "direct", "vote"],
)
def test_a_request_that_begins_with_what_was_read_writes_the_same(engine, monkeypatch, strategy, options):
    plain = run(engine, QUESTION, strategy, max_new_tokens=60, **options)
    read = prefill(engine, QUESTION, (1, 2))
    counts = fed(engine, monkeypatch)
    attempt = strategy.begin(engine, QUESTION, max_new_tokens=60, **options)
    attempt.session.begin_with(read)
    outcome = finish(attempt)
    assert outcome.result.token_ids == plain.result.token_ids
    assert max(counts) < len(read.token_ids), "no forward reads the question again"


def test_a_changed_cache_would_be_noticed(engine):
    plain = run(engine, QUESTION, Cot(), max_new_tokens=60)
    read = prefill(engine, QUESTION, ())
    for keys in read.keys:
        keys.neg_()
    attempt = Cot().begin(engine, QUESTION, max_new_tokens=60)
    attempt.session.begin_with(read)
    assert finish(attempt).result.token_ids != plain.result.token_ids


def test_only_what_both_prompts_begin_with_is_taken(engine, monkeypatch):
    other = "47+35-90+1="
    plain = engine.generate(other, max_new_tokens=40)
    read = prefill(engine, QUESTION, ())
    session = engine.start([other], max_new_tokens=40)
    session.begin_with(read)
    counts = fed(engine, monkeypatch)
    list(session.steps())
    assert session.results()[0].token_ids == plain.token_ids
    common = read.in_common(engine.encode(other))
    assert 0 < common < len(read.token_ids)
    assert counts[0] == len(engine.encode(other)) - common


def test_reading_tells_of_every_position(engine):
    read = prefill(engine, QUESTION, (0, 2))
    ids = engine.encode(QUESTION)
    cache = engine.model.new_cache(len(ids))
    layout = cache.extend({cache.add_row(): len(ids)})
    logits, hidden = engine.model.forward(ids, layout, cache, taps=(0, 2), of=range(len(ids)))
    told = -logits[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None]).mean()
    assert read.nll == pytest.approx(float(told), rel=1e-5)
    torch.testing.assert_close(read.mean[2], hidden[2].mean(0))
    torch.testing.assert_close(read.last[0], hidden[0][-1])
    torch.testing.assert_close(read.logits, logits[-1])


def test_a_prompt_read_in_chunks_tells_the_same(engine, monkeypatch):
    whole = prefill(engine, QUESTION, (1,))
    monkeypatch.setattr("engine.shared_prompt.READING_CHUNK", 4)
    parts = prefill(engine, QUESTION, (1,))
    assert parts.nll == pytest.approx(whole.nll, rel=1e-4)
    torch.testing.assert_close(parts.mean[1], whole.mean[1], rtol=1e-4, atol=1e-4)
    assert parts.token_ids == whole.token_ids


def test_reading_is_on_a_ledger(engine):
    energy = prefill(engine, QUESTION, (1,)).energy
    assert energy.window_j is not None and energy.window_j > 0
    assert set(energy.phases) == {"prefill"}


def test_what_another_model_read_is_refused(engine):
    with Engine.load(backend="torch", dtype="fp32", energy_source="estimate") as other:
        read = prefill(other, QUESTION, ())
    with pytest.raises(UsageError, match="another model"):
        engine.start([QUESTION]).begin_with(read)


def test_a_prompt_beyond_the_context_is_one_clear_error(engine):
    with pytest.raises(TokenjouleError, match="context"):
        prefill(engine, "1+" * 200 + "1=", ())


def test_joules_of_a_reading_that_failed_are_told(engine, monkeypatch):
    read = prefill(engine, QUESTION, ())
    assert read.energy_j == read.energy.window_j and read.energy_j > 0
    assert replace(read, energy=replace(read.energy, complete=False)).energy_j is None
    results = Session.results
    monkeypatch.setattr(
        Session, "results", lambda session: [replace(one, error="out of memory") for one in results(session)]
    )
    with pytest.raises(ReadError, match="out of memory") as raised:
        prefill(engine, QUESTION, ())
    assert raised.value.energy_j > 0
