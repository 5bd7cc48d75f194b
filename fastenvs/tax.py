"""Bracketed income tax: schedules, tax due, collection and redistribution.

A schedule is a vector of B cutoffs ``m_0 = 0 < m_1 < ... < m_{B-1}``, the last bracket open, and a vector of
B marginal rates. The tax on income z is ``sum_b rate_b * min(m_{b+1} - m_b, max(0, z - m_b))``; zero or
negative income owes nothing. Amounts are in coins, float64.

The revenue of a tax day is shared out by one of three rules: in ``equal`` shares; by ``need``, in proportion to
``1 / max(1, income)``; or by ``rank``, where the lowest of A incomes gets A parts, the next A - 1, and the highest one,
and equal incomes get the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import _tax  # type: ignore[attr-defined]
from fastenvs.checks import affordable, as_float, numbers_of, one_of, positive_int, refuse_where, shown
from fastenvs.guard import Guarded, exclusive

#: Lower edges of the US federal brackets of 2019 for a single filer, in dollars.
US_FEDERAL_DOLLARS = (0, 9_700, 39_475, 84_200, 160_725, 204_100, 510_300)
#: Marginal rates of the US federal schedule of 2019.
US_FEDERAL_RATES = (0.10, 0.12, 0.22, 0.24, 0.32, 0.35, 0.37)
#: Incomes this close to zero are zero: what is left of coin that went to escrow and back.
ZERO_INCOME = 1e-6
#: Most brackets of a schedule that is made by rule.
MAX_BRACKETS = 1000
#: How the revenue is shared out.
REBATES = ("equal", "need", "rank")
#: Amounts up to here can be summed over all agents.
MAX_COIN = 1e290
#: Bounds of amounts in a restored state, far above what any play brings, and of rates.
MONEY, RATE = (0.0, 1e30), (0.0, 1.0)


class Taxes(NamedTuple):
    """Periodic tax of N economies of A agents with B brackets: the cycle, the records of the last tax day, totals."""

    position: np.ndarray  # int32 [N], day of the period, from 1
    live: np.ndarray  # float64 [N, B], rates in force
    shown: np.ndarray  # float64 [N, B], rates as of the first day
    choice: np.ndarray  # int32 [N, B], index of the rate chosen by a designer
    last_coin: np.ndarray  # float64 [N, A], total coin after the last tax day
    last_income: np.ndarray  # float64 [N, A], of the last tax day
    last_marginal: np.ndarray  # float64 [N, A]
    sorted_income: np.ndarray  # float64 [N, A], last incomes, rising
    marginal_now: np.ndarray  # float64 [N, A], rate at the present income
    tax_day: np.ndarray  # bool [N], whether the last step was one; the following hold for those that were
    income: np.ndarray  # float64 [N, A]
    paid: np.ndarray  # float64 [N, A]
    marginal: np.ndarray  # float64 [N, A], rate at the income
    rebate: np.ndarray  # float64 [N], to every agent; [N, A] where shares differ
    coin_before: np.ndarray  # float64 [N, A], at hand before the tax
    escrow_before: np.ndarray  # float64 [N, A]
    n_days: np.ndarray  # int32 [N], tax days of the episode; the following are totals over them
    rate_sum: np.ndarray  # float64 [N, B]
    occupancy: np.ndarray  # int32 [N, B], incomes in each bracket
    effective_sum: np.ndarray  # float64 [N], of paid / income
    paid_sum: np.ndarray  # float64 [N, A]
    income_sum: np.ndarray  # float64 [N, A], of positive incomes


def make_taxes(n: int, n_agents: int, n_brackets: int, rebate: str = "equal") -> Taxes:
    """Zero everywhere, on the first day."""
    shapes = {"B": (n, n_brackets), "A": (n, n_agents), "": (n,)}
    integers = {"position": "", "choice": "B", "n_days": "", "occupancy": "B"}
    by_agent = set(Taxes._fields) - {"live", "shown", "rate_sum", "tax_day", "effective_sum", *integers}
    by_agent -= {"rebate"} if rebate == "equal" else set()
    arrays: dict[str, np.ndarray] = {}
    for name in Taxes._fields:
        axis = integers.get(name, "A" if name in by_agent else "B" if name in ("live", "shown", "rate_sum") else "")
        dtype = np.int32 if name in integers else np.bool_ if name == "tax_day" else np.float64
        arrays[name] = np.zeros(shapes[axis], dtype)
    arrays["position"].fill(1)
    return Taxes(**arrays)


def bounds(period: int, n_choices: int) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of the arrays of :class:`Taxes` in a restored state, where they are bounded."""
    count = (0, 2_000_000_000)
    return {
        "position": (1, period), "choice": (0, max(0, n_choices - 1)), "n_days": count, "occupancy": count,
        **dict.fromkeys(("live", "shown", "last_marginal", "marginal", "marginal_now"), RATE),
        **dict.fromkeys(("last_coin", "paid", "rebate", "paid_sum", "income_sum"), MONEY), "tax_day": (0, 1),
    }  # fmt: skip


