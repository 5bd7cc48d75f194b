"""Moving and collecting (``docs/spec/gtb.md``, section 7)."""

import numpy as np

from fastenvs import rng
from fastenvs.blocks import word_at
from fastenvs.gtb.state import AGENT, FIRST_AGENT, N_CHANNELS, OWNER, WATER, permutation
from fastenvs.jit import inline, kernel

#: Bytes of a cell that nobody may enter.
_CLOSED = np.uint64(255 << 8 * WATER | 255 << 8 * AGENT)
_OWNER = np.uint64(8 * OWNER)


@inline
def can_enter(cells, e, i, row, column):
    """Whether agent ``i`` may stand on a cell: inside, no water, nobody there, no house of another.

    Without branches: which moves are legal is too irregular to be predicted.
    """
    r = min(max(row, 0), cells.shape[1] - 1)
    c = min(max(column, 0), cells.shape[2] - 1)
    cell = word_at(cells, ((e * cells.shape[1] + r) * cells.shape[2] + c) * N_CHANNELS)
    owner = (cell >> _OWNER) & np.uint64(255)
    return (r == row) & (c == column) & (cell & _CLOSED == 0) & ((owner == 0) | (owner == np.uint64(i + FIRST_AGENT)))


@inline
def target(loc, e, i, direction):
    """Cell that agent ``i`` reaches by moving left, right, up or down (0 .. 3)."""
    sideways, step = direction < 2, 2 * (direction % 2) - 1
    row, column = np.int64(loc[e, i, 0]), np.int64(loc[e, i, 1])
    return row + (0 if sideways else step), column + (step if sideways else 0)


@kernel
def gather(actions, active, first_move, cells, agents, gathered, labors, streams, draws, scratch, lo, hi):
    """Move and collect, agent by agent in a random order.

    The four actions from ``first_move`` on are moves; ``draws`` is the order of the agents and the uniforms of their
    collections, if handed in.
    """
    order_given, uniform_given = draws
    for e in range(lo, hi):
        for i in range(actions.shape[1]):
            gathered[e, i, 0] = gathered[e, i, 1] = 0
        if not active[e]:
            continue
        permutation(streams, order_given, scratch, e)
        for k in range(actions.shape[1]):
            i = int(scratch[e, k])
            direction = actions[e, i] - first_move
            if direction >= 0:
                row, column = target(agents.loc, e, i, direction)
                if can_enter(cells, e, i, row, column):
                    cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = 0
                    cells[e, row, column, AGENT] = i + FIRST_AGENT
                    agents.loc[e, i, 0] = row
                    agents.loc[e, i, 1] = column
                    agents.labor[e, i] += labors.move
            row, column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            for good in range(2):
                if cells[e, row, column, good] == 0:
                    continue
                amount = 1
                if uniform_given.shape[0] > 0:
                    amount += uniform_given[e, i] < agents.bonus[e, i]
                elif agents.bonus[e, i] > 0:
                    amount += rng.uniform(streams, e) < agents.bonus[e, i]
                cells[e, row, column, good] = 0
                agents.units[e, i, good] += amount
                agents.labor[e, i] += labors.collect
                gathered[e, i, good] = amount
