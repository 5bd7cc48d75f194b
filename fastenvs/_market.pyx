"""Compiled loops of :mod:`fastenvs.market`; callers check shapes and values.

A side of a book is an array of 64-bit keys in rising order, best order first: price (for bids counted from above)
in the top 16 bits, then the step in which the order came, then the agent. So older orders come before newer ones at the
same price, and lower agents before higher ones that came in the same step.
"""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    TOP = 65535
    ASK = 0
    BID = 1


cdef inline uint64_t make_key(int price, int born, int agent) noexcept nogil:
    return (<uint64_t>price << 48) | (<uint64_t>born << 16) | <uint64_t>agent


cdef inline int price_of(uint64_t key) noexcept nogil:
    return <int>(key >> 48)


cdef inline int born_of(uint64_t key) noexcept nogil:
    return <int>(<uint32_t>(key >> 16))


cdef inline int agent_of(uint64_t key) noexcept nogil:
    return <int>(<uint16_t>key)


cdef inline void insert(uint64_t* side, int32_t* n, uint64_t key) noexcept nogil:
    cdef Py_ssize_t i = n[0]
    while i > 0 and side[i - 1] > key:
        side[i] = side[i - 1]
        i -= 1
    side[i] = key
    n[0] += 1


cdef inline void remove(uint64_t* side, int32_t* n, Py_ssize_t i) noexcept nogil:
    n[0] -= 1
    while i < n[0]:
        side[i] = side[i + 1]
        i += 1


cdef class Step:
    """The step of N books, bound once to their arrays and rules; a call runs it over the active rows of a range."""

    cdef const int16_t[:, :, ::1] bid, ask
    cdef const uint8_t[::1] active
    cdef double[:, ::1] coin, escrow_coin, labor
    cdef int32_t[:, :, ::1] units, escrow_units
    cdef uint64_t[:, :, :, ::1] book
    cdef int32_t[:, :, ::1] n_book, n_open
    cdef uint16_t[:, :, :, :, ::1] own_depth
    cdef int32_t[:, :, :, ::1] depth
    cdef double[:, :, ::1] history
    cdef int32_t[::1] clock, next_expiry, n_trades
    cdef int32_t[:, :, ::1] trades
    cdef int max_orders, order_life
    cdef double order_labor, decay

    def __init__(
        self, bid, ask, active, coin, escrow_coin, units, escrow_units, labor, book, n_book, n_open, own_depth, depth,
        history, clock, next_expiry, trades, n_trades, max_orders, order_life, order_labor, decay,
    ):
        self.bid, self.ask, self.active = bid, ask, active
        self.coin, self.escrow_coin, self.labor = coin, escrow_coin, labor
        self.units, self.escrow_units = units, escrow_units
        self.book, self.n_book, self.n_open = book, n_book, n_open
        self.own_depth, self.depth, self.history = own_depth, depth, history
        self.clock, self.next_expiry, self.trades, self.n_trades = clock, next_expiry, trades, n_trades
        self.max_orders, self.order_life, self.order_labor, self.decay = max_orders, order_life, order_labor, decay

    def __call__(self, Py_ssize_t lo, Py_ssize_t hi):
        with nogil:
            step(self, lo, hi)

    @property
    def address(self):
        """Where compiled code finds the function of (this object, lo, hi), and this object."""
        return <size_t><void*>step, <size_t><void*>self


cdef Py_ssize_t step(Step s, Py_ssize_t lo, Py_ssize_t hi) except -1 nogil:
    """One step of the active books in ``[lo, hi)``: take in orders, match, let the rest grow older."""
    cdef Py_ssize_t e, g, i, p, n_agents = s.bid.shape[1], n_goods = s.bid.shape[2]
    cdef Py_ssize_t n_levels = n_goods * s.history.shape[2]
    cdef const int16_t* bid
    cdef const int16_t* ask
    cdef double* history
    cdef double decay = s.decay
    cdef uint64_t new_orders  # one bit a good
    for e in range(lo, hi):
        s.n_trades[e] = 0
        if not s.active[e]:
            continue
        s.clock[e] += 1
        history = &s.history[e, 0, 0]
        for p in range(n_levels):
            history[p] *= decay
        new_orders = 0
        bid, ask = &s.bid[e, 0, 0], &s.ask[e, 0, 0]
        for i in range(n_agents):
            for g in range(n_goods):
                if bid[0] >= 0 and s.coin[e, i] >= bid[0] and s.n_open[e, g, i] < s.max_orders:
                    s.coin[e, i] -= bid[0]
                    s.escrow_coin[e, i] += bid[0]
                    enter(s, e, i, BID, g, bid[0])
                    new_orders |= <uint64_t>1 << g
                if ask[0] >= 0 and s.units[e, i, g] > 0 and s.n_open[e, g, i] < s.max_orders:
                    s.units[e, i, g] -= 1
                    s.escrow_units[e, i, g] += 1
                    enter(s, e, i, ASK, g, ask[0])
                    new_orders |= <uint64_t>1 << g
                bid += 1
                ask += 1
        if new_orders and s.next_expiry[e] > s.clock[e] + s.order_life:
            s.next_expiry[e] = s.clock[e] + s.order_life
        for g in range(n_goods):
            # Orders of different owners that were left over do not cross: only new ones can trade.
            if new_orders >> g & 1:
                match(s, e, g)
        if s.clock[e] >= s.next_expiry[e]:
            expire(s, e)
    return 0


