"""The one-step economy for one copy, in lists."""

from naive.tax import collect


def isoelastic(coin, eta):
    return (coin ** (1 - eta) - 1) / (1 - eta)


def equality(coin):
    n, total = len(coin), sum(coin)
    if n < 30:
        apart = sum(abs(a - b) for a in coin for b in coin)
        return 1 - apart / (2 * n * total + 1e-10) * n / (n - 1)
    below = [sum(sorted(coin)[: i + 1]) for i in range(n)]
    return 2 / (n + 1) * sum(below) / (total + 1e-10)


def outcome(options, skills, rates, actions):
    """Income, tax, share, coin, utility and welfare of a copy."""
    hours = [options.max_labor * k / (options.labor_levels - 1) for k in actions]
    income = [skill * h for skill, h in zip(skills, hours, strict=True)]
    paid, share, coin = collect(income, income, rates, options.brackets)
    utility = [
        isoelastic(x, options.utility_eta) - options.labor_cost * h**options.labor_exponent
        for x, h in zip(coin, hours, strict=True)
    ]
    weights = [1 / max(1, x) for x in coin]
    welfare = {
        "equality_x_productivity": equality(coin) * sum(coin) / len(coin),
        "inverse_income_coin": sum(w * x for w, x in zip(weights, coin, strict=True)) / sum(weights),
        "inverse_income_utility": sum(w * u for w, u in zip(weights, utility, strict=True)) / sum(weights),
    }[options.planner_objective]
    return {"income": income, "paid": paid, "share": share, "coin": coin, "utility": utility, "welfare": welfare}
