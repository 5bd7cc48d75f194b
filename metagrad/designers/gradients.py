"""The parts of a meta-gradient designer's loss, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metagrad import estimators, losses, optim
from metagrad.agents.base import AgentState, Step, grad_of
from metagrad.agents.critics import DesignerCritic, LinearCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.agents.surrogates import Surrogate, SurrogateState
from metagrad.batch import Batch
from metagrad.designers.base import Notes, Transition
from metagrad.designers.incentives import Incentive
from metagrad.metagradient import Path
from metagrad.optim import Params
from metagrad.parallel import group
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
    """The agents' learning as the designer takes it to be: the steps it goes back through, from where, and to what."""

    before: AgentState
    steps: Sequence[Step]
    after: AgentState


class Judged:
    """By what :class:`metagrad.MetaGradient`, which declares these options, judges the agents' actions."""

    incentive: Incentive
    gamma: float
    advantages: str
    critic: DesignerCritic | LinearCritic | None
    gae_lambda: float
    reduction: str
    discount_scores: bool

    def weights(self, state: MetaGradientState, batch: Batch, giver: int = 0) -> Tensor:
        """By what a giver judges every agent's actions, ``[S, T, K, A]``."""
        gain, whose = self._gain(state, batch, giver)
        weights = gain[..., None] * batch.agents_alive
        return weights if whose is None else weights * whose

    def _gain(self, state: MetaGradientState, batch: Batch, giver: int) -> tuple[Tensor, Tensor | None]:
        """By what a giver judges joint actions ``[S, T, K]``, and which agents' actions it answers for."""
        rewards, whose = self._rewards(batch, giver)
        values = None if self.critic is None else self.critic.values(state.critic, batch).to(rewards.dtype)
        gain = estimators.gae(rewards, values, self.gamma, 1.0 if values is None else self.gae_lambda, batch.alive)
        if self.advantages == "leave_one_out":
            gain = estimators.leave_one_out(gain)
        if self.discount_scores:
            gain = gain * estimators.discounts(gain, self.gamma)
        return gain * batch.alive, whose

    def _rewards(self, batch: Batch, giver: int) -> tuple[Tensor, Tensor | None]:
        rewards, whose = self.incentive.judged_by(batch, giver)
        return rewards.to(batch.rewards.dtype), whose

    def _scale(self, batch: Batch) -> Tensor | float:
        return estimators.loss_scale(batch.alive, self.reduction)

    def _critic_update(self, critic: Any, batches: Sequence[Batch]) -> Any:
        for batch in batches if self.critic is not None else ():
            critic = self.critic.update(critic, batch, self._rewards(batch, 0)[0], self.gamma)  # type: ignore[union-attr]
        return critic


