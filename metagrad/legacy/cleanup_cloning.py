"""A designer of Cleanup that sees what agents do and not what they are (metagrad specification, 3.6).

A surrogate of the agents is fitted to observed choices by maximum likelihood, takes the learning step that agents are
assumed to take, and the designer differentiates through that step. Its own critic learns from the rewards and
incentives that the designer saw. Fresh episodes are still those of the agents themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from metagrad.legacy import optim
from metagrad.legacy.actor_critic import ActorCritic, Batch, LearnedStep, chosen, evaluate_picture, log_softmax
from metagrad.legacy.cleanup import MetaGradCrew
from metagrad.legacy.config import CleanupConfig
from metagrad.legacy.economy import slope
from metagrad.legacy.nets import Params
from metagrad.legacy.rollout import purpose_seeds
from metagrad.legacy.train import load_optimiser_state, optimiser_tensors


class CloningCrew(MetaGradCrew):
    """Agents of Cleanup, and a designer that differentiates through a surrogate of theirs."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        super().__init__(config, seed)
        generator = np.random.default_rng(purpose_seeds([seed], "surrogates")[0])
        self.surrogate = ActorCritic(config, generator, self.actor_pictures(self.env).shape[1:], self.n_actions)
        self.clone_adam = optim.Adam(config.clones.lr)
        self.clone_state = self.clone_adam.init(self.surrogate.policy)

    def designer_gradient(self, step: LearnedStep) -> Params:
        """Clone the behaviour that was seen, let the surrogate learn from it, and differentiate through that."""
        assert self.tau is not None
        for _ in range(self.config.clones.steps):
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
