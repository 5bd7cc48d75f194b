"""Decentralised incentives: agents who pay each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators
from metagrad.agents.base import Credit, Interface
from metagrad.batch import Batch, Rows
from metagrad.checks import Count, Positive
from metagrad.designers.incentives import Incentive, NetworkIncentive, weights_of_cost
from metagrad.networks.base import Network, Obs, Shapes, Where, width_of
from metagrad.networks.mlp import MLP
from metagrad.optim import Params


@dataclass(frozen=True)
class MutualIncentive(NetworkIncentive):
    """Decentralised incentives: every agent has a function of its own and pays the others (LIO, Yang et al., 2020).

    Networks are stacked giver by giver, ``[S * A, ...]``. A giver sees its own observation and the others' actions, is
    after its own environment reward, and answers for the actions of the others; what it would pay itself counts for
    nothing.

    Parameters
    ----------
    n_agents : int
        Number of agents, all of them givers.
    network : Network
        One output for each agent.
    scale : float
        Upper bound of a payment.
    cost_of : {"paid", "all_outputs"}
        As for :class:`ByAction`.
    """

    n_agents: Count
    network: Network = field(default_factory=lambda: MLP((64, 16), output_bias=False))
    scale: Positive = 2.0
    cost_of: Literal["paid", "all_outputs"] = "paid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_agents < 2:
            raise ValueError("a MutualIncentive needs at least 2 agents: nobody pays itself")
        object.__setattr__(self, "givers", self.n_agents)

    def init(self, game: Interface, generators: Sequence[np.random.Generator], where: Where) -> Params:
        """A network for every giver of every seed."""
        shapes: Shapes = {"obs": (width_of(game.agents) + (game.n_agents - 1) * game.n_actions,)}
        return self.network.init(generators, game.n_agents, shapes, game.n_agents, where)

    def rows(self, batch: Batch) -> Obs:
        """Each giver's observation and the actions of the others in increasing order, ``[S * A, T * K, width]``."""
        rows, acts = Rows(batch.shared), batch.onehot_actions()
        n = acts.shape[3]
        others = torch.stack([acts[:, :, :, [j for j in range(n) if j != i]].flatten(3) for i in range(n)], 3)
        seen = [rows.back(x, batch.actions).flatten(4) for name, x in sorted(batch.obs.items()) if name != "mask"]
        return {"obs": Rows(False).of(torch.cat([*(x.to(others.dtype) for x in seen), others], -1))}

    def payments_by(self, eta: Params, batch: Batch, giver: int) -> Tensor:
        """The same with the outputs of all other givers held fixed."""
        sigma, mine = self.sigma(eta, batch), self._is_giver(giver, batch)
        return self.scale * self.pick(sigma * mine + (sigma * (1 - mine)).detach(), batch)

    def judged_by(self, batch: Batch, giver: int = 0) -> tuple[Tensor, Tensor | None]:
        """Its own environment reward; the others' actions."""
        others = torch.ones(self.givers, dtype=batch.rewards.dtype, device=batch.rewards.device)
        others[giver] = 0
        return batch.rewards[..., giver], others

    def vjp(self, eta: Params, batch: Batch, credit: Credit, giver: int = 0) -> Params:
        """``∇_η Σ credit.rewards · payments(η)`` for the η of one giver."""
        made = self.outputs(eta, batch)
        return made.vjp(self.spread(credit.rewards * self.scale, made.sigma, batch) * self._is_giver(giver, batch))

    def cost(self, eta: Params, batch: Batch, gamma: float) -> Tensor:
        """Sum of the givers' ψ."""
        total = Incentive.cost(self, eta, batch, gamma)
        return total if self.cost_of == "paid" else total / self.scale

    def cost_grad(self, eta: Params, batch: Batch, gamma: float) -> Params:
        """``∇_η ψ``, by hand: every giver's by its own η."""
        made, scale = self.outputs(eta, batch), self.scale if self.cost_of == "paid" else 1.0
        weights = weights_of_cost(batch, gamma).expand_as(batch.rewards)
        return made.vjp(self.spread(weights * scale, made.sigma, batch))

    def pick(self, sigma: Tensor, batch: Batch) -> Tensor:
        """What the others give, ``[S * A, T, K, A]`` to ``[S, T, K, A]``."""
        return estimators.sum_over_agents(sigma.unflatten(0, (-1, self.givers)) * self._to_others(batch), 1)

    def spread(self, d: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`pick`."""
        return (d[:, None] * self._to_others(batch)).flatten(0, 1)

    def _to_others(self, batch: Batch) -> Tensor:
        """1 for a gift to another agent while the episode goes on, ``[S, giver, T, K, receiver]``."""
        other = 1 - torch.eye(self.givers, dtype=batch.alive.dtype, device=batch.alive.device)
        givers = batch.agents_alive.movedim(-1, 1)[..., None]
        return batch.agents_alive[:, None] * other[:, None, None] * givers

    def _is_giver(self, giver: int, batch: Batch) -> Tensor:
        """1 for the rows of one giver's networks, ``[S * A, 1, 1, 1]``."""
        mine = torch.arange(self.givers, device=batch.alive.device) == giver
        return mine.to(batch.alive.dtype).repeat(len(batch.alive))[:, None, None, None]
