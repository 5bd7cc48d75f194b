"""Moves and turns of all agents at once, and who gets a cell that several want (section 6)."""

from __future__ import annotations

import numpy as np

from fastenvs import rng
from fastenvs.cleanup.config import CLOCKWISE, COUNTER_CLOCKWISE, DOWN, RIGHT, STAY, WALL
from fastenvs.cleanup.state import paint
from fastenvs.jit import inline, part


@inline
def step_towards(width, direction):
    """Difference of cells by a step in a direction."""
    sign = 1 if direction in (RIGHT, DOWN) else -1
    return sign * (1 if direction % 2 == 1 else width)


@inline
def occupant_below(state, e, cell, highest):
    """Highest agent below ``highest`` that stands on a cell, + 1; 0 for nobody."""
    found = 0
    for j in range(highest):
        if state.cell[e, j] == cell:
            found = j + 1
    return found


@inline
def move(config, state, actions, streams, order, width, e):
    """Turn and move the agents of copy ``e``.

    Rows of the scratch: fixed wishes (-1 for agents that do not move), live plans, starts, whether a plan is still
    open, places at the start of a pass.
    """
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    contested = False
    for i in range(n_agents):
        action = config.base_action[actions[e, i]]
        here = np.int64(cell[e, i])
        scratch[e, 2, i] = here
        want = np.int64(-1)
        if action == STAY:
            want = here
        elif action < STAY:
            offset = (3, 1, 0, 2)[action]
            want = here + step_towards(width, (np.int64(state.heading[e, i]) + offset) % 4)
            if state.content[e, want] == WALL:
                want = here
        elif action in (CLOCKWISE, COUNTER_CLOCKWISE):
            turn = 1 if action == CLOCKWISE else 3
            state.heading[e, i] = (np.int64(state.heading[e, i]) + turn) % 4
            scratch[e, 2, i] = -1  # so that its cell is painted again
        scratch[e, 0, i] = scratch[e, 1, i] = want
        for j in range(i):
            contested |= (want >= 0) & (scratch[e, 0, j] == want)
    if contested:
        settle_contests(config, state, streams, order, e)
    settle_rest(state, e)
    for i in range(n_agents):
        if scratch[e, 2, i] != cell[e, i]:
            if scratch[e, 2, i] >= 0:
                paint(config, state, e, scratch[e, 2, i])
            paint(config, state, e, cell[e, i])


@part
def settle_contests(config, state, streams, order, e):
    """Phase A: cells wanted by several movers, in reading order."""
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    last = np.int64(-1)
    while True:
        target, contenders = next_contest(scratch, e, last)
        if contenders == 0:
            return
        last = target
        k = np.int64(state.occupant[e, target]) - 1
        closed = False
        if k >= 0:
            plan = scratch[e, 1, k]
            for i in range(n_agents):
                if scratch[e, 0, i] == target:
                    closed |= i == k or scratch[e, 0, k] < 0 or plan == cell[e, k] or plan == cell[e, i]
        winner = -1 if closed else pick_winner(scratch, streams, order, target, contenders, e)
        if winner >= 0 and not config.orderly:
            left = np.int64(cell[e, winner])
            if left != target:
                cell[e, winner] = target
                state.occupant[e, left] = occupant_below(state, e, left, n_agents)
                state.occupant[e, target] = max(np.int64(state.occupant[e, target]), winner + 1)
        for i in range(n_agents):
            if scratch[e, 0, i] == target and not (config.orderly and i == winner):
                scratch[e, 1, i] = cell[e, i]


@part
def next_contest(scratch, e, last):
    """The first cell after ``last`` that several movers want, and how many; 0 of them where there is none."""
    n_agents, found, count = scratch.shape[2], np.int64(-1), 0
    for i in range(n_agents):
        want = np.int64(scratch[e, 0, i])
        if want > last and (found < 0 or want < found):
            rivals = 0
            for j in range(n_agents):
                rivals += scratch[e, 0, j] == want
            if rivals > 1:
                found, count = want, rivals
    return found, count


@part
def pick_winner(scratch, streams, order, target, contenders, e):
    """The contender that comes first in the random order of movers: each is as likely as the others."""
    n_agents = scratch.shape[2]
    if order.shape[0] > 0:
        for q in range(n_agents):
            i = int(order[e, q])
            if i >= 0 and scratch[e, 0, i] == target:
                return i
        return -1
    skip = rng.below(streams, e, contenders)
    for i in range(n_agents):
        if scratch[e, 0, i] == target:
            if skip == 0:
                return i
            skip -= 1
    return -1


@inline
def settle_rest(state, e):
    """Phase B: passes over the agents whose plans are open, until none is.

    One fixed point in place of these passes would differ where agents share a cell: of a pair that would swap, one may
    see another agent on its target.
    """
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    open_plans = 0
    for i in range(n_agents):
        scratch[e, 3, i] = scratch[e, 1, i] >= 0
        open_plans += scratch[e, 3, i]
    while open_plans > 0:
        settled, moved = 0, False
        for i in range(n_agents):
            scratch[e, 4, i] = cell[e, i]
        for i in range(n_agents):
            if scratch[e, 3, i] == 0:
                continue
            target = scratch[e, 1, i]
            if not occupied(state, e, target):
                cell[e, i] = target
                scratch[e, 3, i] = 0
                settled, moved = settled + 1, True
                continue
            k = np.int64(state.occupant[e, target]) - 1  # as of the start of the pass
            if k < 0:
                continue
            if k == i or scratch[e, 3, k] == 0 or scratch[e, 1, k] == cell[e, k]:
                scratch[e, 3, i] = 0
                settled += 1
            elif scratch[e, 1, k] == cell[e, i] and target == cell[e, k]:
                scratch[e, 3, i] = scratch[e, 3, k] = 0
                settled += 2
        if settled == 0:  # cycles turn
            for i in range(n_agents):
                if scratch[e, 3, i] == 1:
                    cell[e, i] = scratch[e, 1, i]
            settled, moved = open_plans, True
        if moved:
            for i in range(n_agents):
                state.occupant[e, scratch[e, 4, i]] = 0
            for i in range(n_agents):
                state.occupant[e, cell[e, i]] = i + 1
        open_plans -= settled


@inline
def occupied(state, e, target):
    """Whether an agent stands on a cell at this moment."""
    found = False
    for j in range(state.cell.shape[1]):
        found |= state.cell[e, j] == target
    return found
