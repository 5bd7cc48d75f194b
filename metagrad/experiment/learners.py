"""The trainers of a run, and their evaluations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad.batch import below
from metagrad.checks import shown
from metagrad.experiment import size
from metagrad.experiment.config import ConfigError, Experiment
from metagrad.experiment.metrics import check_scores
from metagrad.trainer import Evaluator, Trainer

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Parts:
    """Trainers or evaluators whose tensors are saved with their numbers before the names."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how they go on, by name."""
        return {f"{i}/{name}": t for i, part in enumerate(self.parts) for name, t in part.tensors().items()}

    def load(self, tensors: dict[str, Tensor], dry: bool = False) -> None:
        """Go on from :meth:`tensors`, or only see whether they fit; nothing is changed if they do not."""
        own = [below(tensors, f"{i}/") for i in range(len(self.parts))]
        if sum(map(len, own)) < len(tensors):
            raise ValueError("there are more tensors than those of the run's seeds")
        for check in (True,) if dry else (True, False):
            for part, mine in zip(self.parts, own, strict=True):
                part.load(mine, dry=check)


class Evaluators(Parts):
    """Evaluations of all seeds."""

    def __call__(self) -> dict[str, np.ndarray]:
        """Scores of every seed."""
        scores = [part() for part in self.parts]
        return {name: np.concatenate([np.asarray(one[name], float) for one in scores]) for name in scores[0]}


def check_device(name: str) -> None:
    """Refuse a device that this machine cannot use."""
    try:
        torch.zeros(1, device=name).numpy(force=True)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


class Learners(Parts):
    """The trainers of a run: one for all seeds side by side, or one a seed where networks do not stack."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, run = experiment, experiment.run
        torch.set_num_threads(min(run.threads, os.cpu_count() or 1))
        if getattr(experiment.designer, "pooled", False) and size.alone(experiment):
            raise ConfigError(
                "designer.pooled must be false: these networks do not stack, so each seed trains by itself"
            )
        groups = [(seed,) for seed in run.seeds] if size.alone(experiment) else [run.seeds]
        check_device(run.device)
        try:
            size.check(experiment)
            self.trainers = [self._trainer(seeds) for seeds in groups]
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(f"this run is too large for the memory: {str(error).splitlines()[0]}") from error
        except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ConfigError(f"these parts do not go together: {type(error).__name__}: {error}") from error
        super().__init__(self.trainers)
        self.notes: dict[str, np.ndarray] = {}

    def _trainer(self, seeds: tuple[int, ...]) -> Trainer:
        e, run = self.experiment, self.experiment.run
        return Trainer(
            e.task, e.agents, e.designer, seeds=seeds, k=run.k, agent_batches=run.agent_batches, pipeline=run.pipeline,
            device=run.device, dtype=DTYPES[run.dtype], threads=None,
        )  # fmt: skip

    @property
    def episode(self) -> int:
        """Training episodes of each seed so far."""
        return self.trainers[0].state.episodes

    @property
    def iteration(self) -> int:
        """Iterations so far."""
        return self.trainers[0].state.iteration

    def next_episode(self) -> int:
        """Training episodes of each seed after one more iteration."""
        t = self.trainers[0]
        batches = (t.agent_batches - 1) + (t.state.pending is None) + (t.designer.validation != "none")
        return t.state.episodes + t.k * batches

    def iterate(self, diagnose: bool) -> None:
        """One iteration of every seed; ``diagnose`` asks for notes on the designer's gradient."""
        notes = [t.iterate(diagnose) for t in self.trainers]
        if diagnose:
            self.notes = {n: np.concatenate([one[n].double().cpu().numpy() for one in notes]) for n in notes[0]}

    def diverged(self) -> np.ndarray:
        """Whether anything that a seed has learned is no longer finite, bool ``[S]``."""
        return np.concatenate([t.diverged() for t in self.trainers])

    def check_scores(self) -> None:
        """Refuse a task whose scores cannot be written, seen on one batch; nothing is changed."""
        task = self.experiment.task
        try:
            check_scores(task, task.scores(self.trainers[0].sample()), 1)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ConfigError(f"{task.name} gives no scores: {type(error).__name__}: {error}") from error

    def evaluators(self, phase: str, episodes: int) -> Evaluators:
        """Fresh episodes for scoring."""
        return Evaluators([Evaluator(t, phase, episodes) for t in self.trainers])

    def adopt(self, tensors: dict[str, Tensor], theirs: Experiment) -> None:
        """Start with the agents of another run, seed by seed."""
        seeds = theirs.run.seeds
        agents = dict(zip(seeds, _by_seed(tensors, len(seeds)), strict=True))
        missing = [seed for seed in self.experiment.run.seeds if seed not in agents]
        if missing:
            raise ConfigError(f"it has no agents of seed {missing[0]}, but of seeds {shown(list(seeds))}")
        for t in self.trainers:
            t.adopt(_side_by_side([agents[seed] for seed in t.seeds]))


def _by_seed(tensors: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """The agents of each of ``n`` seeds, be they of one trainer for all or of one each."""
    agents = {name: t for name, t in tensors.items() if name.partition("/")[2].startswith("agents/")}
    if any(name.startswith("1/") for name in agents):
        return [below(agents, f"{i}/") for i in range(n)]
    stacked = {name: t.chunk(n) if t.dim() else (t,) * n for name, t in below(agents, "0/").items()}
    for name, parts in stacked.items():
        if len({part.shape for part in parts}) > 1 or len(parts) < n:
            raise ValueError(f"{name} is not of {n} seeds")
    return [{name: parts[i] for name, parts in stacked.items()} for i in range(n)]


def _side_by_side(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The agents of one trainer from those of its seeds; counts are the same for all."""
    names = set.intersection(*(set(part) for part in parts))
    return {n: torch.cat([p[n] for p in parts]) if parts[0][n].dim() else parts[0][n] for n in sorted(names)}
