"""Convolution of pictures of few channels, as colours are, in compiled code: products with bands in registers.

A band is the matrix that takes neighbouring cells of a row to as many cells of the convolved picture as two vectors
hold; it is the same at every place. So many pictures as a tile has rows are worked on at a time, in the first cache.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, inline, kernel
from metagrad.compiled import passes
from metagrad.compiled.tiles import BYTES, ROWS, numbers_at, wide_tile

#: Channels up to which few cells of a picture are 0.
_COLOURS = 4
_CHUNK = 200  # rows whose convolved pictures the dense layer finds in the second-level cache


def fits(pictures: Tensor) -> bool:
    """Whether these pictures ``[B, h, w, C]`` are convolved here."""
    plain = pictures.is_cpu and not PURE_PYTHON
    return plain and pictures.dtype == torch.uint8 and pictures.shape[3] <= _COLOURS


class Trunk:
    """Pictures on their way through a rectified convolution and dense layers; rows do not depend on one another.

    Parameters
    ----------
    weight, bias : Tensor ``[f, C, k, k]``, ``[f]``
        Of the convolution.
    dense : list of (Tensor ``[1, in, out]``, Tensor ``[1, 1, out]``)
        The other layers; see :class:`metagrad.compiled.passes.Pass`.
    rows, height, width : int
        How many pictures there will be, and their size.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, dense: list[passes.Layer], rows: int, height: int, width: int
    ) -> None:
        self._ready, self._filled = _ready(weight, bias, height, width), 0
        self._maps = weight.new_empty(rows, height, width, len(weight))
        self._dense = passes.Pass(dense, self._maps.flatten(1)[None])

    def add(self, pictures: Tensor) -> Tensor:
        """Take in the next rows; returns their outputs."""
        start, given, maps = self._filled, pictures.contiguous().numpy(), self._maps.numpy()
        self._filled += len(given)
        for first in range(start, self._filled, _CHUNK):
            end = min(first + _CHUNK, self._filled)
            _convolve(given[first - start : end - start], maps[first:end], 0.0, *self._ready)
            self._dense.fill(first, end)
        return self._dense.out[0, start : self._filled]

    @property
    def layers(self) -> list[Tensor]:
        """What every layer gives for the rows that came, the convolution first."""
        return [x[: self._filled] for x in (self._maps, *(x[0] for x in (*self._dense.inputs[1:], self._dense.out)))]


