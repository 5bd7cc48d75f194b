"""The exact optimum of the 7 x 7 map by backward induction: the yardstick for learning.

A state is where the two agents stand, which waste points are dirty and which apple points carry an apple. What moves
and beams do comes from the simulator, once for every state and joint action; spawning is averaged over exactly.
"""

import itertools

import numpy as np
import pytest

import fastenvs
from fastenvs import jit
from fastenvs.cleanup.config import APPLE, RIVER, WASTE
from metagrad.tasks.cleanup import OPTIMUM


def transitions():
    """Next positions ``[P, 36, 2]`` and waste ``[P, 36, 2, 4]`` by positions, joint action and order of movers."""
    env = fastenvs.make("cleanup", 1)
    free = np.flatnonzero(env.options.symbols.ravel() != "@")
    pairs = np.array(list(itertools.permutations(free, 2)))
    index = {tuple(p): k for k, p in enumerate(pairs.tolist())}
    joint = np.array(list(itertools.product(range(6), repeat=2)))
    p, j, w = (g.ravel() for g in np.meshgrid(*map(np.arange, (len(pairs), len(joint), 4)), indexing="ij"))
    n = len(p)
    env = fastenvs.make("cleanup", n, autoreset="disabled", apple_rate=0.0, waste_rate=0.0)
    points = env.config.waste_points
    new_pairs, new_waste = [], []
    for order in ([0, 1], [1, 0]):
        env.reset(options={"draws": {"spawn": pairs[p]}})
        for bit, point in enumerate(points):
            env.state.content[:, point] = np.where(w >> bit & 1, WASTE, RIVER)
        env.state.n_waste[:] = (w & 1) + (w >> 1)
        # Who does not move is not in the order.
        movers = np.tile(order, (n, 1))
        movers[np.take_along_axis(joint[j], movers, 1) == 5] = -1
        env.step(joint[j], draws={"move_order": movers})
        new_pairs.append([index[c] for c in map(tuple, env.state.cell.tolist())])
        new_waste.append(sum((env.state.content[:, c] == WASTE) << bit for bit, c in enumerate(points)))
    shape = (2, len(pairs), len(joint), 4)
    return pairs, np.array(new_pairs).reshape(shape)[..., 0], np.array(new_waste).reshape(shape)


def spawned(value, config, pairs):
    """Expectation of ``value [P, 4, 32]`` over one spawn round."""
    dirty = np.array([0, 1, 1, 2])
    out = np.zeros_like(value)
    for w in range(4):
        chance = config.p_any_waste[dirty[w]]
        clean = [bit for bit in (0, 1) if not w >> bit & 1]
        out[:, w] = (1 - chance) * value[:, w] if clean else value[:, w]
        for bit in clean:
            out[:, w] += chance / len(clean) * value[:, w | 1 << bit]
    p_apple = config.p_apple[dirty][None, :, None]
    for bit, point in enumerate(config.apple_points):
        free = ~(pairs == point).any(1)[:, None, None]
        without = (np.arange(32) >> bit & 1) == 0
        grown = out[:, :, np.arange(32) | 1 << bit]
        out = np.where(free & without, (1 - p_apple) * out + p_apple * grown, out)
    return out


def optimum(steps=50):
    """Expected sum of rewards of the best joint policy over an episode."""
    pairs, new_pairs, new_waste = transitions()
    fresh = fastenvs.make("cleanup", 1)
    fresh.reset()
    eaten = np.zeros((len(pairs), 32), int)  # apples under the agents, as bits
    for bit, point in enumerate(fresh.config.apple_points):
        eaten[(pairs == point).any(1)] |= 1 << bit
    eaten &= np.arange(32)
    reward = np.array([bin(k).count("1") for k in range(32)])[eaten]
    left = np.arange(32) & ~eaten
    value = np.zeros((len(pairs), 4, 32))
    for _ in range(steps):
        after = spawned(value, fresh.config, pairs)
        rows = np.arange(len(pairs))[:, None, None]
        # Value of being at a position with some waste and apples, before eating.
        here = reward[:, None, :] + after[rows, np.arange(4)[:, None], left[:, None, :]]
        chosen = np.zeros((len(pairs), 4, 32))
        chosen.fill(-np.inf)
        for j in range(36):
            mean = sum(here[new_pairs[o, :, j, None], new_waste[o, :, j]] for o in (0, 1)) / 2
            np.maximum(chosen, mean, out=chosen)
        value = chosen
    start = int(np.flatnonzero((pairs == fresh.state.cell[0]).all(1))[0])
    assert APPLE not in fresh.state.content
    return value[start, 3, 0]


@pytest.mark.skipif(jit.PURE_PYTHON, reason="hours in plain Python")
def test_optimum():
    assert optimum() == pytest.approx(OPTIMUM, abs=0.005)


@pytest.mark.skipif(jit.PURE_PYTHON, reason="hours in plain Python")
def test_nothing_can_be_earned_in_a_few_steps():
    """Cleaning comes first: apples grow from the second step on, and are eaten a step later."""
    assert optimum(1) == 0
    assert 0 < optimum(5) < 5
