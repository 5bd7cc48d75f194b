"""What a state of the economy must be like; a restored one is checked, since kernels trust it."""

from __future__ import annotations

import numpy as np

from fastenvs import ledger, market, saez, tax
from fastenvs.gtb.config import Options
from fastenvs.gtb.state import (
    AGENT,
    FIRST_AGENT,
    HOUSE,
    MOST_COUNTED,
    N_GOODS,
    OWNER,
    SOURCE,
    WATER,
    Agents,
    Start,
    State,
    World,
)
from fastenvs.snapshots import iter_leaves, refuse

#: Counts may still grow by far more than an episode brings.
_COUNT = (0, MOST_COUNTED)
_MONEY, _RATE = tax.MONEY, tax.RATE
_NUMBER = (-1e30, 1e30)


def rules(o: Options) -> market.Rules:
    """Rules of the auction."""
    return market.Rules(o.order_limit, o.order_life, max(0.0, o.order_labor))


def state_bounds(o: Options, state: State) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every array."""
    height, width = o.cells.shape
    cells = height * width
    groups: dict[str, dict[str, tuple[float, float]]] = {
        "world": {"cells": (0, 255), "first_house": (0, cells), "next_house": (0, cells)},
        "agents": {
            "loc": (0, max(height, width) - 1), "coin": _MONEY, "escrow_coin": _MONEY, "units": _COUNT,
            "escrow_units": _COUNT, "labor": _MONEY, "pay": _MONEY, "skill": _MONEY, "bonus": _RATE, "houses": _COUNT,
        },
        "books": ledger.bounds(state.books, rules(o)),
        "taxes": tax.bounds(o.tax_period, len(o.rate_choices)),
        "rates": {"external": _RATE, "cap": _RATE, "limit": _RATE, "chosen": (0, len(o.rate_choices))},
        "saez": {"appended": (0, saez.MOST_PAIRS), "running_mean": _RATE},
        "clock": {
            "time": (0, o.steps), "completed": _COUNT, "positive_steps": _COUNT, "regrow_wait": (0, 2**62),
            "energy_weight": _RATE,
        },
        "events": {
            "built": (0, 1), "gathered": (0, 2), "units": _COUNT, "escrow_units": _COUNT, "n_trades": _COUNT,
            "trade_value": _MONEY,
        },
    }  # fmt: skip
    numbers = {name: _NUMBER for name, array in iter_leaves(state) if array.dtype.kind == "f"}
    return numbers | {f"{group}/{name}": limits for group, arrays in groups.items() for name, limits in arrays.items()}


def check_state(o: Options, start: Start, s: State) -> None:
    """Refuse maps, places, houses and books that contradict each other."""
    check_cells(start, s.world)
    check_places(s.world, s.agents)
    check_houses(s.world, s.agents)
    goods = market.Goods(s.agents.coin, s.agents.escrow_coin, s.agents.units, s.agents.escrow_units, s.agents.labor)
    ledger.check_books(s.books, goods, rules(o), "state/books/")
    refuse("state/books/clock", s.books.clock, s.books.clock != s.clock.time, "not the step of the episode")


def check_cells(start: Start, world: World) -> None:
    """Refuse a map that differs from the episode's in what never changes, or holds what cannot be there."""
    cells, name = world.cells, "state/world/cells"
    wrong = np.zeros(cells.shape, np.bool_)
    for channel in (WATER, SOURCE, SOURCE + 1, AGENT + 1):
        wrong[..., channel] = cells[..., channel] != start.cells[..., channel]
    refuse(name, cells, wrong, "not what the map has here")
    for good in range(N_GOODS):
        wrong[..., good] = cells[..., good] > start.cells[..., SOURCE + good]
    refuse(name, cells, wrong, "a unit without a source, or more than one")
    blocked = (cells[..., WATER] > 0) | (cells[..., SOURCE] > 0) | (cells[..., SOURCE + 1] > 0)
    wrong[..., HOUSE] = (cells[..., HOUSE] != (cells[..., OWNER] > 0)) | (blocked & (cells[..., HOUSE] > 0))
    refuse(name, cells, wrong, "a house where none can be, or without its owner")
    n_agents = world.first_house.shape[1]
    for channel in (OWNER, AGENT):
        value = cells[..., channel].astype(np.int64)
        wrong[..., channel] = (value != 0) & ((value < FIRST_AGENT) | (value >= FIRST_AGENT + n_agents))
    refuse(name, cells, wrong, "no agent")


def check_places(world: World, agents: Agents) -> None:
    """Refuse agents outside the map or in water, and a map that shows them elsewhere."""
    n, height, width, _ = world.cells.shape
    row, column = agents.loc[..., 0].astype(np.int64), agents.loc[..., 1].astype(np.int64)
    refuse("state/agents/loc", agents.loc, (row >= height) | (column >= width), "outside the map")
    here = world.cells[np.arange(n)[:, None], row, column]
    refuse("state/agents/loc", agents.loc, here[..., WATER] > 0, "in water")
    number = np.arange(row.shape[1]) + FIRST_AGENT
    refuse("state/agents/loc", agents.loc, here[..., AGENT] != number, "not where the map has this agent")
    shown = (world.cells[..., AGENT] > 0).sum((1, 2))
    refuse("state/world/cells", world.cells[..., AGENT], shown != row.shape[1], "an agent at several places")


def check_houses(world: World, agents: Agents) -> None:
    """Refuse lists of houses that do not lead, once, over exactly the houses of their agent."""
    owner = world.cells[..., OWNER].reshape(len(agents.loc), -1)
    n_agents = agents.houses.shape[1]
    number = np.arange(n_agents) + FIRST_AGENT
    owned = np.stack([(owner == k).sum(1) for k in number], 1)
    refuse("state/agents/houses", agents.houses, agents.houses != owned, "not the houses on the map")
    here = world.first_house.astype(np.int64)
    copies = np.arange(len(here))[:, None]
    for step in range(int(owned.max()) + 1):
        refuse("state/world/first_house", world.first_house, (here > 0) != (step < owned), "a list of another length")
        on = here > 0
        wrong = on & (owner[copies, np.maximum(here - 1, 0)] != number)
        refuse("state/world/first_house", world.first_house, wrong, "a list that leads to another's house")
        here = np.where(on, world.next_house[copies, np.maximum(here - 1, 0)], 0)
