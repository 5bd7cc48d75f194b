"""Options of Gather-Trade-Build, their presets, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastenvs import checks, schedule, tax
from fastenvs.checks import MAX_AMOUNT, MAX_INT, in_range, later, normalise, positive_int, shown
from fastenvs.grid import GTB_MAPS, read_map
from fastenvs.schedule import Schedule

TaxMode = Literal["external", "planner", "us_federal", "fixed", "saez", "none"]

# An agent or house is one byte in a map, with 0 for nobody and 1 for oneself.
MAX_AGENTS = 253
MAX_PRICE = 1_000
MAX_ORDERS = 65_535
MAX_CHOICES = 10_000
STONE, WOOD = 0, 1

#: The paper's annealing: a cap from 0.1 at episode 0 to 1 at episode 8000.
PAPER_ANNEAL = (-0.1 / (0.9 / 8000), 0.9 / 8000)


@dataclass(frozen=True)
class Options:
    """Options of the economy (``docs/spec/gtb.md``, section 15); defaults are the paper's.

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
    start_coin : float
        Coins an agent starts with.
    regen_prob : float
        Probability that an empty source regains its unit in a step.
    utility_eta : float
        Curvature of the utility of coin.
    energy_cost : float
        Utility lost for a unit of labor.
    energy_warmup : float
        Scale of the warm-up of the energy cost, 0 for none, in what the next option says.
    energy_warmup_by : {"episodes", "positive_steps"}
        Completed episodes, or steps with a positive mean reward.
    planner_objective : {"equality_x_productivity", "inverse_income_coin", "inverse_income_utility"}
        Welfare that the designer is paid for.
    productivity_only_weight : float
        Share of pure productivity in it.
    view_radius : int
        Agents see a square of ``2 * view_radius + 1`` cells around them.
    full_view : bool
        Agents see the whole map.
    planner_sees_map : bool
        The designer sees the map at all.
    scale_obs : bool
        Scale goods, history and time in what is observed.
    build_pay : float
        Coins for a house, before skill.
    build_skill_cap : float
        Largest multiplier of the pay, where skills are drawn.
    build_skill : {"none", "pareto", "lognormal"}
        Distribution that skills of building are drawn from.
    build_labor : float
        Labor of building a house.
    max_price : int
        Highest price of an order; the lowest is 0.
    order_labor : float
        Labor of an order.
    order_life : int
        Steps after which an order expires.
    max_orders : int, optional
        Open orders an agent may have for a commodity; None for as many as ``order_life``.
    move_labor : float
        Labor of a move.
    collect_labor : float
        Labor of collecting a unit.
    gather_skill : {"none", "pareto", "lognormal"}
        Distribution that probabilities of a second unit are drawn from.
    tax_mode : {"external", "planner", "us_federal", "fixed", "saez", "none"}
        Who sets the rates: a designer that gives rates, one that chooses among levels, the US schedule,
        ``fixed_rates``, Saez's formula, or nobody.
    tax_period : int
        Steps between tax days.
    rate_min : float
        Lowest rate that the designer may choose.
    rate_max : float
        Highest rate that the designer may choose; caps other rates too.
    rate_step : float
        Step from one rate to the next that the designer may choose.
    brackets : {"us", "linear", "log"} or tuple of float
        The US federal brackets; ``n_brackets`` up to ``top_cutoff``, equally spaced or doubling; or lower edges of
        your own, in coin, rising from 0.
    usd_scale : float
        Dollars to a coin, in the US brackets.
    n_brackets : int
        Number of equally spaced or doubling brackets.
    top_cutoff : float
        Coins from which on the highest of these is.
    fixed_rates : tuple, str, Path or function, optional
        Rates of mode ``fixed``: by bracket; a tuple of such by tax period, of which the last holds on; a CSV file with
        columns bracket (its lower edge), rate and, if they differ, period, which is read here; or a function of
        the designer's observations, arrays ``[N, ...]`` by name, to rates ``[N, B]`` or ``[B]``, or its name
        ``module:name``. It is asked on the first day of every period.
    anneal : (float, float) or "paper", optional
        Warm-up and slope, in completed episodes, of the cap on rates; the paper's grows from 0.1 to 1 over 8,000.
    saez_welfare : {"inverse_income", "uniform"}
        Welfare weights of mode ``saez``.
    saez_elasticity : float, optional
        Elasticity of mode ``saez``; None to estimate it.
    saez_shared : bool
        Copies pool what mode ``saez`` remembers.
    designer_obs : {"always", "decision"}
        Write the designer's vectors in every step, or only where it is about to choose rates.
    skills : tuple of float, optional
        Skills of building by agent, multiples of ``build_pay``, in place of drawn ones.
    places : tuple of (int, int), optional
        Starting cells by agent, (row, column), in place of corners or drawn ones.
    build_skill_shape : float
        Shape of the Pareto distribution of skills.
    build_skill_log : (float, float)
        Mean and standard deviation of the logarithm of log-normal skills.
    rebate : {"equal", "need", "rank"}
        How the revenue is shared out (:mod:`fastenvs.tax`).
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
    brackets: Literal["us", "linear", "log"] | tuple[float, ...] = "us"
    usd_scale: float = 1000.0
    n_brackets: int = 5
    top_cutoff: float = 100.0
    fixed_rates: tuple[float, ...] | tuple[tuple[float, ...], ...] | str | Path | Schedule | None = None
    anneal: tuple[float, float] | Literal["paper"] | None = None
    saez_welfare: Literal["inverse_income", "uniform"] = "inverse_income"
    saez_elasticity: float | None = None
    saez_shared: bool = False
    designer_obs: Literal["always", "decision"] = "always"
    skills: tuple[float, ...] | None = later(None)
    places: tuple[tuple[int, int], ...] | None = later(None)
    build_skill_shape: float = later(4.0)
    build_skill_log: tuple[float, float] = later((-1.0, 0.5))
    rebate: Literal["equal", "need", "rank"] = later("equal")

    def __post_init__(self) -> None:
        normalise(self)
        if self.anneal == "paper":
            object.__setattr__(self, "anneal", PAPER_ANNEAL)
        if isinstance(self.fixed_rates, str | Path) and not schedule.is_named(self.fixed_rates):
            read = schedule.read_schedule("fixed_rates", self.fixed_rates, self.cutoffs).tolist()
            rates = tuple(map(tuple, read)) if len(read) > 1 else tuple(read[0])
            object.__setattr__(self, "fixed_rates", rates)
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
        if isinstance(self.brackets, tuple):
            return tax.check_cutoffs(self.brackets, "brackets")
        if self.brackets == "us":
            return tax.us_federal_brackets(self.usd_scale)
        maker = tax.linear_brackets if self.brackets == "linear" else tax.log_brackets
        return maker(self.n_brackets, self.top_cutoff)

    @cached_property
    def schedule(self) -> np.ndarray | Schedule | None:
        """Rates of mode ``fixed`` by period and bracket, ``[P, B]``, or a function; None in the other modes."""
        if self.fixed_rates is None or callable(self.fixed_rates):
            return self.fixed_rates
        if isinstance(self.fixed_rates, str | Path):
            return schedule.named("fixed_rates", str(self.fixed_rates))
        rates: Any = self.fixed_rates
        if len({len(row) if isinstance(row, tuple) else -1 for row in rates}) > 1:
            raise ValueError(f"fixed_rates must have as many rates in every period, got {shown(rates)}")
        return np.atleast_2d(np.array(rates, float))

    @property
    def ranked(self) -> bool:
        """Whether ranks are drawn, from which places or pay follow."""
        return self.fixed_four and (self.skills is None or self.places is None)

    @cached_property
    def rate_choices(self) -> np.ndarray:
        """Rates that the designer may choose, ``[R]``; empty in the other modes."""
        if self.tax_mode != "planner":
            return np.empty(0)
        # By numpy's own spacing, (rate_min + rate_step) - rate_min, as in the published environment.
        rates = np.arange(self.rate_min, self.rate_max + self.rate_step, self.rate_step)
        return rates[rates <= self.rate_max]

    @property
    def bytes_each(self) -> int:
        """About how much memory a copy takes: its world and its observations, kept twice."""
        cells, a, p = self.cells.size, self.n_agents, self.n_prices
        window = 8 * cells if self.full_view else 9 * (2 * self.view_radius + 1) ** 2
        views = a * (window + 4 * (10 * p + len(self.cutoffs) + a) + self.n_actions) + 8 * cells
        choices = len(self.cutoffs) * len(self.rate_choices)
        return 13 * cells + 2 * (views + choices) + 8 * a * (4 * self.orders_each + p + 60)

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
        draws = np.random.RandomState(1).pareto(self.build_skill_shape, (100_000, self.n_agents))
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


