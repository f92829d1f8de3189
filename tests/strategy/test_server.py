import socket
import time

import pytest

from engine.strategy.ask import Technique
from engine.strategy.server import Server, answer_there
from tests import bad_server
from tests.bad_server import MISBEHAVIOURS, serving

pytest.importorskip("httpx", reason="remote arms need httpx")

COT = Technique("cot", budget_tokens=100, directive="brief")
QUESTION = "What is 6 times 7?"


def server_at(url: str, **changes) -> Server:
    given = {"base_url": url, "served": "big", "joules_per_token": 0.5, "timeout_s": 3.0, **changes}
    return Server(**given)


def answer(url: str, deadline_s: float = 3.0, **changes):
    return answer_there(server_at(url, **changes), QUESTION, COT, budget_tokens=64, deadline_s=deadline_s)


def test_an_answer_comes_with_its_joules_by_the_table():
    with serving(bad_server.good) as server:
        said = answer(server.url)
    assert (said.answer, said.error) == ("42", None)
    assert (said.prompt_tokens, said.new_tokens) == (10, 5)
    assert said.energy_j == pytest.approx(0.5 * 15) and said.energy_source == "table"
    assert not said.measured


def test_the_question_comes_first_and_the_instruction_last():
    with serving(bad_server.good) as server:
        answer(server.url)
    path, _, body = server.seen[0]
    assert path == "/v1/chat/completions"
    content = body["messages"][0]["content"]
    assert content.startswith(QUESTION) and "brief" in content[len(QUESTION) :]
    assert body["max_tokens"] == 64 + 16


def test_the_key_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    with serving(bad_server.good) as server:
        answer(server.url, api_key_env="SOME_KEY")
        assert server.seen[0][1]["Authorization"] == "Bearer s3cret"
        monkeypatch.delenv("SOME_KEY")
        said = answer(server.url, api_key_env="SOME_KEY")
    assert "SOME_KEY holds no key" in (said.error or "")
    assert len(server.seen) == 1


@pytest.mark.parametrize("reply", MISBEHAVIOURS, ids=lambda reply: reply.__name__)
def test_whatever_a_server_does_there_is_one_line_in_time(reply):
    begun_s = time.monotonic()
    with serving(reply) as server:
        said = answer(server.url, deadline_s=0.6)
    assert time.monotonic() - begun_s < 4.0
    assert said.answer is None
    assert said.error and "\n" not in said.error and server.url in said.error
    assert len(server.seen) <= 2


def test_a_server_that_is_down_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        said = answer(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", deadline_s=1.0)
    assert "cannot be reached" in (said.error or "")
    assert said.energy_j is None, "nobody can tell"


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[", "ftp://127.0.0.1/v1"])
def test_an_address_that_is_none_is_one_line(url):
    assert answer(url, deadline_s=1.0).error


@pytest.mark.parametrize(("reply", "tries"), [(bad_server.limited, 3), (bad_server.refusing, 1)])
def test_only_what_may_pass_is_tried_again_and_not_for_ever(reply, tries):
    with serving(reply) as server:
        said = answer(server.url, retries=2)
    assert len(server.seen) == tries
    assert f"tries: {tries}" in (said.error or "")


def test_a_second_try_can_succeed():
    def once(handler: bad_server.Handler) -> None:
        (bad_server.broken if len(handler.server.seen) == 1 else bad_server.good)(handler)

    with serving(once) as server:
        said = answer(server.url)
    assert said.answer == "42" and len(server.seen) == 2


def test_tokens_of_an_answer_without_text_are_paid_for_all_the_same():
    with serving(bad_server.textless) as server:
        said = answer(server.url, retries=1)
    assert len(server.seen) == 2
    assert said.energy_j == pytest.approx(2 * 0.5 * 15)


def after(first: bad_server.Reply) -> bad_server.Reply:
    """Once the one, then a good answer."""

    def reply(handler: bad_server.Handler) -> None:
        (first if len(handler.server.seen) == 1 else bad_server.good)(handler)

    return reply


def test_joules_of_a_vain_try_stay_where_the_next_one_succeeds():
    with serving(after(bad_server.textless)) as server:
        said = answer(server.url)
    assert said.answer == "42" and said.energy_j == pytest.approx(7.5 + 7.5)


@pytest.mark.parametrize("first", [bad_server.broken, bad_server.nonsense], ids=["status 500", "nonsense"])
def test_joules_are_unknown_where_those_of_one_try_are(first):
    with serving(after(first)) as server:
        said = answer(server.url)
    assert said.answer == "42" and said.energy_j is None and said.energy_source == ""


def test_what_was_never_sent_took_nothing(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert answer("http://127.0.0.1:9/v1", api_key_env="SOME_KEY").energy_j == 0.0
    assert answer("http://127.0.0.1:9/v1", deadline_s=0.0).energy_j == 0.0


def test_a_cut_answer_is_none_and_its_joules_are_kept():
    def cut(handler: bad_server.Handler) -> None:
        handler.send(200, bad_server.completions("so 6 times 7 is 4", cut=(0,), completion_tokens=5))

    with serving(cut) as server:
        said = answer(server.url)
    assert said.answer is None and "cut at 80 tokens" in (said.error or "") and len(server.seen) == 1
    assert said.energy_j == pytest.approx(7.5) and said.new_tokens == 5 and said.text.endswith("is 4")


def test_a_time_to_wait_that_is_no_number_is_not_waited_for():
    with serving(lambda handler: handler.send(429, b"slow down", retry_after="\u00b2")) as server:
        assert "status 429" in (answer(server.url).error or "")


@pytest.mark.parametrize("count", [10**400, 10**12, -3, 2.5, "7", None], ids=str)
def test_a_count_of_tokens_that_is_none_is_not_known(count):
    with serving(lambda handler: handler.send(200, bad_server.completion(completion_tokens=count))) as server:
        said = answer(server.url)
    assert said.answer == "42" and said.energy_j is None and said.new_tokens == 0


@pytest.mark.parametrize("field", ["timeout_s", "joules_per_token"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_times_and_joules_without_end_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        server_at("http://127.0.0.1:9/v1", **{field: value})


def test_joules_are_unknown_where_the_server_counts_no_tokens():
    def uncounted(handler: bad_server.Handler) -> None:
        handler.send(200, b'{"choices": [{"message": {"content": "42"}}]}')

    with serving(uncounted) as server:
        said = answer(server.url)
    assert said.answer == "42" and said.energy_j is None


def test_a_curve_file_tells_the_joules(tmp_path):
    from engine.energy.curve_store import save_curve
    from tests.curves import curve

    path = save_curve(curve(), tmp_path / "curve.json")
    with serving(bad_server.good) as server:
        said = answer(server.url, curve=str(path), joules_per_token=None)
        missing = answer(server.url, curve=str(tmp_path / "none.json"), joules_per_token=None)
    with serving(bad_server.textless) as server:
        vain = answer(server.url, curve=str(tmp_path / "none.json"), joules_per_token=None)
    assert said.energy_j == pytest.approx(curve().predict(10, 5)[0]) and said.energy_source == "curve"
    assert (missing.answer, missing.error, missing.energy_j) == ("42", None, None)
    assert "none.json" in (missing.note or "") and "none.json" in (vain.note or "")
    assert "without a text" in (vain.error or "") and vain.energy_j is None
