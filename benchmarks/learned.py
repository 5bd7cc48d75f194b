"""Agents of the economy that have learned, for measurements on them."""

import argparse
from dataclasses import replace
from pathlib import Path

from metagrad import Experiment
from metagrad.experiment.folder import RunError, read_experiment
from metagrad.experiment.learners import Learners
from metagrad.experiment.run import load_learners
from metagrad.optim import value_at


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the run whose agents are taken, and the seed (by default its first)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int)
    return parser


def economy_of(run: Path) -> Experiment:
    """The experiment of a run on the economy, with one thread and the entropy bonus that it ended with."""
    theirs = read_experiment(run)
    if theirs.game != "gtb":
        raise RunError(f"{run} is not a run on the economy")
    agents = replace(theirs.agents, entropy=value_at(theirs.agents.entropy, theirs.run.episodes))
    return replace(theirs, agents=agents, run=replace(theirs.run, threads=1, init_from=None))


def learned_experiment(options: argparse.Namespace) -> Experiment:
    """The same with one seed alone."""
    theirs = economy_of(options.run)
    seed = theirs.run.seeds[0] if options.seed is None else options.seed
    return replace(theirs, run=replace(theirs.run, seeds=(seed,)))


def with_agents(experiment: Experiment, run: Path) -> Learners:
    """Learners of ``experiment`` with the agents of the run."""
    theirs = load_learners(run)
    learners = Learners(experiment)
    learners.adopt(theirs.tensors(), theirs.experiment)
    return learners
