"""Figures of runs on Gather-Trade-Build, after the published ones."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np

from fastenvs.gtb.config import make_options
from metagrad.tasks.figures import (
    MARKERS,
    Panels,
    Runs,
    all_at_end,
    at_end,
    bars,
    by_seed,
    colour,
    curves,
    error,
    line,
    numbered,
)

#: Scores over training, and accounts of an episode by skill rank, with their units.
_CURVES = {"welfare": "coin", "productivity": "coin, all agents", "equality": "1 - Gini", "houses": "number built"}
_BY_RANK = {
    "coin": "coin at the end (coin)", "gathered": "wood and stone gathered (units)",
    "build_income": "income from building (coin)", "trade_income": "income from trade (coin)",
    "income": "income (coin an episode)", "tax": "tax (coin an episode)",
    "net_tax": "tax less rebate (coin an episode)",
}  # fmt: skip


def panels(runs: Runs) -> Panels:
    """Panels of runs: training, rates, productivity and equality, and who earns and pays."""
    return {
        **curves(runs, _CURVES),
        "rates": partial(_rates, runs=runs),
        "lowest_rates": partial(_lowest_rates, runs=runs),
        "frontier": partial(_frontier, runs=runs),
        **{name: partial(_by_rank, runs=runs, name=name, text=text) for name, text in _BY_RANK.items()},
    }


def _rates(axis: Any, runs: Runs) -> None:
    """Marginal rates over the income of a tax period (figures 3, 5, 9 of the paper)."""
    cutoffs = [np.asarray(make_options("paper", **experiment.task.options()).cutoffs) for experiment, *_ in runs]
    top = 1.5 * max(edges[-1] for edges in cutoffs)
    for i, (edges, (*_, metrics)) in enumerate(zip(cutoffs, runs, strict=True)):
        rates = all_at_end(metrics, "rate_")
        mean, width = ([*values, values[-1]] for values in (rates.mean(1), error(rates)))
        axis.step([*edges, top], mean, where="post", **line(i))
        low, high = np.subtract(mean, width), np.add(mean, width)
        axis.fill_between([*edges, top], low, high, step="post", alpha=0.2, color=colour(i), lw=0)
    ticks = [*cutoffs[0], top]
    axis.set_xscale("symlog", linthresh=ticks[1], linscale=0.6)
    axis.set_xticks(ticks[:-1], [f"{a:.3g}" if b > 1.4 * a else "" for a, b in itertools.pairwise(ticks)])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="income of a tax period (coin, log)", ylabel="marginal tax rate", xlim=(0, top), ylim=(-0.02, 1.02))


def _lowest_rates(axis: Any, runs: Runs) -> None:
    """Rates of the three lowest brackets, which incomes reach, over training."""
    for i, (*_, metrics) in enumerate(runs):
        for j, name in enumerate(numbered(metrics, "rate_")[:3]):
            episodes, values = by_seed(metrics, name)
            named = f"bracket {j + 1}" if i == 0 else None
            every = max(1, len(episodes) // 6)
            axis.plot(
                episodes, values.mean(0), label=named, marker=MARKERS[j], ms=3, markevery=(j * every // 3, every),
                **line(i),
            )  # fmt: skip
    axis.set(xlabel="training episodes", ylabel="rate, lowest three brackets", ylim=(-0.02, 1.02))


def _frontier(axis: Any, runs: Runs) -> None:
    """Productivity against equality, every seed, with lines of equal welfare."""
    for i, (*_, metrics) in enumerate(runs):
        place = at_end(metrics, "equality"), at_end(metrics, "productivity")
        axis.scatter(*place, s=16, color=colour(i), marker=MARKERS[i % len(MARKERS)])
    low, high = axis.get_xlim()
    equality, limits = np.linspace(max(low, 0.05), high, 50), axis.get_ylim()
    n_agents = len(numbered(runs[0][2], "coin_rank_"))
    for level in range(10, 200, 10):
        named = "equal welfare" if level == 10 else None
        axis.plot(equality, level * n_agents / equality, color="0.6", lw=0.4, zorder=0, label=named)
    axis.set(xlabel="equality (1 - Gini)", ylabel="productivity (coin, all agents)")
    axis.set_ylim(limits)


def _by_rank(axis: Any, runs: Runs, name: str, text: str) -> None:
    """An account by skill rank, from low to high (figures 4, 7 of the paper)."""
    for i, (*_, metrics) in enumerate(runs):
        values = all_at_end(metrics, f"{name}_rank_")
        place = np.arange(len(values)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
        yerr = error(values) if values.shape[1] > 1 else None
        axis.bar(place, values.mean(1), 0.8 / len(runs), yerr=yerr, error_kw={"lw": 0.8}, **bars(i))
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlabel="skill rank, from low to high", ylabel=text, xticks=range(len(values)))
    axis.set_xticklabels(range(1, len(values) + 1))
