"""Figures of runs on the economy, after the published ones (metagrad specification, 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from metagrad.legacy.config import EconomyConfig
from metagrad.legacy.log import method_label

Metrics = dict[str, np.ndarray]
Run = tuple[EconomyConfig, Metrics]

#: Rows of the last tenth of a run that stand for its end.
_TAIL = 0.1
_BARS = (
    (("gathered",), "units gathered"),
    (("build_income",), "income from building"),
    (("trade_income",), "income from trade"),
    (("income", "tax", "net_tax"), "income, tax, tax less rebate"),
)


def draw(runs: Sequence[Run]) -> Any:
    """A page on one run, or a comparison of several: training, rates, who earns and pays, and the frontier."""
    figure, axes = plt.subplots(3, 4, figsize=(19, 12), layout="constrained")
    for axis, name in zip(axes[0], ("welfare", "productivity", "equality", "houses"), strict=True):
        for config, metrics in runs:
            band(axis, *by_seed(metrics, name), method_label(config))
        axis.set(title=f"{name} at the end of an episode", xlabel="episodes")
    axes[0, 0].legend(fontsize=8)
    _rates(axes[1, 0], runs)
    _rates_over_training(axes[1, 1], runs)
    _frontier(axes[1, 2], runs)
    _coin(axes[1, 3], runs)
    for axis, (names, title) in zip(axes[2], _BARS, strict=True):
        _by_rank(axis, runs, names, title)
    return figure


def by_seed(metrics: Metrics, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Episodes ``[E]`` and a column ``[S, E]``."""
    seeds = np.unique(metrics["seed"])
    rows = [metrics[column][metrics["seed"] == s] for s in seeds]
    n = min(map(len, rows))
    return metrics["episode"][metrics["seed"] == seeds[0]][:n], np.array([row[:n] for row in rows])


def at_end(metrics: Metrics, column: str) -> np.ndarray:
    """Mean of the last tenth of the evaluations, ``[S]``."""
    values = by_seed(metrics, column)[1]
    return values[:, -max(1, int(_TAIL * values.shape[1])) :].mean(1)


def band(axis, episodes: np.ndarray, values: np.ndarray, name: str) -> None:
    """Mean over seeds and its standard error."""
    mean = values.mean(0)
    (line,) = axis.plot(episodes, mean, lw=1.4, marker="." if len(episodes) == 1 else None, label=name)
    if len(values) > 1:
        error = values.std(0, ddof=1) / len(values) ** 0.5
        axis.fill_between(episodes, mean - error, mean + error, alpha=0.25, color=line.get_color(), lw=0)


def _columns(metrics: Metrics, prefix: str) -> list[str]:
    return sorted(c for c in metrics if c.startswith(prefix) and c[len(prefix) :].isdigit())


def _rates(axis, runs: Sequence[Run]) -> None:
    """Rates by bracket at the end, every seed (figures 3, 5, 9)."""
    for i, (config, metrics) in enumerate(runs):
        names = _columns(metrics, "rate_")
        values = np.array([at_end(metrics, name) for name in names])
        for s in range(values.shape[1]):
            axis.step(
                range(len(names)), values[:, s], where="mid", color=f"C{i}", alpha=0.7, lw=1.2,
                label=method_label(config) if s == 0 else None,
            )  # fmt: skip
    axis.set(title="rates by bracket at the end", xlabel="bracket", ylim=(-0.02, 1.02))


def _rates_over_training(axis, runs: Sequence[Run]) -> None:
    """Mean rates of the three lowest brackets, which incomes reach."""
    for i, (_, metrics) in enumerate(runs):
        for name, style in zip(_columns(metrics, "rate_")[:3], ("-", "--", ":"), strict=False):
            episodes, values = by_seed(metrics, name)
            axis.plot(
                episodes, values.mean(0), style, color=f"C{i}", lw=1.1, label=f"bracket {name[5:]}" if i == 0 else None
            )
    axis.set(title="rates of the lowest brackets", xlabel="episodes", ylim=(-0.02, 1.02))
    axis.legend(fontsize=7)


def _frontier(axis, runs: Sequence[Run]) -> None:
    """Productivity against equality, every seed, with lines of equal welfare."""
    for i, (config, metrics) in enumerate(runs):
        axis.scatter(
            at_end(metrics, "equality"), at_end(metrics, "productivity"), color=f"C{i}", label=method_label(config)
        )
    low, high = axis.get_xlim()
    equality = np.linspace(max(low, 0.05), high, 50)
    n_agents = runs[0][0].game.n_agents
    limits = axis.get_ylim()
    for level in range(10, 200, 10):
        axis.plot(equality, level * n_agents / equality, color="grey", lw=0.4)
    axis.set(title="productivity and equality (grey: equal welfare)", xlabel="equality", ylabel="productivity")
    axis.set_ylim(limits)


def _coin(axis, runs: Sequence[Run]) -> None:
    _by_rank(axis, runs, ("coin",), "coin at the end")


def _by_rank(axis, runs: Sequence[Run], names: Sequence[str], title: str) -> None:
    """Bars by skill rank, from low to high (figures 4, 7)."""
    groups = len(runs) * len(names)
    for i, (_, metrics) in enumerate(runs):
        for j, name in enumerate(names):
            columns = _columns(metrics, f"{name}_rank_")
            values = np.array([at_end(metrics, c) for c in columns])
            place = np.arange(len(columns)) + (i * len(names) + j - (groups - 1) / 2) * 0.8 / groups
            error = values.std(1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else None
            axis.bar(
                place, values.mean(1), 0.8 / groups, yerr=error, color=f"C{i}", alpha=1 - 0.3 * j,
                label=name.replace("_", " ") if i == 0 and len(names) > 1 else None,
            )  # fmt: skip
    axis.set(title=title, xlabel="skill rank, from low to high")
    if len(names) > 1:
        axis.legend(fontsize=7)
