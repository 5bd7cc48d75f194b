"""A task, an experiment and other things of a user's own, for the command line."""

from dataclasses import replace

import torch
from games import Lights

from metagrad import (
    MLP,
    ByAction,
    DualRL,
    IncentiveFunction,
    MetaGradient,
    NoDesigner,
    PolicyGradientAgents,
    SquashedGaussian,
    VectorTask,
    optim,
)
from metagrad.experiment.config import Experiment, RunOptions


def lights(num_envs, seed=None):
    return Lights(num_envs, seed)


def simple(num_envs, seed=None):
    return Lights(num_envs, seed, plain=True)


def subsidy(eta, batch):
    """Up to 1 for switching a light on."""
    return (batch.actions == 1) * eta["rate"].sigmoid()[:, None, None] * batch.alive[..., None]


def start(n):
    return {"rate": torch.zeros(n, 1)}


task = VectorTask(lights, 5)
plain = VectorTask(simple, 5)
RUN = RunOptions(
    seeds=(3, 4), target=0.5, episodes=41, k=4, eval_period=7, eval_episodes=2, test_episodes=3, checkpoint_period=9
)
experiment = Experiment(
    "own:experiment", "mine", "metagrad", task, PolicyGradientAgents((8,), optim.Adam(0.02)),
    MetaGradient(ByAction(MLP((8,)))), RUN,
)  # fmt: skip
number = 5
functions = replace(experiment, designer=MetaGradient(IncentiveFunction(subsidy, start)))
scattered = replace(experiment, run=replace(RUN, seeds=(3, 7, 42)))
alone = replace(experiment, method="none", designer=NoDesigner())
learner = replace(experiment, method="dual-rl", designer=DualRL(SquashedGaussian()))
endless = replace(experiment, run=replace(RUN, target=None))
