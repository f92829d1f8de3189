"""A probe fitted to logged states, one planted among noise."""

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="fitting needs scikit-learn")

from bench.calibration import hidden_fit
from bench.calibration.hidden_fit import LinearProbe, dealt, ends_states, fit_probe, step_ends
from bench.calibration.hidden_report import held_out, held_out_table
from bench.calibration.log import Trace
from bench.calibration.states import layers_of, read_states
from engine.errors import TokenjouleError, UsageError
from engine.stop import HiddenProbe
from tests.noisy_checks import CHECKER, check_runs
from tests.stop.scripted import play, thinker, thought

NOISE, TOLD = 0, 3  # layers
DIRECTION = np.array([0.0, 2.0, 0.0, -1.0, 0.0, 0.0]) / 5**0.5


def packed(state):
    return base64.b64encode(np.asarray(state, "<f4").tobytes()).decode()


def with_states(runs, *, apart=5.0, shift=7.0):
    """Noise of sd 1, and behind `TOLD` right and wrong so far apart along a direction; far from 0 both."""
    rng = np.random.default_rng(5)

    def marked(entry):
        told = shift + rng.normal(size=6) + DIRECTION * apart * entry.correct
        return replace(entry, states={str(NOISE): packed(rng.normal(size=6)), str(TOLD): packed(told)})

    return [Trace(tuple(map(marked, run.checkpoints)), run.end) for run in runs]


@pytest.fixture(scope="module")
def runs():
    return with_states(check_runs(CHECKER, 160, 1))


def test_a_planted_probe_is_recovered(runs):
    fitted = fit_probe(runs, layers_of(runs), lose=1.0)
    probe = fitted.probe
    assert probe.layer == TOLD and fitted.losses[TOLD] < 0.5 * fitted.losses[NOISE]
    assert probe.w @ DIRECTION / np.linalg.norm(probe.w) > 0.97
    assert fitted.choosing == 40
    whole = held_out(fitted)[0]
    assert (whole.category, whole.questions) == ("all", 40)
    assert whole.auroc > 0.99 and whole.ece < 0.05
    assert whole.tokens_saved > 0.5 and whole.saved > 0.5
    assert whole.full - whole.stopped <= 0.05
    assert whole.lost_interval[0] <= whole.full - whole.stopped <= whole.lost_interval[1]


def test_noise_tells_nothing_and_saves_nothing(runs):
    fitted = fit_probe(runs, [NOISE], lose=1.0)
    whole = held_out(fitted)[0]
    assert 0.4 < whole.auroc < 0.6
    assert whole.tokens_saved < 0.1


def test_a_probe_that_tells_of_wrong_answers_is_not_taken_for_one(runs):
    """The report would show a planted error: a sign turned round."""
    fitted = fit_probe(runs, [TOLD], lose=1.0)
    turned = replace(fitted, probe=replace(fitted.probe, w=-fitted.probe.w, b=-fitted.probe.b))
    assert held_out(turned)[0].auroc < 0.01
    assert held_out(turned)[0].ece > 0.5


def test_more_may_be_saved_where_more_may_be_lost(runs):
    careful, bold = (fit_probe(runs, [TOLD], lose=lose).probe.threshold for lose in (0.0, 20.0))
    assert bold < careful


def test_equal_texts_are_on_one_side(runs):
    twice = [*runs, *(replace(run, end=replace(run.end, seed=-1 - run.end.seed)) for run in runs)]
    parts = [{trace.end.question for trace in part} for part in dealt(twice)]
    assert [len(part) for part in parts] == [80, 40, 40]
    assert len(set.union(*parts)) == 160


def test_the_first_token_is_no_step_s_end_and_is_not_fitted_to(runs):
    assert all(
        ends == list(range(1, len(run.checkpoints))) for run, ends in zip(runs, step_ends(runs), strict=True)
    )
    first = runs[0].checkpoints[1:]
    assert np.array_equal(ends_states(runs[:1], TOLD), read_states(first, TOLD))


def test_the_file_is_what_the_policy_reads_and_stops_by(tmp_path: Path):
    # The state that wrote a step's end is (steps written before, 1) in this script.
    probe = LinearProbe(0, np.array([2.0, 0.5], np.float32), -5.5, 0.6)
    probe.save(tmp_path / "probe.npz")
    policy = HiddenProbe(str(tmp_path / "probe.npz"))
    assert (policy.layer, policy.threshold) == (0, 0.6)
    [result], _ = play(thinker("abcdefgh", ["7"]), policy)
    assert thought(result) == "a\nb\nc\nd\n"  # from 3 steps before on, σ(1) = 0.73


