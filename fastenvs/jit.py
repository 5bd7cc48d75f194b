"""All Numba settings of the package, in one place."""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, event
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

#: True where ``NUMBA_DISABLE_JIT=1`` runs the kernels as plain Python.
PURE_PYTHON = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_UNWRAPPED: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel: serial, without the GIL, cached on disk, no Python exceptions from arithmetic.

    Kernels allocate nothing, so they do without Numba's reference counts (``_nrt``): those are atomic operations at
    nearly every use of an array out of a group, and cost several times the work itself.
    """
    return _cached(numba.njit(**_OPTIONS)(function))


def part(function: Callable[..., Any]) -> Any:
    """Compile a kernel that other kernels alone call: nothing is compiled that would hand it arguments of Python."""
    return _cached(numba.njit(**_OPTIONS, **_UNWRAPPED)(function))


def inline(function: Callable[..., Any]) -> Any:
    """Compile a helper into every kernel that calls it: a call would pass each array of its groups field by field."""
    return _cached(numba.njit(**_OPTIONS, inline="always")(function))


def plain(function: Any) -> Callable[..., Any]:
    """The Python function of a kernel, for a use so small that compiling takes longer."""
    return function if PURE_PYTHON else function.py_func


def _cached(dispatcher: Any) -> Any:
    """Keep what is compiled on disk, as ``cache=True`` would, but survive a disk that cannot take or give it."""
    if not PURE_PYTHON:
        dispatcher._cache = cache_for(dispatcher.py_func)
    return dispatcher


# ---------------------------------------------------------------------- the cache on disk

_warned = False


class _Files(IndexDataCacheFile):
    """Index and entries with checksums; an entry also holds its key, as two processes may give two the same name."""

    def _load_index(self) -> dict:
        try:
            return super()._load_index()
        except FileNotFoundError:
            return {}
        except Exception:  # a damaged pickle can raise anything
            return {}

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (_digest(key), data))

    def load(self, key: Any) -> Any:
        try:
            found, data = super().load(key)
        except Exception:  # damaged, or not there
            return None
        return data if found == _digest(key) else None

    def _save_data(self, name: str, data: Any) -> None:
        payload = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(payload).digest() + payload)

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            content = file.read()
        checksum, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != checksum:  # code with a flipped bit would load, and crash
            raise ValueError(f"{name} is damaged")
        return pickle.loads(payload)


class SafeCache(FunctionCache):
    """Cache of a function whose failures cost a compilation, no more."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        files = self._cache_file
        packages = sorted({__package__, function.__module__.partition(".")[0]})
        stamp = (files._source_stamp, *map(_package_stamp, packages))
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function of a signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled function, if there is place for it."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(f"{error.strerror or error}: {self._cache_path}")


def cache_for(function: Callable[..., Any]) -> Any:
    """Cache of a function, or one that keeps nothing where no folder can be written."""
    try:
        return SafeCache(function)
    except (RuntimeError, OSError) as error:
        _warn(str(error))
        return NullCache()


