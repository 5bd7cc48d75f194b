"""Passes of small perceptrons side by side, whose numbers have the same bits whatever lies beside them.

A library orders the sums of a product by the shapes at hand, and spends more on a few rows than their sums take. Here a
pass through all layers is one call, network by network, so that what lies between layers stays in cache; and every number
is one sum from the first term to the last, so that a row depends neither on other rows nor on other networks.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba.core import cgutils
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, inline, kernel, part

#: Bytes of a vector, and rows of a tile: as many as there are registers for.
BYTES, ROWS = (64, 8) if dict(binding.get_host_cpu_features()).get("avx512f") else (32, 4)
#: Numbers of a layer's matrix up to which a library's products are slower.
_SMALL = 128 * 128

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
        d = d_out.contiguous()
        found = [(torch.empty_like(w), b if b is None else torch.empty_like(b)) for w, b in self.layers]
        _backward(*self._room(), self._beside(found), *self._size, d.data_ptr())
        return found

    def tangents(self, along: list[Layer]) -> Tensor:
        """Change of what comes out when the layers move along others, contiguous as they are."""
        out = torch.empty_like(self.out)
        _tangent(*self._room(), self._beside(along), *self._size, out.data_ptr())
        return out

    def _beside(self, others: list[Layer]) -> np.ndarray:
        """The table with the addresses of others like the layers."""
        for i, (w, b) in enumerate(others):
            self._table[i, 5:] = w.data_ptr(), 0 if b is None else b.data_ptr()
        return self._table

    def _room(self) -> tuple[np.ndarray, int]:
        return _scratch(self._widest, self._size[2], self.out.dtype)


@cache
def _scratch(widest: int, rows: int, dtype: torch.dtype) -> tuple[np.ndarray, int]:
    """Scratch, and where in it three matrices of the widest layer's rows begin; a 1 stands at the end."""
    area = 2 * BYTES * (max(widest, rows) + 1 + ROWS)
    room = torch.zeros(area + 3 * rows * widest + 1, dtype=dtype).numpy()
    room[-1] = 1
    return room, area


# ---------------------------------------------------------------------- compiled