class DesignerGradients(Judged):
    """What :class:`metagrad.MetaGradient`, which declares these options, differentiates."""

    optimiser: optim.Optimiser
    pooled: bool
    cost: float
    cost_optimiser: optim.Optimiser | None
    path: Path
    chain: float
    direct: float
    clip: float
    compare_halves: bool
    agent_model: str
    surrogate: Surrogate

    def _terms(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, model: Model, epoch: int
    ) -> dict[str, Params]:
        """Gradients of the parts of the designer's loss, before their weights."""
        acted = None
        if epoch and self.chain:
            acted = model.after if self.agent_model == "surrogate" else t.after
            model = self._replayed(state, agents, model)
        terms = dict(self._paths(state, agents, t.fresh, model, acted))
        if self.cost:
            parts = [self.incentive.cost_grad(state.eta, batch, self.gamma) for batch in t.batches]
            terms["cost"] = group.means(mean_of(parts))
        return terms

    def _paths(
        self, state: MetaGradientState, agents: PolicyGradientAgents, fresh: Batch | None, model: Model,
        acted: AgentState | None = None,
    ) -> Iterator[tuple[str, Params]]:  # fmt: skip
        """The paths that count, by name."""
        assert fresh is not None
        if self.chain:
            yield "chain", self._chain(state, agents, fresh, model, acted)
        if self.direct:
            yield "direct", self.direct_grad(state.eta, fresh)

    def direct_grad(self, eta: Params, fresh: Batch) -> Params:
        """Gradient of its loss at fixed behaviour."""
        return group.means(grad_of(lambda p: -self._direct(p, fresh).sum(), eta))

    def _direct(self, eta: Params, fresh: Batch) -> Tensor:
        value = self.incentive.direct(eta, fresh, self.gamma)
        if value is None:
            raise ValueError(f"{type(self.incentive).__name__} has no direct path: MetaGradient.direct must be 0")
        return value

    def _chain(
        self, state: MetaGradientState, agents: PolicyGradientAgents, fresh: Batch, model: Model,
        acted: AgentState | None,
    ) -> Params:  # fmt: skip
        """The path through the agents' learning.

        ``acted`` are the agents after the steps really taken, whoever played the fresh episodes, once ``model`` has
        moved on from them with η: the proximal objective goes by the ratio to them.
        """
        total: Params | None = None
        for giver in range(self.incentive.givers):
            weights = self.weights(state, fresh, giver) * -self._scale(fresh)
            if acted is not None:
                gain, _ = self._gain(state, fresh, giver)
                weights = weights * self._ratio(agents, model.after, acted, fresh, gain[..., None])
            adjoint = agents.score_vjp(model.after, fresh, weights)
            part = self.path.gradient(state.path, state.eta, agents, self.incentive, model.steps, adjoint, fresh, giver)
            total = part if total is None else optim.add(total, part)
        assert total is not None
        return total

    def _ratio(
        self, agents: PolicyGradientAgents, moved: AgentState, acted: AgentState, fresh: Batch, gain: Tensor
    ) -> Tensor:
        """What the proximal objective multiplies a score by: the ratio of joint actions, 0 where it is clipped."""
        before = agents.log_prob(acted, fresh)
        apart = (agents.log_prob(moved, fresh) - before) * fresh.agents_alive
        joint = apart.sum(-1, keepdim=True)
        return losses.active_ratio(joint.exp(), gain, self.clip)

    def _model(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, rng: Streams
    ) -> tuple[MetaGradientState, Model]:
        """Which of the agents' steps to differentiate, and what they led to."""
        if self.agent_model == "observed":
            return state, Model(t.before, t.steps, t.after)
        if self.agent_model == "replayed":
            return state, self._replayed(state, agents, Model(t.before, t.steps, t.after))
        assert state.surrogate is not None
        agents = self._modelled(agents)
        fitted = self.surrogate.fit(state.surrogate, agents, t.batches[0])
        learned, steps = self.surrogate.learn(fitted, agents, t.batches, rng)
        return state._replace(surrogate=learned), Model(fitted.agents, steps, learned.agents)

    def _modelled(self, agents: Any) -> Any:
        """The agents whose steps are gone back through."""
        return self.surrogate.assumed(agents) if self.agent_model == "surrogate" else agents

    def _replayed(self, state: MetaGradientState, agents: PolicyGradientAgents, model: Model) -> Model:
        """The steps as they would have been under the present η."""
        batches = {id(step.batch): step.batch for step in model.steps}
        paid = {key: self.incentive.repay(state.eta, batch) for key, batch in batches.items()}
        after, steps = agents.replay(model.before, model.steps, [paid[id(step.batch)] for step in model.steps])
        return Model(model.before, steps, after)

    # ------------------------------------------------------------------ diagnostics

    def _notes(
        self, state: MetaGradientState, agents: PolicyGradientAgents, t: Transition, model: Model,
        terms: dict[str, Params],
    ) -> Notes:  # fmt: skip
        """Each term's norm, and each path's cosine between the two halves of the fresh episodes (of every process)."""
        assert t.fresh is not None
        n, k = len(t.fresh.alive), t.fresh.k
        notes = {f"{name}_norm": vectors(part, n).norm(dim=1) for name, part in terms.items()}
        if not self.compare_halves or k < 2:
            return notes
        halves = []
        for share in (slice(0, k // 2), slice(k // 2, 2 * (k // 2))):
            half = t.fresh.episodes(share)
            halves.append(dict(self._paths(state, agents, half, model)))
        for name, part in halves[0].items():
            notes[f"{name}_cosine"] = torch.cosine_similarity(vectors(part, n), vectors(halves[1][name], n), 1)
        return notes


def descend(designer: DesignerGradients, state: MetaGradientState, terms: dict[str, Params]) -> MetaGradientState:
    """One step on the weighted sum of the terms; one on the cost alone if that has an optimiser of its own."""
    factors = {"chain": designer.chain, "direct": designer.direct}
    if designer.cost_optimiser is None:
        factors["cost"] = designer.cost
    total: Params = {}
    for name, factor in factors.items():
        if name in terms:
            total = optim.add(total, terms[name], factor) if total else scaled(terms[name], factor)
    if designer.pooled:
        total, terms = mean_over_seeds(total), {name: mean_over_seeds(part) for name, part in terms.items()}
    eta, opt = designer.optimiser.step(state.eta, total, state.opt) if total else (state.eta, state.opt)
    cost_opt = state.cost_opt
    if designer.cost_optimiser is not None and "cost" in terms:
        eta, cost_opt = designer.cost_optimiser.step(eta, scaled(terms["cost"], designer.cost), cost_opt)
    return state._replace(eta=eta, opt=opt, cost_opt=cost_opt)


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


def first_for_all(params: Params) -> Params:
    """What the first seed has, for every seed."""
    return {name: p[:1].expand_as(p).clone() for name, p in params.items()}


def mean_over_seeds(params: Params) -> Params:
    """The mean over the seeds, for every seed."""
    return {name: p.mean(0, keepdim=True).expand_as(p).clone() for name, p in params.items()}
