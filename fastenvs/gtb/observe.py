"""Observations and masks (``docs/spec/gtb.md``, sections 12 and 13).

Maps are channel-last bytes, so an agent's window is copied row by row. Vectors are computed in double precision and
stored as float32; what all agents see alike is written once and copied.
"""

from typing import NamedTuple

import numpy as np

from fastenvs.grid import copy_window
from fastenvs.gtb.build import BUILD, FIRST_ORDER, buildable
from fastenvs.gtb.gather import can_enter, target
from fastenvs.gtb.state import AGENT, N_CHANNELS, OWNER
from fastenvs.jit import copy_bytes, inline, kernel

OWN = 1
DESIGNER_CHANNELS = 8


class ViewConfig(NamedTuple):
    """Options that the observations depend on."""

    radius: int  # of an agent's window, or -1 for the whole map
    designer_map: bool
    decision_only: bool
    scale: float
    time_scale: float
    build_pay: float
    period: int
    max_orders: int


class Views(NamedTuple):
    """All that is looked at, and where it is written."""

    world: NamedTuple
    agents: NamedTuple
    books: NamedTuple
    taxes: NamedTuple
    limit: np.ndarray
    time: np.ndarray
    shape: tuple[int, int]
    choices: np.ndarray
    order_table: np.ndarray


class AgentViews(NamedTuple):
    """Buffers of the agents' observations."""

    map: np.ndarray  # uint8 [N, A, h, w, channels]
    flat: np.ndarray  # float32 [N, A, F]
    mask: np.ndarray  # uint8 [N, A, n_actions]


class DesignerViews(NamedTuple):
    """Buffers of the designer's observations."""

    flat: np.ndarray  # float32 [N, 1, F]
    agents: np.ndarray  # float32 [N, A, 8 or 6]
    mask: np.ndarray  # uint8 [N, B, 1 + R], or [N, 1, 1]


@kernel
def windows(config, world, loc, out, mask, lo, hi):
    """Square windows around the agents, zero outside the world; own entries read 1."""
    width, side, n_agents = world.cells.shape[2], out.shape[2], loc.shape[1]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            out[e, i] = 0
            top, left = np.int64(loc[e, i, 0]) - config.radius, np.int64(loc[e, i, 1]) - config.radius
            copy_window(world.cells, e, top, left, out, e * n_agents + i, side)
            out[e, i, config.radius, config.radius, AGENT] = OWN
            house = world.first_house[e, i]
            while house > 0:
                row, column = (house - 1) // width - top, (house - 1) % width - left
                if 0 <= row < side and 0 <= column < side:
                    out[e, i, row, column, OWNER] = OWN
                house = world.next_house[e, house - 1]


