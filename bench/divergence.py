"""How far one model's predictions are from another's, token by token, in nats. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.passages import Passage
from engine.errors import TokenjouleError


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over tokens with its standard error, which takes the tokens as independent."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        if len(values) < 2:
            raise ValueError("a standard error needs two tokens or more")
        return cls(values.mean().item(), values.std().item() / math.sqrt(len(values)))


@dataclass(frozen=True, slots=True)
class Divergence:
    """Per judged token, all (T,): `kl` KL(reference || arm) and both negative log-likelihoods in fp64 nats,
    `agrees` bool, whether the likeliest token is the same. `sizes`: tokens of each passage, in order.
    """

    kl: Tensor
    nll: Tensor
    reference_nll: Tensor
    agrees: Tensor
    sizes: tuple[int, ...]

    @property
    def top1(self) -> float:
        """Share of tokens on which the two agree."""
        return self.agrees.double().mean().item()


def divergence(
    expected: Sequence[Tensor], found: Sequence[Tensor], passages: Sequence[Passage]
) -> Divergence:
    """KL(p || q) = Σ p·(ln p - ln q) and -ln q(target).

    `expected`, `found`: for each passage (its targets, V) logits of reference and arm. Raises
    `TokenjouleError` for logits that are not finite.
    """
    parts = []
    for reference, arm, passage in zip(expected, found, passages, strict=True):
        if reference.shape != arm.shape or len(arm) != len(passage.targets):
            raise ValueError(f"logits are {list(arm.shape)}, expected {list(reference.shape)}")
        if not arm.isfinite().all():
            raise TokenjouleError("its logits are not finite")
        p, q = reference.double().log_softmax(-1), arm.double().log_softmax(-1)
        targets = torch.tensor(passage.targets).unsqueeze(1)
        parts.append(
            (
                (p.exp() * (p - q)).sum(-1),
                -q.gather(1, targets).squeeze(1),
                -p.gather(1, targets).squeeze(1),
                p.argmax(-1) == q.argmax(-1),
            )
        )
    kl, nll, reference_nll, agrees = (torch.cat(part) for part in zip(*parts, strict=True))
    return Divergence(kl, nll, reference_nll, agrees, tuple(len(passage.targets) for passage in passages))
