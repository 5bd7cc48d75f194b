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


def step(
    Py_ssize_t lo,
    Py_ssize_t hi,
    const int16_t[:, :, ::1] bid,
    const int16_t[:, :, ::1] ask,
    const uint8_t[::1] active,
    double[:, ::1] coin,
    double[:, ::1] escrow_coin,
    int32_t[:, :, ::1] units,
    int32_t[:, :, ::1] escrow_units,
    double[:, ::1] labor,
    uint64_t[:, :, :, ::1] book,
    int32_t[:, :, ::1] n_book,
    int32_t[:, :, ::1] n_open,
    uint16_t[:, :, :, :, ::1] own_depth,
    int32_t[:, :, :, ::1] depth,
    double[:, :, ::1] history,
    int32_t[::1] clock,
    int32_t[::1] next_expiry,
    int32_t[:, :, ::1] trades,
    int32_t[::1] n_trades,
    int max_orders,
    int order_life,
    double order_labor,
    double decay,
):
    """One step of the active books in ``[lo, hi)``: take in orders, match, let the rest grow older."""
    cdef Py_ssize_t e, g, i, p, n_agents = bid.shape[1], n_goods = bid.shape[2], n_prices = history.shape[2]
    cdef uint64_t new_orders  # one bit a good
    with nogil:
        for e in range(lo, hi):
            n_trades[e] = 0
            if not active[e]:
                continue
            clock[e] += 1
            new_orders = 0
            for g in range(n_goods):
                for p in range(n_prices):
                    history[e, g, p] *= decay
                for i in range(n_agents):
                    if bid[e, i, g] >= 0 and n_open[e, g, i] < max_orders and coin[e, i] >= bid[e, i, g]:
                        coin[e, i] -= bid[e, i, g]
                        escrow_coin[e, i] += bid[e, i, g]
                        enter(BID, bid[e, i, g], clock[e], i, &book[e, g, BID, 0], &n_book[e, g, BID])
                        own_depth[e, i, BID, g, bid[e, i, g]] += 1
                        depth[e, BID, g, bid[e, i, g]] += 1
                        n_open[e, g, i] += 1
                        labor[e, i] += order_labor
                        new_orders |= <uint64_t>1 << g
                    if ask[e, i, g] >= 0 and n_open[e, g, i] < max_orders and units[e, i, g] > 0:
                        units[e, i, g] -= 1
                        escrow_units[e, i, g] += 1
                        enter(ASK, ask[e, i, g], clock[e], i, &book[e, g, ASK, 0], &n_book[e, g, ASK])
                        own_depth[e, i, ASK, g, ask[e, i, g]] += 1
                        depth[e, ASK, g, ask[e, i, g]] += 1
                        n_open[e, g, i] += 1
                        labor[e, i] += order_labor
                        new_orders |= <uint64_t>1 << g
            if new_orders and next_expiry[e] > clock[e] + order_life:
                next_expiry[e] = clock[e] + order_life
            for g in range(n_goods):
                # Orders of different owners that were left over do not cross: only new ones can trade.
                if new_orders >> g & 1:
                    match(
                        g, clock[e], &book[e, g, BID, 0], &n_book[e, g, BID], &book[e, g, ASK, 0], &n_book[e, g, ASK],
                        &coin[e, 0], &escrow_coin[e, 0], units[e], escrow_units[e], &n_open[e, g, 0],
                        own_depth[e], depth[e], &history[e, g, 0], trades[e], &n_trades[e],
                    )
            if clock[e] >= next_expiry[e]:
                expire(
                    clock[e], order_life, book[e], n_book[e], &coin[e, 0], &escrow_coin[e, 0], units[e],
                    escrow_units[e], n_open[e], own_depth[e], depth[e], &next_expiry[e],
                )


cdef inline void enter(
    int side, int price, int now, Py_ssize_t agent, uint64_t* keys, int32_t* n
) noexcept nogil:
    insert(keys, n, make_key(TOP - price if side == BID else price, now, <int>agent))


cdef void match(
    Py_ssize_t g, int now,
    uint64_t* bids, int32_t* n_bids, uint64_t* asks, int32_t* n_asks,
    double* coin, double* escrow_coin, int32_t[:, ::1] units, int32_t[:, ::1] escrow_units, int32_t* n_open,
    uint16_t[:, :, :, ::1] own_depth, int32_t[:, :, ::1] depth, double* history,
    int32_t[:, ::1] trades, int32_t* n_trades,
) noexcept nogil:
    """Each bid, best first, takes the cheapest ask of another agent that it can pay."""
    cdef Py_ssize_t i = 0, j, t
    cdef int buyer, seller, bid, ask, price
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
        escrow_units[seller, g] -= 1
        coin[seller] += price
        units[buyer, g] += 1
        escrow_coin[buyer] -= bid
        coin[buyer] += bid - price
        n_open[buyer] -= 1
        n_open[seller] -= 1
        own_depth[buyer, BID, g, bid] -= 1
        depth[BID, g, bid] -= 1
        own_depth[seller, ASK, g, ask] -= 1
        depth[ASK, g, ask] -= 1
        history[price] += 1.0
        t = n_trades[0]
        n_trades[0] += 1
        trades[t, 0], trades[t, 1], trades[t, 2], trades[t, 3] = <int32_t>g, buyer, seller, bid
        trades[t, 4], trades[t, 5] = ask, price
        trades[t, 6], trades[t, 7] = now - born_of(bid_key), now - born_of(ask_key)


cdef void expire(
    int now, int order_life,
    uint64_t[:, :, ::1] book, int32_t[:, ::1] n_book,
    double* coin, double* escrow_coin, int32_t[:, ::1] units, int32_t[:, ::1] escrow_units, int32_t[:, ::1] n_open,
    uint16_t[:, :, :, ::1] own_depth, int32_t[:, :, ::1] depth, int32_t* next_expiry,
) noexcept nogil:
    """Drop orders that have been in ``order_life + 1`` matchings, and note when to look again."""
    cdef Py_ssize_t g, k, kept
    cdef int side, price, agent, soonest = 2147483647
    cdef uint64_t key
    for g in range(book.shape[0]):
        for side in range(2):
            kept = 0
            for k in range(n_book[g, side]):
                key = book[g, side, k]
                if now - born_of(key) < order_life:
                    book[g, side, kept] = key
                    kept += 1
                    soonest = min(soonest, born_of(key) + order_life)
                    continue
                agent, price = agent_of(key), price_of(key)
                if side == BID:
                    price = TOP - price
                    escrow_coin[agent] -= price
                    coin[agent] += price
                else:
                    escrow_units[agent, g] -= 1
                    units[agent, g] += 1
                n_open[g, agent] -= 1
                own_depth[agent, side, g, price] -= 1
                depth[side, g, price] -= 1
            n_book[g, side] = <int32_t>kept
    next_expiry[0] = soonest


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
