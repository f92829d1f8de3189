from dataclasses import replace

import numpy as np
import pytest

from engine.errors import TokenjouleError
from engine.price import price_for_budget
from router.estimator import Estimator
from router.policy import Estimate, most_accurate, picked, priced
from tests.router.planted import ARMS, plant

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return plant(rng, 700), plant(rng, 700), plant(rng, 3000)


@pytest.fixture(scope="module")
def estimator(data) -> Estimator:
    return Estimator.fit(data[0].table, data[1].table, digest="d1", certify=(0.7, 0.1))


def believing(*p: float) -> list[Estimate]:
    return [Estimate(arm, arm, 0, p=chance) for arm, chance in zip(ARMS, p, strict=True)]


def test_a_file_holds_all_of_it(estimator, data, tmp_path):
    path = tmp_path / "estimator.npz"
    estimator.save(path)
    read = Estimator.load(path)
    features = data[2].table.features[:20]
    assert (read.arms, read.digest, read.fallback) == (estimator.arms, "d1", estimator.fallback)
    told, kept = read.certificate, estimator.certificate
    assert (told.target, told.delta, told.threshold) == (kept.target, kept.delta, kept.threshold)
    np.testing.assert_array_equal(read.rank(features), estimator.rank(features))
    np.testing.assert_array_equal(
        read.performance.predict(features).p, estimator.performance.predict(features).p
    )
    np.testing.assert_array_equal(read.energy.predict(features).q90, estimator.energy.predict(features).q90)
    before = believing(0.5, 0.5, 0.5)
    after = read.told(before, "middle", 0.5, 0.9)
    assert before != after == estimator.told(before, "middle", 0.5, 0.9)
    assert [file.name for file in tmp_path.iterdir()] == ["estimator.npz"]


def test_what_is_not_there_stays_away(data, tmp_path):
    rng = np.random.default_rng(9)
    train, calibration = (plant(rng, 200, confident=False).table for _ in range(2))
    found = Estimator.fit(train, calibration, kind="knn")
    found.save(tmp_path / "e.npz")
    read = Estimator.load(tmp_path / "e.npz")
    assert read.stage is None and read.certificate is None
    before = believing(0.5, 0.5, 0.5)
    assert read.told(before, "small", 0.5, 0.9) == before
    np.testing.assert_array_equal(
        read.performance.predict(train.features).p, found.performance.predict(train.features).p
    )


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", b"PK\x03\x04 half a zip", b"\x80\x04\x95pickle"], ids=range(4)
)
def test_a_file_that_is_none_is_one_line(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(TokenjouleError, match="no estimator") as error:
        Estimator.load(path)
    assert "\n" not in str(error.value)


def test_a_pickle_inside_is_never_run(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, schema=np.array("tokenjoule.router/4"), arms=np.array([{"a": 1}], dtype=object))
    with pytest.raises(TokenjouleError, match="allow_pickle"):
        Estimator.load(path)


def test_another_schema_and_a_missing_part_are_refused(estimator, tmp_path):
    path = tmp_path / "e.npz"
    estimator.save(path)
    content = dict(np.load(path))
    np.savez(path, **{**content, "schema": np.array("other/9")})
    with pytest.raises(TokenjouleError, match="schema"):
        Estimator.load(path)
    content.pop("performance.grid")
    np.savez(path, **content)
    with pytest.raises(TokenjouleError, match=r"performance\.grid"):
        Estimator.load(path)


def test_a_folder_that_cannot_be_written_is_one_line(estimator, tmp_path):
    with pytest.raises(TokenjouleError, match="cannot write"):
        estimator.save(tmp_path / "none" / "e.npz")


def test_a_stage_that_was_sure_of_its_answer_is_likelier_right(estimator, data):
    table, before = data[2].table, believing(0.5, 0.73, 0.88)
    sure, unsure = (estimator.told(before, "small", 0.5, seen)[0].p for seen in (0.95, 0.05))
    assert sure > 0.7 > 0.35 > unsure
    assert estimator.told(before, "small", 0.5, None) == before
    assert estimator.told(before, "small", 0.4, None) == believing(0.4, 0.73, 0.88), "as it was chosen"
    rows = np.abs(data[2].p[:, 0] - 0.5) < 0.1
    told = table.confidence[rows, 0] > 0.9
    assert sure == pytest.approx(table.correct[rows, 0][told].mean(), abs=0.15)


def test_choices_by_it_beat_every_mix_of_fixed_arms(estimator, data):
    """What 1 : 3 : 10 joules buy: at the middle arm's joules, routing is right more often than that arm."""
    table = data[2].table
    p, costs = estimator.performance.predict(table.features).p, estimator.energy.predict(table.features)
    middle_j = table.energy_j[:, 1].mean()
    price = price_for_budget(
        lambda price: picked(costs.expected, priced(p, costs.expected, price)).mean(), middle_j
    )
    arms = priced(p, costs.expected, price)
    assert picked(table.energy_j, arms).mean() <= middle_j * 1.05
    mix = np.interp(middle_j, table.energy_j.mean(0), table.correct.mean(0))
    assert picked(table.correct, arms).mean() > mix + 0.01
    assert picked(table.correct, most_accurate(p, costs.expected)).mean() >= table.correct[:, 2].mean() - 0.01


def test_the_fallback_is_the_strongest_fixed_arm(estimator):
    assert estimator.fallback == "large"


def test_outcomes_without_features_are_refused(data):
    bare = replace(data[0].table, features=None)
    with pytest.raises(TokenjouleError, match="no features"):
        Estimator.fit(bare, bare)


def test_nothing_is_certified_where_some_answers_are_not_known_to_be_right(data):
    correct = data[1].table.correct.copy()
    correct[3, 1] = np.nan
    unsure = replace(data[1].table, correct=correct)
    assert Estimator.fit(data[0].table, unsure).certificate is None
    with pytest.raises(TokenjouleError, match="every answer"):
        Estimator.fit(data[0].table, unsure, certify=(0.7, 0.1))


def test_what_a_certified_rule_ranks_by_is_of_the_training_questions_and_stays(estimator, data):
    train, calibration = data[0].table, data[1].table
    features = data[2].table.features[:30]
    dear = replace(calibration, energy_j=calibration.energy_j * np.array([1.0, 20.0, 1.0]))
    other = Estimator.fit(train, dear, digest="d1", certify=(0.7, 0.1))
    assert other.certificate.threshold == estimator.certificate.threshold
    np.testing.assert_array_equal(other.rank(features), estimator.rank(features))
    assert (other.energy.predict(features).expected[:, 1] > 5 * estimator.rank(features)[:, 1]).all()
    taught = replace(estimator, energy=estimator.energy.observed(1, 1.0, 50.0))
    np.testing.assert_array_equal(taught.rank(features), estimator.rank(features))
    assert Estimator.fit(train, calibration).rank(features) is None


def test_a_question_that_is_asked_again_certifies_nothing_more(estimator, data):
    train, calibration = data[0].table, data[1].table
    again = calibration.take(np.tile(np.arange(len(calibration.questions)), 5))
    found = Estimator.fit(train, again, certify=(0.7, 0.1))
    assert found.certificate.threshold == estimator.certificate.threshold
    new = replace(again, queries=np.arange(len(again.queries)).astype(object))
    bold = Estimator.fit(train, new, certify=(0.7, 0.1))
    assert bold.certificate.threshold < found.certificate.threshold, "were they other questions"


def test_confidences_of_a_few_texts_teach_no_stage(data):
    few = replace(data[1].table, queries=np.array(["same"] * 700, dtype=object))
    assert Estimator.fit(data[0].table, few).stage is None
