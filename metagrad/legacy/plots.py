"""Figures of finished and of running runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from metagrad.legacy.config import CleanupConfig, Config, EconomyConfig, load
from metagrad.legacy.evaluate import PLACES, bounds
from metagrad.legacy.log import method_label, read_metrics

mpl.use("Agg")
import matplotlib.pyplot as plt

from metagrad.legacy import cleanup_plots, economy_plots
from metagrad.legacy.economy_plots import band, by_seed

Metrics = dict[str, np.ndarray]


def plot_runs(folders: Sequence[Path], out: Path) -> Path:
    """One run: its designer return and incentives. Several: their designer returns in one figure.

    Raises
    ------
    ValueError
        If a run has no evaluation yet.
    """
    runs = [(load(f / "config.json"), read_metrics(f / "metrics.csv")) for f in folders]
    for folder, (_, metrics) in zip(folders, runs, strict=True):
        if not metrics:
            raise ValueError(f"{folder} has no evaluation yet")
    if len({type(config) for config, _ in runs}) > 1:
        raise ValueError("runs on different games do not fit into one figure")
    if isinstance(runs[0][0], CleanupConfig):
        cleanups: Any = runs
        figure = cleanup_plots.draw(cleanups)
    elif isinstance(runs[0][0], EconomyConfig):
        economies: Any = runs
        figure = economy_plots.draw(economies)
    else:
        rooms: Any = runs
        figure = _one_run(*rooms[0]) if len(runs) == 1 else _several_runs(rooms)
    temporary = out.with_name(f".part-{out.name}")
    try:
        figure.savefig(temporary, dpi=130)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
    return out


def _one_run(config: Config, metrics: Metrics):
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    figure.suptitle(
        f"ER({config.game.n_agents},{config.game.min_at_lever}), {config.method}, K = {config.k}, "
        f"{len(config.seeds)} seeds"
    )
    episodes, r_id = by_seed(metrics, "r_id")
    mark = "." if len(episodes) == 1 else None
    for row in r_id:
        axes[0].plot(episodes, row, lw=0.8, alpha=0.7, marker=mark)
    axes[0].plot(episodes, r_id.mean(0), color="black", lw=1.6, marker=mark, label="mean over seeds")
    _draw_bounds(axes[0], config)
    axes[0].set(title="designer return (incentives subtracted)", xlabel="episodes", ylabel="r_id")
    axes[0].legend(fontsize=8)
    for name, label in (("environment_return", "environment return"), ("incentives_paid", "incentives paid")):
        band(axes[1], *by_seed(metrics, name), label)
    axes[1].set(title="what the designer gets and pays", xlabel="episodes")
    axes[1].legend(fontsize=8)
    _incentives(axes[2], config, metrics)
    return figure


def _incentives(axis, config: Config, metrics: Metrics) -> None:
    """Mean incentive each time an action is chosen, for those who pull most and for the others."""
    agents = range(config.game.n_agents)
    episodes, _ = by_seed(metrics, "r_id")
    count = {p: np.stack([by_seed(metrics, f"n_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    paid = {p: np.stack([by_seed(metrics, f"incentive_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    # An agent is a cooperator if it is among the M that pulled most in the last tenth of training.
    tail = max(1, len(episodes) // 10)
    pulls = count["lever"][:, :, -tail:].mean(-1)
    rank = pulls.argsort(1).argsort(1)
    cooperator = (rank >= config.game.n_agents - config.game.min_at_lever)[:, :, None]
    for role, mask, style in (("cooperator", cooperator, "-"), ("winner", ~cooperator, "--")):
        for place, colour in zip(PLACES, ("C0", "C1", "C2"), strict=True):
            total = (paid[place] * mask).sum((0, 1))
            chosen = (count[place] * mask).sum((0, 1))
            with np.errstate(invalid="ignore", divide="ignore"):
                axis.plot(episodes, total / chosen, style, color=colour, lw=1.1, label=f"{role}: {place}")
    axis.set(title="incentive per choice of an action", xlabel="episodes", ylabel="incentive")
    axis.legend(fontsize=7, ncols=2)


def _several_runs(runs: Sequence[tuple[Config, Metrics]]):
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    config = runs[0][0]
    for c, metrics in runs:
        label = method_label(c)
        if (c.game, c.k) != (config.game, config.k):
            label += f", {c.preset}"
        band(axis, *by_seed(metrics, "r_id"), label)
    _draw_bounds(axis, config)
    axis.set(
        title=f"ER({config.game.n_agents},{config.game.min_at_lever}): mean and standard error over seeds",
        xlabel="episodes",
        ylabel="designer return (incentives subtracted)",
    )
    axis.legend(fontsize=8)
    return figure


def _draw_bounds(axis, config: Config) -> None:
    for (name, value), style in zip((bounds(config.game) or {}).items(), (":", "--"), strict=False):
        axis.axhline(value, color="grey", ls=style, lw=1, label=f"bound, {name}: {value:g}")