def test_where_it_stops_is_where_it_first_says_so(runs):
    probe = fit_probe(runs, [TOLD], lose=1.0).probe
    for run, stop in zip(runs, probe.stops(runs), strict=True):
        sure = probe.p(read_states(run.checkpoints[1:], TOLD)) >= probe.threshold
        assert stop == (1 + int(np.argmax(sure)) if sure.any() else len(run.checkpoints))


def test_a_category_is_a_row_of_the_report(runs):
    both = [*runs, *with_states(check_runs(CHECKER, 40, 9, category="search"))]
    found = held_out(fit_probe(both, [TOLD], lose=1.0))
    assert [each.category for each in found] == ["all", "verify", "search"]
    assert found[0].questions == sum(each.questions for each in found[1:]) == 50
    assert held_out_table(found).count("\n") == 4


def changed(runs, **what):
    return [
        Trace(tuple(replace(e, **what) for e in run.checkpoints), replace(run.end, **what)) for run in runs
    ]


def test_what_cannot_be_fitted_to_is_refused(runs):
    with pytest.raises(UsageError, match="test split"):
        fit_probe([*runs, *changed(runs[:1], split="test")], [TOLD], lose=1.0)
    with pytest.raises(TokenjouleError, match="several models"):
        fit_probe([*runs, *changed(runs[:1], model="another")], [TOLD], lose=1.0)
    with pytest.raises(TokenjouleError, match="20 runs or more"):
        fit_probe(runs[:19], [TOLD], lose=1.0)
    with pytest.raises(TokenjouleError, match="texts"):
        fit_probe(changed(runs, question="the same"), [TOLD], lose=1.0)
    with pytest.raises(TokenjouleError, match="all right, or all wrong"):
        fit_probe(changed(runs, correct=True), [TOLD], lose=1.0)
    with pytest.raises(TokenjouleError, match="lacks the state behind layer 9"):
        fit_probe(runs, [9], lose=1.0)


def test_where_the_surest_stops_lose_too_much_no_probe_is_made(runs, monkeypatch):
    """What the state tells is right wherever it was fitted; where the threshold is set, it misleads."""
    _, choose, _ = map(set, ([trace.end.question for trace in part] for part in dealt(runs)))

    def label(entry):
        told = 60.0 * (entry.checkpoint > 3)
        return replace(
            entry,
            correct=entry.checkpoint > 3 and (entry.question not in choose or entry.checkpoint > 4),
            states={str(TOLD): packed([told, 1.0])},
        )

    runs = [Trace(tuple(map(label, run.checkpoints)), replace(run.end, correct=True)) for run in runs]
    assert (
        fit_probe(runs, [TOLD], lose=0.0).probe.threshold > 0.6
    )  # it is never as sure as the first one tried
    monkeypatch.setattr(hidden_fit, "TRIED", (0.6,))
    with pytest.raises(TokenjouleError, match=r"0\.6000 already loses more than 0 points on 40 questions"):
        fit_probe(runs, [TOLD], lose=0.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no base64!", "no state"),
        ("AAA=", "no state"),
        ("", "empty or not finite"),
        (packed([np.nan, 1.0]), "empty or not finite"),
    ],
)
def test_what_is_no_state_is_refused(runs, text, complaint):
    broken = [replace(entry, states={str(TOLD): text}) for entry in runs[0].checkpoints]
    with pytest.raises(TokenjouleError, match=complaint):
        read_states(broken, TOLD)


def test_states_of_two_widths_are_refused(runs):
    other = replace(runs[0].checkpoints[1], states={str(TOLD): packed([1.0, 2.0])})
    with pytest.raises(TokenjouleError, match="not all of one width"):
        read_states([*runs[0].checkpoints, other], TOLD)


def test_layers_are_those_that_every_checkpoint_has(runs):
    assert layers_of(runs) == [NOISE, TOLD]
    assert layers_of([*runs, *changed(runs[:1], states={"3": "", "x": ""})]) == [TOLD]
    assert layers_of(check_runs(CHECKER, 2, 0)) == []
