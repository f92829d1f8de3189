"""Operations: what each one computes, costs, and how it runs. Knows tensors, never models.

No `__version__` here, ever: a PyPI package of the same name exists, and transformers looks for it.
"""
