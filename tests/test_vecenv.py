"""What every game inherits: seeds, threads, autoreset, snapshots, validation. Runs over all games."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from hostile import OPTIONS

import fastenvs
from fastenvs import rng
from fastenvs.vecenv import copy_tree, iter_leaves

# Event arrays of info that a copy leaves at zero in a call in which it does not step.
QUIET = {
    "escape_room": ("door_open",),
    "cleanup": ("n_cleaned", "cleaned", "collected"),
    "gtb": ("built", "gathered", "n_trades", "tax_day", "reward"),
    "one_step_economy": ("tax_day", "reward"),
}

pytestmark = pytest.mark.parametrize("game", fastenvs.games())


def make(game, n, **options):
    return fastenvs.make(game, n, **{"seed": 5, **OPTIONS[game], **options})


def actions_for(env, steps, seed=0):
    """Actions ``[steps, N, A]`` that depend on the environment's index alone, not on N."""
    table = np.random.default_rng(seed).integers(0, env.n_actions, (steps, 64, env.n_agents))
    return table[:, np.arange(env.num_envs) % 64]


def flat(result):
    """Leaves of a step's result, copied; final observations only where they mean something."""
    obs, rewards, terminated, truncated, info = result
    info = dict(info)
    final, mask = info.pop("final_obs", {}), info.pop("_final_obs", None)
    tree = {"obs": obs, "rewards": rewards, "terminated": terminated, "truncated": truncated, "info": info}
    leaves = {name: array.copy() for name, array in iter_leaves(tree)}
    for name, array in iter_leaves(final):
        kept = array.copy()
        kept[~mask] = 0
        leaves[f"final/{name}"] = kept
    return leaves


def play(env, steps=12, seed=0):
    env.reset()
    return [flat(env.step(a)) for a in actions_for(env, steps, seed)]


def assert_same(left, right, rows=slice(None), other=slice(None)):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name][rows], b[name][other], err_msg=name)


def test_shapes_dtypes_and_spaces(game):
    env = make(game, 6)
    obs, info = env.reset(seed=0)
    assert info == {}
    assert env.observation_space.contains(obs)
    assert env.single_observation_space["designer"] == env.designer_space
    assert env.action_space.shape == env.buffers.actions.shape == (6, env.n_agents)
    obs, rewards, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs)
    assert (rewards.dtype, rewards.shape) == (np.float32, (6, env.n_agents))
    assert terminated.dtype == truncated.dtype == np.bool_
    assert info["designer_reward"].shape == (6,)
    assert env.observation_space.contains(info["final_obs"])


def test_seed_decides_the_run_and_rows_do_not_depend_on_the_batch(game):
    want = play(make(game, 12))
    assert_same(want, play(make(game, 12)))
    assert_same(want, play(make(game, 5)), slice(5))
    moved = play(make(game, 12, seed=6))
    assert any((a[k] != b[k]).any() for a, b in zip(want, moved, strict=True) for k in a)


def test_groups_of_seeds_are_as_if_alone(game):
    env = make(game, 12, seed=[5, 9, 5])
    env.reset()
    acts = np.tile(actions_for(make(game, 4), 12), (1, 3, 1))
    together = [flat(env.step(a)) for a in acts]
    for group, seed in enumerate([5, 9, 5]):
        assert_same(together, play(make(game, 4, seed=seed)), slice(4 * group, 4 * group + 4))


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_threads_and_chunks_do_not_matter(game, mode, monkeypatch):
    cls = type(make(game, 1))
    want = play(make(game, 37, autoreset=mode, num_threads=1))
    monkeypatch.setattr(cls, "min_rows_per_thread", 1)
    for threads, chunk in ((2, 4096), (3, 5), (8, 1)):
        monkeypatch.setattr(cls, "rows_per_chunk", chunk)
        assert_same(want, play(make(game, 37, autoreset=mode, num_threads=threads)))


