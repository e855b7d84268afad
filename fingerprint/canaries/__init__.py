"""Keyed behavioural canaries: plan, embed, evaluate, size."""
