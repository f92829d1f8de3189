"""Reports and pictures of the four figures from records of known curves: what they conclude and admit."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.experiments import fig1, fig2, fig3, fig4, picture
from bench.record import Record
from tests.bench.experiments import sweeps

NEW = (1, 2, 4, 8, 16, 32, 64, 128)


def windows(value: float, seed: int, scatter: float = 0.01) -> list[float | None]:
    rng = random.Random(seed)
    return [value * (1 + rng.gauss(0, scatter)) for _ in range(4)]


def sweep(
    model: str, energy: Callable[[int, int], float], prompts: tuple[int, ...] = (64, 512)
) -> list[Record]:
    """A grid of figure 3."""
    return [
        sweeps.record("fig3", model, n, m, windows(energy(n, m), 1000 * n + m + len(model)))
        for n in prompts
        for m in NEW
    ]


def straight(n: int, m: int) -> float:
    return 0.01 * n + 0.4 * m


def test_a_straight_energy_is_called_straight_although_joules_per_token_bend() -> None:
    text, found = fig3.report(sweep("preset:a", straight))
    curve = found["curves"]["a, 64 prompt tokens"]  # type: ignore[index]
    assert curve["energy"]["bent"] is False
    assert abs(curve["energy"]["bend_at_last"]) < 0.1
    per_token = curve["per_token"]
    assert per_token["amortisation"]["relative_rms"] < 0.02 < per_token["parabola"]["relative_rms"]
    assert "| a | 64 |" in text


def test_a_bent_energy_is_called_bent() -> None:
    _, found = fig3.report(sweep("preset:a", lambda n, m: straight(n, m) + 0.004 * m * m))
    energy = found["curves"]["a, 64 prompt tokens"]["energy"]  # type: ignore[index]
    assert energy["bent"] is True and energy["bend_at_last"] > 0.3
    assert energy["parabola"]["coefficients"]["x²"] == pytest.approx(0.004, rel=0.2)


def test_wilkins_coefficients_are_found_and_refused_for_a_single_prompt_length() -> None:
    _, found = fig3.report(sweep("preset:a", lambda n, m: 0.01 * n + 0.4 * m + 0.0005 * n * m))
    fit = found["wilkins"]["a"]["coefficients"]  # type: ignore[index]
    assert fit == pytest.approx({"α0": 0.01, "α1": 0.4, "α2": 0.0005}, rel=0.1)
    text, found = fig3.report(sweep("preset:a", straight, (64,)))
    assert "not identifiable: two prompt lengths" in text
    assert "reason" in found["wilkins"]["a"]  # type: ignore[index]


def test_one_shape_is_not_rejected_and_its_amplitude_is_told() -> None:
    records = sweep("preset:a", straight) + sweep("preset:bb", lambda n, m: 3 * straight(n, m))
    text, found = fig3.report(records)
    shape = found["common_shape"]["64"]  # type: ignore[index]
    assert shape["p"] > 0.01 and shape["largest_deviation"] < 0.03
    assert shape["amplitudes"] == pytest.approx([1, 3], rel=0.03)
    assert "Same shape, different amplitude, 64 prompt tokens: not rejected" in text


def test_another_shape_is_rejected() -> None:
    records = sweep("preset:a", straight) + sweep("preset:bb", lambda n, m: 0.05 * n + 0.1 * m)
    text, found = fig3.report(records)
    assert found["common_shape"]["64"]["p"] < 1e-6  # type: ignore[index]
    assert "rejected at 5 %: F(" in text and "not rejected" not in text
    alone, _ = fig3.report(sweep("preset:a", straight))
    assert "not tested" in alone


def test_figure_2_tells_line_and_bend_of_every_model() -> None:
    lengths = (16, 64, 256, 1024, 2048)
    records = [
        sweeps.record("fig2", model, n, 1, windows(energy(n), n))
        for model, energy in (
            ("preset:a", lambda n: 2 + 0.03 * n),
            ("preset:b", lambda n: 2 + 0.03 * n + 2e-5 * n * n),
        )
        for n in lengths
    ]
    text, found = fig2.report(records)
    assert found["models"]["a"]["bent"] is False and found["models"]["b"]["bent"] is True  # type: ignore[index]
    assert text.count("| a |") == 6 and " * (" in text


def test_figure_1_lists_the_cheapest_first_and_says_what_was_measured_of_what() -> None:
    dear = sweeps.record("fig1", "preset:dear", 100, 1, windows(8.0, 1))
    cheap = sweeps.record("fig1", "preset:cheap", 100, 1, windows(2.0, 2))
    blind = sweeps.record("fig1", "preset:blind", 100, 1, [None, None])
    text, found = fig1.report([dear, blind, cheap])
    names = [line.split(" | ")[0] for line in text.splitlines()[2:]]
    assert names == ["| cheap", "| dear", "| blind"]
    assert "not measured: the meter failed" in text
    assert "text of question.jsonl, turn 1" in text and "train (30% of a core)" in text
    models = found["models"]
    assert models["cheap"]["joules_per_token"] == pytest.approx(2 / 101, rel=0.02)  # type: ignore[index]
    assert models["blind"]["joules_per_prompt"] is None  # type: ignore[index]


def test_figure_4_correlates_what_was_measured_and_says_what_was_not() -> None:
    busy = [0.95, 0.9, 0.8, 0.7, 0.6]
    records = [
        sweeps.record(
            "fig4", f"preset:m{i}", 64, 64, windows(10.0 + i, i), gpu_share=share, gpu_memory_share=None
        )
        for i, share in enumerate(busy)
    ]
    text, found = fig4.report(records)
    rank = found["spearman"]["gpu_share"]  # type: ignore[index]
    assert (rank["n"], rank["rho"]) == (5, pytest.approx(-1.0))
    assert rank["p"] == pytest.approx(2 / 120)
    assert "GPU busy against J/token: Spearman's ρ = -1.00, n = 5, permutation p = 0.017" in text
    assert "GPU memory busy against J/token: not measured" in text
    assert found["spearman"]["cpu_share"]["rho"] is None  # type: ignore[index]
    assert "1500 MHz" in text


@pytest.mark.parametrize("figure", [fig1, fig2, fig3, fig4])
def test_pictures_without_joules_say_so_and_do_not_fail(figure: object, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    name = figure.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    records = [
        sweeps.record(name, model, n, m, [None, None])
        for model in ("preset:a", "preset:b")
        for n in (16, 64, 256)
        for m in (1, 2, 8)
    ]
    path = tmp_path / "figure.png"
    figure.draw(records, path)  # type: ignore[attr-defined]
    assert path.stat().st_size > 20_000


def test_a_picture_says_where_it_is_from_and_what_its_joules_are_worth() -> None:
    shape = sweeps.record("fig1", "preset:a", 64, 1, [1.0, 1.0])
    real = sweeps.record("fig1", "b", 64, 1, [1.0, 1.0], shape_only=False)
    assert picture.worth([shape]) == "joules measured by nvml; shape only: random weights"
    assert picture.worth([shape, real]) == "joules measured by nvml; shape only: random weights (a)"
    assert picture.worth([real]) == "joules measured by nvml"
    said = picture.provenance([shape], 60)
    for part in ("a chip, 2 cores", "backend gpu, bfloat16", "2026-01-02", "commit 012345678", "Batch 1"):
        assert part in said.replace("\n", " ")
    assert max(map(len, said.splitlines())) <= 60
