"""Inputs that once crashed, corrupted or misled, and hypothesis-driven ones of the same kinds, over all games."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hostile import GAME_TRIES, OPTIONS, Wrong, actions_of, attempt, clear, go_on_elsewhere, make, same, step_tree
from hostile_mechanisms import MECHANISM_TRIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastenvs
from fastenvs import jit, metrics, rng, tax
from fastenvs.grid import GTB_MAPS, map_text, read_map
from fastenvs.market import Market
from fastenvs.vecenv import iter_leaves

FEW = settings(
    deadline=None, max_examples=15 if jit.PURE_PYTHON else 60, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
all_games = pytest.mark.parametrize("game", fastenvs.games())
compiled = pytest.mark.skipif(jit.PURE_PYTHON, reason="nothing is compiled")


@all_games
@pytest.mark.parametrize("kind", GAME_TRIES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_game_takes_or_refuses(game, kind, seed):
    GAME_TRIES[kind](game, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", MECHANISM_TRIES)
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mechanism_takes_or_refuses(kind, seed):
    MECHANISM_TRIES[kind](np.random.default_rng(seed))


@all_games
def test_the_tries_notice_what_is_wrong(game):
    """A riddle, a refusal that changed something, and another outcome are all found."""
    env = make(game)
    env.reset()

    def half_done():
        env.step(actions_of(env, np.random.default_rng(0)))
        raise ValueError("actions are wrong")

    with pytest.raises(Wrong, match="changed"):
        attempt(env, half_done, ("actions",))
    with pytest.raises(Wrong, match="riddle"):
        clear(TypeError("object of type 'float' has no len()"), ("object",))
    with pytest.raises(Wrong, match="riddle"):
        clear(ValueError("something is wrong"), ("actions",))
    with pytest.raises(Wrong, match="differs"):
        same({"x": np.zeros(2)}, {"x": np.ones(2)}, "x")


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("game", "odd", "plain"),
    [
        ("escape_room", {"n_agents": np.uint8(6)}, {"n_agents": 6}),
        ("escape_room", {"n_agents": np.int16(20), "min_at_lever": np.array(3)}, {"n_agents": 20, "min_at_lever": 3}),
        ("cleanup", {"planner_ref_point": np.array([3, 3])}, {"planner_ref_point": (3, 3)}),
        ("gtb", {"tax_mode": "fixed", "fixed_rates": np.full(7, 0.3)}, {"tax_mode": "fixed", "fixed_rates": [0.3] * 7}),
        ("gtb", {"start_coin": 10, "n_agents": np.uint8(4)}, {"start_coin": 10.0}),
        ("gtb", {"map": "pure_mixed_15"}, {"map": GTB_MAPS["pure_mixed_15"]}),
    ],
)
def test_equal_options_in_other_types(game, odd, plain):
    """They play alike, and take each other's snapshots."""
    left, right = (fastenvs.make(game, 8, seed=1, **options) for options in (odd, plain))
    same({"obs": left.reset()[0]}, {"obs": right.reset()[0]}, "reset")
    for t in range(3):
        actions = actions_of(left, np.random.default_rng(t))
        same(step_tree(left.step(actions)), step_tree(right.step(actions)), f"step {t}")
    right.restore(left.snapshot())


