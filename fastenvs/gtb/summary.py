"""Metrics of an episode, by the names of the published environment (``docs/spec/gtb.md``, section 11)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fastenvs.gtb.config import Options
from fastenvs.gtb.state import State
from fastenvs.metrics import inverse_income_mean
from fastenvs.snapshots import rows_of

_NAN = float("nan")
GOODS = ("Stone", "Wood")


def metrics(options: Options, state: State, e: int) -> dict[str, float]:
    """Metrics of copy ``e``'s episode so far; NaN for the mean of nothing."""
    agents, clock = state.agents, state.clock
    x = agents.coin[e] + agents.escrow_coin[e]
    n = len(x)
    out: dict[str, float] = {
        "social/productivity": x.sum(),
        "social/equality": clock.equality[e],
        "social_welfare/coin_eq_times_productivity": clock.equality[e] * x.sum() / n,
        "social_welfare/inv_income_weighted_coin_endow": inverse_income_mean(x, x),
        "social_welfare/inv_income_weighted_utility": inverse_income_mean(x, clock.utility[e]),
        "labor/weighted_cost": options.energy_cost * _current_weight(options, state, e),
        "labor/warmup_integrator": clock.positive_steps[e],
        "util/p": clock.welfare[e],
        "endow/p/Coin": 0.0,
        "endow/p/Stone": 0.0,
        "endow/p/Wood": 0.0,
        "Build/total_builds": agents.houses[e].sum(),
        "Trade/n_trades": state.events.n_trades[e, :, 0].sum(),
    }
    for i in range(n):
        out[f"endow/{i}/Coin"] = x[i]
        for good, name in enumerate(GOODS):
            out[f"endow/{i}/{name}"] = agents.units[e, i, good] + agents.escrow_units[e, i, good]
        out[f"endogenous/{i}/Labor"] = agents.labor[e, i]
        out[f"util/{i}"] = clock.utility[e, i]
        out[f"Build/{i}/n_builds"] = agents.houses[e, i]
        out |= _trades(state, e, i)
    out |= _brackets(options, state, e)
    if options.tax_mode != "none":
        out |= _taxes(state, e, x)
    return {name: float(value) for name, value in out.items()}


class Finished:
    """What :func:`metrics` and logs need of every copy's last finished episode, kept when a reset replaces it."""

    _KEPT: ClassVar[dict[str, tuple[str, ...]]] = {
        "agents": ("loc", "coin", "escrow_coin", "units", "escrow_units", "labor", "pay", "houses"),
        "clock": ("completed", "positive_steps", "utility", "welfare", "equality"),
        "taxes": ("live", "n_days", "rate_sum", "occupancy", "effective_sum", "paid_sum", "income_sum", "last_coin"),
        "events": ("n_trades", "trade_value"),
    }  # fmt: skip

    def __init__(self, state: State) -> None:
        self._live = state
        groups = {}
        for group, names in self._KEPT.items():
            live = getattr(state, group)
            groups[group] = live._replace(**{name: np.zeros_like(getattr(live, name)) for name in names})
        self.kept = state._replace(**groups)
        self._known = np.zeros(len(state.clock.time), np.bool_)

    def keep(self, mask: np.ndarray, lo: int, hi: int) -> None:
        """Keep the episodes of the rows of ``[lo, hi)`` where ``mask`` is set."""
        rows = rows_of(mask, lo, hi)
        for group, names in self._KEPT.items():
            live, kept = getattr(self._live, group), getattr(self.kept, group)
            for name in names:
                getattr(kept, name)[rows] = getattr(live, name)[rows]
        self._known[rows] = True

    def forget(self) -> None:
        """Know of no episodes, as after a restored snapshot."""
        self._known[:] = False

    def state(self, e: int) -> State:
        """State whose kept arrays are of the last finished episode of copy ``e``."""
        if not self._known[e]:
            raise ValueError(f"environment {e} has finished no episode that was reset since")
        return self.kept


def _current_weight(options: Options, state: State, e: int) -> float:
    if options.energy_warmup <= 0:
        return 1.0
    by_steps = options.energy_warmup_by == "positive_steps"
    progress = state.clock.positive_steps[e] if by_steps else state.clock.completed[e]
    return 1.0 - np.exp(-progress / options.energy_warmup)


def _trades(state: State, e: int, i: int) -> dict[str, float]:
    out = {}
    for side, verb in enumerate(("Sell", "Buy")):
        for good, name in enumerate(GOODS):
            count = state.events.n_trades[e, i, side, good]
            mean = state.events.trade_value[e, i, side, good] / count if count else _NAN
            key = f"Trade/{i}/{verb}{name}"
            out[f"{key}/n_sales"] = count
            out |= {f"{key}/{value}": mean for value in ("price", "cost", "income")}
    return out


def _brackets(options: Options, state: State, e: int) -> dict[str, float]:
    """Mean rates and shares of incomes; brackets whose cutoffs share an integer part share an entry."""
    taxes = state.taxes
    days = int(taxes.n_days[e])
    keys = [f"{int(cutoff):03d}" for cutoff in options.cutoffs]
    out = {}
    for key in dict.fromkeys(keys):
        mine = [b for b, other in enumerate(keys) if other == key]
        mean = taxes.rate_sum[e, mine].sum() / (days * len(mine)) if days else _NAN
        share = taxes.occupancy[e, mine].sum() / (days * taxes.last_coin.shape[1]) if days else 0.0
        out[f"PeriodicTax/avg_bracket_rate/{key}"] = mean
        out[f"PeriodicTax/bracket_occupancy/{key}"] = share
    return out


def _taxes(state: State, e: int, x: np.ndarray) -> dict[str, float]:
    taxes = state.taxes
    samples = int(taxes.n_days[e]) * len(x)
    out = {
        "PeriodicTax/avg_effective_tax_rate": taxes.effective_sum[e] / samples if samples else _NAN,
        "PeriodicTax/total_collected_taxes": taxes.paid_sum[e].sum(),
    }
    for name, i in (("poorest", int(x.argmin())), ("richest", int(x.argmax()))):
        rate = taxes.paid_sum[e, i] / max(0.001, taxes.income_sum[e, i])
        out[f"PeriodicTax/avg_tax_rate/{name}"] = rate
    return out
