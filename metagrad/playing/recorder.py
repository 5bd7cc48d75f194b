"""What a rollout writes down, in the order in which networks read it, and the kernels that draw and write."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import kernel
from metagrad.batch import Batch
from metagrad.networks.base import Obs, Where
from metagrad.parallel import group


@kernel
def choose(logits, mask, uniform, epsilon, room, actions, log_prob):
    """Sample from the masked softmax, mixed with a uniform choice among the legal actions, by inverse distribution.

    ``logits`` is ``[S, K, A, L]``, ``mask`` uint8 ``[S * K, A, L]`` or without rows, ``uniform`` ``[S, K * A]``; one
    uniform is used for every action whatever happens. ``room`` is float64 ``[L]``.
    """
    n_seeds, k, n_agents, n_actions = logits.shape
    masked = mask.shape[0] > 0
    for s in range(n_seeds):
        for j in range(k):
            e = s * k + j
            for i in range(n_agents):
                top, legal = -np.inf, 0
                for a in range(n_actions):
                    if not masked or mask[e, i, a]:
                        top, legal = max(top, np.float64(logits[s, j, i, a])), legal + 1
                total = 0.0
                for a in range(n_actions):
                    if not masked or mask[e, i, a]:
                        gap = np.float64(logits[s, j, i, a]) - top
                        room[a] = np.exp(gap) if gap < 0 else 1.0
                        total += room[a]
                left, chosen, probability = np.float64(uniform[s, j * n_agents + i]), 0, 1.0
                for a in range(n_actions):
                    if left < 0:
                        break
                    if not masked or mask[e, i, a]:
                        p = (1.0 - epsilon) * room[a] / total + epsilon / legal
                        left -= p
                        chosen, probability = a, p
                actions[s, j, i] = chosen
                log_prob[s, j, i] = np.log(probability)


class Kept(NamedTuple):
    """What is kept of every step, ``[S, T, K, ...]``."""

    actions: np.ndarray  # int64, by agent
    log_prob: np.ndarray  # by agent
    rewards: np.ndarray  # by agent
    designer_rewards: np.ndarray
    alive: np.ndarray
    cut: np.ndarray


@kernel
def _keep(t, last, earned, designer_earned, terminated, truncated, actions, log_prob, over, hidden, kept):
    """Write what a step brought in the copies that were not over before it, and bring their flags up to date.

    ``last`` says whether the step limit cuts off what still goes on. Returns whether any copy is over, and whether all
    are.
    """
    k = kept.alive.shape[2]
    some, everyone = False, True
    for e in range(over.shape[0]):
        s, j = e // k, e % k
        if over[e]:
            hidden[e] = True
            some = True
            continue
        kept.alive[s, t, j] = 1
        kept.designer_rewards[s, t, j] = designer_earned[e]
        for i in range(earned.shape[1]):
            kept.actions[s, t, j, i] = actions[s, j, i]
            kept.log_prob[s, t, j, i] = log_prob[s, j, i]
            kept.rewards[s, t, j, i] = earned[e, i]
        # What a copy shows once it was cut off stands for what would have followed.
        kept.cut[s, t, j] = not terminated[e] and (truncated[e] or last)
        over[e] = terminated[e] or truncated[e]
        hidden[e] = terminated[e]
        some |= over[e]
        everyone &= over[e]
    return some, everyone


@kernel
def _show(x, blank, fill, rows, t):
    """Write what all agents see, ``x [S * K, A, W]``, to step ``t`` of ``rows [S, P, T, Q, W]``.

    The agents of a seed share a network, P = 1 and Q = K * A, or there are P = A networks with Q = K rows. Copies that
    are ``blank`` show ``fill``.
    """
    n_agents, k, each = x.shape[1], len(x) // len(rows), x.shape[1] // rows.shape[1]
    for e in range(len(x)):
        s, j = e // k, e % k
        for i in range(n_agents):
            p, q = (0, j * n_agents + i) if each > 1 else (i, j)
            if blank[e]:
                for w in range(x.shape[2]):
                    rows[s, p, t, q, w] = fill
            else:
                for w in range(x.shape[2]):
                    rows[s, p, t, q, w] = x[e, i, w]


class Recorder:
    """Arrays that a rollout fills: S seeds, K episodes, A agents, ``steps`` up to the step limit.

    ``over`` tells which of the N copies have ended their episode.
    """

    def __init__(self, n_seeds: int, k: int, n_agents: int, steps: int, where: Where, shared: bool) -> None:
        self.n_seeds, self.k, self.steps, self.where, self.shared = n_seeds, k, steps, where, shared
        self.float = torch.empty(0, dtype=where.dtype).numpy().dtype
        by_agent, by_copy = (n_seeds, steps, k, n_agents), (n_seeds, steps, k)
        self.kept = Kept(
            np.zeros(by_agent, np.int64),
            *(np.zeros(by_agent, self.float) for _ in range(2)),
            *(np.zeros(by_copy, self.float) for _ in range(3)),
        )
        self.over = np.zeros(n_seeds * k, np.bool_)
        self._hidden = np.zeros(n_seeds * k, np.bool_)  # copies that show nothing any more
        self._some_over = False
        self._obs: dict[str, tuple[np.ndarray, Tensor]] = {}  # [S, P, T + 1, Q, W], and as rows [G, T + 1, Q, ...]
        self._designer: dict[str, np.ndarray] = {}  # [S, T + 1, K, ...]
        self._extra: dict[str, np.ndarray] = {}  # [S, T, K, ...]

    def see(self, t: int, obs: dict[str, np.ndarray]) -> Obs:
        """Write the agents' observations ``[N, A, ...]`` of step ``t``; returns them as rows of that step."""
        for name, x in obs.items():
            if name not in self._obs:
                self._obs[name] = self._rows_like(_known(name), x)
            elif name != "mask":
                _check_type(name, x, self._obs[name][0])
            mask = name == "mask"  # all actions are legal after the end, so that every row has a distribution
            seen = (as_bytes(x) if mask else np.ascontiguousarray(x)).reshape(*x.shape[:2], -1)
            _show(seen, self.over if mask else self._hidden, mask, self._obs[name][0], t)
        return self.rows(t)

    def rows(self, t: int) -> Obs:
        """The agents' observations of step ``t`` as rows."""
        return {name: self._there(rows[:, t]) for name, (_, rows) in self._obs.items()}

    def see_designer(self, t: int, obs: dict[str, np.ndarray]) -> None:
        """Write the designer's observations ``[N, ...]`` of step ``t``."""
        for name, x in obs.items():
            if name not in self._designer:
                self._designer[_known(name)] = self._zeros(self.steps + 1, x, self._dtype_of(x, 1))
            _check_type(name, x, self._designer[name])
            rows = self._designer[name].reshape(self.n_seeds, 1, self.steps + 1, self.k, -1)
            _show(np.ascontiguousarray(x).reshape(len(x), 1, -1), self._hidden, False, rows, t)

    def note(self, t: int, extra: dict[str, np.ndarray]) -> None:
        """Write what task and designer record of step ``t``, ``[N, ...]``; before :meth:`keep`."""
        for name, x in extra.items():
            if name not in self._extra:
                self._extra[_known(name)] = self._zeros(self.steps, x, x.dtype)
            _check_type(name, x, self._extra[name])
            self._write(self._extra[name][:, t], x, self.over)

    def keep(self, t: int, result: tuple, actions: np.ndarray, log_prob: np.ndarray) -> bool:
        """Write what step ``t`` brought; returns whether all copies are over."""
        _, rewards, terminated, truncated, info = result
        self._some_over, everyone = _keep(
            t, t + 1 == self.steps, _as(rewards, self.float), _as(info["designer_reward"], self.float),
            _as(terminated, np.bool_), _as(truncated, np.bool_), actions, log_prob, self.over, self._hidden, self.kept,
        )  # fmt: skip
        return everyone

    def by_copy(self, logits: Tensor) -> np.ndarray:
        """Outputs of the networks for one step, ``[S, K, A, L]``."""
        x = logits.cpu().numpy()
        if self.shared:
            return x.reshape(self.n_seeds, self.k, -1, x.shape[-1])
        return x.reshape(self.n_seeds, -1, self.k, x.shape[-1]).swapaxes(1, 2)

    def _write(self, rows: np.ndarray, x: np.ndarray, blank: np.ndarray) -> None:
        np.copyto(rows, x.reshape(rows.shape), casting="unsafe")
        if self._some_over:
            rows[blank.reshape(self.n_seeds, self.k)] = 0

    def _rows_like(self, name: str, x: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Room for an observation at all steps and after the last."""
        dtype = np.dtype(np.bool_) if name == "mask" else self._dtype_of(x, 2)
        networks, each = (1, self.k * x.shape[1]) if self.shared else (x.shape[1], self.k)
        shape = (self.n_seeds * networks, self.steps + 1, each, *x.shape[2:])
        rows = (np.ones if name == "mask" else np.zeros)(shape, dtype)
        return rows.reshape(self.n_seeds, networks, *shape[1:3], -1), torch.from_numpy(rows)

    def _zeros(self, steps: int, x: np.ndarray, dtype: Any) -> np.ndarray:
        return np.zeros((self.n_seeds, steps, self.k, *x.shape[1:]), dtype)

    def _dtype_of(self, x: np.ndarray, leading: int) -> np.dtype:
        """Pictures of bytes stay bytes, all other observations are floats of the run's type."""
        return x.dtype if x.dtype == np.uint8 and x.ndim > leading + 1 else self.float

    def batch(self, steps: int, epsilon: float, n_actions: int, options: Any) -> Batch:
        """All that was written of the first steps; with payments of zero, and without values."""

        def cut(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
            return {name: self._tensor(x[:, :steps]) for name, x in arrays.items()}

        kept = cut(self.kept._asdict())
        return Batch(
            **kept, payments=torch.zeros_like(kept["rewards"]), values=None, epsilon=epsilon, shared=self.shared,
            n_actions=n_actions, horizon=self.steps, designer_obs=cut(self._designer), extra=cut(self._extra),
            obs={name: self._there(rows[:, :steps].flatten(1, 2)) for name, (_, rows) in self._obs.items()},
            last_obs=self.rows(steps), options=options,
            last_designer_obs={name: self._tensor(x[:, steps]) for name, x in self._designer.items()},
        )  # fmt: skip

    def _tensor(self, x: np.ndarray) -> Tensor:
        return self._there(torch.from_numpy(x))

    def _there(self, x: Tensor) -> Tensor:
        return x if self.where.device == "cpu" else x.to(self.where.device)


def _known(name: str) -> str:
    """A name of what is seen or recorded, which stands in a path where it is saved."""
    if "/" in name:
        raise ValueError(f"what is seen or recorded cannot be called {name!r}, with a slash")
    return name


def _check_type(name: str, x: np.ndarray, kept: np.ndarray) -> None:
    """Refuse numbers that would be cut to the type of an episode's first ones."""
    if not np.can_cast(x.dtype, kept.dtype, "same_kind"):
        raise ValueError(f"{name!r} was {kept.dtype} at first, and turned to {x.dtype} in an episode")


def _as(x: Any, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(x, dtype)


def as_bytes(mask: np.ndarray) -> np.ndarray:
    """Legal actions as bytes; no copy where they are bytes or booleans already."""
    if mask.dtype.itemsize != 1:
        mask = mask.astype(np.bool_)
    return np.ascontiguousarray(mask).view(np.uint8)


def steps_to_keep(used: int, steps: int, k: int, parts: int) -> int:
    """Steps of a batch, with trailing empty ones cut off.

    How long the longest episode is depends on all seeds. Compiled passes and the sums of ``estimators`` do not change
    by a bit with the number of empty rows, as long as it is a multiple of 16. A library's products, by which other
    networks run, may sum other numbers of rows in another order. Processes that share the episodes keep as many as one
    would.
    """
    if parts > 1:
        used, k = group.most(used), k * parts
    block = math.lcm(k, 16) // k
    return -(-used // block) * block if steps % block == 0 else steps