@kernel
def whole_maps(world, loc, out, mask, lo, hi):
    """The whole map for every agent, with own entries reading 1."""
    cells, n_agents = world.cells, loc.shape[1]
    width, n_cells = cells.shape[2], cells.shape[1] * cells.shape[2]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            for cell in range(n_cells):
                to, start = (e * n_agents + i) * n_cells + cell, e * n_cells + cell
                copy_bytes(out, to * DESIGNER_CHANNELS, cells, start * N_CHANNELS, DESIGNER_CHANNELS)
            out[e, i, loc[e, i, 0], loc[e, i, 1], AGENT] = OWN
            house = world.first_house[e, i]
            while house > 0:
                out[e, i, (house - 1) // width, (house - 1) % width, OWNER] = OWN
                house = world.next_house[e, house - 1]


@inline
def market_rate(history, e, good):
    """Mean price of past trades, by their decayed weight."""
    value, weight = 0.0, 0.0
    for price in range(history.shape[2]):
        value += price * history[e, good, price]
        weight += history[e, good, price]
    return value / max(0.001, weight)


@kernel
def agent_vectors(config, agents, books, taxes, time, shape, out, mask, lo, hi):
    """Flat vectors of the agents, section 12.2; ``shape`` is the map's height and width, or zeros to leave it out."""
    n_prices, n_brackets, n_agents = books.history.shape[2], taxes.shown.shape[1], agents.coin.shape[1]
    orders = 4 * n_prices
    own_at = 2 + orders + 2
    history_at = own_at + orders
    rates_at = history_at + 2 * n_prices + 1
    marginal_at = rates_at + n_brackets + 2 + n_agents
    width = out.shape[2]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            out[e, i, 0] = agents.pay[e, i] / config.build_pay if config.build_pay > 0 else 0.0
            out[e, i, 1] = agents.skill[e, i]
            for k in range(orders):
                mine = books.own_depth[e, i, k]
                out[e, i, 2 + k] = np.float32(np.int32(books.depth[e, k]) - np.int32(mine))
                out[e, i, own_at + k] = np.float32(mine)
            if i == 0:
                out[e, i, own_at - 2] = market_rate(books.history, e, 0)
                out[e, i, own_at - 1] = market_rate(books.history, e, 1)
                history_part(config, books.history, out, history_at, e)
                cycle_part(config, taxes, out, rates_at, e)
                out[e, i, marginal_at + 1] = taxes.position[e] / config.period
                out[e, i, marginal_at + 2] = time[e] * config.time_scale
            else:
                to, start = (e * n_agents + i) * width, e * n_agents * width
                copy_bytes(out, 4 * (to + own_at - 2), out, 4 * (start + own_at - 2), 8)
                copy_bytes(out, 4 * (to + history_at), out, 4 * (start + history_at), 8 * n_prices)
                copy_bytes(out, 4 * (to + rates_at), out, 4 * (start + rates_at), 4 * (marginal_at - rates_at))
                copy_bytes(out, 4 * (to + marginal_at + 1), out, 4 * (start + marginal_at + 1), 8)
            out[e, i, rates_at - 1] = agents.bonus[e, i]
            out[e, i, marginal_at] = taxes.marginal_now[e, i]
            out[e, i, marginal_at + 3] = agents.coin[e, i] * config.scale
            out[e, i, marginal_at + 4] = agents.units[e, i, 0] * config.scale
            out[e, i, marginal_at + 5] = agents.units[e, i, 1] * config.scale
            if shape[0] > 0:
                out[e, i, marginal_at + 6] = agents.loc[e, i, 1] / shape[1]
                out[e, i, marginal_at + 7] = agents.loc[e, i, 0] / shape[0]


@inline
def history_part(config, history, out, at, e):
    """Price histories of stone and wood, to the first vector of row ``e``."""
    n_prices = history.shape[2]
    for good in range(2):
        for price in range(n_prices):
            out[e, 0, at + good * n_prices + price] = history[e, good, price] * config.scale


@inline
def cycle_part(config, taxes, out, at, e):
    """Shown rates, first-day and tax-day flags, sorted last incomes, to the first vector of row ``e``."""
    n_brackets, n_agents = taxes.shown.shape[1], taxes.sorted_income.shape[1]
    for b in range(n_brackets):
        out[e, 0, at + b] = taxes.shown[e, b]
    out[e, 0, at + n_brackets] = taxes.position[e] == 1
    out[e, 0, at + n_brackets + 1] = taxes.position[e] >= config.period
    for i in range(n_agents):
        out[e, 0, at + n_brackets + 2 + i] = taxes.sorted_income[e, i] / config.period


@kernel
def designer_vectors(config, agents, books, taxes, time, shape, flat, about, mask, lo, hi):
    """Flat vector of the designer and its numbers about each agent, sections 12.3 and 12.4."""
    n_prices, n_brackets, n_agents = books.history.shape[2], taxes.shown.shape[1], agents.coin.shape[1]
    orders = 4 * n_prices
    rates_at = orders + 2 + 2 * n_prices
    end = rates_at + n_brackets + 2 + n_agents
    per_agent = about.shape[2]
    for e in range(lo, hi):
        if not mask[e] or (config.decision_only and taxes.position[e] != 1):
            continue
        for k in range(orders):
            flat[e, 0, k] = np.float32(books.depth[e, k])
        flat[e, 0, orders] = market_rate(books.history, e, 0)
        flat[e, 0, orders + 1] = market_rate(books.history, e, 1)
        history_part(config, books.history, flat, orders + 2, e)
        cycle_part(config, taxes, flat, rates_at, e)
        flat[e, 0, end] = taxes.position[e] / config.period
        flat[e, 0, end + 1] = time[e] * config.time_scale
        for i in range(n_agents):
            about[e, i, 0] = taxes.marginal_now[e, i]
            about[e, i, 1] = taxes.last_income[e, i] / config.period
            about[e, i, 2] = taxes.last_marginal[e, i]
            if per_agent > 3:
                about[e, i, 3] = agents.coin[e, i] * config.scale
                about[e, i, 4] = agents.units[e, i, 0] * config.scale
                about[e, i, 5] = agents.units[e, i, 1] * config.scale
            if per_agent > 6:
                about[e, i, 6] = agents.loc[e, i, 1] / shape[1]
                about[e, i, 7] = agents.loc[e, i, 0] / shape[0]


@kernel
def action_masks(config, world, agents, n_open, order_table, out, mask, lo, hi):
    """Legal actions of the agents, section 13; ``order_table`` is from :func:`order_masks`."""
    n_prices, n_agents, width = order_table.shape[1] // 2, agents.coin.shape[1], out.shape[2]
    first_move = FIRST_ORDER + 4 * n_prices
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            at_row, at_column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            out[e, i, 0] = 1
            has_both = (agents.units[e, i, 0] > 0) & (agents.units[e, i, 1] > 0)
            out[e, i, BUILD] = has_both & buildable(world.cells, e, at_row, at_column)
            for good in range(2):
                room = n_open[e, good, i] < config.max_orders
                affordable = min(np.int64(agents.coin[e, i]) + 1, n_prices)
                case = room * (2 * affordable + (agents.units[e, i, good] > 0))
                to = (e * n_agents + i) * width + FIRST_ORDER + 2 * good * n_prices
                copy_bytes(out, to, order_table, case * 2 * n_prices, 2 * n_prices)
            for direction in range(4):
                to_row, to_column = target(agents.loc, e, i, direction)
                out[e, i, first_move + direction] = can_enter(world.cells, e, i, to_row, to_column)


def order_masks(n_prices: int) -> np.ndarray:
    """Masks of bids and asks for one good, uint8 ``[2 (P + 1), 2 P]``, by affordable prices and whether it can sell."""
    price = np.arange(n_prices)
    return np.array(
        [
            np.concatenate([price < affordable, np.full(n_prices, bool(sellable))])
            for affordable in range(n_prices + 1)
            for sellable in range(2)
        ],
        np.uint8,
    )


@kernel
def designer_masks(config, choices, limit, position, out, mask, lo, hi):
    """Legal rate choices of the designer, section 13: any up to the limit on the first day, else none."""
    for e in range(lo, hi):
        if not mask[e] or (config.decision_only and position[e] != 1):
            continue
        for b in range(out.shape[1]):
            out[e, b, 0] = 1
            for k in range(choices.shape[0]):
                out[e, b, 1 + k] = position[e] == 1 and abs(choices[k]) <= limit[e]


@kernel
def observe(config, views, agents_out, designer_out, mask, lo, hi):
    """Write all observations and masks of the copies in ``[lo, hi)`` that ``mask`` names."""
    v = views
    if config.radius < 0:
        whole_maps(v.world, v.agents.loc, agents_out.map, mask, lo, hi)
    else:
        windows(config, v.world, v.agents.loc, agents_out.map, mask, lo, hi)
    agent_vectors(config, v.agents, v.books, v.taxes, v.time, v.shape, agents_out.flat, mask, lo, hi)
    designer_vectors(
        config, v.agents, v.books, v.taxes, v.time, v.shape, designer_out.flat, designer_out.agents, mask, lo, hi
    )
    action_masks(config, v.world, v.agents, v.books.n_open, v.order_table, agents_out.mask, mask, lo, hi)
    if v.choices.shape[0] > 0:
        designer_masks(config, v.choices, v.limit, v.taxes.position, designer_out.mask, mask, lo, hi)
