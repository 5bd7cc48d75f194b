"""Figures of runs on Gather-Trade-Build, after the published ones."""

from __future__ import annotations

from functools import partial
from textwrap import shorten
from typing import Any

import numpy as np

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
    number_ticks,
    numbered,
    over_training,
    rates,
)

#: Scores over training, and accounts of an episode by skill rank, with their units.
_CURVES = {
    "welfare": "coin", "productivity": "coin", "equality": "1 - Gini", "houses": "number built",
    "trades": "an episode",
}  # fmt: skip
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
        "rates": partial(rates, runs=runs),
        "lowest_rates": partial(_lowest_rates, runs=runs),
        "schedules": partial(_schedules, runs=runs),
        "frontier": partial(_frontier, runs=runs),
        **{name: partial(_by_rank, runs=runs, name=name, text=text) for name, text in _BY_RANK.items()},
        "income_after": partial(
            _by_rank, runs=runs, name="income", text="income after tax and rebate (coin an episode)", less="net_tax"
        ),
    }


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
    over_training(axis, ylabel="rate, lowest three brackets", ylim=(-0.02, 1.02))


def _schedules(axis: Any, runs: Runs) -> None:
    """Schedules of the first run after a hundredth, a twentieth and so on of its training, mean over seeds."""
    _, label, metrics = runs[0]
    names = numbered(metrics, "rate_")
    values = [by_seed(metrics, name) for name in names]
    episodes = values[0][0]
    places = np.searchsorted(episodes, [share * episodes[-1] for share in (0.01, 0.05, 0.25, 1.0)])
    for i, at in enumerate(np.unique(np.minimum(places, len(episodes) - 1))):
        episode = f"episode {episodes[at]:,.0f}"
        axis.plot([rate[:, at].mean() for _, rate in values], label=episode, marker=MARKERS[i], ms=3, **line(i))
    axis.set(
        xlabel="bracket, from low to high",
        ylabel="rate, " + shorten(label, 60),
        ylim=(-0.02, 1.02),
    )
    number_ticks(axis, len(names))


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
    axis.set(xlabel="equality (1 - Gini)", ylabel="productivity (coin)")
    axis.set_ylim(limits)


def _by_rank(axis: Any, runs: Runs, name: str, text: str, less: str = "") -> None:
    """An account by skill rank, from low to high, or what another leaves of it (figures 4, 7 of the paper)."""
    for i, (*_, metrics) in enumerate(runs):
        values = all_at_end(metrics, f"{name}_rank_")
        if less:
            values = values - all_at_end(metrics, f"{less}_rank_")
        place = np.arange(len(values)) + (i - (len(runs) - 1) / 2) * 0.8 / len(runs)
        yerr = error(values) if values.shape[1] > 1 else None
        axis.bar(place, values.mean(1), 0.8 / len(runs), yerr=yerr, error_kw={"lw": 0.8}, **bars(i))
    axis.axhline(0, color="black", lw=0.6)
    axis.set(xlabel="skill rank, from low to high", ylabel=text)
    number_ticks(axis, len(values))
