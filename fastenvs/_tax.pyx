"""Compiled loops of :mod:`fastenvs.tax`; callers check shapes and values."""

from libc.math cimport INFINITY


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
