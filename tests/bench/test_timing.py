"""Interleaving on a clock of our own, and ratios whose truth is known."""

import random
from collections.abc import Callable

import pytest

from bench.timing import Timed, Watch, WrongAnswer, fastest, interleave, ratio


class Clock:
    """Time passes only where somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now_s

    def work(self, name: str, seconds: float = 1.0) -> Callable[[], None]:
        def run() -> None:
            self.log.append(name)
            self.now_s += seconds

        return run


def test_every_round_runs_every_arm_once_in_a_shuffled_order() -> None:
    clock = Clock()
    arms = [Timed(name, clock.work(name)) for name in "abc"]
    taken = interleave(arms, rounds=20, warmups=0, clock=clock)
    rounds = ["".join(clock.log[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(r)) for r in rounds} == {"abc"}
    assert len(set(rounds)) > 3, "the order changes"
    assert all(len(samples) == 20 for samples in taken.values())
    again = Clock()
    interleave([Timed(name, again.work(name)) for name in "abc"], rounds=20, warmups=0, clock=again)
    assert again.log == clock.log, "the order depends on the seed alone"


def test_only_the_run_is_timed_and_divided_by_its_repeats() -> None:
    clock = Clock()
    arm = Timed("a", clock.work("run", 8.0), clock.work("setup", 3.0), clock.work("reset", 5.0), repeats=4)
    assert interleave([arm], rounds=2, warmups=1, clock=clock) == {"a": [2.0, 2.0]}
    assert clock.log == ["setup", "run", "reset"] * 3


def test_waiting_for_the_device_is_a_part_of_the_run() -> None:
    clock = Clock()
    pending: list[float] = []

    def synchronise() -> None:
        while pending:
            clock.now_s += pending.pop()

    arm = Timed("a", lambda: pending.append(2.0), setup=lambda: pending.append(7.0))
    assert interleave([arm], rounds=1, warmups=0, clock=clock, synchronise=synchronise) == {"a": [2.0]}


def test_a_wrong_answer_is_found_before_anything_is_timed() -> None:
    clock = Clock()

    def wrong() -> None:
        raise WrongAnswer("2 and not 3")

    with pytest.raises(WrongAnswer, match="2 and not 3"):
        interleave([Timed("a", clock.work("a")), Timed("b", clock.work("b"), check=wrong)], rounds=3)
    assert clock.log == []


def test_a_budget_ends_the_rounds_but_not_the_first_ones() -> None:
    def rounds_with(budget_s: float) -> int:
        clock = Clock()
        arms = [Timed("a", clock.work("a", 4.0)), Timed("b", clock.work("b", 6.0))]
        return len(interleave(arms, rounds=10, clock=clock, budget_s=budget_s, least=3)["a"])

    assert rounds_with(1000.0) == 10
    assert rounds_with(50.0) == 5  # 10 s a round
    assert rounds_with(59.0) == 5
    assert rounds_with(1.0) == 3


def test_a_slow_arm_may_sit_out_the_later_rounds() -> None:
    clock = Clock()
    taken = interleave(
        [Timed("a", clock.work("a")), Timed("b", clock.work("b"), most=2)], rounds=5, clock=clock
    )
    assert {name: len(samples) for name, samples in taken.items()} == {"a": 5, "b": 2}


def test_a_watch_is_told_of_every_timed_run_and_of_no_warm_up() -> None:
    clock = Clock()

    class Log(Watch):
        def begin(self, arm: Timed) -> None:
            clock.log.append(f"begin {arm.name}")

        def end(self, arm: Timed) -> None:
            clock.log.append(f"end {arm.name}")

    interleave([Timed("a", clock.work("a"))], rounds=1, warmups=1, clock=clock, watch=Log())
    assert clock.log == ["a", "begin a", "a", "end a"]


def test_two_arms_of_one_name_and_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="two arms"):
        interleave([Timed("a", print), Timed("a", print)], rounds=1)
    with pytest.raises(ValueError, match="at least one round"):
        interleave([Timed("a", print)], rounds=0)


def test_a_ratio_by_rounds_sees_through_a_machine_that_slows_down() -> None:
    drawn = random.Random(1)
    slowness = [1 + 0.2 * i for i in range(20)]
    b = [s * drawn.gauss(1.0, 0.01) for s in slowness]
    a = [1.5 * s * drawn.gauss(1.0, 0.01) for s in slowness]
    found = ratio(a, b)
    assert found.rounds == pytest.approx(1.5, rel=0.01)
    assert found.q1 < found.rounds < found.q3
    assert found.low <= found.medians <= found.high
    assert found.low == pytest.approx(1.5, rel=0.05) and found.high == pytest.approx(1.5, rel=0.05)
    assert found == ratio(a, b), "reproducible"


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    covered = 0
    for seed in range(60):
        drawn = random.Random(seed)
        a, b = ([median * drawn.lognormvariate(0, 0.1) for _ in range(15)] for median in (2.0, 1.0))
        found = ratio(a, b, seed=seed)
        covered += found.low <= 2.0 <= found.high
    assert covered >= 54  # of 60; a correct 95 % interval falls below that once in fifty times


def test_a_ratio_needs_pairs() -> None:
    for a, b in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="pairs"):
            ratio(a, b)


def test_the_fastest_is_the_one_with_the_shortest_run() -> None:
    clock = Clock()
    spans = iter([9.0, 1.0, 5.0, 3.0, 2.0, 3.0, 5.0, 3.0])  # the first of each warms up

    def jittery(name: str) -> Callable[[], None]:
        return lambda: clock.work(name, next(spans))()

    choices = {"a": jittery("a"), "b": jittery("b")}
    assert fastest(choices, trials=3, enough_s=100.0, clock=clock) == "a"


def test_slow_choices_have_one_trial() -> None:
    clock = Clock()
    choices = {"a": clock.work("a", 5.0), "b": clock.work("b", 4.0)}
    assert fastest(choices, trials=9, enough_s=3.0, clock=clock) == "b"
    assert clock.log == ["a", "b"] * 2
