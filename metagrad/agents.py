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
    weights: Tensor  # [S * A, R], discounted returns or temporal differences
    grads: Params
    state: Any  # optimiser state before


@dataclass(frozen=True)
class PolicyGradientAgents:
    """REINFORCE without baseline, one network an agent, sums over an episode (metagrad specification, 2.1)."""

    config: Agents
    optimiser: optim.Optimiser

    @classmethod
    def make(cls, config: Agents) -> PolicyGradientAgents:
        """Agents with the configured rule and optimiser."""
        kind = ActorCriticAgents if config.rule == "actor-critic" else PolicyGradientAgents
        if config.optimiser == "sgd":
            return kind(config, optim.SGD(config.lr))
        return kind(
            config,
            optim.Adam(config.lr, eps_mode=config.adam_eps_mode, stop_second_moment=config.stop_second_moment),
        )

    @property
    def credit_decay(self) -> float:
        """How far back in time a reward counts: its part in the weight of an action falls by this every step."""
        return self.config.gamma

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


@dataclass(frozen=True)
class ActorCriticAgents(PolicyGradientAgents):
    """The same with temporal differences of one step and a critic each (metagrad specification, 2.1)."""

    @property
    def credit_decay(self) -> float:
        """A temporal difference holds the reward of its own step alone."""
        return 0.0

    def value(self, critic: Params, batch: Batch) -> None:
        """Write the critic's values to the batch, 0 after the end of an episode."""
        batch.values = nets.forward(critic, batch.obs)[0][..., 0] * batch.agents_alive

    def weights(self, batch: Batch, incentives: Tensor) -> Tensor:
        """Temporal differences of environment rewards and incentives, ``[S * A, R]``."""
        assert batch.values is not None
        return (self._targets(batch, incentives) - batch.values) * batch.agents_alive

    def _targets(self, batch: Batch, incentives: Tensor) -> Tensor:
        """Reward and the discounted value of what follows; nothing follows the last step."""
        assert batch.values is not None
        later = torch.cat([batch.values[:, batch.k :], torch.zeros_like(batch.values[:, : batch.k])], 1)
        return (batch.rewards + incentives).flatten(0, 1) + self.config.gamma * later

    def critic_gradient(self, critic: Params, batch: Batch) -> Params:
        """Gradient of each critic's mean squared temporal difference."""
        values, inputs = nets.forward(critic, batch.obs)
        error = (values[..., 0] - self._targets(batch, batch.incentives)) * batch.agents_alive
        return nets.vjp(critic, inputs, (2 * error / batch.agents_alive.sum(1, keepdim=True))[..., None])
