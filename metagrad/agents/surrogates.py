"""Surrogates of agents that can only be watched: fitted to what agents do, and assumed to learn as agents do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metagrad import optim
from metagrad.agents.base import AgentState, Interface, Step
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.batch import Batch
from metagrad.checks import Checked, Count
from metagrad.networks.base import Where
from metagrad.parallel import group
from metagrad.streams import Streams


class SurrogateState(NamedTuple):
    """Surrogates as agents, and the state of the optimiser that fits them to behaviour."""

    agents: AgentState
    fit_opt: Any


@dataclass(frozen=True)
class Surrogate(Checked):
    """Behavioural cloning of the agents by maximum likelihood.

    Parameters
    ----------
    optimiser : Adam or SGD
        How the surrogates are fitted.
    steps : int
        Full-batch steps of the fit in an iteration.
    agents : PolicyGradientAgents, optional
        As what the agents are assumed to learn, with networks of its own; None for as what they are.
    """

    optimiser: optim.Optimiser = field(default_factory=lambda: optim.Adam(1e-3))
    steps: Count = 1
    agents: PolicyGradientAgents | None = None

    def assumed(self, agents: Any) -> PolicyGradientAgents:
        """The agents that surrogates of others learn as."""
        found = agents if self.agents is None else self.agents
        if not isinstance(found, PolicyGradientAgents):
            raise ValueError(f"Surrogate.agents must say as which PolicyGradientAgents {type(agents).__name__} learn")
        if found.share_parameters != agents.share_parameters:
            raise ValueError(f"Surrogate.agents must have share_parameters = {agents.share_parameters}, as the agents")
        return found

    def init(self, agents: Any, game: Interface, rng: Streams, where: Where) -> SurrogateState:
        """Draw surrogates: agents with networks of their own."""
        state = self.assumed(agents).init(game, rng, where, "surrogates")
        return SurrogateState(state, self.optimiser.init(state.policy))

    def fit(self, state: SurrogateState, agents: PolicyGradientAgents, batch: Batch) -> SurrogateState:
        """Make what was done in a batch more likely; exploration is known, and taken out by the mixed likelihood."""
        policy, opt, alive = state.agents.policy, state.fit_opt, batch.agents_alive
        counts = group.mean(agents.rows.of(alive).sum(1, keepdim=True)).clamp_min(1 / group.size())
        weights = alive / agents.rows.back(counts.expand(-1, agents.rows.of(alive).shape[1]), alive)
        for _ in range(self.steps):
            grads = agents.score_vjp(state.agents._replace(policy=policy), batch, -weights)
            policy, opt = self.optimiser.step(policy, grads, opt)
        return SurrogateState(state.agents._replace(policy=policy), opt)

    def learn(
        self, state: SurrogateState, agents: PolicyGradientAgents, batches: Sequence[Batch], rng: Streams
    ) -> tuple[SurrogateState, list[Step]]:
        """Let the surrogates learn from what the agents were paid, as the agents are assumed to."""
        steps: list[Step] = []
        learned = state.agents
        for batch in batches:
            seen = batch.replace(values=agents.values(learned, batch))
            if not agents.one_step:
                seen = seen.replace(log_prob=agents.log_prob(learned, batch))
            learned, more = agents.update(learned, seen, rng)
            steps += more
        return state._replace(agents=learned), steps
