"""Stable-Baselines3 and sb3-contrib: what they are given, and that they learn from it."""

import numpy as np
import pytest
import torch

import fastenvs

pytest.importorskip("stable_baselines3", reason="extra 'sb3' is not installed")
pytest.importorskip("sb3_contrib", reason="extra 'sb3' is not installed")
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from fastenvs.adapters.sb3 import MapExtractor, VecAgents

SMALL = {"n_steps": 10, "batch_size": 320, "n_epochs": 6, "learning_rate": 3e-3, "gamma": 0.9, "device": "cpu"}


def room(copies=64):
    return VecAgents(fastenvs.make("escape_room", copies, seed=0, n_agents=2, min_at_lever=1))


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
def test_it_learns_to_wait(algorithm):
    """Nobody gains by pulling the lever: agents come to stay where they are, and get nothing."""
    model = algorithm("MlpPolicy", VecMonitor(room()), seed=0, policy_kwargs={"net_arch": [32]}, **SMALL)
    model.learn(64 * 2 * 10 * 25)
    env = room(100)
    obs, rewards = env.reset(), []
    for _ in range(20):
        actions, _ = model.predict(obs)
        obs, reward, *_ = env.step(actions)
        rewards.append(reward)
    assert abs(np.mean(rewards[5:])) < 0.15
    assert np.mean(actions == 0) < 0.05


def test_masks_are_obeyed():
    env = VecAgents(fastenvs.make("gtb", 4, seed=0, steps=20))
    masks, taken = [], []
    given, step = env.action_masks, env.step_async
    env.action_masks = lambda: masks.append(given()) or masks[-1]
    env.step_async = lambda actions: taken.append(actions) or step(actions)
    options = {"policy_kwargs": {"features_extractor_class": MapExtractor}, "n_steps": 8, "batch_size": 64}
    MaskablePPO("MultiInputPolicy", env, seed=0, device="cpu", **options).learn(16 * 16)
    assert len(masks) == len(taken) == 16
    for mask, actions in zip(masks, taken, strict=True):
        assert mask.shape == (16, 50)
        assert not mask.all()
        assert mask[np.arange(16), actions].all()


@pytest.mark.parametrize(
    ("game", "options"), [("cleanup", {}), ("cleanup", {"observation": "planes"}), ("gtb", {}), ("escape_room", {})]
)
def test_a_network_for_each_game(game, options):
    env = VecAgents(fastenvs.make(game, 2, seed=0, **options))
    policy = "MultiInputPolicy" if game == "gtb" else "MlpPolicy"
    kwargs = {"features_extractor_class": MapExtractor}
    model = PPO(policy, env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=kwargs, device="cpu")
    model.learn(4 * env.num_envs)
    assert any(isinstance(m, torch.nn.Conv2d) for m in model.policy.modules()) == (game != "escape_room")


def test_last_observations_seeds_and_ends():
    """Seeds are those of the vector environment of Gymnasium; ends carry the last observation."""
    env, plain = room(3), fastenvs.make("escape_room", 3, randomize=True)
    env = VecAgents(fastenvs.make("escape_room", 3, randomize=True, max_steps=2))
    env.seed(7)
    obs = env.reset()
    np.testing.assert_array_equal(obs.reshape(3, 2, 6), plain.reset(seed=[7, 8, 9])[0]["agents"])
    kept = obs.copy()
    _, _, over, infos = env.step(np.array([0, 2, 1, 1, 1, 1]))
    np.testing.assert_array_equal(obs, kept)
    assert over.tolist() == [True, True, False, False, False, False]
    assert infos[0]["terminal_observation"].tolist() == [1, 0, 0, 0, 0, 1]
    assert not infos[0]["TimeLimit.truncated"]
    assert infos[2] == {}
    _, _, over, infos = env.step(np.ones(6, int))
    assert over.tolist() == [False, False, True, True, True, True]
    assert infos[2]["TimeLimit.truncated"]
    env.close()
    assert env.view.env.closed


def test_what_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="same_step"):
        VecAgents(fastenvs.make("gtb", 1, autoreset="disabled"))
    with pytest.raises(AttributeError, match="share one"):
        room().env_method("render")
    with pytest.raises(AttributeError, match="share one"):
        room().set_attr("x", 1)
    assert not room().has_attr("x")
    assert room().get_attr("n_agents") == [2] * 128


def test_pictures():
    env = VecAgents(fastenvs.make("gtb", 2), render_mode="rgb_array")
    env.reset()
    assert env.render("rgb_array").shape[2] == 3
