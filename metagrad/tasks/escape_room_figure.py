"""Figures of Escape Room: designer return, what the designer gets and pays, and incentives by action."""

from __future__ import annotations

from typing import Any

import numpy as np

from metagrad.tasks.figures import Metrics, Runs, band, by_seed, limits

PLACES = ("lever", "start", "door")


def draw(figure: Any, runs: Runs) -> None:
    """One run in three panels, or the designer returns of several in one."""
    if len(runs) > 1:
        _several_runs(figure, runs)
        return
    experiment, label, metrics = runs[0]
    task, run = experiment.task, experiment.run
    figure.set_size_inches(15, 4.2)
    figure.suptitle(f"{task.rooms()}, {label}, K = {run.k}, {len(run.seeds)} seeds")
    axes = figure.subplots(1, 3)
    episodes, r_id = by_seed(metrics, "r_id")
    mark = "." if len(episodes) == 1 else None
    for row in r_id:
        axes[0].plot(episodes, row, lw=0.8, alpha=0.7, marker=mark)
    axes[0].plot(episodes, r_id.mean(0), color="black", lw=1.6, marker=mark, label="mean over seeds")
    limits(axes[0], task.bounds())
    axes[0].set(title="designer return (incentives subtracted)", xlabel="episodes", ylabel="r_id")
    axes[0].legend(fontsize=8)
    for name, text in (("environment_return", "environment return"), ("incentives_paid", "incentives paid")):
        band(axes[1], *by_seed(metrics, name), text)
    axes[1].set(title="what the designer gets and pays", xlabel="episodes")
    axes[1].legend(fontsize=8)
    _incentives(axes[2], task, metrics)


def _incentives(axis: Any, task: Any, metrics: Metrics) -> None:
    """Mean incentive each time an action is chosen, for those who pull most and for the others."""
    agents = range(task.n_agents)
    episodes, _ = by_seed(metrics, "r_id")
    count = {p: np.stack([by_seed(metrics, f"n_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    paid = {p: np.stack([by_seed(metrics, f"incentive_{p}_{i}")[1] for i in agents], 1) for p in PLACES}
    # An agent is a cooperator if it is among the M that pulled most in the last tenth of training.
    tail = max(1, len(episodes) // 10)
    pulls = count["lever"][:, :, -tail:].mean(-1)
    rank = pulls.argsort(1).argsort(1)
    cooperator = (rank >= task.n_agents - task.min_at_lever)[:, :, None]
    for role, mask, style in (("cooperator", cooperator, "-"), ("winner", ~cooperator, "--")):
        for place, colour in zip(PLACES, ("C0", "C1", "C2"), strict=True):
            total = (paid[place] * mask).sum((0, 1))
            chosen = (count[place] * mask).sum((0, 1))
            with np.errstate(invalid="ignore", divide="ignore"):
                axis.plot(episodes, total / chosen, style, color=colour, lw=1.1, label=f"{role}: {place}")
    axis.set(title="incentive per choice of an action", xlabel="episodes", ylabel="incentive")
    axis.legend(fontsize=7, ncols=2)


def _several_runs(figure: Any, runs: Runs) -> None:
    figure.set_size_inches(8, 5)
    axis, first = figure.subplots(), runs[0][0]
    for experiment, label, metrics in runs:
        same = (experiment.task, experiment.run.k) == (first.task, first.run.k)
        band(axis, *by_seed(metrics, "r_id"), label if same else f"{label}, {experiment.preset}")
    limits(axis, first.task.bounds())
    axis.set(
        title=f"{first.task.rooms()}: mean and standard error over seeds", xlabel="episodes",
        ylabel="designer return (incentives subtracted)",
    )  # fmt: skip
    axis.legend(fontsize=8)
