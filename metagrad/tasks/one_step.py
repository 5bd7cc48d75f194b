"""The one-step economy for the learner: task, scores, presets and methods. Its taxes are Gather-Trade-Build's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastenvs.one_step import Options, best_response
from fastenvs.one_step.config import US_BRACKETS
from metagrad.agents.critics import Critic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.batch import Batch
from metagrad.designers import DualRL, MetaGradient, NoDesigner, StateOnly
from metagrad.metagradient import Sensitivity
from metagrad.networks import MLP, Levels
from metagrad.optim import SGD, Adam, Linear
from metagrad.tasks.base import FastTask
from metagrad.tasks.experiments import METHODS as SHARED
from metagrad.tasks.experiments import Experiment, Methods, RunOptions
from metagrad.tasks.taxes import PerBracketCategorical, TaxSchedule, share_memories

#: Economies whose best schedule is known, and its rates (``fastenvs.one_step.best_schedule``, many starts).
FOUR = Options(n_agents=4, skills=(1.0, 1.5, 3.0, 10.0), brackets=(0.0, 50.0, 100.0), labor_levels=501)
HUNDRED = Options(n_agents=100, brackets=(0.0, 50.0, 100.0))
BEST = {FOUR: (0.015, 0.85, 0.905), HUNDRED: (0.0, 0.006, 0.55597)}


@dataclass(frozen=True)
class OneStepEconomy(FastTask, Options):  # type: ignore[misc]
    """The one-step economy: agents choose labour once, and are taxed.

    Its parameters are the :class:`options of the game <fastenvs.one_step.config.Options>`.
    """

    name = "one-step-economy"
    fields = ("welfare", "schedule_welfare", "productivity", "equality")

    def prepare(self, env: Any, episodes: int, source: Any = None, n_seeds: int = 1) -> None:
        """Let evaluations see what Saez's formula has learned in training."""
        if source is not None:
            share_memories(env.state.saez, source.state.saez, n_seeds)

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """What scores and taxes need of a step, by the names of Gather-Trade-Build."""
        s, taxes = env.state, env.state.taxes
        nothing = np.zeros_like(s.coin)
        kept = {"wealth": s.coin, "coin": s.coin, "income_so_far": nothing, "goods": nothing[..., None],
                "tax_day": taxes.tax_day}  # fmt: skip
        if s.time[0] == 1:
            kept["rank"] = s.skill.argsort(1, kind="stable").argsort(1)
        if taxes.tax_day[0]:
            kept |= {
                "income": taxes.income, "taxed_coin": taxes.coin_before, "rates": taxes.live,
                "cap": np.ones(len(nothing)), "tax": taxes.paid, "labor": s.events.labor, "level": s.events.welfare,
                "productivity": s.events.productivity, "equality": s.events.equality,
            }  # fmt: skip
        return kept

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """Welfare and its parts; that of the mean schedule if agents responded best; accounts by agent; rates."""
        names = {"welfare": "level", "productivity": "productivity", "equality": "equality", "labor": "labor",
                 "income": "income", "tax": "tax", "coin": "wealth", "rate": "rates"}  # fmt: skip
        scores = {
            name: batch.extra[kept][:, -1].double().mean(1).cpu().numpy() for name, kept in names.items()
        }  # fmt: skip
        known = not self.draw_skills
        rates = np.clip(scores["rate"], 0.0, 1.0)
        scores["schedule_welfare"] = best_response(self, rates).welfare if known else np.full(len(rates), np.nan)
        return scores

    @property
    def economy(self) -> Options:
        """Its options, but for who sets the rates."""
        return Options(**{**self.options(), "tax_mode": "external", "fixed_rates": None, "announce": False})

    def bounds(self) -> dict[str, float]:
        """Welfare of the best schedule and of none, with agents that respond best, where the best one is known."""
        if self.economy not in BEST:
            return {}
        rates = [BEST[self.economy], (0.0,) * len(self.brackets)]
        return dict(zip(("best schedule", "no tax"), best_response(self, rates).welfare.tolist(), strict=True))


# ---------------------------------------------------------------------- presets


