"""Incentives: what a designer's parameters η mean in a game.

An incentive pays, as a function of η and a batch, and carries a credit for the agents' rewards back to η. It need not
know how agents learn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators
from metagrad.agents.base import Credit, Interface, grad_of
from metagrad.batch import Batch, as_dict
from metagrad.checks import Checked, Count, Positive
from metagrad.networks.base import Forward, Network, Obs, Shapes, Where, sigmoid, sigmoid_grad
from metagrad.networks.mlp import MLP
from metagrad.optim import Params


class Incentive:
    """What η means in a game; a base class that needs :meth:`init` and :meth:`payments` alone."""

    givers: int = 1  # designers that pay on their own account; 1 but for agents who pay each other
    in_rewards: bool = False  # whether the environment has paid already, so that payments count as a change alone

    def init(self, game: Interface, generators: Sequence[np.random.Generator], where: Where) -> Params:
        """Parameters of every seed, ``[S, ...]`` each."""
        raise NotImplementedError(f"{type(self).__name__} needs a method init(game, generators, where)")

    def check(self, env: Any, k: int) -> None:
        """Refuse an environment, or a number of episodes in an update, that it cannot work with."""

    def levers(self, game: Interface) -> int:
        """How many numbers the mechanism sets for all periods alike, where it has any."""
        return 0

    def begin(self, eta: Params, env: Any) -> None:
        """Called before an episode's first step."""

    def act(self, eta: Params, env: Any, obs: Any, step: int) -> dict[str, np.ndarray]:
        """Act on the environment before a step; returns what to record, ``[N, ...]``."""
        return {}

    def payments(self, eta: Params, batch: Batch) -> Tensor:
        """What every agent is paid, ``[S, T, K, A]``, differentiable in η."""
        raise NotImplementedError(f"{type(self).__name__} needs a method payments(eta, batch)")

    def payments_by(self, eta: Params, batch: Batch, giver: int) -> Tensor:
        """The same with all η but one giver's held fixed; to be overridden where there are several givers."""
        return self.payments(eta, batch)

    def repay(self, eta: Params, batch: Batch) -> Batch:
        """The batch as if it had been paid under η."""
        with torch.no_grad():
            return batch.replace(payments=self.payments(eta, batch))

    def judged_by(self, batch: Batch, giver: int = 0) -> tuple[Tensor, Tensor | None]:
        """The rewards ``[S, T, K]`` that a giver is after, and which agents' actions it answers for, ``[A]`` or all."""
        return batch.designer_rewards, None

    def vjp(self, eta: Params, batch: Batch, credit: Credit, giver: int = 0) -> Params:
        """``∇_η Σ credit.rewards · payments(η)``."""
        return grad_of(lambda p: (credit.rewards * self.payments_by(p, batch, giver)).sum(), eta)

    def cost(self, eta: Params, batch: Batch, gamma: float) -> Tensor:
        """ψ, the discounted payments of an episode, mean over the K episodes, ``[S]``; differentiable."""
        paid = estimators.sum_over_agents(self.payments(eta, batch)) * estimators.discounts(batch.alive, gamma)
        return paid.sum((1, 2)) / batch.k

    def cost_grad(self, eta: Params, batch: Batch, gamma: float) -> Params:
        """``∇_η ψ``."""
        return grad_of(lambda p: self.cost(p, batch, gamma).sum(), eta)

    def direct(self, eta: Params, batch: Batch, gamma: float) -> Tensor | None:
        """The designer's own return at fixed behaviour, ``[S]``, where η moves it; None where it does not."""
        return None

    def advantage_slopes(self, batch: Batch, decay: float) -> Tensor:
        """Derivative of the agents' advantages by the levers, ``[S, T, K, A, levers]``; for mechanisms with levers."""
        raise NotImplementedError(f"{type(self).__name__} has no levers; the path Sensitivity needs some")

    def levers_vjp(self, eta: Params, batch: Batch, d_levers: Tensor) -> Params:
        """From a derivative by the levers ``[S, levers]`` to that by η."""
        raise NotImplementedError(f"{type(self).__name__} has no levers; the path Sensitivity needs some")


