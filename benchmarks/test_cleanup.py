"""Cleanup: environment steps per second over presets, copies and threads, all pictures written."""

import numpy as np
import pytest

import fastenvs


def measure(benchmark, memset_seconds, env, rounds):
    env.reset()
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, env.n_actions, (env.num_envs, env.n_agents)) for _ in range(16)]
    calls = iter(range(10**9))

    def step():
        env.step(actions[next(calls) % 16])

    for _ in range(60):
        step()
    benchmark.pedantic(step, rounds=rounds, warmup_rounds=2)
    b = env.buffers
    written = sum(a.nbytes for a in (*env.obs.values(), b.rewards, b.designer_reward, b.terminated, b.truncated))
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        env_steps_per_second=env.num_envs / seconds,
        agent_steps_per_second=env.num_envs * env.n_agents / seconds,
        bytes_per_env_step=written / env.num_envs,
        fraction_of_memset=memset_seconds(written) / seconds,
    )


@pytest.mark.parametrize("num_envs", [1, 64, 1024, 4096, 16384])
def test_paper_7x7(benchmark, memset_seconds, num_envs):
    env = fastenvs.make("cleanup", num_envs, seed=0, num_threads=1)
    measure(benchmark, memset_seconds, env, rounds=max(20, min(2000, 200_000 // num_envs)))


@pytest.mark.parametrize("preset", ["authors_10x10", "large"])
def test_presets(benchmark, memset_seconds, preset):
    env = fastenvs.make("cleanup", 1024, preset=preset, seed=0, num_threads=1)
    measure(benchmark, memset_seconds, env, rounds=100)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, memset_seconds, threads):
    env = fastenvs.make("cleanup", 4096, seed=0, num_threads=threads)
    measure(benchmark, memset_seconds, env, rounds=50)
