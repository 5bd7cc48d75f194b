"""State of the economy, its maps, and the start of an episode (``docs/spec/gtb.md``, sections 1 and 2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.gtb.config import STONE, WOOD, Options
from fastenvs.jit import copy_bytes, inline, part
from fastenvs.market import Books, make_books
from fastenvs.saez import Memory, make_memory
from fastenvs.tax import Taxes, make_taxes

# Channels of a cell. Units and sources of commodity g are channels g and SOURCE + g.
HOUSE, WATER, SOURCE, OWNER, AGENT, INSIDE = 2, 3, 4, 6, 7, 8
N_CHANNELS = 9
# In the channels OWNER and AGENT: 0 is nobody, 1 oneself (in an agent's window), i + 2 agent i.
FIRST_AGENT = 2
N_GOODS = 2

#: Where the counts that survive resets stop.
MOST_COUNTED = 2_000_000_000

SKILL_NONE, SKILL_PARETO, SKILL_LOGNORMAL = 0, 1, 2
SKILLS = {"none": SKILL_NONE, "pareto": SKILL_PARETO, "lognormal": SKILL_LOGNORMAL}


class World(NamedTuple):
    """The grid of N copies."""

    cells: np.ndarray  # uint8 [N, H, W, N_CHANNELS]
    first_house: np.ndarray  # int32 [N, A], cell of the agent's latest house + 1, 0 for none
    next_house: np.ndarray  # int32 [N, H * W], cell of the owner's previous house + 1


class Agents(NamedTuple):
    """The mobile agents of N copies; goods are stone, wood."""

    loc: np.ndarray  # int16 [N, A, 2], row and column
    coin: np.ndarray  # float64 [N, A], at hand
    escrow_coin: np.ndarray  # float64 [N, A]
    units: np.ndarray  # int32 [N, A, 2], at hand
    escrow_units: np.ndarray  # int32 [N, A, 2]
    labor: np.ndarray  # float64 [N, A], of the episode
    pay: np.ndarray  # float64 [N, A], coins for a house
    skill: np.ndarray  # float64 [N, A], the raw draw
    bonus: np.ndarray  # float64 [N, A], probability of a second unit
    houses: np.ndarray  # int32 [N, A], built in the episode


class Clock(NamedTuple):
    """Where a copy is in its episode, and what it is worth."""

    time: np.ndarray  # int32 [N]
    completed: np.ndarray  # int32 [N], episodes; survives resets
    positive_steps: np.ndarray  # int32 [N], steps with a positive mean reward; survives resets
    regrow_wait: np.ndarray  # int64 [N], source draws until the next success
    energy_weight: np.ndarray  # float64 [N], of the labor cost in the last utility
    utility: np.ndarray  # float64 [N, A]
    coin_utility: np.ndarray  # float64 [N, A], the part that depends on coin
    coin_seen: np.ndarray  # float64 [N, A], the total coin that it is of
    welfare: np.ndarray  # float64 [N]
    productivity: np.ndarray  # float64 [N], sum of total coin
    equality: np.ndarray  # float64 [N]
    scratch: np.ndarray  # float64 [N, A]


class Events(NamedTuple):
    """What happened in the last step and how it left things before any reset; totals of the episode."""

    built: np.ndarray  # uint8 [N, A]
    gathered: np.ndarray  # uint8 [N, A, 2], units
    reward: np.ndarray  # float64 [N, A]
    labor: np.ndarray  # float64 [N, A], of the episode
    units: np.ndarray  # int32 [N, A, 2], goods at hand
    escrow_units: np.ndarray  # int32 [N, A, 2], goods behind open asks
    welfare: np.ndarray  # float64 [N]
    productivity: np.ndarray  # float64 [N], sum of total coin
    equality: np.ndarray  # float64 [N]
    n_trades: np.ndarray  # int32 [N, A, 2, 2], of the episode: sold and bought, by good
    trade_value: np.ndarray  # float64 [N, A, 2, 2], coins of those trades


class Rates(NamedTuple):
    """What the rates of N copies depend on, besides the tax cycle."""

    external: np.ndarray  # float64 [N, B], as set last; survives resets
    cap: np.ndarray  # float64 [N], in force; survives until the first masks of an episode
    fresh: np.ndarray  # bool [N], reset, but its first masks not made yet
    limit: np.ndarray  # float64 [N], largest rate that the designer's mask allows in this episode
    chosen: np.ndarray  # int32 [N, B], designer's actions for the next step


class State(NamedTuple):
    """All of it; the groups are what the components take."""

    world: World
    agents: Agents
    books: Books
    taxes: Taxes
    rates: Rates
    saez: Memory
    clock: Clock
    events: Events


class Start(NamedTuple):
    """How episodes start; the same for all copies."""

    cells: np.ndarray  # uint8 [1, H, W, N_CHANNELS]
    rank_pay: np.ndarray  # float64 [A], empty where ranks are not drawn
    rank_location: np.ndarray  # int16 [A, 2]
    skills: np.ndarray  # float64 [A], by agent; empty without
    places: np.ndarray  # int16 [A, 2], by agent; empty without
    start_coin: float
    build_pay: float
    skill_cap: float
    build_skill: int
    gather_skill: int
    shape: float  # of the Pareto distribution of skills
    log_mean: float  # of log-normal skills
    log_deviation: float


class ResetDraws(NamedTuple):
    """Draws handed in; arrays without rows where they are made natively."""

    location: np.ndarray  # int16 [N, A, 2]
    build_skill: np.ndarray  # float64 [N, A]
    bonus: np.ndarray  # float64 [N, A]
    agent_order: np.ndarray  # int16 [N, A]


def first_cells(options: Options) -> np.ndarray:
    """The map at the start of an episode, uint8 ``[1, H, W, N_CHANNELS]``."""
    symbols = options.cells
    cells = np.zeros((1, *symbols.shape, N_CHANNELS), np.uint8)
    for good, symbol in ((STONE, "S"), (WOOD, "W")):
        cells[0, ..., good] = cells[0, ..., SOURCE + good] = symbols == symbol
    cells[0, ..., WATER] = symbols == "@"
    cells[0, ..., INSIDE] = 1
    return cells


def make_start(options: Options) -> Start:
    """What a reset needs."""
    ranked, none = options.ranked, np.empty((0, 2), np.int16)
    return Start(
        first_cells(options),
        options.rank_pay if ranked else np.empty(0),
        options.rank_location if ranked else none,
        np.array(options.skills or (), float),
        none if options.places is None else np.array(options.places, np.int16),
        options.start_coin,
        options.build_pay,
        options.build_skill_cap,
        SKILLS[options.build_skill],
        SKILLS[options.gather_skill],
        options.build_skill_shape,
        *options.build_skill_log,
    )


def make_state(n: int, options: Options) -> State:
    """Allocate the state of ``n`` copies."""
    a, (height, width) = options.n_agents, options.cells.shape

    def zeros(*shape: int, dtype: type = np.float64) -> np.ndarray:
        return np.zeros((n, *shape), dtype)

    world = World(
        zeros(height, width, N_CHANNELS, dtype=np.uint8),
        zeros(a, dtype=np.int32),
        zeros(height * width, dtype=np.int32),
    )
    agents = Agents(
        loc=zeros(a, 2, dtype=np.int16),
        coin=zeros(a),
        escrow_coin=zeros(a),
        units=zeros(a, N_GOODS, dtype=np.int32),
        escrow_units=zeros(a, N_GOODS, dtype=np.int32),
        labor=zeros(a),
        pay=zeros(a),
        skill=zeros(a),
        bonus=zeros(a),
        houses=zeros(a, dtype=np.int32),
    )
    clock = Clock(
        time=zeros(dtype=np.int32),
        completed=zeros(dtype=np.int32),
        positive_steps=zeros(dtype=np.int32),
        regrow_wait=zeros(dtype=np.int64),
        energy_weight=zeros(),
        utility=zeros(a),
        coin_utility=zeros(a),
        coin_seen=np.full((n, a), -1.0),
        welfare=zeros(),
        productivity=zeros(),
        equality=zeros(),
        scratch=zeros(a),
    )
    events = Events(
        built=zeros(a, dtype=np.uint8),
        gathered=zeros(a, N_GOODS, dtype=np.uint8),
        reward=zeros(a),
        labor=zeros(a),
        units=zeros(a, N_GOODS, dtype=np.int32),
        escrow_units=zeros(a, N_GOODS, dtype=np.int32),
        welfare=zeros(),
        productivity=zeros(),
        equality=zeros(),
        n_trades=zeros(a, 2, N_GOODS, dtype=np.int32),
        trade_value=zeros(a, 2, N_GOODS),
    )
    books = make_books(n, a, N_GOODS, options.n_prices, options.orders_each, max_trades=a)
    b = len(options.cutoffs)
    rates = Rates(zeros(b), zeros(), zeros(dtype=np.bool_), zeros(), zeros(b, dtype=np.int32))
    memories = 0 if options.tax_mode != "saez" else 1 if options.saez_shared else n
    taxes = make_taxes(n, a, b, options.rebate)
    return State(world, agents, books, taxes, rates, make_memory(memories, b), clock, events)


@part
def reset(start, world, agents, clock, events, streams, draws, mask, lo, hi):
    """Lay out the map, endow and place the agents, draw their skills (section 2, steps 1 to 8)."""
    n_agents = agents.coin.shape[1]
    map_bytes = start.cells.size
    for e in range(lo, hi):
        if not mask[e]:
            continue
        copy_bytes(world.cells, e * map_bytes, start.cells, 0, map_bytes)
        world.first_house[e] = 0
        clock.time[e] = 0
        agents.escrow_coin[e] = 0.0
        agents.units[e] = 0
        agents.escrow_units[e] = 0
        agents.labor[e] = 0.0
        agents.coin[e] = start.start_coin
        agents.houses[e] = 0
        events.n_trades[e] = 0
        events.trade_value[e] = 0.0
        for i in range(n_agents):
            place(world, agents, streams, draws.location, e, i)
        for i in range(n_agents):
            draw_skills(start, agents, streams, draws, e, i)
        if start.rank_pay.shape[0] > 0:
            place_by_rank(start, world, agents, clock.scratch, streams, draws.agent_order, e)
        if start.skills.shape[0] + start.places.shape[0] > 0:
            settle(start, world, agents, e)


@part
def place(world, agents, streams, location, e, i):
    """Put agent ``i`` on a uniformly drawn free cell."""
    cells = world.cells
    given = location.shape[0] > 0
    row = np.int64(location[e, i, 0]) if given else np.int64(0)
    column = np.int64(location[e, i, 1]) if given else np.int64(0)
    while not given:
        row = rng.below(streams, e, cells.shape[1])
        column = rng.below(streams, e, cells.shape[2])
        if cells[e, row, column, WATER] == 0 and cells[e, row, column, AGENT] == 0:
            break
    agents.loc[e, i, 0] = row
    agents.loc[e, i, 1] = column
    cells[e, row, column, AGENT] = i + FIRST_AGENT


@part
def draw_skills(start, agents, streams, draws, e, i):
    """Pay for building, and probability of a bonus unit, of agent ``i`` (section 2, steps 4 and 6)."""
    skill = 1.0
    if draws.build_skill.shape[0] > 0:
        skill = draws.build_skill[e, i]
    elif start.build_skill == SKILL_PARETO:
        skill = lomax(streams, e, start.shape)
    elif start.build_skill == SKILL_LOGNORMAL:
        skill = np.exp(start.log_mean + start.log_deviation * normal(streams, e))
    agents.skill[e, i] = skill
    multiplier = 1.0
    if start.build_skill != SKILL_NONE:
        multiplier = min(start.skill_cap, (start.skill_cap - 1.0) * skill + 1.0)
    agents.pay[e, i] = multiplier * start.build_pay
    if draws.bonus.shape[0] > 0:
        agents.bonus[e, i] = draws.bonus[e, i]
    elif start.gather_skill == SKILL_PARETO:
        agents.bonus[e, i] = min(2.0, lomax(streams, e, 3.0)) / 2.0
    elif start.gather_skill == SKILL_LOGNORMAL:
        agents.bonus[e, i] = min(2.0, np.exp(-2.022 + 0.938 * normal(streams, e))) / 2.0
    else:
        agents.bonus[e, i] = 0.0


@part
def place_by_rank(start, world, agents, scratch, streams, agent_order, e):
    """Give a random permutation of the agents the places and pays of the skill ranks (section 2, step 8)."""
    n_agents = agents.coin.shape[1]
    for i in range(n_agents):
        world.cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = 0
    permutation(streams, agent_order, scratch, e)
    for rank in range(n_agents):
        i = int(scratch[e, rank])
        agents.pay[e, i] = start.rank_pay[rank]
        agents.loc[e, i, 0] = start.rank_location[rank, 0]
        agents.loc[e, i, 1] = start.rank_location[rank, 1]
        world.cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = i + FIRST_AGENT


@part
def settle(start, world, agents, e):
    """Give every agent the skill and the place that are named for it."""
    for i in range(start.skills.shape[0]):
        agents.skill[e, i] = start.skills[i]
        agents.pay[e, i] = start.skills[i] * start.build_pay
    for i in range(start.places.shape[0]):
        world.cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = 0
    for i in range(start.places.shape[0]):
        agents.loc[e, i, 0] = start.places[i, 0]
        agents.loc[e, i, 1] = start.places[i, 1]
        world.cells[e, agents.loc[e, i, 0], agents.loc[e, i, 1], AGENT] = i + FIRST_AGENT


@inline
def permutation(streams, given, out, e):
    """Write a uniform permutation of the agents, or the given one, to row ``e`` of ``out``."""
    n = out.shape[1]
    if given.shape[0] > 0:
        for i in range(n):
            out[e, i] = given[e, i]
        return
    rng.skip(streams, e)  # the first agent has one place to go to
    out[e, 0] = 0
    for i in range(1, n):
        j = rng.below(streams, e, i + 1)
        out[e, i] = out[e, j]
        out[e, j] = i


@part
def lomax(streams, e, shape):
    """Pareto II with scale 1."""
    return (1.0 - rng.uniform(streams, e)) ** (-1.0 / shape) - 1.0


@part
def normal(streams, e):
    """Standard normal, by Box and Muller."""
    radius = np.sqrt(-2.0 * np.log(1.0 - rng.uniform(streams, e)))
    return radius * np.cos(2.0 * np.pi * rng.uniform(streams, e))
