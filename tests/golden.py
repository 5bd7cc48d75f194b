"""Replays of recorded traces of the reference games, one function a trace format."""

import json
from pathlib import Path

import numpy as np

import fastenvs
from fastenvs.cleanup import config as cleanup
from fastenvs.grid import GTB_MAPS


def find_traces(folders):
    """Traces below ``folders`` by test id, ``game/trace-name``; a file that is found twice counts once."""
    traces, seen = {}, set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of traces: {folder}")
        for path in sorted(folder.rglob("*.npz")):
            config = read_config(path)
            if config is None or path.resolve() in seen:
                continue
            seen.add(path.resolve())
            key = f"{game_of(config)}/{config.get('name', path.stem)}"
            while key in traces:
                key += "+"
            traces[key] = path
    return traces


def read_config(path: Path):
    """Configuration of a trace, or None for an archive that is not a trace."""
    with np.load(path) as archive:
        if "config_json" not in archive.files:
            return None
        return json.loads(str(archive["config_json"]))


def game_of(config):
    """``escape_room`` for the format ``escape-room-trace-1``."""
    return config["format"].rsplit("-trace-", 1)[0].replace("-", "_")


def replay_escape_room(config, trace):
    """Play a trace with autoreset; starts are handed in as draws."""
    options = {key: config[key] for key in ("n_agents", "min_at_lever", "max_steps", "randomize")}
    env = fastenvs.make("escape_room", 1, seed=0, **options)
    draws = trace["start_state"][:, None]

    def draw(t):
        return {"place": draws[t]} if config["randomize"] and t < len(draws) else None

    obs, _ = env.reset(options={"draws": draw(0)})
    levels = _level_table(config.get("incentive_levels"))
    for t, actions in enumerate(trace["actions"]):
        if levels is not None:
            paid = levels[trace["designer_action"][t]][actions]
            np.testing.assert_array_equal(paid, trace["incentives"][t], err_msg=f"step {t}")
        np.testing.assert_array_equal(env.state.place[0], trace["start_state"][t], err_msg=f"step {t}")
        np.testing.assert_array_equal(env.state.time[0], trace["step_in_episode"][t])
        np.testing.assert_array_equal(obs["agents"][0], trace["start_obs"][t])
        np.testing.assert_array_equal(obs["designer"][0], trace["start_designer_obs"][t])
        obs, rewards, terminated, truncated, info = env.step(actions[None], draws=draw(t + 1))
        done = terminated[0] or truncated[0]
        np.testing.assert_array_equal(rewards[0], trace["rewards"][t], err_msg=f"step {t}")
        assert info["designer_reward"][0] == trace["designer_reward"][t]
        assert info["door_open"][0] == trace["door_open"][t]
        assert done == trace["done"][t], f"step {t}"
        assert terminated[0] == (trace["door_open"][t] and (actions == 2).any())
        last = info["final_obs"] if done else obs
        np.testing.assert_array_equal(last["agents"][0], trace["next_obs"][t])
        np.testing.assert_array_equal(last["designer"][0], trace["next_designer_obs"][t])
        if not done:
            np.testing.assert_array_equal(env.state.place[0], trace["next_state"][t])


def _level_table(levels):
    """Incentives of every designer action; None without levels, or where the learner's packages are not installed."""
    if levels is None:
        return None
    try:
        from metagrad.designers import Categorical
    except ImportError:
        return None
    return Categorical(tuple(levels)).table(3)


def used_draws(env, draws):
    """Those of the recorded draws that the environment makes under its options; it refuses others."""
    return {name: values for name, values in draws.items() if name in env.draw_shapes}


