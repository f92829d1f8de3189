"""Room for weights in large pages, where the system gives them.

Decoding sweeps all weights once per token, and every 4 KB of them want an address translated; in a virtual
machine that is two walks through page tables. Linux fills what is advised so with pages of 2 MB as it is first
written to, which also makes that quicker.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

_HUGE = 2 << 20
_ADVISE_HUGE = 14  # MADV_HUGEPAGE of Linux, on every architecture


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """torch.empty, in large pages where it is on a CPU and holds some of them."""
    tensor = torch.empty(tuple(shape), dtype=dtype, device=device)
    if device.type != "cpu" or tensor.nbytes < 2 * _HUGE:
        return tensor
    begin = -(-tensor.data_ptr() // _HUGE) * _HUGE
    end = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE
    try:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _ADVISE_HUGE)
    except (OSError, AttributeError):
        pass  # not Linux: pages stay as they are
    return tensor
