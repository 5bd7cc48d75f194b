"""The components of the economy, composed: a step with what is seen after it, and the start of an episode."""

from typing import NamedTuple

import numpy as np

from fastenvs.bound import call
from fastenvs.gtb import build, gather, observe, rates, regrow, reward, state
from fastenvs.jit import inline, kernel
from fastenvs.turns import Turns, after_step, before_step


class Play(NamedTuple):
    """What a step and what observing work on."""

    steps: bool  # whether to step, or to observe alone
    state: NamedTuple
    buffers: NamedTuple
    streams: NamedTuple
    turns: Turns
    mask: np.ndarray  # bool [N], copies to observe
    labors: NamedTuple
    rewards: NamedTuple
    rates: NamedTuple
    regen_prob: float
    sources: np.ndarray
    orders: np.ndarray  # from build.order_table
    bid: np.ndarray  # int16 [N, A, 2]
    ask: np.ndarray
    auction: tuple[int, int]  # the market's step
    tax: tuple[int, int]  # the tax cycle's step
    order: np.ndarray  # int16 [N, A], in which the agents gather
    gather_order: np.ndarray  # draws handed in
    collect: np.ndarray
    regrowth: np.ndarray
    viewing: NamedTuple
    tables: NamedTuple
    agents: NamedTuple  # observe.AgentViews
    designer: NamedTuple  # observe.DesignerViews


class Labors(NamedTuple):
    """Labor of each deed."""

    build: float
    move: float
    collect: float


@kernel
def play(w, lo, hi):
    """Step the copies of ``[lo, hi)`` and observe those that go on; or observe those that ``mask`` names.

    Returns how many begin an episode in this call, which is done apart.
    """
    n_fresh, turns = 0, w.turns
    if w.steps:
        before_step(turns, w.buffers, lo, hi)
        step(w, lo, hi)
        n_fresh = after_step(turns, w.buffers, lo, hi)
        for e in range(lo, hi):
            w.mask[e] = turns.seen[e] and not turns.fresh[e]
    observe.observe(w.viewing, w.state, w.tables, w.agents, w.designer, w.mask, lo, hi)
    if not w.viewing.final:  # the first masks of an episode bring its cap into force
        rates.unveil(w.rates, w.state.rates, w.state.taxes, w.state.clock.completed, w.mask, lo, hi)
    return n_fresh


@inline
def step(w, lo, hi):
    """One step, component by component (``docs/spec/gtb.md``, section 3)."""
    s, b, active = w.state, w.buffers, w.buffers.active
    build.read_orders(b.actions, active, w.orders, w.bid, w.ask, s.clock.time, lo, hi)
    build.build(b.actions, active, s.world, s.agents, s.events.built, w.labors.build, lo, hi)
    call(w.auction, lo, hi)
    gather.gather(
        b.actions, active, w.orders.shape[0] - 4, s.world.cells, s.agents, s.events.gathered, w.labors, w.streams,
        (w.gather_order, w.collect), w.order, lo, hi,
    )  # fmt: skip
    if w.rates.fixed.shape[0] > 1:
        rates.turn(w.rates, s.rates, s.taxes, active, lo, hi)
    call(w.tax, lo, hi)
    regrow.regrow(active, s.world.cells, w.sources, s.clock, w.streams, w.regen_prob, w.regrowth, lo, hi)
    reward.reward(w.rewards, s.agents, s.clock, s.events, s.books.trades, s.books.n_trades, b, lo, hi)


class Beginning(NamedTuple):
    """What the start of an episode works on."""

    state: NamedTuple
    streams: NamedTuple
    start: NamedTuple
    draws: NamedTuple
    regen_prob: float
    rates: NamedTuple
    rewards: NamedTuple
    mask: np.ndarray  # bool [N], copies that begin


@kernel
def begin(w, lo, hi):
    """Start an episode (section 2); the books are emptied apart."""
    s, mask = w.state, w.mask
    state.reset(w.start, s.world, s.agents, s.clock, s.events, w.streams, w.draws, mask, lo, hi)
    rates.begin(w.rates, s.rates, s.taxes, s.agents, s.clock, s.saez.running_mean, mask, lo, hi)
    regrow.restart(s.clock, w.streams, w.regen_prob, mask, lo, hi)
    reward.begin(w.rewards, s.agents, s.clock, mask, lo, hi)
