"""Figures of runs on Gather-Trade-Build, after the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metagrad.tasks.figures import Runs, all_at_end, at_end, band, by_seed, numbered, words

_BARS = (
    (("gathered",), "units gathered"),
    (("build_income",), "income from building"),
    (("trade_income",), "income from trade"),
    (("income", "tax", "net_tax"), "income, tax, tax less rebate"),
)


def draw(figure: Any, runs: Runs) -> None:
    """Draw a page on one run, or on several: training, rates, who earns and pays, and the frontier."""
    axes = figure.subplots(3, 4)
    figure.set_size_inches(19, 12)
    for axis, name in zip(axes[0], ("welfare", "productivity", "equality", "houses"), strict=True):
        for _, label, metrics in runs:
            band(axis, *by_seed(metrics, name), label)
        axis.set(title=f"{name} at the end of an episode", xlabel="episodes")
    axes[0, 0].legend(fontsize=8)
    _rates(axes[1, 0], runs)
    _rates_over_training(axes[1, 1], runs)
    _frontier(axes[1, 2], runs)
    _by_rank(axes[1, 3], runs, ("coin",), "coin at the end")
    for axis, (names, title) in zip(axes[2], _BARS, strict=True):
        _by_rank(axis, runs, names, title)


def _rates(axis: Any, runs: Runs) -> None:
    """Rates by bracket at the end, every seed (figures 3, 5, 9 of the paper)."""
    for i, (_, label, metrics) in enumerate(runs):
        for s, rates in enumerate(all_at_end(metrics, "rate_").T):
            named = label if s == 0 else None
            axis.step(range(len(rates)), rates, where="mid", color=f"C{i}", alpha=0.7, lw=1.2, label=named)
    axis.set(title="rates by bracket at the end", xlabel="bracket", ylim=(-0.02, 1.02))


def _rates_over_training(axis: Any, runs: Runs) -> None:
    """Mean rates of the three lowest brackets, which incomes reach."""
    for i, (_, _, metrics) in enumerate(runs):
        for name, style in zip(numbered(metrics, "rate_")[:3], ("-", "--", ":"), strict=False):
            episodes, values = by_seed(metrics, name)
            named = f"bracket {name.removeprefix('rate_')}" if i == 0 else None
            axis.plot(episodes, values.mean(0), style, color=f"C{i}", lw=1.1, label=named)
    axis.set(title="rates of the lowest brackets", xlabel="episodes", ylim=(-0.02, 1.02))
    axis.legend(fontsize=7)


def _frontier(axis: Any, runs: Runs) -> None:
    """Productivity against equality, every seed, with lines of equal welfare."""
    for i, (_, label, metrics) in enumerate(runs):
        axis.scatter(at_end(metrics, "equality"), at_end(metrics, "productivity"), color=f"C{i}", label=label)
    low, high = axis.get_xlim()
    equality, limits = np.linspace(max(low, 0.05), high, 50), axis.get_ylim()
    n_agents = len(numbered(runs[0][2], "coin_rank_"))
    for level in range(10, 200, 10):
        axis.plot(equality, level * n_agents / equality, color="grey", lw=0.4)
    axis.set(title="productivity and equality (grey: equal welfare)", xlabel="equality", ylabel="productivity")
    axis.set_ylim(limits)


def _by_rank(axis: Any, runs: Runs, names: Sequence[str], title: str) -> None:
    """Bars by skill rank, from low to high (figures 4, 7 of the paper)."""
    groups = len(runs) * len(names)
    for i, (_, _, metrics) in enumerate(runs):
        for j, name in enumerate(names):
            values = all_at_end(metrics, f"{name}_rank_")
            place = np.arange(len(values)) + (i * len(names) + j - (groups - 1) / 2) * 0.8 / groups
            error = values.std(1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else None
            named = words(name) if i == 0 and len(names) > 1 else None
            axis.bar(
                place, values.mean(1), 0.8 / groups, yerr=error, color=f"C{i}", alpha=1 - 0.3 * j, label=named
            )  # fmt: skip
    axis.set(title=title, xlabel="skill rank, from low to high")
    if len(names) > 1:
        axis.legend(fontsize=7)
