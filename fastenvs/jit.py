"""All Numba settings of the package, in one place."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, event

#: True where ``NUMBA_DISABLE_JIT=1`` runs the kernels as plain Python.
PURE_PYTHON = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: serial, without the GIL, cached on disk, no Python exceptions from arithmetic.

    Kernels allocate nothing, so they do without Numba's reference counts (``_nrt``): those are atomic operations at
    nearly every use of an array out of a group, and cost several times the work itself.
    """
    return numba.njit(**_OPTIONS)(function)


def inline(function: Callable[..., Any]) -> Any:
    """Compile a helper into every kernel that calls it: a call would pass each array of its groups field by field."""
    return numba.njit(**_OPTIONS, inline="always")(function)


class _Announcer(event.Listener):
    """Says on the standard error stream what is being compiled, since the first call of a kernel takes seconds."""

    def __init__(self) -> None:
        self._depth = 0

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if self._depth == 0 and (function.__module__ or "").partition(".")[0] in ("fastenvs", "metagrad"):
            print(f"compiling {function.__module__}.{function.__name__}, once", file=sys.stderr, flush=True)
        self._depth += 1

    def on_end(self, event: event.Event) -> None:
        self._depth -= 1


if not PURE_PYTHON:
    event.register("numba:compile", _Announcer())


def wrapping() -> contextlib.AbstractContextManager:
    """Context in which 64-bit counters may wrap around silently, as they do in compiled code."""
    return np.errstate(over="ignore") if PURE_PYTHON else contextlib.nullcontext()


if PURE_PYTHON:

    def copy_bytes(out, to, source, start, n):
        """Copy bytes between C-contiguous arrays; see the compiled form."""
        out.reshape(-1).view(np.uint8)[to : to + n] = source.reshape(-1).view(np.uint8)[start : start + n]

else:

    @numba.extending.intrinsic
    def copy_bytes(typingctx, out, to, source, start, n):
        """Copy ``n`` bytes from byte ``start`` of ``source`` to byte ``to`` of ``out``, by one ``memcpy``.

        Both are C-contiguous arrays; nothing is checked. A plain loop does not become a copy: the compiler cannot rule
        out that the arrays overlap.
        """

        def codegen(context, builder, signature, args):
            def integer(i):
                return context.cast(builder, args[i], signature.args[i], numba.types.intp)

            def pointer(i):
                array = context.make_array(signature.args[i])(context, builder, args[i])
                return cgutils.pointer_add(builder, array.data, integer(i + 1))

            cgutils.raw_memcpy(builder, pointer(0), pointer(2), integer(4), cgutils.intp_t(1))
            return context.get_dummy_value()

        return numba.types.none(out, to, source, start, n), codegen
