"""Figures of Cleanup: social welfare, payments, and who cleans, collects, and is paid for what."""

from __future__ import annotations

from typing import Any

import numpy as np

from metagrad.tasks.cleanup import KINDS
from metagrad.tasks.figures import Metrics, Runs, at_end, band, by_seed, limits


def draw(figure: Any, runs: Runs) -> None:
    """Social welfare and incentives over training; who cleans, earns, and is paid for what, at the end."""
    figure.set_size_inches(20, 4.4)
    axes = figure.subplots(1, 4)
    for _, label, metrics in runs:
        for axis, name in zip(axes, ("welfare", "incentives_paid"), strict=False):
            band(axis, *by_seed(metrics, name), label)
    limits(axes[0], runs[0][0].task.bounds())
    axes[0].set(title="social welfare", xlabel="episodes")
    axes[0].legend(fontsize=8)
    axes[1].set(title="incentives paid", xlabel="episodes")
    _roles(axes[2], runs)
    _payments(axes[3], *runs[0][1:])


def _agents(metrics: Metrics) -> int:
    return sum(name.startswith("waste_") and name[6:].isdigit() for name in metrics)


def _roles(axis: Any, runs: Runs) -> None:
    """What each agent clears and earns, every seed."""
    for i, (_, label, metrics) in enumerate(runs):
        for a in range(_agents(metrics)):
            axis.scatter(
                at_end(metrics, f"waste_{a}"), at_end(metrics, f"reward_{a}"), color=f"C{i}", marker="os^Dv"[a % 5],
                alpha=0.7, label=f"{label}, agent {a}",
            )  # fmt: skip
    axis.set(title="who cleans and who collects", xlabel="waste cleared by the agent", ylabel="its apples")
    axis.legend(fontsize=6)


def _payments(axis: Any, label: str, metrics: Metrics) -> None:
    """What each agent received for what it did, mean over seeds."""
    n = _agents(metrics)
    for c, kind in enumerate(KINDS):
        values = np.array([at_end(metrics, f"received_{kind}_{a}") for a in range(n)])
        text = f"for having {kind}" if c < 2 else "for the rest"
        axis.bar(np.arange(n) + (c - 1) * 0.27, values.mean(1), 0.27, label=text)
    axis.set(title=f"{label}: incentives received", xlabel="agent", xticks=range(n))
    axis.legend(fontsize=8)
