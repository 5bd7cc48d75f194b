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
from metagrad.checks import Checked, CountOrNone, NonNegative, Positive, Share
from metagrad.designers.base import Designer, Notes, Transition
from metagrad.designers.incentives import StateAndActions, View
from metagrad.networks.base import Network, Where, sigmoid
from metagrad.networks.mlp import MLP
from metagrad.optim import Params
from metagrad.streams import Streams

#: Name in ``batch.extra`` of what a head drew.
DRAW = "designer_draw"


class Head(Protocol):
    """How a designer's outputs become payments, drawn at random."""

    def n_outputs(self, game: Interface) -> int:
        """Outputs of the network."""

    def draw(self, outputs: Tensor, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw for outputs ``[S, T, K, O]``: payments ``[S, T, K, A]``, and what to remember, ``[S, T, K, ...]``."""

    def score(self, outputs: Tensor, draw: Tensor) -> Tensor:
        """Derivative of the log-probability of the draw by the outputs, ``[S, T, K, O]``."""

    def entropy_grad(self, outputs: Tensor) -> Tensor | None:
        """Derivative of the entropy by the outputs; None where it is constant."""


def step_uniforms(rng: Streams, batch: Batch, width: int) -> Tensor:
    """Uniforms ``[S, T, K, width]`` in float64; as many are drawn for a short batch as for the longest."""
    drawn = torch.from_numpy(rng.uniforms("designer", batch.horizon * batch.k * width))
    steps = batch.alive.shape[1]
    return drawn.view(len(drawn), batch.horizon, batch.k, width)[:, :steps].to(batch.alive.device)


@dataclass(frozen=True)
class Categorical(Checked):
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
        return table[chosen].gather(-1, batch.actions) * batch.alive[..., None], chosen

    def score(self, outputs: Tensor, draw: Tensor) -> Tensor:
        """One-hot less probabilities."""
        return losses.score(losses.probabilities(outputs, 0.0), draw, 0.0)

    def entropy_grad(self, outputs: Tensor) -> Tensor:
        """Of the entropy of the choice."""
        return losses.entropy_gradient(losses.probabilities(outputs, 0.0), 0.0)


@dataclass(frozen=True)
class SquashedGaussian(Checked):
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
        return paid * batch.alive[..., None], outputs + noise

    def score(self, outputs: Tensor, draw: Tensor) -> Tensor:
        """What was drawn less its mean."""
        return draw - outputs

    def entropy_grad(self, outputs: Tensor) -> None:
        """Nothing: the deviation is fixed."""


class DualRLState(NamedTuple):
    """What such a designer has learned."""

    eta: Params
    opt: Any
    critic: Any


@dataclass(frozen=True)
class DualRL(Checked, Designer):
    """A designer that draws its payments and learns by policy gradients, beside agents that learn.

    Parameters
    ----------
    head : Head
        How outputs become payments.
    network : Network
        On what ``view`` shows.
    optimiser : Adam or SGD
        How it learns.
    gamma, gae_lambda : float
        Discount, and decay of generalised advantages with a critic.
    entropy : float
        Weight of the entropy bonus, where the head has one.
    critic : DesignerCritic, optional
        Values of the designer's states; None for returns without a baseline.
    reward_less_payments : bool
        Whether what it pays is subtracted from its reward.
    reduction : {"episode", "rows"}
        Its loss is a sum over the steps of an episode, or a mean.
    view : View
        What it sees of a step.
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

    def init(self, game: Interface, agents: Any, state: AgentState, rng: Streams, where: Where) -> DualRLState:
        """Network, optimiser and critic at the beginning."""
        shapes, outputs = self.view.shapes(game), self.head.n_outputs(game)
        eta = self.network.init(rng.generators("designer parameters"), 1, shapes, outputs, where)
        critic = self.critic and self.critic.init(rng.generators("designer critic"), game.designer, where)
        return DualRLState(eta, self.optimiser.init(eta), critic)

    def eta(self, state: DualRLState) -> Params:
        """The parameters of its network."""
        return state.eta

    def pay(self, state: DualRLState, batch: Batch, rng: Streams) -> Batch:
        """Draw payments for every step."""
        paid, draw = self.head.draw(self._outputs(state, batch), batch, rng)
        return batch.replace(payments=paid, extra={**batch.extra, DRAW: draw})

    def update(
        self, state: DualRLState, agents: Any, transition: Transition, rng: Streams
    ) -> tuple[DualRLState, Notes]:
        """One step on every batch of the iteration."""
        for batch in transition.batches:
            state = self._learn(state, batch)
        return state, {}

    def _learn(self, state: DualRLState, batch: Batch) -> DualRLState:
        rewards, values, critic = batch.designer_rewards, None, state.critic
        if self.reward_less_payments:
            rewards = rewards - estimators.sum_over_agents(batch.payments)
        if self.critic is not None:
            values = self.critic.values(critic, batch)
            critic = self.critic.update(critic, batch, rewards, self.gamma)
        weights = estimators.gae(rewards, values, self.gamma, 1.0 if values is None else self.gae_lambda)
        weights = (weights * batch.alive)[..., None]
        outputs = self._outputs(state, batch)
        d_outputs = weights * self.head.score(outputs, batch.extra[DRAW])
        bonus = self.head.entropy_grad(outputs) if self.entropy else None
        if bonus is not None:
            d_outputs = d_outputs + self.entropy * batch.alive[..., None] * bonus
        scale = 1.0 / batch.k if self.reduction == "episode" else 1.0 / (batch.k * batch.alive.shape[1])
        grads = self._forward(state, batch).vjp((d_outputs * -scale).flatten(1, 2))
        eta, opt = self.optimiser.step(state.eta, grads, state.opt)
        return DualRLState(eta, opt, critic)

    def _forward(self, state: DualRLState, batch: Batch) -> Any:
        rows = batch.remember("view", batch.designer_obs, lambda: self.view.rows(batch))
        return batch.remember("designer", state.eta, lambda: self.network.forward(state.eta, rows))

    def _outputs(self, state: DualRLState, batch: Batch) -> Tensor:
        return self._forward(state, batch).out.unflatten(1, batch.alive.shape[1:])
