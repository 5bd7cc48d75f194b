"""The game of ``ppo_gtb.py``, learned by MaskablePPO of sb3-contrib (``pip install fastenvs[sb3]``)."""

from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecMonitor

import fastenvs
from fastenvs.adapters.sb3 import MapExtractor, VecAgents


def train(env_steps=320_000, copies=32, verbose=1):
    """Train; return the model, whose ``ep_info_buffer`` has the utilities of the last episodes."""
    env = VecMonitor(VecAgents(fastenvs.make("gtb", copies, seed=0, tax_mode="none")))
    model = MaskablePPO(
        "MultiInputPolicy", env, n_steps=50, batch_size=50 * env.num_envs // 4, n_epochs=3, ent_coef=0.02,
        learning_rate=5e-4, policy_kwargs={"features_extractor_class": MapExtractor}, seed=0, verbose=verbose,
    )  # fmt: skip
    return model.learn(env_steps * env.num_envs // copies)


if __name__ == "__main__":
    train()
