"""Selfish agents, policy-gradient or actor-critic: their learning step, and what the meta-gradient needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad.legacy import losses, nets, optim
from metagrad.legacy.config import Agents
from metagrad.legacy.losses import Softmax
from metagrad.legacy.nets import Params
from metagrad.legacy.rollout import Batch


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
    weights: Tensor  # [S * A, R], returns or advantages
    grads: Params
    state: Any  # optimiser state before


@dataclass(frozen=True)
class PolicyGradientAgents:
    """REINFORCE without baseline, one network an agent, sums over an episode (metagrad specification, 2.1)."""

    config: Agents
    optimiser: optim.Optimiser

    def init(
        self, generators: Sequence[np.random.Generator], n: int, width: int, n_actions: int, init: str, **options: Any
    ) -> Params:
        """Draw the policies of ``n`` agents from each generator."""
        if self.config.linear:
            return nets.init_normal(generators, n, (width, n_actions), deviation=0.5, bias=None, **options)
        return nets.init_mlp(generators, n, (width, *self.config.hidden, n_actions), init=init, **options)

    def init_critics(self, generators: Sequence[np.random.Generator], n: int, width: int, **options: Any) -> Params:
        """Critics: none."""
        return {}

    def values(self, critic: Params, batch: Batch) -> Tensor:
        """What the agents' critics say, ``[S, A, R]``: nothing without critics."""
        return batch.values

    def learn_critic(self, critic: Params, batch: Batch, adam: optim.Adam, state: Any) -> tuple[Params, Any]:
        """One step of the critics on a batch: nothing without critics."""
        return critic, state

    def evaluate(self, theta: Params, batch: Batch) -> Evaluation:
        """Forward pass over a batch."""
        logits, inputs = nets.forward(theta, batch.obs)
        policy = losses.probabilities(logits, batch.epsilon)
        return Evaluation(theta, batch, inputs, policy, losses.score(policy, batch.onehot, batch.epsilon))

    def weights(self, batch: Batch, incentives: Tensor) -> Tensor:
        """Discounted returns of environment rewards and incentives, ``[S * A, R]``."""
        return losses.discounted_returns(batch.rewards + incentives, self.config.gamma, batch.k).flatten(0, 1)

    def credit(self, d: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`weights`: derivative of ``Σ d * weights`` by the incentives, ``[S, A, R]``."""
        return losses.returns_transposed(d.unflatten(0, (batch.n_seeds, -1)), self.config.gamma, batch.k)

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
    ) -> tuple[Params, Any, list[LearningStep]]:
        """Take one step on each batch, the first from an evaluation already made; with the optimiser's new state."""
        steps, evaluation, theta = [], first, first.theta
        for j, batch in enumerate(batches):
            if j:
                evaluation = self.evaluate(theta, batch)
            theta, state, step = self.learn(evaluation, incentives[j], state)
            steps.append(step)
        return theta, state, steps

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


class ActorCriticAgents(PolicyGradientAgents):
    """One-step advantages ``r + γ V(o') - V(o)`` with a critic each (metagrad specification, 2.1).

    Both values are those from before the critic's own step, in the agents' step and wherever it is differentiated. The
    end of an episode, by the door or by the step limit, is an end: no value stands for what would follow.
    """

    def init_critics(self, generators: Sequence[np.random.Generator], n: int, width: int, **options: Any) -> Params:
        """Draw the critics of ``n`` agents from each generator."""
        sizes = (width, *self.config.hidden_critic, 1)
        return nets.init_normal(generators, n, sizes, deviation=0.1, bias=0.1, **options)

    def values(self, critic: Params, batch: Batch) -> Tensor:
        """What the agents' critics say, ``[S, A, R]``; 0 after the end of an episode."""
        out, _ = nets.forward(critic, batch.obs)
        return (out[..., 0] * batch.agents_alive).unflatten(0, (batch.n_seeds, -1))

    def weights(self, batch: Batch, incentives: Tensor) -> Tensor:
        """Advantages of environment rewards and incentives, ``[S * A, R]``."""
        later = torch.cat([batch.values[..., batch.k :], torch.zeros_like(batch.values[..., : batch.k])], -1)
        return (batch.rewards + incentives + self.config.gamma * later - batch.values).flatten(0, 1)

    def credit(self, d: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`weights`."""
        return d.unflatten(0, (batch.n_seeds, -1))

    def learn_critic(self, critic: Params, batch: Batch, adam: optim.Adam, state: Any) -> tuple[Params, Any]:
        """One Adam step on the mean squared advantage, the later value held fixed."""
        _, inputs = nets.forward(critic, batch.obs)
        count = batch.agents_alive.sum(1, keepdim=True)
        d_out = self.weights(batch, batch.incentives) * (-2.0 / count)
        return adam.step(critic, nets.vjp(critic, inputs, d_out[..., None]), state)


def make_agents(config: Agents) -> PolicyGradientAgents:
    """The configured agents."""
    kind = ActorCriticAgents if config.kind == "ac" else PolicyGradientAgents
    if config.optimiser == "sgd":
        return kind(config, optim.SGD(config.lr))
    adam = optim.Adam(config.lr, eps_mode=config.adam_eps_mode, stop_second_moment=config.stop_second_moment)
    return kind(config, adam)
