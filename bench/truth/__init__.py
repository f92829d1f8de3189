"""Joules of single requests beside the same work repeated for seconds."""
