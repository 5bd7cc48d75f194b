"""The answer of the one-step economy: what agents do under a schedule, and which schedule is best.

Agents are in a Nash equilibrium: each works the hours, out of the game's levels, that are best for it given what the
others do. An agent knows that a share ``1 / A`` of its own tax comes back to it, as it does in the game; the more
agents there are, the less that matters. The equilibrium is found by best responses in turn, from nobody working, the
last agent first, until nobody moves. Of what the others do, an agent's best response depends on the tax that they pay
alone, and falls with it; in games of that form (strategic substitutes in an aggregate) such responses come to rest.
Where there are several equilibria, this is the one that is meant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import saez, tax
from fastenvs.checks import positive_int, refuse_where
from fastenvs.jit import kernel, part
from fastenvs.metrics import isoelastic
from fastenvs.one_step.config import OBJECTIVES, Options
from fastenvs.one_step.welfare import social

#: Rounds of best responses after which there is taken to be no equilibrium; some two or three are needed.
MOST_ROUNDS = 1000
#: Steps of the search for the best rates, coarse to fine.
STEPS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


class Outcome(NamedTuple):
    """What R schedules lead to, float64."""

    hours: np.ndarray  # [R, A]
    income: np.ndarray  # [R, A], coins before the tax
    coin: np.ndarray  # [R, A], after tax and share
    utility: np.ndarray  # [R, A]
    welfare: np.ndarray  # [R], by the game's objective
    equality: np.ndarray  # [R]
    productivity: np.ndarray  # [R]


class Schedule(NamedTuple):
    """A schedule, and the welfare of it with agents that respond best."""

    rates: np.ndarray  # float64 [B]
    welfare: float


class _Economy(NamedTuple):
    """What the kernel needs to know."""

    skills: np.ndarray  # [A]
    hours: np.ndarray  # [L]
    costs: np.ndarray  # [L]
    eta: float
    objective: int


def best_response(options: Options, rates: ArrayLike) -> Outcome:
    """What agents do under each of R schedules, and what comes of it.

    Parameters
    ----------
    options : Options
        The economy; its skills must not be drawn, and its tax mode does not matter.
    rates : array ``[R, B]`` or ``[B]``
        Marginal rates in [0, 1]; one schedule is taken as ``R = 1``.

    Raises
    ------
    ValueError
        If rates are wrong, or skills are drawn.
    RuntimeError
        If best responses do not come to rest.
    """
    given = np.atleast_2d(np.asarray(rates))
    schedules = tax.check_rates(given, (len(given), len(options.brackets)))
    if options.draw_skills:
        raise ValueError("the answer is known for skills that do not change: draw_skills must be False")
    economy = _Economy(
        options.usual_skills, options.hours, options.labor_costs, options.utility_eta,
        OBJECTIVES.index(options.planner_objective),
    )  # fmt: skip
    n, a = len(schedules), options.n_agents
    by_agent, by_schedule = np.zeros((4, n, a)), np.zeros((3, n))
    outcome = Outcome(*by_agent, *by_schedule)
    earned = np.tile(np.outer(economy.skills, economy.hours).ravel(), (n, 1))
    due = tax.taxes_due(earned, schedules, options.cutoffs).reshape(n, a, -1)
    rounds = np.zeros(n, np.int64)
    _equilibria(economy, due, np.zeros(a, np.int64), np.zeros(a), outcome, rounds)
    refuse_where("rates", schedules[:, 0], rounds >= MOST_ROUNDS, "lead to no equilibrium")
    return outcome


@kernel
def _equilibria(economy, due, level, scratch, outcome, rounds):
    """Fill in the outcome of every schedule, whose taxes are ``due [R, A, L]``."""
    n_agents = due.shape[1]
    for r in range(due.shape[0]):
        total = 0.0
        for i in range(n_agents):
            level[i] = 0
        for _ in range(MOST_ROUNDS):
            moved = False
            for j in range(n_agents):
                i = n_agents - 1 - j
                others = total - due[r, i, level[i]]
                best = _best_level(economy, due[r, i], i, others, n_agents)
                if best != level[i]:
                    moved = True
                    level[i] = best
                    total = others + due[r, i, best]
            if not moved:
                break
            rounds[r] += 1
        _record(economy, due[r], level, scratch, outcome, r)


@part
def _best_level(economy, due, i, others, n_agents):
    """Level of labour that is best for agent ``i`` where the others pay so much tax; the lowest of several."""
    best, highest = 0, -np.inf
    for k in range(due.shape[0]):
        coin = economy.skills[i] * economy.hours[k] - due[k] + (others + due[k]) / n_agents
        utility = isoelastic(max(coin, 0.0), economy.eta) - economy.costs[k]
        if utility > highest:
            best, highest = k, utility
    return best


@part
def _record(economy, due, level, scratch, outcome, r):
    """Write what agents at these levels have."""
    n_agents, total = due.shape[0], 0.0
    for i in range(n_agents):
        total += due[i, level[i]]
    coin = outcome.coin[r]
    for i in range(n_agents):
        outcome.hours[r, i] = economy.hours[level[i]]
        outcome.income[r, i] = economy.skills[i] * economy.hours[level[i]]
        coin[i] = max(outcome.income[r, i] - due[i, level[i]] + total / n_agents, 0.0)
        outcome.utility[r, i] = isoelastic(coin[i], economy.eta) - economy.costs[level[i]]
    found = social(economy.objective, coin, outcome.utility[r], scratch)
    outcome.welfare[r], outcome.equality[r], outcome.productivity[r] = found


# ---------------------------------------------------------------------- the best schedule


def best_schedule(options: Options, starts: int = 16, seed: int = 0) -> Schedule:
    """Search for the schedule of highest welfare, given that agents respond best.

    Welfare has kinks and jumps, where an agent takes another level, so the search needs no derivatives: from each of
    many starts it moves one rate, two neighbouring ones (alike or apart) or all of them by a step as long as that
    helps, then by a smaller one.

    Parameters
    ----------
    options : Options
        The economy.
    starts : int
        Schedules to start from: flat rates first, then random ones.
    seed : int
        Of the random ones.

    Returns
    -------
    Schedule
        The best that was found. Brackets that no income reaches have the rate of the last one that is reached.
    """
    n, rng = len(options.brackets), np.random.default_rng(seed)
    flat = [np.full(n, rate) for rate in np.linspace(0, 0.9, max(1, positive_int("starts", starts) // 2))]
    first = [*flat, *rng.random((starts - len(flat), n))]
    best = max((_climb(options, start) for start in first), key=lambda found: found.welfare)
    reached = np.searchsorted(options.cutoffs, best_response(options, best.rates).income.max(), "left")
    plain = best.rates.copy()
    plain[reached:] = plain[reached - 1]
    welfare = float(best_response(options, plain).welfare[0])
    return Schedule(plain, welfare) if welfare >= best.welfare else best


def _climb(options: Options, rates: np.ndarray) -> Schedule:
    n = len(rates)
    one = np.eye(n)
    ways = np.concatenate([one, one[:-1] + one[1:], one[:-1] - one[1:], np.ones((1, n))])
    ways = np.unique(np.concatenate([ways, -ways]), axis=0)
    welfare = float(best_response(options, rates).welfare[0])
    for step in STEPS:
        while True:
            near = np.clip(rates + step * ways, 0.0, 1.0)
            found = best_response(options, near).welfare
            k = int(found.argmax())
            if found[k] <= welfare + 1e-12:
                break
            rates, welfare = near[k], float(found[k])
    return Schedule(rates, welfare)


# ---------------------------------------------------------------------- Saez's formula


def saez_schedule(options: Options, rounds: int = 200) -> Schedule:
    """The schedule that Saez's formula comes to when agents respond best to it.

    Incomes under the present rates fill the formula's memory (:mod:`fastenvs.saez`), rates move a tenth of the way to
    what it makes of them, and so on. The elasticity is the option ``saez_elasticity``, or that of the economy: how
    total income answers when all net-of-tax rates change by a tenth.

    Parameters
    ----------
    options : Options
        The economy; ``saez_welfare`` says how the formula weighs incomes.
    rounds : int
        How often rates move.
    """
    n = len(options.brackets)
    rates, made = np.zeros(n), np.zeros((1, n))
    memory, work = saez.make_memory(1, n), saez.make_work()
    for _ in range(positive_int("rounds", rounds)):
        income = best_response(options, rates).income
        marginal = tax.marginal_rate(income, rates, options.cutoffs)
        memory.pairs[0] = np.resize(np.stack([income[0], marginal[0]], 1), memory.pairs[0].shape)
        given = options.saez_elasticity
        elasticity = _elasticity(options, rates) if given is None else given
        config = saez.Config(options.cutoffs, 0.0, options.saez_welfare == "inverse_income", elasticity)
        saez.update(config, memory, work, 0, 1.0, made, 0)
        rates = np.clip(0.9 * rates + 0.1 * made[0], 0.0, 1.0)
    return Schedule(rates, float(best_response(options, rates).welfare[0]))


def _elasticity(options: Options, rates: np.ndarray) -> float:
    """Elasticity of total income by the net-of-tax rate."""
    kept = np.stack([np.clip(1 - rates, 0.05, 0.9) * factor for factor in (1 / 1.1, 1.1)])
    low, high = best_response(options, 1 - kept).income.sum(1)
    return max(0.0, float(np.log(high / low) / np.log(1.1**2)))
