"""The study with questions set apart for fitting: what is charged, and that the others teach nothing."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench import report
from bench.experiments.router import main
from bench.record import read
from bench.routing.charged import charged, with_features
from bench.routing.checks import certified, promised
from bench.routing.estimates import costs, probabilities
from bench.routing.judge import judge
from bench.routing.played import Kind, Played
from bench.routing.reading import beside, one_curve, read_readings
from bench.routing.requirements import requirements
from bench.routing.routed import as_chosen, chosen_price, knobs, learnt, prices_of
from bench.routing.split import Prepared, frozen, prepared
from bench.routing.study import frozen_study
from engine.errors import TokenjouleError
from engine.predict.outcomes import Table, read_outcomes
from tests.bench.routing.planted_testbed import FACTS, outcomes, write

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

SERIES = "time,average_g_per_kwh\n" + "".join(
    f"2026-03-01T{hour:02d}:00:00+00:00,{grams}\n" for hour, grams in enumerate((150, 100, 130, 90, 200, 300))
)


def planted(fit: int, test: int, facts: int = FACTS) -> Prepared:
    (learnt, one), (tested, other) = (
        outcomes(*split, facts) for split in (("calibration", fit, 0), ("test", test, 1))
    )
    readings = {reading.question: reading for reading in (*one, *other)}
    return charged(prepared(with_features(Table.of([*learnt, *tested]), readings)), readings, 0.05)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Records of a small study; fewer prices and resamples than usual."""
    root = tmp_path_factory.mktemp("frozen")
    (root / "grid.csv").write_text(SERIES)
    files = [write(root, "test", 130, 1), write(root, "calibration", 150, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.routing.routed.PRICES", 3)
        patch.setattr("bench.routing.study.FINER", 2)
        patch.setattr("bench.routing.study.judge", partial(judge, resamples=40))
        patch.setattr("bench.routing.unseen.LEAST", 20)
        command = [str(files[0]), "--fit", str(files[1]), "--deciding-joules", "0.05", "--seeds", "1"]
        command += ["--resplits", "4", "--series", str(root / "grid.csv"), "--out", str(root / "runs.jsonl")]
        assert main(command) == 0
    return root / "runs.jsonl"


def test_reading_is_charged_and_what_its_model_is_spared_is_not_paid_twice():
    data = planted(60, 60)
    assert data.read_j == pytest.approx(0.55) and data.spared_j == pytest.approx(0.4)
    assert data.spared.table.energy_j == pytest.approx(data.table.energy_j - 0.4)
    assert data.spared.spared.table.energy_j == pytest.approx(data.spared.table.energy_j)
    assert not data.unread.read_j.any() and data.unread.text_only and data.unread.features.shape[1] > 100
    of_other = [replace(one, arm=one.arm.replace("s/", "large/")) for one in outcomes("test", 60, 1)[0]]
    both = Table.of([*outcomes("test", 60, 1)[0], *of_other])
    readings = {one.question: one for one in outcomes("test", 60, 1)[1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.routing.split.LEAST", 10)
        found = charged(prepared(with_features(both, readings)), readings, 0.0)
    assert list(found.spared_j[0]) == pytest.approx([0.4] * 3 + [0.0] * 3)


def test_a_question_without_a_reading_is_named():
    made, read = outcomes("test", 20, 1)
    with pytest.raises(TokenjouleError, match="'chain/test3' and 0 others have no reading"):
        with_features(Table.of(made), {one.question: one for one in read if one.question != "chain/test3"})
    mixed = {one.question: replace(one, reader="large" if n else "s") for n, one in enumerate(read)}
    with pytest.raises(TokenjouleError, match="different models"):
        with_features(Table.of(made), mixed)


def test_nothing_is_learnt_from_the_test_questions():
    data, rows = planted(80, 80), np.arange(160)
    split = frozen(rows[:80], rows[80:])
    wrong = data.table.correct.copy()
    wrong[80:] = 1 - wrong[80:]  # whatever the test questions' answers are
    other = replace(data, table=replace(data.table, correct=wrong, energy_j=data.table.energy_j.copy()))
    other.table.energy_j[80:] *= 7
    p, again = (probabilities("both", one, (0,), split) for one in (data, other))
    assert np.isnan(p[0, :80]).all() and (p[0, 80:] == again[0, 80:]).all()
    assert (costs(data, (0,), split).q90[0, 80:] == costs(other, (0,), split).q90[0, 80:]).all()
    at = (0.0, 0.5, 2.0)
    known = learnt(data, rows[:80], 0), learnt(other, rows[:80], 0)
    assert chosen_price(known[0], at) == chosen_price(known[1], at)
    here, there = (knobs((0,), split, partial(prices_of, one.table)) for one in (data, other))
    assert here == there and len(set(here)) == len(here)


def test_the_price_that_training_chose_saves_joules_and_keeps_the_accuracy_where_hardness_is_known():
    data, rows = planted(400, 400, 400), np.arange(800)
    split, at = frozen(rows[:400], rows[400:]), (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    p, spent = probabilities("both", data, (0,), split), costs(data, (0,), split)
    known = [[learnt(data, rows[:400], 0)]]
    found = as_chosen(data, (0,), split, p, spent.expected, lambda _: at, known).take(rows[400:])
    strong = data.table.correct[400:, 2].mean(), data.table.energy_j[400:, 2].mean()
    assert found.accuracy()[0] > strong[0] - 0.03 and found.joules()[0] < 0.75 * strong[1]
    blind = p.copy()
    blind[0, 400:] = np.random.default_rng(0).permutation(p[0, 400:])
    lost = as_chosen(data, (0,), split, blind, spent.expected, lambda _: at, known).take(rows[400:])
    assert lost.accuracy()[0] < found.accuracy()[0] - 0.05


def test_a_certificate_of_the_fitted_questions_is_kept_on_the_others_and_pays_for_its_reading(monkeypatch):
    monkeypatch.setattr("bench.routing.checks.BELOW", 0.1)
    data, rows = planted(400, 400, 400), np.arange(800)
    [found] = promised(data, rows[:400], rows[400:], (0,))
    assert found.above > -0.05 and 0 < found.saved < 1
    dear = replace(data, read_j=data.read_j + 1000.0)
    [paid] = promised(dear, rows[:400], rows[400:], (0,))
    assert paid.above == found.above and paid.saved < -1
    assert certified(dear.take(rows[:400]), (0,), 5).saved < -1


def test_questions_that_are_asked_again_are_drawn_together():
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 20), 10).astype(float)[None, None]  # twenty texts, ten times each
    spent = np.ones_like(right)
    rules = [
        Played("fixed", Kind.FIXED, ("a",), right, spent),
        Played("oracle", Kind.ORACLE, ("",), np.ones_like(right), spent),
    ]
    alone, together = (
        judge(rules, queries=queries, resamples=400)[0].points[0].accuracy
        for queries in (None, np.repeat(np.arange(20), 10))
    )
    assert alone.value == together.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)  # √10 in theory


def test_the_study_says_what_has_to_hold_and_what_was_found(study, capsys):
    records = list(read([study]))
    assert {record.benchmark for record in records} == {"router-testbed"}
    found = {what: (required, told, holds) for what, required, told, holds in requirements(records)}
    assert found["calibration error, worst arm"][2] is None  # of 130 questions nothing can be said
    told = "queue: tokens allowed; answers beyond a limit"
    assert found[told][2] is True

    def pressed(**changed: float) -> bool | None:
        """Were these the figures of every level."""
        changed_records = [
            replace(
                r, derived={**r.derived, **{k: replace(r.derived[k], value=v) for k, v in changed.items()}}
            )
            if r.group == "pressure"
            else r
            for r in records
        ]
        return {what: holds for what, _, _, holds in requirements(changed_records)}[told]

    assert pressed(most_tokens=64.0) is False, "they do not tighten"
    assert pressed(tokens=1000.0) is False, "more is chosen than is allowed"
    assert pressed(beyond=0.2) is False
    assert any("over the paper's section 5" in what for what in found)
    assert main(["--from", str(study)]) == 0
    out = capsys.readouterr().out
    assert "Of 130 questions 0 have a text that was learnt from" in out
    assert "reading and deciding, charged" in out and "NOT MEASURED here: operating curve, planted" in out
    assert "gap to the oracle closed, in joules within 0.5 points of the strongest arm |  |" in out
    for task in ("chain | 65", "search | 65", "all of them | 130"):
        assert f"| router: {task} |" in out and f"| router, neighbours alone: {task} |" in out
    for rule in (
        "router, as training chose it",
        "cascade, as training chose it",
        "router, by category alone",
    ):
        assert rule in out


def test_ours_pay_for_their_reading_and_baselines_do_not(study):
    points = {(r.arm.name, r.arm.note): r for r in read([study]) if r.group == "point"}
    dearest = max(
        r.derived["energy"].value for (name, _), r in points.items() if name == "router, by length alone"
    )
    least = points["random mix of fixed arms", "s/direct"].derived["energy"].value
    ours = [r.derived["energy"].value for (name, _), r in points.items() if name == "router"]
    assert min(ours) >= least + 0.15 - 1e-9  # 0.5 of reading and 0.05 of deciding, of which 0.4 are spared
    assert dearest < 45
    (charge,) = [r for r in read([study]) if r.group == "charge"]
    assert charge.derived["energy"].value == pytest.approx(0.15)


def test_categories_add_up_to_the_whole(study):
    records = list(read([study]))
    whole = {r.arm.note or r.arm.name: r.metrics["energy_j"].samples for r in records if r.group == "point"}
    parts = [r for r in records if r.group == "category"]
    assert {r.arm.note for r in parts} == {"chain", "search"}  # 65 questions each
    names = {r.arm.name for r in parts}
    assert {"s/direct", "router, as training chose it", "oracle of each query"} <= names
    assert not any(name.endswith("points/J") for name in names)
    for name in names:
        mine = [r.metrics["energy_j"].samples for r in parts if r.arm.name == name]
        assert len(mine) == 2 and mine[0] != mine[1]
        means = [sum(seeds) / 2 for seeds in zip(*mine, strict=True)]
        assert means == pytest.approx(list(whole[name]))


def test_the_report_makes_a_part_of_its_own_beside_the_other_study(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- bench:router -->\n<!-- end bench:router -->\n"
        "<!-- bench:testbed -->\noutdated\n<!-- end bench:testbed -->\n"
    )
    assert report.main([str(study), "--update", str(readme)]) == 0
    router, testbed = readme.read_text().split("<!-- bench:testbed -->")
    assert "Not measured." in router and "queue: 32 wait" in testbed and "outdated" not in testbed
    assert "tasks that nothing was learnt from" in testbed


def test_what_would_not_be_a_fair_test_is_refused(study, tmp_path, capsys):
    root = study.parent
    test, fit = root / "test.jsonl", root / "calibration.jsonl"
    usual = [str(test), "--fit", str(fit), "--deciding-joules", "0"]
    for arguments, words in (
        ([str(fit), "--fit", str(test), "--deciding-joules", "0"], "nothing is fitted to the test split"),
        ([str(fit), "--fit", str(fit), "--deciding-joules", "0"], "to be learnt from and to be tested"),
        ([str(test), "--fit", str(fit)], "--deciding-joules"),
        ([*usual[:-1], "nan"], "--deciding-joules"),
        ([str(test), "--series", str(root / "grid.csv")], "go with --fit"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    lone = tmp_path / "lone.jsonl"
    lone.write_bytes(test.read_bytes())
    assert main([str(lone), *usual[1:]]) == 1
    assert str(beside(lone)) in capsys.readouterr().err


def test_test_questions_whose_text_was_learnt_from_are_counted(tmp_path):
    files = [
        write(tmp_path, split, questions, 1) for split, questions in (("test", 130), ("calibration", 150))
    ]
    for path in files:
        path.write_text(path.read_text().replace('"query": "test ', '"query": "calibration '))
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.routing.study.ruled", lambda *_: (_ for _ in ()).throw(Enough))
        with pytest.raises(Enough):
            frozen_study(
                "test",
                read_outcomes(files[1]),
                read_outcomes(files[0]),
                read_readings([beside(path) for path in files]),
                seeds=1,
                resplits=1,
                deciding_j=0.0,
                series=None,
                jobs=1,
                say=said.append,
            )
    assert "test: of 130 test questions 130 have a text that is among those learnt from" in said
    assert "test: 280 readings do not say by which curve joules were told" in said


class Enough(Exception):
    """All that a test asks for was said."""


def test_joules_of_a_model_by_two_curves_are_refused(tmp_path):
    path = write(tmp_path, "calibration", 4, 0)
    lines = beside(path).read_text().splitlines()
    told = [
        line.replace('"curves": {}', f'"curves": {{"s": "{name}"}}')
        for line, name in zip(lines, "aaab", strict=True)
    ]
    beside(path).write_text("\n".join(told[:3]))
    assert one_curve(read_readings([beside(path)]).values()) == {"s": "a"}
    beside(path).write_text("\n".join(told))
    with pytest.raises(
        TokenjouleError, match="joules of s are by two curves: question 'chain/calibration3' by b"
    ):
        read_readings([beside(path)])
    beside(path).write_text("\n".join([*told[:3], told[0].replace('"a"', '"c"')]))  # a question run again
    with pytest.raises(TokenjouleError, match="two curves"):
        read_readings([beside(path)])
