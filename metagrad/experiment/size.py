"""How much memory a run needs by and large, so that what no machine can hold is refused before it is asked for.

Asking is no test: the system hands out more memory than it has, and ends the process that then uses it.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from metagrad.experiment.config import Experiment, trees

_STEPS_KEPT = 3  # parameters, and two moments


def check(experiment: Experiment) -> None:
    """Refuse a run that does not fit into the memory of this machine."""
    parts, available = needed(experiment), memory()
    what, most = max(parts.items(), key=lambda item: item[1])
    if sum(parts.values()) > available:
        raise MemoryError(f"{what} need about {decimal(int(most))}, this machine has {decimal(int(available))}")


def needed(experiment: Experiment) -> dict[str, float]:
    """Bytes by what they are for; lower bounds, since what stands beside episodes and networks is small."""
    run, task = experiment.run, experiment.task
    width = 4.0 if run.dtype == "float32" else 8.0
    agents, steps, seeds = float(task.interface.n_agents), float(task.horizon), float(len(run.seeds))
    # What an agent sees, of which masks stay bytes and pictures may; its action; probability, reward and payment.
    shapes = task.interface.agents.items()
    row = sum(np.prod(s, dtype=float) * (1.0 if len(s) > 1 or name == "mask" else width) for name, s in shapes)
    at_once = 1.0 if alone(experiment) else seeds  # of the seeds that take turns one learns at a time
    episode = agents * (row + 8 + 3 * width) * steps * at_once
    kept = {
        f"k = {run.k} episodes of a batch": run.k * run.agent_batches * episode,
        f"eval_episodes = {run.eval_episodes} episodes": run.eval_episodes * episode,
        f"test_episodes = {run.test_episodes} episodes": run.test_episodes * episode,
    }
    weights = sum(_weights(part) for part in _parts(experiment))
    return kept | {"the networks": seeds * _STEPS_KEPT * width * weights}


def alone(experiment: Experiment) -> bool:
    """Whether each seed trains by itself, since the networks do not stack."""
    return not all(getattr(part, "stacks", True) for part in _parts(experiment))


def _parts(experiment: Experiment) -> list[Any]:
    return [part for whole in (experiment.agents, experiment.designer) for part in trees(whole)]


def _weights(network: Any) -> float:
    """Parameters of a network as far as the widths of its layers tell, by the names that networks give them."""
    hidden, filters = getattr(network, "hidden", ()), float(getattr(network, "filters", 0))
    if not isinstance(hidden, tuple):
        return 0.0
    first = float(getattr(network, "map_width", None) or 1)
    kernel, layers = float(getattr(network, "kernel", 1)), float(getattr(network, "convolutions", 1))
    seen = filters * kernel**2 * (1 + filters * max(0.0, layers - 1)) + filters * first
    return seen + sum(float(a) * float(b) for a, b in pairwise((first, *hidden, 1)))


def memory() -> float:
    """Bytes of this machine, or of the share of it that the process may use."""
    limits = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(float(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit
            continue
    return min(limits)
