"""The incentive function μ_η and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metagrad import nets
from metagrad.losses import discount_powers
from metagrad.nets import Params
from metagrad.rollout import Batch


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

    def outputs(self, eta: Params, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """σ ``[S, R, outputs]`` for every row, and the inputs of the layers."""
        logits, inputs = nets.forward(eta, batch.designer_input)
        return logits.sigmoid(), inputs

    def incentives(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What each agent is paid, ``[S, A, R]``; 0 after the end of an episode."""
        if self.output_type == "action":
            paid = (batch.actions * outputs[:, None]).sum(-1)
        else:
            paid = outputs.transpose(1, 2) * batch.alive[:, None]
        return self.scale * paid

    def to_outputs(self, d_incentives: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`incentives`: ``[S, A, R]`` to ``[S, R, outputs]``."""
        if self.output_type == "action":
            return self.scale * (batch.actions * d_incentives[..., None]).sum(1)
        return self.scale * (d_incentives * batch.alive[:, None]).transpose(1, 2)

    def cost_to_outputs(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Derivative of ψ, mean over the K episodes, with respect to the outputs ``[S, R, outputs]``."""
        discount = self._discount(batch) / batch.k
        if self.cost == "paid":
            return self.to_outputs(discount[:, None].expand_as(batch.rewards), batch)
        return discount[:, :, None].expand_as(outputs)

    def total_cost(self, outputs: Tensor, batch: Batch) -> Tensor:
        """ψ of every seed, mean over the K episodes, ``[S]``."""
        discount = self._discount(batch) / batch.k
        if self.cost == "paid":
            return (self.incentives(outputs, batch).sum(1) * discount).sum(1)
        return (outputs.sum(2) * discount).sum(1)

    def _discount(self, batch: Batch) -> Tensor:
        powers = discount_powers(batch.steps, self.gamma, batch.alive)
        return powers.repeat_interleave(batch.k) * batch.alive

    @staticmethod
    def vjp(eta: Params, outputs: Tensor, inputs: list[Tensor], d_outputs: Tensor) -> Params:
        """Gradient with respect to η of ``sum(d_outputs * outputs)``."""
        return nets.vjp(eta, inputs, d_outputs * outputs * (1 - outputs))
