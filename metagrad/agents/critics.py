"""Value functions, for agents and designers alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad import estimators, optim
from metagrad.agents.base import CriticState
from metagrad.batch import Batch
from metagrad.checks import Checked, PositiveShare, Share
from metagrad.networks.base import Forward, Network, Obs, Shapes, Where
from metagrad.networks.mlp import MLP
from metagrad.parallel import group

_MEMORY = 0.9  # of the normal equations, a batch
_RIDGE = 1e-3  # of the features' variances


@dataclass(frozen=True)
class Critic(Checked):
    """A value network, its target network and its optimiser.

    Parameters
    ----------
    network : Network
        One output for every row.
    optimiser : Adam or SGD
        How it learns.
    target_tau : float
        Share of the network that its target takes over in a step; 1 for no target network.
    reads : tuple of str
        Names of the observations that it reads; empty for all.
    """

    network: Network = field(default_factory=lambda: MLP((64,)))
    optimiser: optim.Optimiser = field(default_factory=lambda: optim.Adam(1e-3))
    target_tau: PositiveShare = 1.0
    reads: tuple[str, ...] = ()

    def init(self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, where: Where) -> CriticState:
        """Draw ``n`` networks from each generator."""
        params = self.network.init(generators, n, self.read(shapes), 1, where)
        return CriticState(params, dict(params), self.optimiser.init(params))

    def read(self, obs: dict) -> dict:
        """Of the observations, or their shapes, those that the network reads."""
        return {name: obs[name] for name in self.reads} if self.reads else obs

    def forward(self, state: CriticState, obs: Obs, steps: int = 1) -> Forward:
        """Values ``out [G, R, 1]`` of rows."""
        return self.network.forward(state.params, self.read(obs), steps)

    def targets(self, state: CriticState, obs: Obs, steps: int, values: Tensor) -> Tensor:
        """Values ``[G, R]`` of the target network; without one, those at hand."""
        if self.target_tau == 1:
            return values
        return self.network.forward(state.target, self.read(obs), steps).out[..., 0]

    def step(self, state: CriticState, forward: Forward, error: Tensor, count: Tensor) -> CriticState:
        """One step on the mean of squared errors.

        Parameters
        ----------
        forward : Forward
            The network's pass over the rows.
        error : Tensor ``[G, R]``
            Values less targets, 0 for rows that do not count.
        count : Tensor ``[G, 1]``
            Rows that do.
        """
        grads = group.means_of_rows(forward.vjp((error * (2.0 / count.clamp_min(1)))[..., None]), count)
        params, opt = self.optimiser.step(state.params, grads, state.opt)
        if self.target_tau == 1:
            return CriticState(params, params, opt)
        target = {name: torch.lerp(old, params[name], self.target_tau) for name, old in state.target.items()}
        return CriticState(params, target, opt)


@dataclass(frozen=True)
class DesignerCritic(Checked):
    """A critic of the designer's states that learns λ-returns of the designer's rewards.

    Parameters
    ----------
    critic : Critic
    learn_lambda : float
        Decay of the returns that it learns; 0 for temporal differences of one step.
    """

    critic: Critic
    learn_lambda: Share = 0.0

    def init(self, generators: Sequence[np.random.Generator], shapes: Shapes, where: Where) -> CriticState:
        """Draw a network for every seed."""
        return self.critic.init(generators, 1, shapes, where)

    def values(self, state: CriticState, batch: Batch) -> Tensor:
        """Values ``[S, T + 1, K]``; 0 after the end of an episode."""
        return self._shaped(self._forward(state, batch).out[..., 0], batch)

    def goals(self, state: CriticState, batch: Batch, rewards: Tensor, gamma: float) -> Tensor:
        """What it learns from the designer's rewards ``[S, T, K]``: λ-returns by its target network."""
        steps, out = batch.alive.shape[1] + 1, self._forward(state, batch).out[..., 0]
        later = self._shaped(self.critic.targets(state, batch.seen(rows=False), steps, out), batch)
        return estimators.gae(rewards, later, gamma, self.learn_lambda, batch.alive) + later[:, :-1]

    def update(self, state: CriticState, batch: Batch, rewards: Tensor, gamma: float) -> CriticState:
        """One step on the designer's rewards ``[S, T, K]``."""
        return self.learn(state, batch, self.goals(state, batch, rewards, gamma))

    def learn(self, state: CriticState, batch: Batch, goal: Tensor) -> CriticState:
        """One step towards these values ``[S, T, K]``."""
        forward = self._forward(state, batch)
        values = self._shaped(forward.out[..., 0], batch)
        error = torch.zeros_like(values)
        error[:, :-1] = (values[:, :-1] - goal) * batch.alive
        return self.critic.step(state, forward, error.flatten(1), batch.alive.flatten(1).sum(1, keepdim=True))

    def _forward(self, state: CriticState, batch: Batch) -> Forward:
        steps = batch.alive.shape[1] + 1
        return batch.remember(
            "designer critic", state.params, lambda: self.critic.forward(state, batch.seen(rows=False), steps)
        )

    @staticmethod
    def _shaped(values: Tensor, batch: Batch) -> Tensor:
        return values.unflatten(1, (-1, batch.k)) * batch.valued("bootstrap")


