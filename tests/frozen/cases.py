"""The cases: every method of every game, and every option that changes what is computed, at toy size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metagrad.legacy.config import (
    AMD,
    Agents,
    AnyConfig,
    Cleaners,
    CleanupConfig,
    Clones,
    Config,
    Designer,
    DesignerReward,
    DualRL,
    Economy,
    EconomyConfig,
    Game,
    Payer,
    Planner,
    TaxDesigner,
    Workers,
)
from metagrad.legacy.options import CleanupGame

ITERATIONS = 5
#: Learning rates that move parameters by a few per cent in five iterations.
_ROOM: dict[str, dict[str, Any]] = {
    "game": {"n_agents": 2, "min_at_lever": 1},
    "agents": {"hidden": (8,), "hidden_critic": (8,), "lr": 0.01, "lr_critic": 0.02, "epsilon_div": 8},
    "designer": {"hidden": (8,), "lr_incentive": 0.02, "lr_cost": 0.01},
    "dual": {"hidden": (8,), "lr": 0.02},
    "amd": {"hidden": (8,), "lr": 0.02, "cost_weight": 0.1},
    "clones": {"lr": 0.02, "steps": 2},
}
_CLEANUP: dict[str, dict[str, Any]] = {
    "game": {"steps": 20},
    "agents": {"filters": 2, "hidden": (6, 6), "lr": 0.02, "lr_critic": 0.02, "epsilon_div": 8},
    "designer": {"filters": 2, "hidden": (6, 6), "lr": 0.02, "lr_critic": 0.02},
    "clones": {"lr": 0.02, "steps": 2},
}
_GTB: dict[str, dict[str, Any]] = {
    "game": {"steps": 20, "tax_period": 5},
    "agents": {"filters": 2, "hidden": (8,), "lr": 0.02, "lr_critic": 0.02, "entropy_episodes": 60, "epsilon_div": 8},
    "reward": {},
    "designer": {"filters": 2, "hidden": (8,), "lr": 0.02, "lr_critic": 0.02, "response_time": 12.0},
    "planner": {"filters": 2, "hidden": (8,), "lr": 0.02, "lr_critic": 0.02},
}
_GROUPS: dict[str, type] = {
    "game": Game, "agents": Agents, "designer": Designer, "dual": DualRL, "amd": AMD, "clones": Clones,
}  # fmt: skip
_CLEANUP_GROUPS: dict[str, type] = {"game": CleanupGame, "agents": Cleaners, "designer": Payer, "clones": Clones}
_GTB_GROUPS: dict[str, type] = {
    "game": Economy, "agents": Workers, "reward": DesignerReward, "designer": TaxDesigner, "planner": Planner,
}  # fmt: skip


def _make(cls: type, groups: dict[str, type], defaults: dict[str, dict[str, Any]], method: str, options: Any) -> Any:
    """Configuration from flat options ``group_option``, and ``top_option`` for those without a group."""
    values = {group: dict(defaults[group]) for group in groups}
    top: dict[str, Any] = {"seeds": (4,), "k": 2, "dtype": "float64"}
    for name, value in options.items():
        group, _, option = name.partition("_")
        (top if group == "top" else values[group])[option] = value
    return cls(method=method, **top, **{group: make(**values[group]) for group, make in groups.items()})


def room(method: str = "metagrad", **options: Any) -> Config:
    """Escape Room."""
    return _make(Config, _GROUPS, _ROOM, method, options)


def cleanup(method: str = "metagrad", **options: Any) -> CleanupConfig:
    """Cleanup."""
    return _make(CleanupConfig, _CLEANUP_GROUPS, _CLEANUP, method, options)


def gtb(method: str = "metagrad", **options: Any) -> EconomyConfig:
    """Gather-Trade-Build."""
    return _make(EconomyConfig, _GTB_GROUPS, _GTB, method, options)


_ADAM = {"agents_optimiser": "adam", "agents_lr": 0.02}
_EXPLORE = {"agents_epsilon_start": 0.5, "agents_epsilon_end": 0.1}
_THREE = {"game_n_agents": 3, "game_min_at_lever": 2}
_TWO_SEEDS = {"top_seeds": (4, 8)}
_K3 = {"top_k": 3}
_CLONED = {"top_agent_access": "cloned"}

ROOM: dict[str, Config] = {
    "metagrad_sgd": room(**_TWO_SEEDS, **_THREE, **_K3),
    "metagrad_adam": room(**_ADAM, **_TWO_SEEDS),
    "metagrad_ac": room(agents_kind="ac", **_K3),
    "metagrad_ac_adam": room(agents_kind="ac", **_ADAM),
    "metagrad_ac_linear_agent": room(agents_kind="ac", agents_linear=True, designer_output_type="agent"),
    "metagrad_m3": room(designer_inner_steps=3),
    "metagrad_m3_adam": room(designer_inner_steps=3, **_ADAM),
    "metagrad_m3_ac": room(designer_inner_steps=3, agents_kind="ac"),
    "metagrad_cost_combined": room(designer_cost_optimiser="combined", designer_reg_coeff=0.5),
    "metagrad_cost_all_outputs": room(designer_cost="all_outputs"),
    "metagrad_cost_beta2": room(designer_beta2_cost=0.98, designer_beta2=0.99, designer_gamma=0.9),
    "metagrad_agent": room(designer_output_type="agent", **_THREE),
    "metagrad_agent_all_outputs": room(designer_output_type="agent", designer_cost="all_outputs"),
    "metagrad_replica_current": room(designer_replica_eta="current"),
    "metagrad_replica_current_m3_adam": room(designer_replica_eta="current", designer_inner_steps=3, **_ADAM),
    "metagrad_replica_recompute": room(designer_replica_eta="recompute"),
    "metagrad_replica_recompute_m3": room(designer_replica_eta="recompute", designer_inner_steps=3),
    "metagrad_leave_one_out": room(designer_baseline="leave-one-out", **_K3),
    "metagrad_no_pipeline": room(designer_pipeline=False),
    "metagrad_adam_tf1": room(agents_adam_eps_mode="tf1", **_ADAM),
    "metagrad_adam_stop": room(agents_stop_second_moment=True, designer_inner_steps=2, **_ADAM),
    "metagrad_unrolled": room(designer_mode="unrolled", designer_inner_steps=2, **_ADAM),
    "metagrad_explore": room(**_EXPLORE),
    "metagrad_random_start_torch_init": room(game_randomize=True, top_init="torch"),
    "metagrad_two_layers": room(agents_hidden=(6, 5), designer_hidden=(6, 5)),
    "metagrad_paper_k1": room(top_k=1, designer_cost="all_outputs", designer_replica_eta="current"),
    "metagrad_no_cv": room("metagrad-no-cv"),
    "metagrad_no_cv_no_pipeline": room("metagrad-no-cv", designer_pipeline=False, **_ADAM),
    "metagrad_no_cv_m3": room("metagrad-no-cv", designer_inner_steps=3),
    "lio": room("lio", **_THREE),
    "lio_m2_all_outputs": room("lio", designer_inner_steps=2, designer_cost="all_outputs", **_ADAM),
    "lio_combined_leave_one_out": room("lio", designer_cost_optimiser="combined", designer_baseline="leave-one-out"),
    "dual_rl_discrete": room("dual-rl-discrete", **_TWO_SEEDS),
    "dual_rl_discrete_three_levels": room("dual-rl-discrete", dual_levels=(0.0, 0.5, 1.1), agents_kind="ac"),
    "dual_rl_continuous": room("dual-rl-continuous"),
    "amd_own": room("amd", **_K3),
    "amd_planner_explore": room("amd", amd_scores_at="planner", amd_grad_clip=0.05, **_EXPLORE, **_ADAM),
    "amd_ac_linear": room("amd", agents_kind="ac", agents_linear=True),
    "none": room("none", **_THREE),
    "none_ac_adam": room("none", agents_kind="ac", **_ADAM),
    "cloned_sgd": room(**_CLONED),
    "cloned_m2_adam": room(designer_inner_steps=2, **_CLONED, **_ADAM),
    "cloned_explore_current": room(designer_replica_eta="current", **_CLONED, **_EXPLORE),
    "cloned_no_cv": room("metagrad-no-cv", **_CLONED),
    "cloned_lio": room("lio", **_CLONED),
}

CLEANUP: dict[str, CleanupConfig] = {
    "metagrad": cleanup(**_TWO_SEEDS),
    "metagrad_sgd_td_targets": cleanup(
        agents_optimiser="sgd", agents_lr=2.0, agents_gae_lambda=0.0, agents_target_tau=0.1, agents_normalise=False,
        designer_target_tau=0.1, **_EXPLORE,
    ),
    "metagrad_explore": cleanup(**_EXPLORE),
    "metagrad_no_entropy": cleanup(
        agents_entropy=0.0, designer_gae_lambda=0.0, designer_gamma=0.9, **_K3
    ),
    "metagrad_unrolled": cleanup(designer_mode="unrolled"),
    "metagrad_k1": cleanup(top_k=1),
    "metagrad_10x10": cleanup(game_preset="authors_10x10", game_steps=50),
    "cloned": cleanup(**_CLONED),
    "cloned_sgd_explore": cleanup(agents_optimiser="sgd", agents_lr=2.0, agents_normalise=False, **_CLONED, **_EXPLORE),
    "central": cleanup("central"),
    "dual_rl_continuous": cleanup("dual-rl-continuous"),
    "none": cleanup("none"),
    "none_sgd_targets": cleanup("none", agents_optimiser="sgd", agents_lr=2.0, agents_target_tau=0.1, **_EXPLORE),
}  # fmt: skip

#: One step of the agents, a network that sets rates, and returns, as published.
_STEP: dict[str, Any] = {
    "designer_response": "step", "designer_baseline": False, "designer_critic": "returns", "designer_direct": 0.0,
}  # fmt: skip
_NETWORK = {"designer_policy": "network"}

GTB: dict[str, EconomyConfig] = {
    "free_market": gtb("free-market", **_TWO_SEEDS),
    "free_market_explore": gtb("free-market", **_EXPLORE, **_K3),
    "free_market_trunk_minibatches": gtb("free-market", agents_critic="trunk", agents_minibatches=4),
    "free_market_lstm_ppo": gtb(
        "free-market", agents_critic="lstm", agents_hidden=(8, 6), agents_epochs=2, agents_minibatches=4,
        agents_normalise=False,
    ),
    "free_market_ppo_clipped": gtb("free-market", agents_epochs=3, agents_clip=0.02),
    "free_market_drawn_places": gtb("free-market", game_fixed_four=False, game_n_agents=3),
    "us_federal": gtb("us-federal"),
    "us_federal_anneal": gtb("us-federal", game_anneal=True),
    "saez": gtb("saez"),
    "fixed": gtb("fixed", game_rates=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
    "metagrad_trace": gtb(**_TWO_SEEDS),
    "metagrad_trace_minibatches": gtb(agents_minibatches=3, designer_trace_stride=3, **_K3),
    "metagrad_trace_network": gtb(**_NETWORK),
    "metagrad_trace_returns": gtb(designer_critic="returns", designer_baseline=False, agents_normalise=False),
    "metagrad_trace_explore_anneal": gtb(game_anneal=True, **_EXPLORE),
    "metagrad_weights": gtb(designer_chain=0.5, designer_direct=2.0, designer_gae_lambda=0.9),
    "metagrad_chain": gtb(designer_direct=0.0),
    "metagrad_direct": gtb(designer_chain=0.0),
    "metagrad_level": gtb(reward_reward="level", reward_gamma=0.95),
    "metagrad_network_critic": gtb(designer_critic="network", designer_gae_lambda=0.98, designer_target_tau=0.1),
    "metagrad_step": gtb(**_STEP),
    "metagrad_step_network": gtb(**_STEP, **_NETWORK, **_K3),
    "metagrad_step_minibatches": gtb(**{**_STEP, "designer_direct": 1.0}, **_NETWORK, agents_minibatches=4),
    "metagrad_step_baseline": gtb(**{**_STEP, "designer_baseline": True}, agents_minibatches=2),
    "metagrad_step_carry": gtb(**_STEP, designer_carry=True),
    "metagrad_step_epochs": gtb(**{**_STEP, "designer_direct": 1.0}, designer_epochs=2, designer_clip=0.05),
    "metagrad_step_unrolled": gtb(**_STEP, **_NETWORK, designer_mode="unrolled", agents_normalise=False),
    "metagrad_step_coin_floor": gtb(**_STEP, designer_coin_floor=1.0),
    "metagrad_paper": gtb(
        **{**_STEP, "designer_critic": "network"}, **_NETWORK, top_k=1, reward_reward="level", reward_gamma=0.99,
        agents_critic="lstm", agents_hidden=(8, 6), agents_normalise=False, designer_target_tau=0.1,
        designer_gae_lambda=0.98, **_EXPLORE,
    ),
    "metagrad_no_cv": gtb("metagrad-no-cv"),
    "metagrad_no_cv_step": gtb("metagrad-no-cv", **_STEP, **_NETWORK),
    "dual_rl": gtb("dual-rl"),
    "dual_rl_ppo_level": gtb(
        "dual-rl", planner_epochs=2, planner_normalise=False, planner_clip=0.05, planner_entropy=0.0,
        reward_reward="level", reward_gamma=0.99,
    ),
    "dual_rl_anneal": gtb("dual-rl", game_anneal=True),
    "metagrad_after_free_market": gtb(agents_lr=0.01),
}  # fmt: skip

#: Seeds of cases in which, with the usual one, rounding decides: two amounts in the economy that are equal but for it
#: (an offer that an agent can just pay), or a first Adam step, whose derivative is a small difference.
_SEEDS: dict[str, tuple[int, ...]] = {
    "escape_room/metagrad_adam": (13, 14), "escape_room/metagrad_ac_adam": (1,), "escape_room/metagrad_adam_tf1": (1,),
    "escape_room/metagrad_no_cv_no_pipeline": (13,), "cleanup/metagrad": (1, 2), "cleanup/metagrad_explore": (5,),
    "cleanup/metagrad_no_entropy": (1,), "cleanup/metagrad_unrolled": (1,), "cleanup/central": (1,),
    "cleanup/metagrad_10x10": (7,), "gtb/free_market_trunk_minibatches": (1,),
    "gtb/metagrad_trace": (5, 6), "gtb/metagrad_trace_minibatches": (1,), "gtb/metagrad_trace_network": (6,),
    "gtb/metagrad_trace_returns": (6,), "gtb/metagrad_trace_explore_anneal": (6,), "gtb/metagrad_weights": (6,),
    "gtb/metagrad_chain": (6,), "gtb/metagrad_direct": (6,), "gtb/metagrad_level": (6,),
    "gtb/metagrad_network_critic": (6,), "gtb/metagrad_step": (1,), "gtb/metagrad_step_network": (13,),
    "gtb/metagrad_step_baseline": (6,), "gtb/metagrad_step_carry": (1,), "gtb/metagrad_step_epochs": (5,),
    "gtb/metagrad_step_unrolled": (1,), "gtb/metagrad_step_coin_floor": (1,), "gtb/metagrad_no_cv": (6,),
    "gtb/metagrad_no_cv_step": (6,), "gtb/metagrad_after_free_market": (1,),
}  # fmt: skip

CASES: dict[str, AnyConfig] = {
    (full := f"{game}/{name}"): replace(config, seeds=_SEEDS.get(full, config.seeds))
    for game, cases in (("escape_room", ROOM), ("cleanup", CLEANUP), ("gtb", GTB))
    for name, config in cases.items()
}

#: What the stored configurations are written as differences from.
DEFAULTS: dict[str, AnyConfig] = {"escape_room": Config(), "cleanup": CleanupConfig(), "gtb": EconomyConfig()}

#: Cases whose agents start as those of another run after :data:`ITERATIONS`.
ADOPTED: dict[str, AnyConfig] = {"gtb/metagrad_after_free_market": replace(GTB["free_market"], seeds=(1,))}
