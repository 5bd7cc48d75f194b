"""Trainers of presets, and two ways to a meta-gradient: forward mode, and autodiff through the agents' steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metagrad.designers.base import Transition
from metagrad.experiment.registry import experiment
from metagrad.metagradient import log_prob_objective, unrolled
from metagrad.tasks.gtb.presets import trunk
from metagrad.trainer import Trainer

#: Networks of the economy's policies: the preset's own, and the published convolutions.
GTB_POLICIES = {"planes": None, "trunk": trunk(128, 128)}


def trainer_of(e: Any, **options: Any) -> Trainer:
    """A trainer of an experiment, with other seeds, K or device if given."""
    return Trainer(e.task, e.agents, e.designer, **{"seeds": (0,), "k": e.run.k, **options})


def economy(method: str, policy: str = "planes") -> Any:
    """The economy's preset with one of ``GTB_POLICIES``."""
    e, network = experiment("gtb", "gtb", method), GTB_POLICIES[policy]
    return e if network is None else replace(e, agents=replace(e.agents, network=network))


def transition_of(trainer: Trainer) -> Transition:
    """An iteration up to where the designer would learn from it."""
    before = trainer.state.agents
    batch = trainer.collect(before)
    after, steps = trainer.agents.update(before, batch, trainer.rng)
    return Transition(before, steps, after, [batch], trainer.collect(after), False)


def both_ways(trainer: Trainer) -> dict[str, Callable[[], Any]]:
    """Calls that give the same meta-gradient of one iteration: ``forward`` and ``unrolled``.

    The passes that acted are there, as they are in training.
    """
    agents: Any = trainer.agents
    designer, state, t = trainer.designer, trainer.state.designer, transition_of(trainer)
    weights = designer.weights(state, t.fresh) * -designer._scale(t.fresh)

    def forward() -> Any:
        adjoint = agents.score_vjp(t.after, t.fresh, weights)
        return designer.path.gradient(
            state.path, state.eta, agents, designer.incentive, t.steps, adjoint, t.fresh
        )  # fmt: skip

    def oracle() -> Any:
        objective = log_prob_objective(agents, t.fresh, -weights)
        return unrolled(agents, designer.incentive, state.eta, t.steps, objective)

    return {"forward": forward, "unrolled": oracle}
