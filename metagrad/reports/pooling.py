"""Runs of one configuration whose seeds lie in several folders, as one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from metagrad.experiment.config import ConfigError, Experiment
from metagrad.experiment.folder import RunError, read_experiment

#: What of a run may differ between folders.
_OWN: dict[str, Any] = {"seeds": (0,), "init_from": None, "device": "cpu", "threads": 1}


def groups(experiments: Sequence[Experiment]) -> list[list[int]]:
    """Which of some runs differ in their seeds alone, by their numbers; runs that share a seed stay apart."""
    found: list[tuple[Any, list[int], set[int]]] = []
    for i, experiment in enumerate(experiments):
        mine, seeds = _but_seeds(experiment), set(experiment.run.seeds)
        for theirs, members, taken in found:
            if _alike(mine, theirs) and not seeds & taken:
                members.append(i)
                taken |= seeds
                break
        else:
            found.append((mine, [i], seeds))
    return [members for _, members, _ in found]


def joined(experiments: Sequence[Experiment]) -> Experiment:
    """One experiment with the seeds of all."""
    seeds = tuple(seed for experiment in experiments for seed in experiment.run.seeds)
    return replace(experiments[0], run=replace(experiments[0].run, seeds=seeds))


def ranges(seeds: Sequence[int]) -> str:
    """Seeds in order, with those between left out: ``12340..12345``."""
    runs = [[seed for _, seed in run] for _, run in groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _but_seeds(experiment: Experiment) -> tuple[Experiment, Any]:
    """What a run is whatever its seeds and its machine, and what that is whose agents it began with, if it is there."""
    source: Any = experiment.run.init_from
    if source:
        try:
            source = _but_seeds(read_experiment(Path(source)))
        except (RunError, ConfigError, OSError):
            source = "unknown"
    return replace(experiment, run=replace(experiment.run, **_OWN)), source


def _alike(mine: Any, theirs: Any) -> bool:
    """Whether two such are the same; agents that are not there any more may have been any."""
    (experiment, source), (other, others) = mine, theirs
    if experiment != other or (source is None) != (others is None):
        return False
    return not (isinstance(source, tuple) and isinstance(others, tuple)) or _alike(source, others)
