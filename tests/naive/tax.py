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


def shares(incomes, rule):
    """What part of the revenue everybody gets."""
    ranks = [sorted(incomes).index(z) + (incomes.count(z) - 1) / 2 for z in incomes]
    parts = {"equal": [1 for _ in incomes], "need": [1 / max(1, z) for z in incomes],
             "rank": [len(incomes) - rank for rank in ranks]}[rule]  # fmt: skip
    return [part / sum(parts) for part in parts]


def collect(incomes, coins, rates, cutoffs, rule="equal"):
    paid = [min(float(tax_due(z, rates, cutoffs)), c) for z, c in zip(incomes, coins, strict=True)]
    given = [share * sum(paid) for share in shares(list(incomes), rule)]
    after = [c - p + g for c, p, g in zip(coins, paid, given, strict=True)]
    return paid, given[0] if rule == "equal" else given, after
