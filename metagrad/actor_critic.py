"""Actor-critic agents that see pictures: one policy and one critic for all actors, and their learning step.

Specification: metagrad 2.2; learning leads, Cleanup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metagrad import optim
from metagrad.config import CleanupConfig
from metagrad.convnet import Evaluation, apply_trunk, init_trunk
from metagrad.economy import advantages, masked_log_softmax, slope, spread
from metagrad.fitting import Axes
from metagrad.nets import Params
from metagrad.train import DTYPES


@dataclass
class Batch:
    """K episodes of T steps; actors are the agents, or one for each episode that acts for all (central)."""

    AXES: ClassVar[Axes] = {
        "pictures": ("T1*K*M h w c", torch.uint8), "overview": ("T1*K H W C", torch.uint8),
        "actions": ("T*K*M", torch.int64), "log_prob": ("T*K*M", None), "rewards": ("T K A", None),
        "incentives": ("T K A", None), "kinds": ("T K A", torch.int64), "cleaned": ("T K A", None),
        "waste": ("T K A", None), "noise": ("T K 3", None),
    }  # fmt: skip

    pictures: Tensor  # uint8 [(T + 1) * K * actors, h, w, C]
    overview: Tensor  # uint8 [(T + 1) * K, H, W, C], the designer's
    actions: Tensor  # int64 [T * K * actors]
    log_prob: Tensor  # [T * K * actors], of the actions, exploration included
    rewards: Tensor  # [T, K, A], from the environment
    incentives: Tensor  # [T, K, A]
    kinds: Tensor  # int64 [T, K, A], action types
    cleaned: Tensor  # [T, K, A], whether the action was to clean
    waste: Tensor  # [T, K, A], units of waste removed
    noise: Tensor  # [T, K, 3], of a designer that draws its incentives
    epsilon: float

    @property
    def seen(self) -> Tensor:
        """Pictures that actions answered, without the last."""
        return self.pictures[: len(self.actions)]

    @property
    def seen_by_designer(self) -> tuple[Tensor, Tensor]:
        """Overviews and clean flags of every step, ``[T * K, ...]``."""
        steps, k, n = self.cleaned.shape
        flags = torch.stack([self.cleaned, 1 - self.cleaned], -1)
        return self.overview[: steps * k], flags.reshape(steps * k, 2 * n)


# ---------------------------------------------------------------------- networks on pictures


def picture_net(
    widths: Any, generator: np.random.Generator, shape: Any, n: int, run: CleanupConfig, extra: int = 0
) -> Params:
    """A 3 x 3 convolution and dense layers on pictures ``(h, w, C)``; ``extra`` numbers join before the second."""
    height, width, channels = shape
    first, *hidden = widths.hidden
    return init_trunk(
        generator, channels, height * width, extra, widths.filters, tuple(hidden), n, run.device, DTYPES[run.dtype],
        kernel=3, convolutions=1, map_width=first,
    )  # fmt: skip


def _inputs(params: Params, pictures: Tensor, extra: Tensor | None) -> tuple[Tensor, Tensor]:
    dtype = params["map"].dtype
    return pictures.to(dtype) / 255, pictures.new_zeros(len(pictures), 0, dtype=dtype) if extra is None else extra


def apply_picture(params: Params, pictures: Tensor, extra: Tensor | None = None) -> Tensor:
    """Outputs ``[B, n]`` for pictures uint8 ``[B, h, w, C]`` and further numbers ``[B, extra]``; differentiable."""
    return apply_trunk(params, *_inputs(params, pictures, extra))


def evaluate_picture(params: Params, pictures: Tensor, extra: Tensor | None = None) -> Evaluation:
    """The same with the passes that learning needs by hand."""
    return Evaluation(params, *_inputs(params, pictures, extra))


class Critic:
    """A value network with its target and optimiser; ``evaluate`` runs it on what it sees, by default pictures."""

    def __init__(
        self, params: Params, lr: float, tau: float, evaluate: Callable[[Params, Any], Evaluation] = evaluate_picture
    ) -> None:
        self.params, self.target, self.tau, self.evaluate = params, dict(params), tau, evaluate
        self.adam = optim.Adam(lr)
        self.state = self.adam.init(params)

    def values(self, seen: Any, steps: int) -> Tensor:
        """Values ``[steps, rows / steps]``."""
        return self.evaluate(self.params, seen).out.view(steps, -1)

    def learn(self, seen: Any, rewards: Tensor, gamma: float, lam: float) -> Tensor:
        """One Adam step to the λ-returns of the target network, which then follows.

        Parameters
        ----------
        seen : Any
            Of all steps and the one after the last.
        rewards : Tensor ``[T, N]``
        gamma, lam : float
            Discount, and decay: 0 is the temporal difference of one step.

        Returns
        -------
        Tensor ``[T + 1, N]``
            Values before the step.
        """
        steps = len(rewards) + 1
        evaluation = self.evaluate(self.params, seen)
        values = evaluation.out.view(steps, -1)
        # Without a target network this is the critic itself.
        later = values if self.tau == 1 else self.evaluate(self.target, seen).out.view(steps, -1)
        goal = advantages(rewards, later, gamma, lam) + later[:-1]
        error = torch.zeros_like(values)
        error[:-1] = 2 * (values[:-1] - goal) / goal.numel()
        self.params, self.state = self.adam.step(self.params, evaluation.vjp(error.view(-1, 1)), self.state)
        if self.tau == 1:
            self.target = self.params
        else:
            self.target = {n: torch.lerp(old, self.params[n], self.tau) for n, old in self.target.items()}
        return values


# ---------------------------------------------------------------------- the agents


@dataclass(frozen=True)
class LearnedStep:
    """One learning step of the policy as it was taken."""

    batch: Batch
    values: Tensor  # [T + 1, K * actors], of the critic before its step
    policy: Params  # before
    state: Any  # of the optimiser, before
    grads: Params
    after: Params = field(default_factory=dict)  # policy after the step
    evaluation: Evaluation | None = None  # of the policy before, on the batch


class ActorCritic:
    """A policy, its critic and their optimisers."""

    def __init__(self, config: CleanupConfig, generator: np.random.Generator, shape: Any, n_actions: int) -> None:
        self.config, a = config, config.agents
        self.policy = picture_net(a, generator, shape, n_actions, config)
        self.critic = Critic(picture_net(a, generator, shape, 1, config), a.lr_critic, a.target_tau)
        self.adam: optim.Optimiser = optim.Adam(a.lr) if a.optimiser == "adam" else optim.SGD(a.lr)
        self.policy_state: Any = self.adam.init(self.policy)

    def actor_rewards(self, rewards: Tensor) -> Tensor:
        """Rewards of the actors ``[T, K * actors]`` from those of the agents ``[T, K, A]``."""
        return rewards.flatten(1)

    def learn_from(self, batch: Batch, evaluation: Evaluation | None = None) -> LearnedStep:
        """One step of the critic and one of the policy; ``evaluation`` is of the policy on the batch, if at hand."""
        a = self.config.agents
        evaluation = evaluation or evaluate_picture(self.policy, batch.seen)
        rewards = self.actor_rewards(batch.rewards + batch.incentives)
        values = self.critic.learn(batch.pictures, rewards, a.gamma, a.gae_lambda)
        step = LearnedStep(batch, values, self.policy, self.policy_state, {}, evaluation=evaluation)
        weight = self.weights(step, rewards)
        grads = evaluation.vjp(slope(lambda logits: self.loss(logits, batch, weight), evaluation.out))
        self.policy, self.policy_state = self.adam.step(self.policy, grads, self.policy_state)
        return replace(step, grads=grads, after=self.policy)

    def weights(self, step: LearnedStep, rewards: Tensor) -> Tensor:
        """Advantages ``[rows]`` of the actions under these rewards of the actors, differentiable in them."""
        a = self.config.agents
        weight = advantages(rewards, step.values, a.gamma, a.gae_lambda).flatten()
        return (weight - weight.mean()) / spread(weight) if a.normalise else weight

    def loss(self, logits: Tensor, batch: Batch, weight: Tensor) -> Tensor:
        """Policy gradient loss with entropy bonus at the logits, a mean over all rows."""
        log_p = log_softmax(logits, batch)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return -(chosen(log_p, batch) * weight + self.config.agents.entropy * entropy).mean()

    def policy_loss(self, params: Params, batch: Batch, weight: Tensor) -> Tensor:
        """The same as a function of the policy, for automatic differentiation."""
        return self.loss(apply_picture(params, batch.seen), batch, weight)


def log_softmax(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities of the acting policy, ``[rows, n_actions]``, exploration included."""
    return masked_log_softmax(logits, torch.ones_like(logits, dtype=torch.bool), batch.epsilon)


def log_policy(params: Params, batch: Batch) -> Tensor:
    """The same from the parameters."""
    return log_softmax(apply_picture(params, batch.seen), batch)


def chosen(log_p: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities ``[rows]`` of what was done."""
    return log_p.gather(1, batch.actions[:, None])[:, 0]


def score(logits: Tensor, batch: Batch) -> Tensor:
    """Derivative of the log-probabilities of what was done with respect to the logits, ``[rows, n_actions]``."""
    return slope(lambda x: chosen(log_softmax(x, batch), batch).sum(), logits)
