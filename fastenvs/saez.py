"""Saez's optimal income tax, estimated from past incomes (``docs/spec/gtb.md``, section 10).

A memory holds the newest 500 pairs of income and marginal rate. Once it has been full, every period's rates are made
from it: an elasticity of income, welfare weights and Pareto parameters in 100 income bins, optimal rates of the bins,
and from those the rates of the brackets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.jit import kernel

MEMORY = 500
#: Highest count of pairs; from there on it goes round.
MOST_PAIRS = 2**62
BINS = 100
FIRST_ELASTICITY = 0.5
_KEEP = 0.98  # of the elasticity at an update
_MEAN_KEEP = 0.99  # of the running mean of the rates


class Memory(NamedTuple):
    """Memories of M schedules: one a copy of the economy, or one for all."""

    pairs: np.ndarray  # float64 [M, 500, 2], income and marginal rate, a ring
    appended: np.ndarray  # int64 [M], pairs ever
    elasticity: np.ndarray  # float64 [M]
    elasticity_before: np.ndarray  # float64 [M], before the latest update
    running_mean: np.ndarray  # float64 [M, B], of the rates made


class Config(NamedTuple):
    """Options of the schedule."""

    cutoffs: np.ndarray  # float64 [B]
    rate_min: float
    inverse_income: bool  # welfare weight 1 / max(1, income), else 1
    fixed_elasticity: float  # NaN to estimate it


class Work(NamedTuple):
    """Scratch of one thread, and the details of the latest update; B + 1 = 101 entries, the open top bin last."""

    incomes: np.ndarray  # int64, incomes in each bin
    g: np.ndarray  # float64, welfare weights
    a: np.ndarray  # float64, Pareto parameters, NaN where the bin is empty
    tau: np.ndarray  # float64, rates of the bins
    weight: np.ndarray  # float64
    log_z0: np.ndarray  # float64 [1], intercept of the elasticity's fit


def make_memory(m: int, n_brackets: int) -> Memory:
    """Empty memories."""
    return Memory(
        np.zeros((m, MEMORY, 2)),
        np.zeros(m, np.int64),
        np.full(m, FIRST_ELASTICITY),
        np.full(m, FIRST_ELASTICITY),
        np.zeros((m, n_brackets)),
    )


def make_work() -> Work:
    """Scratch for :func:`set_rates`."""
    g, a, tau, weight = np.zeros((4, BINS + 1))
    return Work(np.zeros(BINS + 1, np.int64), g, a, tau, weight, np.full(1, np.nan))


@kernel
def append(memory, income, marginal, day):
    """Append the pairs of every agent, in order, where ``day`` is set."""
    shared = memory.appended.shape[0] < income.shape[0]
    for e in range(income.shape[0]):
        if not day[e]:
            continue
        m = 0 if shared else e
        for i in range(income.shape[1]):
            slot = memory.appended[m] % MEMORY
            memory.pairs[m, slot, 0] = income[e, i]
            memory.pairs[m, slot, 1] = marginal[e, i]
            memory.appended[m] += 1
            if memory.appended[m] > MOST_PAIRS:  # the same place in the ring
                memory.appended[m] -= MEMORY


@kernel
def set_rates(config, memory, work, position, cap, live, streams, idle):
    """Make the rates of copies on the first day of a period, unless ``idle``; random until the memory has been full."""
    n_brackets = live.shape[1]
    shared = memory.appended.shape[0] < live.shape[0]
    updated = False
    for e in range(live.shape[0]):
        if position[e] != 1 or idle[e]:
            continue
        m = 0 if shared else e
        if memory.appended[m] < MEMORY:
            for b in range(n_brackets):
                live[e, b] = config.rate_min + (cap[e] - config.rate_min) * rng.uniform(streams, e)
        elif shared and updated:  # the memory is one, and so is the schedule, up to the cap
            bracket_rates(config, config.cutoffs[-1], cap[e], work, live, e)
        else:
            update(config, memory, work, m, cap[e], live, e)
            updated = True


@kernel
def update(config, memory, work, m, cap, live, e):
    """One update of memory ``m``: elasticity, rates of the brackets to row ``e`` of ``live``, running mean."""
    pairs = memory.pairs[m]
    memory.elasticity_before[m] = memory.elasticity[m]
    memory.elasticity[m] = fit_elasticity(pairs, memory.elasticity[m], work)
    elasticity = memory.elasticity[m] if np.isnan(config.fixed_elasticity) else config.fixed_elasticity
    top = config.cutoffs[-1]
    count_bins(pairs, top, work)
    welfare_weights(config, pairs, top, work)
    bin_rates(pairs, top, elasticity, work)
    bracket_rates(config, top, cap, work, live, e)
    for b in range(live.shape[1]):
        memory.running_mean[m, b] = _MEAN_KEEP * memory.running_mean[m, b] + (1.0 - _MEAN_KEEP) * live[e, b]


@kernel
def fit_elasticity(pairs, old, work):
    """Elasticity by least squares of log income on the log of what is left of a coin (step 1)."""
    n, sum_x, sum_y, sum_t, sum_tt = 0, 0.0, 0.0, 0.0, 0.0
    for k in range(MEMORY):
        z, t = pairs[k, 0], pairs[k, 1]
        if z > 0 and t < 1:
            n += 1
            sum_x += np.log(max(1.0 - t, 1e-9))
            sum_y += np.log(max(z, 1e-9))
            sum_t += t
    if n < 10:
        return old
    mean_x, mean_y, mean_t = sum_x / n, sum_y / n, sum_t / n
    sum_xx, sum_xy = 0.0, 0.0
    for k in range(MEMORY):
        z, t = pairs[k, 0], pairs[k, 1]
        if z > 0 and t < 1:
            x = np.log(max(1.0 - t, 1e-9)) - mean_x
            sum_xx += x * x
            sum_xy += x * (np.log(max(z, 1e-9)) - mean_y)
            sum_tt += (t - mean_t) * (t - mean_t)
    if np.sqrt(sum_tt / n) < 1e-6:
        return old
    slope = sum_xy / sum_xx
    work.log_z0[0] = mean_y - slope * mean_x
    return (1.0 - _KEEP) * max(slope, 0.0) + _KEEP * old


@kernel
def count_bins(pairs, top, work):
    """Incomes in each of 100 equal bins from 0 to the top cutoff, the last closed, and above it (step 2)."""
    width = top / BINS
    for i in range(BINS + 1):
        work.incomes[i] = 0
    for k in range(MEMORY):
        z = pairs[k, 0]
        if z > top:
            work.incomes[BINS] += 1
        elif z >= 0:
            i = min(int(z / width), BINS - 1)
            # The quotient may round across an edge; the edges decide.
            if z < i * width:
                i -= 1
            elif i < BINS - 1 and z >= (i + 1) * width:
                i += 1
            work.incomes[i] += 1


@kernel
def income_weight(config, z):
    """Welfare weight of an income."""
    return 1.0 / max(1.0, z) if config.inverse_income else 1.0


@kernel
def welfare_weights(config, pairs, top, work):
    """Mean relative welfare weight of incomes from each bin up, averaged between neighbours (step 3)."""
    total, low, above = 0.0, 0.0, 0.0
    for k in range(MEMORY):
        z = pairs[k, 0]
        if z > top:
            above += income_weight(config, z)
        elif z < 0:
            low += income_weight(config, 0.0)
    for i in range(BINS):
        work.weight[i] = work.incomes[i] * income_weight(config, (i + 0.5) * top / BINS)
        total += work.weight[i]
    work.weight[BINS] = above
    total += above
    weight, share = 0.0, 0.0
    for k in range(BINS + 1):
        i = BINS - k
        weight += work.weight[i]
        share += work.incomes[i] / MEMORY
        work.g[i] = weight / (total + low + 1e-9) / (share + 1e-9)
    for i in range(BINS):
        work.g[i] = (work.g[i] + work.g[i + 1]) / 2.0


@kernel
def bin_rates(pairs, top, elasticity, work):
    """Pareto parameters and optimal rates of the bins, gaps filled by interpolation (step 4)."""
    width = top / BINS
    above, n_low = 0.0, 0
    for k in range(MEMORY):
        z = pairs[k, 0]
        if z > top:
            above += z
        elif z < 0:
            n_low += 1
    below = n_low / MEMORY
    for i in range(BINS):
        f = work.incomes[i] / MEMORY
        below += f
        tail = 1.0 - min(1.0, below) + f / 2.0
        work.a[i] = np.nan
        if work.incomes[i] > 0:
            work.a[i] = (i + 0.5) * width * f / (min(max(tail, 0.0), 1.0) + 1e-9) / width
    work.a[BINS] = 0.0
    if work.incomes[BINS] > 0:
        mean = above / work.incomes[BINS]
        work.a[BINS] = mean / (mean - top + 1e-9)
    last, last_rate = -1, 0.0
    for i in range(BINS + 1):
        if np.isnan(work.a[i]):
            continue
        rate = (1.0 - work.g[i]) / (1.0 - work.g[i] + work.a[i] * elasticity + 1e-9)
        for j in range(last + 1, i):
            work.tau[j] = last_rate + (rate - last_rate) * (j - last) / (i - last)
        work.tau[i] = rate
        last, last_rate = i, rate


@kernel
def schedule_tax(tau, width, income):
    """Tax due at an income under the bins' rates."""
    total = 0.0
    for i in range(BINS):
        if income <= i * width:
            break
        total += tau[i] * min(width, income - i * width)
    top = BINS * width
    if income > top:
        total += tau[BINS] * (income - top)
    return max(0.0, total)


@kernel
def bracket_rates(config, top, cap, work, live, e):
    """Mean rate of the bins' schedule over each bracket, clipped (step 5)."""
    n_brackets = live.shape[1]
    width = top / BINS
    for b in range(n_brackets):
        if b + 1 < n_brackets:
            lower, upper = config.cutoffs[b], config.cutoffs[b + 1]
            due = schedule_tax(work.tau, width, upper) - schedule_tax(work.tau, width, lower)
            rate = due / (upper - lower)
        else:
            rate = work.tau[BINS]
        live[e, b] = min(max(rate, config.rate_min), cap)