def _preset(name: str, economy: Options, agents: PolicyGradientAgents, designer: MetaGradient, run: RunOptions) -> Any:
    task = OneStepEconomy(**{f: getattr(economy, f) for f in Options.__dataclass_fields__})
    return Experiment("one-step-economy", name, "metagrad", task, agents, designer, run)


def one_step_4() -> Experiment:
    """Four agents of skills 1, 1.5, 3 and 10, with a policy each."""
    agents = PolicyGradientAgents(
        network=Levels(FOUR.labor_levels, MLP((), head_scale=0.1), width=0.025), entropy=0.0,
        optimiser=SGD(Linear(7.5e-4, 2.5e-5, 2_000)),
        critic=Critic(MLP(()), SGD(0.2)), normalise=True,
    )  # fmt: skip
    designer = MetaGradient(
        TaxSchedule(start=0.3), Adam(Linear(0.015, 5e-4, 2_000), beta2=0.9), gamma=1.0,
        path=Sensitivity(stride=1, curvature=True), chain=1.0, direct=1.0,
    )  # fmt: skip
    run = RunOptions(
        seeds=tuple(range(12340, 12348)), episodes=128_000, k=64, eval_period=12_800, eval_episodes=50,
        test_episodes=400, checkpoint_period=32_000,
    )  # fmt: skip
    return _preset("one_step_4", FOUR, agents, designer, run)


def one_step_100() -> Experiment:
    """A hundred agents of Pareto skills, who share a policy."""
    four = one_step_4()
    agents = replace(
        four.agents, network=Levels(HUNDRED.labor_levels, MLP((32,), head_scale=0.1), width=0.05),
        optimiser=Adam(Linear(2e-3, 6e-5, 3_000), beta2=0.99), share_parameters=True, reduction="rows",
        critic=Critic(MLP((32,), initial="torch"), Adam(1e-2)),
    )  # fmt: skip
    designer = replace(four.designer, optimiser=Adam(Linear(0.015, 5e-4, 3_000), beta2=0.9))
    run = replace(four.run, episodes=48_000, k=16, eval_period=4_800, checkpoint_period=8_000)
    return _preset("one_step_100", HUNDRED, agents, designer, run)


PRESETS: dict[str, Callable[[], Experiment]] = {f.__name__: f for f in (one_step_4, one_step_100)}


# ---------------------------------------------------------------------- methods


def _under(tax_mode: Any) -> Callable[[Experiment], Experiment]:
    """Agents alone, under a schedule that the environment holds."""
    return lambda e: replace(e, task=replace(e.task, tax_mode=tax_mode), designer=NoDesigner())


def _us_federal(e: Experiment) -> Experiment:
    """Agents alone, under the US federal rates, which come with brackets of their own."""
    return replace(e, task=replace(e.task, tax_mode="us_federal", brackets=US_BRACKETS), designer=NoDesigner())


def _fixed(e: Experiment) -> Experiment:
    """Agents alone, under the best schedule until other rates are named."""
    task = replace(e.task, tax_mode="fixed", fixed_rates=BEST[e.task.economy])
    return replace(e, task=task, designer=NoDesigner())


def _dual_rl(e: Experiment) -> Experiment:
    """A designer that chooses rates anew in every episode, which agents see before they choose."""
    designer = DualRL(
        PerBracketCategorical(), MLP((32,)), Adam(3e-3), 1.0, entropy=0.02, reward_less_payments=False,
        reduction="rows", view=StateOnly(), rewards=e.designer.incentive.reward, normalise=True,
    )  # fmt: skip
    agents = replace(e.agents, network=replace(e.agents.network, network=MLP((32,), head_scale=0.1)))
    return replace(e, task=replace(e.task, tax_mode="planner", announce=True), agents=agents, designer=designer)


METHODS: Methods = {
    "metagrad": SHARED["metagrad"],
    "metagrad-no-cv": SHARED["metagrad-no-cv"],
    "dual-rl": _dual_rl,
    "free-market": _under("none"),
    "us-federal": _us_federal,
    "saez": _under("saez"),
    "fixed": _fixed,
}
