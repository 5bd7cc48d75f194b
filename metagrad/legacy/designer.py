"""The incentive function μ_η and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastenvs import rng
from metagrad.legacy import nets
from metagrad.legacy.losses import sum_over_agents
from metagrad.legacy.nets import Params
from metagrad.legacy.rollout import Batch


class Outputs(NamedTuple):
    """μ_η on the rows of a batch, before scaling."""

    sigma: Tensor  # [S, R, outputs], in (0, 1)
    logits: Tensor  # [S, R, outputs]
    inputs: list[Tensor]  # of the layers


@dataclass(frozen=True)
class IncentiveFunction:
    """Incentives ``scale * σ(f_η(s, a))`` from the designer's observation and the agents' joint action.

    Parameters
    ----------
    output_type : {"action", "agent"}
        One output for each action, and agent i receives that of the action it took; or one output for each agent.
    scale : float
        Bound of an incentive (the published ``r_multiplier``).
    cost : {"paid", "all_outputs"}
        ψ: the discounted sum of incentives really paid, or of all outputs before scaling, as published.
    gamma : float
        Discount of the cost.
    """

    output_type: str = "action"
    scale: float = 2.0
    cost: str = "paid"
    gamma: float = 0.99

    def inputs(self, batch: Batch) -> Tensor:
        """What the network sees, ``[S, R, E]``."""
        return batch.designer_input

    def outputs(self, eta: Params, batch: Batch) -> Outputs:
        """Evaluate the network for every row."""
        logits, inputs = nets.forward(eta, self.inputs(batch))
        return Outputs(nets.sigmoid(logits), logits, inputs)

    def incentives(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each agent is paid, ``[S, A, R]``; 0 after the end of an episode."""
        if self.output_type == "action":
            paid = (batch.actions * outputs.sigma[:, None]).sum(-1)
        else:
            paid = outputs.sigma.transpose(1, 2) * batch.alive[:, None]
        return self.scale * paid

    def judged_by(self, batch: Batch) -> list[Tensor]:
        """The rewards by which each giver judges every agent's actions, ``[S, A, R]``; there is one giver here."""
        return [batch.designer_rewards[:, None].expand_as(batch.rewards)]

    def of_giver(self, giver: int, outputs: Outputs) -> Outputs:
        """Outputs with those of all other givers held fixed."""
        return outputs

    def only_giver(self, giver: int, d_sigma: Tensor) -> Tensor:
        """Derivatives by the outputs, 0 but for those of one giver."""
        return d_sigma

    def pay(self, eta: Params, batch: Batch, streams: rng.Streams) -> None:
        """Write the incentives of ``eta`` to ``batch.incentives``; nothing is random here."""
        batch.incentives = self.incentives(self.outputs(eta, batch), batch)

    def to_outputs(self, d_incentives: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`incentives`: ``[S, A, R]`` to ``[S, R, outputs]``."""
        if self.output_type == "action":
            return self.scale * sum_over_agents(batch.actions * d_incentives[..., None])
        return self.scale * (d_incentives * batch.alive[:, None]).transpose(1, 2)

    def cost_to_outputs(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Derivative of ψ, mean over the K episodes, with respect to the outputs ``[S, R, outputs]``."""
        discount = self._discount(batch) / batch.k
        if self.cost == "paid":
            return self.to_outputs(discount[:, None].expand_as(batch.rewards), batch)
        return discount[:, :, None].expand_as(outputs.sigma)

    def total_cost(self, outputs: Outputs, batch: Batch) -> Tensor:
        """ψ of every seed, mean over the K episodes, ``[S]``."""
        discount = self._discount(batch) / batch.k
        if self.cost == "paid":
            return (sum_over_agents(self.incentives(outputs, batch)) * discount).sum(1)
        return (outputs.sigma.sum(2) * discount).sum(1)

    def _discount(self, batch: Batch) -> Tensor:
        """``γ^t`` while an episode goes on, ``[S, R]``."""
        powers = [self.gamma**t for t in range(batch.steps) for _ in range(batch.k)]
        return torch.tensor(powers, dtype=batch.alive.dtype, device=batch.alive.device) * batch.alive

    @staticmethod
    def vjp(eta: Params, outputs: Outputs, d_sigma: Tensor) -> Params:
        """Gradient with respect to η of ``sum(d_sigma * sigma)``."""
        return nets.vjp(eta, outputs.inputs, d_sigma * nets.sigmoid_slope(outputs.logits, outputs.sigma))


class MutualIncentives(IncentiveFunction):
    """Decentralised incentives: every agent has a function of its own and pays the others (LIO; specification, 3.7).

    Networks and outputs are stacked ``[S * A, R, A]``, giver by giver; the input is the giver's observation and the
    others' actions. What a giver would pay itself counts for nothing.
    """

    def inputs(self, batch: Batch) -> Tensor:
        """Each giver's observation and the actions of the others in increasing order, one-hot, ``[S * A, R, E]``."""
        acts = batch.actions.transpose(1, 2)  # [S, R, A, L]
        n = acts.shape[2]
        others = [acts[:, :, [j for j in range(n) if j != i]].flatten(2) for i in range(n)]
        return torch.cat([batch.obs, torch.stack(others, 1).flatten(0, 1)], -1)

    def incentives(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each agent gets from all others, ``[S, A, R]``."""
        given = outputs.sigma.unflatten(0, (batch.n_seeds, -1)) * self._to_others(batch)
        return self.scale * sum_over_agents(given).transpose(1, 2)

    def judged_by(self, batch: Batch) -> list[Tensor]:
        """A giver judges the actions of the others by its own environment reward."""
        n = batch.rewards.shape[1]
        other = 1 - torch.eye(n, dtype=batch.rewards.dtype, device=batch.rewards.device)
        return [batch.rewards[:, i : i + 1] * other[i][:, None] for i in range(n)]

    def of_giver(self, giver: int, outputs: Outputs) -> Outputs:
        """Outputs with those of all other givers held fixed."""
        mine = self._is_giver(giver, outputs.sigma)
        return outputs._replace(sigma=outputs.sigma * mine + (outputs.sigma * (1 - mine)).detach())

    def only_giver(self, giver: int, d_sigma: Tensor) -> Tensor:
        """Derivatives by the outputs, 0 but for those of one giver."""
        return d_sigma * self._is_giver(giver, d_sigma)

    def to_outputs(self, d_incentives: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`incentives`: ``[S, A, R]`` to ``[S * A, R, A]``."""
        return (self.scale * d_incentives.transpose(1, 2)[:, None] * self._to_others(batch)).flatten(0, 1)

    def cost_to_outputs(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Derivative of every giver's ψ, mean over the K episodes, with respect to the outputs."""
        discount = (self._discount(batch) / batch.k)[:, None]
        d_sigma = self.to_outputs(discount.expand_as(batch.rewards), batch)
        return d_sigma if self.cost == "paid" else d_sigma / self.scale

    def total_cost(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Sum of the givers' ψ of every seed, mean over the K episodes, ``[S]``."""
        total = (sum_over_agents(self.incentives(outputs, batch)) * self._discount(batch) / batch.k).sum(1)
        return total if self.cost == "paid" else total / self.scale

    @staticmethod
    def _to_others(batch: Batch) -> Tensor:
        """1 for a gift to another agent while the episode goes on, ``[S, giver, R, receiver]``."""
        n = batch.rewards.shape[1]
        other = 1 - torch.eye(n, dtype=batch.alive.dtype, device=batch.alive.device)
        return batch.alive[:, None, :, None] * other[:, None]

    @staticmethod
    def _is_giver(giver: int, sigma: Tensor) -> Tensor:
        """1 for the rows of one giver's networks, ``[S * A, 1, 1]``."""
        n = sigma.shape[-1]
        mine = torch.arange(len(sigma), device=sigma.device) % n == giver
        return mine.to(sigma.dtype)[:, None, None]
