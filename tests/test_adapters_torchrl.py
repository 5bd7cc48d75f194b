"""TorchRL's own check of specs, rollouts with partial resets, and equality with the environment stepped by hand."""

import numpy as np
import pytest
import torch

import fastenvs

pytest.importorskip("torchrl", reason="extra 'torchrl' is not installed")
from torchrl.envs.utils import check_env_specs

from fastenvs.adapters.torchrl import TorchRLEnv

GAMES = {
    "escape_room": ("escape_room", {"n_agents": 3, "max_steps": 3, "randomize": True}),
    "cleanup": ("cleanup", {"steps": 4}),
    "gtb": ("gtb", {"steps": 5, "tax_period": 2}),
    "gtb with choices": ("gtb", {"steps": 5, "tax_period": 2, "tax_mode": "planner"}),
    "one-step economy": ("one_step_economy", {"draw_skills": True, "tax_mode": "planner"}),
    "gtb without a designer": ("gtb", {"steps": 5, "tax_mode": "us_federal"}),
}


def make(game, n=4):
    name, options = GAMES[game]
    return fastenvs.make(name, n, seed=0, autoreset="disabled", **options)


@pytest.mark.parametrize("game", GAMES)
def test_specs(game):
    check_env_specs(TorchRLEnv(make(game)), seed=0, break_when_any_done="both")


@pytest.mark.parametrize("game", GAMES)
def test_rollout_with_partial_resets_is_the_game(game):
    """Every step and reset of a rollout is that of the environment, with the same actions."""
    env, plain = TorchRLEnv(make(game)), make(game)
    env.set_seed(3)
    torch.manual_seed(0)
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout.batch_size == (4, 12)
    obs, _ = plain.reset(seed=3)
    ends = 0
    for t in range(12):
        now = rollout[:, t]
        check_group(now["agents"], obs["agents"])
        check_group(now["designer"], obs["designer"])
        if "action_mask" in now["agents"]:
            assert now["agents", "action_mask"].gather(2, now["agents", "action"][..., None]).all()
        if "action" in now["designer"]:
            decide = plain.choose_rates if plain.options.tax_mode == "planner" else plain.set_rates
            decide(now["designer", "action"].numpy())
        obs, rewards, terminated, truncated, info = plain.step(now["agents", "action"].numpy())
        after = now["next"]
        np.testing.assert_array_equal(after["agents", "reward"][..., 0], rewards)
        np.testing.assert_array_equal(after["designer", "reward"][:, 0], info["designer_reward"])
        np.testing.assert_array_equal(after["terminated"][:, 0], terminated)
        np.testing.assert_array_equal(after["truncated"][:, 0], truncated)
        check_group(after["agents"], obs["agents"])
        over = terminated | truncated
        ends += over.sum()
        if over.any():
            obs, _ = plain.reset(options={"reset_mask": over})
    assert ends >= 8
    env.close()
    assert plain.closed != env.env.closed


def check_group(mine, seen):
    if not isinstance(seen, dict):
        np.testing.assert_array_equal(mine["observation"], seen)
        return
    for name, array in seen.items():
        if name != "mask":
            np.testing.assert_array_equal(mine["observation", name], array)
        elif "action_mask" in mine:
            np.testing.assert_array_equal(mine["action_mask"], array)


@pytest.mark.parametrize("copy", [True, False])
def test_tensors_are_fresh_unless_asked_otherwise(copy):
    env = TorchRLEnv(make("gtb"), copy=copy)
    flat = env.reset()["agents", "observation", "flat"].numpy()
    assert np.shares_memory(flat, env.env.obs["agents"]["flat"]) != copy


def test_other_autoresets_are_refused():
    with pytest.raises(ValueError, match="disabled"):
        TorchRLEnv(fastenvs.make("gtb", 2))
