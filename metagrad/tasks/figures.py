"""What the games' figures share: how runs look, and panels of scores over training and at its end, over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

Metrics = dict[str, np.ndarray]
#: Columns of metrics.csv before the scores.
COLUMNS = ("seed", "episode", "iteration", "env_steps", "wall_time", "diverged")
#: The column with the entropy of the agents' policies.
ENTROPY = "policy_entropy"
Runs = Sequence[tuple[Any, str, Metrics]]  # experiment, label, columns of metrics.csv
#: The panels of a figure by name: each draws on a matplotlib axis.
Panels = dict[str, Callable[[Any], None]]

#: Colours that the colour-blind tell apart (Okabe and Ito, 2008, without yellow); runs differ in lines, markers and
#: hatches too, for those who print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#E69F00", "#CC79A7", "#56B4E9")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv*P"
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++")
#: Points of a curve at most; those of a longer one are means of neighbours.
POINTS = 200
#: What the panels show, as said below every figure.
MEANING = (
    "bands and error bars: mean ± standard error; rates, bars and points: mean of the last tenth of the evaluations"
)


def colour(i: int) -> str:
    """Colour of run ``i``."""
    return COLOURS[i % len(COLOURS)]


def line(i: int) -> dict[str, Any]:
    """How curves of run ``i`` look."""
    return {"color": colour(i), "linestyle": LINES[(i + i // len(COLOURS)) % len(LINES)], "lw": 1.4}


def bars(i: int) -> dict[str, Any]:
    """How bars of run ``i`` look."""
    return {"facecolor": colour(i), "edgecolor": "white", "hatch": HATCHES[i % len(HATCHES)], "lw": 0}


# ---------------------------------------------------------------------- numbers of a run


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


def error(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Standard error over seeds, 0 where there is one."""
    n = values.shape[axis]
    return values.std(axis, ddof=1) / n**0.5 if n > 1 else np.zeros_like(values.sum(axis))


def words(name: str) -> str:
    """A score's name in words."""
    return name.replace("_", " ")


# ---------------------------------------------------------------------- parts of a panel


def band(axis: Any, episodes: np.ndarray, values: np.ndarray, i: int, label: str | None = None) -> None:
    """Mean over seeds of values ``[S, E]`` as the curve of run ``i``, with its standard error as a band."""
    parts = min(POINTS, len(episodes))
    cuts = np.arange(parts) * len(episodes) // parts
    counts = np.diff([*cuts, len(episodes)])
    episodes, values = np.add.reduceat(episodes, cuts) / counts, np.add.reduceat(values, cuts, axis=1) / counts
    mean, width = values.mean(0), error(values, 0)
    axis.plot(episodes, mean, label=label, marker="." if parts == 1 else None, **line(i))
    if len(values) > 1:
        axis.fill_between(episodes, mean - width, mean + width, alpha=0.2, color=colour(i), lw=0)


def over_training(axis: Any, **labels: Any) -> None:
    """Label an axis of training episodes, thousands as k, and whatever else is named."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axis.set(xlabel="training episodes", **labels)
    axis.xaxis.set(major_locator=MaxNLocator(5, integer=True), major_formatter=EngFormatter(sep=""))


def number_ticks(axis: Any, n: int) -> None:
    """Ticks at 0 to n - 1, numbered from 1 on: all up to ten, of more every second or so, that they keep apart."""
    every = -(-n // 10)
    places = range(every - 1, n, every)
    axis.set_xticks(places, [place + 1 for place in places])


def curve(axis: Any, runs: Runs, name: str, unit: str, bounds: dict[str, float]) -> None:
    """A score over training, with lines at what is known of the best possible."""
    for i, (*_, metrics) in enumerate(runs):
        episodes, values = by_seed(metrics, name)
        band(axis, episodes, values, i)
        if len(runs) == 1 and len(values) > 1:
            axis.plot(episodes, values.T, color=colour(i), lw=0.4, alpha=0.5)
    for (text, value), style in zip(bounds.items(), ((0, (1, 2)), (0, (4, 2)), (0, (6, 2, 1, 2))), strict=False):
        axis.axhline(value, color="0.5", ls=style, lw=0.8, label=f"bound, {text}: {value:g}")
    over_training(axis, ylabel=f"{words(name)} ({unit})" if unit else words(name))


def curves(runs: Runs, units: dict[str, str] | None = None) -> Panels:
    """Panels of scores over training: those with ``units``, or all that the task shows; bounds are the first one's.

    The last one is the entropy of the agents' policies.
    """
    task = runs[0][0].task
    shown = units or dict.fromkeys(task.fields or [c for c in runs[0][2] if c not in COLUMNS], "")
    shown = {**shown, ENTROPY: shown.get(ENTROPY, "nats")}
    known = {name: unit for name, unit in shown.items() if all(name in metrics for *_, metrics in runs)}
    return {
        name: partial(curve, runs=runs, name=name, unit=unit, bounds={} if i else task.bounds())
        for i, (name, unit) in enumerate(known.items())
    }


def rates(axis: Any, runs: Runs) -> None:
    """Marginal rates at the end over the income of a tax period, of games with brackets (``task.cutoffs``)."""
    edges = [np.asarray(experiment.task.cutoffs) for experiment, *_ in runs]
    top = 1.5 * max(cutoffs[-1] for cutoffs in edges)
    for i, (cutoffs, (*_, metrics)) in enumerate(zip(edges, runs, strict=True)):
        last = all_at_end(metrics, "rate_")
        mean, width = ([*values, values[-1]] for values in (last.mean(1), error(last)))
        axis.step([*cutoffs, top], mean, where="post", **line(i))
        low, high = np.subtract(mean, width), np.add(mean, width)
        axis.fill_between([*cutoffs, top], low, high, step="post", alpha=0.2, color=colour(i), lw=0)
    ticks = [*edges[0], top]
    axis.set_xscale("symlog", linthresh=ticks[1], linscale=0.6)
    axis.set_xticks(ticks[:-1], [f"{a:.3g}" if b > 1.4 * a else "" for a, b in itertools.pairwise(ticks)])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="income of a tax period (coin, log)", ylabel="marginal tax rate", xlim=(0, top), ylim=(-0.02, 1.02))


def said(runs: Runs) -> str:
    """What bands and bars of a figure are, over how many seeds."""
    counts = sorted({len(np.unique(metrics["seed"])) for *_, metrics in runs})
    if counts == [1]:
        return "one seed" + (" each" if len(runs) > 1 else "")
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"{seeds} each; {MEANING}" if len(runs) > 1 else f"{seeds} (thin lines); {MEANING}"
