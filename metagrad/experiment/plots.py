"""Figures of finished and of running runs, and episodes as animations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastenvs.render import save_gif
from metagrad.experiment.config import Experiment
from metagrad.experiment.folder import read_experiment
from metagrad.experiment.learners import Learners
from metagrad.experiment.metrics import read_metrics
from metagrad.experiment.registry import starting_point
from metagrad.trainer import Evaluator


def plot_runs(folders: Sequence[Path], out: Path) -> Path:
    """Draw one run in detail, or several in one figure; returns the file.

    Raises
    ------
    ValueError
        If a run has no evaluation yet, or they are of different games.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    runs = [(e := read_experiment(f), label_of(e), read_metrics(f / "metrics.csv")) for f in folders]
    for folder, (*_, metrics) in zip(folders, runs, strict=True):
        if not metrics:
            raise ValueError(f"{folder} has no evaluation yet")
    if len({experiment.game for experiment, *_ in runs}) > 1:
        raise ValueError("runs on different games do not fit into one figure")
    figure = plt.figure(layout="constrained")
    temporary = out.with_name(f".part-{out.name}")
    try:
        runs[0][0].task.draw(figure, runs)
        figure.savefig(temporary, dpi=130)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
    return out


def label_of(experiment: Experiment) -> str:
    """The method, with the options that are other than where it started from."""
    base = starting_point(experiment)
    if base is None:
        return experiment.method
    changed = [
        text for name in ("task", "agents", "designer") for text in _changes(
            getattr(base, name), getattr(experiment, name), "" if name == "task" else f"{name}."
        )
    ]  # fmt: skip
    if experiment.run.k != base.run.k:
        changed.append(f"K = {experiment.run.k}")
    return f"{experiment.method} ({', '.join(changed)})" if changed else experiment.method


def _changes(base: Any, mine: Any, path: str) -> list[str]:
    if base == mine:
        return []
    if is_dataclass(mine) and type(base) is type(mine):
        parts = ((getattr(base, f.name), getattr(mine, f.name), f"{path}{f.name}.") for f in fields(mine))
        return [text for part in parts for text in _changes(*part)]
    return [f"{path.rstrip('.')} {_short(mine)}"]


def _short(value: Any) -> str:
    if is_dataclass(value):
        return type(value).__name__
    if isinstance(value, tuple):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Filmed:
    """A task that takes a picture of one copy after every step."""

    def __init__(self, task: Any, copy: int) -> None:
        self._task, self._copy = task, copy
        self.frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Record, and take the picture."""
        recorded = self._task.record(env, info)
        self.frames.append(self._task.frame(env, self._copy))
        return recorded


def replay(learners: Learners, out: Path, seed: int | None = None) -> Path:
    """Write a fresh episode of a seed's agents (the first one's by default) as a GIF; returns the file."""
    seeds = learners.experiment.run.seeds
    place = seeds.index(seeds[0] if seed is None else seed)
    stacked = len(learners.trainers) == 1
    trainer = learners.trainers[0 if stacked else place]
    evaluator = Evaluator(trainer, "test", 1)
    filmed = _Filmed(trainer.task, place if stacked else 0)
    trainer.task = filmed
    try:
        evaluator.play()
    finally:
        trainer.task = filmed._task
    save_gif(filmed.frames, out, 0.2)
    return out
