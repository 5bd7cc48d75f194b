"""Gather-Trade-Build: environment steps per second over copies and agents, and the auction alone."""

import numpy as np
import pytest

import fastenvs
from fastenvs.market import Market


def bytes_written(env):
    """Observations, rewards and flags that a step writes; the designer's map is the state itself and not counted."""
    designer = {k: v for k, v in env.obs["designer"].items() if k != "map"}
    b = env.buffers
    arrays = [*env.obs["agents"].values(), *designer.values(), b.rewards, b.designer_reward, b.terminated, b.truncated]
    return sum(a.nbytes for a in arrays)


def measure(benchmark, memset_seconds, env, rounds):
    """Random actions, from the middle of an episode on, so that orders are open and houses stand."""
    env.reset()
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, env.n_actions, (env.num_envs, env.n_agents)) for _ in range(16)]
    calls = iter(range(10**9))

    def step():
        env.step(actions[next(calls) % 16])

    for _ in range(50):
        step()
    benchmark.pedantic(step, rounds=rounds, warmup_rounds=2)
    seconds, written = benchmark.stats.stats.median, bytes_written(env)
    benchmark.extra_info.update(
        env_steps_per_second=env.num_envs / seconds,
        agent_steps_per_second=env.num_envs * env.n_agents / seconds,
        bytes_per_env_step=written / env.num_envs,
        fraction_of_memset=memset_seconds(written) / seconds,
    )


@pytest.mark.parametrize("num_envs", [1, 64, 256, 1024, 2048, 4096, 16384])
def test_step(benchmark, memset_seconds, num_envs):
    """The paper's preset, one thread."""
    env = fastenvs.make("gtb", num_envs, seed=0, num_threads=1)
    measure(benchmark, memset_seconds, env, rounds=max(20, min(2000, 100_000 // num_envs)))


@pytest.mark.parametrize("n_agents", [4, 10, 32, 100])
def test_agents(benchmark, memset_seconds, n_agents):
    """More agents on 40 x 40 cells, 64 copies, one thread."""
    env = fastenvs.make("gtb", 64, seed=0, map="pure_mixed_40", n_agents=n_agents, fixed_four=False, num_threads=1)
    measure(benchmark, memset_seconds, env, rounds=100)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark, memset_seconds, threads):
    env = fastenvs.make("gtb", 4096, seed=0, num_threads=threads)
    measure(benchmark, memset_seconds, env, rounds=20)


def test_market(benchmark):
    """4,096 books of 4 agents and two goods, random orders that cross, one order an agent and step."""
    n, a = 4096, 4
    market = Market(n, a)
    rng = np.random.default_rng(0)
    sessions = []
    for _ in range(16):
        bids, asks = np.full((n, a, 2), -1, np.int16), np.full((n, a, 2), -1, np.int16)
        good, price, side = rng.integers(0, 2, (n, a)), rng.integers(0, 11, (n, a)), rng.random((n, a)) < 0.5
        rows, agents = np.indices((n, a))
        bids[rows[side], agents[side], good[side]] = price[side]
        asks[rows[~side], agents[~side], good[~side]] = price[~side]
        sessions.append((bids, asks))
    calls = iter(range(10**9))

    def step():
        if next(calls) % 16 == 0:  # nobody runs out
            market.goods.coin[:] = 100
            market.goods.units[:] = 10
        market.step(*sessions[next(calls) % 16])

    benchmark.pedantic(step, rounds=100, warmup_rounds=60)
    benchmark.extra_info.update(
        book_steps_per_second=n / benchmark.stats.stats.median, trades_per_book_step=market.n_trades.mean()
    )