@functools.cache
def _package_stamp(package: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of a package's sources: a kernel also holds what it calls in other files."""
    folders = getattr(sys.modules.get(package), "__path__", ())
    found = sorted(
        (path.relative_to(folder).as_posix(), path)
        for folder in folders
        for path in Path(folder).rglob("*.py")
        if path.parent.name != "adapters"  # which hold no rules
    )
    return tuple((name, path.stat().st_mtime_ns, path.stat().st_size) for name, path in found)


def _digest(key: Any) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


def _warn(why: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        place = os.environ.get("NUMBA_CACHE_DIR")
        now = f" (now {place!r})" if place else ""
        warnings.warn(
            f"compiled kernels cannot be kept ({why}), so every process compiles them again: "
            f"set NUMBA_CACHE_DIR{now} to a folder that can be written",
            RuntimeWarning,
            stacklevel=4,
        )


# ---------------------------------------------------------------------- what is compiled, and how


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


def wrapping_call(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call in that context; compiled, it needs none."""

    def plain_call(*arguments: Any) -> Any:
        with wrapping():
            return call(*arguments)

    return plain_call if PURE_PYTHON else call


if PURE_PYTHON:

    def copy_bytes(out, to, source, start, n):
        """Copy bytes between C-contiguous arrays; see the compiled form."""
        out.reshape(-1).view(np.uint8)[to : to + n] = source.reshape(-1).view(np.uint8)[start : start + n]

    def copy_rows(out, to, stride, source, start, step, rows, n):
        """Copy rows of ``n`` bytes, ``step`` bytes apart, to rows that are ``stride`` bytes apart."""
        for row in range(rows):
            copy_bytes(out, to + row * stride, source, start + row * step, n)

    def clear_bytes(out, to, n):
        """Set ``n`` bytes from byte ``to`` of a C-contiguous array on to zero."""
        out.reshape(-1).view(np.uint8)[to : to + n] = 0

else:

    def _address(context, builder, signature, args, i):
        """Address of the byte whose number is argument ``i + 1`` in the array that is argument ``i``."""
        array = context.make_array(signature.args[i])(context, builder, args[i])
        return cgutils.pointer_add(builder, array.data, _integer(context, builder, signature, args, i + 1))

    def _integer(context, builder, signature, args, i):
        return context.cast(builder, args[i], signature.args[i], numba.types.intp)

    @numba.extending.intrinsic
    def copy_bytes(typingctx, out, to, source, start, n):
        """Copy ``n`` bytes from byte ``start`` of ``source`` to byte ``to`` of ``out``, by one ``memcpy``.

        Both are C-contiguous arrays; nothing is checked. A plain loop does not become a copy: the compiler cannot rule
        out that the arrays overlap.
        """

        def codegen(context, builder, signature, args):
            to_, from_ = (_address(context, builder, signature, args, i) for i in (0, 2))
            size = _integer(context, builder, signature, args, 4)
            cgutils.raw_memcpy(builder, to_, from_, size, cgutils.intp_t(1))
            return context.get_dummy_value()

        return numba.types.none(out, to, source, start, n), codegen

    @numba.extending.intrinsic
    def copy_rows(typingctx, out, to, stride, source, start, step, rows, n):
        """Copy rows of ``n`` bytes, ``step`` bytes apart, to rows that are ``stride`` bytes apart.

        A row of 8 to 64 bytes goes as two blocks, which overlap, without a call.
        """

        def codegen(context, builder, signature, args):
            to_, from_ = (_address(context, builder, signature, args, i) for i in (0, 3))
            stride, step, rows, n = (_integer(context, builder, signature, args, i) for i in (2, 5, 6, 7))

            def each_row(copy):
                with cgutils.for_range(builder, rows) as loop:
                    there, here = builder.mul(loop.index, stride), builder.mul(loop.index, step)
                    copy(cgutils.pointer_add(builder, to_, there), cgutils.pointer_add(builder, from_, here))

            def by_call(there, here):
                cgutils.raw_memcpy(builder, there, here, n, cgutils.intp_t(1))

            def two_blocks(width, there, here):
                block = ir.VectorType(cgutils.int8_t, width).as_pointer()
                places = [cgutils.intp_t(0), builder.sub(n, cgutils.intp_t(width))]
                pairs = [[cgutils.pointer_add(builder, p, at, block) for p in (there, here)] for at in places]
                loaded = [builder.load(pair[1], align=1) for pair in pairs]
                for value, pair in zip(loaded, pairs, strict=True):
                    builder.store(value, pair[0], align=1)

            def widest(width):
                if width < 8:
                    each_row(by_call)
                    return
                enough = builder.icmp_unsigned(">=", n, cgutils.intp_t(width))
                with builder.if_else(enough) as (then, otherwise):
                    with then:
                        each_row(functools.partial(two_blocks, width))
                    with otherwise:
                        widest(width // 2)

            fits = builder.icmp_unsigned("<=", n, cgutils.intp_t(64))
            with builder.if_else(fits) as (then, otherwise):
                with then:
                    widest(32)
                with otherwise:
                    each_row(by_call)
            return context.get_dummy_value()

        return numba.types.none(out, to, stride, source, start, step, rows, n), codegen

    @numba.extending.intrinsic
    def clear_bytes(typingctx, out, to, n):
        """Set ``n`` bytes from byte ``to`` of a C-contiguous array on to zero, by one ``memset``."""

        def codegen(context, builder, signature, args):
            place = _address(context, builder, signature, args, 0)
            cgutils.memset(builder, place, _integer(context, builder, signature, args, 2), 0)
            return context.get_dummy_value()

        return numba.types.none(out, to, n), codegen
