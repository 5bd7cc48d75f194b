"""Rows in chunks whose activations stay in cache, several of them at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from metagrad.optim import Params

A = TypeVar("A")
B = TypeVar("B")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(threads, os.cpu_count() or 1))


def each(f: Callable[[A], B], chunks: Sequence[A], threads: int) -> list[B]:
    """``f`` of every chunk, without an autograd graph, on so many threads."""

    def quietly(chunk: A) -> B:
        with torch.no_grad():
            return f(chunk)

    if threads == 1 or len(chunks) == 1:
        return [quietly(chunk) for chunk in chunks]
    return list(_pool(threads).map(quietly, chunks))


def summed(parts: Sequence[Params], names: Sequence[str]) -> Params:
    """Sum of gradients, in order, so that it does not depend on the number of threads; changes the first."""
    total = [parts[0][name] for name in names]
    for part in parts[1:]:
        torch._foreach_add_(total, [part[name] for name in names])
    return dict(zip(names, total, strict=True))
