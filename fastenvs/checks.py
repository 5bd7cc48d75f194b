"""Checks of what users hand in: options, arrays, places in an array. One rule for each kind; free of heavy imports."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import operator
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Integers of options fit into the 32-bit counters of the state, with room to add two of them.
MAX_INT = 2**30 - 1
#: Sums over all agents of amounts up to here are exact to a coin, and far from overflow.
MAX_AMOUNT = 1e15


class WrongTypeError(TypeError, ValueError):
    """A value of the wrong type: callers may expect either kind of error."""


class TooLargeError(ValueError, MemoryError):
    """A size that cannot fit the memory: callers may expect either kind of error."""


def as_int(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an integer of any kind (NumPy's and arrays without axes too, not ``True`` or ``1.0``) as ``int``."""
    boolean = isinstance(value, bool | np.bool_) or "bool" in str(getattr(value, "dtype", ""))
    try:
        number = None if boolean else int(operator.index(value))
    except TypeError:
        number = None
    wrong = number is None or (least is not None and number < least) or (most is not None and number > most)
    if wrong:
        range_ = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
        error = WrongTypeError if number is None else ValueError
        raise error(f"{name} must be an integer{range_}, got {shown(value)}")
    assert number is not None
    return number


def positive_int(name: str, value: Any, least: int = 1, most: int = MAX_INT) -> int:
    """Return ``value`` as an int, or say which option is not an integer of at least ``least``."""
    number = as_int(name, value, least)
    if number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def as_float(name: str, value: Any) -> float:
    """Return a real number of any kind (NumPy's and arrays without axes too, not ``True``) as a finite ``float``."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.integer | np.floating):
        raise WrongTypeError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value) + 0.0  # -0.0 becomes 0.0
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return number


def as_bool(name: str, value: Any) -> bool:
    """Return ``True`` or ``False``, of Python or NumPy; nothing else is one."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, bool | np.bool_):
        raise WrongTypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return the one of ``choices`` that ``value`` equals."""
    if isinstance(value, str):
        for choice in choices:
            if choice == value:
                return choice
    raise ValueError(f"{name} must be one of {list(choices)}, got {shown(value)}")


def as_path(name: str, value: Any) -> str | Path:
    """Return a text as ``str``, a path as ``Path``."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str):
            return Path(path)
    raise WrongTypeError(f"{name} must be a name, a text or a path, got {shown(value)}")


def shown(value: Any) -> str:
    """How an error shows a value: on one line, not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a value that cannot even be shown must not hide what is wrong with it
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


# ---------------------------------------------------------------------- options


def normalise(options: Any) -> None:
    """Bring every field of a frozen dataclass to its declared type, or say which one cannot be.

    Known are ``int``, ``float``, ``bool``, ``Literal``, ``str | Path``, tuples of these, functions, and unions of a
    tuple with what is no tuple; each of them or ``None``.
    """
    for name, hint in hints_of(type(options)).items():  # type: ignore[arg-type]
        object.__setattr__(options, name, _as_type(name, getattr(options, name), hint))


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Declared types of the fields of a dataclass, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _as_type(name: str, value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return one_of(name, value, args)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _as_one_of(name, value, [a for a in args if a is not type(None)])
    if origin is tuple:
        return _as_tuple(name, value, args)
    if hint is int:
        number = as_int(name, value)
        if abs(number) > MAX_INT:
            raise ValueError(f"{name} must be at most {MAX_INT} in size, got {shown(number)}")
        return number
    return {float: as_float, bool: as_bool}[hint](name, value)


def _as_one_of(name: str, value: Any, hints: list) -> Any:
    """``value`` as the type of a union that it can be of: a function, a text or path, or what is none of these."""
    if callable(value) and not isinstance(value, type) and any(typing.get_origin(hint) is Callable for hint in hints):
        return value
    texts = [hint for hint in hints if hint in (str, Path) or typing.get_origin(hint) is typing.Literal]
    rest = [hint for hint in hints if hint not in texts and typing.get_origin(hint) is not Callable]
    if isinstance(value, str | os.PathLike) or not rest:
        if Path in texts:
            return as_path(name, value)
        rest = texts or rest
    reasons = []
    for hint in rest:
        try:
            return _as_type(name, value, hint)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0]


def _as_tuple(name: str, value: Any, args: tuple) -> tuple:
    many = len(args) == 2 and args[1] is Ellipsis
    kind = args[0].__name__
    what = f"a sequence of numbers, one {kind} each" if many and kind != "tuple" else f"{len(args)} {kind}s"
    what = "a sequence of sequences" if many and kind == "tuple" else what
    if isinstance(value, np.ma.MaskedArray) or not (
        (isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray))
        or (isinstance(value, np.ndarray) and value.ndim)
    ):
        raise WrongTypeError(f"{name} must be {what}, got {shown(value)}")
    if not many and len(value) != len(args):
        raise ValueError(f"{name} must be {what}, got {shown(value)}")
    kinds = args[:1] * len(value) if many else args
    return tuple(_as_type(f"{name}[{i}]", v, kind) for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))


def in_range(options: Any, least: float, most: float, *names: str) -> None:
    """Refuse numbers of the named fields outside ``[least, most]``; ``None`` passes."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            rule = " and not negative" if value < least == 0 and most > 1 else f" from {least:g} to {most:g}"
            kind = "an integer" if isinstance(value, int) else "a finite number"
            raise ValueError(f"{name} must be {kind}{rule}, got {value!r}")


