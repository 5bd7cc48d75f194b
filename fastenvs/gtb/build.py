"""Reading the agents' actions, and building houses (``docs/spec/gtb.md``, sections 4.1 and 5)."""

from typing import NamedTuple

import numpy as np

from fastenvs.gtb.state import FIRST_AGENT, HOUSE, OWNER, SOURCE
from fastenvs.jit import inline, kernel


class Builders(NamedTuple):
    """What building needs of the agents."""

    loc: np.ndarray
    coin: np.ndarray
    units: np.ndarray
    labor: np.ndarray
    pay: np.ndarray
    houses: np.ndarray


BUILD = 1
FIRST_ORDER = 2


@kernel
def read_orders(actions, active, n_prices, bid, ask, time, lo, hi):
    """Count the step, and write the price of every order, -1 for none, to ``bid`` and ``ask`` ``[N, A, 2]``."""
    for e in range(lo, hi):
        if not active[e]:
            continue
        time[e] += 1
        for i in range(actions.shape[1]):
            bid[e, i, 0] = bid[e, i, 1] = ask[e, i, 0] = ask[e, i, 1] = -1
            order = actions[e, i] - FIRST_ORDER
            if 0 <= order < 4 * n_prices:  # bids for stone, asks for stone, bids for wood, asks for wood
                kind, price = order // n_prices, order % n_prices
                if kind % 2 == 0:
                    bid[e, i, kind // 2] = price
                else:
                    ask[e, i, kind // 2] = price


@inline
def buildable(cells, e, row, column):
    """Whether the cell has no unit, source, water or house on it."""
    something = np.uint8(0)
    for channel in range(SOURCE + 2):  # units, house, water, sources
        something |= cells[e, row, column, channel]
    return something == 0


@kernel
def build(actions, active, world, agents, built, build_labor, lo, hi):
    """Agents who chose to build, and can, turn a stone and a wood into a house and coin."""
    cells = world.cells
    width = cells.shape[2]
    for e in range(lo, hi):
        for i in range(actions.shape[1]):
            built[e, i] = 0
            if not active[e]:
                continue
            if actions[e, i] != BUILD or agents.units[e, i, 0] == 0 or agents.units[e, i, 1] == 0:
                continue
            row, column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            if not buildable(cells, e, row, column):
                continue
            agents.units[e, i, 0] -= 1
            agents.units[e, i, 1] -= 1
            agents.coin[e, i] += agents.pay[e, i]
            agents.labor[e, i] += build_labor
            agents.houses[e, i] += 1
            built[e, i] = 1
            cells[e, row, column, HOUSE] = 1
            cells[e, row, column, OWNER] = i + FIRST_AGENT
            cell = row * width + column
            world.next_house[e, cell] = world.first_house[e, i]
            world.first_house[e, i] = cell + 1
