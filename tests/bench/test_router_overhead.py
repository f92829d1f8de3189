import json

from bench.router_overhead import main
from router.router import Router
from tests.router.test_router import QUERY, arms_of, planted


def test_it_tells_what_deciding_costs_beside_the_query(capsys, tmp_path):
    arms = arms_of(tmp_path)
    with Router(arms, energy_source="estimate") as router:
        width = len(router.answerers.read(QUERY)[0])
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
