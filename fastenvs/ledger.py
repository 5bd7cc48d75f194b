"""What books must be like; restored ones are checked, since the compiled auction trusts them."""

from __future__ import annotations

import numpy as np

from fastenvs.market import ASK, BID, Books, Goods, Rules
from fastenvs.snapshots import refuse

_TOP = 65_535
_FOREVER = np.iinfo(np.int32).max


def bounds(books: Books, rules: Rules) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every array of books."""
    _, n_goods, _, most = books.keys.shape
    n_agents, n_prices = books.own_depth.shape[1], books.history.shape[2]
    return {
        "keys": (0, 2**64 - 1),  # those in use are checked one by one
        "n_keys": (0, most),
        "n_open": (0, rules.max_orders),
        "own_depth": (0, rules.max_orders),
        "depth": (0, n_agents * rules.max_orders),
        "history": (0, 2.0**40),
        "clock": (0, 2**30),
        "next_expiry": (0, _FOREVER),
        "trades": (-1, max(n_goods, n_agents, n_prices, 2**30)),
        "n_trades": (0, books.trades.shape[1]),
    }


def check_books(books: Books, goods: Goods, rules: Rules, path: str) -> None:
    """Refuse keys of no agent, price or time, and counts, depths and escrow that do not follow from the keys."""
    _, n_goods, _, most = books.keys.shape
    n_agents, n_prices = books.own_depth.shape[1], books.history.shape[2]
    used = np.arange(most) < books.n_keys[..., None]
    rank = (books.keys >> np.uint64(48)).astype(np.int64)
    price = np.where(np.arange(2)[:, None] == BID, _TOP - rank, rank)
    born = (books.keys >> np.uint64(16)).astype(np.uint32).astype(np.int64)
    agent = (books.keys & np.uint64(_TOP)).astype(np.int64)
    now = books.clock[:, None, None, None]
    keys = f"{path}keys"
    refuse(keys, books.keys, used & (agent >= n_agents), "an order of no agent")
    refuse(keys, books.keys, used & ((price < 0) | (price >= n_prices)), "an order at no price")
    refuse(keys, books.keys, used & ((born < 1) | (born > now)), "an order from another time")
    refuse(keys, books.keys, used & (now - born >= rules.order_life), "an order that has expired")
    unsorted = used[..., 1:] & (books.keys[..., 1:] <= books.keys[..., :-1])
    refuse(keys, books.keys, np.pad(unsorted, [(0, 0)] * 3 + [(1, 0)]), "an order out of place")
    soonest = np.where(used, born + rules.order_life, _FOREVER).min((1, 2, 3), initial=_FOREVER)
    late = (books.next_expiry > soonest) | (books.next_expiry <= books.clock)
    refuse(f"{path}next_expiry", books.next_expiry, late, "not before the first order expires, or past")
    e, g, side, _ = at = np.nonzero(used)
    i, p = agent[at], price[at]
    count = np.zeros(books.own_depth.shape, np.int64)
    np.add.at(count, (e, i, side, g, p), 1)
    for name, want in (
        ("own_depth", count), ("depth", count.sum(1)), ("n_open", count.sum((2, 4)).transpose(0, 2, 1)),
    ):  # fmt: skip
        array = getattr(books, name)
        refuse(f"{path}{name}", array, array != want, "not what the orders add up to")
    coins = (count[:, :, BID] * np.arange(n_prices)).sum((2, 3))
    refuse("state/agents/escrow_coin", goods.escrow_coin, goods.escrow_coin != coins, "not what the bids add up to")
    units = count[:, :, ASK].sum(3)
    refuse("state/agents/escrow_units", goods.escrow_units, goods.escrow_units != units, "not what the asks add up to")
    _check_trades(books, (n_goods, n_agents, n_agents, n_prices, n_prices, n_prices), path)


def _check_trades(books: Books, limits: tuple[int, ...], path: str) -> None:
    made = np.arange(books.trades.shape[1]) < books.n_trades[:, None]
    fields = books.trades[..., : len(limits)]
    wrong = made[..., None] & ((fields < 0) | (fields >= np.array(limits)))
    refuse(f"{path}trades", books.trades, wrong, "a trade of nobody, of nothing or at no price")