class PeriodicTax(Guarded):
    """Taxes that fall due on the last step of every period, on their own.

    Two threads may not be inside one object at once: the second call is refused.

    Parameters
    ----------
    num_economies, n_agents : int
        N and A.
    cutoffs : array ``[B]``
        Lower edges of the brackets, rising from 0.
    period : int
        Steps in a period.
    rebate : {"equal", "need", "rank"}
        How the revenue is shared out.
    """

    def __init__(
        self, num_economies: int, n_agents: int, cutoffs: ArrayLike, period: int = 10, rebate: str = "equal"
    ) -> None:
        super().__init__()
        self._rebate = one_of("rebate", rebate, REBATES)
        self._cutoffs = check_cutoffs(cutoffs)
        self._period = positive_int("period", period)
        n, a = positive_int("num_economies", num_economies), positive_int("n_agents", n_agents)
        affordable(f"num_economies = {n:,} economies", n, 200 * (a + len(self._cutoffs)))
        self._taxes = make_taxes(n, a, len(self._cutoffs), self._rebate)
        self._begun = False

    @property
    def cutoffs(self) -> np.ndarray:
        """Lower edges of the brackets ``[B]``, a copy."""
        return self._cutoffs.copy()

    @property
    def period(self) -> int:
        """Steps in a period."""
        return self._period

    @property
    def taxes(self) -> Taxes:
        """State and records."""
        return self._taxes

    @exclusive
    def __getstate__(self) -> dict[str, Any]:
        n, a = self._taxes.last_coin.shape
        return {
            "arguments": (n, a, self._cutoffs.copy(), self._period, self._rebate),
            "arrays": [array.copy() for array in self._taxes],
            "begun": self._begun,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        PeriodicTax.__init__(self, *saved["arguments"])
        for mine, array in zip(self._taxes, saved["arrays"], strict=True):
            mine[...] = array
        self._begun = saved["begun"]

    @exclusive
    def begin(self, coin: ArrayLike, escrow_coin: ArrayLike | None = None) -> None:
        """Start the first period with these coins ``[N, A]``; what an agent holds now is not income."""
        held, escrow = self._amounts("coin", coin), self._escrow(escrow_coin)
        taxes = self._taxes
        n, a = taxes.last_coin.shape
        started = make_taxes(n, a, len(self._cutoffs), self._rebate)
        for name, mine, new in zip(Taxes._fields, taxes, started, strict=True):
            if name != "live":
                mine[...] = new
        taxes.last_coin[:] = held + escrow
        taxes.marginal_now[:] = taxes.live[:, :1]
        self._begun = True

    @exclusive
    def set_rates(self, rates: ArrayLike) -> None:
        """Put rates ``[N, B]`` or ``[B]`` in [0, 1] in force, from now on; ``marginal_now`` follows in a step."""
        self._taxes.live[:] = check_rates(rates, self._taxes.live.shape)

    @exclusive
    def step(self, coin: np.ndarray, escrow_coin: ArrayLike | None = None) -> np.ndarray:
        """Advance a step; on tax days take the tax from ``coin`` and share it out.

        Parameters
        ----------
        coin : float64 array ``[N, A]``, C-contiguous
            Coin at hand; changed in place.
        escrow_coin : array ``[N, A]``, optional
            Coin that counts as income but cannot be taken.

        Returns
        -------
        ndarray of bool ``[N]``
            Whether this was a tax day; :attr:`taxes` has the records.

        Raises
        ------
        RuntimeError
            Before the first :meth:`begin`: what agents are endowed with would be taxed as income.
        ValueError, TypeError
            If an array is wrong; nothing is changed then.
        """
        if not self._begun:
            raise RuntimeError("call begin() before the first step()")
        escrow = self._escrow(escrow_coin)
        self._amounts("coin", coin)
        if not (
            type(coin) is np.ndarray and coin.dtype == np.float64 and coin.flags.c_contiguous and coin.flags.aligned
            and coin.flags.writeable
        ):  # fmt: skip
            raise TypeError("coin must be a writable, C-contiguous float64 array: it is changed in place")
        n = len(coin)
        nothing = np.zeros(self._taxes.choice.shape, np.int32)
        active = np.ones(n, np.bool_)
        make_step(self._taxes, active, self._period, self._cutoffs, nothing, _NONE, coin, escrow, self._rebate)(0, n)
        return self._taxes.tax_day.copy()

    def _escrow(self, escrow_coin: ArrayLike | None) -> np.ndarray:
        if escrow_coin is None:
            return np.zeros(self._taxes.last_coin.shape)
        return self._amounts("escrow_coin", escrow_coin)

    def _amounts(self, name: str, coin: ArrayLike) -> np.ndarray:
        return holdings(name, numbers_of(name, coin, self._taxes.last_coin.shape))


def holdings(name: str, coin: np.ndarray) -> np.ndarray:
    """Refuse coin that is not finite, negative, or too much to be summed."""
    refuse_where(name, coin, ~((coin >= 0) & (coin <= MAX_COIN)), "must be finite and not negative")
    return coin


_NONE = np.empty(0)


def make_step(
    taxes: Taxes, active: np.ndarray, period: int, cutoffs: np.ndarray, chosen: np.ndarray, choices: np.ndarray,
    coin: np.ndarray, escrow_coin: np.ndarray, rebate: str = "equal",
) -> Callable[[int, int], None]:  # fmt: skip
    """The compiled step ``(lo, hi)`` of the tax cycle over the active rows of a range, bound to these arrays.

    Nothing is checked.
    """
    rule = REBATES.index(rebate)
    return _tax.Periodic(active, period, cutoffs, rule, ZERO_INCOME, chosen, choices, coin, escrow_coin, *taxes)


def check_rates(rates: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Rates as float64 of the given shape ``[N, B]``, from ``[N, B]`` or ``[B]``, each in [0, 1]."""
    r = numbers_of("rates", rates, shape, shape[1:])
    refuse_where("rates", r, ~((r >= 0) & (r <= 1)), "must be in [0, 1]")
    return np.ascontiguousarray(np.broadcast_to(r, shape))


class Collection(NamedTuple):
    """Outcome of one tax day; float64."""

    paid: np.ndarray  # [N, A]
    rebate: np.ndarray  # [N], what every agent receives; [N, A] where shares differ
    coin: np.ndarray  # [N, A], after tax and rebate
    marginal_rate: np.ndarray  # [N, A]
    effective_rate: np.ndarray  # [N, A], paid / income


def us_federal_brackets(usd_scale: float = 1000.0) -> np.ndarray:
    """Cutoffs ``[7]`` of the US federal brackets with ``usd_scale`` dollars to a coin."""
    scale = as_float("usd_scale", usd_scale)
    if scale <= 0:
        raise ValueError(f"usd_scale must be positive and finite, got {usd_scale!r}")
    with np.errstate(over="ignore"):
        return _made(np.array(US_FEDERAL_DOLLARS) / scale, f"usd_scale of {usd_scale}")


def linear_brackets(n_brackets: int, top_cutoff: float) -> np.ndarray:
    """Cutoffs ``[n_brackets]`` equally spaced from 0 to ``top_cutoff`` coins."""
    n, top = _check_spacing(n_brackets, top_cutoff)
    return _made(np.linspace(0.0, top, n), f"n_brackets of {n} up to {top}")


def log_brackets(n_brackets: int, top_cutoff: float) -> np.ndarray:
    """Cutoffs ``[n_brackets]``: 0, then doubling up to ``top_cutoff`` coins, each exactly half of the next."""
    n, top = _check_spacing(n_brackets, top_cutoff)
    return _made(np.concatenate([[0.0], np.ldexp(top, np.arange(2 - n, 1))]), f"n_brackets of {n} up to {top}")


def _made(cutoffs: np.ndarray, how: str) -> np.ndarray:
    if not (np.isfinite(cutoffs).all() and (np.diff(cutoffs) > 0).all()):
        raise ValueError(f"{how}: the brackets cannot be told apart in double precision")
    return cutoffs


def taxes_due(income: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike) -> np.ndarray:
    """Tax due on each income.

    Parameters
    ----------
    income : array ``[N, A]``
        Incomes of A agents in N economies, in coins; may be negative.
    rates : array ``[N, B]`` or ``[B]``
        Marginal rates in [0, 1] of each economy, or of all.
    cutoffs : array ``[B]``
        Lower edges of the brackets, from 0 up.

    Returns
    -------
    float64 ``[N, A]``

    Raises
    ------
    ValueError
        If a shape does not fit, a number is not finite, a rate is outside [0, 1] or cutoffs do not rise from 0.
    """
    z, r, m = _check_schedule(income, rates, cutoffs)
    out = np.empty_like(z)
    _tax.due(z, r, m, out)
    return out


def marginal_rate(income: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike) -> np.ndarray:
    """Rate of the bracket with ``m_b <= income < m_{b+1}``; 0 for a negative income.

    Incomes within ``ZERO_INCOME`` of zero count as zero. Parameters, shapes and errors as in
    :func:`taxes_due`.
    """
    z, r, m = _check_schedule(income, rates, cutoffs)
    out = np.empty_like(z)
    _tax.marginal(z, r, m, ZERO_INCOME, out)
    return out


def average_rate(income: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike) -> np.ndarray:
    """Share of each income that is due as tax; 0 for an income of zero or less.

    Incomes within ``ZERO_INCOME`` of zero count as zero. Parameters, shapes and errors as in
    :func:`taxes_due`.
    """
    z, due = numbers_of("income", income), taxes_due(income, rates, cutoffs)
    return np.divide(due, z, out=np.zeros_like(z), where=z > ZERO_INCOME)


def collect_and_redistribute(
    income: ArrayLike, coin: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike, rebate: str = "equal"
) -> Collection:
    """Collect the tax on each income from the coin at hand and share it out.

    An agent pays at most the coin it has in its inventory. The revenue is summed in the agents' order,
    then every agent receives its share, so coin is conserved to rounding.

    Parameters
    ----------
    income : array ``[N, A]``
        Taxed incomes, in coins; may be negative.
    coin : array ``[N, A]``
        Coin in the agents' inventories, not negative; left unchanged.
    rates, cutoffs
        As in :func:`taxes_due`.
    rebate : {"equal", "need", "rank"}
        How the revenue is shared out.

    Returns
    -------
    Collection

    Raises
    ------
    ValueError
        As in :func:`taxes_due`, and if ``coin`` is negative or has another shape than ``income``, or if there is no
        such rule.
    """
    rule = REBATES.index(one_of("rebate", rebate, REBATES))
    z, r, m = _check_schedule(income, rates, cutoffs)
    after = numbers_of("coin", coin)
    if after.shape != z.shape:
        raise ValueError(f"coin must have the shape of income, {list(z.shape)}, got {list(after.shape)}")
    holdings("coin", after)
    paid, at = np.empty_like(z), np.empty_like(z)
    shares = np.empty((len(z), 1 if rebate == "equal" else z.shape[1]))
    _tax.marginal(z, r, m, ZERO_INCOME, at)
    _tax.collect(z, r, m, rule, after, paid, shares)
    each = shares[:, 0] if rebate == "equal" else shares
    return Collection(paid, each, after, at, paid / np.maximum(ZERO_INCOME, z))


def _check_schedule(income: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike):
    """Contiguous float64 arrays ``[N, A]``, ``[N, B]``, ``[B]``, checked."""
    z = numbers_of("income", income)
    m = check_cutoffs(cutoffs)
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"income must have shape [N, A], got {list(z.shape)}")
    refuse_where("income", z, ~(np.abs(z) <= MAX_COIN), "must be finite")
    return z, check_rates(rates, (len(z), len(m))), m


def check_cutoffs(cutoffs: ArrayLike, name: str = "cutoffs") -> np.ndarray:
    """Lower edges of brackets as float64 ``[B]``, rising strictly from 0; ``name`` is what an error calls them."""
    m = numbers_of(name, cutoffs)
    if m.ndim != 1 or len(m) == 0 or m[0] != 0 or not np.isfinite(m).all() or (np.diff(m) <= 0).any():
        raise ValueError(f"{name} must rise strictly from 0 and be finite, got {shown(m.tolist())}")
    return m


def _check_spacing(n_brackets: int, top_cutoff: float) -> tuple[int, float]:
    n, top = positive_int("n_brackets", n_brackets, 2, MAX_BRACKETS), as_float("top_cutoff", top_cutoff)
    if top <= 0:
        raise ValueError(f"top_cutoff must be positive and finite, got {top_cutoff!r}")
    return n, top
