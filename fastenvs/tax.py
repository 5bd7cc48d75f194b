"""Bracketed income tax: schedules, tax due, collection and equal redistribution.

A schedule is a vector of B cutoffs ``m_0 = 0 < m_1 < ... < m_{B-1}``, the last bracket open, and a vector of
B marginal rates. The tax on income z is ``sum_b rate_b * min(m_{b+1} - m_b, max(0, z - m_b))``; zero or
negative income owes nothing. Amounts are in coins, float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import _tax  # type: ignore[attr-defined]
from fastenvs.vecenv import positive_int

#: Lower edges of the 2018 US federal brackets for a single filer, in dollars.
US_FEDERAL_DOLLARS = (0, 9_700, 39_475, 84_200, 160_725, 204_100, 510_300)
#: Marginal rates of the 2018 US federal schedule.
US_FEDERAL_RATES = (0.10, 0.12, 0.22, 0.24, 0.32, 0.35, 0.37)
#: Incomes this close to zero are zero: what is left of coin that went to escrow and back.
ZERO_INCOME = 1e-6


class Collection(NamedTuple):
    """Outcome of one tax day; float64."""

    paid: np.ndarray  # [N, A]
    rebate: np.ndarray  # [N], what every agent receives
    coin: np.ndarray  # [N, A], after tax and rebate
    marginal_rate: np.ndarray  # [N, A]
    effective_rate: np.ndarray  # [N, A], paid / income


def us_federal_brackets(usd_scale: float = 1000.0) -> np.ndarray:
    """Cutoffs ``[7]`` of the US federal brackets with ``usd_scale`` dollars to a coin."""
    if not (np.isfinite(usd_scale) and usd_scale > 0):
        raise ValueError(f"usd_scale must be positive and finite, got {usd_scale!r}")
    return np.array(US_FEDERAL_DOLLARS) / float(usd_scale)


def linear_brackets(n_brackets: int, top_cutoff: float) -> np.ndarray:
    """Cutoffs ``[n_brackets]`` equally spaced from 0 to ``top_cutoff`` coins."""
    _check_spacing(n_brackets, top_cutoff)
    return np.linspace(0.0, top_cutoff, n_brackets)


def log_brackets(n_brackets: int, top_cutoff: float) -> np.ndarray:
    """Cutoffs ``[n_brackets]``: 0, then doubling up to ``top_cutoff`` coins."""
    _check_spacing(n_brackets, top_cutoff)
    top = np.log2(top_cutoff)
    return np.concatenate([[0.0], 2.0 ** np.linspace(top - (n_brackets - 2), top, n_brackets - 1)])


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


def collect_and_redistribute(income: ArrayLike, coin: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike) -> Collection:
    """Collect the tax on each income from the coin at hand and share it out equally.

    An agent pays at most the coin it has in its inventory. The revenue is summed in the agents' order,
    then every agent receives the same share, so coin is conserved to rounding.

    Parameters
    ----------
    income : array ``[N, A]``
        Taxed incomes, in coins; may be negative.
    coin : array ``[N, A]``
        Coin in the agents' inventories, not negative; left unchanged.
    rates, cutoffs
        As in :func:`taxes_due`.

    Returns
    -------
    Collection

    Raises
    ------
    ValueError
        As in :func:`taxes_due`, and if ``coin`` is negative or has another shape than ``income``.
    """
    z, r, m = _check_schedule(income, rates, cutoffs)
    after = np.array(coin, np.float64, order="C")
    if after.shape != z.shape:
        raise ValueError(f"coin must have the shape of income, {list(z.shape)}, got {list(after.shape)}")
    _refuse("coin", after, ~(np.isfinite(after) & (after >= 0)), "must be finite and not negative")
    paid, rebate, at = np.empty_like(z), np.empty(len(z)), np.empty_like(z)
    _tax.marginal(z, r, m, ZERO_INCOME, at)
    _tax.collect(z, r, m, after, paid, rebate)
    return Collection(paid, rebate, after, at, paid / np.maximum(ZERO_INCOME, z))


def _check_schedule(income: ArrayLike, rates: ArrayLike, cutoffs: ArrayLike):
    """Contiguous float64 arrays ``[N, A]``, ``[N, B]``, ``[B]``, checked."""
    z = np.ascontiguousarray(income, np.float64)
    m = np.ascontiguousarray(cutoffs, np.float64)
    r = np.asarray(rates, np.float64)
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"income must have shape [N, A], got {list(z.shape)}")
    if m.ndim != 1 or len(m) == 0 or m[0] != 0 or not np.isfinite(m).all() or (np.diff(m) <= 0).any():
        raise ValueError(f"cutoffs must rise strictly from 0 and be finite, got {m}")
    if r.shape not in ((len(m),), (len(z), len(m))):
        raise ValueError(f"rates must have shape {[len(m)]} or {[len(z), len(m)]}, got {list(r.shape)}")
    _refuse("income", z, ~np.isfinite(z), "must be finite")
    _refuse("rates", r, ~((r >= 0) & (r <= 1)), "must be in [0, 1]")
    return z, np.ascontiguousarray(np.broadcast_to(r, (len(z), len(m)))), m


def _refuse(name: str, values: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name} at {where} is {values[where]}, but {rule}")


def _check_spacing(n_brackets: int, top_cutoff: float) -> None:
    positive_int("n_brackets", n_brackets, least=2)
    if not (np.isfinite(top_cutoff) and top_cutoff > 0):
        raise ValueError(f"top_cutoff must be positive and finite, got {top_cutoff!r}")
