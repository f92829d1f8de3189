"""Muon: that its steps are orthogonal, of the stated size, and the same in a batch as one by one."""

import pytest
import torch

from bench.train.muon import Muon, orthogonal

SHAPES = [(128, 352), (352, 128), (64, 128), (128, 128)]


def matrices(shape, count=3, *, seed=0, smallest=0.02):
    """(count, m, n) fp32 with singular values from 1 down to `smallest`, and their singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(shape)
    left, right = (
        torch.linalg.qr(torch.randn(count, size, rank, generator=generator, dtype=torch.float64))[0]
        for size in shape
    )
    values = torch.logspace(0, torch.tensor(smallest).log10().item(), rank, dtype=torch.float64)
    return (left * values @ right.mT).float(), left.float(), right.float()


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_end_near_one_and_singular_vectors_stay(shape):
    given, left, right = matrices(shape)
    found = orthogonal(given * 1e3)  # the scale of a gradient has no say
    assert found.shape == given.shape and found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    turned = left.mT @ found @ right  # (3, rank, rank), diagonal where no vector was turned
    off = turned - torch.diag_embed(turned.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-3  # fp32 through fifteen products
    # The bounds can tell: scaling alone leaves the smallest direction fifty times below the largest.
    scaled = torch.linalg.svdvals(given / given.norm(dim=(-2, -1), keepdim=True))
    assert scaled.min() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_made_orthogonal_as_one_by_one(shape):
    given = matrices(shape)[0] * torch.tensor([1.0, 1e-4, 1e4])[:, None, None]
    alone = torch.stack([orthogonal(one) for one in given])
    # Other kernels for batches: fp32 sums in another order.
    assert (orthogonal(given) - alone).abs().max() < 1e-5


def test_a_matrix_without_a_gradient_to_speak_of_stays_finite():
    assert torch.equal(orthogonal(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def stepped(make, given, gradients):
    """The parameters after a step for each gradient, and what they were."""
    parameters = [torch.nn.Parameter(one.clone()) for one in given]
    optimizer = make(parameters)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def muon(weight_decay=0.0, rate=0.01):
    def make(parameters):
        optimizer = Muon(parameters, weight_decay)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return optimizer

    return make


def of_two_shapes(seed):
    """Three matrices, two of one shape."""
    return [
        matrices(shape, 1, seed=seed + number)[0][0]
        for number, shape in enumerate([(32, 64), (96, 32), (32, 64)])
    ]


def test_matrices_step_together_as_each_alone():
    given, gradients = of_two_shapes(0), [of_two_shapes(10), of_two_shapes(20)]
    together = stepped(muon(0.1), given, gradients)
    for index, found in enumerate(together):
        (alone,) = stepped(
            muon(0.1), given[index : index + 1], [step[index : index + 1] for step in gradients]
        )
        assert (found - alone).abs().max() < 1e-6


def test_a_step_is_as_large_as_one_of_adamw():
    # A fifth of the learning rate in root mean square, that of AdamW in training (Liu et al. 2025).
    given = of_two_shapes(0)
    for before, after in zip(given, stepped(muon(), given, [of_two_shapes(10)]), strict=True):
        size = (after - before).square().mean().sqrt().item()
        assert 0.7 * 0.002 < size < 1.2 * 0.002


def test_several_steps_are_those_of_torch():
    given, gradients = of_two_shapes(0), [of_two_shapes(seed) for seed in (10, 20, 30)]

    def theirs(parameters):
        return torch.optim.Muon(
            parameters, lr=0.01, weight_decay=1.0, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )

    wanted = stepped(theirs, given, gradients)

    def apart(found):
        """The largest distance of a matrix' change from torch's, as a share of that."""
        return max(
            ((one - other).norm() / (other - before).norm()).item()
            for one, other, before in zip(found, wanted, given, strict=True)
        )

    # torch iterates in bf16, of 8 bits: each of the fifteen products rounds to parts in 256.
    assert apart(stepped(muon(1.0), given, gradients)) < 0.03
    # What is told apart: no decay, and a momentum that begins anew with every step.
    assert apart(stepped(muon(0.0), given, gradients)) > 0.1
    forgetful = given
    for step in gradients:
        forgetful = stepped(muon(1.0), forgetful, [step])
    assert apart(forgetful) > 0.1
