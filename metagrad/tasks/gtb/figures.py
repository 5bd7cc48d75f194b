"""Figures of runs on Gather-Trade-Build, after the published ones, and frames of an episode."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastenvs.render import AGENT_COLOURS
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
    rates,
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
        "rates": partial(rates, runs=runs),
        "lowest_rates": partial(_lowest_rates, runs=runs),
        "frontier": partial(_frontier, runs=runs),
        **{name: partial(_by_rank, runs=runs, name=name, text=text) for name, text in _BY_RANK.items()},
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


# ---------------------------------------------------------------------- an episode as pictures


def frame(env: Any, copy: int) -> np.ndarray:
    """Picture of one copy as it stands, uint8 ``[h, w, 3]``: map, order books, tax schedule, what the agents have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((11, 6.4), layout="constrained")
    (world, stone, wood), (schedule, held, income) = figure.subplots(2, 3)
    s = env.state
    world.imshow(env.render(copy, 16))
    world.set_axis_off()
    total, equality = s.events.productivity[copy], s.events.equality[copy]
    world.set_title(f"step {s.clock.time[copy]}: coin {total:.0f}, equality {equality:.2f}", fontsize=10)
    for axis, good, name in ((stone, 0, "stone"), (wood, 1, "wood")):
        _book(axis, s.books.depth[copy].reshape(2, 2, -1)[:, good], name)
    _schedule(schedule, env, copy)
    colours = AGENT_COLOURS[np.arange(env.n_agents) % len(AGENT_COLOURS)] / 255
    names, places = [f"{p:.0f}" for p in s.agents.pay[copy]], range(env.n_agents)
    coin = s.agents.coin[copy] + s.agents.escrow_coin[copy]
    held.bar(places, coin, color=colours)
    held.set(title="coin", xlabel="coins that the agent gets for a house", xticks=list(places), xticklabels=names)
    income.bar(places, coin - s.taxes.last_coin[copy], color=colours)
    income.set(title="income since the last tax day", xticks=list(places), xticklabels=names)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _book(axis: Any, depth: np.ndarray, good: str) -> None:
    """Open asks and bids by price."""
    asks, bids = depth
    prices = np.arange(len(asks))
    axis.barh(prices, -bids.astype(int), color="C2", label="bids")
    axis.barh(prices, asks, color="C3", label="asks")
    axis.set(xlim=(-8, 8), title=f"order book: {good}", ylabel="price")
    axis.legend(fontsize=7, loc="upper right")


def _schedule(axis: Any, env: Any, copy: int) -> None:
    edges, live = env.options.cutoffs, env.state.taxes.live[copy]
    axis.step([*edges, edges[-1] * 1.2], [*live, live[-1]], where="post")
    left = env.options.tax_period - int(env.state.taxes.position[copy]) + 1
    axis.set(ylim=(-0.02, 1.02), title=f"marginal rate (tax in {left} steps)", xlabel="income")
