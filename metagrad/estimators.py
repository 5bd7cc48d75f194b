"""Returns and advantages, as functions of arrays, each with its transpose beside it.

Axes are ``[S, T, K, ...]``: seeds, steps, episodes, and agents where there are any. Sums over steps are taken by
recursion, so that rows of zeros after the end of an episode do not change a bit, and sums over a seed's rows seed by
seed, since a library's reduction orders its terms by the shape of the whole tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, kernel
from metagrad.parallel import group

#: Keeps a division by a standard deviation finite.
GUARD = 1e-8


def discounted_sums(x: Tensor, factor: float) -> Tensor:
    """``y_t = Σ_{j >= t} factor^{j-t} x_j`` along axis 1."""
    if factor == 0:
        return x
    if (given := _plain(x)) is not None:
        return _summed(given, factor, True)
    steps = x.unbind(1)
    out = [steps[-1]]
    for now in reversed(steps[:-1]):
        out.append(torch.add(now, out[-1], alpha=factor))
    return torch.stack(out[::-1], 1)


def discounted_sums_transposed(d: Tensor, factor: float) -> Tensor:
    """``b_j = Σ_{t <= j} factor^{j-t} d_t``: derivative of ``Σ d_t y_t`` with respect to the ``x`` of that function."""
    if factor == 0:
        return d
    if (given := _plain(d)) is not None:
        return _summed(given, factor, False)
    steps = d.unbind(1)
    out = [steps[0]]
    for now in steps[1:]:
        out.append(torch.add(now, out[-1], alpha=factor))
    return torch.stack(out, 1)


def _plain(x: Tensor) -> np.ndarray | None:
    """The numbers for compiled code, unless they are differentiated or elsewhere."""
    if PURE_PYTHON or not x.is_cpu or (torch.is_grad_enabled() and x.requires_grad):
        return None
    try:
        return x.detach().contiguous().numpy()
    except RuntimeError:  # it stands for another one in a transformation of torch.func
        return None


def _summed(x: np.ndarray, factor: float, backward: bool) -> Tensor:
    out = np.empty_like(x)
    _sum(x.reshape(*x.shape[:2], -1), x.dtype.type(factor), backward, out.reshape(*x.shape[:2], -1))
    return torch.from_numpy(out)


@kernel
def _sum(x, factor, backward, out):
    steps = x.shape[1]
    for s in range(x.shape[0]):
        for i in range(steps):
            t = steps - 1 - i if backward else i
            before = t + 1 if backward else t - 1
            for j in range(x.shape[2]):
                out[s, t, j] = x[s, t, j] + factor * out[s, before, j] if i else x[s, t, j]


def gae(rewards: Tensor, values: Tensor | None, gamma: float, lam: float, alive: Tensor) -> Tensor:
    """Generalised advantages (Schulman et al., 2016).

    ``lam = 0`` gives the temporal differences of one step; without values and with ``lam = 1`` they are returns.

    Parameters
    ----------
    rewards : Tensor ``[S, T, K, ...]``
    values : Tensor ``[S, T + 1, K, ...]``, optional
        Before every step and after the last; where an episode was cut off, also after its own last.
    alive : Tensor ``[S, T, K, ...]``
        1 for steps that count, until an episode is over.
    """
    if values is not None:
        rewards = rewards + gamma * values[:, 1:] - values[:, :-1]
    return discounted_sums(rewards * alive, gamma * lam)


def between(rewards: Tensor, starts: Sequence[int], gamma: float) -> Tensor:
    """Discounted rewards ``[S, T, K]`` from each of these steps until the next, ``[S, len(starts), K]``."""
    ends = [*starts[1:], rewards.shape[1]]
    spans = [rewards[:, a:b] for a, b in zip(starts, ends, strict=True)]
    return torch.stack([discounted_sums(span, gamma)[:, 0] for span in spans], 1)


def leave_one_out(returns: Tensor) -> Tensor:
    """Returns ``[S, T, K]`` less the mean over the other episodes at the same step; unchanged for one episode."""
    k = returns.shape[2] * group.size()
    if k == 1:
        return returns
    return returns - (group.total(returns.sum(2, keepdim=True)) - returns) / (k - 1)


def discounts(like: Tensor, gamma: float) -> Tensor:
    """``γ^t`` for every step of ``like [S, T, K]``, ``[1, T, 1]``."""
    return _powers(like.shape[1], gamma, like.device, like.dtype)


@functools.cache
def _powers(steps: int, gamma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    return (gamma ** torch.arange(steps, dtype=torch.float64)).to(device, dtype)[None, :, None]


def sum_over_agents(x: Tensor, dim: int = -1) -> Tensor:
    """Sum over the agents, one by one: bit for bit the same whatever else is in the tensor."""
    return functools.reduce(torch.add, x.unbind(dim))


def sum_over_seed(x: Tensor) -> Tensor:
    """Sum over all axes but the first, ``[S]``, seed by seed; mean over the processes.

    Terms are added in the order of the axes, so that steps after the end of all episodes come last, however ``x`` lies
    in memory.
    """
    x = x.contiguous()
    return group.mean(x.sum()[None] if len(x) == 1 else torch.stack([one.sum() for one in x]))


def loss_scale(alive: Tensor, reduction: str) -> Tensor | float:
    """What a loss multiplies its sum over the steps that are ``alive [S, T, K]`` by: for a mean over the K episodes, or
    over a seed's own steps, ``[S, 1, 1, 1]``. T is up to the longest episode of any seed.
    """
    return 1.0 / alive.shape[2] if reduction == "episode" else (1.0 / sum_over_seed(alive))[:, None, None, None]


class Moments(NamedTuple):
    """What a seed's advantages are normalised by, ``[S, 1, 1, 1]`` each."""

    mean: Tensor
    std: Tensor
    n: Tensor  # how many there are, mean over the processes

    @property
    def free(self) -> Tensor:
        """Their number less the one that their mean takes; that one is a share of every process."""
        return (self.n - 1 / group.size()).clamp_min(1)


def moments(x: Tensor, alive: Tensor) -> Moments:
    """Mean and standard deviation of ``x [S, T, K, A]`` over the rows that are ``alive``, seed by seed."""
    n = sum_over_seed(alive)[:, None, None, None]
    mean = sum_over_seed(x)[:, None, None, None] / n
    apart = (x - mean) * alive
    of = Moments(mean, mean, n)
    return of._replace(std=(sum_over_seed(apart * apart)[:, None, None, None] / of.free).sqrt())


def normalise(x: Tensor, alive: Tensor, by: Moments) -> Tensor:
    """``(x - mean) / std`` of the rows that are ``alive``, else 0."""
    return (x - by.mean) * alive / (by.std + GUARD)


def centred(d: Tensor, alive: Tensor, by: Moments) -> Tensor:
    """Transpose of :func:`normalise` with the standard deviation held fixed."""
    mean = sum_over_seed(d * alive)[:, None, None, None] / by.n
    return (d - mean) * alive / (by.std + GUARD)


def normalise_transposed(d: Tensor, x: Tensor, alive: Tensor, by: Moments) -> Tensor:
    """Transpose of :func:`normalise` as a whole: derivative of ``Σ d normalise(x)`` with respect to ``x``."""
    a = normalise(x, alive, by)
    along = sum_over_seed(d * a)[:, None, None, None]
    spread = by.std.clamp_min(torch.finfo(x.dtype).tiny)
    return centred(d, alive, by) - a * (along / (by.free * spread))
