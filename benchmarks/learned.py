"""Agents of the economy that have learned, for measurements on them."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from metagrad.experiment.config import Experiment
from metagrad.experiment.folder import RunError, read_experiment
from metagrad.experiment.run import agents_of, load_learners
from metagrad.optim import value_at
from metagrad.trainer import Trainer


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the run whose agents are taken, and the seed (by default its first)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int)
    return parser


def learned(options: argparse.Namespace) -> Experiment:
    """The run's experiment with that seed alone and the entropy bonus that it ended with."""
    torch.set_num_threads(1)
    theirs = read_experiment(options.run)
    if theirs.game != "gtb":
        raise RunError(f"{options.run} is not a run on the economy")
    seed = theirs.run.seeds[0] if options.seed is None else options.seed
    agents = replace(theirs.agents, entropy=value_at(theirs.agents.entropy, theirs.run.episodes))
    return replace(theirs, agents=agents, run=replace(theirs.run, seeds=(seed,)))


def with_agents(e: Experiment, run: Path) -> Trainer:
    """A trainer of ``e`` with the agents of the run."""
    source = load_learners(run)
    trainer = Trainer(e.task, e.agents, e.designer, seeds=e.run.seeds, k=e.run.k, pipeline=e.run.pipeline)
    trainer.adopt(agents_of(e.run.seeds, source.tensors(), source.experiment))
    return trainer
