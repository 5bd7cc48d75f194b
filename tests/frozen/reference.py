"""How reference values are stored, read and compared; see README.md beside this file. Needs NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
Arrays = dict[str, np.ndarray]

FULL = 16  # numbers of a tensor; a larger one is kept as a sketch
FULL_BATCH = 36  # the same for the numbers of one seed's batch
_SAMPLE, _SUMS = 5, 3
_CONFIGS = ("config", "adopted")


def sketch(x: np.ndarray) -> np.ndarray:
    """Entries at equal distances, at most five, and three weighted sums of all: one wrong entry changes every sum."""
    flat = np.asarray(x, float).ravel()
    weights = np.cos(0.7 + 0.9 * np.arange(1, _SUMS + 1)[:, None] * np.arange(flat.size))
    return np.concatenate([flat[:: -(-flat.size // _SAMPLE)], (weights * flat).sum(1)])


def stored(x: np.ndarray) -> np.ndarray:
    """What is kept of a network's tensor: the whole of a small one, a sketch of a larger one; float64, flat."""
    return np.asarray(x, float).ravel() if x.size <= FULL else sketch(x)


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest deviation, relative to the largest number of ``want``; infinite where shapes differ or one is not finite.

    Whole numbers must be the same.
    """
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or not np.isfinite(got).all():
        return np.inf
    if not want.size or np.array_equal(got, want):
        return 0.0
    if want.dtype.kind != "f" or not np.abs(want).max():
        return np.inf
    return float(np.abs(got.astype(float) - want).max() / np.abs(want).max())


@dataclass
class Reference:
    """What a learner did.

    Attributes
    ----------
    config, adopted : dict
        The configuration; and that of the run whose agents it started with, or None.
    initial : dict
        All parameters before the first iteration, whole.
    final : dict
        What is kept of the parameters after the last iteration, by :func:`stored`.
    shapes : dict
        Shapes of the tensors of ``final``.
    batches : dict
        What was played and paid, ``[N, S, ...]`` for N batches in the order in which they were collected; arrays that
        are 0 throughout are left out.
    counters : dict
        Numbers that each stream had drawn in the end.
    """

    config: dict[str, Any]
    adopted: dict[str, Any] | None
    initial: Arrays
    final: Arrays
    shapes: dict[str, tuple[int, ...]]
    batches: Arrays
    counters: dict[str, list[int]]

    def errors(self, other: Reference) -> dict[str, float]:
        """Errors of another run's parameters and batches, by name."""
        found: dict[str, float] = {}
        for kind in ("initial", "final", "batches"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            for name in mine.keys() | theirs.keys():
                missing = name not in mine or name not in theirs
                found[f"{kind}/{name}"] = np.inf if missing else error(theirs[name], mine[name])
        found["counters"] = 0.0 if self.counters == other.counters else np.inf
        return found


def names() -> list[str]:
    """All references, ``game/case``."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.npz"))


# ---------------------------------------------------------------------- files


def defaults(game: str) -> dict[str, Any]:
    """The configuration that a game's cases differ from."""
    return json.loads((FOLDER / game / "defaults.json").read_text())


def write(name: str, ref: Reference, draws: dict[str, Any]) -> None:
    """Write a reference; ``draws`` says of some initial tensors how they were drawn, so they need no room."""
    game = defaults(name.split("/")[0])
    layout = {
        "initial": {n: [list(x.shape), draws.get(n)] for n, x in ref.initial.items()},
        "final": {n: None if n in ref.initial else list(shape) for n, shape in ref.shapes.items()},
        "batches": {n: [x.dtype.kind, list(x.shape)] for n, x in ref.batches.items()},
        "counters": ref.counters,
    }
    entries: dict[str, Any] = {"config": _text(_changed(ref.config, game)), "layout": _text(layout)}
    if ref.adopted is not None:
        entries["adopted"] = _text(_changed(ref.adopted, game))
    entries["initial"] = _joined((x for n, x in ref.initial.items() if n not in draws), float)
    entries["final"] = _joined(ref.final.values(), float)
    entries["batches_whole"] = _joined((x for x in ref.batches.values() if x.dtype.kind == "i"), np.int16)
    entries["batches_real"] = _joined((x for x in ref.batches.values() if x.dtype.kind == "f"), float)
    np.savez_compressed(FOLDER / f"{name}.npz", **{key: x for key, x in entries.items() if x.size})


def read(name: str) -> Reference:
    """The reference ``game/case``."""
    game = defaults(name.split("/")[0])
    with np.load(FOLDER / f"{name}.npz") as archive:
        entries = {key: archive[key] for key in archive.files}
    at = dict.fromkeys(entries, 0)

    def cut(key: str, shape: Any) -> np.ndarray:
        begin = at[key]
        at[key] += int(np.prod(shape))
        return entries[key][begin : at[key]].reshape(shape)

    layout, changes = _values(entries["layout"]), {key: _values(entries[key]) for key in _CONFIGS if key in entries}
    initial = {
        n: cut("initial", shape) if draws is None else _drawn(draws, shape)
        for n, (shape, draws) in layout["initial"].items()
    }
    shapes = {n: initial[n].shape if shape is None else tuple(shape) for n, shape in layout["final"].items()}
    final = {n: cut("final", stored(np.zeros(shape)).shape) for n, shape in shapes.items()}
    parts = {"i": "batches_whole", "f": "batches_real"}
    batches = {n: cut(parts[kind], shape) for n, (kind, shape) in layout["batches"].items()}
    config, adopted = (_merged(game, changes[key]) if key in changes else None for key in _CONFIGS)
    return Reference(config, adopted, initial, final, shapes, batches, layout["counters"])


def _joined(arrays: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(x.ravel().astype(dtype) for x in arrays)])


def _text(values: Any) -> np.ndarray:
    return np.array(json.dumps(values, separators=(",", ":")).encode())


def _values(text: np.ndarray) -> Any:
    return json.loads(bytes(text))


def _changed(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Entries that are other than in ``base``, group by group."""
    nested = {n: _changed(v, base[n]) for n, v in values.items() if isinstance(v, dict)}
    plain = {n: v for n, v in values.items() if n not in nested and v != base[n]}
    return plain | {n: v for n, v in nested.items() if v}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`_changed`."""
    return base | {n: _merged(base[n], v) if isinstance(v, dict) else v for n, v in changes.items()}


def _drawn(draws: list[Any], shape: Any) -> np.ndarray:
    """A tensor from how each seed's part came about.

    ``[seed, uniforms drawn before, limit]``: uniform in ± limit; a number: that number throughout.
    """
    size, parts = int(np.prod(shape)) // len(draws), []
    for how in draws:
        if isinstance(how, list):
            seed, before, limit = how
            generator = np.random.default_rng(seed)
            generator.bit_generator.advance(before)  # type: ignore[attr-defined]
            parts.append(generator.uniform(-limit, limit, size))
        else:
            parts.append(np.full(size, float(how)))
    return np.concatenate(parts).reshape(shape)


def train(trainer, iterations, diagnosed=None):
    """Train for some iterations, one of them with diagnostics; gives the batches that were played."""
    played, collect = [], trainer.collect

    def watched(agent_state):
        played.append(collect(agent_state))
        return played[-1]

    trainer.collect = watched
    for i in range(iterations):
        trainer.iterate(diagnose=i == diagnosed)
    return played
