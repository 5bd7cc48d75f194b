"""Moving and collecting (``docs/spec/gtb.md``, section 7)."""

import numpy as np

from fastenvs import rng
from fastenvs.blocks import word_at
from fastenvs.gtb.state import AGENT, FIRST_AGENT, N_CHANNELS, OWNER, WATER, permutation
from fastenvs.jit import inline, part

#: Bytes of a cell that nobody may enter.
_CLOSED = np.uint64(255 << 8 * WATER | 255 << 8 * AGENT)
_OWNER = np.uint64(8 * OWNER)


@inline
def beside(cell, row, column, height, width, direction):
    """Number of the cell to the left, to the right, above or below (0 .. 3); at the edge the cell itself."""
    if direction == 0:
        return cell - (column > 0)
    if direction == 1:
        return cell + (column < width - 1)
    if direction == 2:
        return cell - width * (row > 0)
    return cell + width * (row < height - 1)


@inline
def is_open(cells, cell, i):
    """Whether agent ``i`` may enter a cell: no water, nobody there (itself neither), no house of another.

    Without branches: which moves are legal is too irregular to be predicted.
    """
    content = word_at(cells, cell * N_CHANNELS)
    owner = (content >> _OWNER) & np.uint64(255)
    return (content & _CLOSED == 0) & ((owner == 0) | (owner == np.uint64(i + FIRST_AGENT)))


@part
def gather(actions, active, first_move, cells, agents, gathered, labors, streams, draws, order, lo, hi):
    """Move and collect, agent by agent in a random order.

    The four actions from ``first_move`` on are moves; ``draws`` is the order of the agents and the uniforms of their
    collections, if handed in; ``order`` is overwritten.
    """
    order_given, uniform_given = draws
    height, width = cells.shape[1], cells.shape[2]
    for e in range(lo, hi):
        for i in range(actions.shape[1]):
            gathered[e, i, 0] = gathered[e, i, 1] = 0
        if not active[e]:
            continue
        permutation(streams, order_given, order, e)
        for k in range(actions.shape[1]):
            i = order[e, k]
            row, column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            direction = actions[e, i] - first_move
            cell = (e * height + row) * width + column
            if direction >= 0 and is_open(cells, beside(cell, row, column, height, width, direction), i):
                cells[e, row, column, AGENT] = 0
                step = 2 * (direction % 2) - 1
                row, column = (row, column + step) if direction < 2 else (row + step, column)
                cells[e, row, column, AGENT] = i + FIRST_AGENT
                agents.loc[e, i, 0] = row
                agents.loc[e, i, 1] = column
                agents.labor[e, i] += labors.move
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
