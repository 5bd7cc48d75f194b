"""What the 10 x 10 map allows at least and at most: yardsticks for learning where an exact optimum is out of reach.

At least: a plan played in the simulator, in which agent 0 cleans and the two others collect, each in a half of the
orchard, by backward induction for one agent at a time; it knows what is under a beam, which pictures do not show. At
most: a relaxation in which agents need not walk.
"""

from functools import cache
from math import comb

import numpy as np
import pytest

import fastenvs
from fastenvs import jit
from fastenvs.cleanup.config import APPLE, BEAM_LENGTH, WASTE
from metagrad.tasks.cleanup import PLAN_10X10

AHEAD = 8  # steps that the plans look ahead
LEFT, RIGHT, UP, DOWN, STAY, CLEAN = range(6)
MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0))


def game(copies=1):
    return fastenvs.make("cleanup", copies, seed=5, preset="authors_10x10", autoreset="disabled")


def walks(cells):
    """Place in ``cells`` after each move from each of them, ``[cells, 5]``; a move that leaves them is none."""
    place = {cell: i for i, cell in enumerate(cells)}
    return np.array([[place.get((r + dr, c + dc), i) for dr, dc in MOVES] for i, (r, c) in enumerate(cells)])


def last_best(each):
    """Index of the best action; the last one where several are, since in the game a move may leave the plan's cells."""
    return len(each) - 1 - each[::-1].argmax(0)


def cleared(cell, points, waste):
    """Every set of waste after a cleaning beam from a cell, facing up: the first in each of three lanes is gone."""
    (row, column), after = cell, waste.copy()
    for top, lane in ((row - 1, column), (row, column + 1), (row, column - 1)):
        open_lane = np.ones(len(waste), bool)
        for r in range(top, max(0, top - BEAM_LENGTH), -1):
            if (r, lane) in points:
                bit = 1 << points.index((r, lane))
                hit = open_lane & (waste & bit > 0)
                after[hit] &= ~bit
                open_lane &= ~hit
    return after


def cleaning(config, points):
    """By cell and set of waste, the action that makes most apples grow in the steps to come."""
    cells = [(r, c) for r in range(1, 9) for c in (1, 2, 3)]
    sets = np.arange(1 << len(points))
    n_waste = np.array([bin(w).count("1") for w in range(len(sets))])
    chance = config.p_any_waste[n_waste]
    moved, beams = walks(cells), np.stack([cleared(cell, points, sets) for cell in cells])
    value = np.zeros((len(cells), len(sets)))
    for _ in range(AHEAD):
        grown = sum(np.where(sets >> bit & 1, 0, value[:, sets | 1 << bit]) for bit in range(len(points)))
        after = config.p_apple[n_waste] + (1 - chance) * value + chance * grown / np.maximum(len(points) - n_waste, 1)
        each = np.stack([*(after[moved[:, a]] for a in range(5)), np.take_along_axis(after, beams, 1)])
        value = each.max(0)
    return cells, last_best(each)


def collecting(points, p_apple):
    """By cell and set of apples at ``points``, the action that earns most in the steps to come."""
    cells = [(r, c) for r in range(min(p[0] for p in points), max(p[0] for p in points) + 1) for c in (6, 7, 8)]
    sets, moved = np.arange(1 << len(points)), walks(cells)
    bit = np.array([1 << points.index(cell) if cell in points else 0 for cell in cells])[:, None]
    value = np.zeros((len(cells), len(sets)))
    for _ in range(AHEAD):
        after = value
        for k in range(len(points)):
            grows = (sets >> k & 1 == 0) & (bit != 1 << k)
            after = np.where(grows, (1 - p_apple) * after + p_apple * after[:, sets | 1 << k], after)
        here = (sets & bit > 0) + np.take_along_axis(after, sets & ~bit, 1)
        each = here[moved.T]
        value = each.max(0)
    return cells, last_best(each)


@cache
def plans():
    """By agent: the cells of its plan, its best actions, and the points and what it looks for there."""
    config, width = game().config, game().options.symbols.shape[1]
    waste, apples = ([divmod(int(c), width) for c in cells] for cells in (config.waste_points, config.apple_points))
    halves = [p for p in apples if p[0] > 4], [p for p in apples if p[0] <= 4]
    return (*cleaning(config, waste), waste, WASTE), *((*collecting(half, 0.18), half, APPLE) for half in halves)


def played(copies, beams_hide=False):
    """Welfare of the plan, ``[copies]``; as it is, or with a cleaner that does not see what is under its last beam."""
    env = game(copies)
    env.reset()
    width = env.options.symbols.shape[1]
    welfare = np.zeros(copies)
    for _ in range(env.options.steps):
        actions = np.full((copies, 3), RIGHT)  # until a collector is where its plan begins
        for agent, (cells, best, points, what) in enumerate(plans()):
            there = [r * width + c for r, c in points]
            found = env.state.content[:, there] == what
            if beams_hide:
                found &= env.state.beam[:, there] == 0
            index = (found << np.arange(len(points))).sum(1)
            place = np.full(env.options.symbols.size, -1)
            place[[r * width + c for r, c in cells]] = range(len(cells))
            at = place[env.state.cell[:, agent]]
            actions[:, agent] = np.where(at < 0, RIGHT, best[at, index])
        welfare += env.step(actions)[1].sum(1)
    return welfare


def relaxed(config, agents, steps, lanes, start):
    """What is earned at most: agents are anywhere at once, each beam removes waste in every lane, nobody is in the way.

    The state is how much waste and how many apples there are.
    """
    points, most = len(config.waste_points), len(config.apple_points)
    value = np.zeros((points + 1, most + 1))
    for _ in range(steps):
        chance = config.p_any_waste[:, None]
        later = (1 - chance) * value + chance * value[np.minimum(np.arange(points + 1) + 1, points)]
        after = np.zeros_like(value)
        for apples in range(most + 1):
            for new in range(most - apples + 1):
                p = config.p_apple
                share = comb(most - apples, new) * p**new * (1 - p) ** (most - apples - new)
                after[:, apples] += share * later[:, apples + new]
        value = np.full_like(value, -np.inf)
        for cleaners in range(agents + 1):
            left = np.maximum(np.arange(points + 1) - lanes * cleaners, 0)[:, None]
            eaten = np.minimum(np.arange(most + 1), agents - cleaners)
            value = np.maximum(value, eaten + after[left, np.arange(most + 1) - eaten])
    return value[start, 0]


@pytest.mark.skipif(jit.PURE_PYTHON, reason="slow in plain Python")
@pytest.mark.parametrize(("beams_hide", "said"), [(False, PLAN_10X10), (True, 53.8)])
def test_the_plan_earns_what_is_said(beams_hide, said):
    welfare = played(1_000, beams_hide)
    assert welfare.mean() == pytest.approx(said, abs=4 * welfare.std() / len(welfare) ** 0.5)


def test_no_policy_earns_more_than_the_relaxation():
    """The river is two columns wide, so a beam has waste in two lanes at most."""
    env = game()
    env.reset()
    got = relaxed(env.config, 3, env.options.steps, 2, int(env.state.n_waste[0]))
    assert got == pytest.approx(121.15, abs=0.01)
    assert got > PLAN_10X10
