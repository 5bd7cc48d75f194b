"""Random draws that are handed in instead of being made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastenvs.checks import as_array, has_shape, shown


class Draw(NamedTuple):
    """A random draw that can be handed in: what it holds for one copy."""

    shape: tuple[int, ...]
    dtype: type
    low: float
    high: float
    #: Whether NaN may stand for a draw that is not made.
    optional: bool = False
    #: Why these options make no use of it; it is refused then.
    unused: str = ""
    #: What makes it: ``reset`` (of a call or an autoreset), ``step`` or both.
    made_by: tuple[str, ...] = ("reset", "step")


def check_draws(game: str, specs: Mapping[str, Draw], num_envs: int, draws: Any) -> dict[str, np.ndarray]:
    """Return fresh arrays of the declared types, or say which draw, where, is wrong."""
    if draws is None:
        return {}
    if not isinstance(draws, Mapping):
        raise TypeError(f"draws must be a mapping of names to arrays, got {shown(draws)}")
    checked: dict[str, np.ndarray] = {}
    for name, values in draws.items():
        if name not in specs:
            known = ", ".join(n for n, spec in specs.items() if not spec.unused) or "none"
            raise ValueError(f"{game} with these options draws nothing called {name!r}; draws: {known}")
        checked[name] = _check(name, specs[name], num_envs, values)
    return checked


def _check(name: str, spec: Draw, num_envs: int, values: Any) -> np.ndarray:
    title, whole = f"draw {name!r}", np.dtype(spec.dtype).kind != "f"
    kinds = "biuf" if (spec.low, spec.high) == (0, 1) and whole else "iuf"
    array = as_array(title, values, kinds, "numbers")
    has_shape(title, array, (num_envs, *spec.shape))
    with np.errstate(invalid="ignore"):
        right = (array >= spec.low) & (array <= spec.high) & np.isfinite(array)
        if whole:
            right &= array == np.floor(array)
    if spec.optional:
        right |= np.isnan(array)
    if not right.all():
        where = tuple(int(i) for i in np.argwhere(~right)[0])
        kind = "a whole number" if whole else "a number"
        raise ValueError(
            f"{title} at {where} is {array[where]}, not {kind} in {spec.low}..{spec.high} (environment {where[0]})"
        )
    return np.array(array, spec.dtype, order="C")


def refuse_unused(specs: Mapping[str, Draw], checked: Mapping[str, np.ndarray], doing: tuple[str, ...]) -> None:
    """Refuse a draw that these options, or what a call is ``doing``, would not look at."""
    for name in checked:
        spec = specs[name]
        if spec.unused:
            raise ValueError(f"draw {name!r} would not be used: {spec.unused}")
        if not set(spec.made_by) & set(doing):
            raise ValueError(f"draw {name!r} would not be used: it is made by a {spec.made_by[0]}, not here")
