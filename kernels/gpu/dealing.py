"""How Triton deals the dimensions of a load out to lanes and warps, where its versions differ.

Dimensions are taken by their contiguity; of equal ones Triton 3.7 takes the last first, 3.6 the first. There
kernels state a contiguity that grows from dimension to dimension, for that order alone: loads are widened
along the last one only, of which it is true. Compiled without that, with Triton 3.6.0 for sm_90, every tile
of `kernels.gpu.gemv` passed through 64 to 128 KB of shared memory, and registers spilt in 30 of 47 variants.
"""

import triton
import triton.language as tl

FIRST_OF_EQUALS = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7))
