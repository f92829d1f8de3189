"""Decode stages for CPUs in numba: weights stream once, in the dtype they are stored in, fp32 inside.

`backend.py` is the door; one file per stage; `gemv.py` is the product they share, `crew.py` the threads,
`target.py` what numba is asked for and how numbers are widened and rounded.
"""
