"""Inequality and welfare of coin holdings, as kernels over one economy and as functions over arrays of economies.

``docs/spec/gtb.md``, section 11. ``x`` is a vector of total coin, in coins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastenvs.checks import numbers_of
from fastenvs.jit import kernel

#: From this many agents on the Gini index is taken from sorted holdings, by a slightly different formula.
SORTED_GINI = 30
#: Differences of holdings up to here can be summed over all pairs of agents.
MAX_HOLDING = 1e290


@kernel
def sort(x):
    """Sort ``x`` in place, rising, by Shell's method (Numba's own sort allocates, which kernels may not)."""
    n = x.shape[0]
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            value, j = x[i], i
            while j >= gap and x[j - gap] > value:
                x[j] = x[j - gap]
                j -= gap
            x[j] = value
        gap //= 3


@kernel
def gini(x, scratch):
    """Gini index of ``x`` [A]; ``scratch`` [A] is overwritten."""
    n = x.shape[0]
    total = 0.0
    for i in range(n):
        total += x[i]
    if n < SORTED_GINI:
        difference = 0.0
        for i in range(n):
            for j in range(i):
                difference += abs(x[i] - x[j])
        return 2.0 * difference / (2.0 * n * total + 1e-10) / ((n - 1.0) / n)
    for i in range(n):
        scratch[i] = x[i]
    sort(scratch)
    cumulated, area = 0.0, 0.0
    for i in range(n):
        cumulated += scratch[i]
        area += cumulated / (total + 1e-10)
    return 1.0 - 2.0 / (n + 1.0) * area


@kernel
def inverse_income_mean(x, values):
    """Mean of ``values`` [A] with weights 1 / max(x, 1)."""
    total, weights = 0.0, 0.0
    for i in range(x.shape[0]):
        weight = 1.0 / max(x[i], 1.0)
        total += weight * values[i]
        weights += weight
    return total / weights


@kernel
def isoelastic(x, eta):
    """Utility of coin ``(x^(1-η) - 1) / (1 - η)``; ``ln max(1, x)`` for η = 1."""
    if eta == 1.0:
        return np.log(max(1.0, x))
    return (x ** (1.0 - eta) - 1.0) / (1.0 - eta)


def equality(coin: ArrayLike) -> np.ndarray:
    """``1 - Gini`` of every economy.

    Where nobody has anything, the formulas of the published environment give 1 below ``SORTED_GINI`` agents, else 0.

    Parameters
    ----------
    coin : array ``[N, A]``
        Holdings, not negative.

    Returns
    -------
    float64 ``[N]``
    """
    x = _holdings(coin)
    scratch = np.empty(x.shape[1])
    return np.array([1.0 - gini(row, scratch) for row in x])


def productivity(coin: ArrayLike) -> np.ndarray:
    """Sum of holdings of every economy, ``[N, A]`` to ``[N]``."""
    return _holdings(coin).sum(axis=1)


def welfare(coin: ArrayLike) -> np.ndarray:
    """Equality times mean holdings of every economy, ``[N, A]`` to ``[N]``."""
    x = _holdings(coin)
    return equality(x) * x.mean(axis=1)


def _holdings(coin: ArrayLike) -> np.ndarray:
    x = numbers_of("coin", coin)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"coin must have shape [N, A] with at least two agents, got {list(x.shape)}")
    if not ((x >= 0) & (x <= MAX_HOLDING)).all():
        raise ValueError("coin must be finite and not negative")
    return x
