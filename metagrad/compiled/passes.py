"""Passes of small perceptrons side by side, whose numbers have the same bits whatever lies beside them.

A library orders the sums of a product by the shapes at hand, and spends more on a few rows than their sums take. Here a
pass through all layers is one call, network by network, so that what lies between layers stays in cache; and every
number is one sum from the first term to the last, so that a row depends neither on other rows nor on other networks.
"""

from __future__ import annotations

from threading import get_ident

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, kernel
from metagrad.compiled.tiles import multiply, room_of

#: Numbers of a layer's matrix up to which a library's products are slower.
_SMALL = 128 * 128

#: Scratch by type and thread, as large as the largest pass so far needed.
_rooms: dict[tuple[torch.dtype, int], np.ndarray] = {}

Layer = tuple[Tensor, Tensor | None]


def compiled(x: Tensor, layers: list[Layer]) -> bool:
    """Whether passes through these layers, ``w [G, in, out]`` and ``b [G, 1, out]``, are computed here.

    It does not depend on the rows ``x``, however many there are.
    """
    if PURE_PYTHON or not x.is_cpu or any(w.shape[1] * w.shape[2] > _SMALL for w, _ in layers):
        return False
    return not (torch.is_grad_enabled() and any(w.requires_grad for w, _ in layers))


class Pass:
    """A pass of rows through layers, all but the last of which are rectified, and the ways back.

    Parameters
    ----------
    layers : list of (Tensor ``[G, in, out]``, Tensor ``[G, 1, out]`` or None)
        Matrices and biases, contiguous.
    x : Tensor ``[G, R, in]``
        What the first layer reads, contiguous.
    """

    def __init__(self, layers: list[Layer], x: Tensor) -> None:
        made = [x.new_empty(*x.shape[:2], w.shape[2]) for w, _ in layers]
        self.layers, self.inputs, self.out, self._size = layers, [x, *made[:-1]], made[-1], (len(layers), *x.shape[:2])
        # Of every layer its widths and the addresses, or 0, of matrix, bias, inputs and what else there is.
        rows: list[int] = []
        for (w, b), given, to in zip(layers, self.inputs, made, strict=True):
            rows += (w.shape[1], w.shape[2], w.data_ptr(), 0 if b is None else b.data_ptr())
            rows += (given.data_ptr(), to.data_ptr(), 0)
        self._table = np.array(rows).reshape(-1, 7)
        self._widest = max(y.shape[2] for y in (x, *made))

    def fill(self, first: int = 0, end: int | None = None) -> None:
        """Go forward through rows ``first`` to ``end``."""
        room, _ = _scratch(self._widest, 1, self.out.dtype)
        _forward(room, self._table, *self._size, first, (self._size[2] if end is None else end) - first)

    def gradients(self, d_out: Tensor) -> list[Layer]:
        """Derivatives of ``sum(d_out * out)`` by every layer's matrix and bias."""
        _check([(d_out, self.out)])
        d = d_out.contiguous()
        if not self._size[2]:  # sums of no term, which a tile does not know
            return [(torch.zeros_like(w), b if b is None else torch.zeros_like(b)) for w, b in self.layers]
        found = [(torch.empty_like(w), b if b is None else torch.empty_like(b)) for w, b in self.layers]
        _backward(*self._room(), self._beside(found), *self._size, d.data_ptr())
        return found

    def tangents(self, along: list[Layer]) -> Tensor:
        """Change of what comes out when the layers move along others, contiguous as they are."""
        _check([pair for one, two in zip(along, self.layers, strict=True) for pair in zip(one, two, strict=True)])
        out = torch.empty_like(self.out)
        if not self._size[2]:
            return out
        _tangent(*self._room(), self._beside(along), *self._size, out.data_ptr())
        return out

    def _beside(self, others: list[Layer]) -> np.ndarray:
        """The table with the addresses of others like the layers."""
        self._table[:, 5:] = [(w.data_ptr(), 0 if b is None else b.data_ptr()) for w, b in others]
        return self._table

    def _room(self) -> tuple[np.ndarray, int]:
        return _scratch(self._widest, self._size[2], self.out.dtype)


