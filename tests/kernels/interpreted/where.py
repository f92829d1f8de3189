"""Where the tests of Triton kernels run, and how exactly: interpreted on a CPU, or on a CUDA device."""

import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
ON_DEVICE = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda", 0) if ON_DEVICE else torch.device("cpu")


def bound(interpreted: float, *, exact: bool = False) -> float:
    """Error over the largest number that is allowed: what the interpreter needs, which computes in fp32.

    On a device operands of products are rounded to bf16, fp16's to tf32: eight half units in the last place
    of bf16. With `exact` they are not (fp32), and sums of some hundred products run in another order.
    """
    if not ON_DEVICE:
        return interpreted
    return max(interpreted, 2.0**-13) if exact else 8 * 2.0**-9
