"""Escape Room ER(N, M) for the learner: task, scores, presets and methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import fastenvs
from metagrad.agents.base import Interface
from metagrad.agents.critics import Critic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.batch import Batch
from metagrad.checks import Checked, Count
from metagrad.designers import AMD, ByAction, ByAgent, Categorical, DualRL, MetaGradient, MutualIncentive, NoDesigner
from metagrad.designers.dual_rl import SquashedGaussian
from metagrad.networks.mlp import MLP, Normal
from metagrad.optim import SGD, Adam, Linear
from metagrad.tasks.base import TaskError, VectorTask, per_agent, per_seed, probe
from metagrad.tasks.experiments import Experiment, RunOptions

#: The agents' actions.
PLACES = ("lever", "start", "door")


@dataclass(frozen=True)
class EscapeRoom(Checked, VectorTask):
    """Escape Room: M of N agents have to pull a lever so that the others can leave.

    Parameters
    ----------
    n_agents : int
        Number of agents, N.
    min_at_lever : int
        Agents that have to pull the lever, M.
    max_steps : int
        Step limit of an episode.
    randomize : bool
        Start episodes at random places.
    """

    n_agents: Count = 5  # type: ignore[assignment]
    min_at_lever: Count = 2
    max_steps: Count = 5
    randomize: bool = False

    name = "escape-room"
    fields = ("r_id", "environment_return", "incentives_paid", "steps_per_episode")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_at_lever > self.n_agents:
            raise TaskError(
                f"task.min_at_lever is {self.min_at_lever} with {self.n_agents} agents: the door could never open"
            )

    @property
    def horizon(self) -> int:  # type: ignore[override]
        """Step limit of an episode."""
        return self.max_steps

    @cached_property
    def interface(self) -> Interface:  # type: ignore[override]
        """What agents and designers see."""
        return probe(self.make(1, [0]), self.max_steps)

    def make(self, num_envs: int, seeds: Sequence[int]) -> Any:
        """An environment of ``num_envs`` copies, shared out evenly over the seeds."""
        return fastenvs.make(
            "escape_room", num_envs, seed=list(seeds), autoreset="disabled", num_threads=1, n_agents=self.n_agents,
            min_at_lever=self.min_at_lever, max_steps=self.max_steps, randomize=self.randomize,
        )  # fmt: skip

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """Designer return (incentives subtracted), its parts, and what every agent did and received."""
        earned, paid = per_seed(batch.designer_rewards), per_seed(batch.payments)
        acts = batch.onehot_actions()
        scores = {
            "r_id": earned - paid,
            "environment_return": earned,
            "incentives_paid": paid,
            "steps_per_episode": per_seed(batch.alive),
            "reward_total": per_agent(batch.total_rewards),
        }
        for a, place in enumerate(PLACES):
            scores[f"n_{place}"] = per_agent(acts[..., a])
            scores[f"incentive_{place}"] = per_agent(acts[..., a] * batch.payments)
        return scores

    def bounds(self) -> dict[str, float]:
        """Best possible designer returns from the default start; nothing for random starts."""
        if self.randomize:
            return {}
        free = 10.0 * (self.n_agents - self.min_at_lever) - self.min_at_lever
        return {"no pay": max(0.0, free), "threshold pay": max(0.0, free - self.min_at_lever)}

    def bytes_per_copy(self) -> float:
        """Every agent sees the places of all."""
        return 12.0 * self.n_agents * self.n_agents

    def rooms(self) -> str:
        """The game's usual name."""
        return f"ER({self.n_agents},{self.min_at_lever})"

    def draw(self, figure: Any, runs: Any) -> None:
        """Draw one run in detail, or several."""
        from metagrad.tasks.escape_room_figure import draw

        draw(figure, runs)


# ---------------------------------------------------------------------- presets

# The agents' learning rate that was released for K = 1; SGD bears a larger one when K episodes are averaged.
_LR = 9.56e-5
#: Designer return that counts as solved; the larger games' is 10 (N - M) - 2 M, paying each puller its cost.
TARGETS = {(2, 1): 7.5, (3, 2): 5.5, (5, 2): 25.0, (10, 5): 40.0, (20, 10): 80.0, (50, 25): 200.0}


def _incentive_network(*hidden: int) -> MLP:
    return MLP(hidden, output_bias=False)


def _ours(name: str, n: int, m: int, *, iterations: int, lr: float, lr_cost: float) -> Experiment:
    """K = 16, cost on incentives really paid, and a short memory in the cost's Adam."""
    run = RunOptions(
        seeds=tuple(range(12340, 12348)), target=TARGETS[n, m], episodes=16 * iterations, k=16, eval_period=400,
        checkpoint_period=4_000,
    )  # fmt: skip
    agents = PolicyGradientAgents(hidden=(64, 32), optimiser=SGD(lr), entropy=0.0166)
    designer = MetaGradient(
        ByAction(_incentive_network(64, 16)), Adam(1e-3), cost=1.0, cost_optimiser=Adam(lr_cost, beta2=0.98),
        advantages="returns", chain=1.0,
    )  # fmt: skip
    return Experiment("escape-room", name, "metagrad", EscapeRoom(n, m), agents, designer, run)


def _paper(
    name: str, n: int, m: int, agents: tuple[int, ...] = (64, 32), designer: tuple[int, ...] = (64, 16)
) -> Experiment:
    """Released values: one episode an update, all outputs cost, the published replica."""
    base = _ours(name, n, m, iterations=1, lr=_LR, lr_cost=6.03e-5)
    learned = replace(
        base.designer, incentive=ByAction(_incentive_network(*designer), cost_of="all_outputs"),
        optimiser=Adam(7.93e-4), cost_optimiser=Adam(6.03e-5), agent_model="replayed",
    )  # fmt: skip
    run = replace(base.run, episodes=100_000, k=1, eval_period=100, checkpoint_period=10_000)
    return replace(base, agents=replace(base.agents, hidden=agents), designer=learned, run=run)


