"""The auction against the naive reference, its rules one by one, and its books."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.market import NaiveMarket

from fastenvs import market
from fastenvs.market import Market


@st.composite
def sessions(draw):
    return {
        "books": draw(st.integers(1, 3)),
        "agents": draw(st.integers(1, 5)),
        "goods": draw(st.integers(1, 3)),
        "max_price": draw(st.integers(0, 6)),
        "max_orders": draw(st.integers(1, 4)),
        "order_life": draw(st.integers(0, 6)),
        "busy": draw(st.floats(0.1, 0.9)),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@settings(deadline=None, max_examples=80)
@given(sessions())
def test_against_the_naive_reference(s):
    rng = np.random.default_rng(s["seed"])
    shape = (s["books"], s["agents"], s["goods"])
    mine = Market(
        s["books"], s["agents"], n_goods=s["goods"], max_price=s["max_price"], max_orders=s["max_orders"],
        order_life=s["order_life"], order_labor=0.25,
    )  # fmt: skip
    mine.goods.coin[:] = rng.uniform(0, 20, shape[:2])
    mine.goods.units[:] = rng.integers(0, 6, shape)
    naive = [
        NaiveMarket(c, u, s["max_orders"], s["order_life"])
        for c, u in zip(mine.goods.coin.tolist(), mine.goods.units.tolist(), strict=True)
    ]
    coin, units = mine.goods.coin.sum(1), mine.goods.units.sum(1)
    for _ in range(25):
        orders = [np.where(rng.random(shape) < s["busy"], rng.integers(0, s["max_price"] + 1, shape), -1) for _ in "ba"]
        mine.step(*orders)
        for e, book in enumerate(naive):
            trades = book.step(orders[0][e].tolist(), orders[1][e].tolist())
            assert [tuple(t) for t in mine.trades[e, : mine.n_trades[e]].tolist()] == trades
            assert sorted(mine.orders(e)) == book.orders()
            np.testing.assert_allclose(mine.goods.coin[e], book.coin, rtol=0, atol=1e-9)
            np.testing.assert_array_equal(mine.goods.escrow_coin[e], book.escrow_coin)
            np.testing.assert_array_equal(mine.goods.units[e], book.units)
            np.testing.assert_array_equal(mine.goods.escrow_units[e], book.escrow_units)
            np.testing.assert_allclose(mine.goods.labor[e], 0.25 * np.array(book.placed))
            for g in range(s["goods"]):
                history = [book.history[g].get(p, 0.0) for p in range(s["max_price"] + 1)]
                np.testing.assert_allclose(mine.books.history[e, g], history, rtol=1e-12)
        check_books(mine)
        goods = mine.goods
        np.testing.assert_allclose((goods.coin + goods.escrow_coin).sum(1), coin, rtol=1e-12)
        np.testing.assert_array_equal((goods.units + goods.escrow_units).sum(1), units)


def check_books(m):
    """Counts, depths and escrow agree with the open orders; nobody else's orders cross."""
    for e in range(len(m.goods.coin)):
        orders = m.orders(e)
        depth = np.zeros_like(m.books.own_depth[e])
        escrow_coin, escrow_units = np.zeros_like(m.goods.escrow_coin[e]), np.zeros_like(m.goods.escrow_units[e])
        for good, side, agent, price, _ in orders:
            depth[agent, market.ASK if side else market.BID, good, price] += 1
            if side:
                escrow_units[agent, good] += 1
            else:
                escrow_coin[agent] += price
        np.testing.assert_array_equal(m.books.own_depth[e], depth)
        np.testing.assert_array_equal(m.books.depth[e], depth.sum(0))
        np.testing.assert_array_equal(m.books.n_open[e], depth.sum((1, 3)).T)
        np.testing.assert_array_equal(m.goods.escrow_coin[e], escrow_coin)
        np.testing.assert_array_equal(m.goods.escrow_units[e], escrow_units)
        assert (m.books.n_open <= m.rules.max_orders).all()
        for bid in (o for o in orders if o[1] == 0):
            crossing = [o for o in orders if o[1] == 1 and o[0] == bid[0] and o[3] <= bid[3] and o[2] != bid[2]]
            assert not crossing


def play(steps, *, coin=20.0, units=3, agents=3, **options):
    """Steps of orders (agent, "bid" or "ask", price) for one good; trades as (buyer, seller, price), by step."""
    m = Market(1, agents, n_goods=1, **options)
    m.goods.coin[:], m.goods.units[:] = coin, units
    out = []
    for orders in steps:
        bids, asks = np.full((1, agents, 1), -1), np.full((1, agents, 1), -1)
        for agent, side, price in orders:
            (bids if side == "bid" else asks)[0, agent, 0] = price
        m.step(bids, asks)
        out.append([(t[1], t[2], t[5]) for t in m.trades[0, : m.n_trades[0]].tolist()])
    return m, out


