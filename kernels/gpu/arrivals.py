"""Which program of a launch is the last to come: it puts the parts together, and none of them spins."""

import triton
import triton.language as tl


@triton.jit
def last_of(counter, count):
    """Whether this program is the last of `count` to come; what all wrote before is then visible to it.

    The last one puts the counter back to zero: a graph is replayed without clearing it.
    """
    tl.debug_barrier()  # the release below is one thread's, and what it releases all threads wrote
    last = tl.atomic_add(counter, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(counter, 0)
    return last