def er_2_1() -> Experiment:
    """ER(2,1), K = 16."""
    return _ours("er_2_1", 2, 1, iterations=1_500, lr=32 * _LR, lr_cost=3e-4)


def er_3_2() -> Experiment:
    """ER(3,2), K = 16, for decentralised incentives beside the central designer."""
    return _ours("er_3_2", 3, 2, iterations=1_500, lr=32 * _LR, lr_cost=3e-4)


def er_2_1_ac() -> Experiment:
    """ER(2,1), K = 16, linear actor-critic agents paid one by one, for the meta-gradient and mechanism design alike."""
    ours = _ours("er_2_1_ac", 2, 1, iterations=2_000, lr=128 * _LR, lr_cost=3e-4)
    critic = Critic(MLP((64,), initial=Normal(0.1, 0.1)), Adam(3e-3))
    agents = replace(ours.agents, network=_linear(), critic=critic, gae_lambda=0.0, entropy=0.0)
    return replace(ours, agents=agents, designer=replace(ours.designer, incentive=ByAgent(_incentive_network(64, 16))))


def er_2_1_amd_paper() -> Experiment:
    """ER(2,1) with the values released for adaptive mechanism design; linear policy-gradient agents."""
    base = _paper("er_2_1_amd_paper", 2, 1)
    agents = replace(
        base.agents, network=_linear(), optimiser=Adam(1e-4), entropy=0.01, exploration=Linear(0.5, 0.1, 1_000)
    )
    return replace(base, agents=agents, run=replace(base.run, episodes=50_000))


def _linear() -> MLP:
    """Linear softmax policies without bias."""
    return MLP((), output_bias=False, initial=Normal(0.5))


def er_5_2() -> Experiment:
    """ER(5,2), K = 16: the main job."""
    return _ours("er_5_2", 5, 2, iterations=2_000, lr=16 * _LR, lr_cost=3e-4)


def er_10_5() -> Experiment:
    """ER(10,5), K = 16."""
    return _ours("er_10_5", 10, 5, iterations=1_500, lr=16 * _LR, lr_cost=2e-4)


def er_20_10() -> Experiment:
    """ER(20,10), K = 16."""
    return _ours("er_20_10", 20, 10, iterations=2_000, lr=16 * _LR, lr_cost=1e-4)


def er_50_25() -> Experiment:
    """ER(50,25), K = 16."""
    return _ours("er_50_25", 50, 25, iterations=2_000, lr=16 * _LR, lr_cost=3e-5)


def er_2_1_paper() -> Experiment:
    """ER(2,1) with the values released for ER(5,2)."""
    return _paper("er_2_1_paper", 2, 1)


def er_5_2_paper() -> Experiment:
    """ER(5,2) as released."""
    return _paper("er_5_2_paper", 5, 2)


def er_10_5_paper() -> Experiment:
    """ER(10,5) with the released learning rates and the wider networks that the release mentions."""
    return _paper("er_10_5_paper", 10, 5, agents=(128, 64), designer=(256, 128))


PRESETS: dict[str, Callable[[], Experiment]] = {
    f.__name__: f
    for f in (
        *(er_5_2, er_2_1, er_3_2, er_10_5, er_20_10, er_50_25, er_2_1_ac),
        *(er_2_1_paper, er_5_2_paper, er_10_5_paper, er_2_1_amd_paper),
    )
}


def adjusted(experiment: Experiment, base: Experiment) -> Experiment:
    """An experiment on another room than its preset's: named by it, with a target of its own unless one was given."""
    if experiment.task == base.task:
        return experiment
    renamed = replace(experiment, preset=f"{experiment.task.rooms()} from {base.preset}")
    bounds = experiment.task.bounds()
    if experiment.run.target != base.run.target or not bounds:
        return renamed
    return replace(renamed, run=replace(renamed.run, target=0.95 * bounds["threshold pay"]))


# ---------------------------------------------------------------------- methods


def _no_cross_validation(e: Experiment) -> Experiment:
    return replace(e, designer=replace(e.designer, validation="before"))


def _lio(e: Experiment) -> Experiment:
    mine = e.designer.incentive
    incentive = MutualIncentive(e.task.n_agents, mine.network, mine.scale, mine.cost_of)
    return replace(e, designer=replace(e.designer, incentive=incentive))


def _dual_rl(e: Experiment, designer: DualRL) -> Experiment:
    return replace(e, designer=designer)


def _amd(e: Experiment) -> Experiment:
    published = e.preset == er_2_1_amd_paper.__name__
    designer = AMD(
        e.designer.incentive.network, Adam(2.74e-5 if e.run.k == 1 else 1e-3), e.agents.optimiser.lr,
        cost_weight=4.24e-4 if e.run.k == 1 else 0.02, scores_at="designer" if published else "own",
    )  # fmt: skip
    return replace(e, designer=designer)


METHODS: dict[str, Callable[[Experiment], Experiment]] = {
    "metagrad": lambda e: e,
    "metagrad-no-cv": _no_cross_validation,
    "lio": _lio,
    "dual-rl-discrete": lambda e: _dual_rl(e, DualRL(Categorical(), MLP((64, 32)), Adam(8e-3), entropy=0.0289)),
    "dual-rl-continuous": lambda e: _dual_rl(
        e, DualRL(SquashedGaussian(), MLP((64, 32), output_bias=False), Adam(8e-3), entropy=0.0289)
    ),
    "amd": _amd,
    "none": lambda e: replace(e, designer=NoDesigner()),
}
