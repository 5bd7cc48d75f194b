"""Runs of elements moved or converted in wide blocks, between C-contiguous arrays; nothing is checked.

A plain loop over arrays that might overlap does not become wide loads and stores, and ``memcpy`` costs a call for a run
of a few dozen bytes. Here a run goes in blocks of fixed width, the last of which overlaps the one before if the width
does not divide the length; what is written must therefore not be what is read.
"""

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastenvs.jit import PURE_PYTHON

ir = cgutils.ir

if PURE_PYTHON:

    def copy_run(out, to, source, start, n):
        """Copy ``n`` bytes from byte ``start`` of ``source`` to byte ``to`` of ``out``."""
        out.reshape(-1).view(np.uint8)[to : to + n] = source.reshape(-1).view(np.uint8)[start : start + n]

    def clear_run(out, to, n):
        """Set ``n`` bytes from byte ``to`` on to zero."""
        out.reshape(-1).view(np.uint8)[to : to + n] = 0

    def expect_run(out, to, n):
        """Say that ``n`` bytes from byte ``to`` on will be written soon."""

    def masked_rows(out, to, source, start, stride, rows, mask, first, n):
        """Write rows of ``n`` bytes of ``source``, ``stride`` bytes apart, to ``out`` one after the other.

        Only the bits are kept that are set in ``mask`` from byte ``first`` on.
        """
        out, source, kept = out.reshape(-1), source.reshape(-1), mask.reshape(-1)[first : first + n]
        for row in range(rows):
            out[to + row * n : to + (row + 1) * n] = source[start + row * stride : start + row * stride + n] & kept

    def float_run(out, to, source, start, n):
        """Write ``n`` numbers of ``source`` to the float32 array ``out``."""
        out.reshape(-1)[to : to + n] = source.reshape(-1)[start : start + n]

    def scaled_run(out, to, source, start, n, scale):
        """Write ``n`` numbers of the float64 array ``source`` times ``scale`` to the float32 array ``out``."""
        out.reshape(-1)[to : to + n] = source.reshape(-1)[start : start + n] * scale

    def split_run(out, to, rest, whole, first, part, second, n):
        """Write ``n`` integers of ``part`` to ``out``, and from ``rest`` on ``whole``, of float32, less these."""
        out, mine = out.reshape(-1), part.reshape(-1)[second : second + n].astype(np.float32)
        out[to : to + n] = mine
        out[rest : rest + n] = whole.reshape(-1)[first : first + n] - mine

    def word_at(cells, start):
        """Eight bytes from byte ``start`` on, as an integer whose lowest byte is the first."""
        return np.uint64(int.from_bytes(cells.reshape(-1)[start : start + 8].tobytes(), "little"))

