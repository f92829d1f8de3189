"""Decode on CPUs in numba: weights stream once, as they are stored or packed; fp32 or whole numbers inside.

`backend.py` is the door; `forward.py` is all layers in one call, one file per stage. `product.py` is what
stages ask of a matrix: `gemv.py` for bf16 and fp32, `packed.py` for int8 and int4. `weights.py` and
`places.py` say where things lie, `crew.py` is the threads, `unpack.py` what the library gets to see,
`target.py` what numba is asked for.
"""
