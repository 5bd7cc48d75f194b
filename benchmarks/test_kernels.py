"""The mechanisms and kernels alone: auction, tax, regrowth, observations."""

import numpy as np
import pytest
from test_step import make

from fastenvs import cleanup, escape_room, tax
from fastenvs.bound import bind
from fastenvs.gtb import observe, regrow
from fastenvs.jit import kernel
from fastenvs.market import Market

N = 4096


def report(benchmark, unit, n=N):
    benchmark.extra_info.update({f"{unit}_per_second": n / benchmark.stats.stats.mean})


def test_market(benchmark):
    """4,096 books of 4 agents and two goods: every agent enters one order a step, prices cross at random."""
    a = 4
    market = Market(N, a)
    rng = np.random.default_rng(0)
    sessions = []
    for _ in range(16):
        bids, asks = np.full((N, a, 2), -1, np.int16), np.full((N, a, 2), -1, np.int16)
        good, price, side = rng.integers(0, 2, (N, a)), rng.integers(0, 11, (N, a)), rng.random((N, a)) < 0.5
        rows, agents = np.indices((N, a))
        bids[rows[side], agents[side], good[side]] = price[side]
        asks[rows[~side], agents[~side], good[~side]] = price[~side]
        sessions.append((bids, asks))
    calls = iter(range(10**9))

    def step():
        i = next(calls)
        if i % 16 == 0:  # nobody runs out
            market.goods.coin[:] = 100
            market.goods.units[:] = 10
        market.step(*sessions[i % 16])

    benchmark.pedantic(step, rounds=100, warmup_rounds=60)
    report(benchmark, "book_steps")
    benchmark.extra_info["trades_per_book_step"] = float(market.n_trades.mean())


def test_tax_day(benchmark):
    """Collection and redistribution among 4 agents in 4,096 economies."""
    rng = np.random.default_rng(0)
    income, coin, rates = rng.uniform(-10, 300, (N, 4)), rng.uniform(0, 300, (N, 4)), rng.random((N, 7))
    benchmark(tax.collect_and_redistribute, income, coin, rates, tax.us_federal_brackets())
    report(benchmark, "economies")


@pytest.fixture(scope="module")
def gtb():
    env = make("gtb_paper", N)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.step(rng.integers(0, 50, (N, 4)))
    return env


@kernel
def regrow_gtb(w, lo, hi):
    s = w.state
    regrow.regrow(w.buffers.active, s.world.cells, w.sources, s.clock, w.streams, w.regen_prob, w.regrowth, lo, hi)


@kernel
def windows(w, lo, hi):
    observe.windows(w.viewing, w.state.world, w.state.agents.loc, w.tables.columns, w.agents.map, w.mask, lo, hi)


@kernel
def common_vectors(w, lo, hi):
    s = w.state
    observe.common_vectors(w.viewing, s.books, s.taxes, s.clock.time, w.designer.common, w.mask, lo, hi)


@kernel
def agent_vectors(w, lo, hi):
    s, cells = w.state, w.state.world.cells
    shape, common = (cells.shape[1], cells.shape[2]), w.designer.common
    observe.agent_vectors(
        w.viewing, s.agents, s.books, s.taxes.marginal_now, common, shape, w.agents.flat, w.mask, lo, hi
    )


@kernel
def designer_vectors(w, lo, hi):
    s, cells = w.state, w.state.world.cells
    shape = (cells.shape[1], cells.shape[2])
    observe.designer_vectors(w.viewing, s.agents, s.taxes, shape, w.designer, w.mask, lo, hi)


@kernel
def action_masks(w, lo, hi):
    s = w.state
    observe.action_masks(w.viewing, s.world, s.agents, s.books.n_open, w.tables.orders, w.agents.mask, w.mask, lo, hi)


@pytest.mark.parametrize(
    "part",
    [regrow_gtb, windows, common_vectors, agent_vectors, designer_vectors, action_masks],
    ids=lambda k: k.__name__,
)
def test_parts_gtb(benchmark, gtb, part):
    game = gtb._game()
    game.mask[:] = True
    benchmark(bind(part, game), 0, N)
    report(benchmark, "env_steps")


@kernel
def look_room(room, lo, hi):
    escape_room.observe(room.state.place, room.table, room.obs, room.turns.seen, np.int64(-1), lo, hi)


@kernel
def look_cleanup(game, lo, hi):
    cleanup.observe.observe(game.config, game.state, game.obs, game.turns.seen, lo, hi)


@pytest.mark.parametrize("setting", ["er_5_2", "cleanup_paper_7x7", "cleanup_large"])
def test_observe(benchmark, setting):
    env = make(setting, N)
    env.reset()
    look = bind(look_room, env._room()) if setting == "er_5_2" else bind(look_cleanup, env._game())
    benchmark(look, 0, N)
    report(benchmark, "env_steps")