else:

    def _in_blocks(builder, n, widths, move):
        """Emit ``move(place, width)`` over ``n`` elements: in the first of the widths that is not more than ``n``."""
        width, *narrower = widths
        enough = builder.icmp_signed(">=", n, n.type(width))
        with builder.if_else(enough) as (then, otherwise):
            with then:
                full = builder.udiv(n, n.type(width))
                with cgutils.for_range(builder, full) as loop:
                    move(builder.mul(loop.index, n.type(width)), width)
                if width > 1:
                    with builder.if_then(builder.icmp_signed("<", builder.mul(full, n.type(width)), n)):
                        move(builder.sub(n, n.type(width)), width)
            with otherwise:
                if narrower:
                    _in_blocks(builder, n, narrower, move)

    class _Access:
        """Arguments of an intrinsic: integers, and vectors in its arrays."""

        def __init__(self, context, builder, signature, args):
            self.context, self.builder, self.types, self.args = context, builder, signature.args, args

        def integer(self, i):
            return self.context.cast(self.builder, self.args[i], self.types[i], types.intp)

        def base(self, i):
            return self.context.make_array(self.types[i])(self.context, self.builder, self.args[i]).data

        def vector(self, i, element, offset, width, size):
            """Pointer to a vector of ``width`` elements at ``element + offset`` elements of ``size`` bytes."""
            place = self.builder.mul(self.builder.add(self.integer(i + 1), offset), cgutils.intp_t(size))
            pointer = cgutils.pointer_add(self.builder, self.base(i), place)
            return self.builder.bitcast(pointer, ir.VectorType(element, width).as_pointer())

    _BYTES = (64, 16, 4, 1)

    @intrinsic
    def copy_run(typingctx, out, to, source, start, n):
        """Copy ``n`` bytes from byte ``start`` of ``source`` to byte ``to`` of ``out``."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)

            def move(offset, width):
                block = builder.load(access.vector(2, cgutils.int8_t, offset, width, 1), align=1)
                builder.store(block, access.vector(0, cgutils.int8_t, offset, width, 1), align=1)

            _in_blocks(builder, access.integer(4), _BYTES, move)
            return context.get_dummy_value()

        return types.none(out, to, source, start, n), codegen

    @intrinsic
    def clear_run(typingctx, out, to, n):
        """Set ``n`` bytes from byte ``to`` on to zero."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)

            def move(offset, width):
                zeros = ir.Constant(ir.VectorType(cgutils.int8_t, width), None)
                builder.store(zeros, access.vector(0, cgutils.int8_t, offset, width, 1), align=1)

            _in_blocks(builder, access.integer(2), _BYTES, move)
            return context.get_dummy_value()

        return types.none(out, to, n), codegen

    @intrinsic
    def expect_run(typingctx, out, to, n):
        """Say that ``n`` bytes from byte ``to`` on, which need not be part of ``out``, will be written soon."""

        def codegen(context, builder, signature, args):
            access, word = _Access(context, builder, signature, args), cgutils.int32_t
            form = ir.FunctionType(ir.VoidType(), [cgutils.int8_t.as_pointer(), word, word, word])
            prefetch = cgutils.get_or_insert_function(builder.module, form, "llvm.prefetch.p0i8")
            first = cgutils.pointer_add(builder, access.base(0), access.integer(1), cgutils.voidptr_t)
            lines = builder.add(builder.udiv(access.integer(2), cgutils.intp_t(64)), cgutils.intp_t(1))
            with cgutils.for_range(builder, lines) as loop:
                line = cgutils.pointer_add(builder, first, builder.mul(loop.index, cgutils.intp_t(64)))
                builder.call(prefetch, [line, word(1), word(3), word(1)])
            return context.get_dummy_value()

        return types.none(out, to, n), codegen

    @intrinsic
    def masked_rows(typingctx, out, to, source, start, stride, rows, mask, first, n):
        """Write rows of ``n`` bytes of ``source``, ``stride`` bytes apart, to ``out`` one after the other.

        Only the bits are kept that are set in ``mask`` from byte ``first`` on.
        """

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)
            stride, rows, n = access.integer(4), access.integer(5), access.integer(8)

            def kept(offset, width):
                return builder.load(access.vector(6, cgutils.int8_t, offset, width, 1), align=1)

            def write(row, offset, width, bits):
                read = builder.add(offset, builder.mul(row, stride))
                block = builder.load(access.vector(2, cgutils.int8_t, read, width, 1), align=1)
                place = access.vector(0, cgutils.int8_t, builder.add(offset, builder.mul(row, n)), width, 1)
                builder.store(builder.and_(block, bits), place, align=1)

            def two_blocks(width):
                places = [n.type(0), builder.sub(n, n.type(width))]
                bits = [kept(place, width) for place in places]
                with cgutils.for_range(builder, rows) as loop:
                    for place, block in zip(places, bits, strict=True):
                        write(loop.index, place, width, block)

            def any_blocks():
                with cgutils.for_range(builder, rows) as loop:
                    _in_blocks(builder, n, _BYTES, lambda at, width: write(loop.index, at, width, kept(at, width)))

            # The mask of a row of at most two blocks stays in registers.
            few = builder.and_(builder.icmp_signed(">", n, n.type(64)), builder.icmp_signed("<=", n, n.type(128)))
            with builder.if_else(few) as (then, otherwise):
                with then:
                    two_blocks(64)
                with otherwise:
                    any_blocks()
            return context.get_dummy_value()

        return types.none(out, to, source, start, stride, rows, mask, first, n), codegen

    def _as_floats(builder, block, dtype):
        """A vector of numbers as one of single precision."""
        wanted = ir.VectorType(ir.FloatType(), block.type.count)
        if isinstance(dtype, types.Float):
            return builder.fptrunc(block, wanted)
        return builder.sitofp(block, wanted) if dtype.signed else builder.uitofp(block, wanted)

    @intrinsic
    def float_run(typingctx, out, to, source, start, n):
        """Write ``n`` numbers of ``source`` to the float32 array ``out``."""

        def codegen(context, builder, signature, args):
            access, item = _Access(context, builder, signature, args), context.get_data_type(source.dtype)
            size = context.get_abi_sizeof(item)

            def move(offset, width):
                block = builder.load(access.vector(2, item, offset, width, size), align=size)
                to_ = access.vector(0, ir.FloatType(), offset, width, 4)
                builder.store(_as_floats(builder, block, source.dtype), to_, align=4)

            _in_blocks(builder, access.integer(4), (16, 4, 1), move)
            return context.get_dummy_value()

        return types.none(out, to, source, start, n), codegen

    @intrinsic
    def scaled_run(typingctx, out, to, source, start, n, scale):
        """Write ``n`` numbers of the float64 array ``source`` times ``scale`` to the float32 array ``out``."""

        def codegen(context, builder, signature, args):
            access, item = _Access(context, builder, signature, args), ir.DoubleType()

            def move(offset, width):
                block = builder.load(access.vector(2, item, offset, width, 8), align=8)
                block = builder.fmul(block, _all_lanes(builder, args[5], block.type))
                to_ = access.vector(0, ir.FloatType(), offset, width, 4)
                builder.store(_as_floats(builder, block, source.dtype), to_, align=4)

            _in_blocks(builder, access.integer(4), (16, 4, 1), move)
            return context.get_dummy_value()

        return types.none(out, to, source, start, n, scale), codegen

    def _all_lanes(builder, value, vector):
        """A vector with ``value`` everywhere."""
        zeros = ir.Constant(ir.VectorType(cgutils.int32_t, vector.count), None)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, cgutils.int32_t(0))
        return builder.shuffle_vector(one, one, zeros)

    @intrinsic
    def split_run(typingctx, out, to, rest, whole, first, part, second, n):
        """Write ``n`` integers of ``part`` to ``out``, and from ``rest`` on ``whole``, of float32, less these."""

        def codegen(context, builder, signature, args):
            access, single = _Access(context, builder, signature, args), ir.FloatType()
            item = context.get_data_type(part.dtype)
            size = context.get_abi_sizeof(item)
            further = builder.sub(access.integer(2), access.integer(1))

            def move(offset, width):
                mine = builder.load(access.vector(5, item, offset, width, size), align=size)
                mine = _as_floats(builder, mine, part.dtype)
                total = builder.load(access.vector(3, single, offset, width, 4), align=4)
                builder.store(mine, access.vector(0, single, offset, width, 4), align=4)
                place = access.vector(0, single, builder.add(offset, further), width, 4)
                builder.store(builder.fsub(total, mine), place, align=4)

            _in_blocks(builder, access.integer(7), (16, 4, 1), move)
            return context.get_dummy_value()

        return types.none(out, to, rest, whole, first, part, second, n), codegen

    @intrinsic
    def word_at(typingctx, cells, start):
        """Eight bytes from byte ``start`` on, as an integer whose lowest byte is the first."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)
            pointer = cgutils.pointer_add(builder, access.base(0), access.integer(1))
            return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)

        return types.uint64(cells, start), codegen