def make_options(preset: str, **options: Any) -> Options:
    """Options of a preset, with some replaced; unknown ones are refused."""
    return checks.make_options(Options, "GTB", PRESETS, preset, options)


def _check(o: Options) -> None:
    for name, least, most in (
        ("n_agents", 2, MAX_AGENTS), ("steps", 1, MAX_INT), ("view_radius", 0, MAX_INT), ("max_price", 1, MAX_PRICE),
        ("order_life", 0, MAX_INT), ("tax_period", 1, MAX_INT), ("n_brackets", 2, tax.MAX_BRACKETS),
    ):  # fmt: skip
        positive_int(name, getattr(o, name), least, most)
    if o.max_orders is not None:
        positive_int("max_orders", o.max_orders)
    in_range(
        o, 0, MAX_AMOUNT, "start_coin", "energy_cost", "build_pay", "build_labor", "move_labor", "collect_labor",
        "energy_warmup", "saez_elasticity",
    )  # fmt: skip
    in_range(o, 0, 1, "regen_prob", "productivity_only_weight", "rate_min", "rate_max", "utility_eta")
    in_range(o, -MAX_AMOUNT, MAX_AMOUNT, "order_labor", "rate_step")
    in_range(o, 1, MAX_AMOUNT, "build_skill_cap")
    if o.orders_each > MAX_ORDERS:
        raise ValueError(f"at most {MAX_ORDERS} open orders an agent are possible, these options allow {o.orders_each}")
    _check_rates(o)
    free = int((o.cells != "@").sum())
    if free < o.n_agents:
        raise ValueError(f"{o.n_agents} agents do not fit on {free} cells of land")
    _check_people(o)
    if o.ranked:
        _check_fixed(o)


