"""What the loop and the designers need of selfish agents: pure functions on explicit state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from metagrad.batch import Batch
from metagrad.networks.base import Forward, Obs, Shapes, Where
from metagrad.optim import Params
from metagrad.streams import Streams


class CriticState(NamedTuple):
    """A value network, its target, and the state of its optimiser."""

    params: Params
    target: Params
    opt: Any


class AgentState(NamedTuple):
    """Everything that the agents of S seeds have learned."""

    policy: Params
    policy_opt: Any
    critic: CriticState | None
    batches: int = 0  # learned from so far: schedules go by it


class Step(NamedTuple):
    """One learning step of the agents, as it was taken."""

    batch: Batch
    rows: Tensor | None  # int64 [G, M], those of a minibatch; None for all
    forward: Forward  # of the policy before the step, on those rows
    score: Tensor  # [G, R, L], d log π(a) / d logits, times the probability ratio where that counts
    advantages: Tensor  # [S, T, K, A]
    grads: Params
    opt: Any  # state of the optimiser before the step
    entropy: float  # weight of the entropy bonus


class Credit(NamedTuple):
    """Derivatives of the designer's objective through one step of the agents."""

    advantages: Tensor  # [S, T, K, A], by advantages before normalisation, what they are divided by held fixed
    rewards: Tensor  # [S, T, K, A], by rewards
    decay: float  # what an advantage loses of a reward for every step in between


class Adjoint(NamedTuple):
    """Derivatives of the designer's objective after a step of the agents."""

    params: Params  # by the policy
    opt: Any = None  # by the optimiser's state; None where no later step used it
    last: bool = False  # no earlier step follows, so the parameters' own adjoint is not needed


class Interface(NamedTuple):
    """What agents and designers need to know of a game."""

    n_agents: int
    n_actions: int
    horizon: int
    agents: Shapes  # of one agent's observations, masks included
    designer: Shapes  # of the designer's
    options: Any = None  # those of the game, where it has any


class Agents(Protocol):
    """How selfish agents act and learn. Implement this for agents of your own; see ``docs/own_game.md``."""

    share_parameters: bool

    def init(self, game: Interface, rng: Streams, where: Where) -> AgentState:
        """Draw networks and optimiser states for every seed."""

    def epsilon(self, iteration: int) -> float:
        """Share of uniform exploration in this iteration."""

    def act(self, state: AgentState, obs: Obs) -> Forward:
        """Logits ``[G, R, L]`` for one step of all copies."""

    def values(self, state: AgentState, batch: Batch) -> Tensor | None:
        """Values ``[S, T + 1, K, A]`` of the critics; None without."""

    def update(self, state: AgentState, batch: Batch, rng: Streams) -> tuple[AgentState, list[Step]]:
        """Learn from a batch; returns the steps as they were taken."""

    # What a designer may ask of agents that it can look into:

    def score_vjp(self, state: AgentState, batch: Batch, weights: Tensor) -> Params:
        """``∇_θ Σ weights · log π(a|o)`` for weights ``[S, T, K, A]``."""

    def backward(self, step: Step, adjoint: Adjoint) -> tuple[Credit, Adjoint]:
        """Carry an adjoint back through a step: the credit of its rewards, and the adjoint before the step."""

    def replay(
        self, state: AgentState, steps: Sequence[Step], batches: Sequence[Batch]
    ) -> tuple[AgentState, list[Step]]:
        """Take the same policy steps from ``state`` on the same rows of batches with other payments."""


def grad_of(loss: Any, params: Params) -> Params:
    """Gradient of a scalar function of parameters, by automatic differentiation; 0 where it does not depend on one."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    value = loss(leaves)
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in params.items()}
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))
