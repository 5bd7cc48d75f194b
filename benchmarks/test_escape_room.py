"""Escape Room: environment steps per second, and the share of memset's speed for the same bytes.

``pytest benchmarks --benchmark-only``; figures are in ``extra_info``.
"""

import numpy as np
import pytest

import fastenvs
from fastenvs.vecenv import iter_leaves

SIZES = [1, 64, 1024, 4096, 16384]


def bytes_written(env):
    """Observations, rewards and flags of a step; final observations and state come on top, uncounted."""
    b = env.buffers
    arrays = [array for _, array in iter_leaves({"obs": env.obs})]
    return sum(a.nbytes for a in (*arrays, b.rewards, b.designer_reward, b.terminated, b.truncated))


@pytest.mark.parametrize("num_envs", SIZES)
@pytest.mark.parametrize(("n", "m"), [(2, 1), (5, 2), (10, 5)], ids=["er_2_1", "er_5_2", "er_10_5"])
def test_step(benchmark, memset_seconds, n, m, num_envs):
    env = fastenvs.make("escape_room", num_envs, seed=0, n_agents=n, min_at_lever=m, num_threads=1)
    env.reset()
    actions = np.random.default_rng(0).integers(0, 3, (num_envs, n))
    benchmark(env.step, actions)
    seconds = benchmark.stats.stats.min
    written = bytes_written(env)
    benchmark.extra_info.update(
        env_steps_per_second=num_envs / seconds,
        agent_steps_per_second=num_envs * n / seconds,
        bytes_per_env_step=written / num_envs,
        fraction_of_memset=memset_seconds(written) / seconds,
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_step_threads(benchmark, threads):
    env = fastenvs.make("escape_room", 16384, seed=0, n_agents=10, min_at_lever=5, num_threads=threads)
    env.reset()
    actions = np.random.default_rng(0).integers(0, 3, (16384, 10))
    benchmark(env.step, actions)
    benchmark.extra_info.update(env_steps_per_second=16384 / benchmark.stats.stats.min)
