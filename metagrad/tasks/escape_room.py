"""Escape Room ER(N, M) for the learner: task, scores, presets and methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fastenvs.escape_room import Options
from metagrad.agents.critics import Critic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.batch import Batch
from metagrad.designers import AMD, ByAction, ByAgent, Categorical, DualRL, MetaGradient, MutualIncentive
from metagrad.designers.dual_rl import Head, SquashedGaussian
from metagrad.networks.mlp import MLP, Normal
from metagrad.optim import SGD, Adam, Linear
from metagrad.tasks.base import FastTask, per_agent, per_seed
from metagrad.tasks.experiments import METHODS as SHARED
from metagrad.tasks.experiments import Experiment, Methods, RunOptions
from metagrad.tasks.figures import Panels, Runs, by_seed, colour, curves, over_training

#: The agents' actions.
PLACES = ("lever", "start", "door")


@dataclass(frozen=True)
class EscapeRoom(FastTask, Options):  # type: ignore[misc]
    """Escape Room: M of N agents have to pull a lever so that the others can leave.

    Its parameters are the :class:`options of the game <fastenvs.escape_room.Options>`, by default those of ER(5, 2).
    """

    n_agents: int = 5
    min_at_lever: int = 2

    name = "escape-room"
    limit = "max_steps"
    fields = ("r_id", "environment_return", "incentives_paid", "steps_per_episode")

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

    def rooms(self) -> str:
        """The game's usual name."""
        return f"ER({self.n_agents},{self.min_at_lever})"

    def panels(self, runs: Runs) -> Panels:
        """Panels of runs: what the designer gets and pays, and of one run what it pays for."""
        units = {"r_id": "designer return", "environment_return": "sum of rewards", "incentives_paid": "an episode"}
        shared = curves(runs, units)
        return {**shared, "incentives": partial(_incentives, runs=runs)} if len(runs) == 1 else shared


# ---------------------------------------------------------------------- presets

# The agents' learning rate that was released for K = 1; SGD bears a larger one when K episodes are averaged.
_LR = 9.56e-5
#: Designer return that counts as solved; the larger games' is 10 (N - M) - 2 M, paying each puller its cost.
TARGETS = {(2, 1): 7.5, (3, 2): 5.5, (5, 2): 25.0, (10, 5): 40.0, (20, 10): 80.0, (50, 25): 200.0}
#: Linear softmax policies without bias.
LINEAR = MLP((), output_bias=False, initial=Normal(0.5))


def _network(*hidden: int) -> MLP:
    return MLP(hidden, output_bias=False)


def _ours(n: int, m: int, iterations: int, lr: float, lr_cost: float, suffix: str = "") -> Experiment:
    """K = 16, cost on incentives really paid, and a short memory in the cost's Adam; ``lr`` is in units of ``_LR``."""
    run = RunOptions(
        seeds=tuple(range(12340, 12348)), target=TARGETS[n, m], episodes=16 * iterations, k=16, eval_period=400,
        checkpoint_period=4_000,
    )  # fmt: skip
    agents = PolicyGradientAgents(hidden=(64, 32), optimiser=SGD(lr * _LR), entropy=0.0166)
    designer = MetaGradient(
        ByAction(_network(64, 16)), Adam(1e-3), cost=1.0, cost_optimiser=Adam(lr_cost, beta2=0.98),
        advantages="returns", chain=1.0,
    )  # fmt: skip
    return Experiment("escape-room", f"er_{n}_{m}{suffix}", "metagrad", EscapeRoom(n, m), agents, designer, run)


def _unsettled(e: Experiment, entropy: Linear) -> Experiment:
    """An experiment whose agents do not settle before the designer has seen what opens the door.

    Everything is paid alike at first, and a bonus on entropy fades slowly. The designer's baseline keeps its steps
    small once the agents behave rightly, so that the cost of pay has the last word.
    """
    network = replace(e.designer.incentive.network, head_scale=0.1)
    incentive = replace(e.designer.incentive, network=network)
    designer = replace(e.designer, incentive=incentive, advantages="leave_one_out")
    return replace(e, agents=replace(e.agents, entropy=entropy), designer=designer)


def _crowd(n: int, m: int) -> Experiment:
    """Rooms with so many agents that untrained ones seldom open the door."""
    return _unsettled(_ours(n, m, 1_500, 128, 2e-4), Linear(4.0, 0.0166, 6_000))


def _actor_critic() -> Experiment:
    """Linear actor-critic agents paid one by one, for the meta-gradient and mechanism design alike."""
    ours = _ours(2, 1, 2_000, 256, 3e-4, "_ac")
    critic = Critic(MLP((64,), initial=Normal(0.1, 0.1)), Adam(3e-3))
    agents = replace(ours.agents, network=LINEAR, critic=critic, gae_lambda=0.0)
    designer = replace(ours.designer, incentive=ByAgent(_network(64, 16)))
    return _unsettled(replace(ours, agents=agents, designer=designer), Linear(1.0, 0.0, 12_000))