def test_autoreset_modes_agree_on_the_episodes(game):
    """The same first episode in all modes; after it each mode does what its name says."""
    envs = {mode: make(game, 8, autoreset=mode) for mode in ("same_step", "next_step", "disabled")}
    for env in envs.values():
        env.reset()
    over = np.zeros(8, bool)
    acts = actions_for(envs["disabled"], 40)
    for a in acts:
        results = {mode: flat(env.step(a)) for mode, env in envs.items()}
        same, nxt, off = results.values()
        assert not off["rewards"][over].any()
        assert (off["terminated"] | off["truncated"])[over].all()
        for name in ("rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(same[name][~over], off[name][~over])
            np.testing.assert_array_equal(nxt[name][~over], off[name][~over])
        now = (off["terminated"] | off["truncated"]) & ~over
        for name in (n for n in off if n.startswith("obs/")):
            final = same["final/" + name.removeprefix("obs/")]
            np.testing.assert_array_equal(final[now], off[name][now])
            np.testing.assert_array_equal(nxt[name][now], off[name][now])
            going = ~over & ~now
            np.testing.assert_array_equal(same[name][going], off[name][going])
        if now.any():
            break
    assert now.any(), "no episode ended"
    frozen_info = envs["disabled"].step(acts[0])[4]
    for name in QUIET.get(game, ()):
        assert not frozen_info[name][now].any(), f"a copy that does not step reports {name}"
    first = envs["same_step"].obs
    follow = flat(envs["next_step"].step(acts[0]))
    assert not follow["rewards"][now].any()
    assert not (follow["terminated"] | follow["truncated"])[now].any()
    for name, array in iter_leaves({"obs": first}):
        np.testing.assert_array_equal(follow[name][now], array[now])
    frozen = copy_tree(envs["disabled"].obs)
    envs["disabled"].reset(options={"reset_mask": now})
    for name, array in iter_leaves({"obs": envs["disabled"].obs}):
        np.testing.assert_array_equal(array[~now], dict(iter_leaves({"obs": frozen}))[name][~now])
        np.testing.assert_array_equal(array[now], dict(iter_leaves({"obs": first}))[name][now])


def test_snapshot_and_restore(game):
    env = make(game, 9)
    play(env, 4)
    saved = env.snapshot()
    acts = actions_for(env, 10, seed=1)
    want = [flat(env.step(a)) for a in acts]
    env.restore(saved)
    assert_same(want, [flat(env.step(a)) for a in acts])
    other = make(game, 9, seed=77)
    other.restore(saved)
    assert_same(want, [flat(other.step(a)) for a in acts])


def test_a_bad_snapshot_changes_nothing(game):
    env = make(game, 3)
    play(env, 2)
    before, bad = env.snapshot(), env.snapshot()
    key = next(iter(bad))
    with pytest.raises(ValueError, match=key):
        env.restore({k: v for k, v in bad.items() if k != key})
    bad["done"] = np.zeros(4, bool)
    with pytest.raises(ValueError, match="done"):
        env.restore(bad)
    for name, array in env.snapshot().items():
        np.testing.assert_array_equal(array, before[name])


def test_bad_actions_are_refused_before_anything_changes(game):
    env = make(game, 4)
    play(env, 3)
    before = env.snapshot()
    good = np.zeros((4, env.n_agents), np.int64)
    for value in (-1, env.n_actions, 2**40):
        bad = good.copy()
        bad[2, 1] = value
        with pytest.raises(ValueError, match=rf"action {value} of agent 1 in environment 2"):
            env.step(bad)
    with pytest.raises(ValueError, match="shape"):
        env.step(good[:3])
    with pytest.raises(TypeError, match="integers"):
        env.step(good.astype(float))
    with pytest.raises(ValueError, match="nothing called 'x'"):
        env.step(good, draws={"x": good})
    for name, array in env.snapshot().items():
        np.testing.assert_array_equal(array, before[name])


def test_bad_draws_are_refused(game):
    env = make(game, 2)
    for name, shape in env.draw_shapes.items():
        with pytest.raises(ValueError, match=f"draw '{name}'"):
            env.reset(options={"draws": {name: np.full(shape, -2)}})
        with pytest.raises(ValueError, match="shape"):
            env.reset(options={"draws": {name: np.zeros(1)}})


def test_misuse_is_refused(game):
    env = make(game, 4)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros((4, env.n_agents), int))
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="unknown reset option"):
        env.reset(options={"masc": 1})
    with pytest.raises(ValueError, match="autoreset"):
        make(game, 2, autoreset="later")
    with pytest.raises(ValueError, match="num_envs"):
        make(game, 0)
    with pytest.raises(ValueError, match="seed"):
        make(game, 2, seed=-1)
    with pytest.raises(ValueError, match="2 seeds cannot"):
        make(game, 3, seed=[1, 2])
    with pytest.raises(TypeError):
        make(game, 2, no_such_option=1)


def test_copy_returns_fresh_arrays(game):
    env = make(game, 3, copy=True)
    obs, _ = env.reset()
    first = env.step(actions_for(env, 1)[0])
    kept = flat(first)
    env.step(actions_for(env, 1, seed=3)[0])
    assert_same([kept], [flat(first)])
    assert not any(np.shares_memory(a, b) for _, a in iter_leaves(obs) for _, b in iter_leaves(env.obs))


def _play_in_child(game, queue):
    queue.put(play(make(game, 4096, num_threads=2), 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_survive_a_fork(game):
    if fastenvs.jit.PURE_PYTHON:
        pytest.skip("thousands of copies are slow in plain Python")
    want = play(make(game, 4096, num_threads=2), 2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_play_in_child, args=(game, queue))
    child.start()
    assert_same(want, queue.get(timeout=60))
    child.join(10)
    assert child.exitcode == 0


def test_one_signature_per_kernel(game):
    """A second signature would double the time to compile, silently."""
    if fastenvs.jit.PURE_PYTHON:
        pytest.skip("nothing is compiled")
    code = f"""
import sys; sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
import test_vecenv as t
for mode in ("same_step", "next_step", "disabled"):
    t.play(t.make({game!r}, 4, autoreset=mode), 6)
counts = {{
    f"{{name}}.{{k}}": len(v.signatures)
    for name, module in list(sys.modules.items()) if name.startswith("fastenvs")
    for k, v in vars(module).items() if hasattr(v, "signatures")
}}
assert counts and max(counts.values()) == 1, counts
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cold_cache_is_announced(game, tmp_path):
    """The first use says what it compiles, the second is silent."""
    if fastenvs.jit.PURE_PYTHON or game != "escape_room":
        pytest.skip("once is enough")
    code = f"import fastenvs; env = fastenvs.make({game!r}, 2); env.reset(); env.reset()"
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert "compiling fastenvs.escape_room.play, once" in said[0]
    assert said[1] == ""


def test_streams_are_prefix_stable_and_distinct(game):
    few, many = rng.make_streams(3, 4), rng.make_streams(3, 400)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:4])
    assert len(np.unique(many.key)) == len(np.unique(many.stride)) == 400
    assert (many.stride & np.uint64(1)).all()


def test_a_snapshot_of_other_options_is_refused(game):
    env, other = (make(game, 2, autoreset=mode) for mode in ("same_step", "disabled"))
    env.reset()
    other.reset()
    with pytest.raises(ValueError, match="other options"):
        env.restore(other.snapshot())
