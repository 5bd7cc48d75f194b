"""Compiled calls whose arguments are bound once.

A compiled function called from Python finds out the type of every array of its groups and takes it apart: a step of one
copy would spend most of its time there. So the groups of a kernel ``function(groups, lo, hi)`` are laid out in memory
once, and the call that is left passes an address and two integers. Inside, a group is an address too, whose fields are
read where they are used. Mechanisms that are compiled ahead of time, and bound likewise, are called by kernels through
the addresses of their function and of themselves.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import typeof, types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import NativeValue, infer_getattr, intrinsic, lower_getattr_generic, models, register_model, unbox

from fastenvs.jit import PURE_PYTHON

_BYTE = cgutils.int8_t.as_pointer()
_WORD = cgutils.intp_t
#: What is called through an address: a function of (address of its data, lo, hi) that returns a count.
_FORM = cgutils.ir.FunctionType(_WORD, [_BYTE, _WORD, _WORD])


def bind(function: Callable[..., int], groups: tuple) -> Callable[[int, int], int]:
    """A kernel bound to its first argument, to be called with ``(lo, hi)``.

    Parameters
    ----------
    function : kernel
        Returns an integer.
    groups : NamedTuple
        Arrays, numbers, NamedTuples of these, and handles of mechanisms. Its arrays, which must not move, are held as
        long as the result is.
    """
    if PURE_PYTHON:
        return functools.partial(function, groups)
    entry = function.compile((_Bound(typeof(groups)), types.intp, types.intp))  # type: ignore[attr-defined]
    return _lay_out(entry, groups)


def rebind(bound: Any, groups: tuple) -> Callable[[int, int], int]:
    """The same kernel bound to other groups of the very same types, which need not be found out again."""
    return functools.partial(bound.func, groups) if PURE_PYTHON else _lay_out(bound.func, groups)


def _lay_out(entry: Callable[..., int], groups: tuple) -> Callable[[int, int], int]:
    memory = np.array([*_words(groups)], np.int64)
    bound = functools.partial(entry, memory.ctypes.data)
    bound.held = groups, memory  # type: ignore[attr-defined]
    return bound


def _words(value: Any) -> Iterator[int]:
    """The words that a value is laid out in; :func:`_size` counts them, :func:`_read` reads them."""
    if isinstance(value, tuple):
        for part in value:
            yield from _words(part)
    elif isinstance(value, np.ndarray):
        yield from (value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(value, float):
        yield from struct.unpack("q", struct.pack("d", value))
    else:
        yield int(value)


if PURE_PYTHON:

    def handle(mechanism):
        """What :func:`call` calls a bound mechanism through; see the compiled form."""
        return mechanism

    def call(handle, lo, hi):
        """Call what is bound over rows ``[lo, hi)``; see the compiled form."""
        return handle(lo, hi)

else:

    class _Bound(types.Type):
        """A NamedTuple laid out in memory."""

        def __init__(self, group):
            self.group = group
            super().__init__(f"Bound({group})")

        @property
        def key(self):
            """What makes two such types the same."""
            return self.group

    @register_model(_Bound)
    class _BoundModel(models.PrimitiveModel):
        def __init__(self, manager, kind):
            super().__init__(manager, kind, _BYTE)

    @unbox(_Bound)
    def _address(kind, number, c):
        return NativeValue(c.pyapi.long_as_voidptr(number))

    def _size(kind: Any) -> int:
        if isinstance(kind, types.BaseTuple):
            return _place(kind)
        return 3 + 2 * kind.ndim if isinstance(kind, types.Array) else 1

    def _place(kind: Any, k: int | None = None) -> int:
        """Words before the ``k``-th part of a tuple, or of all."""
        return sum(map(_size, kind.types[:k]))

    def _read(context: Any, builder: Any, pointer: Any, kind: Any, at: int) -> Any:
        """Emit the reading of a value that is laid out ``at`` words after ``pointer``; it never changes there."""

        def word(k, form=_WORD):
            place = cgutils.pointer_add(builder, pointer, _WORD(8 * k))
            loaded = builder.load(builder.bitcast(place, form.as_pointer()))
            loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
            return loaded

        if isinstance(kind, types.BaseNamedTuple):
            return cgutils.pointer_add(builder, pointer, _WORD(8 * at))
        if isinstance(kind, types.BaseTuple):  # a handle
            places = enumerate(kind.types)  # type: ignore[attr-defined]
            parts = [_read(context, builder, pointer, part, at + _place(kind, k)) for k, part in places]
            return context.make_tuple(builder, kind, parts)
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder)
            array.nitems, array.itemsize = word(at), word(at + 1)
            array.data = word(at + 2, array.data.type)
            extents = [word(at + 3 + k) for k in range(2 * kind.ndim)]
            array.shape = cgutils.pack_array(builder, extents[: kind.ndim], _WORD)
            array.strides = cgutils.pack_array(builder, extents[kind.ndim :], _WORD)
            array.meminfo = array.parent = cgutils.get_null_value(_BYTE)
            return array._getvalue()
        if isinstance(kind, types.Boolean):
            return builder.trunc(word(at), context.get_value_type(kind))
        return word(at, context.get_value_type(kind))

    @infer_getattr
    class _Fields(AttributeTemplate):
        key = _Bound

        def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
            """Type of a field: groups stay in memory."""
            if name in kind.group.fields:
                field = kind.group[kind.group.fields.index(name)]
                return _Bound(field) if isinstance(field, types.BaseNamedTuple) else field

    @lower_getattr_generic(_Bound)
    def _field(context, builder, kind, pointer, name):
        k = kind.group.fields.index(name)
        return _read(context, builder, pointer, kind.group[k], _place(kind.group, k))

    def handle(mechanism):
        """Addresses of a bound mechanism's function and of the mechanism, which must be held, for :func:`call`."""
        return mechanism.address

    @intrinsic
    def call(typingctx, handle, lo, hi):
        """Call what is bound, by addresses of a function and of its data, over rows ``[lo, hi)``."""

        def codegen(context, builder, signature, args):
            kinds = signature.args
            function, data = (builder.extract_value(args[0], k) for k in range(2))
            rows = [context.cast(builder, args[k], kinds[k], types.intp) for k in (1, 2)]
            pointer = builder.inttoptr(function, _FORM.as_pointer())
            return builder.call(pointer, [builder.inttoptr(data, _BYTE), *rows])

        return types.intp(handle, lo, hi), codegen
