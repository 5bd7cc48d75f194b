"""Snapshots: arrays by path, a fingerprint of the options, and the checks that let nothing impossible in."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastenvs.checks import shown
from fastenvs.grid import CLEANUP_MAPS, GTB_MAPS, map_text
from fastenvs.guard import Guarded, exclusive

#: Lowest and highest value of an array, by its path in the state; further checks are a game's own.
Bounds = Mapping[str, tuple[float, float]]

_FLAG = (0, 1)


def copy_tree(tree):
    """Copy nested dicts and tuples of arrays."""
    return map_tree(np.ndarray.copy, tree)


def map_tree(function: Callable[[np.ndarray], np.ndarray], tree):
    """Nested dicts and tuples of what ``function`` makes of each array."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tree(function, value) for value in tree)
    return function(tree)


def fresh_maker(tree: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A function that makes fresh nested dicts around the same arrays, without looking for what is nested."""
    nested = [(key, fresh_maker(value)) for key, value in tree.items() if isinstance(value, dict)]
    if not nested:
        return tree.copy

    def make() -> dict[str, Any]:
        out = tree.copy()
        for key, inner in nested:
            out[key] = inner()
        return out

    return make


def rows_of(mask: np.ndarray, lo: int, hi: int) -> slice | np.ndarray:
    """Rows of ``[lo, hi)`` where ``mask`` is set, to index by; a slice, which is copied fast, if it is set in all."""
    rows = np.flatnonzero(mask[lo:hi])
    return slice(lo, hi) if len(rows) == hi - lo else rows + lo


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
    given = ((field, getattr(options, field.name)) for field in dataclasses.fields(options))
    rules = {
        field.name: f"{value.__module__}:{value.__qualname__}" if callable(value) else value
        for field, value in given if not (field.metadata.get("later") and value == field.default)
    }  # fmt: skip
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


def space_bounds(space: Any, path: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Lowest and highest value of the integers of nested spaces, by path."""
    if hasattr(space, "spaces"):
        for key, part in space.spaces.items():
            yield from space_bounds(part, f"{path}/{key}")
    elif space.dtype.kind in "iu":
        yield path, (int(space.low.min()), int(space.high.max()))


def refuse(name: str, array: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    """Refuse the first entry that is marked in ``wrong``, whose axes are the first of the array's; none, no error."""
    if np.any(wrong):
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f" at {list(where[1:])}" if len(where) > 1 else ""
        raise ValueError(f"snapshot array {name!r} of copy {where[0]}{at} is {shown(array[where].tolist())}: {rule}")


class Snapshots(Guarded):
    """The part of an environment that saves it, brings it back, and copies it."""

    name: ClassVar[str]
    #: Path of the state's array that counts steps of the episode; its bound is the step limit.
    time_leaf: ClassVar[str] = "time"

    n_actions: int
    copy: bool
    options: Any
    state: Any
    streams: Any
    buffers: Any
    _done: np.ndarray
    _obs: dict[str, Any]
    _started: bool

    @property
    def num_envs(self) -> int:
        """Number of copies, N."""
        raise NotImplementedError

    @property
    def autoreset(self) -> str:
        """What happens when an episode ends."""
        raise NotImplementedError

    @property
    def num_threads(self) -> int:
        """Most threads that share a call."""
        raise NotImplementedError

    @property
    def single_observation_space(self) -> Any:
        """Observation space of one copy: ``Dict(agents=..., designer=...)``."""
        raise NotImplementedError

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of the state's arrays, by path; all integers have an entry."""
        raise NotImplementedError

    def _check_state(self, state: Any) -> None:
        """Refuse a state, of values within their bounds, whose arrays contradict each other."""
        raise NotImplementedError

    def _restored(self) -> None:
        """Do what a restored state needs."""

    def _show_flags(self) -> None:
        """Write the flags that are handed out."""

    def _leaves(self) -> dict[str, np.ndarray]:
        parts = {
            "state": self.state,
            "streams": self.streams,
            "buffers": self.buffers,
            "done": self._done,
            "obs": self._obs,
        }
        # Read-only observations are views of the state.
        return {name: array for name, array in iter_leaves(parts) if array.flags.writeable}

    @exclusive
    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything that decides how the copies go on, as a flat dict of fresh arrays."""
        if not self._started:
            raise RuntimeError("call reset() before the first snapshot()")
        return {"options": self._options_digest(), **copy_tree(self._leaves())}

    def _options_digest(self) -> np.ndarray:
        """A fingerprint of what the copies play by, uint8 ``[32]``."""
        return fingerprint(self.name, self.autoreset, self.options)

    @exclusive
    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go back to a snapshot of an environment made with the same options.

        Raises
        ------
        ValueError
            If it is of other options, an array is missing, unknown, or of another shape or dtype, or a value is one
            that no play leads to; nothing is changed then.
        """
        if not isinstance(snapshot, Mapping):
            raise TypeError(f"a snapshot is a mapping of names to arrays, got {shown(snapshot)}")
        given = dict(snapshot)
        digest, mine = given.pop("options", None), self._leaves()
        arrays = check_layout(mine, given)
        if digest is None or not np.array_equal(digest, self._options_digest()):
            raise ValueError("the snapshot is of an environment with other options")
        self._check_values(arrays)
        self._put(arrays)
        self._started = True

    def _check_values(self, arrays: dict[str, np.ndarray]) -> None:
        bounds = {f"state/{name}": limits for name, limits in self._state_bounds().items()}
        bounds |= dict(space_bounds(self.single_observation_space, "obs"))
        bounds["buffers/actions"] = (0, self.n_actions - 1)
        check_bounds(arrays, bounds)
        refuse("streams/stride", arrays["streams/stride"], arrays["streams/stride"] % 2 == 0, "not odd")
        over = arrays["buffers/terminated"] | arrays["buffers/truncated"]
        refuse("done", arrays["done"], arrays["done"] != over, "not whether it was terminated or truncated")
        if self.autoreset == "same_step":
            refuse("buffers/active", arrays["buffers/active"], ~arrays["buffers/active"], "all copies step")
        time, limit = arrays[f"state/{self.time_leaf}"], bounds[f"state/{self.time_leaf}"][1]
        late = (time >= limit) & ~arrays["done"]
        refuse(f"state/{self.time_leaf}", time, late, "the step limit, but the episode is not over")
        self._check_state(rebuild(self.state, arrays, "state/"))

    def _put(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in self._leaves().items():
            array[...] = arrays[name]
        self._show_flags()
        self._restored()

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        """Constructor's options and all arrays: views of buffers would not survive a copy of their own."""
        shared = {"autoreset": self.autoreset, "num_threads": self.num_threads, "copy": self.copy, "seed": 0}
        return {
            "num_envs": self.num_envs,
            "options": {**portable_options(self.options), **shared},
            "started": self._started,
            "arrays": copy_tree(self._leaves()),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        type(self).__init__(self, saved["num_envs"], **saved["options"])  # type: ignore[call-arg]
        self._put(saved["arrays"])
        self._started = saved["started"]
