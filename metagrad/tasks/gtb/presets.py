"""Presets and methods of Gather-Trade-Build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from metagrad.agents.critics import Critic, DesignerCritic, LinearCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.designers import DualRL, MetaGradient, NoDesigner, StateOnly
from metagrad.metagradient import LastSteps, Sensitivity
from metagrad.networks import MLP, ConvTrunk, PlaneMLP, RecurrentTrunk
from metagrad.optim import Adam, Linear
from metagrad.tasks.experiments import METHODS as SHARED
from metagrad.tasks.experiments import Experiment, Methods, RunOptions
from metagrad.tasks.gtb.features import OwnedByRank
from metagrad.tasks.gtb.task import GatherTradeBuild
from metagrad.tasks.taxes import PerBracketCategorical, TaxSchedule, Welfare

#: What an agent's window shows, as planes of zeros and ones: channel, and the values that set a cell. Stone, wood,
#: house, water, their sources, own house and others', other agents, and the inside of the world.
WINDOW = (
    (0, 1, 255), (1, 1, 255), (2, 1, 255), (3, 1, 255), (4, 1, 255), (5, 1, 255), (6, 1, 1), (6, 2, 255), (7, 2, 255),
    (8, 1, 255),
)  # fmt: skip


def trunk(*hidden: int) -> ConvTrunk:
    """The published network: two convolutions, a dense layer as wide as the vector, then layers on both."""
    return ConvTrunk(filters=6, kernel=5, convolutions=2, hidden=hidden)


def gtb() -> Experiment:
    """Gather-Trade-Build, K = 16: agents and designer learn together from the start."""
    agents = PolicyGradientAgents(
        network=PlaneMLP(WINDOW), optimiser=Adam(1e-3), share_parameters=True, gae_lambda=0.98,
        entropy=Linear(0.15, 0.05, 15_000), terminal="bootstrap", normalise=True, reduction="rows", minibatches=16,
        critic=Critic(MLP((128, 128), head_scale=0.1), Adam(1e-3), reads=("flat",)),
    )  # fmt: skip
    designer = MetaGradient(
        TaxSchedule(), Adam(0.015), gamma=1.0, advantages="gae", critic=LinearCritic(OwnedByRank()), path=Sensitivity(),
        chain=1.0, direct=1.0, discount_scores=True, compare_halves=True,
    )  # fmt: skip
    run = RunOptions(episodes=10_000, k=16, eval_period=400, eval_episodes=20, checkpoint_period=1_600)
    return Experiment("gtb", "gtb", "metagrad", GatherTradeBuild(), agents, designer, run)


def gtb_steady() -> Experiment:
    """Gather-Trade-Build over 30,000 episodes, so that economies do not fall (``docs/gtb_results.md``).

    The designer's learning rate falls to nothing at the end, and the agents' to a tenth after two thirds. No tax rate
    goes above 0.6, under which agents give up their trades more rarely. The response time is measured.
    """
    return _steady("gtb_steady", 30_000)


def gtb_phase_2() -> Experiment:
    """Gather-Trade-Build with agents that have learned in a free market.

    They learn more slowly and explore less, so that production bears higher taxes (``docs/gtb_results.md``, Agents).
    """
    one = gtb()
    agents = replace(one.agents, entropy=0.04, optimiser=Adam(4e-4))
    slower = one.agents.optimiser.lr / agents.optimiser.lr
    path = replace(one.designer.path, response_time=one.designer.path.response_time * slower)
    return replace(
        one, preset="gtb_phase_2", agents=agents, designer=replace(one.designer, path=path),
        run=replace(one.run, episodes=4_480, eval_period=320, init_from=""),
    )  # fmt: skip


def gtb_phase_2_steady() -> Experiment:
    """Gather-Trade-Build with agents that have learned in a free market, over 15,000 episodes, as :func:`gtb_steady`.

    The agents' learning rate falls to a tenth at the end, on a line that begins after the 10,000 steps which they have
    taken in a free market of preset ``gtb``.
    """
    return _steady("gtb_phase_2_steady", 15_000)


def gtb_paper() -> Experiment:
    """Gather-Trade-Build as released for MetaGrad without curriculum: one episode an update."""
    agents = PolicyGradientAgents(
        network=trunk(128, 128), optimiser=Adam(3.3e-4), share_parameters=True, gae_lambda=0.98, entropy=0.184,
        exploration=Linear(0.5, 0.05, 5_000), terminal="bootstrap", reduction="rows",
        critic=Critic(RecurrentTrunk(trunk(128, 128)), Adam(1.67e-5)),
    )  # fmt: skip
    critic = DesignerCritic(Critic(trunk(256, 256), Adam(8.64e-4), target_tau=0.0158), learn_lambda=0.98)
    designer = MetaGradient(
        TaxSchedule(trunk(256, 256), start=0.5, reward=Welfare("level"), baseline=False), Adam(1.82e-5), gamma=0.99,
        advantages="gae", critic=critic, gae_lambda=0.98, path=LastSteps(1), chain=1.0, discount_scores=True,
    )  # fmt: skip
    run = RunOptions(episodes=200_000, k=1, eval_period=400, eval_episodes=5, checkpoint_period=2_000)
    return Experiment("gtb", "gtb_paper", "metagrad", GatherTradeBuild(), agents, designer, run)


#: Options of the run that makes agents for a second phase.
FIRST_PHASE = "--method free-market"
PRESETS: dict[str, Callable[[], Experiment]] = {
    f.__name__: f for f in (gtb, gtb_steady, gtb_phase_2, gtb_phase_2_steady, gtb_paper)
}
#: Presets for long training, and those that they come from.
STEADY = {"gtb_steady": gtb, "gtb_phase_2_steady": gtb_phase_2}


def _steady(name: str, episodes: int) -> Experiment:
    """A preset for long training."""
    one = STEADY[name]()
    run = replace(one.run, episodes=episodes)
    agents_lr, designer_lr = _falling(name, one.agents, run)
    path = replace(one.designer.path, response_time="measured")
    return replace(
        one, preset=name, task=replace(one.task, rate_max=0.6), agents=replace(one.agents, optimiser=Adam(agents_lr)),
        designer=replace(one.designer, path=path, optimiser=Adam(designer_lr)), run=run,
    )  # fmt: skip


def _falling(name: str, agents: Any, run: RunOptions) -> tuple[Linear, Linear]:
    """Learning rates of agents and designer over a run of a preset for long training."""
    one = STEADY[name]()
    lr, steps, iterations = one.agents.optimiser.lr, _steps(agents, run), run.episodes / run.k / run.agent_batches
    slow = Linear(lr, lr / 10, steps * 2 / 3)
    if one.run.init_from is not None:  # steps are counted on from those of the free market
        slow = Linear(lr, lr / 10, steps, after=_steps(gtb().agents, gtb().run))
    return slow, Linear(one.designer.optimiser.lr, 0.0, iterations)


def _steps(agents: Any, run: RunOptions) -> float:
    """Steps that agents take in a run."""
    return run.episodes / run.k * agents.epochs * agents.minibatches


def adjusted(experiment: Experiment, base: Experiment) -> Experiment:
    """Learning rates that fall over a run do so over a longer or shorter one as well."""
    if base.preset not in STEADY:
        return experiment
    agents_lr, designer_lr = _falling(base.preset, experiment.agents, experiment.run)
    agents = _fitted(experiment.agents, base.agents, agents_lr)
    return replace(experiment, agents=agents, designer=_fitted(experiment.designer, base.designer, designer_lr))


def _fitted(mine: Any, before: Any, now: Linear) -> Any:
    """Agents or a designer with what was not changed of a falling learning rate as it is in a run of other length."""
    lr, was = (getattr(getattr(one, "optimiser", None), "lr", None) for one in (mine, before))
    if not (isinstance(lr, Linear) and isinstance(was, Linear)):
        return mine
    new = {f.name: getattr(now, f.name) for f in fields(lr) if getattr(lr, f.name) == getattr(was, f.name)}
    return replace(mine, optimiser=replace(mine.optimiser, lr=replace(lr, **new)))


# ---------------------------------------------------------------------- methods


def _under(tax_mode: Any) -> Callable[[Experiment], Experiment]:
    """Agents alone, under a schedule that the environment holds."""
    return lambda e: replace(e, task=replace(e.task, tax_mode=tax_mode), designer=NoDesigner())


def _fixed(e: Experiment) -> Experiment:
    """Agents alone, under half of every income until other rates are named."""
    task = replace(e.task, tax_mode="fixed", fixed_rates=(0.5,) * len(e.task.cutoffs))
    return replace(e, task=task, designer=NoDesigner())


def _no_cross_validation(e: Experiment) -> Experiment:
    """The agents do not learn from the fresh episodes, those of the agents before their step."""
    return replace(SHARED["metagrad-no-cv"](e), run=replace(e.run, pipeline=False))


def _dual_rl(e: Experiment) -> Experiment:
    published = e.preset == gtb_paper.__name__
    critic = DesignerCritic(Critic(trunk(256, 256), Adam(2.1e-4)), learn_lambda=0.98)
    designer = DualRL(
        PerBracketCategorical(), trunk(256, 256), Adam(5.8e-4), e.designer.gamma, 0.98,
        entropy=0.0 if published else 0.01, critic=critic, reward_less_payments=False, reduction="rows",
        view=StateOnly(), rewards=e.designer.incentive.reward, normalise=not published,
    )  # fmt: skip
    return replace(e, task=replace(e.task, tax_mode="planner"), designer=designer)


METHODS: Methods = {
    "metagrad": SHARED["metagrad"],
    "metagrad-no-cv": _no_cross_validation,
    "dual-rl": _dual_rl,
    "free-market": _under("none"),
    "us-federal": _under("us_federal"),
    "saez": _under("saez"),
    "fixed": _fixed,
}