def convolve(pictures: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution ``[B, h, w, f]`` of bytes ``[B, h, w, C]`` with zero padding; nothing is differentiated.

    The weight is ``[f, C, k, k]``, k odd.
    """
    out = weight.new_empty(*pictures.shape[:3], len(weight))
    ready = _ready(weight, weight.new_zeros(len(weight)) if bias is None else bias, *pictures.shape[1:3])
    _convolve(pictures.contiguous().numpy(), out.numpy(), -np.inf, *ready)
    return out


def kernel_gradient(pictures: Tensor, d_out: Tensor, k: int) -> Tensor:
    """Derivative of ``sum(d_out * convolve(pictures, weight))`` with respect to the weight, ``[f, C, k, k]``."""
    d, (_, height, width, channels) = d_out.detach().contiguous().numpy(), pictures.shape
    bands = _bands(height, width, channels, d.shape[3], k, d.dtype)
    grad = np.zeros((d.shape[3], channels, k, k), d.dtype)
    _accumulate(pictures.contiguous().numpy(), d, bands, bands.room(d.dtype), grad)
    return torch.from_numpy(grad)


class _Bands(NamedTuple):
    """How pictures lie in scratch: pictures with their margins, then bands, then convolved pictures; in numbers."""

    cells: int  # of a row that a band makes
    columns: int  # of a band: their filters, and zeros that fill vectors
    depth: int  # of a band for one row of the kernel
    height: int  # rows of a picture with its margins, and of a convolved one, the last of which stay 0
    row: int
    wide: int  # row of a convolved picture
    bands: int  # where they begin
    biases: int
    out: int
    end: int

    def room(self, dtype: np.dtype) -> np.ndarray:
        """Scratch, all 0."""
        return np.zeros(self.end, dtype)


def _ready(weight: Tensor, bias: Tensor, height: int, width: int) -> tuple[np.ndarray, np.ndarray, _Bands, np.ndarray]:
    """What convolutions with a weight need."""
    w, b = (x.detach().contiguous().numpy() for x in (weight, bias))
    bands = _bands(height, width, w.shape[1], len(w), w.shape[2], w.dtype)
    return w, b, bands, bands.room(w.dtype)


@cache
def _bands(height: int, width: int, channels: int, filters: int, k: int, dtype: np.dtype) -> _Bands:
    tile = 2 * BYTES // dtype.itemsize
    cells = min(width, max(1, tile // filters))
    columns = -(-cells * filters // tile) * tile
    depth, past = (cells + k - 1) * channels, -(-width // cells) * cells
    row, wide, rows = (past + k - 1) * channels, (past - cells) * filters + columns, height + k - 1
    bands = ROWS * rows * row
    biases = bands + k * (depth + ROWS) * columns  # the last rows of a tile may lie beyond a band
    out = biases + columns
    return _Bands(cells, columns, depth, rows, row, wide, bands, biases, out, out + ROWS * rows * wide)


# ---------------------------------------------------------------------- compiled


@inline
def _show(pictures, first, count, margin, bands, room):
    """Lay out ``count`` pictures between margins."""
    height, width = pictures.shape[1], pictures.shape[2] * pictures.shape[3]
    for r in range(count):
        for y in range(height):
            place = (r * bands.height + y + margin) * bands.row + margin * pictures.shape[3]
            source = numbers_at(pictures.ctypes.data + ((first + r) * height + y) * width, pictures)
            target = numbers_at(room.ctypes.data + place * room.itemsize, room)
            for i in range(width):
                target[i] = source[i]


@inline
def _copy(maps, first, count, bands, room, out):
    """Copy convolved pictures from scratch, or to it."""
    height, width = maps.shape[1], maps.shape[2] * maps.shape[3]
    for r in range(count):
        for y in range(height):
            whole = numbers_at(maps.ctypes.data + ((first + r) * height + y) * width * room.itemsize, room)
            place = bands.out + (r * bands.height + y) * bands.wide
            own = numbers_at(room.ctypes.data + place * room.itemsize, room)
            if out:
                for i in range(width):
                    whole[i] = own[i]
            else:
                for i in range(width):
                    own[i] = whole[i]


@kernel
def _convolve(pictures, out, floor, weight, bias, bands, room):
    filters, channels, k, _ = weight.shape
    for x in range(bands.cells):
        for f in range(filters):
            room[bands.biases + x * filters + f] = bias[f]
            for e in range(k):
                for d in range(k):
                    for c in range(channels):
                        line = e * bands.depth + (x + d) * channels + c
                        room[bands.bands + line * bands.columns + x * filters + f] = weight[f, c, e, d]
    tile, apart = 2 * BYTES // room.itemsize, bands.height * bands.wide
    for first in range(0, len(pictures), ROWS):
        count = min(ROWS, len(pictures) - first)
        _show(pictures, first, count, k // 2, bands, room)
        for y in range(out.shape[1]):
            for x in range(0, out.shape[2], bands.cells):
                for j in range(0, bands.columns, tile):
                    to = bands.out + y * bands.wide + x * filters + j
                    for e in range(k):
                        wide_tile(
                            room, (y + e) * bands.row + x * channels, bands.height * bands.row, 1, room,
                            bands.bands + e * bands.depth * bands.columns + j, bands.columns, bands.depth, room,
                            to if e else bands.biases + j, apart if e else 0, floor if e == k - 1 else -np.inf,
                            room, to, apart, room, 0, tile // 2,
                        )  # fmt: skip
        _copy(out, first, count, bands, room, True)


@kernel
def _accumulate(pictures, d_out, bands, room, grad):
    filters, channels, k, _ = grad.shape
    tile, lines = 2 * BYTES // room.itemsize, bands.depth + ROWS
    for first in range(0, len(pictures), ROWS):
        count = min(ROWS, len(pictures) - first)
        _show(pictures, first, count, k // 2, bands, room)
        _copy(d_out, first, count, bands, room, False)
        for e in range(k):
            for x in range(0, d_out.shape[2], bands.cells):
                for j in range(0, bands.columns, tile):
                    for i in range(0, bands.depth, ROWS):
                        to = bands.bands + (e * lines + i) * bands.columns + j
                        wide_tile(
                            room, e * bands.row + x * channels + i, 1, bands.row, room, bands.out + x * filters + j,
                            bands.wide, count * bands.height - k + 1, room, to, bands.columns, -np.inf, room, to,
                            bands.columns, room, 0, tile // 2,
                        )  # fmt: skip
    for x in range(bands.cells):
        for f in range(filters):
            for e in range(k):
                for d in range(k):
                    for c in range(channels):
                        line = e * lines + (x + d) * channels + c
                        grad[f, c, e, d] += room[bands.bands + line * bands.columns + x * filters + f]
