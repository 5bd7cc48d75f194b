"""Slow, plain references written from the rules, not from the kernels."""
