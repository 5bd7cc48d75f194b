"""Compiled loops of :mod:`fastenvs.tax`; callers check shapes and values."""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint8_t

cdef enum:
    EQUAL = 0
    BY_NEED = 1  # the other rules go by rank


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


cdef int share_out(
    int rule, double revenue, const double* income, Py_ssize_t n, double* rebate, double* coin
) except -1 nogil:
    """Add to ``coin`` what each of ``n`` agents gets of the revenue, by one of the rules; keep it in ``rebate``.

    An equal share is kept once.
    """
    cdef Py_ssize_t i, j
    cdef double total = 0.0
    if rule == EQUAL:
        rebate[0] = revenue / n
        for i in range(n):
            coin[i] += rebate[0]
        return 0
    for i in range(n):
        if rule == BY_NEED:
            rebate[i] = 1.0 / max(1.0, income[i])
        else:  # by rank: n for the lowest income, 1 for the highest; those who are equal have the mean of their ranks
            rebate[i] = n + 0.5
            for j in range(n):
                if income[j] < income[i]:
                    rebate[i] -= 1.0
                elif income[j] == income[i]:
                    rebate[i] -= 0.5
        total += rebate[i]
    for i in range(n):
        rebate[i] = rebate[i] / total * revenue
        coin[i] += rebate[i]
    return 0


def collect(
    const double[:, ::1] income,
    const double[:, ::1] rates,
    const double[::1] cutoffs,
    int rule,
    double[:, ::1] coin,
    double[:, ::1] paid,
    double[:, ::1] rebate,
):
    """Take the taxes from ``coin``, share the revenue out; ``coin`` changes in place."""
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
            share_out(rule, revenue, &income[e, 0], n_agents, &rebate[e, 0], &coin[e, 0])


cdef class Periodic:
    """N tax cycles, bound once to their arrays and rules; a call runs it over the active rows of a range."""

    cdef const uint8_t[::1] active
    cdef int period, rule
    cdef double zero
    cdef const double[::1] cutoffs, choices
    cdef const int32_t[:, ::1] chosen
    cdef double[:, ::1] coin
    cdef const double[:, ::1] escrow_coin
    cdef int32_t[::1] position, n_days
    cdef int32_t[:, ::1] choice, occupancy
    cdef uint8_t[::1] tax_day
    cdef double[:, ::1] live, shown, last_coin, last_income, last_marginal, sorted_income, marginal_now
    cdef double[:, ::1] income, paid, marginal, coin_before, escrow_before, rate_sum, paid_sum, income_sum
    cdef double[:, ::1] rebate
    cdef double[::1] effective_sum

    def __init__(
        self, active, period, cutoffs, rule, zero, chosen, choices, coin, escrow_coin, position, live, shown, choice,
        last_coin, last_income, last_marginal, sorted_income, marginal_now, tax_day, income, paid, marginal, rebate,
        coin_before, escrow_before, n_days, rate_sum, occupancy, effective_sum, paid_sum, income_sum,
    ):
        self.active, self.period, self.cutoffs, self.rule, self.zero = active, period, cutoffs, rule, zero
        self.chosen, self.choices, self.coin, self.escrow_coin = chosen, choices, coin, escrow_coin
        self.position, self.live, self.shown, self.choice = position, live, shown, choice
        self.last_coin, self.last_income, self.last_marginal = last_coin, last_income, last_marginal
        self.sorted_income, self.marginal_now, self.tax_day = sorted_income, marginal_now, tax_day
        self.income, self.paid, self.marginal = income, paid, marginal
        self.rebate = rebate.reshape(len(rebate), -1)
        self.coin_before, self.escrow_before, self.n_days = coin_before, escrow_before, n_days
        self.rate_sum, self.occupancy, self.effective_sum = rate_sum, occupancy, effective_sum
        self.paid_sum, self.income_sum = paid_sum, income_sum

    def __call__(self, Py_ssize_t lo, Py_ssize_t hi):
        with nogil:
            periodic(self, lo, hi)

    @property
    def address(self):
        """Where compiled code finds the function of (this object, lo, hi), and this object."""
        return <size_t><void*>periodic, <size_t><void*>self


cdef Py_ssize_t periodic(Periodic s, Py_ssize_t lo, Py_ssize_t hi) except -1 nogil:
    """One step of the tax cycle of the active rows in ``[lo, hi)``; collects on the last day of a period."""
    cdef Py_ssize_t e, i
    cdef double income
    for e in range(lo, hi):
        s.tax_day[e] = 0
        if not s.active[e]:
            continue
        if s.position[e] == 1:
            begin_period(s, e)
        if s.position[e] >= s.period:
            end_period(s, e)
        s.position[e] += 1
        for i in range(s.coin.shape[1]):
            income = s.coin[e, i] + s.escrow_coin[e, i] - s.last_coin[e, i]
            s.marginal_now[e, i] = rate_at(income, &s.live[e, 0], &s.cutoffs[0], s.cutoffs.shape[0], s.zero)
    return 0


cdef int begin_period(Periodic s, Py_ssize_t e) except -1 nogil:
    """Put the chosen rates in force, and show what is in force."""
    cdef Py_ssize_t b
    for b in range(s.cutoffs.shape[0]):
        if s.choices.shape[0] > 0:
            if s.chosen[e, b] > 0:
                s.choice[e, b] = s.chosen[e, b] - 1
            s.live[e, b] = s.choices[s.choice[e, b]]
        s.shown[e, b] = s.live[e, b]
    return 0


cdef int end_period(Periodic s, Py_ssize_t e) except -1 nogil:
    """Collect and redistribute, and keep records."""
    cdef Py_ssize_t i, b, j, n_agents = s.coin.shape[1], n_brackets = s.cutoffs.shape[0]
    cdef const double* live = &s.live[e, 0]
    cdef const double* cutoffs = &s.cutoffs[0]
    cdef double revenue = 0.0, z
    s.position[e] = 0
    s.tax_day[e] = 1
    s.n_days[e] += 1
    for b in range(n_brackets):
        s.rate_sum[e, b] += live[b]
    for i in range(n_agents):
        z = s.coin[e, i] + s.escrow_coin[e, i] - s.last_coin[e, i]
        s.coin_before[e, i] = s.coin[e, i]
        s.escrow_before[e, i] = s.escrow_coin[e, i]
        s.income[e, i] = s.last_income[e, i] = z
        s.marginal[e, i] = s.last_marginal[e, i] = rate_at(z, live, cutoffs, n_brackets, s.zero)
        s.paid[e, i] = min(tax_due(z, live, cutoffs, n_brackets), s.coin[e, i])
        s.coin[e, i] -= s.paid[e, i]
        revenue += s.paid[e, i]
        b = 0
        while b + 1 < n_brackets and z >= cutoffs[b + 1]:
            b += 1
        s.occupancy[e, b] += 1
        s.effective_sum[e] += s.paid[e, i] / max(1e-6, z)
        s.paid_sum[e, i] += s.paid[e, i]
        s.income_sum[e, i] += max(0.0, z)
        j = i
        while j > 0 and s.sorted_income[e, j - 1] > z:
            s.sorted_income[e, j] = s.sorted_income[e, j - 1]
            j -= 1
        s.sorted_income[e, j] = z
    share_out(s.rule, revenue, &s.income[e, 0], n_agents, &s.rebate[e, 0], &s.coin[e, 0])
    for i in range(n_agents):
        s.last_coin[e, i] = s.coin[e, i] + s.escrow_coin[e, i]
    return 0
