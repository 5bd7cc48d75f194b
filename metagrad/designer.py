"""The incentive function μ_η and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastenvs import rng
from metagrad import nets
from metagrad.losses import sum_over_agents
from metagrad.nets import Params
from metagrad.rollout import Batch


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

    def outputs(self, eta: Params, batch: Batch) -> Outputs:
        """Evaluate the network for every row."""
        logits, inputs = nets.forward(eta, batch.designer_input)
        return Outputs(nets.sigmoid(logits), logits, inputs)

    def incentives(self, outputs: Outputs, batch: Batch) -> Tensor:
        """What each agent is paid, ``[S, A, R]``; 0 after the end of an episode."""
        if self.output_type == "action":
            paid = (batch.actions * outputs.sigma[:, None]).sum(-1)
        else:
            paid = outputs.sigma.transpose(1, 2) * batch.alive[:, None]
        return self.scale * paid

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
