"""Compiled loops of :mod:`fastenvs.tax`; callers check shapes and values."""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t


cdef inline double tax_due(double income, const double* rates, const double* cutoffs, Py_ssize_t n) noexcept nogil:
    """Tax on one income, summed from the lowest bracket up."""
    cdef double total = 0.0, size
    cdef Py_ssize_t b
    for b in range(n):
        if income <= cutoffs[b]:
            break
        size = cutoffs[b + 1] - cutoffs[b] if b + 1 < n else INFINITY
        total += rates[b] * min(size, income - cutoffs[b])
    return total


cdef inline double rate_at(
    double income, const double* rates, const double* cutoffs, Py_ssize_t n, double zero
) noexcept nogil:
    """Rate of the bracket that holds one income; 0 below ``-zero``."""
    cdef Py_ssize_t b = 0
    if income <= -zero:
        return 0.0
    while b + 1 < n and income >= cutoffs[b + 1]:
        b += 1
    return rates[b]


def due(
    const double[:, ::1] income, const double[:, ::1] rates, const double[::1] cutoffs, double[:, ::1] out
):
    """Write the tax due on every income to ``out``."""
    cdef Py_ssize_t e, i
    with nogil:
        for e in range(income.shape[0]):
            for i in range(income.shape[1]):
                out[e, i] = tax_due(income[e, i], &rates[e, 0], &cutoffs[0], cutoffs.shape[0])


def marginal(
    const double[:, ::1] income,
    const double[:, ::1] rates,
    const double[::1] cutoffs,
    double zero,
    double[:, ::1] out,
):
    """Write the marginal rate at every income to ``out``."""
    cdef Py_ssize_t e, i
    with nogil:
        for e in range(income.shape[0]):
            for i in range(income.shape[1]):
                out[e, i] = rate_at(income[e, i], &rates[e, 0], &cutoffs[0], cutoffs.shape[0], zero)


def collect(
    const double[:, ::1] income,
    const double[:, ::1] rates,
    const double[::1] cutoffs,
    double[:, ::1] coin,
    double[:, ::1] paid,
    double[::1] rebate,
):
    """Take the taxes from ``coin``, share the revenue out equally; ``coin`` changes in place."""
    cdef Py_ssize_t e, i, n_agents = income.shape[1]
    cdef double revenue
    with nogil:
        for e in range(income.shape[0]):
            revenue = 0.0
            for i in range(n_agents):
                paid[e, i] = min(
                    tax_due(income[e, i], &rates[e, 0], &cutoffs[0], cutoffs.shape[0]), coin[e, i]
                )
                coin[e, i] -= paid[e, i]
                revenue += paid[e, i]
            rebate[e] = revenue / n_agents
            for i in range(n_agents):
                coin[e, i] += rebate[e]


def periodic(
    Py_ssize_t lo,
    Py_ssize_t hi,
    const uint8_t[::1] active,
    int period,
    const double[::1] cutoffs,
    double zero,
    const int32_t[:, ::1] chosen,
    const double[::1] choices,
    double[:, ::1] coin,
    const double[:, ::1] escrow_coin,
    int32_t[::1] position,
    double[:, ::1] live,
    double[:, ::1] shown,
    int32_t[:, ::1] choice,
    double[:, ::1] last_coin,
    double[:, ::1] last_income,
    double[:, ::1] last_marginal,
    double[:, ::1] sorted_income,
    double[:, ::1] marginal_now,
    uint8_t[::1] tax_day,
    double[:, ::1] income,
    double[:, ::1] paid,
    double[:, ::1] marginal,
    double[::1] rebate,
    double[:, ::1] coin_before,
    double[:, ::1] escrow_before,
    int32_t[::1] n_days,
    double[:, ::1] rate_sum,
    int32_t[:, ::1] occupancy,
    double[::1] effective_sum,
    double[:, ::1] paid_sum,
    double[:, ::1] income_sum,
):
    """One step of the tax cycle of the active rows in ``[lo, hi)``; collects on the last day of a period."""
    cdef Py_ssize_t e, i, b, j, n_agents = coin.shape[1], n_brackets = cutoffs.shape[0]
    cdef double revenue, z
    with nogil:
        for e in range(lo, hi):
            tax_day[e] = 0
            if not active[e]:
                continue
            if position[e] == 1:
                if choices.shape[0] > 0:
                    for b in range(n_brackets):
                        if chosen[e, b] > 0:
                            choice[e, b] = chosen[e, b] - 1
                        live[e, b] = choices[choice[e, b]]
                for b in range(n_brackets):
                    shown[e, b] = live[e, b]
            if position[e] >= period:
                position[e] = 0
                tax_day[e] = 1
                n_days[e] += 1
                revenue = 0.0
                for b in range(n_brackets):
                    rate_sum[e, b] += live[e, b]
                for i in range(n_agents):
                    z = coin[e, i] + escrow_coin[e, i] - last_coin[e, i]
                    coin_before[e, i] = coin[e, i]
                    escrow_before[e, i] = escrow_coin[e, i]
                    income[e, i] = last_income[e, i] = z
                    marginal[e, i] = last_marginal[e, i] = rate_at(z, &live[e, 0], &cutoffs[0], n_brackets, zero)
                    paid[e, i] = min(tax_due(z, &live[e, 0], &cutoffs[0], n_brackets), coin[e, i])
                    coin[e, i] -= paid[e, i]
                    revenue += paid[e, i]
                    b = 0
                    while b + 1 < n_brackets and z >= cutoffs[b + 1]:
                        b += 1
                    occupancy[e, b] += 1
                    effective_sum[e] += paid[e, i] / max(1e-6, z)
                    paid_sum[e, i] += paid[e, i]
                    income_sum[e, i] += max(0.0, z)
                    j = i
                    while j > 0 and sorted_income[e, j - 1] > z:
                        sorted_income[e, j] = sorted_income[e, j - 1]
                        j -= 1
                    sorted_income[e, j] = z
                rebate[e] = revenue / n_agents
                for i in range(n_agents):
                    coin[e, i] += rebate[e]
                    last_coin[e, i] = coin[e, i] + escrow_coin[e, i]
            position[e] += 1
            for i in range(n_agents):
                z = coin[e, i] + escrow_coin[e, i] - last_coin[e, i]
                marginal_now[e, i] = rate_at(z, &live[e, 0], &cutoffs[0], n_brackets, zero)
