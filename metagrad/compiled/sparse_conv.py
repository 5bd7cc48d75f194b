"""Convolution of channel-last maps by their entries that are not 0, and its derivatives.

Maps of worlds are one-hot planes, about a tenth of whose entries are set, and half or more of what a ReLU lets through
is 0; on a processor, going through the rest takes half the time of a library's convolution or less where there are few
filters. An entry adds its channel's kernel, row by row, to a padded picture: cells of a row and their filters lie side
by side in memory, so each row of the kernel is one contiguous sum.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, inline, kernel

#: Numbers that are added at a time: rows of a kernel are padded to a multiple.
LANES = 32


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution ``[B, h, w, f]`` of maps ``[B, h, w, C]`` with zero padding; nothing is differentiated.

    Maps are bytes or of the weight's type; the weight is ``[f, C, k, k]``, k odd.
    """
    return _run(maps, weight, None if bias is None else bias.detach().numpy(), False)


def input_gradient(d_out: Tensor, weight: Tensor) -> Tensor:
    """Derivative of ``sum(d_out * convolve(maps, weight))`` with respect to the maps."""
    return _run(d_out, weight, None, True)


def kernel_gradient(maps: Tensor, d_out: Tensor, k: int) -> Tensor:
    """Derivative of ``sum(d_out * convolve(maps, weight))`` with respect to the weight, ``[f, C, k, k]``."""
    backward = maps.dtype != torch.uint8  # inner layers: fewer entries come back than went in
    a, b = (d_out, maps) if backward else (maps, d_out)
    entries, other = _by_row(a), _by_row(b)
    grad = np.empty((d_out.shape[3], maps.shape[3], k, k), other.dtype)
    _accumulate(entries, other, *_scratch(a, b.shape[3], k, other.dtype), backward, grad)
    return torch.from_numpy(grad)


def _run(maps: Tensor, weight: Tensor, bias: np.ndarray | None, backward: bool) -> Tensor:
    w = weight.detach().contiguous().numpy()
    filters, k = w.shape[1 if backward else 0], w.shape[2]
    every = np.zeros((maps.shape[2], filters), w.dtype)
    if bias is not None:
        every[:] = bias
    out = weight.new_empty(*maps.shape[:3], filters)
    _convolve(_by_row(maps), w, every.ravel(), *_scratch(maps, filters, k, w.dtype), backward, _by_row(out))
    return out


def _by_row(maps: Tensor) -> np.ndarray:
    return maps.detach().contiguous().flatten(2).numpy()


def _scratch(maps: Tensor, filters: int, k: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a kernel, each with zeros up to full lanes; one picture with its margin; places in a row of a map."""
    height, width, channels = maps.shape[1:]
    span = -(-k * filters // LANES) * LANES
    rows = np.zeros((channels, k, span), dtype)
    padded = np.zeros((height + k - 1, width * filters + span), dtype)
    return rows, padded, np.empty(width * channels, np.int64)


if PURE_PYTHON:

    def add_lanes(out, to, value, source, start):
        """Add ``value`` times lanes of ``source`` to those of ``out``; see the compiled form."""
        out.reshape(-1)[to : to + LANES] += value * source.reshape(-1)[start : start + LANES]

else:
    from llvmlite import ir

    @numba.extending.intrinsic
    def add_lanes(typingctx, out, to, value, source, start):
        """Add ``value`` times the lanes of ``source`` from ``start`` on to those of ``out`` from ``to`` on.

        Both are C-contiguous arrays, counted flat; nothing is checked. In a plain loop the compiler asks before every
        sum whether the arrays overlap.
        """

        def codegen(context, builder, signature, args):
            array = signature.args[0]
            number = context.get_value_type(array.dtype)
            lanes, index = ir.VectorType(number, LANES), ir.IntType(32)
            align, nothing = array.dtype.bitwidth // 8, ir.Constant(lanes, ir.Undefined)

            def pointer(i, j):
                data = context.make_array(signature.args[i])(context, builder, args[i]).data
                start = context.cast(builder, args[j], signature.args[j], numba.types.intp)
                return builder.bitcast(builder.gep(data, [start]), lanes.as_pointer())

            target, given = pointer(0, 1), pointer(3, 4)
            factor = context.cast(builder, args[2], signature.args[2], array.dtype)
            first = builder.insert_element(nothing, factor, ir.Constant(index, 0))
            factors = builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, LANES), [0] * LANES))
            fused = ("contract",)
            product = builder.fmul(factors, builder.load(given, align=align), flags=fused)
            builder.store(builder.fadd(builder.load(target, align=align), product, flags=fused), target, align=align)
            return context.get_dummy_value()

        return numba.types.none(out, to, value, source, start), codegen


@inline
def _visit(maps, b, rows, padded, filters, room, into_rows):
    """Of every entry that is not 0, add its kernel's rows to the picture, or its part of the picture to those rows."""
    channels, k, span = rows.shape
    width = padded.shape[1]
    for y in range(maps.shape[1]):
        # Places first, without a branch: one on the entries would go wrong too often.
        n = 0
        for i in range(maps.shape[2]):
            room[n] = i
            n += maps[b, y, i] != 0
        for m in range(n):
            x = room[m] // channels
            row = (room[m] - x * channels) * k * span
            place = y * width + x * filters
            for _ in range(k):
                for j in range(0, span, LANES):
                    if into_rows:
                        add_lanes(rows, row + j, maps[b, y, room[m]], padded, place + j)
                    else:
                        add_lanes(padded, place + j, maps[b, y, room[m]], rows, row + j)
                row += span
                place += width


@inline
def _tap(backward, c, e, x, f, k):
    """Where number ``x * filters + f`` of row ``e`` of an entry's channel ``c`` is in the weight."""
    if backward:
        return c, f, e, x
    return f, c, k - 1 - e, k - 1 - x


@kernel
def _convolve(maps, weight, bias, rows, padded, room, backward, out):
    channels, k, _ = rows.shape
    margin, filters = k // 2, out.shape[2] * channels // maps.shape[2]
    for c in range(channels):
        for e in range(k):
            for x in range(k):
                for f in range(filters):
                    rows[c, e, x * filters + f] = weight[_tap(backward, c, e, x, f, k)]
    for b in range(maps.shape[0]):
        for y in range(padded.shape[0]):
            for j in range(padded.shape[1]):
                padded[y, j] = 0
        _visit(maps, b, rows, padded, filters, room, False)
        for y in range(out.shape[1]):
            target, source = out[b, y], padded[y + margin, margin * filters :]
            for j in range(out.shape[2]):
                target[j] = source[j] + bias[j]


@kernel
def _accumulate(maps, other, rows, padded, room, backward, grad):
    channels, k, _ = rows.shape
    margin, filters = k // 2, other.shape[2] * channels // maps.shape[2]
    for b in range(maps.shape[0]):
        for y in range(other.shape[1]):
            target, source = padded[y + margin, margin * filters :], other[b, y]
            for j in range(other.shape[2]):
                target[j] = source[j]
        _visit(maps, b, rows, padded, filters, room, True)
    for c in range(channels):
        for e in range(k):
            for x in range(k):
                for f in range(filters):
                    grad[_tap(backward, c, e, x, f, k)] = rows[c, e, x * filters + f]
