"""One of the processes that train the same experiments: ``python tests/parallel.py OUT ITERATIONS FROM CASE...``.

What a checkpoint holds in the end, and how the agents score, is written to ``OUT/CASE.npz``; with another folder than
``-`` for ``FROM`` they go on from what is there.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from experiments import shrunk

import fastenvs
from metagrad import LinearCritic, MetaGradient, PolicyGradientAgents, VectorTask
from metagrad.agents.critics import Critic
from metagrad.designers import ByAction
from metagrad.experiment.registry import experiment
from metagrad.experiment.size import alone
from metagrad.metagradient import LastSteps
from metagrad.networks import MLP
from metagrad.optim import Adam
from metagrad.parallel import group
from metagrad.tasks.gtb import OwnedByRank, TaxSchedule
from metagrad.trainer import Trainer

K = 8


def designer(e, **options):
    return replace(e, designer=replace(e.designer, **options))


def agents(e, **options):
    return replace(e, agents=replace(e.agents, **options))


def run(e, **options):
    return replace(e, run=replace(e.run, **options))


def economy(method="metagrad"):
    e = experiment("gtb", None, method)
    return agents(shrunk(e), minibatches=3)


#: Every game with its methods, and what a method may be made of.
CASES = {
    "room_metagrad": lambda: experiment("escape-room", "er_5_2"),
    "room_adam": lambda: agents(experiment("escape-room", "er_2_1"), optimiser=Adam(0.01)),
    "room_no_cv": lambda: experiment("escape-room", "er_5_2", "metagrad-no-cv"),
    "room_three_steps": lambda: run(experiment("escape-room", "er_5_2"), agent_batches=3),
    "room_ppo": lambda: agents(experiment("escape-room", "er_5_2"), epochs=2, minibatches=3, normalise=True),
    "room_few_rows": lambda: agents(  # fewer than minibatches
        experiment("escape-room", "er_2_1"),
        minibatches=50,
        optimiser=Adam(0.01),
        normalise=True,
        reduction="rows",
        critic=Critic(MLP((5,)), Adam(0.01)),
        gae_lambda=0.9,
    ),
    "room_proximal": lambda: designer(experiment("escape-room", "er_5_2"), epochs=2),
    **{
        f"room_{method}": lambda method=method: experiment("escape-room", "er_5_2", method)
        for method in ("dual-rl-discrete", "dual-rl-continuous", "amd", "lio", "none")
    },
    "river_metagrad": lambda: shrunk(experiment("cleanup")),
    "river_dual": lambda: shrunk(experiment("cleanup", None, "dual-rl-continuous")),
    "river_cloned": lambda: designer(shrunk(experiment("cleanup")), agent_model="surrogate"),
    "economy_metagrad": economy,
    "economy_step": lambda: designer(economy(), path=LastSteps(1), critic=LinearCritic(OwnedByRank())),
    "economy_network": lambda: designer(economy(), incentive=TaxSchedule(MLP((6,))), path=LastSteps(1)),
    "economy_unbased": lambda: designer(economy(), incentive=TaxSchedule(baseline=False)),
    **{f"economy_{method}": lambda method=method: economy(method) for method in ("dual-rl", "saez", "metagrad-no-cv")},
    "own": lambda: own_game(),
}


def rooms(num_envs, seed=None):
    return fastenvs.make("escape_room", num_envs, n_agents=3, min_at_lever=2, seed=seed, autoreset="disabled")


def own_game():
    """A task of one's own, with a critic and normalised advantages; episodes end early."""
    task = VectorTask(rooms, horizon=5)
    critic = Critic(MLP((5,)), Adam(0.01))
    e = experiment("escape-room", "er_5_2")
    made = PolicyGradientAgents((6,), Adam(0.01), critic=critic, gae_lambda=0.9, normalise=True, reduction="rows")
    return replace(e, task=task, agents=made, designer=MetaGradient(ByAction(MLP((5,)))))


def trainer(case):
    e = CASES[case]()
    seeds = (3,) if alone(e) else (3, 4)
    run = {"agent_batches": e.run.agent_batches, "pipeline": e.run.pipeline}
    return Trainer(e.task, e.agents, e.designer, seeds=seeds, k=K, dtype=torch.float64, **run)


def learned(made):
    """What a trainer would save, and how its agents score."""
    scores = made.evaluate(8)
    state = {f"state/{name}": t.numpy() for name, t in made.tensors().items()}
    return state | {f"score/{name}": np.asarray(x) for name, x in scores.items()}


def main(out, iterations, cases, start=None):
    group.join()
    for case in cases:
        made = trainer(case)
        if start:
            saved = np.load(Path(start) / f"{case}.npz")
            made.load({n.removeprefix("state/"): torch.from_numpy(saved[n]) for n in saved if n.startswith("state/")})
        made.train(iterations)
        found = learned(made)
        if group.rank() == 0:
            np.savez(Path(out) / f"{case}.npz", **found)
    group.leave()


if __name__ == "__main__":
    folder, n, first, *names = sys.argv[1:]
    main(folder, int(n), names, None if first == "-" else first)