class IncentiveFunction(Incentive):
    """An incentive of your own: a differentiable function.

    Parameters
    ----------
    payments : callable
        ``payments(eta, batch)``: what every agent is paid, ``[S, T, K, A]``; any torch code. ``batch`` is a
        :class:`metagrad.Batch`, η a dict of tensors whose first axis goes by seed.
    init : callable
        ``init(n)``, or ``init(n, generator)`` for random ones: initial parameters of ``n`` seeds, a dict of tensors
        ``[n, ...]``.
    """

    def __init__(self, payments: Callable[[Params, Batch], Tensor], init: Callable[..., Params]) -> None:
        self._payments, self._init = payments, init

    def init(self, game: Interface, generators: Sequence[np.random.Generator], where: Where) -> Params:
        """Parameters of every seed; random ones are drawn seed by seed."""
        if len(inspect.signature(self._init).parameters) > 1:
            seeds = [torch.Generator().manual_seed(int(g.integers(2**62))) for g in generators]
            parts = [self._checked(self._init(1, seed), 1) for seed in seeds]
            made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        else:
            made = self._checked(self._init(len(generators)), len(generators))
        return {name: p.detach().to(where.device, where.dtype).clone() for name, p in made.items()}

    @staticmethod
    def _checked(made: Any, n: int) -> Params:
        if not isinstance(made, dict) or not made or not all(isinstance(p, Tensor) for p in made.values()):
            raise ValueError("init of an IncentiveFunction must give a dict of tensors")
        for name, p in made.items():
            if p.dim() == 0 or len(p) != n:
                raise ValueError(f"init({n}) gives {name!r} of shape {list(p.shape)}; its first axis must be {n}")
        return made

    def payments(self, eta: Params, batch: Batch) -> Tensor:
        """What every agent is paid; 0 after the end of an episode."""
        paid = self._payments(eta, batch)
        if not isinstance(paid, Tensor) or paid.shape != batch.rewards.shape:
            shape = list(paid.shape) if isinstance(paid, Tensor) else type(paid).__name__
            raise ValueError(f"payments must be a tensor [S, T, K, A] = {list(batch.rewards.shape)}, got {shape}")
        return paid.to(batch.rewards.dtype) * batch.agents_alive


# ---------------------------------------------------------------------- networks that pay


class View(Protocol):
    """What an incentive's network sees of a step."""

    def rows(self, batch: Batch) -> Obs:
        """Rows ``[S, T * K, ...]``."""

    def shapes(self, game: Interface) -> Shapes:
        """Shapes of a row."""


@dataclass(frozen=True)
class StateAndActions:
    """The designer's observation and the agents' joint action one-hot, in one vector."""

    def rows(self, batch: Batch) -> Obs:
        """Rows ``[S, T * K, width]``."""
        seen = [batch.designer_obs[name].flatten(3) for name in sorted(batch.designer_obs)]
        parts = [x.to(batch.alive.dtype) for x in seen] + [batch.onehot_actions().flatten(3)]
        return {"obs": torch.cat(parts, -1).flatten(1, 2)}

    def shapes(self, game: Interface) -> Shapes:
        """Shape of a row."""
        seen = sum(int(np.prod(shape)) for shape in game.designer.values())
        return {"obs": (seen + game.n_agents * game.n_actions,)}


@dataclass(frozen=True)
class StateOnly:
    """The designer's observations as they are: for designers that act before the agents do."""

    def rows(self, batch: Batch) -> Obs:
        """Rows ``[S, T * K, ...]``."""
        return {name: x.flatten(1, 2) for name, x in batch.designer_obs.items() if name != "mask"}

    def shapes(self, game: Interface) -> Shapes:
        """Shapes of a row."""
        return {name: shape for name, shape in game.designer.items() if name != "mask"}

    def now(self, obs: Any, params: Params) -> Obs:
        """Rows ``[S, K, ...]`` of the present observations ``[N, ...]``, where and as ``params`` are."""
        like, seen = next(iter(params.values())), {}
        for name, x in as_dict(obs).items():
            if name != "mask":
                picture = x.dtype == np.uint8 and x.ndim > 2
                rows = torch.from_numpy(x.copy()).to(like.device, torch.uint8 if picture else like.dtype)
                seen[name] = rows.unflatten(0, (len(like), -1))
        return seen


