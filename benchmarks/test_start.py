"""Cold start, in fresh processes: importing, and the first make, reset and step with a warm and a cold cache."""

import os
import statistics
import subprocess
import sys

import pytest

import fastenvs

FIRST = """
import time, sys, numpy as np, fastenvs
start = time.perf_counter()
env = fastenvs.make(sys.argv[1], 1, seed=0)
env.reset()
env.step(np.zeros((1, env.n_agents), int))
print(time.perf_counter() - start)
"""
IMPORT = "import time; start = time.perf_counter(); import fastenvs; print(time.perf_counter() - start)"


def seconds(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return float(done.stdout)


def measure(benchmark, call, rounds):
    """Report the seconds that the process itself measured, without the start of the interpreter."""
    inside = []
    benchmark.pedantic(lambda: inside.append(call()), rounds=rounds)
    benchmark.extra_info["seconds_inside"] = statistics.median(inside)


def test_import(benchmark):
    measure(benchmark, lambda: seconds(IMPORT), 5)


@pytest.mark.parametrize("game", fastenvs.games())
def test_first_step_warm(benchmark, game):
    seconds(FIRST, game)
    measure(benchmark, lambda: seconds(FIRST, game), 3)


@pytest.mark.parametrize("game", fastenvs.games())
def test_first_step_cold(benchmark, game, tmp_path):
    measure(benchmark, lambda: seconds(FIRST, game, NUMBA_CACHE_DIR=str(tmp_path)), 1)
