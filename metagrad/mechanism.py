"""Adaptive mechanism design (Baumann, Graepel and Shawe-Taylor): a planner that foresees the agents' next step.

An incentive for what an agent just did moves its parameters along the score of that action. The planner multiplies
that step with a one-sample estimate of how its own reward changes along the same score, and climbs the product; it
needs neither fresh episodes nor the agents' real update. Specification: metagrad 3.5, and 6, item 31.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastenvs import rng
from metagrad import nets, optim
from metagrad.agents import Evaluation, PolicyGradientAgents
from metagrad.nets import Params
from metagrad.options import Mechanism
from metagrad.rollout import Batch


@dataclass(frozen=True)
class MechanismDesigner:
    """One incentive for each agent, from all places and the agents' actions as numbers."""

    config: Mechanism
    agents: PolicyGradientAgents
    scale: float
    max_steps: int

    def pay(self, eta: Params, batch: Batch, streams: rng.Streams) -> None:
        """Write the incentives of ``eta`` to ``batch.incentives``; nothing is random here."""
        logits, _ = nets.forward(eta, self._input(batch))
        batch.incentives = (self.scale * nets.sigmoid(logits)).transpose(1, 2) * batch.alive[:, None]

    def learn(self, eta: Params, evaluation: Evaluation, optimiser: optim.Adam, state: Any) -> tuple[Params, Any]:
        """Pay, and learn after the episode or, as published, after each of its steps.

        Parameters
        ----------
        eta, optimiser, state
            The planner's networks ``[S, ...]``, and their optimiser.
        evaluation : Evaluation
            The agents on the episodes.
        """
        batch = evaluation.batch
        inputs, norms = self._input(batch), self.score_norms(evaluation)
        spans = [slice(None)]
        if self.config.per_step:
            # As many optimiser steps whatever the episodes' lengths are, so that seeds do not depend on each other.
            spans = [slice(t * batch.k, (t + 1) * batch.k) for t in range(self.max_steps)]
        for rows in spans:
            alive = batch.alive[:, rows]
            if alive.numel() == 0:
                state = state._replace(t=state.t + 1)
                continue
            logits, layers = nets.forward(eta, inputs[:, rows])
            sigma = nets.sigmoid(logits)
            paid = self.scale * sigma * alive[..., None]
            batch.incentives[:, :, rows] = paid.transpose(1, 2)
            d_paid = self.slopes(paid, norms[:, rows], batch.designer_rewards[:, rows]) / batch.k
            d_logits = self.scale * d_paid * alive[..., None] * nets.sigmoid_slope(logits, sigma)
            grads = _clipped(nets.vjp(eta, layers, d_logits), self.config.max_norm)
            eta, state = _step_of_living(optimiser, eta, grads, state, alive.amax(1) > 0)
        return eta, state

    def slopes(self, paid: Tensor, norms: Tensor, rewards: Tensor) -> Tensor:
        """Derivative of the loss of every row with respect to its incentives, ``[S, R, A]``.

        The loss is ``-lr Σ_i |∇ log π_i|² u_i R + c |u|`` with incentives u and the planner's immediate reward R.
        """
        size = paid.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(paid.dtype).tiny)
        return -self.agents.config.lr * norms * rewards[..., None] + self.config.cost * paid / size

    def score_norms(self, evaluation: Evaluation) -> Tensor:
        """Squared norms of the agents' scores, ``[S, R, A]``."""
        batch = evaluation.batch
        if self.config.observation == "planner":
            seen = batch.designer_input[..., : batch.obs.shape[-1]].repeat_interleave(batch.rewards.shape[1], 0)
            evaluation = self.agents.evaluate(evaluation.theta, replace(batch, obs=seen))
        norms = nets.squared_row_norms(evaluation.theta, evaluation.inputs, evaluation.score)
        return norms.unflatten(0, (batch.n_seeds, -1)).transpose(1, 2)

    @staticmethod
    def _input(batch: Batch) -> Tensor:
        """The planner's observation and the numbers of the agents' actions, ``[S, R, ...]``."""
        actions = batch.actions
        numbers = (actions * torch.arange(actions.shape[-1], dtype=actions.dtype, device=actions.device)).sum(-1)
        return torch.cat([batch.designer_input[..., : batch.obs.shape[-1]], numbers.transpose(1, 2)], -1)


def _clipped(grads: Params, bound: float) -> Params:
    """Each tensor's gradient scaled to a norm of at most ``bound``, seed by seed."""
    norms = {name: g.flatten(1).norm(dim=1).view(-1, 1, 1) for name, g in grads.items()}
    return {name: g * (bound / norms[name].clamp_min(bound)) for name, g in grads.items()}


def _step_of_living(
    optimiser: optim.Adam, eta: Params, grads: Params, state: optim.AdamState, lives: Tensor
) -> tuple[Params, optim.AdamState]:
    """A step of the seeds whose episodes go on."""
    new, after = optimiser.step(eta, grads, state)

    def kept(now: Params, before: Params) -> Params:
        return {name: torch.where(lives[:, None, None], p, before[name]) for name, p in now.items()}

    return kept(new, eta), optim.AdamState(kept(after.m, state.m), kept(after.v, state.v), after.t)
