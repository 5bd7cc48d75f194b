"""Reading the agents' actions, and building houses (``docs/spec/gtb.md``, sections 4.1 and 5)."""

import numpy as np

from fastenvs.blocks import word_at
from fastenvs.gtb.state import FIRST_AGENT, HOUSE, N_CHANNELS, OWNER
from fastenvs.jit import inline, part

BUILD = 1
FIRST_ORDER = 2
#: Units, house, water and sources: the first bytes of a cell.
_OCCUPIED = np.uint64(2 ** (8 * OWNER) - 1)


def order_table(n_prices: int) -> np.ndarray:
    """Prices of the orders that an action means, -1 for none, int16 ``[n_actions, 2, 2]``: bids and asks, by good."""
    table = np.full((FIRST_ORDER + 4 * n_prices + 4, 2, 2), -1, np.int16)
    prices = np.arange(n_prices)
    for good in range(2):  # bids for stone, asks for stone, bids for wood, asks for wood
        for side in range(2):
            table[FIRST_ORDER + (2 * good + side) * n_prices + prices, side, good] = prices
    return table


def action_names(n_prices: int) -> tuple[str, ...]:
    """What the actions are called."""
    orders = (
        f"{side} {price} for {good}"
        for good in ("stone", "wood")
        for side in ("bid", "ask")
        for price in range(n_prices)
    )
    return ("nothing", "build", *orders, "left", "right", "up", "down")


@part
def read_orders(actions, active, table, bid, ask, time, lo, hi):
    """Count the step, and write the price of every order, -1 for none, to ``bid`` and ``ask`` ``[N, A, 2]``."""
    for e in range(lo, hi):
        if not active[e]:
            continue
        time[e] += 1
        for i in range(actions.shape[1]):
            for good in range(2):
                bid[e, i, good] = table[actions[e, i], 0, good]
                ask[e, i, good] = table[actions[e, i], 1, good]


@inline
def buildable(cells, cell):
    """Whether the cell of that number has no unit, source, water or house on it."""
    return word_at(cells, cell * N_CHANNELS) & _OCCUPIED == 0


@part
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
            if not buildable(cells, (e * cells.shape[1] + row) * width + column):
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
