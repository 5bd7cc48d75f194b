"""All Numba settings of the package, in one place."""

import contextlib
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import cgutils

#: True where ``NUMBA_DISABLE_JIT=1`` runs the kernels as plain Python.
PURE_PYTHON = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: serial, without the GIL, cached on disk, no Python exceptions from arithmetic."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


def wrapping() -> contextlib.AbstractContextManager:
    """Context in which 64-bit counters may wrap around silently, as they do in compiled code."""
    return np.errstate(over="ignore") if PURE_PYTHON else contextlib.nullcontext()


if PURE_PYTHON:

    def copy_row(out, i, table, j):
        """Copy row ``j`` of ``table`` to row ``i`` of ``out``; see the compiled form."""
        out[i] = table[j]

else:

    @numba.extending.intrinsic
    def copy_row(typingctx, out, i, table, j):
        """Copy row ``j`` of ``table`` to row ``i`` of ``out`` by one ``memcpy``.

        Both are C-contiguous arrays ``[n, ...]`` whose rows have the same size; nothing is checked. A plain
        loop does not become a copy: the compiler cannot rule out that the arrays overlap.
        """

        def codegen(context, builder, signature, args):
            def row(array_type, value, index, index_type):
                array = context.make_array(array_type)(context, builder, value)
                stride = cgutils.unpack_tuple(builder, array.strides)[0]
                position = context.cast(builder, index, index_type, numba.types.intp)
                return cgutils.pointer_add(builder, array.data, builder.mul(position, stride)), stride

            target, size = row(signature.args[0], args[0], args[1], signature.args[1])
            source, _ = row(signature.args[2], args[2], args[3], signature.args[3])
            cgutils.raw_memcpy(builder, target, source, size, cgutils.intp_t(1))
            return context.get_dummy_value()

        return numba.types.none(out, i, table, j), codegen
