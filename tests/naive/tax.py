"""Bracketed tax for one economy, by exact fractions where it matters."""

from fractions import Fraction


def tax_due(income, rates, cutoffs):
    total = Fraction(0)
    edges = [Fraction(c) for c in cutoffs]
    for b, rate in enumerate(rates):
        above = max(Fraction(0), Fraction(income) - edges[b])
        if b + 1 < len(edges):
            above = min(above, edges[b + 1] - edges[b])
        total += Fraction(rate) * above
    return total


def marginal_rate(income, rates, cutoffs):
    if abs(income) < 1e-6:
        income = 0.0
    if income < 0:
        return 0.0
    return [rate for rate, cutoff in zip(rates, cutoffs, strict=True) if cutoff <= income][-1]


def collect(incomes, coins, rates, cutoffs):
    paid = [min(float(tax_due(z, rates, cutoffs)), c) for z, c in zip(incomes, coins, strict=True)]
    share = sum(paid) / len(paid)
    return paid, share, [c - p + share for c, p in zip(coins, paid, strict=True)]
