"""Snapshots: arrays by path, a fingerprint of the options, and the checks that let nothing impossible in."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastenvs.checks import shown
from fastenvs.grid import CLEANUP_MAPS, GTB_MAPS, map_text

#: Lowest and highest value of an array, by its path in the state; further checks are a game's own.
Bounds = Mapping[str, tuple[float, float]]

_FLAG = (0, 1)


def iter_leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of nested dicts and NamedTuples with their paths, ``a/b/c``."""
    for key, value in (tree if isinstance(tree, dict) else tree._asdict()).items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value
        else:
            yield from iter_leaves(value, f"{prefix}{key}/")


def rebuild(tree: Any, arrays: Mapping[str, np.ndarray], prefix: str) -> Any:
    """A NamedTuple of NamedTuples like ``tree``, with the arrays of these paths."""
    return type(tree)(
        *(
            arrays[f"{prefix}{key}"] if isinstance(value, np.ndarray) else rebuild(value, arrays, f"{prefix}{key}/")
            for key, value in tree._asdict().items()
        )
    )


def map_cells(options: Any) -> np.ndarray | None:
    """Symbols of the map that the options name, ``[H, W]``, if they name one."""
    return next((getattr(options, name) for name in ("cells", "symbols") if hasattr(options, name)), None)


def portable_options(options: Any) -> dict[str, Any]:
    """Options as keywords; a map that lies in a file becomes its text: elsewhere the file may not be."""
    out = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    cells = map_cells(options)
    if cells is not None:
        named = isinstance(out["map"], str) and (out["map"] in GTB_MAPS or out["map"] in CLEANUP_MAPS)
        if isinstance(out["map"], Path) or not (named or any(end in out["map"] for end in ";\n\r")):
            out["map"] = map_text(cells)
    return out


def fingerprint(name: str, autoreset: str, options: Any) -> np.ndarray:
    """Digest of what copies play by, uint8 ``[32]``: of the options and the map's cells, not its name."""
    rules = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    cells = map_cells(options)
    if cells is not None:
        rules["map"] = map_text(cells)
    return np.frombuffer(hashlib.sha256(repr((name, autoreset, rules)).encode()).digest(), np.uint8)


def check_layout(mine: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of a snapshot in the environment's own layout and byte order; names, shapes and dtypes must agree."""
    if mine.keys() != given.keys():
        raise ValueError(f"snapshot and environment differ in: {sorted(map(str, mine.keys() ^ given.keys()))}")
    out = {}
    for name, array in mine.items():
        new = given[name]
        if not isinstance(new, np.ndarray) or isinstance(new, np.ma.MaskedArray):
            raise ValueError(f"snapshot array {name!r} must be an array, got {shown(new)}")
        if new.shape != array.shape or new.dtype.newbyteorder("=") != array.dtype:
            raise ValueError(
                f"snapshot array {name!r} is {new.dtype} {list(new.shape)}, "
                f"the environment has {array.dtype} {list(array.shape)}"
            )
        out[name] = np.array(new, array.dtype, order="C")
    return out


def check_bounds(arrays: Mapping[str, np.ndarray], bounds: Bounds) -> None:
    """Refuse a value outside its bounds; numbers without bounds must be finite, truth values 0 or 1."""
    low: float
    high: float
    for name, array in arrays.items():
        if array.dtype == np.bool_:
            array, (low, high) = array.view(np.uint8), _FLAG
        elif name in bounds:
            low, high = bounds[name]
        elif array.dtype.kind == "f":
            low, high = np.finfo(array.dtype).min, np.finfo(array.dtype).max
        else:
            continue
        if array.size and not (array.min() >= low and array.max() <= high):  # NaN is neither
            refuse(name, array, ~((array >= low) & (array <= high)), f"not in {low}..{high}")


def refuse(name: str, array: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    """Refuse the first entry that is marked in ``wrong``, whose axes are the first of the array's; none, no error."""
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f" at {list(where[1:])}" if len(where) > 1 else ""
        raise ValueError(f"snapshot array {name!r} of copy {where[0]}{at} is {shown(array[where].tolist())}: {rule}")
