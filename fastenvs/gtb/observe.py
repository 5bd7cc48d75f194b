"""Observations and masks (``docs/spec/gtb.md``, sections 12 and 13).

Maps are channel-last bytes, so an agent's window is copied row by row. Vectors are computed in double precision and
stored as float32; what all agents see alike is written once and copied.
"""

from typing import NamedTuple

import numpy as np

from fastenvs.blocks import clear_run, copy_run, expect_run, float_run, masked_rows, scaled_run, split_run
from fastenvs.grid import copy_window
from fastenvs.gtb.build import BUILD, FIRST_ORDER, buildable
from fastenvs.gtb.gather import beside, is_open
from fastenvs.gtb.state import AGENT, N_CHANNELS, OWNER
from fastenvs.jit import inline, part

OWN = 1
DESIGNER_CHANNELS = 8


class ViewConfig(NamedTuple):
    """Options that the observations depend on."""

    radius: int  # of an agent's window, or -1 for the whole map
    designer_map: bool
    decision_only: bool
    final: bool  # last observations of an episode
    scale: float
    time_scale: float
    build_pay: float
    period: int
    max_orders: int


class Tables(NamedTuple):
    """What is looked up while observing."""

    choices: np.ndarray  # float64 [R], rates that the designer may choose
    orders: np.ndarray  # uint8 [2 (P + 1), 2 P], from order_masks
    columns: np.ndarray  # uint8 [W, bytes of a window's row], from column_masks


class AgentViews(NamedTuple):
    """Buffers of the agents' observations."""

    map: np.ndarray  # uint8 [N, A, h, w, channels]
    flat: np.ndarray  # float32 [N, A, F]
    mask: np.ndarray  # uint8 [N, A, n_actions]


class DesignerViews(NamedTuple):
    """Buffers of the designer's observations."""

    common: (
        np.ndarray
    )  # float32 [N, F], what designer and agents see alike; it is the flat one where that is always shown
    flat: np.ndarray  # float32 [N, F]
    agents: np.ndarray  # float32 [N, A, 8 or 6]
    mask: np.ndarray  # uint8 [N, B, 1 + R], or [N, 1, 1]


@part
def windows(config, world, loc, columns, out, mask, lo, hi):
    """Square windows around the agents, zero outside the world; own entries read 1; ``columns`` is from column_masks.

    A row is read at its full width, also where that is part of the row before or after, and masked.
    """
    cells, side, n_agents = world.cells, out.shape[2], loc.shape[1]
    height, width = cells.shape[1], cells.shape[2]
    n_bytes, stride = side * N_CHANNELS, width * N_CHANNELS
    for e in range(lo, hi):
        if not mask[e]:
            continue
        expect_run(out, (e + 1) * n_agents * side * n_bytes, n_agents * side * n_bytes)
        for i in range(n_agents):
            top, left = np.int64(loc[e, i, 0]) - config.radius, np.int64(loc[e, i, 1]) - config.radius
            first, last = max(0, top), min(height, top + side)
            to = (e * n_agents + i) * side * n_bytes
            start = e * height * stride + left * N_CHANNELS
            if start + first * stride < 0 or start + (last - 1) * stride + n_bytes > cells.size:
                clear_run(out, to, side * n_bytes)
                copy_window(cells, e, top, left, out, e * n_agents + i, side)
            else:
                clear_run(out, to, (first - top) * n_bytes)
                at, read, kept = to + (first - top) * n_bytes, start + first * stride, (left + config.radius) * n_bytes
                masked_rows(out, at, cells, read, stride, last - first, columns, kept, n_bytes)
                clear_run(out, to + (last - top) * n_bytes, (top + side - last) * n_bytes)
            out[e, i, config.radius, config.radius, AGENT] = OWN
            house = world.first_house[e, i]
            while house > 0:
                row, column = (house - 1) // width - top, (house - 1) % width - left
                if 0 <= row < side and 0 <= column < side:
                    out[e, i, row, column, OWNER] = OWN
                house = world.next_house[e, house - 1]


def column_masks(width: int, radius: int) -> np.ndarray:
    """Masks of a row of a window, uint8 ``[W, (2 r + 1) N_CHANNELS]``, by the agent's column: 255 inside the world."""
    column = np.arange(width)[:, None] + np.arange(-radius, radius + 1)
    return np.where((column >= 0) & (column < width), 255, 0).astype(np.uint8).repeat(N_CHANNELS, axis=1)


