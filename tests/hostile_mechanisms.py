"""The same as :mod:`hostile` for the mechanisms that are used alone, for maps, and for metrics."""

import copy
import dataclasses
import pickle

import numpy as np
from hostile import REFUSALS, Wrong, clear, disguised, odd_layout, odd_value, small_value, spoiled

from fastenvs import market, metrics, tax
from fastenvs.checks import hints_of
from fastenvs.grid import CLEANUP_MAPS, GTB_MAPS, map_text, read_map
from fastenvs.market import Market
from fastenvs.tax import PeriodicTax


def _arrays(thing):
    groups = (thing.goods, thing.books) if isinstance(thing, Market) else (thing.taxes,)
    return [array.copy() for group in groups for array in group]


def _same(left, right, what):
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(left, right, strict=True)):
        raise Wrong(f"{what}: arrays differ")


def _attempt(thing, call, names):
    before = _arrays(thing)
    try:
        result = call()
    except REFUSALS as error:
        clear(error, names)
        _same(before, _arrays(thing), "a refused call changed something")
        return "refused", None
    return "accepted", result


def _options(cls, plain, rng):
    """Keywords of a mechanism, some of them disguised, small or odd."""
    hints, given = hints_of(cls), dict(plain)
    for name in rng.choice(list(hints), rng.integers(0, 3), replace=False):
        how = rng.random()
        value = small_value(hints[name], rng) if how < 0.6 else plain[name]
        given[str(name)] = odd_value(rng) if how < 0.3 else disguised(value, rng)
    return given


def try_market(rng):
    """A market of odd options, with odd orders; coin and goods are conserved, and its copies play the same."""
    plain = {"num_books": 2, "n_agents": 3, "n_goods": 2, "max_price": 5, "max_orders": 2, "order_life": 3,
             "order_labor": 0.25}  # fmt: skip
    given = _options(market.Options, plain, rng)
    try:
        mine = Market(given.pop("num_books"), given.pop("n_agents"), **given)
    except REFUSALS as error:
        clear(error, [*plain])
        return "refused"
    if mine.goods.units.size > 10_000:
        return "accepted"
    twin = Market(**dataclasses.asdict(mine._options))
    shape = mine.goods.units.shape
    for each in (mine, twin):
        each.goods.coin[:], each.goods.units[:] = 20, 3
    outcome = "accepted"
    for _ in range(4):
        orders = [rng.integers(-1, mine.max_price + 1, shape) for _ in range(2)]
        handed = [odd_layout(o, rng) if rng.random() < 0.95 else spoiled(o, rng) for o in orders]
        outcome, trades = _attempt(mine, lambda h=handed: mine.step(*h), ("bids", "asks"))
        if outcome == "refused":
            break
        if trades != twin.step(*(np.array(o, np.int64) for o in handed)):
            raise Wrong("other trades than the twin's")
        _same(_arrays(mine), _arrays(twin), "twin markets")
    goods = mine.goods
    if not (goods.coin + goods.escrow_coin).sum() == 20 * goods.coin.size or goods.coin.min() < 0:
        raise Wrong("coin is not conserved")
    if not (goods.units + goods.escrow_units).sum() == 3 * goods.units.size or goods.units.min() < 0:
        raise Wrong("units are not conserved")
    other = [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))][rng.integers(3)](mine)
    orders = [rng.integers(-1, mine.max_price + 1, shape) for _ in range(2)]
    mine.step(*orders)
    other.step(*orders)
    _same(_arrays(mine), _arrays(other), "a copy of a market")
    return outcome


def try_tax(rng):
    """Schedules, collections and the periodic tax under odd arrays; coin is conserved."""
    return (_try_schedule, _try_brackets, _try_periodic)[rng.integers(3)](rng)


def _economy(rng):
    n, a, b = rng.integers(1, 4, 3)
    cutoffs = np.concatenate([[0.0], np.cumsum(rng.uniform(1, 50, b - 1))])
    return rng.uniform(-20, 200, (n, a)), rng.uniform(0, 100, (n, a)), rng.random((n, b)), cutoffs


def _odd(array, rng):
    return odd_layout(array, rng) if rng.random() < 0.75 else spoiled(array, rng)


def _try_schedule(rng):
    income, coin, rates, cutoffs = (_odd(array, rng) for array in _economy(rng))
    try:
        got = tax.collect_and_redistribute(income, coin, rates, cutoffs)
    except REFUSALS as error:
        clear(error, ("income", "coin", "rates", "cutoffs"))
        return "refused"
    plain = [np.array(x, float) for x in (income, coin, rates, cutoffs)]
    want = tax.collect_and_redistribute(*plain)
    _same(got, want, "a schedule")
    if not np.allclose(got.coin.sum(1), plain[1].sum(1), rtol=1e-12, atol=1e-9) or (got.coin < -1e-9).any():
        raise Wrong("coin is not conserved")
    if not np.array_equal(tax.taxes_due(income, rates, cutoffs), tax.taxes_due(*(plain[i] for i in (0, 2, 3)))):
        raise Wrong("another tax")
    return "accepted"


