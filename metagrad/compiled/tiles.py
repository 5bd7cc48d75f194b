"""Products of small matrices in compiled code: tiles of rows and columns that stay in registers until they are whole.

Every number is one sum from the first term to the last, whatever tile it lies in. Arrays are given by their addresses,
in bytes, and strides in numbers; nothing is checked.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils

from fastenvs.jit import inline, part

#: Bytes of a vector, and rows of a tile: as many as there are registers for.
BYTES, ROWS = (64, 8) if dict(binding.get_host_cpu_features()).get("avx512f") else (32, 4)


def _numbers_at(typingctx, address, like):
    kind = numba.types.Array(like.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        word, endless = numba.types.intp, cgutils.intp_t(2**40)
        size = context.get_constant(word, like.dtype.bitwidth // 8)
        array.data = builder.inttoptr(context.cast(builder, args[0], signature.args[0], word), array.data.type)
        array.shape, array.strides = cgutils.pack_array(builder, [endless]), cgutils.pack_array(builder, [size])
        array.nitems, array.itemsize = endless, size
        return array._getvalue()

    return kind(address, like), codegen


#: ``numbers_at(address, like)``: the numbers from an address on, of the type of the array ``like``.
numbers_at: Any = numba.extending.intrinsic(_numbers_at)


class _Emitter:
    """What emits the code of a tile: ``vectors`` vectors of numbers of a type, from the arguments of a call."""

    def __init__(self, context, builder, signature, args, vectors):
        self.context, self.builder, self.kinds, self.args = context, builder, signature.args, args
        self.number, self.size = context.get_value_type(self.kinds[0].dtype), self.kinds[0].dtype.bitwidth // 8
        self.vector, self.vectors, self.mask = ir.VectorType(self.number, BYTES // self.size), vectors, None

    def data(self, i):
        return self.context.make_array(self.kinds[i])(self.context, self.builder, self.args[i]).data

    def word(self, i):
        return self.context.cast(self.builder, self.args[i], self.kinds[i], numba.types.intp)

    def place(self, at, stride, i):
        """Offset ``at + i * stride``, of arguments by their numbers."""
        b = self.builder
        return b.add(self.word(at), b.mul(self.word(stride), cgutils.intp_t(i)))

    def splat(self, x):
        index, nothing = cgutils.int32_t, ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, x, ir.Constant(index, 0))
        zeros = ir.Constant(ir.VectorType(index, self.vector.count), [0] * self.vector.count)
        return self.builder.shuffle_vector(first, nothing, zeros)

    def pointers(self, base, offset):
        b = self.builder
        each = (b.gep(base, [b.add(offset, cgutils.intp_t(v * self.vector.count))]) for v in range(self.vectors))
        return [b.bitcast(pointer, self.vector.as_pointer()) for pointer in each]

    def narrow(self, last):
        """From now on only so many numbers of the last vector are there: others are read as 0, and not written."""
        lanes = [cgutils.intp_t(i) for i in range(self.vector.count)]
        flags = ir.Constant(ir.VectorType(cgutils.bool_t, len(lanes)), ir.Undefined)
        for i, lane in enumerate(lanes):
            flags = self.builder.insert_element(flags, self.builder.icmp_signed("<", lane, last), cgutils.int32_t(i))
        self.mask = flags

    def load(self, base, offset):
        *whole, last = self.pointers(base, offset)
        loaded = [self.builder.load(pointer, align=self.size) for pointer in whole]
        return [*loaded, self._last("load", self.vector, [last], [ir.Constant(self.vector, [0.0] * self.vector.count)])]

    def store(self, values, base, offset):
        (*whole, last), b = self.pointers(base, offset), self.builder
        for x, pointer in zip(values, whole, strict=False):
            b.store(x, pointer, align=self.size)
        self._last("store", ir.VoidType(), [values[-1], last], [])

    def _last(self, what, gives, args, otherwise):
        """Load or store the last vector."""
        b, pointer = self.builder, args[-1]
        if self.mask is None:
            return b.load(pointer, align=self.size) if what == "load" else b.store(args[0], pointer, align=self.size)
        args = [*args, cgutils.int32_t(self.size), self.mask, *otherwise]
        kind, of = ir.FunctionType(gives, [arg.type for arg in args]), f"v{self.vector.count}f{8 * self.size}"
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.{what}.{of}.p0{of}"), args)


def _tile(rows, vectors):
    """A product of ``rows`` rows and so many vectors of columns."""

    @numba.extending.intrinsic
    def tile(typingctx, a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride,
             gate, gated, last):  # fmt: skip
        """``out[i, j] = max(start[i, j] + Σ_k a[i, k] b[k, j], floor)``, of arrays that are counted flat.

        ``a[i, k]`` stands at ``at + i * row + k * step``, ``b[k]`` at ``panel + k * columns``, ``start[i]`` at ``begin
        + i * apart`` and ``out[i]`` at ``to + i * stride``. If ``gated`` there is 0 where ``gate``, which stands as
        ``out`` does, is not positive. Of the last vector there are ``last`` numbers.
        """
        given = (a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated,
                 last)  # fmt: skip

        def codegen(context, builder, signature, args):
            emit = _Emitter(context, builder, signature, args, vectors)
            there = emit.word(17)
            whole = builder.icmp_signed("==", there, cgutils.intp_t(emit.vector.count))
            with builder.if_else(whole) as (all_of_it, part_of_it):
                with all_of_it:
                    _store(emit, _summed(emit, rows))
                with part_of_it:
                    emit.narrow(there)
                    _store(emit, _summed(emit, rows))
            return context.get_dummy_value()

        return numba.types.none(*given), codegen

    return tile


def _summed(emit, rows):
    """Emit the sums, which begin at ``start``; ``rows`` lists of vectors."""
    b, every = emit.builder, range(emit.vectors)
    begun = [emit.load(emit.data(8), emit.place(9, 10, i)) for i in range(rows)]
    before, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
    b.branch(loop)
    b.position_at_end(loop)
    k, total = b.phi(cgutils.intp_t), [[b.phi(emit.vector) for _ in every] for _ in range(rows)]
    right = emit.load(emit.data(4), b.add(emit.word(5), b.mul(k, emit.word(6))))
    along, new = b.add(emit.word(1), b.mul(k, emit.word(3))), []
    for i in range(rows):
        place = b.add(along, b.mul(emit.word(2), cgutils.intp_t(i)))
        left = emit.splat(b.load(b.gep(emit.data(0), [place])))
        products = [b.fmul(left, x, flags=("contract",)) for x in right]
        new.append([b.fadd(s, x, flags=("contract",)) for s, x in zip(total[i], products, strict=True)])
    following = b.add(k, cgutils.intp_t(1))
    b.cbranch(b.icmp_signed("<", following, emit.word(7)), loop, after)
    k.add_incoming(cgutils.intp_t(0), before)
    k.add_incoming(following, loop)
    for i in range(rows):
        for v in every:
            total[i][v].add_incoming(begun[i][v], before)
            total[i][v].add_incoming(new[i][v], loop)
    b.position_at_end(after)
    return new


def _store(emit, new):
    """Emit the floor, the gate and the stores."""
    b, zero = emit.builder, ir.Constant(emit.vector, [0.0] * emit.vector.count)
    floor = emit.splat(emit.context.cast(b, emit.args[11], emit.kinds[11], emit.kinds[0].dtype))
    offsets = [emit.place(13, 14, i) for i in range(len(new))]
    raised = [[b.select(b.fcmp_ordered("<", x, floor), floor, x) for x in row] for row in new]
    with b.if_else(b.icmp_signed("!=", emit.word(16), cgutils.intp_t(0))) as (gated, free):
        with gated:
            for row, offset in zip(raised, offsets, strict=True):
                gates = emit.load(emit.data(15), offset)
                open_ = [b.select(b.fcmp_ordered(">", gate, zero), x, zero) for x, gate in zip(row, gates, strict=True)]
                emit.store(open_, emit.data(12), offset)
        with free:
            for row, offset in zip(raised, offsets, strict=True):
                emit.store(row, emit.data(12), offset)


wide_tile, _narrow, _wide_row, _narrow_row = _tile(ROWS, 2), _tile(ROWS, 1), _tile(1, 2), _tile(1, 1)


@inline
def _run(high, wide, a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate,
         gated, last):  # fmt: skip
    """One tile, of one row or of ``ROWS``, of one vector of columns or of two."""
    if high > 1 and wide:
        wide_tile(a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated,
                  last)  # fmt: skip
    elif high > 1:
        _narrow(a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated,
                last)  # fmt: skip
    elif wide:
        _wide_row(a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate, gated,
                  last)  # fmt: skip
    else:
        _narrow_row(a, at, row, step, b, panel, columns, depth, start, begin, apart, floor, out, to, stride, gate,
                    gated, last)  # fmt: skip


def room_of(depth: int) -> int:
    """Numbers of scratch that :func:`multiply` needs for sums of so many terms, of which the first stay 0."""
    return 2 * BYTES * (depth + 1)


@inline
def _pack(room, place, depth, b_at, b_row, b_step, full, width):
    """Lay out ``full`` columns side by side from ``place`` on, ``width`` apart."""
    size = room.itemsize
    for k in range(depth):
        target = numbers_at(room.ctypes.data + (place + k * width) * size, room)
        source = numbers_at(b_at + k * b_row * size, room)
        for i in range(full):
            target[i] = source[i * b_step]


@part
def multiply(room, m, n, depth, a_at, a_row, a_step, b_at, b_row, b_step, start_at, start_row, floor, out_at, gate_at,
             sums_at):  # fmt: skip
    """``out [m, n] = max(start + a b, floor)``, and 0 where ``gate`` is not positive; ``start`` is a row, or m rows.

    ``a[i, k]`` stands at ``i * a_row + k * a_step``, ``b[k, j]`` at ``k * b_row + j * b_step``; an address of 0 stands
    for nothing. ``sums [n]`` become those of the columns of ``b``. The last number of ``room`` is 1.
    """
    size = room.itemsize
    lanes = BYTES // size
    high = ROWS if m >= ROWS else 1
    a, b, out = numbers_at(a_at, room), numbers_at(b_at, room), numbers_at(out_at, room)
    gate, sums = numbers_at(gate_at, room), numbers_at(sums_at, room)
    start = numbers_at(start_at if start_at else room.ctypes.data, room)  # which begins with 0
    for j in range(0, n, 2 * lanes):
        full = min(2 * lanes, n - j)
        wide, begin = full > lanes, j if start_at else 0
        last, columns, right, panel = full - lanes if wide else full, b_row, b, j
        if b_step != 1:  # columns that lie apart
            columns, right, panel = 2 * lanes, room, 2 * lanes
            _pack(room, panel, depth, b_at + j * b_step * size, b_row, b_step, full, columns)
        if sums_at:
            _run(1, wide, room, len(room) - 1, 0, 0, right, panel, columns, depth, room, 0, 0, -np.inf, sums, j, 0,
                 gate, 0, last)  # fmt: skip
        for i in range(0, m, high):
            i = min(i, m - high)  # the last rows overlap those before
            _run(high, wide, a, i * a_row, a_row, a_step, right, panel, columns, depth, start, begin + i * start_row,
                 start_row, floor, out, i * n + j, n, gate, gate_at, last)  # fmt: skip
