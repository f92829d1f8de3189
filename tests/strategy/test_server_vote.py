"""A vote among the samples of one request to a server, which gives them all, fewer, or none."""

import time

import pytest

from engine.energy.curve_store import save_curve
from engine.strategy.ask import Technique
from engine.strategy.server import Server, answer_there
from tests import bad_server
from tests.bad_server import Reply, completions, serving
from tests.curves import curve

pytest.importorskip("httpx", reason="remote arms need httpx")

VOTE = Technique("vote", budget_tokens=100, samples=5, temperature=0.7)
RIGHT, WRONG = "6 · 7 is six sevens\n42", "6 + 7 it is\n13"


def giving(*texts: str | None, **told) -> Reply:
    return lambda handler: handler.send(200, completions(*texts, **told))


def answer(url: str, way: Technique = VOTE, *, deadline_s: float = 10.0, seed: int = 7, **changes):
    given = {"base_url": url, "served": "big", "joules_per_token": 0.5, "timeout_s": 10.0, **changes}
    return answer_there(
        Server(**given), "What is 6 times 7?", way, budget_tokens=64, deadline_s=deadline_s, seed=seed
    )


def voted(reply: Reply, **changes):
    with serving(reply) as server:
        return answer(server.url, **changes)


def test_a_vote_is_one_request_whose_most_frequent_answer_wins():
    with serving(giving(WRONG, RIGHT, "first\n42", WRONG, "really\n 42 ")) as server:
        said = answer(server.url)
    assert len(server.seen) == 1
    body = server.seen[0][2]
    assert (body["n"], body["temperature"], body["seed"], body["max_tokens"]) == (5, 0.7, 7, 64 + 16)
    assert "on a line of its own" in body["messages"][0]["content"]
    assert (said.answer, said.text, said.error, said.note) == ("42", RIGHT, None, None)
    assert said.votes == {"42": 3, "13": 2} and said.confidence == 3 / 5
    assert (said.prompt_tokens, said.new_tokens) == (10, 50), "the server counts all samples together"
    assert said.energy_j == pytest.approx(0.5 * 60)
    assert (said.energy_source, said.measured) == ("table", False)


def test_what_is_not_sampled_is_asked_without_a_seed_and_one_sample_without_a_number():
    with serving(bad_server.good) as server:
        likeliest = answer(server.url, Technique("cot", budget_tokens=9))
        sampled = answer(server.url, Technique("cot", budget_tokens=9, temperature=0.5))
    first, second = (body for _, _, body in server.seen)
    assert not {"n", "seed"} & first.keys()
    assert second["seed"] == 7 and "n" not in second
    assert likeliest.votes is sampled.votes is likeliest.confidence is sampled.confidence is None


def test_of_tied_answers_the_first_that_came_wins():
    said = voted(giving(WRONG, RIGHT, RIGHT, WRONG, "a third\n7"))
    assert said.answer == "13" and said.text == WRONG and said.confidence == 2 / 5
    assert said.votes == {"13": 2, "42": 2, "7": 1}


@pytest.mark.parametrize("empty", ["", " \n ", None], ids=["nothing", "blank", "null"])
def test_a_sample_that_was_cut_or_says_nothing_abstains(empty):
    said = voted(giving("so 6 + 7 is\n13", "6 + 7 is\n13", RIGHT, RIGHT, empty, cut=(1,)))
    assert said.answer == "42" and said.votes == {"42": 2, "13": 1}
    assert said.confidence == 2 / 5, "of all that were asked for"
    assert said.note is None


@pytest.mark.parametrize("texts", [(RIGHT,), (WRONG, RIGHT, RIGHT)], ids=["one", "three"])
def test_fewer_samples_than_were_asked_for_are_voted_on_and_it_is_said(texts, tmp_path):
    path = str(save_curve(curve(), tmp_path / "curve.json"))
    said = voted(giving(*texts, completion_tokens=30), curve=path, joules_per_token=None)
    assert said.answer == "42" and said.error is None
    assert said.note == f"{len(texts)} of 5 samples came"
    assert said.confidence == texts.count(RIGHT) / 5, "those that did not come abstain"
    came, each = len(texts), 30 // len(texts)
    assert said.energy_j == pytest.approx(curve().predict(10, each, came, prompts=1)[0])


def test_more_samples_than_were_asked_for_are_paid_for_and_not_counted(tmp_path):
    path = str(save_curve(curve(), tmp_path / "curve.json"))
    said = voted(giving(RIGHT, RIGHT, WRONG, *[WRONG] * 7), curve=path, joules_per_token=None)
    assert said.votes == {"13": 3, "42": 2} and said.note == "10 of 5 samples came"
    assert said.energy_j == pytest.approx(curve().predict(10, 5, 10, prompts=1)[0])


