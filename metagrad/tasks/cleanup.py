"""Cleanup for the learner: task, what its designers see, scores, presets and methods.

Agents share one policy and one critic, and see pictures; a designer sees the whole map and who cleans, and pays for
what an agent does: clean, collect, or anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fastenvs.cleanup import PRESETS as MAPS
from fastenvs.cleanup import Options
from metagrad.agents.base import Interface
from metagrad.agents.critics import Critic, DesignerCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.agents.surrogates import Surrogate
from metagrad.batch import Batch
from metagrad.designers import ByActionType, ByAgent, DualRL, MetaGradient, SquashedGaussian
from metagrad.metagradient import LastSteps
from metagrad.networks import ConvTrunk, PlaneMLP
from metagrad.networks.base import Obs, Shapes
from metagrad.optim import SGD, Adam, Linear, Optimiser
from metagrad.tasks.base import FastTask, per_agent, per_seed
from metagrad.tasks.experiments import METHODS as SHARED
from metagrad.tasks.experiments import Experiment, Methods, RunOptions, central
from metagrad.tasks.figures import MARKERS, Metrics, Panels, Runs, all_at_end, bars, colour, curves, error, number_ticks

#: What agents are paid for, by the number that the game gives it.
KINDS = ("cleaned", "collected", "other")
#: Best possible social welfare of 50 steps on the small map, by backward induction (docs/cleanup.md).
OPTIMUM = 41.85
#: What a plan earns on the 10 x 10 map, where the best possible is not known (tests/test_cleanup_larger.py).
PLAN_10X10 = 56.5


@dataclass(frozen=True)
class Cleanup(FastTask, Options):  # type: ignore[misc]
    """Cleanup: apples grow while somebody cleans the river, which pays nothing.

    Its parameters are the :class:`options of the game <fastenvs.cleanup.Options>`.

    Parameters
    ----------
    planner_view_size : int, optional
        Radius of the designer's window; None for one that shows the whole map.
    """

    name = "cleanup"
    fields = ("welfare", "incentives_paid", "waste_cleared")

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """Runs once named the game's preset."""
        return {**MAPS.get(str(saved.get("preset")), {}), **{n: x for n, x in saved.items() if n != "preset"}}

    def options(self) -> dict[str, Any]:
        """Those of the environment."""
        whole_map = max(self.view_size, *(n // 2 for n in self.symbols.shape))
        radius = whole_map if self.planner_view_size is None else self.planner_view_size
        return {**super().options(), "planner_view_size": radius}

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """What every agent did: the type of its action, whether it chose to clean, and the units of waste it removed;
        and ``growth``, the share of their full rate at which the river lets apples grow.
        """
        density = env.state.n_waste / len(env.config.waste_points)
        growth = np.clip((self.depletion - density) / (self.depletion - self.restoration), 0, 1)
        done = {"action_type": info["action_type"], "cleaned": info["cleaned"], "waste": info["n_cleaned"]}
        return {**done, "growth": growth.astype(np.float32)}

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """Social welfare (incentives are not subtracted), and what every agent did and received."""
        scores = {
            "welfare": per_seed(batch.designer_rewards),
            "incentives_paid": per_seed(batch.payments),
            "waste_cleared": per_seed(batch.extra["waste"]),
            "reward": per_agent(batch.rewards),
            "waste": per_agent(batch.extra["waste"]),
        }
        for kind, name in enumerate(KINDS):
            done = (batch.extra["action_type"] == kind) * batch.alive[..., None]
            scores[f"n_{name}"] = per_agent(done)
            scores[f"received_{name}"] = per_agent(done * batch.payments)
        return scores

    def bounds(self) -> dict[str, float]:
        """Best possible social welfare, where it is known, or what a plan earns."""
        shown = replace(self, observation="rgb")
        if shown == Cleanup(**MAPS["authors_10x10"], steps=50):
            return {"a plan": PLAN_10X10}
        return {"best possible": OPTIMUM} if shown == Cleanup() else {}

    def panels(self, runs: Runs) -> Panels:
        """Panels of runs: welfare and payments over training, and what every agent did in the end."""
        shared: Panels = {
            **curves(runs, {"welfare": "apples less fines", "incentives_paid": "apples", "waste_cleared": "cells"}),
            "roles": partial(_roles, runs=runs),
        }
        return {**shared, "payments": partial(_payments, metrics=runs[0][2])} if len(runs) == 1 else shared


@dataclass(frozen=True)
class OverviewAndCleaners:
    """The designer's picture, and for each agent whether it chose to clean in this step, or not."""

    def rows(self, batch: Batch) -> Obs:
        """Rows ``[S, T * K, h, w, C]`` and ``[S, T * K, 2 A]``."""
        cleaned = batch.extra["cleaned"].to(batch.alive.dtype)
        flags = torch.stack([cleaned, 1 - cleaned], -1).flatten(3)
        return {"cleaners": flags.flatten(1, 2), "overview": batch.designer_obs["obs"].flatten(1, 2)}

    def shapes(self, game: Interface) -> Shapes:
        """Shapes of a row."""
        return {"cleaners": (2 * game.n_agents,), "overview": game.designer["obs"]}


@dataclass(frozen=True)
class ByEffect(ByActionType):
    """Pays as :class:`metagrad.designers.ByActionType`, but cleaning that removes no waste counts as anything else.

    In the published game a beam at nothing is paid like any other, so that the designer cannot ask for a clean river
    without asking everybody to clean for ever.
    """

    def index(self, batch: Batch) -> torch.Tensor:
        """The type of each agent's action."""
        types = super().index(batch)
        idle = (types == KINDS.index("cleaned")) & (batch.extra["waste"] == 0)
        return torch.where(idle, KINDS.index("other"), types)


@dataclass(frozen=True)
class ByRiver(ByAgent):
    """Hires one agent: pays it, whatever it does, a price times the share of their full rate at which apples may grow.

    It earns more beside a clean river than beside a dirty one, and so walks to where waste is. Payments for waste
    cleared do not bring that about: they are the same in a dirty river and a clean one.

    Parameters
    ----------
    hired : int
        The agent, from 0 on.
    network, scale, cost_of, view, start
        As for :class:`metagrad.designers.ByAction`.
    """

    hired: int = 0

    def n_outputs(self, game: Interface) -> int:
        """One price."""
        if not 0 <= self.hired < game.n_agents:
            raise ValueError(f"ByRiver.hired must be from 0 to {game.n_agents - 1}, got {self.hired}")
        return 1

    def pick(self, sigma: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The price before scaling times the growth, for the agent that is hired."""
        return sigma * self._due(batch)

    def spread(self, d: torch.Tensor, sigma: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Transpose of :meth:`pick`."""
        return (d * self._due(batch)).sum(-1, keepdim=True)

    def _due(self, batch: Batch) -> torch.Tensor:
        """The growth for the agent that is hired, and 0 for the others, ``[S, T, K, A]``."""
        due = torch.zeros_like(batch.rewards)
        due[..., self.hired] = batch.extra["growth"] * batch.alive
        return due


# ---------------------------------------------------------------------- presets

#: On pictures: a 3 x 3 convolution, a dense layer, what else there is to see, and one more.
NETWORK = ConvTrunk(filters=6, kernel=3, convolutions=1, map_width=64, hidden=(64,), scale=1 / 255)


def _agents(optimiser: Optimiser, critic_lr: float, **options: Any) -> PolicyGradientAgents:
    target_tau = options.pop("target_tau", 1.0)
    return PolicyGradientAgents(
        network=NETWORK, optimiser=optimiser, share_parameters=True, reduction="rows", terminal="bootstrap",
        critic=Critic(NETWORK, Adam(critic_lr), target_tau), **options,
    )  # fmt: skip


def _designer(lr: float, critic_lr: float, gamma: float, gae_lambda: float, target_tau: float = 1.0) -> MetaGradient:
    return MetaGradient(
        ByActionType(NETWORK, scale=2.0, view=OverviewAndCleaners(), types=len(KINDS)), Adam(lr), gamma=gamma,
        advantages="gae", critic=DesignerCritic(Critic(NETWORK, Adam(critic_lr), target_tau)), gae_lambda=gae_lambda,
        path=LastSteps(), chain=1.0, reduction="rows", surrogate=Surrogate(Adam(3e-3), 4),
    )  # fmt: skip


def cleanup() -> Experiment:
    """Cleanup on the small map, K = 16."""
    agents = _agents(Adam(1e-3), 2e-3, gamma=0.9, gae_lambda=0.9, entropy=0.1, normalise=True)
    run = RunOptions(seeds=(12340,), target=33.5, episodes=10_000, k=16, eval_period=320, checkpoint_period=1_600)
    return Experiment("cleanup", "cleanup", "metagrad", Cleanup(), agents, _designer(1e-4, 2e-3, 0.97, 0.95), run)


def cleanup_paper() -> Experiment:
    """Cleanup on the small map as released: one episode an update, temporal differences, SGD."""
    agents = _agents(
        SGD(6.73e-4), 5.54e-4, gamma=0.99, gae_lambda=0.0, entropy=0.129, exploration=Linear(1.0, 0.05, 100),
        target_tau=7.93e-3,
    )  # fmt: skip
    designer = _designer(1.24e-5, 2.4e-5, 0.99, 0.99, 0.114)
    run = RunOptions(
        seeds=(12340,), target=33.5, episodes=100_000, k=1, eval_period=500, eval_episodes=5, checkpoint_period=5_000
    )
    return Experiment("cleanup", "cleanup_paper", "metagrad", Cleanup(), agents, designer, run)


def cleanup_10x10() -> Experiment:
    """Cleanup with three agents, paid for waste that they clear."""
    return _on_larger("cleanup_10x10", Cleanup(**{**MAPS["authors_10x10"], "steps": 50}), 3e-4, (0.3, 0.02, 0.02))


def cleanup_10x10_hired() -> Experiment:
    """Cleanup with three agents, of whom one is paid for the state of the river, and the others nothing."""
    e = cleanup_10x10()
    run = replace(e.run, episodes=48_000, eval_period=1_600, checkpoint_period=4_800)
    agents = replace(e.agents, gamma=0.9, optimiser=Adam(Linear(1.5e-3, 1e-4, 3_000)), entropy=Linear(0.1, 0.0, 40_000))
    paying = e.designer.incentive
    incentive = ByRiver(paying.network, paying.scale, view=paying.view, start=(1.0,))
    return replace(
        e, preset="cleanup_10x10_hired", agents=agents, designer=replace(e.designer, incentive=incentive), run=run
    )


def cleanup_large() -> Experiment:
    """Cleanup on the large map, K = 8: episodes of 150 steps, and agents that face up, do not turn and cannot fire.

    Nothing grows until a sixth of the waste is gone, and the orchard is far: who does not stray from the river early
    on never sees an apple.
    """
    upright = {"actions": "no_rotation", "random_orientation": False, "steps": 150}
    e = _on_larger("cleanup_large", Cleanup(**{**MAPS["large"], **upright}), 1e-4, (0.05, 0.005, 0.005))
    agents = replace(e.agents, exploration=Linear(0.4, 0.02, 150))
    return replace(e, agents=agents, run=replace(e.run, k=8, episodes=4_800, eval_period=160, checkpoint_period=480))


def _on_larger(name: str, task: Cleanup, lr: float, start: tuple[float, ...]) -> Experiment:
    """Agents that see what is in a cell rather than its colour, and whose steps and entropy shrink as they learn."""
    e, task = cleanup(), replace(task, observation="planes")
    network = PlaneMLP(tuple((channel, 1, 1) for channel in range(task.channels)), map_width=64, hidden=(64,))
    critic = Critic(network, Adam(2e-3))
    agents = replace(
        e.agents, network=network, critic=critic, optimiser=Adam(Linear(1.5e-3, 5e-4, 600)), gamma=0.95,
        gae_lambda=0.95, entropy=Linear(0.1, 0.02, 8_000),
    )  # fmt: skip
    paying = replace(network, head_scale=0.01)
    incentive = ByEffect(paying, view=OverviewAndCleaners(), types=len(KINDS), start=start)
    designer = replace(e.designer, incentive=incentive, optimiser=Adam(lr), critic=DesignerCritic(critic))
    return replace(e, preset=name, task=task, agents=agents, designer=designer, run=replace(e.run, target=None))


PRESETS: dict[str, Callable[[], Experiment]] = {
    f.__name__: f for f in (cleanup, cleanup_paper, cleanup_10x10, cleanup_10x10_hired, cleanup_large)
}


# ---------------------------------------------------------------------- methods


def _dual_rl(e: Experiment) -> Experiment:
    d, incentive = e.designer, e.designer.incentive
    if not isinstance(incentive, ByActionType):
        raise ValueError(f"dual-rl-continuous pays by type of action, but preset {e.preset} hires an agent")
    head = SquashedGaussian(incentive.scale, incentive.types, incentive.record)
    designer = DualRL(
        head, incentive.network, d.optimiser, d.gamma, d.gae_lambda, critic=d.critic, reward_less_payments=False,
        reduction="rows", view=incentive.view,
    )  # fmt: skip
    return replace(e, designer=designer)


METHODS: Methods = {**SHARED, "dual-rl-continuous": _dual_rl, "central": central}


# ---------------------------------------------------------------------- figures


def _roles(axis: Any, runs: Runs) -> None:
    """What each agent clears and earns, every seed."""
    for i, (*_, metrics) in enumerate(runs):
        for a, at in enumerate(zip(all_at_end(metrics, "waste_"), all_at_end(metrics, "reward_"), strict=True)):
            marker = MARKERS[a % len(MARKERS)]
            axis.scatter(*at, s=16, color=colour(i), marker=marker, alpha=0.7)
            if i == 0:
                axis.scatter([], [], s=16, color="0.4", marker=marker, label=f"agent {a + 1}")
    axis.set(xlabel="waste cleared by the agent (cells)", ylabel="its apples less fines")


def _payments(axis: Any, metrics: Metrics) -> None:
    """What each agent received for what it did."""
    for c, kind in enumerate(KINDS):
        values = all_at_end(metrics, f"received_{kind}_")
        look = {**bars(c), "label": f"for having {kind}" if c < 2 else "for the rest"}
        yerr = error(values) if values.shape[1] > 1 else None
        axis.bar(np.arange(len(values)) + (c - 1) * 0.27, values.mean(1), 0.27, yerr=yerr, error_kw={"lw": 0.8}, **look)
    axis.set(xlabel="agent", ylabel="incentives received (apples)")
    number_ticks(axis, len(values))
