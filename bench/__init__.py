"""Measurements: kernels, decode, sensors, and the experiments on energy per token."""