class Outputs:
    """A network's pass over the steps of a batch, shifted and squashed to (0, 1)."""

    def __init__(self, forward: Forward, batch: Batch, shift: Tensor | float = 0.0) -> None:
        self.forward, self.out = forward, forward.out + shift
        self.sigma = sigmoid(self.out).unflatten(1, batch.alive.shape[1:])  # [S, T, K, outputs]

    @cached_property
    def _slope(self) -> Tensor:
        return sigmoid_grad(self.out, self.sigma.flatten(1, 2))

    def vjp(self, d_sigma: Tensor) -> Params:
        """Gradient of ``Σ d_sigma · sigma``."""
        return self.forward.vjp(d_sigma.flatten(1, 2) * self._slope)


class NetworkIncentive(Checked, Incentive):
    """Payments ``scale * σ(f_η)`` from a network; a base of frozen dataclasses with these options."""

    network: Network
    scale: float
    cost_of: str

    def rows(self, batch: Batch) -> Obs:
        """What the network reads."""
        raise NotImplementedError

    def index(self, batch: Batch) -> Tensor:
        """Which output each agent gets, int64 ``[S, T, K, A]``."""
        raise NotImplementedError

    def pick(self, sigma: Tensor, batch: Batch) -> Tensor:
        """What each agent gets of the outputs ``[S, T, K, outputs]``, ``[S, T, K, A]``, before scaling."""
        return sigma.gather(-1, self.index(batch)) * batch.agents_alive

    def spread(self, d: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
        """Transpose of :meth:`pick`: summed over the agents, one after the other."""
        return torch.zeros_like(sigma).scatter_add_(-1, self.index(batch), d * batch.agents_alive)

    def shift(self, batch: Batch) -> Tensor | float:
        """What is added to the network's outputs."""
        return 0.0

    def outputs(self, eta: Params, batch: Batch) -> Outputs:
        """The network's pass over a batch; made once for each η."""

        def made() -> Outputs:
            return Outputs(self.network.forward(eta, self._seen(batch)), batch, self.shift(batch))

        return batch.remember("incentive", eta, made)

    def _seen(self, batch: Batch) -> Obs:
        return batch.remember("view", batch.designer_obs, lambda: self.rows(batch))

    def sigma(self, eta: Params, batch: Batch) -> Tensor:
        """The squashed outputs, differentiable where η is."""
        if not any(p.requires_grad for p in eta.values()):
            return self.outputs(eta, batch).sigma
        out = self.network(eta, self._seen(batch)) + self.shift(batch)
        return sigmoid(out).unflatten(1, batch.alive.shape[1:])

    def payments(self, eta: Params, batch: Batch) -> Tensor:
        """What every agent is paid; 0 after the end of an episode."""
        return self.scale * self.pick(self.sigma(eta, batch), batch)

    def vjp(self, eta: Params, batch: Batch, credit: Credit, giver: int = 0) -> Params:
        """``∇_η Σ credit.rewards · payments(η)``, by hand."""
        made = self.outputs(eta, batch)
        return made.vjp(self.spread(credit.rewards * self.scale, made.sigma, batch))

    def cost(self, eta: Params, batch: Batch, gamma: float) -> Tensor:
        """ψ: the discounted payments, or the sum of all outputs before scaling, as published."""
        if self.cost_of == "paid":
            return super().cost(eta, batch, gamma)
        return (self.sigma(eta, batch).sum(-1) * weights_of_cost(batch, gamma)[..., 0]).sum((1, 2))

    def cost_grad(self, eta: Params, batch: Batch, gamma: float) -> Params:
        """``∇_η ψ``, by hand."""
        made, weights = self.outputs(eta, batch), weights_of_cost(batch, gamma)
        if self.cost_of == "paid":
            return made.vjp(self.spread(weights.expand_as(batch.rewards) * self.scale, made.sigma, batch))
        return made.vjp(weights.expand_as(made.sigma))


def weights_of_cost(batch: Batch, gamma: float) -> Tensor:
    """``γ^t / K`` while an episode goes on, ``[S, T, K, 1]``."""
    return (batch.alive * (estimators.discounts(batch.alive, gamma) / batch.k))[..., None]


@dataclass(frozen=True)
class _OfDesigner(NetworkIncentive):
    """Payments by a network on what the designer sees of a step."""

    network: Network = field(default_factory=lambda: MLP((64, 16), output_bias=False))
    scale: Positive = 2.0
    cost_of: Literal["paid", "all_outputs"] = "paid"
    view: View = field(default_factory=StateAndActions)
    start: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start and max(self.start) >= self.scale:
            raise ValueError(f"{type(self).__name__}.start must be below the scale of {self.scale}, got {self.start}")

    def n_outputs(self, game: Interface) -> int:
        """Number of outputs of the network."""
        raise NotImplementedError

    def init(self, game: Interface, generators: Sequence[np.random.Generator], where: Where) -> Params:
        """A network for every seed."""
        n_outputs = self.n_outputs(game)
        if self.start and len(self.start) != n_outputs:
            raise ValueError(f"{type(self).__name__}.start must have {n_outputs} payments, got {self.start}")
        return self.network.init(generators, 1, self.view.shapes(game), n_outputs, where)

    def shift(self, batch: Batch) -> Tensor | float:
        """What makes an output of 0 pay ``start``."""
        share = batch.alive.new_tensor(self.start) / self.scale
        return torch.logit(share) if self.start else 0.0

    def rows(self, batch: Batch) -> Obs:
        """What ``view`` shows."""
        return self.view.rows(batch)


@dataclass(frozen=True)
class ByAction(_OfDesigner):
    """One payment for each action; an agent receives that of the action it took.

    Parameters
    ----------
    network : Network
        On what ``view`` shows.
    scale : float
        Upper bound of a payment.
    cost_of : {"paid", "all_outputs"}
        ψ counts the payments really made, or all outputs before scaling, as published.
    view : View
        By default the designer's observation and the agents' joint action.
    start : tuple of float
        What about is paid at each output before the designer has learned, from 0 to ``scale``; empty for half of it.
    """

    def n_outputs(self, game: Interface) -> int:
        """One for each action."""
        return game.n_actions

    def index(self, batch: Batch) -> Tensor:
        """The action of each agent."""
        return batch.actions


@dataclass(frozen=True)
class ByActionType(ByAction):
    """One payment for each type of action, as the game records it.

    Parameters
    ----------
    types : int
        Number of types.
    record : str
        Name of the types in ``batch.extra``, ``[S, T, K, A]``.
    network, scale, cost_of, view, start
        As for :class:`ByAction`.
    """

    types: Count = 3
    record: str = "action_type"

    def n_outputs(self, game: Interface) -> int:
        """One for each type."""
        return self.types

    def index(self, batch: Batch) -> Tensor:
        """The type of each agent's action."""
        if self.record not in batch.extra:
            raise ValueError(
                f"the task records no {self.record!r}, which ByActionType pays by: override its method record"
            )
        return batch.extra[self.record].long()


@dataclass(frozen=True)
class ByAgent(_OfDesigner):
    """One payment for each agent, whatever it does; parameters as for :class:`ByAction`."""

    def n_outputs(self, game: Interface) -> int:
        """One for each agent."""
        return game.n_agents

    def index(self, batch: Batch) -> Tensor:
        """Each agent's own."""
        return torch.arange(batch.actions.shape[3], device=batch.actions.device).expand(batch.actions.shape)
