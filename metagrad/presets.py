"""Presets: one function an experiment. Names ending in ``_paper`` hold the released values, K = 1."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from metagrad.config import (
    AMD,
    Agents,
    Cleaners,
    CleanupConfig,
    Config,
    ConfigError,
    Designer,
    DesignerReward,
    EconomyConfig,
    Game,
    Payer,
    Planner,
    TaxDesigner,
    Workers,
)

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
TARGETS = {(2, 1): 7.5, (3, 2): 5.5, (5, 2): 25.0, (10, 5): 40.0, (20, 10): 80.0, (50, 25): 200.0}


def er_2_1() -> Config:
    """ER(2,1), K = 16."""
    return _ours("er_2_1", 2, 1, iterations=1_500, lr=32 * _LR, lr_cost=3e-4)


def er_3_2() -> Config:
    """ER(3,2), K = 16, for decentralised incentives beside the central designer."""
    return _ours("er_3_2", 3, 2, iterations=1_500, lr=32 * _LR, lr_cost=3e-4)


def er_2_1_ac() -> Config:
    """ER(2,1), K = 16, linear actor-critic agents paid one by one, for the meta-gradient and mechanism design alike."""
    ours = _ours("er_2_1_ac", 2, 1, iterations=2_000, lr=128 * _LR, lr_cost=3e-4)
    return replace(
        ours,
        agents=replace(ours.agents, kind="ac", linear=True, entropy=0.0, lr_critic=3e-3),
        designer=replace(ours.designer, output_type="agent"),
        amd=AMD(lr=1e-3, cost_weight=0.02),
    )


def er_2_1_amd_paper() -> Config:
    """ER(2,1) with the values released for adaptive mechanism design; linear policy-gradient agents."""
    return replace(
        _paper("er_2_1_amd_paper", 2, 1),
        episodes=50_000,
        agents=Agents(
            linear=True, optimiser="adam", lr=1e-4, entropy=0.01, epsilon_start=0.5, epsilon_end=0.1, epsilon_div=1_000
        ),
        amd=AMD(scores_at="planner"),
    )


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
    f.__name__: f
    for f in (
        *(er_2_1, er_3_2, er_5_2, er_10_5, er_20_10, er_50_25, er_2_1_ac),
        *(er_2_1_paper, er_5_2_paper, er_10_5_paper, er_2_1_amd_paper),
    )
}


def cleanup() -> CleanupConfig:
    """Cleanup on the small map, K = 16."""
    return CleanupConfig(checkpoint_period=1_600, eval_period=320)


def cleanup_paper() -> CleanupConfig:
    """Cleanup on the small map as released: one episode an update, temporal differences, SGD."""
    return CleanupConfig(
        preset="cleanup_paper",
        episodes=100_000,
        k=1,
        eval_period=500,
        eval_episodes=5,
        checkpoint_period=5_000,
        agents=Cleaners(
            optimiser="sgd", lr=6.73e-4, lr_critic=5.54e-4, gamma=0.99, gae_lambda=0.0, entropy=0.129,
            epsilon_start=1.0, epsilon_end=0.05, normalise=False, target_tau=7.93e-3,
        ),
        designer=Payer(lr=1.24e-5, lr_critic=2.4e-5, gamma=0.99, gae_lambda=0.99, target_tau=0.114),
    )  # fmt: skip


CLEANUP_PRESETS: dict[str, Callable[[], CleanupConfig]] = {f.__name__: f for f in (cleanup, cleanup_paper)}


def gtb() -> EconomyConfig:
    """Gather-Trade-Build, K = 16: agents and designer learn together from the start."""
    agents = Workers(minibatches=16, entropy=0.15, entropy_end=0.05, entropy_episodes=15_000)
    return EconomyConfig(episodes=10_000, checkpoint_period=1_600, eval_period=400, eval_episodes=20, agents=agents)


def gtb_phase_2() -> EconomyConfig:
    """Gather-Trade-Build with agents that have learned in a free market (``init_from``).

    They learn more slowly and explore less, so that production bears higher taxes (``docs/gtb_results.md``, Agents).
    """
    one = gtb()
    agents = replace(one.agents, entropy=0.04, entropy_end=0.04, lr=4e-4)
    slower = one.agents.lr / agents.lr
    designer = replace(one.designer, response_time=one.designer.response_time * slower)
    return replace(one, preset="gtb_phase_2", episodes=4_480, eval_period=320, agents=agents, designer=designer)


def gtb_paper() -> EconomyConfig:
    """Gather-Trade-Build as released for MetaGrad without curriculum: one episode an update."""
    return EconomyConfig(
        preset="gtb_paper",
        episodes=200_000,
        k=1,
        eval_period=400,
        eval_episodes=5,
        checkpoint_period=2_000,
        agents=Workers(
            critic="lstm", lr=3.3e-4, lr_critic=1.67e-5, entropy=0.184, entropy_end=0.184, epsilon_start=0.5,
            epsilon_end=0.05, normalise=False,
        ),
        reward=DesignerReward("level", 0.99),
        designer=TaxDesigner(
            policy="network", lr=1.82e-5, direct=0.0, response="step", baseline=False, critic="network",
            lr_critic=8.64e-4, gae_lambda=0.98, target_tau=0.0158,
        ),
        planner=Planner(lr=5.8e-4, lr_critic=2.1e-4, entropy=0.0, normalise=False),
    )  # fmt: skip


ECONOMY_PRESETS: dict[str, Callable[[], EconomyConfig]] = {f.__name__: f for f in (gtb, gtb_phase_2, gtb_paper)}


#: Presets whose agents have learned before, and the preset that teaches them.
_AGENTS_FROM = {"gtb_phase_2": "gtb"}


def needs_agents(config: Any) -> None:
    """Refuse a phase that goes on with agents from elsewhere if it is not said with which.

    Raises
    ------
    ConfigError
        With the command that makes them.
    """
    if config.preset not in _AGENTS_FROM or config.init_from:
        return
    first = ECONOMY_PRESETS[_AGENTS_FROM[config.preset]]()
    options = [f"--preset {first.preset}", f"--seeds {len(config.seeds)}", f"--first-seed {config.seeds[0]}"]
    # Agents fit if they see and do the same, with the same networks.
    for group, names in (("game", [f.name for f in fields(config.game)]), ("agents", ("filters", "hidden", "critic"))):
        mine, theirs = getattr(config, group), getattr(first, group)
        differing = [name for name in names if getattr(mine, name) != getattr(theirs, name) and name != "rates"]
        options += [_option(f"{group}.{name}", getattr(mine, name)) for name in differing]
    raise ConfigError(
        f"preset {config.preset} starts with agents that have learned before: make them with "
        f"`metagrad train gtb {' '.join(options)} --out runs/agents`, and add `--init-from runs/agents`"
    )


def _option(name: str, value: Any) -> str:
    """An option of the command line."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return f"--{name}" if value else f"--{group}.no-{last}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else shlex.quote(str(value))}"


def preset(name: str, presets: dict[str, Callable[[], Any]] = PRESETS) -> Any:
    """Preset by name."""
    if name not in presets:
        raise ConfigError(f"no preset is called {name!r}; there are: {', '.join(presets)}")
    return presets[name]()
