import math
from dataclasses import replace
from pathlib import Path

import pytest

from engine.answerers import Answerers, Local, refusal
from engine.energy.curve_store import load_curve, save_curve
from engine.errors import TokenjouleError
from engine.strategy.ask import Technique
from engine.strategy.server import Server
from tests.bad_server import good, serving
from tests.curves import curve
from tests.stop.test_rule import stopping

FAR = Server("http://127.0.0.1:9/v1", "big", joules_per_token=0.5)
WAY = Technique("direct")
VOTE = Technique("vote", budget_tokens=9, samples=3, temperature=0.7)


def test_without_a_local_model_nobody_reads():
    with Answerers({"far": FAR}) as answerers, pytest.raises(TokenjouleError, match="no local model"):
        answerers.read("1+1=")


def test_a_model_that_cannot_be_had_says_so_and_takes_nothing(tmp_path):
    with Answerers({"gone": Local(str(tmp_path / "none"))}) as answerers:
        said = answerers.answer("gone", "1+1=", WAY, budget_tokens=0)
    assert said.answer is None and said.energy_j == 0.0 and "none" in (said.error or "")


def test_what_a_server_takes_is_known_by_its_table_alone():
    bare = Server("http://127.0.0.1:9/v1", "big")
    with Answerers({"far": FAR, "bare": bare, "near": Local("bundled:chain")}) as answerers:
        cost = answerers.cost("far", WAY)
        assert cost is not None and cost(10.4, 0.2) == pytest.approx(0.5 * 11)
        assert answerers.cost("bare", WAY) is None
        assert answerers.cost("near", WAY) is None, "nothing is loaded yet"


def test_a_vote_on_a_server_costs_one_prefill_and_its_decodes_by_the_servers_curve(tmp_path):
    server = Server("http://127.0.0.1:9/v1", "big", curve=str(save_curve(curve(), tmp_path / "curve.json")))
    with Answerers({"far": server}) as answerers:
        cost = answerers.cost("far", VOTE)
        assert cost is not None and cost(100, 60) == curve().predict(100, 20, 3, prompts=1)[0]
        assert cost(100, 60) < 3 * curve().predict(100, 20)[0], "the prompt is read once"


def test_the_seed_of_a_request_reaches_the_server():
    pytest.importorskip("httpx", reason="remote arms need httpx")
    with serving(good) as there:
        server = Server(there.url, "big", joules_per_token=0.5)
        with Answerers({"far": server}) as answerers:
            answerers.answer("far", "1+1=", VOTE, budget_tokens=9, seed=11)
    assert (there.seen[0][2]["seed"], there.seen[0][2]["n"]) == (11, 3)


def test_an_unreadable_curve_is_an_error_and_not_a_cost(tmp_path):
    server = Server("http://127.0.0.1:9/v1", "big", curve=str(tmp_path / "none.json"))
    with Answerers({"far": server}) as answerers, pytest.raises(TokenjouleError, match=r"none\.json"):
        answerers.cost("far", WAY)(1, 1)


def test_a_servers_curve_is_read_once_for_all_queries(tmp_path, monkeypatch):
    server = Server("http://127.0.0.1:9/v1", "big", curve=str(save_curve(curve(), tmp_path / "curve.json")))
    read: list[Path] = []
    monkeypatch.setattr(
        "engine.strategy.server.load_curve", lambda path: read.append(path) or load_curve(path)
    )
    with Answerers({"far": server}) as answerers:
        found = [answerers.cost("far", WAY) for _ in range(5)]
        assert len(read) == 1 and len({cost(100, 60) for cost in found if cost}) == 1
        assert answerers.cost("far", VOTE)(100, 60) == curve().predict(100, 20, 3, prompts=1)[0]


def test_the_meter_of_the_reader_only_goes_up():
    with Answerers({"near": Local("bundled:chain", backend="torch")}, energy_source="estimate") as answerers:
        before_j = answerers.meter_j()
        known = answerers.read("47+35-18=")
        features = answerers.features("47+35-18=", known)
        said = answerers.answer("near", "47+35-18=", Technique("cot", 64), budget_tokens=64, known=known)
        assert answerers.meter_j() > before_j
        assert said.answer == "64" and said.reused_tokens == len(known.token_ids)
        assert all(math.isfinite(value) for value in features)
        assert answerers.source().startswith("chain/") and not said.cut
        held = answerers.answer(
            "near", "47+35-18=", Technique("cot", 64), budget_tokens=64, budget_joules=0.6 * said.energy_j
        )
        assert held.cut, "by the joules it was held to"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"quantize": "int3"}, "quantize"),
        ({"backend": "abacus"}, "backend"),
        ({"curve": "nowhere.json"}, "curve: there is no file"),
    ],
)
def test_a_local_model_that_makes_no_sense_is_refused(wrong, field):
    with pytest.raises(ValueError, match=field):
        Local("bundled:chain", **wrong)


def test_a_model_is_bound_to_what_its_curve_holds_and_not_to_where_it_lies(tmp_path):
    paths = [save_curve(curve(), tmp_path / name) for name in ("a.json", "b.json")]
    one, two = (Local("bundled:chain", curve=str(path)) for path in paths)
    assert one.identity() == two.identity() != Local("bundled:chain").identity()
    assert one.options()["curve"] == str(paths[0]) and Local("bundled:chain").options()["curve"] == "auto"
    save_curve(replace(curve(), stopping=stopping()), paths[1])
    assert one.identity() != two.identity()
    far = [replace(FAR, curve=str(path)) for path in paths]
    assert far[0].identity() != far[1].identity()


def test_auto_is_the_rule_of_the_curve_that_the_model_names_or_nothing(tmp_path):
    path = save_curve(curve(), tmp_path / "c.json")
    auto, tail = (Technique("cot", 64, stop=stop) for stop in ("auto", "tail:k=2"))
    near = Local("bundled:chain", curve=str(path))
    assert "names no curve" in refusal(Local("bundled:chain"), auto)
    assert "c.json holds none" in refusal(near, auto)
    save_curve(replace(curve(), stopping=stopping()), path)
    assert refusal(near, auto) == refusal(near, tail) == refusal(near, WAY) == refusal(FAR, WAY) == ""
    assert "local models alone" in refusal(FAR, tail)
    path.write_text("{}")
    with pytest.raises(TokenjouleError, match=r"c\.json is no operating curve"):
        refusal(near, auto)


def test_an_arm_that_stops_by_a_curve_answers_by_its_rule(tmp_path):
    frozen = Path(__file__).parents[1] / "bench" / "results" / "testbed-s-curve.json"
    model = Local("bundled:testbed-s", backend="torch", curve=str(frozen))
    told = {}
    with Answerers({"s": model}, energy_source="simulated") as answerers:
        for stop in ("none", "auto"):
            way = Technique("cot", 128, stop=stop)
            assert refusal(model, way) == ""
            told[stop] = answerers.answer("s", "5206~", way, budget_tokens=128)
            assert told[stop].error is None
        assert answerers.cost("s", way) is None, "the curve's joules are not those of this meter"
    assert told["auto"].answer == told["none"].answer
    assert told["auto"].new_tokens < told["none"].new_tokens / 2
