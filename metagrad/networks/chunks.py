"""Rows in chunks whose activations stay in cache, several of them at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from metagrad.optim import Params

_CHUNK = 800  # rows whose activations fit the second-level cache by and large
_LEAST = 128  # rows that are worth handing to a thread

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


def split_rows(picture: Tensor, vector: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows of both in chunks, at least two where there are enough of them."""
    if len(vector) <= _LEAST:
        return [(picture, vector)]
    size = min(_CHUNK, max(_LEAST, -(-len(vector) // 2)))
    return list(zip(picture.split(size), vector.split(size), strict=True))


def joined(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after the other; no copy where all but one are empty."""
    filled = [x for x in parts if x.numel()]
    return filled[0] if len(filled) == 1 else torch.cat(list(parts), axis)
