"""Continuous double auction: N books at once, for the economy or on their own.

Every agent may enter one bid and one ask a step for each good. Bids put coin into escrow, asks put a unit
there. Then each bid, the highest first and at the same price the older first, takes the cheapest ask of another agent
that it can pay; the older order sets the price, ties go to the ask. What is left grows a step older, and what has
been in ``order_life + 1`` matchings goes back to its owner.

Example
-------
>>> import numpy as np
>>> market = Market(num_books=1, n_agents=2, max_price=10)
>>> market.goods.coin[:] = 20
>>> market.goods.units[:] = 1
>>> nothing = np.full((1, 2, 2), -1)
>>> bids, asks = nothing.copy(), nothing.copy()
>>> bids[0, 0, 0], asks[0, 1, 0] = 7, 4     # agent 0 bids 7 for good 0, agent 1 asks 4
>>> market.step(bids, asks)
1
>>> market.trades[0, 0, :6].tolist()        # good, buyer, seller, bid, ask, price
[0, 0, 1, 7, 4, 4]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastenvs import _market  # type: ignore[attr-defined]
from fastenvs.checks import MAX_AMOUNT, MAX_INT, affordable, as_int, in_range, integers_of, normalise, positive_int
from fastenvs.guard import Guarded, exclusive

#: A seller's history of trades loses this share of its weight in every step.
HISTORY_DECAY = 0.995
#: Columns of a trade: good, buyer, seller, bid, ask, price, and the ages of bid and ask.
TRADE_FIELDS = ("good", "buyer", "seller", "bid", "ask", "price", "bid_age", "ask_age")
ASK, BID = 0, 1


class Books(NamedTuple):
    """Order books of N copies with A agents, G goods and P price levels."""

    keys: np.ndarray  # uint64 [N, G, 2, A * max_orders], asks and bids, best first
    n_keys: np.ndarray  # int32 [N, G, 2]
    n_open: np.ndarray  # int32 [N, G, A], open orders of an agent for a good
    own_depth: np.ndarray  # uint16 [N, A, 2, G, P], open orders by agent, side (asks, bids), good and price
    depth: np.ndarray  # int32 [N, 2, G, P], the same over all agents
    history: np.ndarray  # float64 [N, G, P], trades by price, decaying
    clock: np.ndarray  # int32 [N], steps done
    next_expiry: np.ndarray  # int32 [N], no order expires before this step
    trades: np.ndarray  # int32 [N, K, 8], of the last step, see TRADE_FIELDS
    n_trades: np.ndarray  # int32 [N], of the last step


class Goods(NamedTuple):
    """What the traders of N books have; G goods."""

    coin: np.ndarray  # float64 [N, A], at hand
    escrow_coin: np.ndarray  # float64 [N, A], behind open bids
    units: np.ndarray  # int32 [N, A, G], at hand
    escrow_units: np.ndarray  # int32 [N, A, G], behind open asks
    labor: np.ndarray  # float64 [N, A], grows with every order entered


class Rules(NamedTuple):
    """Rules of a market."""

    max_orders: int  # open orders, bids and asks together, of an agent for a good
    order_life: int  # steps after which an order expires
    order_labor: float  # labor of entering an order


def make_books(n: int, n_agents: int, n_goods: int, n_prices: int, max_orders: int, max_trades: int) -> Books:
    """Empty books; ``max_trades`` is the most that one step can bring, the number of orders it takes in."""
    books = Books(
        keys=np.zeros((n, n_goods, 2, n_agents * max_orders), np.uint64),
        n_keys=np.zeros((n, n_goods, 2), np.int32),
        n_open=np.zeros((n, n_goods, n_agents), np.int32),
        own_depth=np.zeros((n, n_agents, 2, n_goods, n_prices), np.uint16),
        depth=np.zeros((n, 2, n_goods, n_prices), np.int32),
        history=np.zeros((n, n_goods, n_prices)),
        clock=np.zeros(n, np.int32),
        next_expiry=np.zeros(n, np.int32),
        trades=np.full((n, max_trades, len(TRADE_FIELDS)), -1, np.int32),
        n_trades=np.zeros(n, np.int32),
    )
    books.next_expiry.fill(np.iinfo(np.int32).max)
    return books


@dataclass(frozen=True)
class Options:
    """Options of a :class:`Market`, which describes them."""

    num_books: int
    n_agents: int
    n_goods: int = 2
    max_price: int = 10
    max_orders: int = 5
    order_life: int = 50
    order_labor: float = 0.0

    def __post_init__(self) -> None:
        normalise(self)
        for name, least, most in (
            ("num_books", 1, MAX_INT), ("n_agents", 1, 65_535), ("n_goods", 1, 64), ("max_price", 0, 32_767),
            ("max_orders", 1, 65_535), ("order_life", 0, MAX_INT),
        ):  # fmt: skip
            positive_int(name, getattr(self, name), least, most)
        in_range(self, -MAX_AMOUNT, MAX_AMOUNT, "order_labor")

    @property
    def bytes_each(self) -> int:
        """Memory that a book takes."""
        each = 16 * self.max_orders + 4 * (self.max_price + 1) + 100
        return self.n_goods * (self.n_agents * each + 16 * (self.max_price + 1)) + 64


class Market(Guarded):
    """N order books and the goods of their traders.

    Two threads may not be inside one market at once: the second call is refused.

    Parameters
    ----------
    num_books : int
        Number of books, N.
    n_agents, n_goods : int
        Traders and goods of each.
    max_price : int
        Prices are whole coins, 0 .. max_price.
    max_orders : int
        Open orders, bids and asks together, that an agent may have for a good; further ones are ignored.
    order_life : int
        Steps after which an order expires.
    order_labor : float
        Labor of entering an order.
    """

    def __init__(
        self,
        num_books: int,
        n_agents: int,
        *,
        n_goods: int = 2,
        max_price: int = 10,
        max_orders: int = 5,
        order_life: int = 50,
        order_labor: float = 0.0,
    ) -> None:
        super().__init__()
        self._options = o = Options(num_books, n_agents, n_goods, max_price, max_orders, order_life, order_labor)
        n = o.num_books
        affordable(f"num_books = {n:,} books", n, o.bytes_each)
        self._rules = Rules(o.max_orders, o.order_life, max(0.0, o.order_labor))
        self._goods = Goods(
            coin=np.zeros((n, o.n_agents)),
            escrow_coin=np.zeros((n, o.n_agents)),
            units=np.zeros((n, o.n_agents, o.n_goods), np.int32),
            escrow_units=np.zeros((n, o.n_agents, o.n_goods), np.int32),
            labor=np.zeros((n, o.n_agents)),
        )
        most = 2 * o.n_agents * o.n_goods
        self._books = make_books(n, o.n_agents, o.n_goods, o.max_price + 1, o.max_orders, most)
        self._bids, self._asks = (np.full(self._goods.units.shape, -1, np.int16) for _ in range(2))
        everyone = np.ones(n, np.uint8)
        self._run = make_step(self._books, self._goods, self._rules, self._bids, self._asks, everyone)

    @property
    def goods(self) -> Goods:
        """What the traders have; write to ``goods.coin`` and ``goods.units`` to endow them."""
        return self._goods

    @property
    def books(self) -> Books:
        """The books themselves."""
        return self._books

    @property
    def rules(self) -> Rules:
        """Rules of the market."""
        return self._rules

    @property
    def max_price(self) -> int:
        """Highest price of an order."""
        return self._options.max_price

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        arrays = [*self._goods, *self._books]
        return {"options": self._options, "arrays": [array.copy() for array in arrays]}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        o = saved["options"]
        Market.__init__(
            self, o.num_books, o.n_agents, n_goods=o.n_goods, max_price=o.max_price, max_orders=o.max_orders,
            order_life=o.order_life, order_labor=o.order_labor,
        )  # fmt: skip
        for mine, array in zip([*self._goods, *self._books], saved["arrays"], strict=True):
            mine[...] = array

    @property
    def trades(self) -> np.ndarray:
        """Trades of the last step, int32 ``[N, K, 8]``; row ``k`` holds for ``k < n_trades``; see TRADE_FIELDS."""
        return self.books.trades

    @property
    def n_trades(self) -> np.ndarray:
        """Number of trades of the last step, int32 ``[N]``."""
        return self.books.n_trades

    @exclusive
    def step(self, bids, asks) -> int:
        """Enter orders, match, and let the rest grow older.

        Parameters
        ----------
        bids, asks : array of int, ``[N, A, G]``
            Price of the order of each agent for each good, -1 for none. An agent without the coin or the unit, or
            with ``max_orders`` open, enters none.

        Returns
        -------
        int
            Number of trades in all books; they are in :attr:`trades`.

        Raises
        ------
        ValueError, TypeError
            If a shape or a price is wrong; nothing is changed then.
        """
        bid, ask = self._check("bids", bids), self._check("asks", asks)
        self._bids[:], self._asks[:] = bid, ask
        self._run(0, len(bid))
        return int(self.books.n_trades.sum())

    def orders(self, book: int) -> list[tuple[int, int, int, int, int]]:
        """Open orders of one book as (good, side, agent, price, age), good by good, bids before asks, best first."""
        book, out = as_int("book", book, 0, self._options.num_books - 1), []
        for g in range(self.books.keys.shape[1]):
            for side in (BID, ASK):
                out += [(g, 1 - side, *order) for order in decode(self.books, book, g, side)]
        return out

    def _check(self, name: str, orders) -> np.ndarray:
        entry = name + ": price {value} of agent {1} for good {2} in book {0}"
        return integers_of(name, orders, self._goods.units.shape, -1, self.max_price, entry)


def make_step(
    books: Books, goods: Goods, rules: Rules, bids: np.ndarray, asks: np.ndarray, active: np.ndarray
) -> Callable[[int, int], None]:
    """The compiled step ``(lo, hi)`` over the active rows of a range, bound to these arrays; nothing is checked."""
    return _market.Step(bids, asks, active, *goods, *books, *rules, HISTORY_DECAY)


def decode(books: Books, book: int, good: int, side: int) -> list[tuple[int, int, int]]:
    """Open orders of one side as (agent, price, age), best first; a new order that was left over has age 1."""
    keys = books.keys[book, good, side, : books.n_keys[book, good, side]].tolist()
    now = int(books.clock[book])
    price = [(k >> 48) if side == ASK else 65_535 - (k >> 48) for k in keys]
    return [(k & 0xFFFF, p, now - ((k >> 16) & 0xFFFFFFFF) + 1) for k, p in zip(keys, price, strict=True)]


def clear(books: Books, mask: np.ndarray, lo: int, hi: int) -> None:
    """Empty the books of ``[lo, hi)`` where ``mask`` is set; the record of the last step's trades stays."""
    _market.clear(lo, hi, mask, *books[:8])
