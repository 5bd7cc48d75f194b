"""The designer that differentiates through the agents' learning (Algorithm 1 of the paper)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators, losses, optim
from metagrad.agents.base import AgentState, Interface, Step, grad_of
from metagrad.agents.critics import DesignerCritic, LinearCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.agents.surrogates import Surrogate, SurrogateState
from metagrad.batch import Batch
from metagrad.checks import Checked, Count, NonNegative, PositiveShare, Share
from metagrad.designers.base import Designer, Notes, Transition
from metagrad.designers.incentives import Incentive
from metagrad.metagradient import LastSteps, Path
from metagrad.networks.base import Where
from metagrad.optim import Params
from metagrad.streams import Streams


class MetaGradientState(NamedTuple):
    """What a meta-gradient designer has learned."""

    eta: Params
    opt: Any
    cost_opt: Any  # of the cost's own optimiser; None without
    critic: Any
    path: Any
    surrogate: SurrogateState | None


class Model(NamedTuple):
    """The agents' learning as the designer takes it to be: the steps it goes back through, and what they led to."""

    steps: Sequence[Step]
    after: AgentState


@dataclass(frozen=True)
class MetaGradient(Checked, Designer):
    """A designer that differentiates its own return on fresh episodes through the agents' learning steps.

    Parameters
    ----------
    incentive : Incentive
        What its parameters η mean in the game.
    optimiser : Adam or SGD
        How η takes its steps.
    cost : float
        Weight of ψ, the discounted payments, in the designer's loss.
    cost_optimiser : Adam or SGD, optional
        An optimiser for ψ alone, beside the other; with Adam ``cost`` then has no effect unless it is 0.
    gamma : float
        Discount of the designer's return and of ψ.
    advantages : {"returns", "leave_one_out", "gae"}
        What judges the agents' actions for the designer: its return, less the mean over the other episodes, or
        generalised advantages by ``critic``.
    critic : DesignerCritic or LinearCritic, optional
        Values of the designer's states, for ``gae``.
    gae_lambda : float
        Decay of those advantages.
    path : LastSteps or Sensitivity
        How far it follows the agents' learning.
    chain, direct : float
        Weights of the gradient through the agents' learning, and of that of the designer's own return at fixed
        behaviour, where the mechanism moves it. The chain sees what one step of the agents brings, which lasts, while
        payments are due in every iteration: hence a weight above 1 beside ``cost``.
    agent_model : {"observed", "replayed", "surrogate"}
        Which steps it goes through: those that were taken; the same under the current η, as published; or those of a
        surrogate fitted to behaviour.
    surrogate : Surrogate, optional
        How surrogates are fitted.
    repay : bool
        Pay the agents by the current η before they learn, rather than by that of the time of the episodes.
    epochs, clip
        Steps on one pair of batches, and the clipping range of the proximal objective (equation 5) beyond the first.
    validation : {"after", "before"}
        Whether the fresh episodes are those of the agents after their step, or before it (no cross-validation).
    reduction : {"episode", "rows"}
        Its loss is a sum over the steps of an episode, or a mean.
    discount_scores : bool
        Weigh the score of step t by ``γ^t``, so that the chain and the direct path are derivatives of one return.
    compare_halves : bool
        Note how well the gradients on the two halves of the fresh episodes agree, whenever notes are wanted.
    """

    incentive: Incentive
    optimiser: optim.Optimiser = field(default_factory=lambda: optim.Adam(1e-3))
    cost: NonNegative = 0.0
    cost_optimiser: optim.Optimiser | None = None
    gamma: Share = 0.99
    advantages: Literal["returns", "leave_one_out", "gae"] = "leave_one_out"
    critic: DesignerCritic | LinearCritic | None = None
    gae_lambda: Share = 1.0
    path: Path = field(default_factory=LastSteps)
    chain: NonNegative = 20.0
    direct: NonNegative = 0.0
    agent_model: Literal["observed", "replayed", "surrogate"] = "observed"
    surrogate: Surrogate = field(default_factory=Surrogate)
    repay: bool = False
    epochs: Count = 1
    clip: PositiveShare = 0.2
    validation: Literal["after", "before"] = "after"  # type: ignore[assignment]
    reduction: Literal["episode", "rows"] = "episode"
    discount_scores: bool = False
    compare_halves: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.advantages == "gae") != (self.critic is not None):
            raise ValueError("MetaGradient needs a critic for advantages 'gae', and for no others")

    def init(self, game: Interface, agents: Any, state: AgentState, rng: Streams, where: Where) -> MetaGradientState:
        """η, critic and surrogates at the beginning."""
        eta = self.incentive.init(game, rng.generators("designer parameters"), where)
        return MetaGradientState(
            eta,
            self.optimiser.init(eta),
            None if self.cost_optimiser is None else self.cost_optimiser.init(eta),
            None if self.critic is None else self.critic.init(rng.generators("designer critic"), game.designer, where),
            self.path.init(state, self.incentive, eta),
            self.surrogate.init(agents, game, rng, where) if self.agent_model == "surrogate" else None,
        )

    def eta(self, state: MetaGradientState) -> Params:
        """The parameters of the incentive."""
        return state.eta

    # ------------------------------------------------------------------ in an episode

    def check(self, env: Any, k: int) -> None:
        """Refuse what the incentive cannot work with."""
        self.incentive.check(env, k)

    def begin(self, state: MetaGradientState, env: Any, rng: Streams) -> None:
        """Called before an episode's first step."""
        self.incentive.begin(state.eta, env)

    def act(self, state: MetaGradientState, env: Any, obs: Any, step: int, rng: Streams) -> dict[str, np.ndarray]:
        """Set what the game takes, before a step."""
        return self.incentive.act(state.eta, env, obs, step)

    def pay(self, state: MetaGradientState, batch: Batch, rng: Streams) -> Batch:
        """Fill in the payments of η."""
        return batch if self.incentive.in_rewards else self.incentive.repay(state.eta, batch)

    def settle(
        self, state: MetaGradientState, agents: Any, agent_state: AgentState, batch: Batch
    ) -> tuple[MetaGradientState, Batch]:
        """Pay once more, by the current η, where that is asked for."""
        return state, self.incentive.repay(state.eta, batch) if self.repay else batch

    # ------------------------------------------------------------------ learning

    def update(
        self, state: MetaGradientState, agents: Any, transition: Transition, rng: Streams
    ) -> tuple[MetaGradientState, Notes]:
        """Learn from an iteration: one step on η, or several proximal ones."""
        t = transition
        if t.fresh is None:
            raise ValueError("a meta-gradient designer needs fresh episodes")
        state = state._replace(
            path=self.path.advance(state.path, state.eta, agents, self.incentive, t.steps),
            critic=self._critic_update(state.critic, t.batches),
        )
        state, model = self._model(state, agents, t, rng)
        notes: Notes = {}
        for epoch in range(self.epochs):
            terms = self._terms(state, agents, t, model, epoch)
            state = self._descend(state, terms)
            if t.diagnose and epoch == 0:
                notes = self._notes(state, agents, t, model, terms)
        return state, notes

    def _critic_update(self, critic: Any, batches: Sequence[Batch]) -> Any:
        for batch in batches if self.critic is not None else ():
            critic = self.critic.update(critic, batch, self._rewards(batch, 0)[0], self.gamma)  # type: ignore[union-attr]
        return critic

    def _model(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, rng: Streams
    ) -> tuple[MetaGradientState, Model]:
        """Which of the agents' steps to differentiate, and what they led to."""
        if self.agent_model == "observed":
            return state, Model(t.steps, t.after)
        if self.agent_model == "replayed":
            return state, self._replayed(state, agents, t)
        assert state.surrogate is not None
        fitted = self.surrogate.fit(state.surrogate, agents, t.batches[0])
        learned, steps = self.surrogate.learn(fitted, agents, t.batches, rng)
        return state._replace(surrogate=learned), Model(steps, learned.agents)

    def _replayed(self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition) -> Model:
        """The agents' steps as they would have been under the present η."""
        paid = {id(batch): self.incentive.repay(state.eta, batch) for batch in t.batches}
        after, steps = agents.replay(t.before, t.steps, [paid[id(step.batch)] for step in t.steps])
        return Model(steps, after)

    def _terms(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, model: Model, epoch: int
    ) -> dict[str, Params]:
        """Gradients of the parts of the designer's loss, before their weights."""
        terms = dict(self._paths(state, agents, t.fresh, model, t.after, epoch, t))
        if self.cost or self.cost_optimiser is not None:
            parts = [self.incentive.cost_grad(state.eta, batch, self.gamma) for batch in t.batches]
            terms["cost"] = mean_of(parts)
        return terms

    def _paths(
        self, state: MetaGradientState, agents: PolicyGradientAgents, fresh: Batch | None, model: Model,
        acted: AgentState, epoch: int, t: Transition,
    ) -> Iterator[tuple[str, Params]]:  # fmt: skip
        """The paths that count, by name."""
        assert fresh is not None
        if self.chain:
            if epoch:
                model = self._replayed(state, agents, t)
            yield "chain", self._chain(state, agents, fresh, model, acted if epoch else None)
        if self.direct:
            yield "direct", self.direct_grad(state.eta, fresh)

    def direct_grad(self, eta: Params, fresh: Batch) -> Params:
        """Gradient of its loss at fixed behaviour."""
        return grad_of(lambda p: -self._direct(p, fresh).sum(), eta)

    def _direct(self, eta: Params, fresh: Batch) -> Tensor:
        value = self.incentive.direct(eta, fresh, self.gamma)
        if value is None:
            raise ValueError(f"{type(self.incentive).__name__} has no direct path: MetaGradient.direct must be 0")
        return value

    def _chain(
        self, state: MetaGradientState, agents: PolicyGradientAgents, fresh: Batch, model: Model,
        acted: AgentState | None,
    ) -> Params:  # fmt: skip
        """The path through the agents' learning; ``acted`` are the agents of the fresh episodes if others stand in."""
        total: Params | None = None
        for giver in range(self.incentive.givers):
            weights = self.weights(state, fresh, giver) * -self._scale(fresh)
            if acted is not None:
                weights = weights * self._ratio(agents, model.after, acted, fresh, weights)
            adjoint = agents.score_vjp(model.after, fresh, weights)
            part = self.path.gradient(state.path, state.eta, agents, self.incentive, model.steps, adjoint, fresh, giver)
            total = part if total is None else optim.add(total, part)
        assert total is not None
        return total

    def _ratio(
        self, agents: PolicyGradientAgents, moved: AgentState, acted: AgentState, fresh: Batch, weights: Tensor
    ) -> Tensor:
        """What the proximal objective multiplies a score by: the ratio of joint actions, 0 where it is clipped."""
        before = agents.log_prob(acted, fresh)
        joint = (agents.log_prob(moved, fresh) - before).sum(-1, keepdim=True)
        return losses.active_ratio(joint.exp(), -weights[..., :1], self.clip)

    def weights(self, state: MetaGradientState, batch: Batch, giver: int = 0) -> Tensor:
        """By what a giver judges every agent's actions, ``[S, T, K, A]``."""
        rewards, whose = self._rewards(batch, giver)
        values = None if self.critic is None else self.critic.values(state.critic, batch).to(rewards.dtype)
        gain = estimators.gae(rewards, values, self.gamma, 1.0 if values is None else self.gae_lambda)
        if self.advantages == "leave_one_out":
            gain = estimators.leave_one_out(gain)
        if self.discount_scores:
            gain = gain * estimators.discounts(gain, self.gamma)
        weights = (gain * batch.alive)[..., None].expand(batch.actions.shape)
        return weights if whose is None else weights * whose

    def _rewards(self, batch: Batch, giver: int) -> tuple[Tensor, Tensor | None]:
        rewards, whose = self.incentive.judged_by(batch, giver)
        return rewards.to(batch.rewards.dtype), whose

    def _scale(self, batch: Batch) -> float:
        return 1.0 / batch.k if self.reduction == "episode" else 1.0 / (batch.k * batch.alive.shape[1])

    def _descend(self, state: MetaGradientState, terms: dict[str, Params]) -> MetaGradientState:
        """One step on the weighted sum of the terms; one on the cost alone if that has an optimiser of its own."""
        factors = {"chain": self.chain, "direct": self.direct}
        if self.cost_optimiser is None:
            factors["cost"] = self.cost
        total: Params = {}
        for name, factor in factors.items():
            if name in terms:
                total = optim.add(total, terms[name], factor) if total else scaled(terms[name], factor)
        eta, opt = self.optimiser.step(state.eta, total, state.opt) if total else (state.eta, state.opt)
        cost_opt = state.cost_opt
        if self.cost_optimiser is not None:
            eta, cost_opt = self.cost_optimiser.step(eta, terms["cost"], cost_opt)
        return state._replace(eta=eta, opt=opt, cost_opt=cost_opt)

    # ------------------------------------------------------------------ diagnostics

    def _notes(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, model: Model,
        terms: dict[str, Params],
    ) -> Notes:  # fmt: skip
        """Each term's norm, and each path's cosine between the two halves of the fresh episodes."""
        assert t.fresh is not None
        n, k = len(t.fresh.alive), t.fresh.k
        notes = {f"{name}_norm": vectors(part, n).norm(dim=1) for name, part in terms.items()}
        if not self.compare_halves or k < 2:
            return notes
        halves = []
        for share in (slice(0, k // 2), slice(k // 2, 2 * (k // 2))):
            half = t.fresh.episodes(share)
            halves.append(dict(self._paths(state, agents, half, model, t.after, 0, t)))
        for name, part in halves[0].items():
            notes[f"{name}_cosine"] = torch.cosine_similarity(vectors(part, n), vectors(halves[1][name], n), 1)
        return notes


def vectors(params: Params, n: int) -> Tensor:
    """All parameters of each of ``n`` seeds in one vector, ``[n, P]``."""
    return torch.cat([p.reshape(n, -1) for p in params.values()], 1)


def scaled(params: Params, factor: float) -> Params:
    """Parameters times a number."""
    return params if factor == 1 else {name: p * factor for name, p in params.items()}


def mean_of(parts: Sequence[Params]) -> Params:
    """Mean of parameters."""
    total = parts[0]
    for part in parts[1:]:
        total = optim.add(total, part)
    return scaled(total, 1.0 / len(parts))
