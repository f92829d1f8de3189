"""The filters are transformers' own, and a draw depends on nothing but its key."""

from collections import Counter

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from engine.errors import UsageError
from engine.sampler import Draw, Sampling, filtered, penalised, sample, sample_rows

LOGITS = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 3


def test_repetition_penalty_is_transformers() -> None:
    seen = [3, 17, 17, 250, 399]
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), LOGITS[None].clone())[0]
    assert torch.equal(penalised(LOGITS, seen, 1.3), expected)


@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        (Sampling(1.0, top_k=7), [theirs.TopKLogitsWarper(7)]),
        (Sampling(1.0, top_k=4000), [theirs.TopKLogitsWarper(4000)]),
        (Sampling(1.0, top_p=0.8), [theirs.TopPLogitsWarper(0.8)]),
        (Sampling(1.0, top_p=0.001), [theirs.TopPLogitsWarper(0.001)]),
        (Sampling(1.0, min_p=0.1), [theirs.MinPLogitsWarper(0.1)]),
        (
            Sampling(1.0, top_k=50, top_p=0.9, min_p=0.05),
            [theirs.TopKLogitsWarper(50), theirs.TopPLogitsWarper(0.9), theirs.MinPLogitsWarper(0.05)],
        ),
    ],
)
def test_filters_are_transformers(sampling: Sampling, warpers: list[theirs.LogitsProcessor]) -> None:
    expected = LOGITS[None].clone()
    for warper in warpers:
        expected = warper(torch.tensor([[0]]), expected)
    assert torch.equal(filtered(LOGITS, sampling), expected[0])


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])  # the nucleus: nearly all, half, a few of the vocabulary
@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_a_nucleus_of_any_size_is_transformers(spread: float, top_p: float) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(2)) * spread
    expected = theirs.TopPLogitsWarper(top_p)(torch.tensor([[0]]), logits[None].clone())[0]
    found = filtered(logits, Sampling(1.0, top_p=top_p))
    # their sum in fp32 may place the boundary one token off
    assert (found.isfinite() != expected.isfinite()).sum() <= 1
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    sampling = Sampling(temperature=0.7, seed=3)
    draws = 20_000
    counts = Counter(sample(logits, sampling, seen=(), row=0, position=p) for p in range(draws))
    expected = (logits / 0.7).softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        spread = 4 * (draws * probability * (1 - probability)) ** 0.5 + 1
        assert abs(counts[token] - draws * probability) < spread


def test_a_draw_depends_on_seed_row_and_position_alone() -> None:
    def draws(seed: int, row: int) -> list[int]:
        return [sample(LOGITS, Sampling(1.0, seed=seed), seen=(), row=row, position=p) for p in range(50)]

    assert draws(1, 0) == draws(1, 0)
    assert draws(1, 0) != draws(1, 1)
    assert draws(1, 0) != draws(2, 0)
    assert draws(1, 0)[1:] != draws(1, 0)[:-1]


@pytest.mark.parametrize("vocabulary", [5, 400, 33000])
def test_rows_sampled_together_choose_what_each_chooses_alone(vocabulary: int) -> None:
    logits = torch.randn(12, vocabulary, generator=torch.Generator().manual_seed(1)) * 3
    kinds = [
        Sampling(1.0, seed=4),
        Sampling(),
        Sampling(0.7, top_k=4, min_p=0.1, seed=4),
        Sampling(1.3, top_p=0.6, repetition_penalty=1.5, seed=9),
    ]
    for chosen in (kinds[:1], kinds):
        draws = [Draw(chosen[row % len(chosen)], (1, 3, row % 5), row, 40 + row) for row in range(12)]
        alone = [
            sample(logits[row], draw.sampling, seen=draw.seen, row=draw.row, position=draw.position)
            for row, draw in enumerate(draws)
        ]
        assert sample_rows(logits, draws) == alone


def test_a_rows_random_number_is_that_of_a_generator_made_for_its_key() -> None:
    logits = torch.zeros(1000)  # all alike: the token is the number's first three digits
    for seed, row, position in ((0, 0, 0), (2**63 - 1, 15, 131071), (7, 3, 100)):
        made = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, row, position])).random()
        found = sample(logits, Sampling(1.0, seed=seed), seen=(), row=row, position=position)
        assert found == int(made * 1000)


def test_excluded_tokens_are_never_drawn() -> None:
    sampling = Sampling(temperature=5.0, top_k=3)
    kept = set(LOGITS.topk(3).indices.tolist())
    drawn = {sample(LOGITS, sampling, seen=(), row=0, position=p) for p in range(500)}
    assert drawn == kept


def test_temperature_zero_is_greedy_after_the_penalty() -> None:
    logits = torch.tensor([1.0, 2.0, 1.9])
    assert sample(logits, Sampling(), seen=(1,), row=0, position=0) == 1
    assert sample(logits, Sampling(repetition_penalty=2.0), seen=(1,), row=0, position=0) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_an_answer_temperature_changes_the_temperature_alone() -> None:
    sampling = Sampling(0.7, top_k=5, seed=3, answer_temperature=0.0)
    assert sampling.of_answer.temperature == 0
    assert (sampling.of_answer.top_k, sampling.of_answer.seed) == (5, 3)
    assert Sampling(0.7).of_answer == Sampling(0.7)
    same = Sampling(0.7, answer_temperature=0.7)
    assert same.of_answer is same
    with pytest.raises(UsageError, match="answer temperature must be 0"):
        Sampling(answer_temperature=-1.0)
