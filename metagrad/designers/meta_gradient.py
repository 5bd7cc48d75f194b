"""The designer that differentiates through the agents' learning (Algorithm 1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from metagrad import optim
from metagrad.agents.base import AgentState, Interface
from metagrad.agents.critics import DesignerCritic, LinearCritic
from metagrad.agents.surrogates import Surrogate
from metagrad.batch import Batch
from metagrad.checks import Checked, Count, NonNegative, PositiveShare, Share
from metagrad.designers.base import Designer, Notes, Transition, require
from metagrad.designers.gradients import DesignerGradients, MetaGradientState, descend, first_for_all
from metagrad.designers.incentives import Incentive
from metagrad.metagradient import LastSteps, Path
from metagrad.networks.base import Where
from metagrad.optim import Params
from metagrad.streams import Streams


@dataclass(frozen=True)
class MetaGradient(Checked, DesignerGradients, Designer):
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
        An optimiser for ψ alone, beside the other. Adam does not heed the size of ``cost``, unless it is 0, which
        switches ψ off.
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
        The chain is of a sum over the steps of an episode, or of a mean over steps.
    discount_scores : bool
        Weigh the score of step t by ``γ^t``, so that the chain and the direct path are derivatives of one return.
    pooled : bool
        One η for the populations of all seeds, which follows the mean of their gradients; by default each has its own.
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
    pooled: bool = False
    compare_halves: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.advantages == "gae") != (self.critic is not None):
            raise ValueError("MetaGradient needs a critic for advantages 'gae', and for no others")
        if self.critic is not None and self.incentive.givers > 1:
            raise ValueError(
                "MetaGradient.critic must be none where agents pay each other: each has rewards of its own"
            )
        if self.pooled and self.incentive.givers > 1:
            raise ValueError("MetaGradient.pooled must be false where agents pay each other: each has an η of its own")

    def init(self, game: Interface, agents: Any, state: AgentState, rng: Streams, where: Where) -> MetaGradientState:
        """η, critic and surrogates at the beginning."""
        eta = self.incentive.init(game, rng.generators("designer parameters"), where)
        if self.pooled:
            eta = first_for_all(eta)
        cloned = self.surrogate.init(agents, game, rng, where) if self.agent_model == "surrogate" else None
        if self.epochs > 1:
            require(self._modelled(agents), "MetaGradient.epochs above 1", "replay", "log_prob")
        return MetaGradientState(
            eta,
            self.optimiser.init(eta),
            None if self.cost_optimiser is None else self.cost_optimiser.init(eta),
            None if self.critic is None else self.critic.init(rng.generators("designer critic"), game.designer, where),
            self.path.init(state if cloned is None else cloned.agents, self.incentive, game),
            cloned,
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
        critic = self._critic_update(state.critic, t.batches)
        state, model = self._model(state._replace(critic=critic), agents, t, rng)
        agents, taken = self._modelled(agents), model.steps if self.agent_model == "surrogate" else t.steps
        state = state._replace(path=self.path.advance(state.path, state.eta, agents, self.incentive, taken))
        notes: Notes = {}
        for epoch in range(self.epochs):
            terms = self._terms(state, agents, t, model, epoch)
            state = descend(self, state, terms)
            if t.diagnose and epoch == 0:
                notes = self._notes(state, agents, t, model, terms)
        return state, notes
