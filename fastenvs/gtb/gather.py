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
def may_enter(cells, e, i, row, column, direction):
    """Whether agent ``i`` on a cell may move left, right, up or down (0 .. 3).

    The cell there must be inside the world and hold no water, nobody, and no house of another. Without branches: which
    moves are legal is too irregular to be predicted. At the edge the cell asked about is the agent's own, where
    somebody is.
    """
    height, width = cells.shape[1], cells.shape[2]
    if direction < 2:
        inside, ahead = (column > 0, -1) if direction == 0 else (column < width - 1, 1)
    else:
        inside, ahead = (row > 0, -width) if direction == 2 else (row < height - 1, width)
    place = (e * height + row) * width + column + (ahead if inside else 0)
    cell = word_at(cells, place * N_CHANNELS)
    owner = (cell >> _OWNER) & np.uint64(255)
    return (cell & _CLOSED == 0) & ((owner == 0) | (owner == np.uint64(i + FIRST_AGENT)))


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
            row, column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            direction = actions[e, i] - first_move
            if direction >= 0 and may_enter(cells, e, i, row, column, direction):
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
