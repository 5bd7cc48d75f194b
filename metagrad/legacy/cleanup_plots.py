"""Figures of runs on Cleanup, after the published one (metagrad specification, 5.4, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from metagrad.legacy.cleaning import KINDS
from metagrad.legacy.config import CleanupConfig
from metagrad.legacy.economy_plots import at_end, band, by_seed
from metagrad.legacy.log import method_label

Run = tuple[CleanupConfig, dict[str, np.ndarray]]

#: Best possible social welfare of 50 steps on the small map, by backward induction (documentation of the game).
OPTIMUM = 41.85


def draw(runs: Sequence[Run]) -> Any:
    """Social welfare and incentives over training; who cleans, earns, and is paid for what, at the end."""
    figure, axes = plt.subplots(1, 4, figsize=(20, 4.4), layout="constrained")
    for config, metrics in runs:
        for axis, name in zip(axes, ("welfare", "incentives_paid"), strict=False):
            band(axis, *by_seed(metrics, name), method_label(config))
    if all((c.game.preset, c.game.steps) == ("paper_7x7", 50) for c, _ in runs):
        axes[0].axhline(OPTIMUM, color="grey", ls=":", lw=1, label=f"best possible: {OPTIMUM:g}")
    axes[0].set(title="social welfare", xlabel="episodes")
    axes[0].legend(fontsize=8)
    axes[1].set(title="incentives paid", xlabel="episodes")
    _roles(axes[2], runs)
    _payments(axes[3], *runs[0])
    return figure


def _agents(metrics: dict[str, np.ndarray]) -> int:
    return sum(name.startswith("waste_") and name[6:].isdigit() for name in metrics)


def _roles(axis, runs: Sequence[Run]) -> None:
    """What each agent clears and earns, every seed."""
    for i, (config, metrics) in enumerate(runs):
        for a in range(_agents(metrics)):
            axis.scatter(
                at_end(metrics, f"waste_{a}"), at_end(metrics, f"reward_{a}"), color=f"C{i}", marker="os^Dv"[a % 5],
                alpha=0.7, label=f"{method_label(config)}, agent {a}",
            )  # fmt: skip
    axis.set(title="who cleans and who collects", xlabel="waste cleared by the agent", ylabel="its apples")
    axis.legend(fontsize=6)


def _payments(axis, config: CleanupConfig, metrics: dict[str, np.ndarray]) -> None:
    """What each agent received for what it did, mean over seeds."""
    n = _agents(metrics)
    for c, kind in enumerate(KINDS):
        values = np.array([at_end(metrics, f"received_{kind}_{a}") for a in range(n)])
        text = f"for having {kind}" if c < 2 else "for the rest"
        axis.bar(np.arange(n) + (c - 1) * 0.27, values.mean(1), 0.27, label=text)
    axis.set(title=f"{method_label(config)}: incentives received", xlabel="agent", xticks=range(n))
    axis.legend(fontsize=8)
