"""What the benchmarks measure with."""

import ctypes
import time

import numpy as np

from fastenvs.vecenv import iter_leaves


def best_time(call, repeats=200):
    """Shortest wall time of ``call`` in seconds; the shortest is what the machine can do."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def memset_seconds(n_bytes):
    """Time to fill as many bytes with zeros, in this run, on this machine."""
    buffer = np.zeros(n_bytes, np.uint8)
    return best_time(lambda: ctypes.memset(buffer.ctypes.data, 0, n_bytes))


def bytes_written(env):
    """Observations, rewards and flags that a step writes. Read-only observations are the state itself: not counted."""
    b = env.buffers
    arrays = [array for _, array in iter_leaves(env.obs) if array.flags.writeable]
    return sum(a.nbytes for a in (*arrays, b.rewards, b.designer_reward, b.terminated, b.truncated))


class Stepper:
    """An environment and random actions, past its first steps."""

    def __init__(self, env, warm_up=60):
        rng = np.random.default_rng(0)
        self.env = env
        self.actions = [rng.integers(0, env.n_actions, (env.num_envs, env.n_agents)) for _ in range(16)]
        self.calls = 0
        env.reset()
        for _ in range(warm_up):
            self()

    def __call__(self):
        self.calls += 1
        self.env.step(self.actions[self.calls % 16])

    def figures(self, seconds):
        """What every stepping benchmark reports."""
        n, written = self.env.num_envs, bytes_written(self.env)
        return {
            "num_envs": n,
            "n_agents": self.env.n_agents,
            "threads": self.env.num_threads,
            "env_steps_per_second": n / seconds,
            "agent_steps_per_second": n * self.env.n_agents / seconds,
            "bytes_per_env_step": written / n,
            "fraction_of_memset": memset_seconds(written) / seconds,
        }


def overhead(call, bare, pairs=30, seconds=0.02):
    """Time of ``call`` over that of ``bare``, less one: the median over alternating blocks of equal counts."""
    count = max(1, round(seconds / best_time(bare, 5)))
    ratios = []
    for _ in range(pairs):
        times = []
        for each in (call, bare):
            start = time.perf_counter()
            for _ in range(count):
                each()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios)) - 1
