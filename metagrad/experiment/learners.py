"""The trainers of a run, and their evaluations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad.batch import below
from metagrad.checks import shown
from metagrad.experiment import size
from metagrad.experiment.config import ConfigError, Experiment, place
from metagrad.experiment.metrics import check_scores
from metagrad.parallel import group
from metagrad.playing.place import COMMON, Place
from metagrad.trainer import Evaluator, Trainer

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Parts:
    """Trainers or evaluators whose tensors are saved with their numbers before the names.

    Parameters
    ----------
    parts : sequence
        Those of this process: one for all its seeds, or one each.
    whole : callable, optional
        One for all seeds of the run, of which other processes have some.
    """

    def __init__(self, parts: Sequence[Any], whole: Callable[[], Any] | None = None) -> None:
        self.parts = parts
        self._whole = {} if whole is None else {name: tuple(t.shape) for name, t in whole().tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how they go on, by name, for all seeds of the run; of its own for who follows."""
        mine = [part.tensors() for part in self.parts]
        if group.shares() > 1:  # torch cannot send tensors of all types
            sent = group.everyones([{name: t.numpy(force=True) for name, t in part.items()} for part in mine])
            found = [[{name: torch.from_numpy(x) for name, x in part.items()} for part in one] for one in sent]
        else:
            found = [mine]
        if self._whole:
            return {f"0/{name}": t for name, t in side_by_side([one for (one,) in found], self._whole).items()}
        return {f"{i}/{name}": t for i, part in enumerate(chain(*found)) for name, t in part.items()}

    def load(self, tensors: dict[str, Tensor], dry: bool = False) -> None:
        """Go on from :meth:`tensors`, or only see whether they fit; nothing is changed if they do not."""
        n = 1 if self._whole else len(self.parts) * group.shares()
        own = [below(tensors, f"{i}/") for i in range(n)]
        if sum(map(len, own)) < len(tensors):
            raise ValueError("there are more tensors than those of the run's seeds")
        own = [one_of(own[0], self.parts[0].tensors())] if self._whole else list(group.own(own))
        for check in (True,) if dry else (True, False):
            for part, mine in zip(self.parts, own, strict=True):
                part.load(mine, dry=check)


def by_seed(values: np.ndarray) -> np.ndarray:
    """An array with a row for each seed of this process, and of all others for the one that leads."""
    return np.concatenate(group.everyones(values))


class Evaluators(Parts):
    """Evaluations of all seeds."""

    def __call__(self) -> dict[str, np.ndarray]:
        """Scores of every seed."""
        scores = [part() for part in self.parts]
        return {name: by_seed(np.concatenate([np.asarray(one[name], float) for one in scores])) for name in scores[0]}


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Turn what goes wrong with the parts of a run into a reason."""
    try:
        yield
    except group.Parted:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(f"this run is too large for the memory: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ConfigError(f"{error}{place(error)}") from error
    except (RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"these parts do not go together: {type(error).__name__}: {error}{place(error)}") from error


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
        if experiment.designer.pooled and size.alone(experiment):
            raise ConfigError(
                "designer.pooled must be false: these networks do not stack, so each seed trains by itself"
            )
        seeds = tuple(group.own(run.seeds))
        groups = [(seed,) for seed in seeds] if size.alone(experiment) else [seeds]
        check_device(run.device)
        with _together():
            size.check(experiment)
            self.trainers = [self._trainer(seeds) for seeds in groups]
        self.stacked = group.shares() > 1 and not size.alone(experiment)
        super().__init__(self.trainers, (lambda: self._trainer(run.seeds)) if self.stacked else None)
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
        """One iteration of every seed; ``diagnose`` asks for notes on agents and designer."""
        notes = [t.iterate(diagnose) for t in self.trainers]
        if diagnose:
            self.notes = {
                n: by_seed(np.concatenate([one[n].double().cpu().numpy() for one in notes])) for n in notes[0]
            }

    def diverged(self) -> np.ndarray:
        """Whether anything that a seed has learned is no longer finite, bool ``[S]``."""
        return by_seed(np.concatenate([t.diverged() for t in self.trainers]))

    def env_steps(self) -> np.ndarray:
        """Environment steps of each seed so far, int64 ``[S]``."""
        return by_seed(np.concatenate([t.env_steps for t in self.trainers]))

    def trial(self) -> dict[str, np.ndarray]:
        """Scores of one seed after an iteration of its own; nothing is changed.

        Raises
        ------
        ConfigError
            If the parts do not go together, or the scores cannot be written.
        """
        task = self.experiment.task
        with _together():
            batch = self.trainers[0].trial()
        try:
            scores = task.scores(batch)
            check_scores(task, scores, 1)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ConfigError(f"{task.name} gives no scores: {type(error).__name__}: {error}{place(error)}") from error
        return scores

    def evaluators(self, phase: str, episodes: int) -> Evaluators:
        """Fresh episodes for scoring."""
        whole = (
            (lambda: Place(self.experiment.task, self.experiment.run.seeds, episodes, phase)) if self.stacked else None
        )
        return Evaluators([Evaluator(t, phase, episodes) for t in self.trainers], whole)

    def adopt(self, tensors: dict[str, Tensor], theirs: Experiment) -> None:
        """Start with the agents of another run, seed by seed."""
        seeds = theirs.run.seeds
        agents = dict(zip(seeds, _by_seed(tensors, len(seeds)), strict=True))
        missing = [seed for seed in self.experiment.run.seeds if seed not in agents]
        if missing:
            raise ConfigError(f"it has no agents of seed {missing[0]}, but of seeds {shown(list(seeds))}")
        for t in self.trainers:
            t.adopt(side_by_side([agents[seed] for seed in t.seeds]))


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


def side_by_side(parts: list[dict[str, Tensor]], whole: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """The tensors of one trainer from those of trainers with some of its seeds each; counts are the same for all.

    ``whole`` has the shapes that they come to, as far as they are known; seeds come first in all others.
    """
    names = set.intersection(*(set(part) for part in parts))
    found = {}
    for name in sorted(names):
        first = parts[0][name]
        axis = _seeds(first.shape, (whole or {}).get(name), name)
        found[name] = first if axis is None else torch.cat(_alike([part[name] for part in parts], axis, name), axis)
    return found


def _alike(parts: list[Tensor], axis: int, name: str) -> list[Tensor]:
    """Tensors of one length but for an axis: shorter batches are filled up as all are, by zeros or legal actions."""
    shape = [max(sizes) for sizes in zip(*(t.shape for t in parts), strict=True)]
    found = []
    for t in parts:
        shape[axis] = t.shape[axis]
        whole = t if list(t.shape) == shape else t.new_full(shape, name.endswith("/mask"))
        whole[tuple(slice(n) for n in t.shape)] = t
        found.append(whole)
    return found


def one_of(whole: dict[str, Tensor], mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """The share of this process of a trainer's tensors; ``mine`` has the shapes of what it holds now."""
    found = {}
    for name, t in whole.items():
        axis = _seeds(mine[name].shape if name in mine else t.shape, tuple(t.shape) if name in mine else None, name)
        if axis is not None:
            places = group.own(range(t.shape[axis]))
            t = t.narrow(axis, places[0], len(places)).contiguous()
        found[name] = t
    return found


def _seeds(part: Sequence[int], whole: Sequence[int] | None, name: str) -> int | None:
    """The axis along which trainers of some seeds each make one of all; None for what they have in common."""
    if whole is None:
        return None if not len(part) or 0 in part or name.removeprefix("env/") in COMMON else 0
    return next((axis for axis, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), None)
