"""What the benchmarks measure with."""

import ctypes
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blocks import Block, alternate, timed

from fastenvs.vecenv import iter_leaves


def best_time(call, repeats=200):
    """Shortest wall time of ``call`` in seconds: for gates, which ask what the machine can do, not for tables."""
    call()
    return min(timed(call, 1) for _ in range(repeats))


class Memset:
    """A call that gives the mean time to fill a number of bytes with zeros; what the call of C costs does not count."""

    def __init__(self, n_bytes):
        size = max(n_bytes, 2**18)
        self._buffer = np.zeros(size, np.uint8)
        self._repeats = max(1, 2**26 // size)
        self._share = n_bytes / size

    def __call__(self):
        address, size = self._buffer.ctypes.data, self._buffer.nbytes
        return self._share * timed(lambda: ctypes.memset(address, 0, size), self._repeats) / self._repeats


class MatrixProducts:
    """A call that gives the time of as many floating point operations in single-precision products of 1,024 rows."""

    def __init__(self, flops):
        import torch

        self._a = torch.randn(1024, 1024)
        self._products = flops / (2 * 1024**3)

    def __call__(self):
        return self._products * timed(lambda: self._a @ self._a, 3) / 3


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


def computing():
    """Nanoseconds that each thread of this process has computed; empty where there is no ``/proc``."""
    used = {}
    for task in Path("/proc/self/task").glob("*"):
        try:
            used[task.name] = int((task / "schedstat").read_text().split()[0])
        except OSError:  # it has just ended, or this is not Linux
            continue
    return used


@dataclass
class Row:
    """A row of a table, measured block by block.

    Parameters
    ----------
    setting : str
    block : Block
    unit, units : str, int
        What a call makes, as ``env steps``, and how many.
    shares : dict
        By name, calls that give the time of something to compare with; measured beside every block, and reported as a
        share of the time of a call.
    facts : dict
        What else the table says.
    """

    setting: str
    block: Block
    unit: str
    units: int
    shares: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def measure(self):
        """One block: seconds of a call, threads that took a tenth or more of the work, cores busy, and shares."""
        before, wall, processor = computing(), time.perf_counter(), time.process_time()
        seconds = self.block()
        cores = (time.process_time() - processor) / (time.perf_counter() - wall)
        used = [used - before.get(thread, 0) for thread, used in computing().items()]
        ran = sum(10 * u >= sum(used) for u in used)
        return {
            "seconds": seconds,
            "ran": ran,
            "cores": cores,
            **{name: s() / seconds for name, s in self.shares.items()},
        }


def sitting(rows, rounds):
    """Measure the rows of a table in alternating blocks: for each row what it is, and lists with a number a round."""
    found = alternate({i: row.measure for i, row in enumerate(rows)}, rounds)
    return [
        {"setting": row.setting, "unit": row.unit, "units": row.units, **row.facts}
        | {name: [block[name] for block in found[i]] for name in found[i][0]}
        for i, row in enumerate(rows)
    ]


def stepping(setting, env, **facts):
    """A row of steps, with the resets of whole episodes, or of a hundred steps of a longer one."""
    options = env.options
    length = min(100, getattr(options, "max_steps", None) or options.steps)
    written, n = bytes_written(env), env.num_envs
    facts |= {
        "num_envs": n, "n_agents": env.n_agents, "threads": env.num_threads, "bytes_per_env_step": written / n,
    }  # fmt: skip
    return Row(setting, Block(Stepper(env), length), "env steps", n, {"memset": Memset(written)}, facts)


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
