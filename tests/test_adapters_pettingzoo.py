"""PettingZoo's own tests on every game, and what it shows against the game stepped by hand."""

import os
import warnings

import numpy as np
import pytest

import fastenvs

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
pytest.importorskip("pettingzoo", reason="extra 'pettingzoo' is not installed")
from pettingzoo.test import parallel_api_test, parallel_seed_test, render_test
from pettingzoo.utils import parallel_to_aec

from fastenvs.adapters.pettingzoo import ParallelCopy, parallel_env

GAMES = {
    "escape_room": {"n_agents": 3, "randomize": True},
    "cleanup": {"steps": 12},
    "gtb": {"steps": 12, "tax_mode": "planner"},
    "one_step_economy": {"draw_skills": True, "announce": True},
}


@pytest.mark.parametrize("game", GAMES)
def test_api(game):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(game, **GAMES[game]), 30)


@pytest.mark.parametrize("game", GAMES)
def test_seeds(game):
    parallel_seed_test(lambda: parallel_env(game, **GAMES[game]), 20)


@pytest.mark.parametrize("game", GAMES)
def test_pictures(game):
    pytest.importorskip("pygame", reason="PettingZoo's render test opens a window")
    render_test(lambda render_mode: parallel_to_aec(parallel_env(game, render_mode=render_mode, **GAMES[game])))


@pytest.mark.parametrize("game", GAMES)
def test_what_it_shows_is_the_game(game):
    env, plain = parallel_env(game, **GAMES[game]), fastenvs.make(game, 1, autoreset="disabled", **GAMES[game])
    seen, _ = env.reset(seed=3)
    obs, _ = plain.reset(seed=3)
    rng = np.random.default_rng(0)
    while env.agents:
        for i, agent in enumerate(env.agents):
            assert env.observation_space(agent).contains(seen[agent])
            theirs = {"": obs["agents"]} if not isinstance(obs["agents"], dict) else obs["agents"]
            mine = seen[agent] if isinstance(seen[agent], dict) else {"": seen[agent]}
            for name, array in theirs.items():
                np.testing.assert_array_equal(mine["action_mask" if name == "mask" else name], array[0, i])
        assert env.state_space.contains(env.state())
        actions = rng.integers(0, plain.n_actions, plain.n_agents)
        seen, rewards, over, cut, infos = env.step(dict(zip(env.possible_agents, actions, strict=True)))
        obs, earned, terminated, truncated, info = plain.step(actions[None])
        assert list(rewards.values()) == earned[0].tolist()
        assert set(over.values()) == {bool(terminated[0])}
        assert set(cut.values()) == {bool(truncated[0])}
        for i, one in enumerate(infos.values()):
            assert one["designer_reward"] == info["designer_reward"][0]
            for name in plain.agent_info:
                np.testing.assert_array_equal(one[name], info[name][0, i])
    assert env.step({}) == ({}, {}, {}, {}, {})
    env.close()
    assert env.env.closed


@pytest.mark.parametrize("copy", [True, False])
def test_arrays_are_fresh_unless_asked_otherwise(copy):
    env = parallel_env("gtb", copy=copy)
    seen, _ = env.reset(seed=0)
    assert np.shares_memory(seen["agent_1"]["flat"], env.env.obs["agents"]["flat"]) != copy


def test_several_copies_and_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="one copy"):
        ParallelCopy(fastenvs.make("gtb", 1))
    with pytest.raises(ValueError, match="render_mode"):
        parallel_env("gtb", render_mode="ansi")