def later(default: Any) -> Any:
    """A field that options got after their first version; at its default it is as if it were not there."""
    return dataclasses.field(default=default, metadata={"later": True})


def make_options(cls: Any, game: str, presets: Mapping[str, Mapping[str, Any]], preset: Any, given: dict) -> Any:
    """Options of a preset, with some replaced; unknown ones are refused."""
    if not isinstance(preset, str) or preset not in presets:
        raise ValueError(f"no {game} preset is called {shown(preset)}; there are: {', '.join(presets)}")
    unknown = sorted(given.keys() - hints_of(cls).keys())
    if unknown:
        raise TypeError(f"unknown {game} option: {', '.join(unknown)}")
    return cls(**{**presets[preset], **given})


def affordable(what: str, count: int, bytes_each: int) -> None:
    """Refuse sizes that cannot fit this machine's memory, before anything is allocated."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 2**46
    if count * bytes_each > memory:
        raise TooLargeError(
            f"{what} need about {count * bytes_each / 1e9:,.0f} GB ({count:,} of {bytes_each:,} bytes each), "
            f"this machine has {memory / 1e9:,.0f} GB"
        )


def imported(source: str) -> Any:
    """What ``module:name`` stands for; modules are looked for in the working folder too."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return pkgutil.resolve_name(source)


# ---------------------------------------------------------------------- arrays


def as_array(name: str, values: Any, kinds: str, what: str) -> np.ndarray:
    """Return numbers as an array whose ``dtype.kind`` is one of ``kinds``; ``what`` says which these are.

    Nothing is dropped on the way: arrays of objects, texts, complex numbers and masked entries are refused by name.
    """
    if type(values) is not np.ndarray:
        if isinstance(values, np.ma.MaskedArray):
            raise WrongTypeError(f"{name} must not be a masked array: its mask would be lost")
        try:
            values = np.asarray(values)
        except (ValueError, TypeError, OverflowError) as error:
            raise WrongTypeError(f"{name} must be {what}, got {shown(values)} ({error})") from None
    if values.dtype.kind not in kinds:
        raise WrongTypeError(f"{name} must be {what}, got dtype {values.dtype}")
    return values


def has_shape(name: str, values: np.ndarray, *shapes: tuple[int, ...]) -> None:
    """Refuse an array of a shape other than one of ``shapes``."""
    if values.shape not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must have shape {allowed}, got {list(values.shape)}")


def numbers_of(name: str, values: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """Return real numbers of one of ``shapes`` (any, if none is given) as a fresh, C-contiguous float64 array."""
    array = as_array(name, values, "iuf", "real numbers")
    if shapes:
        has_shape(name, array, *shapes)
    return np.array(array, np.float64, order="C")


def integers_of(name: str, values: Any, shape: tuple[int, ...], low: int, high: int, entry: str) -> np.ndarray:
    """Return integers of a shape, not an empty one, each in ``low .. high``, as they are.

    ``entry`` names a single one in an error, with its place: ``"action {value} of agent {1} in environment {0}"``.
    """
    array = as_array(name, values, "iu", "integers")
    has_shape(name, array, shape)
    if array.min() < low or array.max() > high:
        raise outside(array, low, high, entry)
    return array


def outside(array: np.ndarray, low: int, high: int, entry: str) -> ValueError:
    """What is wrong with the first integer that is not in ``low .. high``; see :func:`integers_of`."""
    where = tuple(np.argwhere((array < low) | (array > high))[0])
    return ValueError(f"{entry.format(*where, value=array[where])} is not in {low}..{high}")


def refuse_where(name: str, values: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    """Refuse the first entry that is marked in ``wrong``."""
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name} at {where} is {values[where]}, but {rule}")
