"""Whether saved tensors fit a trainer: names, shapes and types, before any is taken over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metagrad.batch import Batch, flatten
from metagrad.streams import Streams

# Leading axes of a batch's entries, by the first part of their names: seed, step, episode, agent, and for rows also
# G and R; the axes behind are those of one entry.
_AXES = {
    **dict.fromkeys(("actions", "log_prob", "rewards", "payments"), "STKA"),
    **dict.fromkeys(("alive", "cut", "designer_rewards", "designer_obs", "extra"), "STK"),
    "values": "SUKA", "last_designer_obs": "SK", "obs": "GR", "last_obs": "GL",
}  # fmt: skip


def check_names(found: dict[str, Tensor], wanted: Sequence[str], what: str = "") -> None:
    """Refuse tensors that are missing or unknown."""
    for name in sorted(found.keys() ^ set(wanted)):
        raise ValueError(f"{what}{name} is {'unknown' if name in found else 'missing'}")


def check_tensor(name: str, found: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or type."""
    if tuple(found.shape) != tuple(shape) or found.dtype != dtype:
        raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, but {dtype} {list(shape)} is needed")


def check_like(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str = "") -> None:
    """Refuse tensors that are not named and shaped as others are."""
    check_names(found, list(wanted), what)
    for name, t in wanted.items():
        check_tensor(f"{what}{name}", found[name], t.shape, t.dtype)


def check_batch(found: dict[str, Tensor], like: Batch, seeds: int, k: int, what: str) -> None:
    """Refuse saved episodes that are not those of ``seeds`` seeds and ``k`` episodes.

    Parameters
    ----------
    found : dict
        A batch by names.
    like : Batch
        One of the same game, agents and designer, of any numbers of seeds and episodes.
    seeds, k : int
    what : str
        Before the names, in messages.
    """
    wanted = flatten(like)
    check_names(found, list(wanted), what)
    steps = found["actions"].shape[1] if found["actions"].dim() == 4 else 0
    if not 1 <= steps <= like.horizon:
        raise ValueError(f"{what}actions has shape {list(found['actions'].shape)}, with steps up to {like.horizon}")
    a = like.actions.shape[3]
    g, per_step = (seeds, k * a) if like.shared else (seeds * a, k)
    length = {"S": seeds, "T": steps, "U": steps + 1, "K": k, "A": a, "G": g, "R": steps * per_step, "L": per_step}
    for name, t in wanted.items():
        axes = _AXES.get(name.split("/")[0], "")
        check_tensor(f"{what}{name}", found[name], (*(length[x] for x in axes), *t.shape[len(axes) :]), t.dtype)
    for name in ("n_actions", "horizon", "shared"):
        if found[name].item() != wanted[name].item():
            raise ValueError(f"{what}{name} is {found[name].item()}, not {wanted[name].item()}")
    _check_ranges(found, what)


def _check_ranges(found: dict[str, Tensor], what: str) -> None:
    """Refuse numbers that would be used as places or shares and are none."""
    actions, epsilon = found["actions"], found["epsilon"].item()
    if int(actions.min()) < 0 or int(actions.max()) >= found["n_actions"].item():
        raise ValueError(f"{what}actions must be from 0 to {found['n_actions'].item() - 1}")
    if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
        raise ValueError(f"{what}epsilon must be from 0 to 1, got {epsilon}")


def check_streams(found: dict[str, Tensor], rng: Streams, what: str) -> None:
    """Refuse positions of random streams that are not those of these seeds and purposes."""
    check_like(found, flatten(rng.counters()), what)
    for name, t in found.items():
        if bool((t < 0).any()):
            raise ValueError(f"{what}{name} must not be negative")


def check_env(found: dict[str, Tensor], wanted: dict[str, np.ndarray]) -> None:
    """Refuse what is saved of an environment unless it is named and shaped as ``wanted``."""
    check_like(found, flatten(wanted), "env/")
    if "resets" in found and found["resets"].item() < 0:
        raise ValueError("env/resets must not be negative")
