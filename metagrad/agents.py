"""Selfish policy-gradient agents: their learning step, and what the meta-gradient needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metagrad import losses, nets, optim
from metagrad.config import Agents
from metagrad.losses import Softmax
from metagrad.nets import Params
from metagrad.rollout import Batch


class Evaluation(NamedTuple):
    """The agents' networks ``theta`` on the rows of ``batch``."""

    theta: Params
    batch: Batch
    inputs: list[Tensor]
    policy: Softmax
    score: Tensor  # [S * A, R, L], derivative of log π(a) with respect to the logits


class LearningStep(NamedTuple):
    """One learning step as it was taken: where, from what, with which gradient."""

    evaluation: Evaluation
    weights: Tensor  # [S * A, R], discounted returns
    grads: Params
    state: Any  # optimiser state before


@dataclass(frozen=True)
class PolicyGradientAgents:
    """REINFORCE without baseline, one network an agent, sums over an episode (metagrad specification, 2.1)."""

    config: Agents
    optimiser: optim.Optimiser

    @classmethod
    def make(cls, config: Agents) -> PolicyGradientAgents:
        """Agents with the configured optimiser."""
        if config.optimiser == "sgd":
            return cls(config, optim.SGD(config.lr))
        return cls(
            config,
            optim.Adam(config.lr, eps_mode=config.adam_eps_mode, stop_second_moment=config.stop_second_moment),
        )

    def evaluate(self, theta: Params, batch: Batch) -> Evaluation:
        """Forward pass over a batch."""
        logits, inputs = nets.forward(theta, batch.obs)
        policy = losses.probabilities(logits, batch.epsilon)
        return Evaluation(theta, batch, inputs, policy, losses.score(policy, batch.onehot, batch.epsilon))

    def weights(self, batch: Batch, incentives: Tensor) -> Tensor:
        """Discounted returns of environment rewards and incentives, ``[S * A, R]``."""
        return losses.discounted_returns(batch.rewards + incentives, self.config.gamma, batch.k).flatten(0, 1)

    def learn(self, evaluation: Evaluation, incentives: Tensor, state: Any) -> tuple[Params, Any, LearningStep]:
        """One step on a batch: new parameters, new optimiser state, and the record of the step."""
        batch = evaluation.batch
        weights = self.weights(batch, incentives)
        d_logits = weights[..., None] * evaluation.score
        if self.config.entropy:
            alive = batch.agents_alive[..., None]
            d_logits += self.config.entropy * alive * losses.entropy_gradient(evaluation.policy, batch.epsilon)
        grads = nets.vjp(evaluation.theta, evaluation.inputs, d_logits * (-1.0 / batch.k))
        theta, after = self.optimiser.step(evaluation.theta, grads, state)
        return theta, after, LearningStep(evaluation, weights, grads, state)

    def learn_through(
        self, first: Evaluation, batches: Sequence[Batch], incentives: Sequence[Tensor], state: Any
    ) -> tuple[Params, list[LearningStep]]:
        """Take one step on each batch, the first from an evaluation already made."""
        steps, evaluation, theta = [], first, first.theta
        for j, batch in enumerate(batches):
            if j:
                evaluation = self.evaluate(theta, batch)
            theta, state, step = self.learn(evaluation, incentives[j], state)
            steps.append(step)
        return theta, steps

    def loss(self, theta: Params, batch: Batch, weights: Tensor) -> Tensor:
        """The loss that :meth:`learn` descends, summed over networks, for automatic differentiation."""
        logits, _ = nets.forward(theta, batch.obs)
        return losses.policy_gradient_loss(
            logits, batch.onehot, weights, batch.agents_alive, self.config.entropy, batch.epsilon, batch.k
        )

    def score_jvp(self, evaluation: Evaluation, u: Params) -> Tensor:
        """Derivative of the log-probability of every chosen action along ``u``, ``[S * A, R]``."""
        return (nets.jvp(evaluation.theta, evaluation.inputs, u) * evaluation.score).sum(-1)

    def hessian_vector(self, step: LearningStep, u: Params) -> Params:
        """Hessian of the loss of a step times ``u``, by forward over reverse differentiation."""
        gradient = torch.func.grad(lambda theta: self.loss(theta, step.evaluation.batch, step.weights))
        return torch.func.jvp(gradient, (step.evaluation.theta,), (u,))[1]