cdef inline int enter(Step s, Py_ssize_t e, Py_ssize_t i, int side, Py_ssize_t g, int price) except -1 nogil:
    """Put a new order into the book."""
    insert(
        &s.book[e, g, side, 0], &s.n_book[e, g, side],
        make_key(TOP - price if side == BID else price, s.clock[e], <int>i),
    )
    count(s, e, i, side, g, price, 1)
    s.labor[e, i] += s.order_labor
    return 0


cdef inline int count(
    Step s, Py_ssize_t e, Py_ssize_t i, int side, Py_ssize_t g, int price, int change
) except -1 nogil:
    """Count an order that came (1) or went (-1)."""
    s.own_depth[e, i, side, g, price] += change
    s.depth[e, side, g, price] += change
    s.n_open[e, g, i] += change
    return 0


cdef int match(Step s, Py_ssize_t e, Py_ssize_t g) except -1 nogil:
    """Each bid, best first, takes the cheapest ask of another agent that it can pay."""
    cdef uint64_t* bids = &s.book[e, g, BID, 0]
    cdef uint64_t* asks = &s.book[e, g, ASK, 0]
    cdef int32_t* n_bids = &s.n_book[e, g, BID]
    cdef int32_t* n_asks = &s.n_book[e, g, ASK]
    cdef Py_ssize_t i = 0, j, t
    cdef int buyer, seller, bid, ask, price, now = s.clock[e]
    cdef uint64_t bid_key, ask_key
    while i < n_bids[0] and n_asks[0] > 0:
        bid_key = bids[i]
        buyer, bid = agent_of(bid_key), TOP - price_of(bid_key)
        if price_of(asks[0]) > bid:
            break
        j = 0
        while j < n_asks[0] and agent_of(asks[j]) == buyer:
            j += 1
        if j == n_asks[0] or price_of(asks[j]) > bid:
            i += 1
            continue
        ask_key = asks[j]
        seller, ask = agent_of(ask_key), price_of(ask_key)
        price = ask if born_of(bid_key) >= born_of(ask_key) else bid
        remove(bids, n_bids, i)
        remove(asks, n_asks, j)
        s.escrow_units[e, seller, g] -= 1
        s.coin[e, seller] += price
        s.units[e, buyer, g] += 1
        s.escrow_coin[e, buyer] -= bid
        s.coin[e, buyer] += bid - price
        count(s, e, buyer, BID, g, bid, -1)
        count(s, e, seller, ASK, g, ask, -1)
        s.history[e, g, price] += 1.0
        t = s.n_trades[e]
        s.n_trades[e] += 1
        s.trades[e, t, 0], s.trades[e, t, 1], s.trades[e, t, 2], s.trades[e, t, 3] = <int32_t>g, buyer, seller, bid
        s.trades[e, t, 4], s.trades[e, t, 5] = ask, price
        s.trades[e, t, 6], s.trades[e, t, 7] = now - born_of(bid_key), now - born_of(ask_key)
    return 0


cdef int expire(Step s, Py_ssize_t e) except -1 nogil:
    """Drop orders that have been in ``order_life + 1`` matchings, and note when to look again."""
    cdef Py_ssize_t g, k, kept
    cdef int side, price, agent, soonest = 2147483647
    cdef uint64_t key
    for g in range(s.book.shape[1]):
        for side in range(2):
            kept = 0
            for k in range(s.n_book[e, g, side]):
                key = s.book[e, g, side, k]
                if s.clock[e] - born_of(key) < s.order_life:
                    s.book[e, g, side, kept] = key
                    kept += 1
                    soonest = min(soonest, born_of(key) + s.order_life)
                    continue
                agent, price = agent_of(key), price_of(key)
                if side == BID:
                    price = TOP - price
                    s.escrow_coin[e, agent] -= price
                    s.coin[e, agent] += price
                else:
                    s.escrow_units[e, agent, g] -= 1
                    s.units[e, agent, g] += 1
                count(s, e, agent, side, g, price, -1)
            s.n_book[e, g, side] = <int32_t>kept
    s.next_expiry[e] = soonest
    return 0


def clear(
    Py_ssize_t lo,
    Py_ssize_t hi,
    const uint8_t[::1] mask,
    uint64_t[:, :, :, ::1] book,
    int32_t[:, :, ::1] n_book,
    int32_t[:, :, ::1] n_open,
    uint16_t[:, :, :, :, ::1] own_depth,
    int32_t[:, :, :, ::1] depth,
    double[:, :, ::1] history,
    int32_t[::1] clock,
    int32_t[::1] next_expiry,
):
    """Empty the books in ``[lo, hi)`` where ``mask`` is set."""
    cdef Py_ssize_t e
    with nogil:
        for e in range(lo, hi):
            if not mask[e]:
                continue
            n_book[e] = 0
            n_open[e] = 0
            own_depth[e] = 0
            depth[e] = 0
            history[e] = 0.0
            clock[e] = 0
            next_expiry[e] = 2147483647
