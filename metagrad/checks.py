"""Checks of options: types and bounds stand beside each option, and are checked where it is made."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from fastenvs.checks import shown

__all__ = ["AtMost", "Bound", "Checked", "offers", "shown"]


@dataclass(frozen=True)
class Bound:
    """Bounds of a number; ``open_low`` leaves out the lower one."""

    low: float
    high: float = 1e30  # with some room to the end of single precision
    open_low: bool = False

    def allows(self, value: float) -> bool:
        """Whether a value is in bounds, and finite."""
        above = value > self.low if self.open_low else value >= self.low
        return above and value <= self.high and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'of at least'} {self.low:g}"
        return low if self.high >= 1e30 else f"{low} and at most {self.high:,.12g}"


@dataclass(frozen=True)
class AtMost:
    """Bound of the length of a tuple."""

    entries: int


#: More than any machine can hold of what options count.
MOST = 2**31 - 1
Positive = Annotated[float, Bound(0, open_low=True)]
NonNegative = Annotated[float, Bound(0)]
Share = Annotated[float, Bound(0, 1)]
PositiveShare = Annotated[float, Bound(0, 1, open_low=True)]
BelowOne = Annotated[float, Bound(0, 1 - 1e-12)]
Count = Annotated[int, Bound(1, MOST)]
CountOrNone = Annotated[int, Bound(0, MOST)]
Widths = Annotated[tuple[Annotated[int, Bound(1, 10**6)], ...], AtMost(100)]
Threads = Annotated[int, Bound(1, 1024)]


class Checked:
    """Base of frozen dataclasses whose fields are brought to their declared types and checked at construction."""

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in _hints(cls).items():
            object.__setattr__(self, name, _checked(f"{cls.__name__}.{name}", getattr(self, name), hint))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the declared type; of a union, as the one that it is of."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bounded(name, _checked(name, value, args[0]), args[1:])
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise ValueError(f"{name} must be one of {list(args)}, got {shown(value)}")
        return str(value)
    if origin is tuple:
        return _tuple(name, value, args)
    if origin in (typing.Union, types.UnionType):
        return _one_of(name, value, args)
    if hint in (int, float, bool, str):
        return _plain(name, value, hint)
    if hint is type(None) and value is not None:
        raise ValueError(f"{name} must be None, got {shown(value)}")
    known = isinstance(hint, type) and hint is not Any  # which is a class since Python 3.11
    if known and not (offers(value, hint) if _is_protocol(hint) else isinstance(value, hint)):
        raise ValueError(f"{name} must be of type {hint.__name__}, got {shown(value)}")
    return value


def _bounded(name: str, value: Any, bounds: tuple) -> Any:
    for bound in bounds:
        if isinstance(bound, Bound) and not bound.allows(value):
            raise ValueError(f"{name} must be a number {bound}, got {shown(value)}")
        if isinstance(bound, AtMost) and len(value) > bound.entries:
            raise ValueError(f"{name} must have at most {bound.entries:,} entries, got {len(value):,}")
    return value


def _is_protocol(hint: type) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def offers(value: Any, protocol: type) -> bool:
    """Whether an object has everything that a protocol names; a class is no such object."""
    own = [c for c in protocol.__mro__ if _is_protocol(c) and c is not typing.Protocol]
    names = {n for c in own for n in (*vars(c), *inspect.get_annotations(c))}
    public = (n for n in names if not n.startswith("_") or n == "__call__")
    return not isinstance(value, type) and all(hasattr(value, n) for n in public)


def _plain(name: str, value: Any, hint: type) -> Any:
    boolean = isinstance(value, bool | np.bool_)
    kinds: dict[type, Any] = {int: int | np.integer, float: int | float | np.integer | np.floating, str: str}
    if boolean != (hint is bool) or (hint is not bool and not isinstance(value, kinds[hint])):
        raise ValueError(f"{name} must be of type {hint.__name__}, got {shown(value)}")
    try:
        plain = hint(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: {shown(value)}") from None
    if hint is float and not math.isfinite(plain):
        raise ValueError(f"{name} must be finite, got {plain}")
    return plain


def _tuple(name: str, value: Any, args: tuple) -> tuple:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, tuple | list):
        raise ValueError(f"{name} must be a sequence, got {shown(value)}")
    kinds = args[:1] * len(value) if len(args) == 2 and args[1] is Ellipsis else args
    if len(kinds) != len(value):
        raise ValueError(f"{name} must have {len(kinds)} entries, got {shown(value)}")
    return tuple(_checked(f"{name}[{i}]", v, kind) for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))


def _one_of(name: str, value: Any, args: tuple) -> Any:
    if value is None and type(None) in args:
        return None
    reasons = []
    for kind in (a for a in args if a is not type(None)):
        try:
            return _checked(name, value, kind)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(" or ".join(reasons))
