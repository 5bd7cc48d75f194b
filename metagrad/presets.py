"""Presets: one function an experiment. Names ending in ``_paper`` hold the released values, K = 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metagrad.config import Agents, Config, ConfigError, Designer, EconomyConfig, Game

# The agents' learning rate that was released for K = 1; SGD bears a larger one when K episodes are averaged.
_LR = 9.56e-5


def _paper(name: str, n: int, m: int, **networks: tuple[int, ...]) -> Config:
    """Released values: one episode an update, all outputs cost, the published replica."""
    return Config(
        preset=name,
        target=TARGETS[n, m],
        episodes=100_000,
        k=1,
        eval_period=100,
        checkpoint_period=10_000,
        game=Game(n_agents=n, min_at_lever=m),
        agents=Agents(hidden=networks.get("agents", (64, 32)), lr=_LR),
        designer=Designer(hidden=networks.get("designer", (64, 16)), cost="all_outputs", replica_eta="current"),
    )


def _ours(name: str, n: int, m: int, *, iterations: int, lr: float, lr_cost: float) -> Config:
    """K = 16, cost on incentives really paid, and a short memory in the cost's Adam."""
    return Config(
        preset=name,
        target=TARGETS[n, m],
        episodes=16 * iterations,
        k=16,
        eval_period=400,
        checkpoint_period=4_000,
        game=Game(n_agents=n, min_at_lever=m),
        agents=Agents(lr=lr),
        designer=Designer(lr_incentive=1e-3, lr_cost=lr_cost, beta2_cost=0.98),
    )


# Designer return that counts as solved; the larger games' is 10 (N - M) - 2 M, paying each puller its cost.
TARGETS = {(2, 1): 7.5, (5, 2): 25.0, (10, 5): 40.0, (20, 10): 80.0, (50, 25): 200.0}


def er_2_1() -> Config:
    """ER(2,1), K = 16."""
    return _ours("er_2_1", 2, 1, iterations=1_500, lr=32 * _LR, lr_cost=3e-4)


def er_5_2() -> Config:
    """ER(5,2), K = 16: the main job."""
    return _ours("er_5_2", 5, 2, iterations=2_000, lr=16 * _LR, lr_cost=3e-4)


def er_10_5() -> Config:
    """ER(10,5), K = 16."""
    return _ours("er_10_5", 10, 5, iterations=1_500, lr=16 * _LR, lr_cost=2e-4)


def er_20_10() -> Config:
    """ER(20,10), K = 16."""
    return _ours("er_20_10", 20, 10, iterations=2_000, lr=16 * _LR, lr_cost=1e-4)


def er_50_25() -> Config:
    """ER(50,25), K = 16."""
    return _ours("er_50_25", 50, 25, iterations=2_000, lr=16 * _LR, lr_cost=3e-5)


def er_2_1_paper() -> Config:
    """ER(2,1) with the values released for ER(5,2)."""
    return _paper("er_2_1_paper", 2, 1)


def er_5_2_paper() -> Config:
    """ER(5,2) as released."""
    return _paper("er_5_2_paper", 5, 2)


def er_10_5_paper() -> Config:
    """ER(10,5) with the released learning rates and the wider networks that the release mentions."""
    return _paper("er_10_5_paper", 10, 5, agents=(128, 64), designer=(256, 128))


PRESETS: dict[str, Callable[[], Config]] = {
    f.__name__: f for f in (er_2_1, er_5_2, er_10_5, er_20_10, er_50_25, er_2_1_paper, er_5_2_paper, er_10_5_paper)
}


def gtb() -> EconomyConfig:
    """Gather-Trade-Build, K = 16: agents that learn, under a given schedule."""
    return EconomyConfig(checkpoint_period=1_600, eval_period=320)


ECONOMY_PRESETS: dict[str, Callable[[], EconomyConfig]] = {"gtb": gtb}


def preset(name: str, presets: dict[str, Callable[[], Any]] = PRESETS) -> Any:
    """Preset by name."""
    if name not in presets:
        raise ConfigError(f"no preset is called {name!r}; there are: {', '.join(presets)}")
    return presets[name]()
