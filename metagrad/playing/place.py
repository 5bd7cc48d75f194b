"""Where episodes are played: an environment and its random streams, how they are shared out, saved and restored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fastenvs import rng
from fastenvs.vecenv import VecEnv
from metagrad.batch import below, check_env, check_names, check_streams, flatten
from metagrad.parallel import group
from metagrad.streams import Streams

#: Parts of an environment's state that are of all its copies together.
COMMON = ("options", "resets")


class Place:
    """An environment with K copies for each of S seeds, and the random streams of a phase.

    The processes of a group share the copies, each seed's alike, if their number divides K; otherwise each has all.

    Parameters
    ----------
    task : VectorTask
        The game.
    seeds : sequence of int
    k : int
        Copies of each seed, K.
    phase : {"train", "eval", "test"}
    """

    def __init__(self, task: Any, seeds: Sequence[int], k: int, phase: str = "train") -> None:
        self.task, self.k = task, k
        self.rng = Streams(seeds, phase, shared=k % group.size() == 0)
        self.env = self._made()

    def _made(self) -> Any:
        """Copies for this process."""
        if self.rng.parts == 1:
            return self._whole()
        seeds = self.rng.env_seeds()
        n = len(seeds) * self.k
        env = self.task.make(n // group.size(), seeds)
        inner = getattr(env, "env", env)
        if isinstance(inner, VecEnv):  # every copy draws what it would draw if all were here
            for mine, every in zip(inner.streams, rng.make_streams(seeds, n), strict=True):
                mine[:] = group.own_copies(every, len(seeds), self.k)
        elif group.rank():
            env = self.task.make(n // group.size(), self.rng.env_seeds(group.rank()))
        return env

    def _whole(self) -> Any:
        """All copies."""
        seeds = self.rng.env_seeds()
        return self.task.make(len(seeds) * self.k, seeds)

    def tensors(self) -> dict[str, Tensor]:
        """How copies and streams go on, by name; the same whatever the number of processes."""
        state = env_state(self.env)
        if self.rng.parts > 1:
            state = {name: self._gathered(name, x) for name, x in state.items()}
        return flatten({"streams": self.rng.counters(), "env": state})

    def _gathered(self, name: str, x: np.ndarray) -> np.ndarray:
        if _common(name, x):
            return x
        if not x.ndim or len(x) != self.env.num_envs:
            raise ValueError(f"the environment's {name} is not by copy, so that several processes cannot save it")
        return group.all_copies(x, len(self.rng.seeds))

    def load(self, tensors: dict[str, Tensor], dry: bool = False) -> None:
        """Go on from :meth:`tensors`, or only see whether they fit; nothing is changed if they do not."""
        env, streams = below(tensors, "env/"), below(tensors, "streams/")
        check_names({n: t for n, t in tensors.items() if not n.startswith(("env/", "streams/"))}, [])
        check_streams(streams, self.rng, "streams/")
        other = self._whole()
        if streams["actions"].any():
            other.reset()
        check_env(env, env_state(other))
        set_env_state(other, env)
        if dry:
            return
        if self.rng.parts > 1:
            other, whole = self._made(), {name: t.cpu().numpy() for name, t in env.items()}
            n = len(self.rng.seeds)
            set_env_state(other, {
                name: x if _common(name, x) else group.own_copies(x, n, self.k) for name, x in whole.items()
            })  # fmt: skip
        self.rng.set_counters({name: t.cpu().numpy() for name, t in streams.items()})
        self.env = other


def _common(name: str, x: np.ndarray) -> bool:
    """Whether this part of an environment's state is of all its copies together, or of none."""
    return name in COMMON or x.size == 0


def env_state(env: Any) -> dict[str, np.ndarray]:
    """What decides how an environment goes on between episodes, as arrays.

    An environment that has ``snapshot`` and ``restore`` is asked; of others the number of resets is kept, from which
    their next seeds follow.
    """
    inner = getattr(env, "env", env)
    if hasattr(inner, "snapshot"):
        try:
            return {name.replace("/", "."): x for name, x in inner.snapshot().items()}
        except RuntimeError:  # not reset yet
            return {}
    if hasattr(inner, "resets"):
        return {"resets": np.array(inner.resets)}
    return {}


def set_env_state(env: Any, state: dict[str, Any]) -> None:
    """Inverse of :func:`env_state`, from arrays or tensors."""
    inner = getattr(env, "env", env)
    if not state:
        return
    if hasattr(inner, "snapshot"):
        if not getattr(inner, "_started", True):
            inner.reset()
        like = inner.snapshot()
        arrays = {name.replace(".", "/"): np.asarray(x) for name, x in state.items()}
        missing = like.keys() - arrays.keys()
        if missing:
            raise ValueError(f"the saved environment lacks {', '.join(sorted(missing))}")
        inner.restore({name: x.view(like[name].dtype) for name, x in arrays.items()})
    else:
        inner.resets = int(state["resets"].item())
