"""What the games' figures share: curves over training with bands over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Metrics = dict[str, np.ndarray]
#: Columns of metrics.csv before the scores.
COLUMNS = ("seed", "episode", "iteration", "env_steps", "wall_time", "diverged")
Runs = Sequence[tuple[Any, str, Metrics]]  # experiment, label, columns of metrics.csv


def by_seed(metrics: Metrics, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Episodes ``[E]`` and a column by seed ``[S, E]``, as far as all seeds have come."""
    seeds = np.unique(metrics["seed"])
    rows = [metrics["seed"] == seed for seed in seeds]
    n = min(int(row.sum()) for row in rows)
    return metrics["episode"][rows[0]][:n], np.stack([metrics[name][row][:n] for row in rows])


def at_end(metrics: Metrics, name: str) -> np.ndarray:
    """A column's mean over the last tenth of the evaluations, by seed."""
    values = by_seed(metrics, name)[1]
    return values[:, -max(1, values.shape[1] // 10) :].mean(1)


def numbered(metrics: Metrics, prefix: str) -> list[str]:
    """Columns that are called ``prefix`` and a number, in order."""
    found = [c for c in metrics if c.startswith(prefix) and c[len(prefix) :].isdigit()]
    return sorted(found, key=lambda c: int(c[len(prefix) :]))


def all_at_end(metrics: Metrics, prefix: str) -> np.ndarray:
    """:func:`at_end` of all numbered columns, ``[n, S]``."""
    return np.array([at_end(metrics, name) for name in numbered(metrics, prefix)])


def band(axis: Any, episodes: np.ndarray, values: np.ndarray, label: str, **options: Any) -> None:
    """Mean over seeds, with its standard error as a band where there are several."""
    mean = values.mean(0)
    (line,) = axis.plot(episodes, mean, lw=1.5, label=label, marker="." if len(episodes) == 1 else None, **options)
    if len(values) > 1:
        error = values.std(0, ddof=1) / len(values) ** 0.5
        axis.fill_between(episodes, mean - error, mean + error, alpha=0.2, color=line.get_color(), lw=0)


def limits(axis: Any, bounds: dict[str, float]) -> None:
    """Lines at what is known of the best possible score."""
    for (name, value), style in zip(bounds.items(), (":", "--", "-."), strict=False):
        axis.axhline(value, color="grey", ls=style, lw=1, label=f"bound, {name}: {value:g}")


def words(name: str) -> str:
    """A score's name in words."""
    return name.replace("_", " ")


def curves(figure: Any, runs: Runs) -> None:
    """Every score over training, one panel each."""
    task = runs[0][0].task
    names = [n for n in (task.fields or [c for c in runs[0][2] if c not in COLUMNS]) if n in runs[0][2]][:4]
    figure.set_size_inches(5 * len(names), 4.4)
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for _, label, metrics in runs:
            band(axis, *by_seed(metrics, name), label)
        axis.set(title=words(name), xlabel="episodes", ylabel=words(name))
        if name == names[0]:
            limits(axis, task.bounds())
            axis.legend(fontsize=8)
