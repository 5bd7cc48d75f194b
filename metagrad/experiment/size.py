"""How much memory a run needs by and large, so that what no machine can hold is refused before it is asked for.

Asking is no test: the system hands out more memory than it has, and ends the process that then uses it.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from metagrad.experiment.config import ConfigError, Experiment, trees

_STEPS_KEPT = 3  # parameters, and two moments


def check(experiment: Experiment) -> None:
    """Refuse a run that does not fit into the memory of this machine.

    Raises
    ------
    ConfigError
        With the part that is too large.
    """
    available = memory()
    parts = needed(experiment)
    what, most = max(parts.items(), key=lambda item: item[1])
    if sum(parts.values()) > available:
        raise ConfigError(
            f"this run is too large for the memory: {what} need about {_amount(most)}, this machine has "
            f"{_amount(available)}"
        )


def needed(experiment: Experiment) -> dict[str, float]:
    """Bytes by what they are for; lower bounds, since what stands beside episodes and networks is small."""
    run, task = experiment.run, experiment.task
    width = 4.0 if run.dtype == "float32" else 8.0
    agents, seeds = float(task.n_agents), float(len(run.seeds))
    row = agents * sum(float(np.prod(shape, dtype=float)) for shape in task.interface.agents.values())
    episode = row * float(task.horizon) + agents * width * float(task.horizon)
    return {
        f"k = {run.k} episodes of a batch": seeds * run.k * float(run.agent_batches) * episode,
        f"eval_episodes = {run.eval_episodes} episodes": run.eval_episodes * seeds * episode,
        f"test_episodes = {run.test_episodes} episodes": run.test_episodes * seeds * episode,
        "the networks": seeds * _STEPS_KEPT * width * sum(_dense(part) for part in _parts(experiment)),
    }


def _parts(experiment: Experiment) -> list[Any]:
    return [part for whole in (experiment.agents, experiment.designer) for part in trees(whole)]


def _dense(network: Any) -> float:
    """Parameters between the hidden layers of a network."""
    hidden = getattr(network, "hidden", ())
    return sum(float(a) * float(b) for a, b in pairwise((1, *hidden, 1))) if isinstance(hidden, tuple) else 0.0


def memory() -> float:
    """Bytes of this machine, or of the share of it that the process may use."""
    limits = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(float(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    return min(limits)


def _amount(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
