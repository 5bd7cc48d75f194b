"""Whether a checkpoint fits the learner that is to go on from it: names, shapes and types, before any is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Axes of a tensor by name, products written with ``*``, and its type; None is the type of the run's networks.
Axes = dict[str, tuple[str, torch.dtype | None]]


class MisfitError(ValueError):
    """Something is missing, unknown, or of another shape or type."""


class Group(NamedTuple):
    """Tensors that a fresh learner has not yet, such as the episodes to learn from next."""

    prefix: str  # of their names in a checkpoint
    axes: Axes
    lengths: Mapping[str, int]  # of the axes, where they are known
    needed: bool | None  # whether they have to be there; None: they may
    dtype: torch.dtype  # of the run's networks


State = tuple[dict[str, Tensor], dict[str, Any]]


def check(fresh: State, groups: Sequence[Group], found: State) -> None:
    """Refuse a state that a learner cannot go on from.

    Parameters
    ----------
    fresh : tuple
        Tensors and plain values of a learner that has just been made.
    groups : sequence of Group
        What there may be beyond them.
    found : tuple
        Those of the checkpoint.
    """
    check_like("", fresh[1], found[1])
    rest = dict(found[0])
    for group in groups:
        prefix = f"{group.prefix}/"
        own = {name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)}
        if group.needed is False and own:
            raise MisfitError(f"tensor {prefix}{min(own)} is unknown")
        if own or group.needed:
            check_axes(group, own)
    mine = {name: t for name, t in fresh[0].items() if not any(name.startswith(f"{g.prefix}/") for g in groups)}
    if mine.keys() != rest.keys():
        name = min(mine.keys() ^ rest.keys())
        raise MisfitError(f"tensor {name} is {'missing' if name in mine else 'unknown'}")
    for name, tensor in mine.items():
        _check_one(name, rest[name], tuple(tensor.shape), tensor.dtype)


def begun(values: dict[str, Any]) -> bool:
    """Whether a seed holds episodes to learn from next: from its first iteration on, with their exploration.

    That much of ``values`` is checked here.
    """
    check_like("", {"iteration": 0}, values)
    if values["iteration"]:
        check_like("", {"epsilon": 0.0}, values)
    elif "epsilon" in values:
        raise MisfitError("epsilon is unknown")
    return bool(values["iteration"])


def check_axes(group: Group, found: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose shapes do not agree; the first to have an axis of unknown length says it for all."""
    if group.axes.keys() != found.keys():
        name = min(group.axes.keys() ^ found.keys())
        raise MisfitError(f"tensor {group.prefix}/{name} is {'missing' if name in group.axes else 'unknown'}")
    lengths = dict(group.lengths)
    for name, (text, kind) in group.axes.items():
        tensor, words = found[name], text.split()
        for word, length in zip(words, tensor.shape, strict=False):
            if word.isidentifier():
                lengths.setdefault(word, length)
        shape = tuple(math.prod(int(f) if f.isdecimal() else lengths.get(f, -1) for f in w.split("*")) for w in words)
        _check_one(f"{group.prefix}/{name}", tensor, shape, kind or group.dtype)


def _check_one(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape:
        raise MisfitError(f"tensor {name} has shape {list(tensor.shape)}, not {list(shape)}")
    if tensor.dtype != dtype:
        raise MisfitError(f"tensor {name} has type {tensor.dtype}, not {dtype}")


def check_like(name: str, fresh: Any, found: Any) -> None:
    """Refuse plain values that are not built like those of a fresh learner: same keys, lengths and types."""
    if isinstance(fresh, dict):
        if not isinstance(found, dict) or fresh.keys() - found.keys():
            raise MisfitError(f"{name} lacks {sorted(fresh.keys() - (found if isinstance(found, dict) else {}))[0]}")
        for key, value in fresh.items():
            check_like(f"{name}.{key}" if name else key, value, found[key])
    elif isinstance(fresh, list):
        if not isinstance(found, list) or len(found) != len(fresh):
            raise MisfitError(f"{name} must be a list of {len(fresh)}")
        for value, theirs in zip(fresh, found, strict=True):
            check_like(name, value, theirs)
    elif isinstance(fresh, int):
        if type(found) is not int or not 0 <= found < 2**64:
            raise MisfitError(f"{name} must be a number of steps")
    elif type(found) not in (int, float):
        raise MisfitError(f"{name} must be a number")