def _check_rates(o: Options) -> None:
    """Check brackets and rates, of which several options are about each other."""
    if o.rate_min > o.rate_max or o.rate_step <= 0:
        raise ValueError(f"rates from {o.rate_min} to {o.rate_max} by {o.rate_step} are none at all")
    if (o.rate_max - o.rate_min) / o.rate_step > MAX_CHOICES:
        raise ValueError(f"rate_step of {o.rate_step} makes more than {MAX_CHOICES} rates to choose from")
    if o.tax_mode == "us_federal" and o.brackets != "us":
        raise ValueError("tax_mode 'us_federal' needs brackets 'us'")
    n_brackets = len(o.cutoffs)  # makes them, which checks their options
    if n_brackets > tax.MAX_BRACKETS:
        raise ValueError(f"brackets must be at most {tax.MAX_BRACKETS}, got {n_brackets}")
    if n_brackets < 2 and o.tax_mode == "saez":
        raise ValueError("brackets must be at least 2 with tax_mode 'saez'")
    if (o.fixed_rates is not None) != (o.tax_mode == "fixed"):
        raise ValueError("fixed_rates go with tax_mode 'fixed', and it needs them")
    table = o.schedule
    if isinstance(table, np.ndarray) and not (table.shape[1] == n_brackets and ((table >= 0) & (table <= 1)).all()):
        raise ValueError(f"fixed_rates must be {n_brackets} numbers in [0, 1], got {shown(o.fixed_rates)}")


def _check_people(o: Options) -> None:
    """Check skills and places of one's own, of which there is one an agent."""
    in_range(o, 1, MAX_AMOUNT, "build_skill_shape")
    mean, deviation = o.build_skill_log
    if not (abs(mean) <= 10 and 0 <= deviation <= 5):
        raise ValueError(
            f"build_skill_log must be a mean from -10 to 10 and a deviation from 0 to 5, got {mean, deviation}"
        )
    for name, values in (("skills", o.skills), ("places", o.places)):
        if values is not None and len(values) != o.n_agents:
            raise ValueError(f"{name} must be {o.n_agents}, one an agent, got {len(values)}")
    if o.skills is not None and not all(0 <= skill <= MAX_AMOUNT for skill in o.skills):
        raise ValueError(f"skills must be finite numbers and not negative, got {shown(o.skills)}")
    height, width = o.cells.shape
    for i, (row, column) in enumerate(o.places or ()):
        if not (0 <= row < height and 0 <= column < width) or o.cells[row, column] == "@":
            raise ValueError(f"places[{i}] is {row, column}, which is outside the map or in water")
    if o.places is not None and len(set(o.places)) < o.n_agents:
        raise ValueError(f"places must differ, got {shown(o.places)}")


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
