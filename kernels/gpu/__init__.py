"""The stages in Triton, for CUDA devices of compute capability 8.0 and later."""