@pytest.mark.parametrize(
    ("game", "options", "match"),
    [
        ("gtb", {"tax_mode": "fixed", "fixed_rates": 0.3}, "fixed_rates must be a sequence of numbers"),
        ("gtb", {"fixed_four": "no"}, "fixed_four must be True or False"),
        ("escape_room", {"randomize": "no"}, "randomize must be True or False"),
        ("cleanup", {"shuffle_spawn": 1}, "shuffle_spawn must be True or False"),
        ("cleanup", {"apple_rate": 0.5 + 0j}, "apple_rate must be a number"),
        ("cleanup", {"actions": ["all"]}, "actions must be one of"),
        ("cleanup", {"view_size": 10**6}, "GB"),
        ("gtb", {"tax_mode": "planner", "rate_step": 1e-12}, "rate_step"),
        ("gtb", {"brackets": "log", "n_brackets": 2000}, "n_brackets must be at most"),
        ("gtb", {"steps": 2**40}, "steps must be at most"),
        ("escape_room", {"num_envs": 10**12}, "num_envs must be at most"),
        ("escape_room", {"num_envs": 10**9, "n_agents": 10**4}, "GB"),
        ("escape_room", {"num_envs": 2.0}, "num_envs must be an integer"),
        ("escape_room", {"copy": "no"}, "copy must be True or False"),
        ("escape_room", {"num_threads": True}, "num_threads must be an integer"),
        ("escape_room", {"autoreset": np.array(["same_step"])}, "autoreset must be one of"),
        ("escape_room", {"seed": 1.0}, "a seed must be an integer"),
        ("escape_room", {"seed": "12"}, "a seed must be an integer"),
        ("gtb", {"preset": ["paper"]}, "no GTB preset"),
    ],
)
def test_natural_mistakes_are_named(game, options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        fastenvs.make(game, **{"num_envs": 2, **options})


def test_a_market_of_small_integers():
    """Sizes were once computed in the option's own type."""
    m, plain = Market(1, np.uint8(60)), Market(1, 60)
    for each in (m, plain):
        each.goods.coin[:], each.goods.units[:] = 50, 5
    for t in range(8):
        orders = np.random.default_rng(t).integers(-1, 11, (2, 1, 60, 2))
        assert m.step(*orders) == plain.step(*orders)
    for a, b in zip(m.books, plain.books, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AttributeError):
        m.max_price = 100


# ---------------------------------------------------------------------- what is handed out


@all_games
def test_dicts_and_arrays_that_are_handed_out_are_not_the_environments(game):
    env, twin = make(game, 4), make(game, 4)
    for e in (env, twin):
        e.reset()
    for t in range(12):
        actions = actions_of(env, np.random.default_rng(t))
        obs, *_, info = env.step(actions)
        same(step_tree(twin.step(actions)), step_tree((obs, *_, info)), f"step {t}")
        assert obs is not env.obs
        for tree in (obs, info["final_obs"], info):
            for key in list(tree):
                if isinstance(tree[key], np.ndarray):
                    tree[key] = tree[key].astype(np.float32)
                else:
                    tree[key].clear()
            tree.popitem()
    agents = env.obs["agents"]
    agents = agents if isinstance(agents, np.ndarray) else next(iter(agents.values()))
    agents.shape = (-1,)  # of what is handed out, not of the buffer
    left, right = env.step(actions), twin.step(actions)
    np.testing.assert_array_equal(left[1], right[1])
    same(env.snapshot(), twin.snapshot(), "after a change of shape")
    with pytest.raises(AttributeError):
        env.num_envs = 8


@all_games
def test_flags_that_are_written_to(game):
    """``done = terminated; done |= truncated`` must not decide the next call, nor a reset by that very array."""
    env, twin = (make(game, 6, autoreset="disabled") for _ in range(2))
    for e in (env, twin):
        e.reset()
    for t in range(20):
        actions = actions_of(env, np.random.default_rng(t))
        left, right = env.step(actions), twin.step(actions)
        same(step_tree(left), step_tree(right), f"step {t}")
        done = left[2]
        done |= left[3]
        if done.any() and t % 3 == 0:
            mask = done.copy()
            same(
                {"o": env.reset(options={"reset_mask": done})[0]},
                {"o": twin.reset(options={"reset_mask": mask})[0]},
                "",
            )
        else:
            left[2][:] = True


@all_games
def test_final_observations_are_zero_where_nobody_ended(game):
    env = make(game, 7)
    env.reset()
    ended = 0
    for t in range(24):
        *_, info = env.step(actions_of(env, np.random.default_rng(t)))
        ended += info["_final_obs"].sum()
        for name, array in iter_leaves(info["final_obs"]):
            assert not array[~info["_final_obs"]].any(), name
        if t % 5 == 0:
            env.reset(options={"reset_mask": np.arange(7) < t % 4})
    assert ended > 7


@all_games
def test_info_of_a_call_that_resets_is_of_the_new_episode(game):
    env = make(game, 5, autoreset="next_step")
    env.reset()
    resets = 0
    for t in range(30):
        reset = env._done.copy()
        *_, info = env.step(actions_of(env, np.random.default_rng(t)))
        resets += reset.sum()
        for name in (
            "door_open",
            "n_cleaned",
            "cleaned",
            "collected",
            "built",
            "gathered",
            "n_trades",
            "tax_day",
            "reward",
        ):
            assert not info.get(name, np.zeros(5))[reset].any(), name
        if game == "gtb":
            assert not info["labor"][reset].any()
            assert not info["units"][reset].any()
            np.testing.assert_array_equal(info["productivity"][reset], env.state.agents.coin[reset].sum(1))
            np.testing.assert_array_equal(info["welfare"][reset], env.state.clock.welfare[reset])
    assert resets


def test_metrics_of_the_finished_episode():
    envs = [fastenvs.make("gtb", 2, seed=3, steps=12, autoreset=mode) for mode in ("same_step", "disabled")]
    for env in envs:
        env.reset()
    with pytest.raises(ValueError, match="finished no episode"):
        envs[0].metrics(1, final=True)
    for t in range(12):
        actions = actions_of(envs[0], np.random.default_rng(t))
        for env in envs:
            env.step(actions)
    want = envs[1].metrics(1)
    assert want["endogenous/0/Labor"] > 0
    assert envs[0].metrics(1)["endogenous/0/Labor"] == 0
    np.testing.assert_equal(envs[0].metrics(1, final=True), want)
    for bad in (2, -1, 1.0, True):
        with pytest.raises(ValueError, match="env must be an integer from 0 to 1"):
            envs[0].metrics(bad)
        with pytest.raises(ValueError, match="env"):
            envs[0].render(bad)


# ---------------------------------------------------------------------- copies


@all_games
@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_copies_go_on_as_the_original(game, mode):
    for played in (None, 0, 4):
        env = make(game, 5, autoreset=mode)
        if played is not None:
            env.reset()
        for t in range(played or 0):
            env.step(actions_of(env, np.random.default_rng(t)))
        for other in (copy.copy(env), copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
            one = copy.deepcopy(env)
            if played is None:
                with pytest.raises(RuntimeError, match="reset"):
                    other.step(actions_of(env, np.random.default_rng(0)))
                same({"obs": one.reset()[0]}, {"obs": other.reset()[0]}, "reset")
            for t in range(10):
                actions = actions_of(env, np.random.default_rng(100 + t))
                same(step_tree(one.step(actions)), step_tree(other.step(actions)), f"step {t}")


@all_games
def test_an_environment_sent_to_a_spawned_process(game, tmp_path, monkeypatch):
    options = {}
    if "map" in OPTIONS.get(game, {}):  # a map that the other process cannot read
        (tmp_path / "map.txt").write_text(OPTIONS[game]["map"].replace(";", "\n"))
        monkeypatch.chdir(tmp_path)
        options["map"] = "map.txt"
    env = make(game, 3, **options)
    env.reset()
    actions = [actions_of(env, np.random.default_rng(t)) for t in range(8)]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    if options:
        (tmp_path / "map.txt").unlink()
    child = context.Process(target=go_on_elsewhere, args=(env, actions, queue))
    child.start()
    theirs = queue.get(timeout=120)
    child.join(20)
    for mine, other in zip((step_tree(env.step(a)) for a in actions), theirs, strict=True):
        for name, array in iter_leaves(mine):
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_copies_of_mechanisms_share_nothing():
    m = Market(2, 3)
    m.goods.coin[:] = 5
    p = tax.PeriodicTax(2, 3, [0.0, 10.0])
    p.set_rates([0.1, 0.2])
    p.begin(np.ones((2, 3)))
    for how in (copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        other, taxed = how(m), how(p)
        assert not np.shares_memory(other.goods.coin, m.goods.coin)
        assert not np.shares_memory(taxed.taxes.live, p.taxes.live)
        assert (other.goods.coin == 5).all()
        taxed.step(np.full((2, 3), 2.0))


# ---------------------------------------------------------------------- inputs of calls


def test_a_strided_reset_mask_in_the_economy():
    env = make("gtb", 4)
    env.reset()
    for t in range(5):
        env.step(actions_of(env, np.random.default_rng(t)))
    masks = np.zeros((4, 2), bool)
    masks[::2, 0] = True
    env.reset(options={"reset_mask": masks[:, 0]})
    assert env.state.clock.time.tolist() == [0, 5, 0, 5]
    env.restore(env.snapshot())  # orders, escrow and all else agree
    env.reset(options={"reset_mask": [False, True, False, False]})
    with pytest.raises(ValueError, match="reset_mask must be bool"):
        env.reset(options={"reset_mask": np.array([1, 0, 0, 1])})


@pytest.mark.parametrize(
    ("options", "draws", "match"),
    [
        ({"fixed_four": True}, {"build_skill": np.ones((2, 4))}, "'build_skill' is only seen under fixed_four"),
        ({"fixed_four": True}, {"location": [[[0, 0], [1, 2], [3, 3], [4, 4]]] * 2}, "'location' would not be used"),
        ({"gather_skill": "none"}, {"bonus": np.zeros((2, 4))}, "'bonus' would not be used"),
        ({"gather_skill": "none"}, {"collect": np.zeros((2, 4))}, "'collect' would not be used"),
        ({}, {"regrow": np.zeros((2, 2, 15, 15))}, "'regrow' would not be used: it is made by a step"),
        ({"fixed_four": False}, {"agent_order": [[0, 1, 2, 3]] * 2}, "'agent_order' would not be used"),
        ({"build_skill": "none", "fixed_four": False}, {"build_skill": np.ones((2, 4))}, "'build_skill' would not"),
        ({"fixed_four": False}, {"build_skill": np.full((2, 4), np.nan)}, "'build_skill' at .* is nan"),
        ({"fixed_four": False}, {"build_skill": np.full((2, 4), np.inf)}, "'build_skill' at .* is inf"),
        ({}, {"gather_order": np.full((2, 4), np.nan)}, "'gather_order' at .* is nan"),
        ({}, {"gather_order": [["a"] * 4] * 2}, "'gather_order' must be numbers"),
        ({}, {"regrow": np.zeros((2, 2, 15, 15), complex)}, "'regrow' must be numbers"),
    ],
)
def test_draws_that_would_not_be_used_as_given_are_refused(options, draws, match):
    env = fastenvs.make("gtb", 2, **options)
    before = copy.deepcopy(env).reset()[0]
    with pytest.raises(ValueError, match=match):
        env.reset(options={"draws": draws})
    assert not set(draws) & set(env.draw_shapes) or "would not be used" not in match or "made by" in match
    same({"o": env.reset()[0]}, {"o": before}, "a refused reset drew numbers")


@all_games
def test_draws_of_another_call_are_refused(game):
    env = make(game, 2, autoreset="disabled")
    env.reset()
    for name, spec in env._draw_specs.items():
        values = np.broadcast_to(np.arange(spec.shape[0]) if name.endswith("order") else 1, (2, *spec.shape))
        if "step" not in spec.made_by and name in env.draw_shapes and name != "location" and name != "spawn":
            with pytest.raises(ValueError, match=f"{name}.* would not be used: it is made by a reset"):
                env.step(np.zeros((2, env.n_agents), int), draws={name: values})
        if "reset" not in spec.made_by and name in env.draw_shapes:
            with pytest.raises(ValueError, match=f"{name}.* would not be used: it is made by a step"):
                env.reset(options={"draws": {name: values}})


def test_rates_that_are_not_real_numbers_are_refused():
    env = fastenvs.make("gtb", 2, seed=0)
    env.reset()
    for bad in (
        np.full(7, 0.5 + 0.1j),
        ["0.5"] * 7,
        [None] * 7,
        [True] * 7,
        np.ma.masked_array(np.full(7, 0.5), [1] * 7),
    ):
        with pytest.raises(TypeError, match="rates must"):
            env.set_rates(bad)
    with pytest.raises(ValueError, match=r"rates at .* is nan"):
        env.set_rates(np.full(7, np.nan))
    with pytest.raises(TypeError, match="coin must be real numbers"):
        metrics.equality(np.ones((1, 3)) * 1j)
    with pytest.raises(TypeError, match="income must be real numbers"):
        tax.taxes_due([["1"]], [0.1], [0.0])
    with pytest.raises(ValueError, match=r"actions|action"):
        env.step(np.full((2, 4), 2**64 - 1, np.uint64))
    for episodes in ([1, 2, 3], "x", [[1], [2]]):
        with pytest.raises(ValueError, match="episodes"):
            env.reset_completed(episodes)


# ---------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    ("game", "name", "index", "value", "match"),
    [
        ("escape_room", "state/place", (1, 2), 200, r"'state/place' of copy 1 at \[2\] is 200"),
        ("escape_room", "state/time", (2,), 2**30, "'state/time' of copy 2"),
        ("cleanup", "state/cell", (1, 0), 10**6, r"'state/cell' of copy 1 at \[0\] is 1000000"),
        ("cleanup", "state/cell", (1, 0), 0, "'state/cell' of copy 1 .*: a wall"),
        ("cleanup", "state/heading", (0, 1), 9, "'state/heading' of copy 0"),
        ("cleanup", "state/n_waste", (0,), 3000, "'state/n_waste' of copy 0"),
        ("cleanup", "state/n_beam_cells", (0,), 2**30, "'state/n_beam_cells' of copy 0"),
        ("cleanup", "state/content", (0, 0), 0, "'state/content' of copy 0"),
        ("cleanup", "state/occupant", (0, 8), 3, "'state/occupant' of copy 0"),
        ("gtb", "state/agents/loc", (1, 0, 0), 30_000, "'state/agents/loc' of copy 1"),
        ("gtb", "state/agents/coin", (1, 0), np.nan, "'state/agents/coin' of copy 1 .* is nan"),
        ("gtb", "state/clock/regrow_wait", (1,), -5, "'state/clock/regrow_wait' of copy 1"),
        ("gtb", "state/world/first_house", (1, 0), 3, "'state/world/first_house' of copy 1"),
        ("gtb", "state/world/first_house", (1, 0), 10**6, "'state/world/first_house' of copy 1"),
        ("gtb", "state/taxes/position", (0,), 900, "'state/taxes/position' of copy 0"),
        ("gtb", "state/books/n_keys", (0, 0, 0), 2**30, "'state/books/n_keys' of copy 0"),
        ("gtb", "state/books/n_keys", (0, 0, 0), 4, "'state/books/"),
        ("gtb", "state/books/n_trades", (0,), 5000, "'state/books/n_trades' of copy 0"),
        ("gtb", "state/books/own_depth", (0, 0, 0, 0, 1), 3, "'state/books/own_depth' of copy 0"),
        ("gtb", "state/world/cells", (0, 0, 0, 7), 250, "'state/world/cells' of copy 0"),
    ],
)
def test_an_impossible_snapshot_is_refused(game, name, index, value, match):
    env = make(game, 3)
    env.reset()
    before, bad = env.snapshot(), env.snapshot()
    bad[name][index] = value
    with pytest.raises(ValueError, match=match):
        env.restore(bad)
    same(before, env.snapshot(), "a refused snapshot")


def test_counts_that_survive_resets_stop_where_a_snapshot_may_have_them():
    """What was restored can be restored once more, however long it is played."""
    env = fastenvs.make("gtb", 2, seed=0, tax_mode="saez", steps=4, tax_period=2)
    env.reset()
    saved = env.snapshot()
    saved["state/clock/completed"][:] = saved["state/clock/positive_steps"][:] = 2_000_000_000
    saved["state/saez/appended"][:] = 2**62
    env.restore(saved)
    for t in range(20):
        env.step(np.random.default_rng(t).integers(0, env.n_actions, (2, 4)))
    after = env.snapshot()
    env.restore(after)
    assert (after["state/clock/completed"] == 2_000_000_000).all()
    pairs = 2**62 + 2 * 5 * 4  # of two tax days in five episodes; the place in the ring is that of the full count
    assert (after["state/saez/appended"] % 500 == pairs % 500).all()
    assert (after["state/saez/appended"] > 2**61).all()


def test_a_cycle_of_houses_is_refused():
    env = fastenvs.make("gtb", 2, seed=0, map="    ;    ;    ;    ", fixed_four=False, build_skill="none")
    env.reset()
    for _ in range(4):  # builds wherever it stands, then moves right
        env.state.agents.units[:] = 1
        env.step(np.ones((2, 4), int))
        env.step(np.random.default_rng(0).integers(env.n_actions - 4, env.n_actions, (2, 4)))
    saved = env.snapshot()
    env.restore(saved)
    assert (saved["state/agents/houses"] > 1).any()
    copy_, agent = np.argwhere(saved["state/agents/houses"] > 1)[0]
    first = saved["state/world/first_house"][copy_, agent] - 1
    saved["state/world/next_house"][copy_, first] = first + 1
    with pytest.raises(ValueError, match="first_house"):
        env.restore(saved)


@all_games
def test_all_integers_of_the_state_have_bounds(game):
    env = make(game, 2)
    bounds = env._state_bounds()
    leaves = dict(iter_leaves(env.state))
    assert bounds.keys() <= leaves.keys()
    assert not [n for n, a in leaves.items() if a.dtype.kind in "iu" and n not in bounds]


# ---------------------------------------------------------------------- maps


def test_maps_that_are_read_and_refused(tmp_path):
    text = "W S;  @\n"
    want = read_map(text, {})
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfW S\r\n  @\r\n")
    for source in ("﻿W S\r\n  @", tmp_path / "bom.txt", str(tmp_path / "bom.txt"), map_text(want)):
        np.testing.assert_array_equal(read_map(source, {}), want)
    assert read_map(" " * 300 + ";", {}).shape == (1, 300)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for source, match in (
        (" " * 300, "no such file exists.*as text has a line break"),
        (" " * 40_000 + "\n", "at most 32767 rows and columns, this one 1 x 40000"),
        (tmp_path, "is a folder"),
        (tmp_path / "binary", "not a text in UTF-8"),
        (tmp_path / "none", "no map is called"),
        ("W\x00;W ", "unprintable symbol"),
        ("\ud800;W", "unprintable symbol"),
        ("WW;W", "row 0 has 2 and row 1 has 1"),
        ("", "no map is called|folder"),
        (3, "map must be a name"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            read_map(source, {})


# ---------------------------------------------------------------------- threads and ends


@all_games
def test_two_threads_in_one_environment_are_told(game):
    env = make(game, 2)
    env.reset()
    inside, leave = threading.Event(), threading.Event()

    def slow():
        inside.set()
        leave.wait(20)

    env._prepare = slow
    thread = threading.Thread(target=env.step, args=(np.zeros((2, env.n_agents), int),))
    thread.start()
    assert inside.wait(20)
    try:
        for call in (env.reset, env.snapshot, env.close, lambda: env.step(np.zeros((2, env.n_agents), int))):
            with pytest.raises(RuntimeError, match="another thread is inside this"):
                call()
    finally:
        leave.set()
        thread.join()
    del env._prepare
    with pytest.raises(ValueError, match="shape"):
        env.step([[0]])
    env.step(np.zeros((2, env.n_agents), int))  # an error lets go


@all_games
def test_closing(game):
    with make(game, 2) as env:
        obs, _ = env.reset()
    kept = {k: v.copy() for k, v in iter_leaves({"o": obs})}
    env.close()
    for call in (env.reset, env.snapshot, lambda: env.step(np.zeros((2, env.n_agents), int))):
        with pytest.raises(RuntimeError, match=r"after close\(\)"):
            call()
    same({"o": obs}, {"o": obs}, "observations stay")
    assert all((v == kept[k]).all() for k, v in iter_leaves({"o": obs}))


# ---------------------------------------------------------------------- the mechanisms


def test_log_brackets_are_exact():
    assert tax.log_brackets(5, 15).tolist() == [0, 1.875, 3.75, 7.5, 15]
    assert tax.marginal_rate([[15.0]], [0, 0.1, 0.2, 0.3, 0.4], tax.log_brackets(5, 15)) == 0.4


def test_a_periodic_tax_does_not_tax_endowments():
    periodic = tax.PeriodicTax(1, 2, [0.0, 10.0], period=1)
    periodic.set_rates([0.5, 0.5])
    coin = np.full((1, 2), 100.0)
    with pytest.raises(RuntimeError, match="begin"):
        periodic.step(coin)
    frozen = coin.copy()
    frozen.flags.writeable = False
    periodic.begin(coin)
    for bad in (frozen, coin[:, ::-1], coin.astype(">f8"), coin.astype(np.float32), [[1.0, 2.0]]):
        with pytest.raises(TypeError, match="coin must be a writable"):
            periodic.step(bad)
    assert periodic.step(coin).all()
    assert (coin == 100).all()


def test_masks_are_bits_in_their_space():
    space = fastenvs.make("gtb", 1).single_observation_space
    assert space["agents"]["mask"].high.max() == space["designer"]["mask"].high.max() == 1


@pytest.mark.parametrize("seed", [np.uint64(7), np.array(7), 7, [7], np.array([7], ">u4")])
def test_seeds_of_any_integer_type(seed):
    for mine, plain in zip(rng.make_streams(seed, 3), rng.make_streams(7, 3), strict=True):
        np.testing.assert_array_equal(mine, plain)


# ---------------------------------------------------------------------- Numba's cache

PLAY = (
    "import fastenvs; e = fastenvs.make('escape_room', 2, seed=0); e.reset(); print(e.step([[0, 2]] * 2)[1].tolist())"
)


def _play(cache, prelude="", check=True):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", prelude + PLAY], env=env, capture_output=True, text=True, check=check)
    assert done.stdout == "[[-1.0, 10.0], [-1.0, 10.0]]\n"
    return done.stderr


@compiled
def test_no_place_for_the_cache(tmp_path):
    """Neither the folder that is named nor one beside the sources can be made."""
    (tmp_path / "file").write_text("")
    deny = (
        "import os; from numba.core import caching as c\n"
        "def ensure(self): raise OSError(30, 'Read-only file system')\n"
        "for kind in (c.InTreeCacheLocator, c.UserWideCacheLocator): kind.ensure_cache_path = ensure\n"
    )
    said = _play(tmp_path / "file" / "below", deny)
    assert said.count("RuntimeWarning") == 1
    assert "set NUMBA_CACHE_DIR" in said


KERNEL = """
import numpy as np
from fastenvs.jit import kernel

@kernel
def add(x):
    x[0] += 1
"""
ADD = "import numpy as np, small; x = np.zeros(1); small.add(x); print(x[0], sum(small.add.stats.cache_hits.values()))"


def _add(folder, prelude=""):
    """Cache hits of a process that runs a kernel once, and what it says."""
    (folder / "small.py").exists() or (folder / "small.py").write_text(KERNEL)
    path = os.pathsep.join([str(folder), os.path.dirname(os.path.dirname(fastenvs.__file__))])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", prelude + ADD], env=env, capture_output=True, text=True, check=True)
    result, hits = done.stdout.split()
    assert result == "1.0"
    return int(hits), done.stderr


@compiled
def test_a_kernel_is_compiled_again_when_what_it_calls_in_another_file_changes(tmp_path):
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").write_text("from small.outer import add")
    (package / "outer.py").write_text(
        "from fastenvs.jit import kernel\nfrom small.inner import one\n@kernel\ndef add(x):\n    x[0] += one()\n"
    )
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(fastenvs.__file__))])
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path}
    for number, hits in ((1, 0), (1, 1), (25, 0), (25, 1)):
        if not hits:
            (package / "inner.py").write_text(
                f"from fastenvs.jit import inline\n@inline\ndef one():\n    return {number}\n"
            )
        done = subprocess.run([sys.executable, "-c", ADD], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [f"{number}.0", str(hits)], done.stderr


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs resource limits")
def test_a_full_disk(tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    hits, said = _add(tmp_path, limit + "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); ")
    assert hits == 0
    assert said.count("RuntimeWarning") == 1
    assert "NUMBA_CACHE_DIR" in said
    assert _add(tmp_path) == (0, "")
    assert _add(tmp_path) == (1, "")


@compiled
def test_damaged_entries_of_the_cache_are_misses(tmp_path):
    assert _add(tmp_path) == (0, "")
    assert _add(tmp_path) == (1, "")
    damages = (
        ("nbc", lambda b: b[: len(b) // 2]),
        ("nbc", lambda b: b[:-99] + bytes([b[-99] ^ 1]) + b[-98:]),
        ("nbi", lambda b: b[: len(b) // 2]),
    )
    for suffix, damage in damages:
        (path,) = tmp_path.rglob(f"*.{suffix}")
        path.write_bytes(damage(path.read_bytes()))
        assert _add(tmp_path) == (0, "")
    assert _add(tmp_path) == (1, "")
