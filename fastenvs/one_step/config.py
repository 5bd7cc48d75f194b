"""Options of the one-step economy, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fastenvs import tax
from fastenvs.checks import MAX_AMOUNT, in_range, normalise, positive_int

MAX_AGENTS = 1_000
MAX_LEVELS = 10_000
MAX_CHOICES = 10_000
OBJECTIVES = ("equality_x_productivity", "inverse_income_coin", "inverse_income_utility")
US_BRACKETS = tuple(float(cutoff) for cutoff in tax.us_federal_brackets())


@dataclass(frozen=True)
class Options:
    """Options of the game; ``docs/one_step_economy.md`` says where the defaults come from.

    Parameters
    ----------
    n_agents : int
        Number of agents, A.
    skills : tuple of float, optional
        Coins that each agent earns in an hour; None for a Pareto distribution from 1 up.
    skill_tail, skill_cap : float
        Index of that distribution, and the highest skill.
    draw_skills : bool
        Whether skills are drawn anew in every episode (they can be handed in as draw ``skill`` ``[A]``), or agent i
        always has that of quantile ``(i + 1/2) / A``.
    max_labor, labor_levels : float, int
        Hours that an agent may work, and levels from 0 up to there to choose from.
    labor_cost, labor_exponent : float
        Utility lost is ``labor_cost * hours ** labor_exponent``.
    utility_eta : float
        Curvature of the utility of coin.
    planner_objective : {"equality_x_productivity", "inverse_income_coin", "inverse_income_utility"}
        Welfare that the designer is paid for.
    tax_mode : {"external", "planner", "us_federal", "fixed", "saez", "none"}
        Who sets the rates.
    brackets : tuple of float
        Lower edges of the brackets in coins, from 0 up; the US federal ones, a coin for 1,000 dollars, by default.
    fixed_rates : tuple of float, optional
        Rates of mode ``fixed``, one a bracket.
    rate_step : float
        Distance of the rates that the designer of mode ``planner`` chooses from.
    saez_welfare, saez_elasticity
        Welfare weights of mode ``saez``, and a fixed elasticity instead of the estimated one.
    announce : bool
        Whether an episode has a first step in which agents do nothing, and rates that are set in it are seen before
        labour is chosen. Without, agents learn of rates by what they are left with.
    agent_ids : bool
        Whether agents see who they are, one-hot.
    """

    n_agents: int = 4
    skills: tuple[float, ...] | None = None
    skill_tail: float = 1.5
    skill_cap: float = 10.0
    draw_skills: bool = False
    max_labor: float = 100.0
    labor_levels: int = 201
    labor_cost: float = 1e-4
    labor_exponent: float = 3.0
    utility_eta: float = 0.23
    planner_objective: Literal["equality_x_productivity", "inverse_income_coin", "inverse_income_utility"] = (
        "equality_x_productivity"
    )
    tax_mode: Literal["external", "planner", "us_federal", "fixed", "saez", "none"] = "external"
    brackets: tuple[float, ...] = US_BRACKETS
    fixed_rates: tuple[float, ...] | None = None
    rate_step: float = 0.05
    saez_welfare: Literal["inverse_income", "uniform"] = "inverse_income"
    saez_elasticity: float | None = None
    announce: bool = False
    agent_ids: bool = False

    def __post_init__(self) -> None:
        normalise(self)
        positive_int("n_agents", self.n_agents, 2, MAX_AGENTS)
        positive_int("labor_levels", self.labor_levels, 2, MAX_LEVELS)
        in_range(self, 1e-3, MAX_AMOUNT, "skill_tail", "max_labor")
        in_range(self, 1, 1e6, "skill_cap")
        in_range(self, 0, 1, "utility_eta")
        in_range(self, 0, MAX_AMOUNT, "labor_cost", "saez_elasticity")
        in_range(self, 1, 10, "labor_exponent")
        in_range(self, 1 / MAX_CHOICES, 1, "rate_step")
        self._check_skills()
        self._check_rates()

    def _check_skills(self) -> None:
        if self.skills is None:
            return
        if len(self.skills) != self.n_agents or not all(0 < s <= 1e6 for s in self.skills):
            raise ValueError(f"skills must be {self.n_agents} positive numbers up to 1e6, got {self.skills}")
        if self.draw_skills:
            raise ValueError("skills are given: draw_skills would draw others")

    def _check_rates(self) -> None:
        if len(tax.check_cutoffs(self.brackets, "brackets")) > tax.MAX_BRACKETS:
            raise ValueError(f"brackets must be at most {tax.MAX_BRACKETS}, got {len(self.brackets)}")
        if self.tax_mode == "us_federal" and len(self.brackets) != len(US_BRACKETS):
            raise ValueError(f"tax_mode 'us_federal' needs {len(US_BRACKETS)} brackets, got {len(self.brackets)}")
        if (self.fixed_rates is not None) != (self.tax_mode == "fixed"):
            raise ValueError("fixed_rates go with tax_mode 'fixed', and it needs them")
        rates, n = self.fixed_rates, len(self.brackets)
        if rates is not None and (len(rates) != n or not all(0 <= r <= 1 for r in rates)):
            raise ValueError(f"fixed_rates must be {n} numbers in [0, 1], got {rates}")

    # ------------------------------------------------------------------ what follows

    start_coin = 0.0
    productivity_only_weight = 0.0

    @property
    def steps(self) -> int:
        """Length of an episode, and of its tax period."""
        return 1 + self.announce

    tax_period = steps

    @cached_property
    def cutoffs(self) -> np.ndarray:
        """Lower edges of the brackets, ``[B]``."""
        return np.array(self.brackets)

    @cached_property
    def hours(self) -> np.ndarray:
        """Labour of every action, ``[L]``."""
        return np.linspace(0.0, self.max_labor, self.labor_levels)

    @cached_property
    def labor_costs(self) -> np.ndarray:
        """Utility that every action costs, ``[L]``."""
        return self.labor_cost * self.hours**self.labor_exponent

    @cached_property
    def usual_skills(self) -> np.ndarray:
        """Skills that are given, or those of the distribution's quantiles ``(i + 1/2) / A``, ``[A]``."""
        if self.skills is not None:
            return np.array(self.skills)
        above = 1.0 - (np.arange(self.n_agents) + 0.5) / self.n_agents
        return np.minimum(self.skill_cap, above ** (-1.0 / self.skill_tail))

    @cached_property
    def rate_choices(self) -> np.ndarray:
        """Rates that the designer may choose, ``[R]``; empty in the other modes."""
        if self.tax_mode != "planner":
            return np.empty(0)
        return np.append(np.arange(0.0, 1.0 - 1e-9, self.rate_step), 1.0)

    @property
    def bytes_each(self) -> int:
        """About how much memory a copy takes: its state, and its observations, kept twice."""
        a, b = self.n_agents, len(self.brackets)
        views = a * (4 * (1 + b * self.announce + a * self.agent_ids) + self.labor_levels * self.announce) + 4 * (a + b)
        return 2 * views + b * len(self.rate_choices) + 150 * (a + b) + 8_000 * (self.tax_mode == "saez")
