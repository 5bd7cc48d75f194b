"""Options of Gather-Trade-Build, their presets, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastenvs import tax
from fastenvs.checks import positive_int
from fastenvs.grid import GTB_MAPS, read_map

TaxMode = Literal["external", "planner", "us_federal", "fixed", "saez", "none"]

# An agent or house is one byte in a map, with 0 for nobody and 1 for oneself.
MAX_AGENTS = 253
MAX_PRICE = 1_000
MAX_ORDERS = 65_535
STONE, WOOD = 0, 1


@dataclass(frozen=True)
class Options:
    """Options of the economy (Gather-Trade-Build specification, section 15); defaults are the paper's.

    Parameters
    ----------
    map : str or Path
        A named map, the path of a text file, or the text: ``W`` wood, ``S`` stone, ``@`` water, else empty.
    n_agents : int
        Number of mobile agents.
    steps : int
        Length of an episode.
    fixed_four : bool
        Start agents in the corners, with the average pay of their skill rank; ranks are drawn. Four agents stand as
        in the paper, other numbers in quartile groups.
    start_coin, build_pay, build_labor, order_labor, move_labor, collect_labor : float
        Coins an agent starts with, coins for a house before skill, labor of each deed.
    regen_prob : float
        Probability that an empty source regains its unit in a step.
    utility_eta, energy_cost : float
        Curvature of the utility of coin; utility lost for a unit of labor.
    energy_warmup : float
        Scale of the warm-up of the energy cost, 0 for none, in ``energy_warmup_by``: completed episodes, or steps
        with a positive mean reward.
    planner_objective, productivity_only_weight
        Welfare that the planner is paid for, and the share of pure productivity in it.
    view_radius : int
        Agents see a square of ``2 * view_radius + 1`` cells around them.
    full_view, planner_sees_map, scale_obs : bool
        Whole map for the agents; a map for the planner at all; scaling of goods, history and time.
    build_skill, gather_skill : {"none", "pareto", "lognormal"}
        Distributions of skills.
    build_skill_cap : float
        Largest multiplier of the pay.
    max_price, order_life, max_orders : int
        Prices are 0 .. max_price; steps after which an order expires; open orders an agent may have for a
        commodity (None: as many as order_life).
    tax_mode : {"external", "planner", "us_federal", "fixed", "saez", "none"}
        Who sets the rates.
    tax_period : int
        Steps between tax days.
    rate_min, rate_max, rate_step : float
        Rates that the planner may choose; rate_max also caps the others where annealed.
    brackets : {"us", "linear", "log"}
        Spacing of the brackets; ``usd_scale`` dollars a coin, or ``n_brackets`` up to ``top_cutoff``.
    fixed_rates : tuple of float, optional
        Rates of mode ``fixed``.
    anneal : (float, float), optional
        Warm-up and slope, in completed episodes, of the cap on rates.
    saez_welfare, saez_elasticity, saez_shared
        Welfare weights of mode ``saez``, a fixed elasticity instead of the estimated one, and whether the
        copies pool their memories.
    designer_obs : {"always", "decision"}
        Write the designer's vectors in every step, or only where it is about to choose rates.
    """

    map: str | Path = "pure_mixed_15"
    n_agents: int = 4
    steps: int = 100
    fixed_four: bool = True
    start_coin: float = 10.0
    regen_prob: float = 0.01
    utility_eta: float = 0.23
    energy_cost: float = 0.21
    energy_warmup: float = 0.0
    energy_warmup_by: Literal["episodes", "positive_steps"] = "episodes"
    planner_objective: Literal["equality_x_productivity", "inverse_income_coin", "inverse_income_utility"] = (
        "equality_x_productivity"
    )
    productivity_only_weight: float = 0.0
    view_radius: int = 5
    full_view: bool = False
    planner_sees_map: bool = True
    scale_obs: bool = True
    build_pay: float = 10.0
    build_skill_cap: float = 3.0
    build_skill: Literal["none", "pareto", "lognormal"] = "pareto"
    build_labor: float = 10.0
    max_price: int = 10
    order_labor: float = 0.25
    order_life: int = 50
    max_orders: int | None = 5
    move_labor: float = 1.0
    collect_labor: float = 1.0
    gather_skill: Literal["none", "pareto", "lognormal"] = "none"
    tax_mode: TaxMode = "external"
    tax_period: int = 10
    rate_min: float = 0.0
    rate_max: float = 1.0
    rate_step: float = 0.05
    brackets: Literal["us", "linear", "log"] = "us"
    usd_scale: float = 1000.0
    n_brackets: int = 5
    top_cutoff: float = 100.0
    fixed_rates: tuple[float, ...] | None = None
    anneal: tuple[float, float] | None = None
    saez_welfare: Literal["inverse_income", "uniform"] = "inverse_income"
    saez_elasticity: float | None = None
    saez_shared: bool = False
    designer_obs: Literal["always", "decision"] = "always"

    def __post_init__(self) -> None:
        _check(self)

    # ------------------------------------------------------------------ what follows

    @cached_property
    def cells(self) -> np.ndarray:
        """Symbols of the map, ``[H, W]``."""
        return read_map(self.map, GTB_MAPS)

    @property
    def n_prices(self) -> int:
        """Number of price levels, P."""
        return self.max_price + 1

    @property
    def n_actions(self) -> int:
        """Actions of an agent: nothing, build, bids and asks at every price, four moves."""
        return 2 + 4 * self.n_prices + 4

    @cached_property
    def cutoffs(self) -> np.ndarray:
        """Lower edges of the brackets, ``[B]``."""
        if self.brackets == "us":
            return tax.us_federal_brackets(self.usd_scale)
        maker = tax.linear_brackets if self.brackets == "linear" else tax.log_brackets
        return maker(self.n_brackets, self.top_cutoff)

    @cached_property
    def rate_choices(self) -> np.ndarray:
        """Rates that the planner may choose, ``[R]``; empty in the other modes."""
        if self.tax_mode != "planner":
            return np.empty(0)
        # By numpy's own spacing, (rate_min + rate_step) - rate_min, as in the published environment.
        rates = np.arange(self.rate_min, self.rate_max + self.rate_step, self.rate_step)
        return rates[rates <= self.rate_max]

    @property
    def order_limit(self) -> int:
        """Open orders that an agent may have for a commodity."""
        return self.order_life if self.max_orders is None else self.max_orders

    @property
    def orders_each(self) -> int:
        """Open orders that an agent can have for a commodity: it cannot enter more than one a step."""
        return min(self.steps, self.order_limit)

    @cached_property
    def rank_pay(self) -> np.ndarray:
        """Pay of each skill rank, worst first, ``[A]``: averages of order statistics (section 2, step 8)."""
        draws = np.random.RandomState(1).pareto(4, (100_000, self.n_agents))
        multipliers = np.minimum(self.build_skill_cap, (self.build_skill_cap - 1) * draws + 1)
        return np.sort(multipliers, axis=1).mean(axis=0) * self.build_pay

    @cached_property
    def rank_location(self) -> np.ndarray:
        """Starting cell of each skill rank, ``[A, 2]``: corners, or steps inward from them (section 16)."""
        height, width = self.cells.shape
        corners = [(0, width - 1), (height - 1, 0), (0, 0), (width - 1, width - 1)]
        inward = [(1, -1), (-1, 1), (1, 1), (-1, -1)]
        n, members, out = self.n_agents, [0] * 4, []
        for k in range(n):
            group = 4 * k // n
            p, members[group] = members[group], members[group] + 1
            (row, column), (down, right) = corners[group], inward[group]
            out.append((row + down * (p // 4), column + right * (p % 4)))
        return np.array(out, np.int16)


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "upstream": {
        "map": "pure_mixed_25",
        "steps": 1000,
        "fixed_four": False,
        "start_coin": 0.0,
        "build_skill_cap": 1.0,
        "build_skill": "none",
        "max_orders": None,
        "tax_mode": "planner",
        "tax_period": 100,
    },
}

#: The paper's annealing: a cap from 0.1 at episode 0 to 1 at episode 8000.
PAPER_ANNEAL = (-0.1 / (0.9 / 8000), 0.9 / 8000)


def make_options(preset: str, **options: Any) -> Options:
    """Options of a preset, with some replaced; unknown ones are refused."""
    if preset not in PRESETS:
        raise ValueError(f"no GTB preset is called {preset!r}; there are: {', '.join(PRESETS)}")
    known = {f.name for f in fields(Options)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"unknown GTB option: {', '.join(unknown)}")
    return replace(Options(), **{**PRESETS[preset], **options})


def _check(o: Options) -> None:
    for name, least in (
        ("n_agents", 2), ("steps", 1), ("view_radius", 0), ("max_price", 1), ("order_life", 0), ("tax_period", 1),
        ("n_brackets", 2),
    ):  # fmt: skip
        positive_int(name, getattr(o, name), least)
    if o.max_orders is not None:
        positive_int("max_orders", o.max_orders)
    for name in (
        "start_coin", "energy_cost", "build_pay", "build_labor", "move_labor", "collect_labor",
        "energy_warmup",
    ):  # fmt: skip
        _check_number(o, name, 0, np.inf)
    for name in ("regen_prob", "productivity_only_weight", "rate_min", "rate_max", "utility_eta"):
        _check_number(o, name, 0, 1)
    for name in ("order_labor", "build_skill_cap", "rate_step", "usd_scale", "top_cutoff"):
        _check_number(o, name, -np.inf, np.inf)
    if o.saez_elasticity is not None:
        _check_number(o, "saez_elasticity", 0, np.inf)
    for name in ("fixed_four", "full_view", "planner_sees_map", "scale_obs", "saez_shared"):
        if not isinstance(getattr(o, name), (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {getattr(o, name)!r}")
    if not isinstance(o.map, (str, Path)):
        raise TypeError(f"map must be a name, a text or a path, got {o.map!r}")
    _check_literals(o)
    if o.n_agents > MAX_AGENTS:
        raise ValueError(f"n_agents must be at most {MAX_AGENTS}, got {o.n_agents}")
    if o.max_price > MAX_PRICE:
        raise ValueError(f"max_price must be at most {MAX_PRICE}, got {o.max_price}")
    if o.orders_each > MAX_ORDERS:
        raise ValueError(f"at most {MAX_ORDERS} open orders an agent are possible, these options allow {o.orders_each}")
    if o.order_life > 2**30:
        raise ValueError(f"order_life must be at most {2**30}, got {o.order_life}")
    if o.build_skill_cap < 1:
        raise ValueError(f"build_skill_cap must be at least 1, got {o.build_skill_cap}")
    if o.rate_min > o.rate_max or o.rate_step <= 0:
        raise ValueError(f"rates from {o.rate_min} to {o.rate_max} by {o.rate_step} are none at all")
    if (o.fixed_rates is not None) != (o.tax_mode == "fixed"):
        raise ValueError("fixed_rates go with tax_mode 'fixed', and it needs them")
    if o.fixed_rates is not None and (
        len(o.fixed_rates) != len(o.cutoffs) or not all(0 <= r <= 1 for r in o.fixed_rates)
    ):
        raise ValueError(f"fixed_rates must be {len(o.cutoffs)} numbers in [0, 1], got {o.fixed_rates}")
    if o.anneal is not None and not (
        isinstance(o.anneal, (tuple, list)) and len(o.anneal) == 2 and all(map(_is_finite, o.anneal))
    ):
        raise ValueError(f"anneal must be a pair (warm-up, slope), got {o.anneal}")
    assert len(o.cutoffs) > 1  # makes them, which checks their options
    free = int((o.cells != "@").sum())
    if free < o.n_agents:
        raise ValueError(f"{o.n_agents} agents do not fit on {free} cells of land")
    if o.fixed_four:
        _check_fixed(o)


def _is_finite(value: Any) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))


def _check_number(o: Options, name: str, least: float, greatest: float) -> None:
    value = getattr(o, name)
    if not (_is_finite(value) and least <= value <= greatest):
        where = "" if least == -np.inf else " and not negative" if greatest == np.inf else f" in [{least}, {greatest}]"
        raise ValueError(f"{name} must be a finite number{where}, got {value!r}")


def _check_literals(o: Options) -> None:
    choices = {
        "energy_warmup_by": ("episodes", "positive_steps"),
        "planner_objective": ("equality_x_productivity", "inverse_income_coin", "inverse_income_utility"),
        "build_skill": ("none", "pareto", "lognormal"),
        "gather_skill": ("none", "pareto", "lognormal"),
        "tax_mode": ("external", "planner", "us_federal", "fixed", "saez", "none"),
        "brackets": ("us", "linear", "log"),
        "saez_welfare": ("inverse_income", "uniform"),
        "designer_obs": ("always", "decision"),
    }
    for name, allowed in choices.items():
        if getattr(o, name) not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(o, name)!r}")
    if o.tax_mode in ("us_federal",) and o.brackets != "us":
        raise ValueError("tax_mode 'us_federal' needs brackets 'us'")


def _check_fixed(o: Options) -> None:
    if o.build_skill != "pareto":
        raise ValueError("fixed_four needs build_skill 'pareto'")
    height, width = o.cells.shape
    if height != width:
        raise ValueError(f"fixed_four needs a square map, got {height}x{width}")
    cells = {tuple(c) for c in o.rank_location.tolist()}
    if len(cells) < o.n_agents or any(not (0 <= r < height and 0 <= c < width) for r, c in cells):
        raise ValueError(f"fixed_four has no room for {o.n_agents} agents on {height}x{width} cells")
    if any(o.cells[r, c] == "@" for r, c in cells):
        raise ValueError("fixed_four would start an agent in water")
