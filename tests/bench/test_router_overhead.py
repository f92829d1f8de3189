import json

import pytest

from bench.router_overhead import main, summary
from router.policy import Choice
from router.router import Routed, Router, Stage
from tests.router.planted_router import QUERY, arms_of, planted


def test_it_tells_what_deciding_costs_beside_the_query(capsys, tmp_path):
    arms = arms_of(tmp_path)
    with Router(arms, energy_source="estimate") as router:
        width = len(router.answerers.features(QUERY))
        planted(arms, features=router.answerers.source(), width=width, ask=0.1, vote=0.1).save(
            tmp_path / "e.npz"
        )
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in (QUERY, "1+2=")))
    options = ["--estimator", str(tmp_path / "e.npz"), "--prompts", str(tmp_path / "p.jsonl")]
    options += ["--arms", str(tmp_path / "arms.toml"), "--energy-source", "estimate"]
    assert main(options) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["queries"], found["fallbacks"], found["prefills_reused"]) == (2, 0, 2)
    assert 0 < found["router_j"] < found["query_j"] and 0 < found["router_s"] < found["query_s"]
    assert 0 < found["router_share"] < 1 and not found["measured"]


def test_joules_of_a_meter_that_ticks_are_told_by_their_mean():
    def routed(router_j: float | None) -> Routed:
        stage = Stage("a", energy_j=4.0)
        return Routed("?", choices=[Choice("a", 0, "")], stages=[stage], answered_by=0, router_j=router_j)

    found = summary([routed(joules) for joules in (0.0, 0.0, 3.0)], 1)
    assert found["router_j"] == pytest.approx(1.0)
    assert (found["query_j"], found["router_share"]) == pytest.approx((5.0, 0.2))
    blind = summary([routed(None), routed(1.0)], 1)
    assert blind["router_j"] is None and blind["router_share"] is None