@dataclass(frozen=True)
class LinearCritic:
    """Values linear in features of the state, fitted in closed form: no network, no learning rate.

    Every step has a mean of its own, over the episodes that reach it; one that none of a batch reaches keeps its mean.
    The normal equations are kept as decaying means over batches; returns are those of whole episodes.

    Parameters
    ----------
    features : callable
        From a batch to features before every step, float64 ``[S, T, K, F]``.
    """

    features: Callable[[Batch], Tensor]

    def init(self, generators: Sequence[np.random.Generator], shapes: Shapes, where: Where) -> dict[str, Tensor]:
        """Nothing is known yet: by name, decaying means by step of features and returns, of their products about the
        means, and what the weights of the means add up to.
        """
        return {}

    def update(self, state: dict[str, Tensor], batch: Batch, rewards: Tensor, gamma: float) -> dict[str, Tensor]:
        """Take in the returns of a batch of designer's rewards ``[S, T, K]``."""
        x = self.features(batch)
        joint = torch.cat([x, estimators.discounted_sums(rewards.to(x.dtype), gamma)[..., None]], -1)
        later = batch.horizon - x.shape[1]
        joint, alive = F.pad(joint, (0, 0, 0, 0, 0, later)), F.pad(batch.alive.to(x.dtype), (0, 0, 0, later))[..., None]
        count = group.mean(alive.sum(2))
        before = state["mean"] / state["weight"] if state else torch.zeros_like(joint[:, :, 0])
        mean = torch.where(count > 0, group.mean((joint * alive).sum(2)) / count, before)
        apart = ((joint - mean[:, :, None]) * alive).flatten(1, 2)
        products = group.mean(torch.bmm(apart.transpose(1, 2), apart)) / count.sum(1, keepdim=True)
        new = {"mean": mean, "products": products, "weight": x.new_ones(len(x), 1, 1)}
        return {name: torch.lerp(t, state.get(name, torch.zeros_like(t)), _MEMORY) for name, t in new.items()}

    def values(self, state: dict[str, Tensor], batch: Batch) -> Tensor:
        """Before every step and after the last, ``[S, T + 1, K]``; 0 once an episode is over."""
        x = self.features(batch)
        mean, products = state["mean"][:, : x.shape[1]] / state["weight"], state["products"] / state["weight"]
        inner = products[:, :-1, :-1]
        variance = inner.diagonal(dim1=1, dim2=2)
        ridge = torch.diag_embed(_RIDGE * variance + (variance == 0))  # a feature that never varied has no part
        grad = torch.linalg.solve(inner + ridge, products[:, :-1, -1:])
        now = mean[:, :, None, -1] + ((x - mean[:, :, None, :-1]) @ grad[:, None])[..., 0]
        return F.pad(now, (0, 0, 0, 1)) * batch.valued("zero")
