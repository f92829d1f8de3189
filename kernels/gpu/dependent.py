"""Programmatic dependent launch: a kernel starts while the one before it still runs.

A kernel first lets the next one start, then loads what no kernel ever writes (weights, gains, tables), then
waits for everything before it to be done and visible, and only then touches activations, cache and counters.
Every kernel of a chain must wait, also one that reads nothing new: the kernel after it relies on the wait of
the whole chain. Without DEPENDENT both functions are nothing: the interpreter knows no such launch, and
compute capability 8 has none. CUDA Programming Guide, "Programmatic Dependent Launch".
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr):
    """The next kernel of the stream may be launched; it sees nothing of this one before it waits."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(DEPENDENT: tl.constexpr):
    """Kernels before this one are done, their writes visible. Not inside a loop: triton #11905."""
    if DEPENDENT:
        gdc_wait()
