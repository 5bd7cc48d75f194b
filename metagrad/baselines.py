"""Designers that do not differentiate through learning: dual reinforcement learning, and none at all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs import rng
from metagrad import losses, nets, optim
from metagrad.config import DualRL
from metagrad.nets import Params
from metagrad.rollout import Batch, uniforms


def level_table(levels: Sequence[float], n_actions: int) -> np.ndarray:
    """Incentive of every agent action under every designer action, ``[L ** n_actions, n_actions]``.

    Designer action x, read in base L with the lowest digit first, names the level of each agent action.
    """
    return np.array([digits[::-1] for digits in itertools.product(levels, repeat=n_actions)], float)


class Choice(NamedTuple):
    """What the designer chose for the rows of a batch, and the score of that choice at its outputs."""

    inputs: list[Tensor]
    score: Tensor  # [S, R, outputs]
    entropy_gradient: Tensor | None  # [S, R, outputs]


class NoIncentives:
    """Agents on their own."""

    def pay(self, params: Params, batch: Batch, streams: rng.Streams) -> None:
        """Pay nothing."""


class DiscreteDualRL:
    """REINFORCE over assignments of an incentive level to every agent action (specification, 3.1)."""

    def __init__(self, config: DualRL, n_actions: int) -> None:
        self.config = config
        self.table = level_table(config.levels, n_actions)

    @property
    def n_outputs(self) -> int:
        """Number of designer actions."""
        return len(self.table)

    def pay(self, params: Params, batch: Batch, streams: rng.Streams) -> Choice:
        """Sample an assignment for every row and write what it pays to ``batch.incentives``."""
        logits, inputs = nets.forward(params, batch.designer_input)
        policy = losses.probabilities(logits, 0.0)
        u = _row_uniforms(streams, batch, 1)
        chosen = (u >= policy.p.cumsum(-1)[..., :-1]).sum(-1)
        table = torch.as_tensor(self.table, device=logits.device, dtype=logits.dtype)
        batch.incentives = (batch.actions * table[chosen][:, None]).sum(-1)
        onehot = torch.nn.functional.one_hot(chosen, self.n_outputs).to(logits.dtype)
        return Choice(inputs, losses.score(policy, onehot, 0.0), losses.entropy_gradient(policy, 0.0))


class ContinuousDualRL:
    """REINFORCE with one Gaussian incentive an agent, squashed to (0, scale) (specification, 3.1)."""

    def __init__(self, config: DualRL, n_agents: int, scale: float) -> None:
        self.config = config
        self.n_outputs = n_agents
        self.scale = scale

    def pay(self, params: Params, batch: Batch, streams: rng.Streams) -> Choice:
        """Draw an incentive for every agent and row and write it to ``batch.incentives``."""
        mean, inputs = nets.forward(params, batch.designer_input)
        noise = torch.special.ndtri(_row_uniforms(streams, batch, self.n_outputs).clamp_min(1e-16)).to(mean.dtype)
        paid = self.scale * nets.sigmoid(mean + noise)
        batch.incentives = paid.transpose(1, 2) * batch.alive[:, None]
        return Choice(inputs, noise, None)


DualRLDesigner = DiscreteDualRL | ContinuousDualRL


def dual_rl_step(
    designer: DualRLDesigner, params: Params, batch: Batch, choice: Choice, optimiser: optim.Adam, state: Any
) -> tuple[Params, Any]:
    """One REINFORCE step on the environment reward less the incentives paid."""
    config = designer.config
    net = batch.designer_rewards - losses.sum_over_agents(batch.incentives)
    weights = losses.discounted_returns(net, config.gamma, batch.k)
    d_outputs = weights[..., None] * choice.score
    if choice.entropy_gradient is not None and config.entropy:
        d_outputs = d_outputs + config.entropy * batch.alive[..., None] * choice.entropy_gradient
    grads = nets.vjp(params, choice.inputs, d_outputs * (-1.0 / batch.k))
    return optimiser.step(params, grads, state)


def _row_uniforms(streams: rng.Streams, batch: Batch, width: int) -> Tensor:
    """Uniforms ``[S, R, width]`` in float64; as many are drawn for a short batch as for the longest."""
    drawn = torch.from_numpy(uniforms(streams, batch.max_rows * width))
    return drawn.view(batch.n_seeds, -1, width)[:, : batch.alive.shape[1]].to(batch.alive.device)
