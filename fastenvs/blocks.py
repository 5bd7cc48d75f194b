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

    def float_run(out, to, source, start, n):
        """Write ``n`` numbers of ``source`` to the float32 array ``out``."""
        out.reshape(-1)[to : to + n] = source.reshape(-1)[start : start + n]

    def scaled_run(out, to, source, start, n, scale):
        """Write ``n`` numbers of the float64 array ``source`` times ``scale`` to the float32 array ``out``."""
        out.reshape(-1)[to : to + n] = source.reshape(-1)[start : start + n] * scale

    def difference_run(out, to, whole, first, part, second, n):
        """Write ``n`` differences of two float32 arrays to the float32 array ``out``."""
        out.reshape(-1)[to : to + n] = whole.reshape(-1)[first : first + n] - part.reshape(-1)[second : second + n]

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

    @intrinsic
    def copy_run(typingctx, out, to, source, start, n):
        """Copy ``n`` bytes from byte ``start`` of ``source`` to byte ``to`` of ``out``."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)

            def move(offset, width):
                block = builder.load(access.vector(2, cgutils.int8_t, offset, width, 1), align=1)
                builder.store(block, access.vector(0, cgutils.int8_t, offset, width, 1), align=1)

            _in_blocks(builder, access.integer(4), (32, 8, 1), move)
            return context.get_dummy_value()

        return types.none(out, to, source, start, n), codegen

    @intrinsic
    def clear_run(typingctx, out, to, n):
        """Set ``n`` bytes from byte ``to`` on to zero."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)
            pointer = cgutils.pointer_add(builder, access.base(0), access.integer(1))
            cgutils.memset(builder, pointer, access.integer(2), 0)
            return context.get_dummy_value()

        return types.none(out, to, n), codegen

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
    def difference_run(typingctx, out, to, whole, first, part, second, n):
        """Write ``n`` differences of two float32 arrays to the float32 array ``out``."""

        def codegen(context, builder, signature, args):
            access, single = _Access(context, builder, signature, args), ir.FloatType()

            def move(offset, width):
                blocks = [builder.load(access.vector(i, single, offset, width, 4), align=4) for i in (2, 4)]
                builder.store(builder.fsub(*blocks), access.vector(0, single, offset, width, 4), align=4)

            _in_blocks(builder, access.integer(6), (16, 4, 1), move)
            return context.get_dummy_value()

        return types.none(out, to, whole, first, part, second, n), codegen

    @intrinsic
    def word_at(typingctx, cells, start):
        """Eight bytes from byte ``start`` on, as an integer whose lowest byte is the first."""

        def codegen(context, builder, signature, args):
            access = _Access(context, builder, signature, args)
            pointer = cgutils.pointer_add(builder, access.base(0), access.integer(1))
            return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)

        return types.uint64(cells, start), codegen
