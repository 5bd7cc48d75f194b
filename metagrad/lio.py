"""Learning to incentivise others (LIO): every agent pays the others and differentiates through their learning steps.

The decentralised ancestor of the central designer: agent i owns an incentive function of what it sees and of the
others' actions, and improves its own environment return. Specification: metagrad 3.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad import losses, nets
from metagrad.agents import Evaluation, LearningStep
from metagrad.designer import IncentiveFunction, Outputs
from metagrad.nets import Params
from metagrad.rollout import Batch
from metagrad.train import Learner


@dataclass(frozen=True)
class MutualIncentives(IncentiveFunction):
    """Incentives of every agent for every other, ``scale * σ(f_i(o_i, a_others))``."""

    def outputs(self, eta: Params, batch: Batch) -> Outputs:
        """Evaluate the networks for every row: givers ``[S * A, R, A]``, one output for each receiver."""
        actions, n = batch.actions, batch.rewards.shape[1]
        others = [torch.cat([actions[:, j] for j in range(n) if j != i], -1) for i in range(n)]
        inputs = torch.cat([batch.obs, torch.stack(others, 1).flatten(0, 1)], -1)
        logits, layers = nets.forward(eta, inputs)
        return Outputs(nets.sigmoid(logits), logits, layers)

    def incentives(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each agent receives from the others, ``[S, A, R]``."""
        given = outputs.sigma.unflatten(0, (batch.n_seeds, -1)) * self._to_others(batch)
        return self.scale * losses.sum_over_agents(given).transpose(1, 2) * batch.alive[:, None]

    def to_outputs(self, d_incentives: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`incentives`: ``[S, A, R]`` to ``[S * A, R, A]``."""
        d_received = (d_incentives * batch.alive[:, None]).transpose(1, 2)[:, None]
        return self.scale * (d_received * self._to_others(batch)).flatten(0, 1)

    def cost_to_outputs(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Derivative of the discounted sum of all that is given with respect to the outputs."""
        discount = self._discount(batch) / batch.k
        return self.to_outputs(discount[:, None].expand_as(batch.rewards), batch)

    def total_cost(self, outputs: Outputs, batch: Batch) -> Tensor:
        """That sum, mean over the K episodes, ``[S]``."""
        discount = self._discount(batch) / batch.k
        return (losses.sum_over_agents(self.incentives(outputs, batch)) * discount).sum(1)

    @staticmethod
    def _to_others(batch: Batch) -> Tensor:
        """0 from an agent to itself, else 1, ``[A, 1, A]``."""
        n = batch.rewards.shape[1]
        return (1 - torch.eye(n, dtype=batch.rewards.dtype, device=batch.rewards.device))[:, None]


class MutualLearner(Learner):
    """Agents who pay each other; ``eta`` is stacked ``[S * A, ...]``."""

    giver = 0  # whose return the designer's loss is about

    def _make_designer(self, generators: Sequence[np.random.Generator]) -> tuple[Any, Params]:
        """The incentive functions of all agents."""
        d, n, actions = self.config.designer, self.config.game.n_agents, self.env.n_actions
        sizes = (self.env.obs["agents"].shape[-1] + (n - 1) * actions, *d.hidden, n)
        function = MutualIncentives("agent", d.scale, "paid", d.gamma)
        return function, self._init(generators, n, sizes, output_bias=False)

    def metagradient(self, outputs: Sequence[Outputs], steps: Sequence[LearningStep], validation: Evaluation) -> Params:
        """Every giver's gradient of its own loss with respect to its own incentive function."""
        n = self.config.game.n_agents
        total: Params = {name: torch.zeros_like(p) for name, p in self.eta.items()}
        for self.giver in range(n):
            part = super().metagradient(outputs, steps, validation)
            for name, p in part.items():
                total[name][self.giver :: n] = p[self.giver :: n]
        return total

    def designer_weights(self, batch: Batch) -> Tensor:
        """The giver's discounted environment returns for every other agent's network and row, ``[S * A, R]``."""
        d, n = self.config.designer, self.config.game.n_agents
        returns = losses.discounted_returns(batch.rewards[:, self.giver], d.gamma, batch.k)
        if d.baseline == "leave-one-out":
            returns = losses.leave_one_out(returns, batch.k) * batch.alive
        weights = returns.repeat_interleave(n, 0)
        weights[self.giver :: n] = 0
        return weights