@part
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
                copy_run(out, to * DESIGNER_CHANNELS, cells, start * N_CHANNELS, DESIGNER_CHANNELS)
            out[e, i, loc[e, i, 0], loc[e, i, 1], AGENT] = OWN
            house = world.first_house[e, i]
            while house > 0:
                out[e, i, (house - 1) // width, (house - 1) % width, OWNER] = OWN
                house = world.next_house[e, house - 1]


@inline
def market_rates(history, e):
    """Mean prices of past trades in stone and wood, by their decayed weight."""
    stone, wood, stone_weight, wood_weight = 0.0, 0.0, 0.0, 0.0
    for price in range(history.shape[2]):
        stone += price * history[e, 0, price]
        wood += price * history[e, 1, price]
        stone_weight += history[e, 0, price]
        wood_weight += history[e, 1, price]
    return stone / max(0.001, stone_weight), wood / max(0.001, wood_weight)


@part
def common_vectors(config, books, taxes, time, out, mask, lo, hi):
    """What designer and agents see alike, as the designer's flat vector (section 12.3)."""
    n_prices, n_brackets, n_agents = books.history.shape[2], taxes.shown.shape[1], taxes.sorted_income.shape[1]
    orders, width = 4 * n_prices, out.shape[1]
    rates_at = orders + 2 + 2 * n_prices
    days_at = rates_at + n_brackets
    end = days_at + 2 + n_agents
    for e in range(lo, hi):
        if not mask[e]:
            continue
        float_run(out, e * width, books.depth, e * orders, orders)
        out[e, orders], out[e, orders + 1] = market_rates(books.history, e)
        history_at = orders + 2
        scaled_run(out, e * width + history_at, books.history, e * 2 * n_prices, 2 * n_prices, config.scale)
        float_run(out, e * width + rates_at, taxes.shown, e * n_brackets, n_brackets)
        out[e, days_at] = taxes.position[e] == 1
        out[e, days_at + 1] = taxes.position[e] >= config.period
        for i in range(n_agents):
            out[e, days_at + 2 + i] = taxes.sorted_income[e, i] / config.period
        out[e, end] = taxes.position[e] / config.period
        out[e, end + 1] = time[e] * config.time_scale


@part
def agent_vectors(config, agents, books, marginal_now, common, shape, out, mask, lo, hi):
    """Flat vectors of the agents, section 12.2; ``shape`` is the map's height and width."""
    n_prices, n_agents, width, common_width = (
        books.history.shape[2],
        agents.coin.shape[1],
        out.shape[2],
        common.shape[1],
    )
    orders, cycle = 4 * n_prices, common_width - 6 * n_prices - 7  # rates, flags and incomes
    own_at = 2 + orders + 2
    history_at = own_at + orders
    rates_at = history_at + 2 * n_prices + 1
    marginal_at = rates_at + cycle
    for e in range(lo, hi):
        if not mask[e]:
            continue
        start = e * common_width
        expect_run(out, 4 * (e + 1) * n_agents * width, 4 * n_agents * width)
        for i in range(n_agents):
            to = (e * n_agents + i) * width
            out[e, i, 0] = agents.pay[e, i] / config.build_pay if config.build_pay > 0 else 0.0
            out[e, i, 1] = agents.skill[e, i]
            split_run(out, to + own_at, to + 2, common, start, books.own_depth, (e * n_agents + i) * orders, orders)
            copy_run(out, 4 * (to + own_at - 2), common, 4 * (start + orders), 8)
            copy_run(out, 4 * (to + history_at), common, 4 * (start + orders + 2), 8 * n_prices)
            copy_run(out, 4 * (to + rates_at), common, 4 * (start + orders + 2 + 2 * n_prices), 4 * cycle)
            copy_run(out, 4 * (to + marginal_at + 1), common, 4 * (start + common_width - 5), 8)
            out[e, i, rates_at - 1] = agents.bonus[e, i]
            out[e, i, marginal_at] = marginal_now[e, i]
            out[e, i, marginal_at + 3] = agents.coin[e, i] * config.scale
            out[e, i, marginal_at + 4] = agents.units[e, i, 0] * config.scale
            out[e, i, marginal_at + 5] = agents.units[e, i, 1] * config.scale
            if width > marginal_at + 6:
                out[e, i, marginal_at + 6] = agents.loc[e, i, 1] / shape[1]
                out[e, i, marginal_at + 7] = agents.loc[e, i, 0] / shape[0]


@part
def designer_vectors(config, agents, taxes, shape, out, mask, lo, hi):
    """Flat vector of the designer and its numbers about each agent, sections 12.3 and 12.4."""
    about, width = out.agents, out.common.shape[1]
    for e in range(lo, hi):
        if not mask[e] or (config.decision_only and taxes.position[e] != 1):
            continue
        if config.decision_only:
            copy_run(out.flat, 4 * e * width, out.common, 4 * e * width, 4 * width)
        for i in range(agents.coin.shape[1]):
            about[e, i, 0] = taxes.marginal_now[e, i]
            about[e, i, 1] = taxes.last_income[e, i] / config.period
            about[e, i, 2] = taxes.last_marginal[e, i]
            if about.shape[2] > 3:
                about[e, i, 3] = agents.coin[e, i] * config.scale
                about[e, i, 4] = agents.units[e, i, 0] * config.scale
                about[e, i, 5] = agents.units[e, i, 1] * config.scale
            if about.shape[2] > 6:
                about[e, i, 6] = agents.loc[e, i, 1] / shape[1]
                about[e, i, 7] = agents.loc[e, i, 0] / shape[0]


@part
def action_masks(config, world, agents, n_open, order_table, out, mask, lo, hi):
    """Legal actions of the agents, section 13; ``order_table`` is from :func:`order_masks`."""
    n_prices, n_agents, width = order_table.shape[1] // 2, agents.coin.shape[1], out.shape[2]
    first_move, height, map_width = FIRST_ORDER + 4 * n_prices, world.cells.shape[1], world.cells.shape[2]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            at_row, at_column = np.int64(agents.loc[e, i, 0]), np.int64(agents.loc[e, i, 1])
            cell = (e * height + at_row) * map_width + at_column
            out[e, i, 0] = 1
            has_both = (agents.units[e, i, 0] > 0) & (agents.units[e, i, 1] > 0)
            out[e, i, BUILD] = has_both & buildable(world.cells, cell)
            for good in range(2):
                room = n_open[e, good, i] < config.max_orders
                affordable = min(np.int64(agents.coin[e, i]) + 1, n_prices)
                case = room * (2 * affordable + (agents.units[e, i, good] > 0))
                to = (e * n_agents + i) * width + FIRST_ORDER + 2 * good * n_prices
                copy_run(out, to, order_table, case * 2 * n_prices, 2 * n_prices)
            for direction in range(4):
                ahead = beside(cell, at_row, at_column, height, map_width, direction)
                out[e, i, first_move + direction] = is_open(world.cells, ahead, i)


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


@part
def designer_masks(config, choices, limit, position, out, mask, lo, hi):
    """Legal rate choices of the designer, section 13: any up to the limit on the first day, else none."""
    for e in range(lo, hi):
        if not mask[e] or (config.decision_only and position[e] != 1):
            continue
        for b in range(out.shape[1]):
            out[e, b, 0] = 1
            for k in range(choices.shape[0]):
                out[e, b, 1 + k] = position[e] == 1 and abs(choices[k]) <= limit[e]


@inline
def observe(config, state, tables, agents_out, designer_out, mask, lo, hi):
    """Write all observations and masks of the copies in ``[lo, hi)`` that ``mask`` names."""
    world, agents, books, taxes = state.world, state.agents, state.books, state.taxes
    shape, common = (world.cells.shape[1], world.cells.shape[2]), designer_out.common
    if config.radius < 0:
        whole_maps(world, agents.loc, agents_out.map, mask, lo, hi)
    else:
        windows(config, world, agents.loc, tables.columns, agents_out.map, mask, lo, hi)
    common_vectors(config, books, taxes, state.clock.time, common, mask, lo, hi)
    agent_vectors(config, agents, books, taxes.marginal_now, common, shape, agents_out.flat, mask, lo, hi)
    designer_vectors(config, agents, taxes, shape, designer_out, mask, lo, hi)
    action_masks(config, world, agents, books.n_open, tables.orders, agents_out.mask, mask, lo, hi)
    if tables.choices.shape[0] > 0:
        designer_masks(config, tables.choices, state.rates.limit, taxes.position, designer_out.mask, mask, lo, hi)
