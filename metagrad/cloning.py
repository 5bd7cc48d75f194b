"""Designers that see what agents do and not what they are (metagrad specification, 3.6).

A surrogate of the agents is fitted to observed choices by maximum likelihood, takes the learning step that agents are
assumed to take, and the designer differentiates through that step. Its own critic learns from the rewards and
incentives that the designer saw. Fresh episodes are still those of the agents themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from metagrad import nets, optim, rollout
from metagrad.actor_critic import ActorCritic, Batch, LearnedStep, chosen, evaluate_picture, log_softmax
from metagrad.agents import Evaluation, LearningStep
from metagrad.cleanup import MetaGradCrew
from metagrad.config import CleanupConfig, Config
from metagrad.economy import slope
from metagrad.nets import Params
from metagrad.rollout import purpose_seeds
from metagrad.train import Learner, load_optimiser_state, optimiser_tensors


class CloningCrew(MetaGradCrew):
    """Agents of Cleanup, and a designer that differentiates through a surrogate of theirs."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        super().__init__(config, seed)
        generator = np.random.default_rng(purpose_seeds([seed], "surrogates")[0])
        self.surrogate = ActorCritic(config, generator, self.actor_pictures(self.env).shape[1:], self.n_actions)
        self.clone_adam = optim.Adam(config.surrogates.lr)
        self.clone_state = self.clone_adam.init(self.surrogate.policy)

    def designer_gradient(self, step: LearnedStep) -> Params:
        """Clone the behaviour that was seen, let the surrogate learn from it, and differentiate through that."""
        assert self.tau is not None
        for _ in range(self.config.surrogates.steps):
            self.clone(step.batch)
        return self.metagradient(self.surrogate.learn_from(step.batch), self.tau)

    def clone(self, batch: Batch) -> None:
        """One maximum likelihood step of the surrogate."""
        evaluation = evaluate_picture(self.surrogate.policy, batch.seen)
        d_logits = slope(lambda logits: -chosen(log_softmax(logits, batch), batch).mean(), evaluation.out)
        self.surrogate.policy, self.clone_state = self.clone_adam.step(
            self.surrogate.policy, evaluation.vjp(d_logits), self.clone_state
        )

    def networks(self) -> dict[str, tuple[Params, Any]]:
        """Parameters and optimiser states by name."""
        s = self.surrogate
        own = {"surrogate": (s.policy, s.policy_state), "surrogate_critic": (s.critic.params, s.critic.state)}
        return {**super().networks(), **own}

    def set_network(self, name: str, params: Params, state: Any) -> None:
        """Put a network back."""
        if name == "surrogate":
            self.surrogate.policy, self.surrogate.policy_state = params, state
        elif name == "surrogate_critic":
            self.surrogate.critic.params, self.surrogate.critic.state = params, state
        else:
            super().set_network(name, params, state)

    def critics(self) -> dict[str, Any]:
        """Critics by name."""
        return {**super().critics(), "surrogate_critic": self.surrogate.critic}

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors, values = super().tensors()
        values["optimiser_steps"]["cloning"] = self.clone_state.t
        return tensors | optimiser_tensors("cloning_state", self.clone_state), values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        super().load(tensors, values)
        names, t = list(self.surrogate.policy), values["optimiser_steps"]["cloning"]
        self.clone_state = load_optimiser_state(tensors, "cloning_state", names, t)


class CloningLearner(Learner):
    """Escape Room with surrogates ``phi`` of all agents, stacked as the agents are."""

    NETWORKS: ClassVar[dict[str, tuple[str, ...]]] = {
        **Learner.NETWORKS, "phi": ("phi_state", "clone_state"), "phi_critic": ("phi_critic_state",),
    }  # fmt: skip

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        generators = [np.random.default_rng(s) for s in purpose_seeds(config.seeds, "surrogates")]
        self.phi = self._policies(generators)
        self.phi_state: Any = self.agents.optimiser.init(self.phi)
        self.clone_adam = optim.Adam(config.surrogates.lr)
        self.clone_state = self.clone_adam.init(self.phi)
        self.phi_critic = self._critics(generators)
        self.phi_critic_state: Any = self.critic_adam.init(self.phi_critic)

    def _designer_step(
        self, batches: Sequence[rollout.Batch], steps: Sequence[LearningStep], validation: Evaluation
    ) -> None:
        """Clone the behaviour that was seen, let the surrogates learn from it, and differentiate through that."""
        batches = [replace(batch) for batch in batches]  # with values of the surrogates' critics
        for _ in range(self.config.surrogates.steps):
            self._clone(batches[0])
        assumed = []
        for batch in batches:
            evaluation = self.agents.evaluate(self.phi, batch)
            self.phi_critic, self.phi_critic_state = self._learn_values(self.phi_critic, self.phi_critic_state, batch)
            self.phi, self.phi_state, step = self.agents.learn(evaluation, batch.incentives, self.phi_state)
            assumed.append(step)
        super()._designer_step(batches, assumed, self.agents.evaluate(self.phi, validation.batch))

    def _clone(self, batch: rollout.Batch) -> None:
        """One maximum likelihood step of the surrogates, a mean over each agent's rows."""
        evaluation = self.agents.evaluate(self.phi, batch)
        d_logits = -evaluation.score * (batch.agents_alive / batch.agents_alive.sum(1, keepdim=True))[..., None]
        grads = nets.vjp(self.phi, evaluation.inputs, d_logits)
        self.phi, self.clone_state = self.clone_adam.step(self.phi, grads, self.clone_state)
