"""Critics of the tax designer: values of the states of an episode, by which the actions in it are judged.

The designer's return on an episode is noisy: judged by it, an action answers for all that happens until the end. Values
and generalised advantages let it answer for what follows soon.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from metagrad import taxation
from metagrad.actor_critic import Critic
from metagrad.fitting import Axes, Group
from metagrad.taxation import TaxRecord
from metagrad.train import load_optimiser_state, optimiser_tensors

_MEMORY = 0.9  # of the normal equations, a batch
_RIDGE = 1e-3  # of the features' variances
_OWNED = ("coin", "income", "stone", "wood", "root of stone", "root of wood")  # features of each agent


class Judge(Protocol):
    """Learns from episodes, and gives the values of others."""

    def learn(self, record: TaxRecord, rewards: Tensor) -> None:
        """Take in a batch and the designer's rewards on it, ``[T, K]``."""

    def values(self, record: TaxRecord) -> Tensor:
        """Before every step and after the last, ``[T + 1, K]``."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that it has learned, by name."""

    def held(self, begun: bool, lengths: dict[str, int], dtype: torch.dtype) -> list[Group]:
        """Those among them that a fresh one does not have."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of :meth:`tensors`."""


class NetworkJudge:
    """Values of a network on what the designer sees, as published."""

    def __init__(self, critic: Critic, gamma: float, lam: float) -> None:
        self.critic, self.gamma, self.lam = critic, gamma, lam

    def learn(self, record: TaxRecord, rewards: Tensor) -> None:
        """One Adam step."""
        self.critic.learn(_overview(record), rewards, self.gamma, self.lam)

    def values(self, record: TaxRecord) -> Tensor:
        """Before every step and after the last, ``[T + 1, K]``."""
        return self.critic.values(_overview(record), len(record.wealth) + 1)

    def held(self, begun: bool, lengths: dict[str, int], dtype: torch.dtype) -> list[Group]:
        """None."""
        return []

    def tensors(self) -> dict[str, Tensor]:
        """Network, target and optimiser."""
        c = self.critic
        networks = {f"{kind}/{n}": p for kind in ("params", "target") for n, p in getattr(c, kind).items()}
        return {**networks, **optimiser_tensors("state", c.state), "steps": torch.tensor(c.state.t)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of :meth:`tensors`."""
        c, names = self.critic, list(self.critic.params)
        c.params, c.target = ({n: tensors[f"{kind}/{n}"] for n in names} for kind in ("params", "target"))
        c.state = load_optimiser_state(tensors, "state", names, int(tensors["steps"]))


def _overview(record: TaxRecord) -> tuple[Tensor, Tensor]:
    assert record.all_maps is not None
    assert record.all_vectors is not None
    return record.all_maps, record.all_vectors


def features(record: TaxRecord, start: float) -> Tensor:
    """What agents own before every step, by skill rank, and the welfare of it, ``[T, K, F]``.

    Parameters
    ----------
    record : TaxRecord
    start : float
        Coin of an agent at the beginning.
    """
    before = torch.cat([torch.full_like(record.wealth[:1], start), record.wealth[:-1]])
    goods = record.goods.unbind(-1)
    order = record.rank.argsort(1).expand_as(before)
    columns = [before, record.present_income, *goods, *(g.sqrt() for g in goods)]
    owned = torch.cat([column.gather(-1, order) for column in columns], -1)
    x = torch.cat([owned, taxation.welfare(before)[..., None]], -1)
    steps = len(x)
    left = torch.arange(steps, 0, -1, dtype=x.dtype, device=x.device)[:, None, None] / steps
    return torch.cat([x, x * left], -1)


class LinearJudge:
    """Values linear in what agents own, fitted in closed form: no network, no learning rate.

    Every step has a mean of its own, and the weights grow linear in the time left. The normal equations are kept as
    decaying means over batches; returns are those of whole episodes.

    Parameters
    ----------
    start : float
        Coin of an agent at the beginning.
    gamma : float
        Discount of the returns.
    """

    def __init__(self, start: float, gamma: float) -> None:
        self.start, self.gamma = start, gamma
        #: Decaying means by step of features and returns, of their products about the means, and what they add up to.
        self.state: dict[str, Tensor] = {}

    def learn(self, record: TaxRecord, rewards: Tensor) -> None:
        """Take in the returns of a batch."""
        x = features(record, self.start)
        joint = torch.cat([x, taxation.discounted(rewards.to(x.dtype), self.gamma)[..., None]], -1)
        mean = joint.mean(1)
        apart = (joint - mean[:, None]).flatten(0, 1)
        new = {"mean": mean, "products": apart.T @ apart / len(apart), "weight": x.new_ones(())}
        self.state = {
            name: torch.lerp(t, self.state.get(name, torch.zeros_like(t)), _MEMORY) for name, t in new.items()
        }

    def values(self, record: TaxRecord) -> Tensor:
        """Before every step and after the last, ``[T + 1, K]``; the last are 0."""
        x = features(record, self.start)
        mean, products = (self.state[name] / self.state["weight"] for name in ("mean", "products"))
        inner = products[:-1, :-1]
        # A feature that never varied has no part.
        ridge = torch.diag(_RIDGE * inner.diagonal() + (inner.diagonal() == 0))
        slope = torch.linalg.solve(inner + ridge, products[:-1, -1])
        now = mean[:, -1:] + (x - mean[:, None, :-1]) @ slope
        return torch.cat([now, torch.zeros_like(now[:1])])

    def held(self, begun: bool, lengths: dict[str, int], dtype: torch.dtype) -> list[Group]:
        """The normal equations, from the first batch on."""
        joint = lengths | {"J": 2 * (len(_OWNED) * lengths["A"] + 1) + 1}
        axes: Axes = {"mean": ("T J", None), "products": ("J J", None), "weight": ("", None)}
        return [Group("judge", axes, joint, begun, torch.float64)]

    def tensors(self) -> dict[str, Tensor]:
        """The normal equations."""
        return self.state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of :meth:`tensors`."""
        self.state = dict(tensors)
