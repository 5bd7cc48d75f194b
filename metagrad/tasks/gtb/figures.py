"""Figures of runs on Gather-Trade-Build, after the published ones, and frames of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastenvs.render import AGENT_COLOURS

Columns = dict[str, np.ndarray]
#: A run's label and the columns of its metrics.csv.
Run = tuple[str, Columns]

#: Share of a run's evaluations, the last ones, that stand for its end.
_TAIL = 0.1
_BARS = (
    (("gathered",), "units gathered"),
    (("build_income",), "income from building"),
    (("trade_income",), "income from trade"),
    (("income", "tax", "net_tax"), "income, tax, tax less rebate"),
)


def draw(figure: Any, runs: Sequence[Run]) -> None:
    """A page on one run, or a comparison of several: training, rates, who earns and pays, and the frontier."""
    axes = figure.subplots(3, 4)
    figure.set_size_inches(19, 12)
    for axis, name in zip(axes[0], ("welfare", "productivity", "equality", "houses"), strict=True):
        for label, columns in runs:
            _band(axis, *_by_seed(columns, name), label)
        axis.set(title=f"{name} at the end of an episode", xlabel="episodes")
    axes[0, 0].legend(fontsize=8)
    _rates(axes[1, 0], runs)
    _rates_over_training(axes[1, 1], runs)
    _frontier(axes[1, 2], runs)
    _by_rank(axes[1, 3], runs, ("coin",), "coin at the end")
    for axis, (names, title) in zip(axes[2], _BARS, strict=True):
        _by_rank(axis, runs, names, title)


def _by_seed(columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Episodes ``[E]`` and a column ``[S, E]``."""
    seeds = np.unique(columns["seed"])
    rows = [columns[name][columns["seed"] == s] for s in seeds]
    n = min(map(len, rows))
    return columns["episode"][columns["seed"] == seeds[0]][:n], np.array([row[:n] for row in rows])


def _at_end(columns: Columns, name: str) -> np.ndarray:
    """Mean of the last evaluations, ``[S]``."""
    values = _by_seed(columns, name)[1]
    return values[:, -max(1, int(_TAIL * values.shape[1])) :].mean(1)


def _band(axis: Any, episodes: np.ndarray, values: np.ndarray, label: str) -> None:
    """Mean over seeds and its standard error."""
    mean = values.mean(0)
    (line,) = axis.plot(episodes, mean, lw=1.4, marker="." if len(episodes) == 1 else None, label=label)
    if len(values) > 1:
        error = values.std(0, ddof=1) / len(values) ** 0.5
        axis.fill_between(episodes, mean - error, mean + error, alpha=0.25, color=line.get_color(), lw=0)


def _numbered(columns: Columns, prefix: str) -> list[str]:
    found = [c for c in columns if c.startswith(prefix) and c[len(prefix) :].isdigit()]
    return sorted(found, key=lambda c: int(c[len(prefix) :]))


def _rates(axis: Any, runs: Sequence[Run]) -> None:
    """Rates by bracket at the end, every seed (figures 3, 5, 9 of the paper)."""
    for i, (label, columns) in enumerate(runs):
        names = _numbered(columns, "rate_")
        values = np.array([_at_end(columns, name) for name in names])
        for s, rates in enumerate(values.T):
            named = label if s == 0 else None
            axis.step(range(len(names)), rates, where="mid", color=f"C{i}", alpha=0.7, lw=1.2, label=named)
    axis.set(title="rates by bracket at the end", xlabel="bracket", ylim=(-0.02, 1.02))


def _rates_over_training(axis: Any, runs: Sequence[Run]) -> None:
    """Mean rates of the three lowest brackets, which incomes reach."""
    for i, (_, columns) in enumerate(runs):
        for name, style in zip(_numbered(columns, "rate_")[:3], ("-", "--", ":"), strict=False):
            episodes, values = _by_seed(columns, name)
            named = f"bracket {name.removeprefix('rate_')}" if i == 0 else None
            axis.plot(episodes, values.mean(0), style, color=f"C{i}", lw=1.1, label=named)
    axis.set(title="rates of the lowest brackets", xlabel="episodes", ylim=(-0.02, 1.02))
    axis.legend(fontsize=7)


