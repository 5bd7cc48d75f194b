"""Designers that are themselves reinforcement learning agents ("AI Economist", dual RL)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators, losses, optim
from metagrad.agents.base import AgentState, Interface
from metagrad.agents.critics import DesignerCritic
from metagrad.batch import Batch
from metagrad.checks import Checked, Count, CountOrNone, NonNegative, Positive, PositiveShare, Share
from metagrad.designers.base import Designer, Notes, Transition
from metagrad.designers.incentives import StateAndActions, View
from metagrad.networks.base import Network, Where, sigmoid
from metagrad.networks.mlp import MLP
from metagrad.optim import Params
from metagrad.parallel import group
from metagrad.streams import Streams

#: Names in ``batch.extra`` of what a head drew, and of the steps in which it acted.
DRAW, ACTED = "designer_draw", "designer_acted"


class Head:
    """How a designer's outputs become a random choice; a base class.

    A head pays for whole episodes (:meth:`draw`), or it ``acts`` on the environment (:meth:`act`) in the steps in which
    it :meth:`decides`: the same steps in all copies, equally far apart.
    """

    acts: bool = False

    def n_outputs(self, game: Interface) -> int:
        """Outputs of the network."""
        raise NotImplementedError

    def draw(self, outputs: Tensor, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw for outputs ``[S, T, K, O]``: payments ``[S, T, K, A]``, and what to remember, ``[S, T, K, ...]``."""
        raise NotImplementedError

    def decides(self, env: Any) -> bool:
        """Whether the next step is one to act in."""
        return False

    def act(self, outputs: Tensor, env: Any, obs: Any, rng: Streams) -> np.ndarray:
        """Act on the environment, given outputs ``[S, K, O]``; returns what was drawn, ``[N, ...]``."""
        raise NotImplementedError

    def log_prob(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """Log-probability of the draw up to a constant, ``[S, T, K]``."""
        raise NotImplementedError

    def score(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """Derivative of the log-probability of the draw by the outputs, ``[S, T, K, O]``."""
        raise NotImplementedError

    def entropy_grad(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Derivative of the entropy by the outputs; None where it is constant."""
        return None


class Choices(Head):
    """A head of categorical choices, as many as :meth:`logits` has rows."""

    def logits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Logits ``[S, T, K, B, L]`` of B choices, and a mask of what is allowed; by default of one choice."""
        return outputs[..., None, :], None

    def log_prob(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """Of all choices together."""
        logits, mask = self.logits(outputs, batch)
        return losses.chosen(losses.log_probabilities(logits, 0.0, mask), draw.view(logits.shape[:-1])).sum(-1)

    def score(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """One-hot less probabilities, choice by choice."""
        logits, mask = self.logits(outputs, batch)
        policy = losses.probabilities(logits, 0.0, mask)
        return losses.score(policy, draw.view(logits.shape[:-1]), 0.0).flatten(-2)

    def entropy_grad(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Of the sum of the choices' entropies."""
        logits, mask = self.logits(outputs, batch)
        return losses.entropy_gradient(losses.probabilities(logits, 0.0, mask), 0.0).flatten(-2)


def step_uniforms(rng: Streams, batch: Batch, width: int) -> Tensor:
    """Uniforms ``[S, T, K, width]`` in float64; as many are drawn for a short batch as for the longest."""
    drawn = torch.from_numpy(rng.by_episode("designer", batch.horizon, batch.k, width))
    return drawn[:, : batch.alive.shape[1]].to(batch.alive.device)


@dataclass(frozen=True)
class Categorical(Checked, Choices):
    """One choice among all assignments of a level of payment to every action.

    Designer action x, read in base ``len(levels)`` with the lowest digit first, names the level of each agent action.

    Parameters
    ----------
    levels : tuple of float
        Payments to choose from.
    """

    levels: tuple[NonNegative, ...] = (0.0, 1.1)

    def table(self, n_actions: int) -> np.ndarray:
        """Payment of every agent action under every designer action, ``[levels ** n_actions, n_actions]``."""
        return np.array([digits[::-1] for digits in itertools.product(self.levels, repeat=n_actions)], float)

    def n_outputs(self, game: Interface) -> int:
        """Number of assignments."""
        return len(self.levels) ** game.n_actions

    def draw(self, outputs: Tensor, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw an assignment for every step."""
        below = outputs.softmax(-1).cumsum(-1)[..., :-1]
        chosen = (step_uniforms(rng, batch, 1) >= below).sum(-1)
        table = torch.as_tensor(self.table(batch.n_actions), device=outputs.device, dtype=outputs.dtype)
        return table[chosen].gather(-1, batch.actions) * batch.agents_alive, chosen


@dataclass(frozen=True)
class SquashedGaussian(Checked, Head):
    """Gaussian payments of unit deviation, squashed to ``(0, scale)``.

    Parameters
    ----------
    scale : float
        Upper bound of a payment.
    types : int
        One payment for each of so many types of action, as the game records them; 0 for one for each agent.
    record : str
        Name of the types in ``batch.extra``.
    """

    scale: Positive = 2.0
    types: CountOrNone = 0
    record: str = "action_type"

    def n_outputs(self, game: Interface) -> int:
        """One for each agent, or for each type."""
        return self.types or game.n_agents

    def draw(self, outputs: Tensor, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw payments for every step."""
        uniform = step_uniforms(rng, batch, outputs.shape[-1])
        noise = torch.special.ndtri(uniform.clamp_min(1e-16)).to(outputs.dtype)
        paid = self.scale * sigmoid(outputs + noise)
        if self.types:
            paid = paid.gather(-1, batch.extra[self.record].long())
        return paid * batch.agents_alive, outputs + noise

    def log_prob(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """Of the numbers before squashing."""
        return -0.5 * (draw - outputs).square().sum(-1)

    def score(self, outputs: Tensor, draw: Tensor, batch: Batch) -> Tensor:
        """What was drawn less its mean; the entropy is constant."""
        return draw - outputs


class DualRLState(NamedTuple):
    """What such a designer has learned."""

    eta: Params
    opt: Any
    critic: Any


class Rewards(Protocol):
    """What a designer is after."""

    def __call__(self, batch: Batch) -> Tensor:
        """Rewards ``[S, T, K]``."""


@dataclass(frozen=True)
class DualRL(Checked, Designer):
    """A designer that draws its payments or acts, and learns by policy gradients, beside agents that learn.

    Parameters
    ----------
    head : Head
        How outputs become payments or acts.
    network : Network
        On what ``view`` shows.
    optimiser : Adam or SGD
        How it learns.
    gamma, gae_lambda : float
        Discount of a step, and decay of generalised advantages with a critic.
    entropy : float
        Weight of the entropy bonus, where the head has one.
    critic : DesignerCritic, optional
        Values of the designer's states; None for returns without a baseline.
    reward_less_payments : bool
        Whether what it pays is subtracted from its reward.
    reduction : {"episode", "rows"}
        Its loss is a sum over the decisions of an episode, or a mean.
    view : View
        What it sees of a step; a head that acts needs one that does not wait for the agents' actions.
    rewards : Rewards, optional
        What it is after; None for the game's designer reward.
    normalise : bool
        Subtract the mean of a batch's advantages and divide by their deviation.
    epochs : int
        Steps on a batch; beyond the first the loss is the clipped surrogate.
    clip : float
        Clipping range of the probability ratio.
    """

    head: Head = field(default_factory=Categorical)
    network: Network = field(default_factory=lambda: MLP((64, 32)))
    optimiser: optim.Optimiser = field(default_factory=lambda: optim.Adam(1e-3))
    gamma: Share = 0.99
    gae_lambda: Share = 1.0
    entropy: NonNegative = 0.0
    critic: DesignerCritic | None = None
    reward_less_payments: bool = True
    reduction: Literal["episode", "rows"] = "episode"
    view: View = field(default_factory=StateAndActions)
    rewards: Rewards | None = None
    normalise: bool = False
    epochs: Count = 1
    clip: PositiveShare = 0.2

    def init(self, game: Interface, agents: Any, state: AgentState, rng: Streams, where: Where) -> DualRLState:
        """Network, optimiser and critic at the beginning."""
        shapes, outputs = self.view.shapes(game), self.head.n_outputs(game)
        eta = self.network.init(rng.generators("designer parameters"), 1, shapes, outputs, where)
        critic = self.critic and self.critic.init(rng.generators("designer critic"), game.designer, where)
        return DualRLState(eta, self.optimiser.init(eta), critic)

    def eta(self, state: DualRLState) -> Params:
        """The parameters of its network."""
        return state.eta

    def act(self, state: DualRLState, env: Any, obs: Any, step: int, rng: Streams) -> dict[str, np.ndarray]:
        """Act, if the head does and it is time."""
        if not self.head.acts or not self.head.decides(env):
            return {}
        rows = self.view.now(obs["designer"], state.eta)  # type: ignore[attr-defined]
        drawn = self.head.act(self.network.forward(state.eta, rows).out, env, obs["designer"], rng)
        return {DRAW: drawn, ACTED: np.ones(len(drawn), np.uint8)}

    def pay(self, state: DualRLState, batch: Batch, rng: Streams) -> Batch:
        """Draw payments for every step, if the head pays."""
        if self.head.acts:
            return batch
        paid, draw = self.head.draw(self._outputs(state, batch), batch, rng)
        return batch.replace(payments=paid, extra={**batch.extra, DRAW: draw})

    def update(
        self, state: DualRLState, agents: Any, transition: Transition, rng: Streams
    ) -> tuple[DualRLState, Notes]:
        """Learn from every batch of the iteration."""
        for batch in transition.batches:
            state = self._learn(state, batch)
        return state, {}

    def _learn(self, state: DualRLState, batch: Batch) -> DualRLState:
        seen, rewards, gamma = self._decisions(batch)
        weights, goals = self._judged(state, seen, rewards, gamma)
        acted = self.head.log_prob(self._outputs(state, seen), seen.extra[DRAW], seen) if self.epochs > 1 else None
        for _ in range(self.epochs):
            critic = state.critic
            if self.critic is not None and goals is not None:
                critic = self.critic.learn(critic, seen, goals)
            state = self._step(state._replace(critic=critic), seen, weights, acted)
        return state

    def _decisions(self, batch: Batch) -> tuple[Batch, Tensor, float]:
        """The steps in which it chose, its rewards from each to the next, and the discount between two."""
        rewards = batch.designer_rewards if self.rewards is None else self.rewards(batch)
        if self.reward_less_payments:
            rewards = rewards - estimators.sum_over_agents(batch.payments)
        if not self.head.acts:
            return batch, rewards, self.gamma
        steps = batch.extra[ACTED][0, :, 0].nonzero()[:, 0]
        apart = set(steps.diff().tolist()) or {0}
        if len(apart) > 1:
            raise ValueError(f"decisions of a designer must be equally far apart, got steps {steps.tolist()}")
        return batch.at(steps), estimators.between(rewards, steps.tolist(), self.gamma), self.gamma ** apart.pop()

    def _judged(self, state: DualRLState, seen: Batch, rewards: Tensor, gamma: float) -> tuple[Tensor, Tensor | None]:
        """Advantages of the decisions ``[S, D, K]``, and what the critic learns."""
        values, goals = None, None
        if self.critic is not None:
            values = self.critic.values(state.critic, seen)
            goals = self.critic.goals(state.critic, seen, rewards, gamma)
        weights = estimators.gae(rewards, values, gamma, 1.0 if values is None else self.gae_lambda, seen.alive)
        if not self.normalise:
            return weights * seen.alive, goals
        alive = seen.alive[..., None]
        raw = weights[..., None] * alive
        return estimators.normalise(raw, alive, estimators.moments(raw, alive))[..., 0], goals

    def _step(self, state: DualRLState, seen: Batch, weights: Tensor, acted: Tensor | None) -> DualRLState:
        """One step of the policy; ``acted`` are the log-probabilities of the draws as they were drawn."""
        outputs, draw = self._outputs(state, seen), seen.extra[DRAW]
        if acted is not None:
            ratio = (self.head.log_prob(outputs, draw, seen) - acted).exp()
            weights = weights * losses.active_ratio(ratio, weights, self.clip)
        d_outputs = weights[..., None] * self.head.score(outputs, draw, seen)
        bonus = self.head.entropy_grad(outputs, seen) if self.entropy else None
        if bonus is not None:
            d_outputs = d_outputs + self.entropy * seen.alive[..., None] * bonus
        scale = -estimators.loss_scale(seen.alive, self.reduction)
        grads = group.means(self._forward(state, seen).vjp((d_outputs * scale).flatten(1, 2)))
        eta, opt = self.optimiser.step(state.eta, grads, state.opt)
        return state._replace(eta=eta, opt=opt)

    def _forward(self, state: DualRLState, batch: Batch) -> Any:
        rows = batch.remember("view", batch.designer_obs, lambda: self.view.rows(batch))
        return batch.remember("designer", state.eta, lambda: self.network.forward(state.eta, rows))

    def _outputs(self, state: DualRLState, batch: Batch) -> Tensor:
        return self._forward(state, batch).out.unflatten(1, batch.alive.shape[1:])
