"""A vote on a server as an arm: whether a query goes on is decided by its share, and a refusal is said."""

from dataclasses import replace

import pytest

from router.arms import Arms, load_arms
from router.estimator import Estimator
from router.policy import Limits
from router.router import Router
from tests.bad_server import Reply, completions, serving
from tests.router.planted_router import ARMS, QUERY, planted, telling

pytest.importorskip("httpx", reason="remote arms need httpx")

DIRECT = 'name = "ask"\nmodel = "far"\ntechnique = "direct"'
VOTE = 'name = "ask"\nmodel = "far"\ntechnique = "vote"\nsamples = 4\ntemperature = 0.7\nbudget_tokens = 32'


@pytest.fixture
def voting(shared, tmp_path):
    """A router whose likeliest arm votes on a server, and which believes an answer by its share."""

    def build(url: str) -> Router:
        assert ARMS.count(DIRECT) == 1
        text = ARMS.format(url=url).replace(DIRECT, VOTE)
        (tmp_path / "arms.toml").write_text(text.replace("timeout_s = 0.5", "timeout_s = 10.0"))
        arms = load_arms(tmp_path / "arms.toml")
        router = Router(arms, believing(arms), energy_source="estimate")
        router.answerers.pool.loaded = shared.answerers.pool.loaded
        return router

    return build


def believing(arms: Arms) -> Estimator:
    """That an answer is right is 0.02 at no vote for it and 0.98 at all."""
    return replace(planted(arms), stage=telling(arms, 0.5, slope=8.0))


def answered(voting, reply: Reply, limits: Limits | None = None):
    with serving(reply) as server:
        return voting(server.url).answer(QUERY, limits)


def giving(*texts: str) -> Reply:
    return lambda handler: handler.send(200, completions(*texts))


def test_a_vote_that_agrees_stands(voting):
    routed = answered(voting, giving("a\n64", "b\n64", "c\n64", "d\n64"))
    assert [stage.arm for stage in routed.stages] == ["ask"] and routed.answer == "64"
    told = routed.to_json()["stages"][0]
    assert (told["votes"], told["confidence"]) == ({"64": 4}, 1.0)
    assert routed.energy()["answer_j"] == pytest.approx(0.5 * 60) and not told["measured"]


def test_a_vote_that_does_not_agree_goes_on_to_the_next_arm(voting):
    routed = answered(voting, giving("a\n1", "b\n2", "c\n3", "d\n4"))
    assert [stage.arm for stage in routed.stages][:2] == ["ask", "vote"]
    assert routed.stages[0].confidence == 0.25 and routed.answer == "64"
    assert routed.energy()["failed_j"] == pytest.approx(0.5 * 60)


def test_a_server_that_sends_one_sample_alone_is_not_believed_as_a_vote_is(voting):
    routed = answered(voting, giving("a\n63"))
    assert [stage.arm for stage in routed.stages][:2] == ["ask", "vote"] and routed.answer == "64"
    assert "ask: 1 of 4 samples came" in routed.notes


def test_a_refused_vote_is_answered_by_another_arm_and_the_reason_said(voting):
    routed = answered(voting, lambda handler: handler.send(400, b"n must be 1"))
    assert [stage.arm for stage in routed.stages][:2] == ["ask", "vote"] and routed.answer == "64"
    [note] = [note for note in routed.notes if note.startswith("ask failed")]
    assert "status 400 where 4 samples are asked for: 'n must be 1'" in note