def _try_brackets(rng):
    maker = (tax.linear_brackets, tax.log_brackets)[rng.integers(2)]
    n = [2, 5, np.uint8(6), 40, 1100, 10**9, odd_value(rng)][rng.integers(7)]
    top = [15, 100.0, np.float32(7), 1e-300, 1e300, 1e308, odd_value(rng)][rng.integers(7)]
    try:
        cutoffs = maker(n, top)
    except REFUSALS as error:
        clear(error, ("n_brackets", "top_cutoff"))
        return "refused"
    if len(cutoffs) != int(n) or cutoffs[0] != 0 or cutoffs[-1] != float(top) or (np.diff(cutoffs) <= 0).any():
        raise Wrong(f"brackets {cutoffs} of {n!r} up to {top!r}")
    return "accepted"


def _try_periodic(rng):
    _, coin, rates, cutoffs = _economy(rng)
    n, a = coin.shape
    arguments = {"num_economies": int(n), "n_agents": int(a), "cutoffs": cutoffs, "period": int(rng.integers(1, 4))}
    if rng.random() < 0.5:
        name = [*arguments][rng.integers(4)]
        arguments[name] = odd_value(rng) if rng.random() < 0.5 or name == "cutoffs" else disguised(arguments[name], rng)
    try:
        mine = PeriodicTax(**arguments)
    except REFUSALS as error:
        clear(error, [*arguments])
        return "refused"
    if mine.taxes.last_coin.shape != coin.shape or mine.taxes.live.shape != rates.shape:
        return "accepted"
    names = ("coin", "rates", "begin")
    for call in (lambda: mine.begin(_odd(coin, rng)), lambda: mine.set_rates(_odd(rates, rng))):
        if _attempt(mine, call, names)[0] == "refused":
            return "refused"
    held = coin + rng.uniform(0, 20, coin.shape)
    given = held.copy() if rng.random() < 0.5 else _odd(held, rng)
    before = np.array(given) if isinstance(given, np.ndarray) and given.dtype.kind == "f" else None
    twin = pickle.loads(pickle.dumps(mine))
    outcome, day = _attempt(mine, lambda: mine.step(given), names)
    if outcome == "accepted":
        plain = before.copy()
        if not np.array_equal(day, twin.step(plain)) or not np.array_equal(plain, given):
            raise Wrong("a copy taxes otherwise")
        if not np.allclose(given.sum(1), before.sum(1), rtol=1e-12, atol=1e-9):
            raise Wrong("coin is not conserved")
    return outcome


def try_metrics(rng):
    """Measures of holdings in any layout."""
    coin = rng.uniform(0, 10, (rng.integers(1, 4), rng.integers(2, 40)))
    given = _odd(coin, rng)
    try:
        got = [f(given) for f in (metrics.equality, metrics.productivity, metrics.welfare)]
    except REFUSALS as error:
        clear(error, ("coin",))
        return "refused"
    plain = np.array(given, float)
    _same(got, [f(plain) for f in (metrics.equality, metrics.productivity, metrics.welfare)], "metrics")
    if not ((got[0] > -1e-9) & (got[0] < 1 + 1e-9)).all():
        raise Wrong(f"equality {got[0]}")
    return "accepted"


def try_map(rng):
    """Texts, names, paths and what is none of them."""
    named = (GTB_MAPS, CLEANUP_MAPS)[rng.integers(2)]
    height, width = rng.integers(1, 6, 2)
    cells = rng.choice(list(" WS@PBHR"), (height, width))
    text = map_text(cells)
    kind = rng.integers(7)
    if kind == 0:
        text = "﻿" + text.replace("\n", "\r\n")
    elif kind == 1:
        text = text.replace("\n", ";")
    elif kind == 2:
        text = text.rstrip("\n")
    elif kind == 3:
        spot = rng.integers(len(text))
        text = text[:spot] + str(rng.choice(list("\x00\t\n;\r \ud800é"))) + text[spot:]
    elif kind == 4:
        text = " " * int(rng.choice([300, 5000, 40_000])) + (";" if rng.random() < 0.5 else "")
    elif kind == 5:
        text = odd_value(rng)
    try:
        got = read_map(text, named)
    except REFUSALS as error:
        clear(error, ("map",))
        if kind in (0, 1) and (cells != " ").any():
            raise Wrong(f"refused {text!r}: {error}") from error
        return "refused"
    if kind in (0, 1, 6) and not np.array_equal(got, cells):
        raise Wrong(f"{text!r} was read as {got}")
    if not np.array_equal(read_map(map_text(got), named), got):
        raise Wrong("a map that is not read back")
    return "accepted"


MECHANISM_TRIES = {"market": try_market, "tax": try_tax, "metrics": try_metrics, "map": try_map}
