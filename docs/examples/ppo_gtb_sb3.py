"""The game of ``ppo_gtb.py``, learned by MaskablePPO of sb3-contrib (``pip install '.[sb3]'``)."""

from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import fastenvs
from fastenvs.adapters.sb3 import VecAgents


def train(env_steps=320_000, copies=32, verbose=1):
    """Train; return the model, whose ``ep_info_buffer`` has the utilities of the last episodes."""
    agents = VecMonitor(VecAgents(fastenvs.make("gtb", copies, seed=0, tax_mode="none")))
    env = VecNormalize(
        agents, norm_obs=False
    )  # without it the error of the values, in coins, drowns the policy's gradient
    model = MaskablePPO(
        "MultiInputPolicy", env, 5e-4, n_steps=50, batch_size=800, n_epochs=3, ent_coef=0.02, seed=0, verbose=verbose
    )
    return model.learn(env_steps * env.num_envs // copies)


if __name__ == "__main__":
    train()
