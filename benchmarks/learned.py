"""Agents of the economy that have learned, for measurements on them."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from metagrad.legacy import checkpoint
from metagrad.legacy.config import EconomyConfig
from metagrad.legacy.config import load as load_config
from metagrad.legacy.games import kit
from metagrad.legacy.run import RunError


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the run whose agents are taken, and the seed (by default its first)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int)
    return parser


def learned_config(options: argparse.Namespace) -> EconomyConfig:
    """The run's configuration with that seed alone and the entropy bonus that it ended with."""
    torch.set_num_threads(1)
    theirs = load_config(options.run / "config.json")
    if not isinstance(theirs, EconomyConfig):
        raise RunError(f"{options.run} is not a run on the economy")
    seed, a = theirs.seeds[0] if options.seed is None else options.seed, theirs.agents
    left = a.entropy + (a.entropy_end - a.entropy) * min(1.0, theirs.episodes / a.entropy_episodes)
    return replace(theirs, seeds=(seed,), agents=replace(a, entropy=left, entropy_end=left))


def with_agents(config: EconomyConfig, run: Path) -> Any:
    """A learner of ``config`` with the agents of the run."""
    learner = kit(config).learner(config)
    learner.adopt(*checkpoint.load(run / "checkpoints"), str(run))
    return learner