def test_joules_of_a_vote_are_those_of_one_prefill_and_its_decodes_by_the_curve(tmp_path):
    path = str(save_curve(curve(), tmp_path / "curve.json"))
    said = voted(giving(RIGHT, RIGHT, WRONG, WRONG, RIGHT), curve=path, joules_per_token=None)
    assert said.energy_j == pytest.approx(curve().predict(10, 10, 5, prompts=1)[0])
    assert said.energy_j < 5 * curve().predict(10, 10)[0]
    assert (said.energy_source, said.measured) == ("curve", False)


@pytest.mark.parametrize(
    ("status", "words", "tries"),
    [
        (400, b'{"error": {"message": "n must be 1\nhere, got 5."}}', 1),
        (422, b'{"detail": "n: extra fields not permitted"}', 1),
        (500, b'{"error": {"code": 500, "message": "Only one completion choice is allowed"}}', 2),
    ],
)
def test_a_server_that_refuses_samples_fails_with_its_own_words(status, words, tries):
    with serving(lambda handler: handler.send(status, words)) as server:
        said = answer(server.url)
    assert said.answer is None and said.energy_j is None and len(server.seen) == tries
    error = said.error or ""
    assert f"status {status} where 5 samples are asked for" in error and "\n" not in error
    assert any(told in error for told in ("must be 1", "not permitted", "Only one completion"))


def test_of_a_refused_key_nothing_is_repeated_and_a_long_refusal_is_cut():
    key = voted(lambda handler: handler.send(401, b"wrong key: s3cret"))
    assert "status 401" in (key.error or "") and "s3cret" not in (key.error or "")
    long = voted(lambda handler: handler.send(400, b"\xff" + b"n" * 10**6))
    assert "status 400" in (long.error or "") and len(long.error or "") < 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": {"message": {"content": "42"}}}',
        b'{"choices": ["42", "42", "42", "42", "42"]}',
        b'{"choices": [{"message": {"content": "42"}}, {"text": "42"}]}',
        b'{"choices": [{"message": {"content": "42"}}], "usage": [50]}',
        b'{"choices": "42"}',
        b'{"choices": []}',
        b'{"choices": null}',
        b"\xff\xfe",
    ],
)
def test_nonsense_is_tried_again_and_then_one_line(body):
    with serving(lambda handler: handler.send(200, body)) as server:
        said = answer(server.url)
    assert len(server.seen) == 2 and said.answer is None and said.votes is None and said.energy_j is None
    assert "answers nonsense" in (said.error or "") and "\n" not in (said.error or "")


def test_samples_that_all_say_nothing_are_tried_again_and_paid_for_twice():
    with serving(giving("", None, " ", "", "")) as server:
        said = answer(server.url)
    assert len(server.seen) == 2 and "without a text" in (said.error or "")
    assert said.energy_j == pytest.approx(2 * 0.5 * 60)


def test_samples_that_were_all_cut_are_no_vote_and_their_joules_are_kept():
    with serving(giving("so it is 1", "six sevens", cut=(0, 1))) as server:
        said = answer(server.url)
    assert len(server.seen) == 1 and said.answer is None and said.votes is None
    assert "cut at 80 tokens" in (said.error or "") and said.text == "so it is 1"
    assert said.energy_j == pytest.approx(0.5 * 60) and said.new_tokens == 50


@pytest.mark.parametrize("reply", [bad_server.silent, bad_server.dripping], ids=["silent", "dripping"])
def test_a_server_that_takes_too_long_is_one_line_in_time(reply):
    begun_s = time.monotonic()
    said = voted(reply, deadline_s=0.4)
    assert time.monotonic() - begun_s < 4.0
    assert said.answer is None and "no answer within" in (said.error or "")


def test_samples_that_are_one_and_the_same_text_are_no_five_opinions_and_it_is_said():
    said = voted(giving(*[RIGHT] * 5))
    assert (said.answer, said.confidence) == ("42", 1.0)
    assert said.note == "its 5 samples are one and the same text"
    assert voted(giving(*[RIGHT] * 4, "otherwise\n42")).note is None


def test_a_vote_whose_curve_cannot_be_read_stands_with_both_things_said(tmp_path):
    said = voted(giving(RIGHT, WRONG, RIGHT), curve=str(tmp_path / "none.json"), joules_per_token=None)
    assert (said.answer, said.energy_j, said.energy_source) == ("42", None, "")
    assert "none.json" in (said.note or "") and (said.note or "").endswith("; 3 of 5 samples came")
