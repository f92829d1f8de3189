"""Routers compared on outcomes: what each arm of a question gave, replayed under many rules."""
