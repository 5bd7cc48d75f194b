"""Adaptive mechanism design (Baumann et al., 2020): a designer that learns at every step of an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators, optim
from metagrad.agents.base import AgentState, Interface
from metagrad.batch import Batch, Rows
from metagrad.checks import Checked, NonNegative, Positive
from metagrad.designers.base import Designer, require
from metagrad.networks.base import Forward, Network, Obs, Shapes, Where, sigmoid, sigmoid_grad
from metagrad.networks.mlp import MLP
from metagrad.optim import Params
from metagrad.parallel import group
from metagrad.streams import Streams


class AMDState(NamedTuple):
    """What the designer has learned."""

    eta: Params
    opt: Any


@dataclass(frozen=True)
class AMD(Checked, Designer):
    """A designer that values how far a payment moves the probability of an action.

    How far one agent's step on one action moves that action's probability is ``lr ||∇ log π||²`` times the payment, and
    that is worth the reward of the step.

    Parameters
    ----------
    network : Network
        One payment for each agent, from the designer's observation and the agents' actions as numbers.
    optimiser : Adam
        How it learns, step by step.
    agents_lr : float
        The agents' learning rate, as the designer takes it to be.
    scale : float
        Upper bound of a payment.
    cost_weight : float
        Weight of the length of the vector of payments.
    grad_clip : float
        Longest gradient of a parameter.
    scores_at : {"own", "designer"}
        Where the agents' policies are differentiated: at what each agent saw, or at what the designer saw, as
        published: right for the first agent alone.
    """

    network: Network = field(default_factory=lambda: MLP((64, 16), output_bias=False))
    optimiser: optim.Adam = field(default_factory=lambda: optim.Adam(1e-3))
    agents_lr: NonNegative = 0.01
    scale: Positive = 2.0
    cost_weight: NonNegative = 4.24e-4
    grad_clip: Positive = 10.0
    scores_at: Literal["own", "designer"] = "own"

    def init(self, game: Interface, agents: Any, state: AgentState, rng: Streams, where: Where) -> AMDState:
        """The designer at the beginning."""
        require(agents, "AMD", "score_norms")
        seen = sum(int(np.prod(shape)) for shape in game.designer.values())
        shapes: Shapes = {"obs": (seen + game.n_agents,)}
        eta = self.network.init(rng.generators("designer parameters"), 1, shapes, game.n_agents, where)
        return AMDState(eta, self.optimiser.init(eta))

    def eta(self, state: AMDState) -> Params:
        """The parameters of its network."""
        return state.eta

    def pay(self, state: AMDState, batch: Batch, rng: Streams) -> Batch:
        """What the designer as it is pays for whole episodes."""
        sigma = sigmoid(self.network.forward(state.eta, self._inputs(batch)).out).unflatten(1, batch.alive.shape[1:])
        return batch.replace(payments=self.scale * sigma * batch.agents_alive)

    def settle(self, state: AMDState, agents: Any, agent_state: AgentState, batch: Batch) -> tuple[AMDState, Batch]:
        """Go through the episodes step by step: pay with the designer as it is, then let it learn from the step."""
        eta, opt = state
        view = self._designer_view(batch) if self.scores_at == "designer" else None
        norms = agents.score_norms(agent_state, batch, view)
        gain = self.agents_lr * norms * batch.designer_rewards[..., None]
        inputs, paid, k = self._inputs(batch)["obs"], [], batch.k
        for t in range(batch.alive.shape[1]):
            forward = self.network.forward(eta, {"obs": inputs[:, t * k : (t + 1) * k].contiguous()})
            alive = batch.agents_alive[:, t]
            sigma = sigmoid(forward.out)
            paid.append(self.scale * sigma * alive)
            d_sigma = self.scale * alive * (self._cost_grad(sigma) - gain[:, t]) / k
            eta, opt = self._learn(eta, opt, forward, d_sigma * sigmoid_grad(forward.out, sigma), alive)
        # Adam's step count goes by the step limit, so that it too is the same whoever shares the batch.
        opt = opt._replace(t=state.opt.t + batch.horizon)
        return AMDState(eta, opt), batch.replace(payments=torch.stack(paid, 1))

    def _learn(self, eta: Params, opt: Any, forward: Forward, d_out: Tensor, alive: Tensor) -> tuple[Params, Any]:
        moved, after = self.optimiser.step(eta, self._clipped(group.means(forward.vjp(d_out))), opt)
        # A seed whose episodes are all over has nothing to learn from, however long those of others go on.
        active = group.mean(alive.amax((1, 2), keepdim=True)) > 0
        kept = after._replace(m=_where(active, after.m, opt.m), v=_where(active, after.v, opt.v))
        return _where(active, moved, eta), kept

    def _inputs(self, batch: Batch) -> Obs:
        """The designer's observation and the agents' actions as numbers, ``[S, T * K, width]``."""
        seen = [x.flatten(3).to(batch.alive.dtype) for _, x in sorted(batch.designer_obs.items())]
        numbers = batch.actions.to(batch.alive.dtype) * batch.agents_alive
        return {"obs": torch.cat([*seen, numbers], -1).flatten(1, 2)}

    @staticmethod
    def _designer_view(batch: Batch) -> Obs:
        """The designer's observation in the place of every agent's own, as policy rows."""
        like, rows = batch.actions.shape, Rows(batch.shared)
        return {name: rows.of(x[:, :, :, None].expand(*like, *x.shape[3:])) for name, x in batch.designer_obs.items()}

    def _cost_grad(self, sigma: Tensor) -> Tensor:
        """Derivative of the weighted length of the vector of payments, by the payments."""
        length = estimators.sum_over_agents(sigma.square()).sqrt()
        return self.cost_weight * sigma / length[..., None]

    def _clipped(self, grads: Params) -> Params:
        """Gradients of every seed and parameter cut to the longest length allowed."""
        clipped = {}
        for name, g in grads.items():
            length = torch.stack([x.norm() for x in g])  # one by one, so that seeds do not mix
            clipped[name] = g * _by_seed(self.grad_clip / length.clamp_min(self.grad_clip), g)
        return clipped


def _where(active: Tensor, new: Params, old: Params) -> Params:
    return {name: torch.where(_by_seed(active, p), p, old[name]) for name, p in new.items()}


def _by_seed(x: Tensor, like: Tensor) -> Tensor:
    """Numbers of the seeds, to go with a parameter."""
    return x.view(-1, *[1] * (like.dim() - 1))
