"""How much memory a run needs by and large, so that what no machine can hold is refused before it is asked for.

Asking is no test: the system hands out more memory than it has, and ends the process that then uses it.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from metagrad.config import AnyConfig, CleanupConfig, Config, ConfigError, EconomyConfig

# Lower bounds; what stands beside the episodes of a batch and the networks is small.
_OBSERVED = {"gtb": 1_500.0, "cleanup": 300.0}  # bytes that an agent sees in a step
_COPY = {"gtb": 8_000.0, "cleanup": 400.0}  # bytes of a copy of the game
_STEPS_KEPT = 3  # parameters, and two moments


def check(config: AnyConfig) -> None:
    """Refuse a run that does not fit into the memory of this machine.

    Raises
    ------
    ConfigError
        With the part that is too large.
    """
    available = memory()
    parts = needed(config)
    what, most = max(parts.items(), key=lambda item: item[1])
    if sum(parts.values()) > available:
        raise ConfigError(
            f"this run is too large for the memory: {what} need about {_amount(most)}, this machine has "
            f"{_amount(available)}"
        )


def needed(config: AnyConfig) -> dict[str, float]:
    """Bytes by what they are for."""
    width = 4.0 if config.dtype == "float32" else 8.0
    agents, steps, seeds = _agents(config), _steps(config), float(len(config.seeds))
    if isinstance(config, Config):
        copy = agents * 3 * agents + 3 * agents
        row = width * agents * (3 * agents + 6 + 3)
        kept = float(config.designer.inner_steps + 1)
    else:
        game = config.game_name
        copy, row, kept = _COPY[game] + agents * _OBSERVED[game], agents * _OBSERVED[game], 1.0
    episode = copy + row * steps
    together = seeds if isinstance(config, Config) else 1.0  # other games' seeds take turns
    return {
        f"k = {config.k} episodes of a batch": seeds * config.k * copy + together * kept * config.k * row * steps,
        f"eval_episodes = {config.eval_episodes} episodes": config.eval_episodes * (seeds * copy + together * episode),
        f"test_episodes = {config.test_episodes} episodes": config.test_episodes * (seeds * copy + together * episode),
        "the networks": seeds * _STEPS_KEPT * width * _parameters(config),
    }


def _agents(config: AnyConfig) -> float:
    return float(config.game.n_agents) if isinstance(config, (Config, EconomyConfig)) else 2.0


def _steps(config: AnyConfig) -> float:
    return float(config.game.max_steps if isinstance(config, Config) else config.game.steps)


def _parameters(config: AnyConfig) -> float:
    """Of one seed's networks, of which those that a method does not use do not count."""
    agents = _agents(config)
    if isinstance(config, Config):
        a, d, seen = config.agents, config.designer, 3 * agents
        total = 0.0 if a.linear else agents * _dense(seen, a.hidden, 3)
        total += agents * _dense(seen, a.hidden_critic, 1) if a.kind == "ac" else 0
        if config.method.startswith("dual-rl"):
            discrete = config.method == "dual-rl-discrete"
            return total + _dense(2 * seen, config.dual.hidden, float(len(config.dual.levels)) ** 3 if discrete else 1)
        if config.method == "amd":
            return total + _dense(seen, config.amd.hidden, agents)
        return total + (0 if config.method == "none" else _dense(2 * seen, d.hidden, 3))
    nets: list[Any] = [config.agents]
    if isinstance(config, CleanupConfig):
        nets += [config.designer] if config.method in ("metagrad", "dual-rl-continuous") else []
    elif config.method == "dual-rl":
        nets.append(config.planner)
    elif config.method.startswith("metagrad") and "network" in (config.designer.policy, config.designer.critic):
        nets.append(config.designer)
    return sum(_trunk(float(net.filters), net.hidden) for net in nets)


def _dense(inputs: float, hidden: tuple[int, ...], outputs: float) -> float:
    return sum(float(a) * float(b) for a, b in pairwise((inputs, *hidden, outputs)))


def _trunk(filters: float, hidden: tuple[int, ...]) -> float:
    """Convolutions and the layers behind them, on a map of 7 by 7 cells."""
    return filters * (filters + 49) + _dense(49.0, hidden, 1.0)


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
