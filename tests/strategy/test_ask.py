import pytest

from engine.engine import Engine
from engine.errors import UsageError
from engine.prefilled import prefill
from engine.steps import StopReason
from engine.strategy.ask import Technique, ask

QUESTION = "47+35-18="


@pytest.fixture(scope="module")
def engine():
    with Engine.load(backend="torch", energy_source="estimate", curve="none") as found:
        yield found


def test_thinking_finds_the_answer_and_is_sure_of_it(engine):
    found = ask(engine, QUESTION, Technique("cot", budget_tokens=64))
    assert found.answer == "64" and found.confidence > 0.9


def test_a_smaller_budget_than_the_techniques_is_kept_and_a_larger_one_is_not_given(engine):
    short = ask(engine, QUESTION, Technique("cot", budget_tokens=64), budget_tokens=4)
    assert short.outcome.result.stop.forced_answer
    assert [phase for phase in short.outcome.result.phases_by_token].count("think") < 12
    same = ask(engine, QUESTION, Technique("cot", budget_tokens=4), budget_tokens=64)
    assert same.outcome.result.token_ids == short.outcome.result.token_ids


def test_a_chain_of_thought_is_ended_by_the_policy_that_it_names(engine):
    whole = ask(engine, QUESTION, Technique("cot", budget_tokens=64)).outcome.result
    short = ask(engine, QUESTION, Technique("cot", budget_tokens=64, stop="step:steps=1")).outcome.result
    assert (whole.stop.reason, short.stop.reason) == (StopReason.EOS, StopReason.POLICY)
    assert short.phases_by_token.count("think") < whole.phases_by_token.count("think")
    held = ask(engine, QUESTION, Technique("cot", budget_tokens=2, stop="step:steps=1")).outcome.result
    assert held.stop.reason is StopReason.TOKEN_BUDGET


def test_a_direct_answer_thinks_nothing_and_doubts_what_it_guesses(engine):
    found = ask(engine, QUESTION, Technique("direct"))
    assert set(found.outcome.result.phases_by_token) == {"answer"}
    assert 0 < found.confidence < 0.9


def test_a_votes_confidence_is_the_answers_share(engine):
    found = ask(engine, QUESTION, Technique("vote", budget_tokens=64, samples=3, temperature=0.8))
    assert found.answer == "64"
    assert found.confidence == found.outcome.votes["64"] / 3


def test_thoughts_are_sampled_where_a_temperature_is_given(engine):
    way = Technique("cot", budget_tokens=64, temperature=3.0)
    tokens = {tuple(ask(engine, QUESTION, way, seed=seed).outcome.result.token_ids) for seed in range(3)}
    assert len(tokens) == 3


@pytest.mark.parametrize(
    "way",
    [Technique("direct"), Technique("cot", 64), Technique("vote", 64, samples=3, temperature=0.8)],
    ids=lambda way: way.technique,
)
def test_a_question_that_was_read_is_not_read_again(engine, way):
    plain, known = ask(engine, QUESTION, way), prefill(engine, QUESTION, (1,))
    found = ask(engine, QUESTION, way, known=known)
    assert found.answer == plain.answer and plain.reused_tokens == 0
    assert found.reused_tokens == len(engine.encode(QUESTION))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"technique": "guess"}, "technique"),
        ({"technique": "cot"}, "budget_tokens"),
        ({"technique": "direct", "budget_tokens": 3}, "budget_tokens"),
        ({"technique": "cot", "budget_tokens": -1}, "budget_tokens"),
        ({"technique": "cot", "budget_tokens": 3, "directive": "loud"}, "directive"),
        ({"technique": "cot", "budget_tokens": 3, "samples": 2}, "samples"),
        ({"technique": "vote", "budget_tokens": 3, "samples": 2}, "samples"),
        ({"technique": "vote", "budget_tokens": 3, "samples": 17, "temperature": 1.0}, "samples"),
        ({"technique": "vote", "budget_tokens": 3, "samples": 2}, "temperature"),
        ({"technique": "direct", "temperature": 1.0}, "temperature"),
        ({"technique": "cot", "budget_tokens": 3, "temperature": -1.0}, "temperature"),
        ({"technique": "direct", "answer_tokens": 0}, "answer_tokens"),
        ({"technique": "direct", "stop": "auto"}, "stop: a chain of thought"),
        (
            {"technique": "vote", "budget_tokens": 3, "samples": 3, "temperature": 1.0, "stop": "tail:k=2"},
            "stop: a chain",
        ),
        ({"technique": "cot", "budget_tokens": 3, "stop": "tail:k=x"}, "stop: --stop tail"),
        ({"technique": "cot", "budget_tokens": 3, "stop": "sometimes"}, "stop: unknown stop policy"),
    ],
)
def test_a_technique_that_makes_no_sense_is_refused(wrong, field):
    with pytest.raises(ValueError, match=field):
        Technique(**wrong)


def test_what_cannot_be_asked_is_one_error(engine):
    with pytest.raises(UsageError, match="at least 1"):
        engine.start([QUESTION], max_new_tokens=0)
    from engine.errors import TokenjouleError

    with pytest.raises(TokenjouleError, match="context"):
        ask(engine, "1+" * 300 + "1=", Technique("direct"))


@pytest.mark.parametrize(
    "way",
    [Technique("direct", answer_tokens=4), Technique("cot", 16, "brief")],
    ids=lambda way: way.technique,
)
def test_a_model_without_thinking_tags_is_told_how_and_shares_the_questions_prefix(shared_data, way):
    model = shared_data / "models/stories260K"
    with Engine.load(model, backend="torch", energy_source="estimate", curve="none") as engine:
        known = prefill(engine, "How many?", (1,))
        found = ask(engine, "How many?", way, known=known)
        assert engine.thinking is None
    assert found.reused_tokens == len(known.token_ids)
    assert found.outcome.result.prompt_tokens > 100, "the instruction stands behind the question"
    assert "think" in found.outcome.result.phases_by_token or way.technique == "direct"
