"""A planted curve is found again, its bands hold what they promise, and what cannot be told is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.curve_requests import Sampler, Size
from engine.energy import curve_fit
from engine.energy.curve_fit import Fitted, Sample, dealt, fit_curves
from engine.errors import TokenjouleError
from tests import curves
from tests.curves import PLANTED_J, PricedModel, noisy_samples, preparing, random_size, simulated_device

NOISE = 0.02
RUNS, REQUESTS = 12, 400  # a quarter of them held out


@pytest.fixture(scope="module")
def fits() -> list[Fitted]:
    """Of runs of 400 requests with an error of 2 % each: 1,200 held out in all."""
    return [
        fit_curves(noisy_samples(np.random.default_rng(seed), REQUESTS, noise=NOISE)) for seed in range(RUNS)
    ]


def mean(fits: list[Fitted], name: str) -> float:
    return float(np.mean([getattr(fit.tested, name) for fit in fits]))


def test_held_out_requests_are_predicted_to_two_per_cent(fits: list[Fitted]) -> None:
    assert sum(fit.tested.held_out for fit in fits) >= 1000
    for quantity in ("energy", "seconds"):
        # An error of 2 % alone has a mean of 1.6 %: the curve may add next to nothing.
        assert mean(fits, f"{quantity}_mape") <= 0.017


def test_bands_hold_95_per_cent_of_what_they_have_not_seen(fits: list[Fitted]) -> None:
    for quantity in ("energy", "seconds"):
        assert 0.92 <= mean(fits, f"{quantity}_coverage") <= 0.98


def test_the_planted_terms_lie_in_their_intervals(fits: list[Fitted]) -> None:
    inside = [
        abs(found - planted) <= 1.96 * fit.energy.covariance[i][i] ** 0.5
        for fit in fits
        for i, (found, planted) in enumerate(zip(fit.energy.coefficients, PLANTED_J, strict=True))
        if found > 0  # at its bound a term has no interval to speak of
    ]
    assert len(inside) > 60
    assert np.mean(inside) >= 0.85


@pytest.mark.parametrize(
    "spread",
    [
        lambda rng: rng.standard_t(3),  # heavy tails
        lambda rng: rng.exponential() * 2 - 1,  # one-sided
        lambda rng: rng.standard_normal() * rng.choice([0.3, 3.0]),  # two kinds of requests
    ],
)
def test_bands_hold_whatever_the_errors_look_like(
    spread: Callable[[np.random.Generator], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve_fit, "_RESAMPLES", 2)  # nobody asks for intervals of terms here
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        samples = [
            replace(sample, energy_j=sample.energy_j * float(np.exp(NOISE * spread(rng))))
            for sample in noisy_samples(rng, 300, noise=0.0)
        ]
        found.append(fit_curves(samples))
    assert 0.92 <= mean(found, "energy_coverage") <= 0.98


def test_a_cost_that_the_form_lacks_shows_in_what_is_held_out() -> None:
    """A cubic in the prompt: errors far beyond the noise."""
    rng = np.random.default_rng(0)
    samples = noisy_samples(rng, 400, noise=0.002, extra_j=lambda size: 2e-7 * size.prompt_tokens**3)
    assert fit_curves(noisy_samples(rng, 400, noise=0.002)).tested.energy_mape < 0.003
    assert fit_curves(samples).tested.energy_mape > 0.02


def test_a_wrong_term_would_be_caught() -> None:
    """Cached positions counted for one row alone: the held-out error says so."""

    class Wrong(Sample):
        @property
        def features(self) -> tuple[float, ...]:
            *kept, positions = super().features
            return (*kept, positions / self.rows)

    rng = np.random.default_rng(3)
    samples = noisy_samples(rng, 400, noise=0.002)
    wrong = [Wrong(s.prompt_tokens, s.new_tokens, s.rows, s.energy_j, s.elapsed_s) for s in samples]
    assert fit_curves(wrong).tested.energy_mape > 5 * fit_curves(samples).tested.energy_mape


def test_a_band_half_as_wide_would_be_caught() -> None:
    rng = np.random.default_rng(4)
    samples = noisy_samples(rng, 400, noise=NOISE)
    fit = fit_curves(samples)
    narrow = replace(fit.energy, factor=fit.energy.factor / 2)
    assert curve_fit.held_out(narrow, dealt(samples)["held out"], "energy_j")[1] < 0.92


def simulated(seed: int, requests: int, *, prompt: int, new: int) -> list[Sample]:
    """Requests through the real decode loop, ledger and sampler, on a device whose time is a variable."""
    rng = np.random.default_rng(seed)
    device = simulated_device(period_s=0.02)
    prepare = preparing(device, PricedModel(device, rng, noise=0.01))
    sampler = Sampler(device.poller, prepare, Size(8, 8, 1))
    return [sampler.take(random_size(rng, prompt=prompt, new=new)).sample for _ in range(requests)]


def test_a_simulated_sensor_gives_the_curve_of_its_device() -> None:
    fit = fit_curves(simulated(0, 80, prompt=400, new=30))
    assert fit.tested.energy_mape <= 0.02
    assert fit.energy.request(Sample(300, 25, 4, 0, 0).features)[0] == pytest.approx(
        curves.curve().predict(300, 25, 4)[0], rel=0.02
    )


@pytest.mark.slow
def test_a_thousand_simulated_requests_keep_the_promises() -> None:
    """The issue's figures: held out at most 2 % off, 92 to 98 % inside, on more than 1,000 held out."""
    fits = [fit_curves(simulated(seed, 400, prompt=250, new=25)) for seed in range(10)]
    assert sum(fit.tested.held_out for fit in fits) >= 1000
    assert mean(fits, "energy_mape") <= 0.02
    assert 0.92 <= mean(fits, "energy_coverage") <= 0.98


def test_too_few_requests_are_refused_with_their_number() -> None:
    samples = noisy_samples(np.random.default_rng(0), 75, noise=NOISE)
    with pytest.raises(TokenjouleError, match="75 requests are too few"):
        fit_curves(samples)
    more = noisy_samples(np.random.default_rng(1), 4, noise=NOISE)
    assert fit_curves([*samples, *more]).tested.calibrated == 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt_tokens": 100}, "3 different prompt lengths or more, the requests have 1"),
        ({"new_tokens": 1}, "3 different numbers of new tokens or more, the requests have 1"),
        ({"rows": 1}, "2 different numbers of rows or more, the requests have 1"),
        ({"energy_j": 0.0}, "saw no energy"),
    ],
)
def test_designs_that_cannot_tell_the_terms_apart_are_refused(change: dict[str, float], said: str) -> None:
    samples = noisy_samples(np.random.default_rng(0), 100, noise=NOISE)
    with pytest.raises(TokenjouleError, match=said):
        fit_curves([replace(sample, **change) for sample in samples])


def test_sizes_that_move_together_are_refused() -> None:
    """Enough of each, but rows, prompts and new tokens always the same four times over."""
    rng = np.random.default_rng(0)
    four = [(10, 2, 1), (20, 4, 2), (40, 9, 4), (80, 20, 8)]
    samples = [
        replace(sample, prompt_tokens=prompt, new_tokens=new, rows=rows)
        for sample, (prompt, new, rows) in zip(noisy_samples(rng, 140, noise=NOISE), four * 35, strict=True)
    ]
    shuffled = [samples[i] for i in rng.permutation(len(samples))]
    with pytest.raises(TokenjouleError, match="cannot be told apart"):
        fit_curves(shuffled)