def _paper(
    n: int, m: int, agents: tuple[int, ...] = (64, 32), designer: tuple[int, ...] = (64, 16), suffix: str = "_paper"
) -> Experiment:
    """Released values: one episode an update, all outputs cost, the published replica."""
    base = _ours(n, m, 1, 1, 6.03e-5, suffix)
    learned = replace(
        base.designer, incentive=ByAction(_network(*designer), cost_of="all_outputs"),
        optimiser=Adam(7.93e-4), cost_optimiser=Adam(6.03e-5), agent_model="replayed",
    )  # fmt: skip
    run = replace(base.run, episodes=100_000, k=1, eval_period=100, checkpoint_period=10_000)
    return replace(base, agents=replace(base.agents, hidden=agents), designer=learned, run=run)


def _amd_paper() -> Experiment:
    """The values released for adaptive mechanism design; linear policy-gradient agents."""
    base = _paper(2, 1, suffix="_amd_paper")
    agents = replace(
        base.agents, network=LINEAR, optimiser=Adam(1e-4), entropy=0.01, exploration=Linear(0.5, 0.1, 1_000)
    )
    return replace(base, agents=agents, run=replace(base.run, episodes=50_000))


PRESETS: dict[str, Callable[[], Experiment]] = {
    "er_5_2": partial(_ours, 5, 2, 2_000, 16, 3e-4),  # the main job
    "er_2_1": partial(_ours, 2, 1, 1_500, 32, 3e-4),
    "er_3_2": partial(_ours, 3, 2, 1_500, 32, 3e-4),  # for decentralised incentives beside the central designer
    "er_10_5": partial(_ours, 10, 5, 1_500, 16, 2e-4),
    "er_20_10": partial(_crowd, 20, 10),
    "er_50_25": partial(_crowd, 50, 25),
    "er_2_1_ac": _actor_critic,
    "er_2_1_paper": partial(_paper, 2, 1),  # with the values released for ER(5,2)
    "er_5_2_paper": partial(_paper, 5, 2),  # as released
    "er_10_5_paper": partial(_paper, 10, 5, (128, 64), (256, 128)),  # the wider networks that the release mentions
    "er_2_1_amd_paper": _amd_paper,
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


def _lio(e: Experiment) -> Experiment:
    mine = e.designer.incentive
    incentive = MutualIncentive(e.task.n_agents, mine.network, mine.scale, mine.cost_of)
    return replace(e, designer=replace(e.designer, incentive=incentive))


def _dual_rl(head: Head, output_bias: bool) -> Callable[[Experiment], Experiment]:
    designer = DualRL(head, MLP((64, 32), output_bias=output_bias), Adam(8e-3), entropy=0.0289)
    return lambda e: replace(e, designer=designer)


def _amd(e: Experiment) -> Experiment:
    single, published = e.run.k == 1, e.preset == "er_2_1_amd_paper"
    designer = AMD(
        e.designer.incentive.network, Adam(2.74e-5 if single else 1e-3), e.agents.optimiser.lr,
        cost_weight=4.24e-4 if single else 0.02, scores_at="designer" if published else "own",
    )  # fmt: skip
    return replace(e, designer=designer)


METHODS: Methods = {
    **SHARED,
    "lio": _lio,
    "dual-rl-discrete": _dual_rl(Categorical(), True),
    "dual-rl-continuous": _dual_rl(SquashedGaussian(), False),
    "amd": _amd,
}


# ---------------------------------------------------------------------- figures


def _incentives(axis: Any, runs: Runs) -> None:
    """Mean incentive each time an action is chosen, for those who pull most and for the others."""
    experiment, _, metrics = runs[0]
    task, agents = experiment.task, range(experiment.task.n_agents)
    episodes, _ = by_seed(metrics, "r_id")
    count = {p: np.stack([by_seed(metrics, f"n_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    paid = {p: np.stack([by_seed(metrics, f"incentive_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    # An agent is a cooperator if it is among the M that pulled most in the last tenth of training.
    tail = max(1, len(episodes) // 10)
    pulls = count["lever"][:, :, -tail:].mean(-1)
    rank = pulls.argsort(1).argsort(1)
    cooperator = (rank >= task.n_agents - task.min_at_lever)[:, :, None]
    for role, mask, style in (("cooperator", cooperator, "-"), ("winner", ~cooperator, "--")):
        for c, place in enumerate(PLACES):
            total = (paid[place] * mask).sum((0, 1))
            chosen = (count[place] * mask).sum((0, 1))
            with np.errstate(invalid="ignore", divide="ignore"):
                axis.plot(episodes, total / chosen, style, color=colour(c), lw=1.1, label=f"{role}: {place}")
    over_training(axis, ylabel="incentive each time an action is chosen")
