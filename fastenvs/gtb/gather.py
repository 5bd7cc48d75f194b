"""Moving and collecting (specification, section 7)."""

import numpy as np

from fastenvs import rng
from fastenvs.gtb.build import FIRST_ORDER
from fastenvs.gtb.state import AGENT, FIRST_AGENT, OWNER, WATER, permutation
from fastenvs.jit import kernel


@kernel
def can_enter(cells, e, i, row, column):
    """Whether agent ``i`` may stand on a cell: inside, no water, nobody there, no house of another."""
    if row < 0 or column < 0 or row >= cells.shape[1] or column >= cells.shape[2]:
        return False
    owner = cells[e, row, column, OWNER]
    return (
        cells[e, row, column, WATER] == 0
        and cells[e, row, column, AGENT] == 0
        and (owner == 0 or owner == i + FIRST_AGENT)
    )


@kernel
def target(loc, e, i, direction):
    """Cell that agent ``i`` reaches by moving left, right, up or down (0 .. 3)."""
    row, column = np.int64(loc[e, i, 0]), np.int64(loc[e, i, 1])
    if direction == 0:
        column -= 1
    elif direction == 1:
        column += 1
    elif direction == 2:
        row -= 1
    else:
        row += 1
    return row, column


@kernel
def gather(actions, active, n_prices, world, agents, gathered, costs, streams, draws, scratch, lo, hi):
    """Move and collect, agent by agent in a random order.

    ``costs`` is the labor of moving and of collecting; ``draws`` the order of the agents and the uniforms of their
    collections, if handed in.
    """
    cells = world.cells
    first_move = FIRST_ORDER + 4 * n_prices
    order_given, uniform_given = draws
    for e in range(lo, hi):
        if not active[e]:
            continue
        permutation(streams, order_given, scratch, e)
        for k in range(actions.shape[1]):
            i = np.int64(scratch[e, k])
            gathered[e, i, 0] = gathered[e, i, 1] = 0
            direction = actions[e, i] - first_move
            if direction >= 0:
                row, column = target(agents.loc, e, i, direction)
                if can_enter(cells, e, i, row, column):
                    cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = 0
                    cells[e, row, column, AGENT] = i + FIRST_AGENT
                    agents.loc[e, i, 0] = row
                    agents.loc[e, i, 1] = column
                    agents.labor[e, i] += costs[0]
            here = cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1]]
            for good in range(2):
                if here[good] == 0:
                    continue
                amount = 1
                if uniform_given.shape[0] > 0:
                    amount += uniform_given[e, i] < agents.bonus[e, i]
                elif agents.bonus[e, i] > 0:
                    amount += rng.uniform(streams, e) < agents.bonus[e, i]
                here[good] = 0
                agents.units[e, i, good] += amount
                agents.labor[e, i] += costs[1]
                gathered[e, i, good] = amount
