"""A designer that goes back to what served it best when its return has fallen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metagrad.checks import Checked, Count, Share
from metagrad.optim import Params


class RetreatState(NamedTuple):
    """What a designer remembers of its return, by seed."""

    mean: Tensor  # [S], the running mean of the return
    at: Params  # the same of η
    best: Tensor  # [S], the highest running mean so far
    kept: Params  # η's running mean of then
    since: Tensor  # [S], iterations that the running means are of
    speed: Tensor  # [S], what steps are multiplied by


@dataclass(frozen=True)
class Retreat(Checked):
    """Going back to the η with the highest return, with smaller steps, when the return has fallen.

    The gradient does not show what agents have given up doing, so that nothing in it leads a designer back after it
    has gone too far. Its return shows it. A running mean of the return is kept for every seed with one of η; when the
    former falls below a share of its highest value, η becomes what it was then on average, steps become smaller, and
    the running means begin anew.

    Parameters
    ----------
    share : float, optional
        The return has fallen when its mean is by more than ``1 - share`` of its highest value's size below that; None:
        η never goes back.
    over : int
        Episodes of the running mean, and those for which the agents are given time after a retreat.
    slower : float
        What steps are multiplied by at a retreat.
    """

    share: Share | None = None
    over: Count = 1_600
    slower: Share = 0.5

    def init(self, eta: Params) -> RetreatState | None:
        """Nothing seen yet; None where η never goes back."""
        if self.share is None:
            return None
        like = next(iter(eta.values()))
        zeros = like.new_zeros(len(like))
        return RetreatState(zeros, eta, zeros - torch.inf, eta, zeros, zeros + 1)

    def after(
        self, state: RetreatState, before: Params, eta: Params, earned: Tensor, k: int
    ) -> tuple[Params, RetreatState]:
        """η after a step from ``before``, which earned ``[S]`` in ``k`` episodes: shortened, or back at the best."""
        assert self.share is not None
        window = max(1, self.over // k)
        since = state.since + 1
        weight = 1 / since.clamp_max(window)
        mean = torch.lerp(state.mean, earned.to(state.mean.dtype), weight)
        at = {name: torch.lerp(p, before[name], _wide(weight, p)) for name, p in state.at.items()}
        known = since >= window
        better = known & (mean > state.best)
        best = torch.where(better, mean, state.best)
        kept = _chosen(better, at, state.kept)
        fallen = known & (mean < best - (1 - self.share) * best.abs())
        moved = {name: torch.lerp(before[name], p, _wide(state.speed, p)) for name, p in eta.items()}
        speed = torch.where(fallen, state.speed * self.slower, state.speed)
        since = torch.where(fallen, torch.zeros_like(since), since)
        return _chosen(fallen, kept, moved), RetreatState(mean, at, best, kept, since, speed)


def _wide(x: Tensor, like: Tensor) -> Tensor:
    """``[S]`` beside ``[S, ...]``."""
    return x.view(-1, *[1] * (like.dim() - 1))


def _chosen(where: Tensor, one: Params, other: Params) -> Params:
    return {name: torch.where(_wide(where, p), p, other[name]) for name, p in one.items()}