@pytest.mark.parametrize(
    ("steps", "trades"),
    [
        ([[(0, "bid", 7), (1, "ask", 4)]], [[(0, 1, 4)]]),  # both new: the ask's price
        ([[(0, "bid", 7)], [(1, "ask", 4)]], [[], [(0, 1, 7)]]),  # the older bid's price
        ([[(1, "ask", 4)], [(0, "bid", 7)]], [[], [(0, 1, 4)]]),  # the older ask's price
        ([[(0, "bid", 5), (1, "ask", 5), (2, "ask", 5)]], [[(0, 1, 5)]]),  # same price, same age: lower agent
        ([[(2, "ask", 5)], [(0, "bid", 5), (1, "ask", 5)]], [[], [(0, 2, 5)]]),  # same price: older first
        ([[(0, "bid", 6), (1, "bid", 7), (2, "ask", 5)]], [[(1, 2, 5)]]),  # the highest bid first
        ([[(0, "bid", 6), (0, "ask", 4)]], [[]]),  # nobody trades with itself
        ([[(0, "bid", 6), (0, "ask", 4), (1, "ask", 6)]], [[(0, 1, 6)]]),  # ... but finds the next ask
        ([[(0, "bid", 0), (1, "ask", 0)]], [[(0, 1, 0)]]),  # price 0 is legal
        ([[(0, "bid", 3), (1, "ask", 4)]], [[]]),
    ],
)
def test_who_trades_at_what_price(steps, trades):
    assert play(steps)[1] == trades


def test_an_order_lives_through_one_matching_more_than_its_life():
    late = [[(0, "bid", 5)], [], [(1, "ask", 5)]]
    assert play(late, order_life=2)[1] == [[], [], [(0, 1, 5)]]
    m, trades = play(late, order_life=1)
    assert trades == [[], [], []]
    assert m.goods.coin[0, 0] == 20


def test_an_untouched_new_order_shows_age_one():
    assert play([[(0, "bid", 5)]])[0].orders(0) == [(0, 0, 0, 5, 1)]


def test_the_cap_counts_bids_and_asks_together():
    m, _ = play([[(0, "bid", 1)], [(0, "ask", 9)], [(0, "bid", 2)], [(0, "ask", 8)]], max_orders=2)
    assert [(side, price) for _, side, _, price, _ in m.orders(0)] == [(0, 1), (1, 9)]


def test_unaffordable_orders_are_not_entered():
    m, _ = play([[(0, "bid", 5), (1, "ask", 5)]], coin=4.999, units=0)
    assert m.orders(0) == []
    assert play([[(0, "bid", 0)]], coin=0.0)[0].orders(0) == [(0, 0, 0, 0, 1)]


def test_intake_of_all_goods_precedes_matching():
    """Coin from a sale of good 0 cannot pay for a bid on good 1 in the same step."""
    m = Market(1, 2, n_goods=2)
    m.goods.coin[:], m.goods.units[:] = [[0.0, 9.0]], 1
    bids, asks = np.full((1, 2, 2), -1), np.full((1, 2, 2), -1)
    asks[0, 0, 0], bids[0, 1, 0] = 5, 5
    bids[0, 0, 1], asks[0, 1, 1] = 5, 5
    assert m.step(bids, asks) == 1
    assert m.goods.coin[0].tolist() == [5.0, 4.0]


def test_bad_input_is_refused_before_anything_changes():
    m = Market(2, 2)
    m.goods.coin[:] = 10
    good = np.full((2, 2, 2), -1)
    bad = good.copy()
    bad[1, 0, 1] = 11
    with pytest.raises(ValueError, match="price 11 of agent 0 for good 1 in book 1"):
        m.step(np.full((2, 2, 2), 1), bad)
    with pytest.raises(ValueError, match="shape"):
        m.step(good[:1], good)
    with pytest.raises(TypeError, match="integers"):
        m.step(good * 1.0, good)
    assert (m.goods.coin == 10).all()
    assert not m.books.clock.any()
    for options in ({"max_price": 40_000}, {"max_orders": 65_536}, {"n_goods": 65}, {"order_life": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Market(1, 2, **options)


def test_the_example_in_the_documentation():
    assert doctest.testmod(market).failed == 0
