"""Joules of interleaved arms: each gets what its own timed runs used."""

from bench.joules import joules_per_token, watching
from bench.timing import Timed, interleave


def burn() -> None:
    sum(range(400_000))


def test_each_arm_gets_its_own_joules_and_untimed_work_is_nobodys() -> None:
    arms = [
        Timed("one", burn, setup=burn),
        Timed("three", lambda: [burn() for _ in range(3)], setup=burn),
        Timed("idle", lambda: None, setup=burn),
    ]
    with watching("estimate") as watch:
        interleave(arms, rounds=8, warmups=0, watch=watch)
    one, three, idle = (joules_per_token(watch.report, arm.name, 8) for arm in arms)
    assert one.value is not None and three.value is not None and idle.value is not None
    assert 2 < three.value / one.value < 4.5
    assert idle.value < 0.1 * one.value
    assert (one.source, one.measured, one.low) == ("estimate, interpolated", False, None)
    setups = watch.report.unattributed_j
    assert setups is not None and setups > 10 * one.value


def test_an_arm_that_never_ran_has_no_joules_and_says_so() -> None:
    with watching("estimate") as watch:
        interleave([Timed("a", burn)], rounds=1, watch=watch)
    found = joules_per_token(watch.report, "b", 8)
    assert found.value is None and found.reason


def test_a_source_with_intervals_hands_them_on() -> None:
    with watching("simulated") as watch:
        interleave([Timed("a", burn)], rounds=60, watch=watch)
    found = joules_per_token(watch.report, "a", 60)
    assert found.source == "simulated, model"
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high


def test_too_few_ticks_give_no_interval_and_say_so() -> None:
    with watching("simulated") as watch:
        interleave([Timed("a", burn)], rounds=1, watch=watch)
    found = joules_per_token(watch.report, "a", 1)
    assert found.value is not None and found.low is None
    assert "no interval: " in found.source and "too few to tell" in found.source
