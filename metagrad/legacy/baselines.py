"""Designers that do not differentiate through learning: dual reinforcement learning, and none at all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs import rng
from metagrad.legacy import losses, nets, optim
from metagrad.legacy.agents import Evaluation
from metagrad.legacy.config import AMD, DualRL
from metagrad.legacy.nets import Params
from metagrad.legacy.rollout import Batch, uniforms


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


class MechanismDesigner:
    """Baumann et al.'s adaptive mechanism design (specification, 3.5).

    The planner learns at every step of an episode: how far one agent's step on one action moves that action's
    probability is ``lr ||∇ log π||²`` times the incentive, and that is worth the reward of the step.

    Parameters
    ----------
    config : AMD
        Its options.
    lr : float
        The agents' learning rate.
    scale : float
        Upper bound of an incentive.
    seen : int
        Width of the planner's observation.
    """

    def __init__(self, config: AMD, lr: float, scale: float, seen: int) -> None:
        self.config, self.lr, self.scale, self.seen = config, lr, scale, seen

    def pay(self, params: Params, batch: Batch, streams: rng.Streams) -> None:
        """Write what the planner as it is pays for whole episodes to ``batch.incentives``."""
        sigma = nets.sigmoid(nets.forward(params, self._inputs(batch))[0])
        batch.incentives = self.scale * sigma.transpose(1, 2) * batch.alive[:, None]

    def learn(self, params: Params, agents: Evaluation, adam: optim.Adam, state: Any) -> tuple[Params, Any]:
        """Go through the episodes step by step: pay with the planner as it is, then let it learn from the step."""
        batch = agents.batch
        gain = self.lr * self.score_norms(agents) * batch.designer_rewards[:, None]
        inputs, paid, first = self._inputs(batch), [], state.t
        for t in range(batch.steps):
            rows = slice(t * batch.k, (t + 1) * batch.k)
            logits, layers = nets.forward(params, inputs[:, rows].contiguous())
            sigma, alive = nets.sigmoid(logits), batch.alive[:, rows, None]
            paid.append(self.scale * sigma * alive)
            d_sigma = self.scale * alive * (self._cost_slope(sigma) - gain[:, :, rows].transpose(1, 2)) / batch.k
            grads = nets.vjp(params, layers, d_sigma * nets.sigmoid_slope(logits, sigma))
            moved, after = adam.step(params, self._clipped(grads), state)
            # A seed whose episodes are all over has nothing to learn from, however long those of others go on.
            active = alive.amax(1, keepdim=True) > 0
            params = _where(active, moved, params)
            state = after._replace(m=_where(active, after.m, state.m), v=_where(active, after.v, state.v))
        batch.incentives = torch.cat(paid, 1).transpose(1, 2)
        # Adam's step count goes by the step limit, so that it too is the same whoever shares the batch.
        return params, state._replace(t=first + batch.max_rows // batch.k)

    def score_norms(self, agents: Evaluation) -> Tensor:
        """``||∇_θi log π_i||²`` of every action, ``[S, A, R]``."""
        batch, score, inputs = agents.batch, agents.score, agents.inputs
        if self.config.scores_at == "planner":
            seen = batch.designer_input[..., : self.seen].repeat_interleave(batch.rewards.shape[1], 0)
            logits, inputs = nets.forward(agents.theta, seen)
            score = losses.score(losses.probabilities(logits, batch.epsilon), batch.onehot, batch.epsilon)
        return nets.squared_norms(agents.theta, inputs, score).unflatten(0, (batch.n_seeds, -1))

    def _inputs(self, batch: Batch) -> Tensor:
        """The planner's observation and the agents' actions as numbers, ``[S, R, E]``."""
        numbers = batch.actions @ torch.arange(
            batch.actions.shape[-1], dtype=batch.alive.dtype, device=batch.alive.device
        )
        return torch.cat([batch.designer_input[..., : self.seen], numbers.transpose(1, 2)], -1)

    def _cost_slope(self, sigma: Tensor) -> Tensor:
        """Derivative of the weighted length of the vector of incentives, by the incentives."""
        length = losses.sum_over_agents(sigma.square().transpose(1, 2)).sqrt()
        return self.config.cost_weight * sigma / length[..., None]

    def _clipped(self, grads: Params) -> Params:
        """Gradients of every seed and parameter cut to the longest length allowed."""
        clipped = {}
        for name, g in grads.items():
            length = torch.stack([x.norm() for x in g])[:, None, None]  # one by one, so that seeds do not mix
            clipped[name] = g * (self.config.grad_clip / length.clamp_min(self.config.grad_clip))
        return clipped


def _where(active: Tensor, new: Params, old: Params) -> Params:
    return {name: torch.where(active, p, old[name]) for name, p in new.items()}


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
