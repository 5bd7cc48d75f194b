"""Rates in force and their annealed cap (``docs/spec/gtb.md``, sections 9.2 and 9.5)."""

from typing import Any, NamedTuple

import numpy as np

from fastenvs.cycle import restart
from fastenvs.gtb.config import Options
from fastenvs.jit import kernel, part
from fastenvs.tax import US_FEDERAL_RATES

EXTERNAL, FIXED, DESIGNER, SAEZ, FUNCTION = 0, 1, 2, 3, 4


class RateConfig(NamedTuple):
    """Where rates come from."""

    mode: int
    rate_max: float
    anneal: bool
    warmup: float
    slope: float
    fixed: np.ndarray  # float64 [P, B], of mode FIXED, by period; the last holds on
    choices: np.ndarray  # float64 [R], of mode DESIGNER


def make_config(options: Options) -> RateConfig:
    """The source of rates that a tax mode means."""
    fixed: Any = {"us_federal": US_FEDERAL_RATES, "none": (0.0,) * len(options.cutoffs)}
    table = fixed.get(options.tax_mode, () if callable(options.schedule) else options.schedule)
    mode = {"external": EXTERNAL, "planner": DESIGNER, "saez": SAEZ}.get(options.tax_mode, FIXED)
    anneal: Any = options.anneal
    warmup, slope = anneal or (0.0, 0.0)
    return RateConfig(
        FUNCTION if callable(options.schedule) else mode,
        0.0 if options.tax_mode == "none" else options.rate_max,
        options.anneal is not None,
        warmup,
        slope,
        np.atleast_2d(np.array(() if table is None else table, float)),
        options.rate_choices,
    )


@part
def fraction(config, completed):
    """Share of the greatest rate that annealing allows after so many episodes."""
    if not config.anneal:
        return 1.0
    return min(1.0, max(0.0, config.slope * (completed - config.warmup)))


@kernel
def refresh(config, rates, taxes, completed, mask, lo, hi):
    """Bring the cap and the rates in force up to date where ``mask`` is set."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        rates.cap[e] = config.rate_max * fraction(config, completed[e])
        put_in_force(config, rates, taxes, e)


@part
def put_in_force(config, rates, taxes, e):
    """Rates of external and fixed schedules under the present cap."""
    period = min(taxes.n_days[e], config.fixed.shape[0] - 1)
    for b in range(taxes.live.shape[1]):
        if config.mode == EXTERNAL:
            taxes.live[e, b] = rates.external[e, b] * rates.cap[e]
        elif config.mode == FIXED:
            taxes.live[e, b] = min(config.fixed[period, b], rates.cap[e])


@part
def turn(config, rates, taxes, active, lo, hi):
    """Bring the fixed rates of a period into force on its first day, before the tax cycle sees them."""
    for e in range(lo, hi):
        if active[e] and taxes.position[e] == 1:
            put_in_force(config, rates, taxes, e)


@part
def begin(config, rates, taxes, agents, clock, saez_means, mask, lo, hi):
    """Tax cycle at the start of an episode (section 2, step 7); the cap is still that of the last episode."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        if config.mode == FIXED:
            taxes.n_days[e] = 0  # the first period's
            put_in_force(config, rates, taxes, e)
        for b in range(taxes.live.shape[1]):
            if config.mode == DESIGNER:
                taxes.live[e, b] = config.choices[0]
            elif config.mode == FUNCTION:
                taxes.live[e, b] = 0.0  # until it is asked
            elif config.mode == SAEZ:
                taxes.live[e, b] = saez_means[e % saez_means.shape[0], b]  # of its own memory, or the one
        restart(taxes, agents.coin, agents.escrow_coin, e)
        rates.fresh[e] = True
        if config.mode == DESIGNER:
            rates.limit[e] = max_choice(config.choices) * fraction(config, clock.completed[e])


@part
def max_choice(choices):
    """Largest choice in size."""
    largest = 0.0
    for rate in choices:
        largest = max(largest, abs(rate))
    return largest


@part
def unveil(config, rates, taxes, completed, mask, lo, hi):
    """Once the first masks of an episode are made, bring its cap into force (section 9.5)."""
    for e in range(lo, hi):
        if mask[e] and rates.fresh[e]:
            rates.fresh[e] = False
            rates.cap[e] = config.rate_max * fraction(config, completed[e])
            put_in_force(config, rates, taxes, e)