@numba.extending.intrinsic
def numbers_at(typingctx, address, like):
    """The numbers from an address on, of the type of the array ``like``."""
    kind = numba.types.Array(like.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        word = context.get_value_type(numba.types.intp)
        size = context.get_constant(numba.types.intp, like.dtype.bitwidth // 8)
        array.data = builder.inttoptr(context.cast(builder, args[0], signature.args[0], numba.types.intp), array.data.type)
        array.shape = cgutils.pack_array(builder, [ir.Constant(word, 2**40)])
        array.strides = cgutils.pack_array(builder, [size])
        array.nitems, array.itemsize = ir.Constant(word, 2**40), size
        return array._getvalue()

    return kind(address, like), codegen


def _tile(rows, vectors):
    """A product of ``rows`` rows and so many vectors of columns, held in registers until it is whole."""

    @numba.extending.intrinsic
    def tile(typingctx, a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated):
        """``out[i, j] = max(start[i, j] + Σ_k a[i, k] b[k, j], floor)``; arrays are counted flat, nothing is checked.

        ``a[i, k]`` stands at ``at + i * row + k * step``, ``b[k]`` at ``panel + k * columns``, ``start[i]`` at ``begin
        + i * apart`` and ``out[i]`` at ``to + i * stride``. If ``gated`` there is 0 where ``gate``, which stands as
        ``out`` does, is not positive.
        """
        given = (a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated)

        def codegen(context, builder, signature, args):
            number, word, index = context.get_value_type(a.dtype), ir.IntType(64), ir.IntType(32)
            size = a.dtype.bitwidth // 8
            vector = ir.VectorType(number, BYTES // size)

            def data(i):
                return context.make_array(signature.args[i])(context, builder, args[i]).data

            def integer(i):
                return context.cast(builder, args[i], signature.args[i], numba.types.int64)

            def splat(x):
                nothing = ir.Constant(vector, ir.Undefined)
                first = builder.insert_element(nothing, x, ir.Constant(index, 0))
                return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, vector.count), [0] * vector.count))

            def places(base, offset):
                each = (builder.gep(base, [builder.add(offset, word(v * vector.count))]) for v in range(vectors))
                return [builder.bitcast(place, vector.as_pointer()) for place in each]

            def load(base, offset):
                return [builder.load(place, align=size) for place in places(base, offset)]

            a_data, b_data = builder.gep(data(0), [integer(1)]), builder.gep(data(4), [integer(5)])
            row, step, columns, depth = (integer(i) for i in (2, 3, 6, 7))
            begun = [load(data(8), builder.add(integer(9), builder.mul(integer(10), word(i)))) for i in range(rows)]
            before, loop = builder.block, builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            k, total = builder.phi(word), [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            right, along, new = load(b_data, builder.mul(k, columns)), builder.mul(k, step), []
            for i in range(rows):
                left = splat(builder.load(builder.gep(a_data, [builder.add(along, builder.mul(row, word(i)))])))
                fused = ("contract",)
                products = [builder.fmul(left, x, flags=fused) for x in right]
                new.append([builder.fadd(s, x, flags=fused) for s, x in zip(total[i], products, strict=True)])
            following, after = builder.add(k, word(1)), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
            k.add_incoming(word(0), before)
            k.add_incoming(following, loop)
            for i in range(rows):
                for v in range(vectors):
                    total[i][v].add_incoming(begun[i][v], before)
                    total[i][v].add_incoming(new[i][v], loop)
            builder.position_at_end(after)
            floor = splat(context.cast(builder, args[11], signature.args[11], a.dtype))
            zero = ir.Constant(vector, [0.0] * vector.count)
            for i in range(rows):
                offset = builder.add(integer(13), builder.mul(integer(14), word(i)))
                for v, (x, place) in enumerate(zip(new[i], places(data(12), offset), strict=True)):
                    new[i][v] = builder.select(builder.fcmp_ordered("<", x, floor), floor, x)
                    builder.store(new[i][v], place, align=size)
            with builder.if_then(builder.icmp_signed("!=", integer(16), word(0))):
                for i in range(rows):
                    offset = builder.add(integer(13), builder.mul(integer(14), word(i)))
                    for x, place, g in zip(new[i], places(data(12), offset), load(data(15), offset), strict=True):
                        builder.store(builder.select(builder.fcmp_ordered(">", g, zero), x, zero), place, align=size)
            return context.get_dummy_value()

        return numba.types.none(*given), codegen

    return tile


_wide, _narrow, _wide_row, _narrow_row = _tile(ROWS, 2), _tile(ROWS, 1), _tile(1, 2), _tile(1, 1)



@part
def _multiply(
    room, m, n, depth, a_at, a_row, a_step, b_at, b_row, b_step, start_at, start_row, floor, out_at, gate_at, sums_at
):
    """``out [m, n] = max(start + a b, floor)``, and 0 where ``gate`` is not positive; ``start`` is a row, or m rows.

    Addresses are in bytes, 0 for none, strides in numbers; ``a[i, k]`` stands at ``i * a_row + k * a_step``. ``sums [n]``
    are those of the columns of ``b``.
    """
    size, base = room.itemsize, room.ctypes.data
    lanes = BYTES // size
    a, b, out, gate = numbers_at(a_at, room), numbers_at(b_at, room), numbers_at(out_at, room), numbers_at(gate_at, room)
    high, each = (ROWS if m >= ROWS else 1), 2 * lanes
    begin = each * depth
    edge = begin + each
    for j in range(0, n, each):
        full = min(each, n - j)
        width = each if full > lanes else lanes
        columns, right, panel = b_row, b, j * b_step
        if full < width or b_step != 1:  # columns that lie apart, or do not fill vectors
            columns, right, panel = width, room, 0
            for k in range(depth):
                target = numbers_at(base + k * width * size, room)
                source = numbers_at(b_at + (k * b_row + j * b_step) * size, room)
                if full < width:
                    for i in range(lanes):
                        target[width - lanes + i] = 0
                if b_step == 1:
                    for i in range(full):
                        target[i] = source[i]
                else:
                    for i in range(full):
                        target[i] = source[i * b_step]
        begun, at, apart, starts = room, begin, 0, numbers_at(start_at + j * size, room)
        zeros = numbers_at(base + begin * size, room)
        for i in range(each):
            zeros[i] = 0
        if start_at and start_row == 0:
            for i in range(full):
                zeros[i] = starts[i]
        if start_row and full == width:
            begun, at, apart = starts, 0, start_row
        if sums_at:
            _column_sums(room, base, size, lanes, right, panel, columns, depth, begin, edge, full, width, sums_at + j * size)
        for i in range(0, m, high):
            i = min(i, m - high)  # the last rows overlap those before
            there, to, stride, gated = out, i * n + j, n, gate_at
            if full < width:
                there, to, stride, gated = room, edge, width, 0
            if high == 1:
                if width > lanes:
                    _wide_row(a, i * a_row, a_row, a_step, right, panel, columns, depth, begun, at + i * apart, apart,
                              floor, there, to, stride, gate, gated)
                else:
                    _narrow_row(a, i * a_row, a_row, a_step, right, panel, columns, depth, begun, at + i * apart, apart,
                                floor, there, to, stride, gate, gated)
            elif width > lanes:
                _wide(a, i * a_row, a_row, a_step, right, panel, columns, depth, begun, at + i * apart, apart,
                      floor, there, to, stride, gate, gated)
            else:
                _narrow(a, i * a_row, a_row, a_step, right, panel, columns, depth, begun, at + i * apart, apart,
                        floor, there, to, stride, gate, gated)
            if full < width:
                for r in range(high):
                    source = numbers_at(base + (edge + r * width) * size, room)
                    place = ((i + r) * n + j) * size
                    target, more = numbers_at(out_at + place, room), numbers_at(start_at + place, room)
                    for c in range(full):
                        target[c] = source[c] + more[c] if start_row else source[c]
                    if gate_at:
                        gates = numbers_at(gate_at + place, room)
                        for c in range(full):
                            target[c] = target[c] if gates[c] > 0 else 0


@inline
def _column_sums(room, base, size, lanes, right, panel, columns, depth, begin, edge, full, width, sums_at):
    """Sums of a panel's columns."""
    one, target = numbers_at(room.ctypes.data + (len(room) - 1) * size, room), numbers_at(sums_at, room)
    if width > lanes:
        _wide_row(one, 0, 0, 0, right, panel, columns, depth, room, begin, 0, -np.inf, room, edge, width, one, 0)
    else:
        _narrow_row(one, 0, 0, 0, right, panel, columns, depth, room, begin, 0, -np.inf, room, edge, width, one, 0)
    source = numbers_at(base + edge * size, room)
    for c in range(full):
        target[c] = source[c]


@kernel
def _forward(room, table, layers, groups, every, first, m):
    size = room.itemsize
    for g in range(groups):
        rows = (g * every + first) * size
        for i in range(layers):
            depth, n, w, b, x, y, _ = table[i]
            floor = 0.0 if i < layers - 1 else -np.inf
            bias = b + g * n * size if b else 0
            _multiply(room, m, n, depth, x + rows * depth, depth, 1, w + g * depth * n * size, n, 1, bias, 0, floor,
                      y + rows * n, 0, 0)


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
            _multiply(room, depth, n, m, x, 1, depth, d, n, 1, 0, 0, -np.inf, dw + g * depth * n * size, 0, db)
            if i:
                _multiply(room, m, depth, n, d, n, 1, w + g * depth * n * size, 1, n, 0, 0, -np.inf, spare, x, 0)
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
                _multiply(room, m, n, depth, x, depth, 1, dw, n, 1, db, 0, -np.inf, to, gate, 0)
            else:
                _multiply(room, m, n, depth, x, depth, 1, dw, n, 1, db, 0, -np.inf, own, 0, 0)
                _multiply(room, m, n, depth, moved, depth, 1, w, n, 1, own, n, -np.inf, to, gate, 0)
            moved, spare, other = to, other, spare
