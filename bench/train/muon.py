"""Muon: steps of equal size in every direction of a weight matrix.

The momentum of a matrix is replaced by the nearest matrix with orthonormal rows, by five Newton-Schulz
iterations (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; coefficients from
there), and scaled to the size of an AdamW step (Liu et al. 2025, "Muon is scalable for LLM training").
torch.optim.Muon iterates in bfloat16, one matrix after the other: 617 ms a step for model S on a CPU without
bf16 products, where this takes 30.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """`params`: matrices (out, in). `weight_decay`: decoupled, as in AdamW."""

    def __init__(self, params: Iterable[torch.Tensor], weight_decay: float) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all matrices, those of one shape together; each must have a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for param in group["params"]:
                alike[param.shape].append(param)
            for shape, params in alike.items():
                update = orthogonal(torch.stack([self._momentum(param) for param in params]))
                scale = 0.2 * max(shape) ** 0.5
                for param, part in zip(params, update, strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(part, alpha=-group["lr"] * scale)

    def _momentum(self, param: torch.Tensor) -> torch.Tensor:
        """Nesterov's: the gradient once more on top of the running mean that holds it already."""
        assert param.grad is not None
        state = self.state[param]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(param)
        mean: torch.Tensor = state["mean"].lerp_(param.grad, 1 - MOMENTUM)
        return torch.lerp(param.grad, mean, MOMENTUM)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Of each matrix (B, m, n) fp32 roughly the nearest one with orthonormal rows or columns.

    Singular values end within 0.7 and 1.2: closer ones bring nothing.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