def replay_gtb(config, trace):
    """Feed inputs and draws; compare state, events, observations, rewards and final metrics."""
    skip = {"format", "name", "seed", "policy_seed", "policy", "warm_episodes", "height", "width"}
    options = {key: value for key, value in config.items() if key not in skip}
    mode = options["tax_mode"]
    options["anneal"] = None if options["anneal"] is None else tuple(options["anneal"])
    options["fixed_rates"] = tuple(options["fixed_rates"]) if mode == "fixed" else None
    if options["map"] not in GTB_MAPS:
        options["map"] = _gtb_map(trace)
    env = fastenvs.make("gtb", 1, seed=0, autoreset="disabled", **options)
    _start_gtb(env, config, trace)
    steps = len(trace["act_agents"])
    for t in range(steps):
        if mode == "external" and trace["ext_set"][t]:
            _set_external(env, trace["ext_rates"][t])
        if mode == "planner":
            env.choose_rates(trace["act_planner"][t][None])
        draws = {
            "gather_order": trace["order_gather"][t][None],
            "collect": trace["bonus_draw"][t][None],
            "regrow": np.stack([trace["respawn_stone"][t], trace["respawn_wood"][t]])[None],
        }
        obs, _, terminated, truncated, info = env.step(trace["act_agents"][t][None], draws=used_draws(env, draws))
        where = f"step {t}"
        assert (terminated[0] or truncated[0]) == trace["done"][t], where
        _compare_state(env, {name: trace[name][t] for name in _GTB_STATE}, where)
        _compare_events(env, info, trace, t, where)
        _compare_observations(env, obs, trace, t + 1, where)
        np.testing.assert_allclose(env.state.clock.energy_weight[0], trace["energy_weight"][t], rtol=1e-12)
    metrics = env.metrics(0)
    names, values = trace["final_metric_names"], trace["final_metric_values"]
    assert metrics.keys() == set(names.tolist())
    for name, value in zip(names.tolist(), values, strict=True):
        np.testing.assert_allclose(metrics[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def _gtb_map(trace):
    """The map of a trace as text."""
    cells = np.full(trace["water"].shape, " ")
    for name, symbol in (("source_wood", "W"), ("source_stone", "S"), ("water", "@")):
        cells[trace[name] > 0] = symbol
    return "\n".join("".join(row) for row in cells) + "\n"


def _set_external(env, rates):
    """What ``set_rates`` does, but the reference takes rates above 1 as well."""
    if rates.max() <= 1 and rates.min() >= 0:
        env.set_rates(rates)
    else:
        env.state.rates.external[:] = rates
        env.state.taxes.live[:] = rates * env.state.rates.cap[:, None]


_GTB_STATE = (
    "wood", "stone", "house_owner", "loc", "inventory", "escrow", "labor", "price_history", "open_orders",
    "tax_cycle_pos", "last_coin", "last_income", "last_marginal_rate", "rates_live", "rates_shown", "rate_index",
    "rate_cap", "income_now", "utility", "welfare", "productivity", "equality",
)  # fmt: skip
_EXACT = {"rtol": 0, "atol": 0}
_DOUBLE = {"rtol": 0, "atol": 1e-9}
_SINGLE = {"rtol": 2e-7, "atol": 1e-5}  # and a last bit of large single-precision numbers


def _start_gtb(env, config, trace):
    """Bring in what survives resets, reset with the recorded draws, and compare the start."""
    np.testing.assert_allclose(env.options.cutoffs, trace["bracket_cutoffs"], rtol=1e-12)
    if config["tax_mode"] == "planner":
        np.testing.assert_allclose(env.options.rate_choices, trace["rate_choices"], rtol=1e-12)
    assert env.n_actions == trace["n_agent_actions"]
    assert env.options.cells.shape == (config["height"], config["width"])
    state = env.state
    state.clock.completed[:] = trace["init_completions"]
    state.clock.positive_steps[:] = trace["init_positive_steps"]
    state.rates.external[:] = trace["init_external_rates"]
    state.rates.cap[:] = trace["init_rate_cap_in_reset_obs"]
    if config["tax_mode"] == "external":
        _set_external(env, trace["init_external_rates"])
    elif config["tax_mode"] != "planner":
        cap = trace["init_rate_cap_in_reset_obs"]
        state.taxes.live[:] = np.minimum(env._rate_config.fixed, cap)
    draws = {
        "location": trace["init_loc"][None],
        "build_skill": trace["init_build_draw"][None],
        "bonus": trace["init_bonus_prob"][None],
    }
    if config["fixed_four"]:
        draws["agent_order"] = trace["init_agent_order"][None]
    obs, _ = env.reset(options={"draws": used_draws(env, draws)})
    np.testing.assert_allclose(state.agents.pay[0], trace["init_build_pay"], **_DOUBLE)
    source = state.world.cells[0]
    np.testing.assert_array_equal(source[..., 4], trace["source_stone"])
    np.testing.assert_array_equal(source[..., 5], trace["source_wood"])
    np.testing.assert_array_equal(source[..., 3], trace["water"])
    _compare_state(env, {name: trace[f"init_{name}"] for name in _GTB_STATE}, "reset")
    np.testing.assert_allclose(state.rates.cap[0], trace["init_rate_cap"], **_DOUBLE)
    _compare_observations(env, obs, trace, 0, "reset")


def _compare_state(env, want, where):
    world, agents, books, taxes, rates, _, clock, _ = env.state
    cells = world.cells[0]
    owner = cells[..., 6].astype(int)
    got = {
        "wood": cells[..., 1],
        "stone": cells[..., 0],
        "house_owner": np.where(owner > 0, owner - 2, -1),
        "loc": agents.loc[0],
        "inventory": np.column_stack([agents.coin[0], agents.units[0]]),
        "escrow": np.column_stack([agents.escrow_coin[0], agents.escrow_units[0]]),
        "labor": agents.labor[0],
        "open_orders": books.n_open[0],
        "tax_cycle_pos": taxes.position[0],
        "last_coin": taxes.last_coin[0],
        "last_income": taxes.last_income[0],
        "last_marginal_rate": taxes.last_marginal[0],
        "rates_live": taxes.live[0],
        "rates_shown": taxes.shown[0],
        "rate_index": taxes.choice[0],
        "rate_cap": rates.cap[0],
        "income_now": agents.coin[0] + agents.escrow_coin[0] - taxes.last_coin[0],
        "utility": clock.utility[0],
        "welfare": clock.welfare[0],
        "productivity": clock.productivity[0],
        "equality": clock.equality[0],
        "price_history": books.history[0],
    }
    for name, value in got.items():
        expected = want[name].sum(1) if name == "price_history" else want[name]
        integer = np.asarray(expected).dtype.kind in "iub"
        np.testing.assert_allclose(value, expected, **(_EXACT if integer else _DOUBLE), err_msg=f"{name}, {where}")
    assert (cells[..., 2] == (owner > 0)).all(), where


def _compare_events(env, info, trace, t, where):
    for name in ("built", "gathered"):
        np.testing.assert_array_equal(info[name][0], trace[name][t], err_msg=f"{name}, {where}")
    n = int(info["n_trades"][0])
    np.testing.assert_array_equal(
        info["trades"][0, :n], [r for r in trace["trades"][t] if r[0] >= 0] or np.empty((0, 8))
    )
    from fastenvs.market import ASK, BID, decode

    orders = [
        (good, 1 - side, *order) for good in (0, 1) for side in (BID, ASK)
        for order in decode(env.state.books, 0, good, side)
    ]  # fmt: skip
    want = [tuple(r) for r in trace["orders"][t].tolist() if r[0] >= 0]
    assert len(orders) == trace["n_orders_open"][t]
    assert [tuple(o) for o in orders] == want, where
    np.testing.assert_allclose(info["reward"][0], trace["reward_agents"][t], **_DOUBLE, err_msg=where)
    np.testing.assert_allclose(info["designer_reward"][0], trace["reward_planner"][t], **_DOUBLE, err_msg=where)
    assert info["tax_day"][0] == trace["tax_day"][t]
    if trace["tax_day"][t]:
        np.testing.assert_allclose(info["tax_income"][0], trace["tax_income"][t], **_DOUBLE, err_msg=where)
        np.testing.assert_allclose(info["tax_paid"][0], trace["tax_paid"][t], **_DOUBLE, err_msg=where)
        np.testing.assert_allclose(info["tax_rebate"][0], trace["lump_sum"][t], **_DOUBLE, err_msg=where)


def _compare_observations(env, obs, trace, step, where):
    stored = np.flatnonzero(trace["obs_steps"] == step)
    if not len(stored):
        return
    row = stored[0]
    agents, designer = obs["agents"], obs["designer"]
    maps = np.moveaxis(agents["map"][0], -1, 1)
    full = env.options.full_view
    order = [0, 1, 2, 3, 4, 5] if full else [0, 1, 2, 3, 4, 5, 8]
    got = {
        "obs_agent_map": maps[:, order],
        "obs_agent_idx": maps[:, [6, 7]],
        "obs_agent_mask": agents["mask"][0],
        "obs_agent_flat": agents["flat"][0],
        "obs_planner_flat": designer["flat"][0],
        "obs_planner_per_agent": designer["agents"][0],
        "obs_planner_mask": designer["mask"][0].ravel(),
        "obs_time": agents["flat"][0, :1, -4 if full else -6],
    }
    if env.options.planner_sees_map:
        planner = np.moveaxis(designer["map"][0], -1, 0)
        got |= {"obs_planner_map": planner[:6], "obs_planner_idx": planner[6:8]}
    for name, value in got.items():
        exact = value.dtype == np.uint8
        np.testing.assert_allclose(
            value.astype(np.float64), trace[name][row], **(_EXACT if exact else _SINGLE), err_msg=f"{name}, {where}"
        )


def replay_cleanup(config, trace):
    """All episodes of a trace: state, draws' outcomes, rewards, extra outputs and every image."""
    sets = {tuple(base): name for name, base in cleanup.ACTION_SETS.items()}
    p, penalty = config["cleanup_params"], config.get("cleaning_penalty", 0)

    def point(name):
        return None if config.get(name) is None else tuple(config[name])

    env = fastenvs.make(
        "cleanup", 1, seed=0, autoreset="disabled", map="\n".join(config["map"]), n_agents=config["n_agents"],
        steps=config["episode_length"], actions=sets[tuple(config["action_map"])], view_size=config["view_size"],
        planner_view_size=config.get("planner_view_size"), planner_ref_point=point("planner_ref_point"),
        global_ref_point=point("global_ref_point"),
        depletion=p["thresholdDepletion"], restoration=p["thresholdRestoration"],
        apple_rate=p["appleRespawnProbability"], waste_rate=p["wasteSpawnProbability"],
        beam_width=config["beam_width"], shuffle_spawn=config["shuffle_spawn"],
        random_orientation=config["random_orientation"], cleaning_penalty=penalty,
    )  # fmt: skip
    width = len(config["map"][0])
    for name, points in (("apple_cells", "apple_points"), ("waste_cells", "waste_points")):
        np.testing.assert_array_equal(trace[name].reshape(-1, 2) @ [width, 1], getattr(env.config, points))
    for episode in range(config["episodes"]):
        t = {name: array[episode] for name, array in trace.items() if array.shape[:1] == (config["episodes"],)}
        rounds = [
            {"apple": t["apple_u"][k][None], "waste_order": t["waste_order"][k][None], "waste": t["waste_u"][k][None]}
            for k in range(len(t["apple_u"]))
        ]
        start = {}  # what is not drawn has to come out right by itself
        if config["shuffle_spawn"]:
            start["spawn"] = (t["agent_pos"][0] @ [width, 1])[None]
        if config["random_orientation"]:
            start["heading"] = t["agent_dir"][0][None]
        obs, _ = env.reset(options={"draws": {**start, **rounds[0]}})
        _compare_cleanup(env, obs, t, 0)
        for k, actions in enumerate(t["actions"]):
            draws = {"move_order": t["move_order"][k][None], **rounds[k + 1]}
            obs, rewards, terminated, truncated, info = env.step(actions[None], draws=draws)
            _compare_cleanup(env, obs, t, k + 1)
            np.testing.assert_array_equal(rewards[0], t["rewards"][k], err_msg=f"step {k}")
            assert info["designer_reward"][0] == (t["rewards"][k] + penalty * t["cleaned_flag"][k]).sum()
            for mine, theirs in (
                ("n_cleaned", "n_cleaned"), ("cleaned", "cleaned_flag"), ("collected", "collected"),
                ("action_type", "action_type"),
            ):  # fmt: skip
                np.testing.assert_array_equal(info[mine][0], t[theirs][k], err_msg=f"{theirs}, step {k}")
            assert (terminated[0] or truncated[0]) == t["done"][k]


def _compare_cleanup(env, obs, trace, frame):
    s, shape = env.state, env.options.symbols.shape
    beams = np.array([0, 0, 0, 0, 0, 0, 2, 1])[s.beam[0]]
    for mine, name in (
        (s.content[0].reshape(shape), "world"),
        (env.locations[0], "agent_pos"),
        (s.heading[0], "agent_dir"),
        (beams.reshape(shape), "beams"),
        (obs["agents"][0], "obs"),
        (obs["designer"][0], "planner_obs"),
        (s.p_apple[0], "p_apple"),
        (s.p_waste[0], "p_waste"),
    ):
        np.testing.assert_array_equal(mine, trace[name][frame], err_msg=f"{name}, frame {frame}")


REPLAYS = {"cleanup": replay_cleanup, "escape_room": replay_escape_room, "gtb": replay_gtb}
