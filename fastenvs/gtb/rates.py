"""Rates in force and their annealed cap (``docs/spec/gtb.md``, sections 9.2 and 9.5)."""

from typing import NamedTuple

import numpy as np

from fastenvs.cycle import restart
from fastenvs.gtb.config import PAPER_ANNEAL, Options
from fastenvs.jit import kernel, part
from fastenvs.tax import US_FEDERAL_RATES

EXTERNAL, FIXED, DESIGNER, SAEZ = 0, 1, 2, 3


class RateConfig(NamedTuple):
    """Where rates come from."""

    mode: int
    rate_max: float
    anneal: bool
    warmup: float
    slope: float
    fixed: np.ndarray  # float64 [B], of mode FIXED
    choices: np.ndarray  # float64 [R], of mode DESIGNER


def make_config(options: Options) -> RateConfig:
    """The source of rates that a tax mode means."""
    fixed = {"us_federal": US_FEDERAL_RATES, "fixed": options.fixed_rates, "none": (0.0,) * len(options.cutoffs)}
    mode = {"external": EXTERNAL, "planner": DESIGNER, "saez": SAEZ}.get(options.tax_mode, FIXED)
    warmup, slope = PAPER_ANNEAL if options.anneal == "paper" else options.anneal or (0.0, 0.0)
    return RateConfig(
        mode,
        0.0 if options.tax_mode == "none" else options.rate_max,
        options.anneal is not None,
        warmup,
        slope,
        np.array(fixed.get(options.tax_mode) or (), float),
        options.rate_choices,
    )


@part
def fraction(config, completed):
    """Share of the greatest rate that annealing allows after so many episodes."""
    if not config.anneal:
        return 1.0
    return min(1.0, max(0.0, config.slope * (completed - config.warmup)))


@kernel
def refresh(config, rates, live, completed, mask, lo, hi):
    """Bring the cap and the rates in force up to date where ``mask`` is set."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        rates.cap[e] = config.rate_max * fraction(config, completed[e])
        put_in_force(config, rates, live, e)


@part
def put_in_force(config, rates, live, e):
    """Rates of external and fixed schedules under the present cap."""
    for b in range(live.shape[1]):
        if config.mode == EXTERNAL:
            live[e, b] = rates.external[e, b] * rates.cap[e]
        elif config.mode == FIXED:
            live[e, b] = min(config.fixed[b], rates.cap[e])


@part
def begin(config, rates, taxes, agents, clock, saez_means, mask, lo, hi):
    """Tax cycle at the start of an episode (section 2, step 7); the cap is still that of the last episode."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for b in range(taxes.live.shape[1]):
            if config.mode == DESIGNER:
                taxes.live[e, b] = config.choices[0]
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
def unveil(config, rates, live, completed, mask, lo, hi):
    """Once the first masks of an episode are made, bring its cap into force (section 9.5)."""
    for e in range(lo, hi):
        if mask[e] and rates.fresh[e]:
            rates.fresh[e] = False
            rates.cap[e] = config.rate_max * fraction(config, completed[e])
            put_in_force(config, rates, live, e)