def _check(pairs: list[tuple[Tensor | None, Tensor | None]]) -> None:
    """Refuse what compiled code would read as something else."""
    for found, like in pairs:
        if (found is None) != (like is None):
            raise ValueError("a layer and its tangent must both have a bias, or neither")
        if found is not None and like is not None and (found.shape != like.shape or found.dtype != like.dtype):
            raise ValueError(f"{found.dtype} {list(found.shape)} stands for {like.dtype} {list(like.shape)}")


def _scratch(widest: int, rows: int, dtype: torch.dtype) -> tuple[np.ndarray, int]:
    """Scratch of this thread, and where in it three matrices of the widest layer's rows begin; a 1 ends it."""
    area = room_of(max(widest, rows))
    size, key = area + 3 * rows * widest + 1, (dtype, get_ident())
    if key not in _rooms or len(_rooms[key]) < size:
        _rooms[key] = torch.zeros(size, dtype=dtype).numpy()
    room = _rooms[key][:size]
    room[-1] = 1
    return room, area


# ---------------------------------------------------------------------- compiled


@kernel
def _forward(room, table, layers, groups, every, first, m):
    size = room.itemsize
    for g in range(groups):
        rows = (g * every + first) * size
        for i in range(layers):
            depth, n, w, b, x, y, _ = table[i]
            floor = 0.0 if i < layers - 1 else -np.inf
            bias = b + g * n * size if b else 0
            x, y, w = x + rows * depth, y + rows * n, w + g * depth * n * size
            multiply(room, m, n, depth, x, depth, 1, w, n, 1, bias, 0, floor, y, 0, 0)


@kernel
def _backward(room, area, table, layers, groups, m, d_out):
    size, widest = room.itemsize, (len(room) - area) // (3 * m)
    spare, other = room.ctypes.data + area * size, room.ctypes.data + (area + m * widest) * size
    for g in range(groups):
        d = d_out + g * m * table[layers - 1, 1] * size
        for i in range(layers - 1, -1, -1):
            depth, n, w, _, x, dw, db = table[i]
            x += g * m * depth * size
            db = db + g * n * size if db else 0
            multiply(room, depth, n, m, x, 1, depth, d, n, 1, 0, 0, -np.inf, dw + g * depth * n * size, 0, db)
            if i:
                multiply(room, m, depth, n, d, n, 1, w + g * depth * n * size, 1, n, 0, 0, -np.inf, spare, x, 0)
                d, spare, other = spare, other, spare


@kernel
def _tangent(room, area, table, layers, groups, m, out):
    size, widest = room.itemsize, (len(room) - area) // (3 * m)
    own, spare = room.ctypes.data + area * size, room.ctypes.data + (area + m * widest) * size
    other = room.ctypes.data + (area + 2 * m * widest) * size
    for g in range(groups):
        moved = own
        for i in range(layers):
            depth, n, w, _, x, dw, db = table[i]
            x, dw, w = x + g * m * depth * size, dw + g * depth * n * size, w + g * depth * n * size
            db, to, gate = db + g * n * size if db else 0, out + g * m * n * size, 0
            if i < layers - 1:
                to, gate = spare, table[i + 1, 4] + g * m * n * size
            if i == 0:
                multiply(room, m, n, depth, x, depth, 1, dw, n, 1, db, 0, -np.inf, to, gate, 0)
            else:
                multiply(room, m, n, depth, x, depth, 1, dw, n, 1, db, 0, -np.inf, own, 0, 0)
                multiply(room, m, n, depth, moved, depth, 1, w, n, 1, own, n, -np.inf, to, gate, 0)
            moved, spare, other = to, other, spare
