"""Every Triton kernel compiled for a GPU that is not here, and what its machine code shows.

`recording` notes what launches would have been made, `compile_all` compiles each variant, `gates` judges.
"""