def _frontier(axis: Any, runs: Sequence[Run]) -> None:
    """Productivity against equality, every seed, with lines of equal welfare."""
    for i, (label, columns) in enumerate(runs):
        axis.scatter(_at_end(columns, "equality"), _at_end(columns, "productivity"), color=f"C{i}", label=label)
    low, high = axis.get_xlim()
    equality, limits = np.linspace(max(low, 0.05), high, 50), axis.get_ylim()
    n_agents = len(_numbered(runs[0][1], "coin_rank_"))
    for level in range(10, 200, 10):
        axis.plot(equality, level * n_agents / equality, color="grey", lw=0.4)
    axis.set(title="productivity and equality (grey: equal welfare)", xlabel="equality", ylabel="productivity")
    axis.set_ylim(limits)


def _by_rank(axis: Any, runs: Sequence[Run], names: Sequence[str], title: str) -> None:
    """Bars by skill rank, from low to high (figures 4, 7 of the paper)."""
    groups = len(runs) * len(names)
    for i, (_, columns) in enumerate(runs):
        for j, name in enumerate(names):
            ranks = _numbered(columns, f"{name}_rank_")
            values = np.array([_at_end(columns, c) for c in ranks])
            place = np.arange(len(ranks)) + (i * len(names) + j - (groups - 1) / 2) * 0.8 / groups
            error = values.std(1, ddof=1) / values.shape[1] ** 0.5 if values.shape[1] > 1 else None
            named = name.replace("_", " ") if i == 0 and len(names) > 1 else None
            axis.bar(
                place, values.mean(1), 0.8 / groups, yerr=error, color=f"C{i}", alpha=1 - 0.3 * j, label=named
            )  # fmt: skip
    axis.set(title=title, xlabel="skill rank, from low to high")
    if len(names) > 1:
        axis.legend(fontsize=7)


# ---------------------------------------------------------------------- an episode as pictures


def frame(figure: Any, env: Any) -> np.ndarray:
    """The first copy of an economy as it stands, uint8 ``[h, w, 3]``.

    Map, order books, tax schedule, and what the agents have.

    Parameters
    ----------
    figure : matplotlib Figure
        What is drawn on; cleared first.
    env : GatherTradeBuild
        The economy.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.clear()
    figure.set_size_inches(11, 6.4)
    (world, stone, wood), (schedule, held, income) = figure.subplots(2, 3)
    s = env.state
    world.imshow(env.render(0, 16))
    world.set_axis_off()
    total, equality = s.events.productivity[0], s.events.equality[0]
    world.set_title(f"step {s.clock.time[0]}: coin {total:.0f}, equality {equality:.2f}", fontsize=10)
    for axis, good, name in ((stone, 0, "stone"), (wood, 1, "wood")):
        _book(axis, s.books.depth[0].reshape(2, 2, -1)[:, good], name)
    _schedule(schedule, env)
    colours = AGENT_COLOURS[np.arange(env.n_agents) % len(AGENT_COLOURS)] / 255
    names, places = [f"{p:.0f}" for p in s.agents.pay[0]], range(env.n_agents)
    coin = s.agents.coin[0] + s.agents.escrow_coin[0]
    held.bar(places, coin, color=colours)
    held.set(title="coin", xlabel="coins that the agent gets for a house", xticks=list(places), xticklabels=names)
    income.bar(places, coin - s.taxes.last_coin[0], color=colours)
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


def _schedule(axis: Any, env: Any) -> None:
    edges, live = env.options.cutoffs, env.state.taxes.live[0]
    axis.step([*edges, edges[-1] * 1.2], [*live, live[-1]], where="post")
    left = env.options.tax_period - int(env.state.taxes.position[0]) + 1
    axis.set(ylim=(-0.02, 1.02), title=f"marginal rate (tax in {left} steps)", xlabel="income")
