"""Stored outputs of real models, replayed: what votes and token budgets would have given."""
