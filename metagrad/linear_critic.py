"""A critic of the tax designer that is linear in what agents own, fitted in closed form.

The designer's return on an episode is noisy: judged by it, an action answers for all that happens until the end. A
value function and generalised advantages let it answer for what follows soon. Linear values, with weights and a mean of
their own for every step, need neither a network nor a learning rate: their normal equations are kept as decaying means
over batches. The weights grow linear in the time left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metagrad import taxation
from metagrad.taxation import TaxRecord

_MEMORY = 0.9  # of the normal equations, a batch
_RIDGE = 1e-3  # of the features' variances


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


class LinearCritic:
    """Values of the states of episodes, from the returns of earlier ones.

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
        """Take in the returns of a batch; rewards ``[T, K]``."""
        x = features(record, self.start)
        joint = torch.cat([x, taxation.discounted(rewards.to(x.dtype), self.gamma)[..., None]], -1)
        mean = joint.mean(1)
        apart = (joint - mean[:, None]).flatten(0, 1)
        new = {"mean": mean, "products": apart.T @ apart / len(apart), "weight": torch.ones((), dtype=x.dtype)}
        self.state = {
            name: torch.lerp(t, self.state.get(name, torch.zeros_like(t)), _MEMORY) for name, t in new.items()
        }

    def values(self, record: TaxRecord) -> Tensor:
        """Values of the states before every step and after the last, ``[T + 1, K]``; the last are 0."""
        x = features(record, self.start)
        mean, products = (self.state[name] / self.state["weight"] for name in ("mean", "products"))
        inner = products[:-1, :-1]
        # A feature that never varied has no part.
        ridge = torch.diag(_RIDGE * inner.diagonal() + (inner.diagonal() == 0))
        slope = torch.linalg.solve(inner + ridge, products[:-1, -1])
        now = mean[:, -1:] + (x - mean[:, None, :-1]) @ slope
        return torch.cat([now, torch.zeros_like(now[:1])])
