"""What taxes do to coin, utility and welfare, as differentiable functions of the rates, for the episodes of one seed.

Axes: P tax days, T steps, K episodes, A agents, B brackets; everything is float64. Nothing here knows a network. One
seed at a time, so that a seed's numbers do not depend on others by a bit. The paper's appendix on Gather-Trade-Build
has the taxes; ``docs/gtb.md`` the designer's two paths and the baseline.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastenvs.gtb.config import Options
from fastenvs.metrics import SORTED_GINI
from metagrad import estimators
from metagrad.parallel import group


class Rules(NamedTuple):
    """What the economy fixes and its taxes and welfare depend on."""

    cutoffs: tuple[float, ...]  # lower edges of the brackets
    utility_eta: float  # curvature of the utility of coin
    start_coin: float  # of every agent
    equal_worth: bool  # whether welfare is mean coin times equality, or mean coin weighted by its inverse
    productivity_weight: float  # share of pure productivity in the former
    rebate: str  # how the revenue is shared out

    @classmethod
    def of(cls, options: Options) -> Rules:
        """Those of an economy; a ``ValueError`` names what they do not know."""
        if options.planner_objective == "inverse_income_utility":
            raise ValueError("planner_objective 'inverse_income_utility' cannot be followed from coin alone")
        return cls(
            tuple(options.cutoffs.tolist()), options.utility_eta, options.start_coin,
            options.planner_objective == "equality_x_productivity", options.productivity_only_weight, options.rebate,
        )  # fmt: skip


#: The paper's economy.
RULES = Rules.of(Options())
#: Names in ``batch.extra`` of what a step left behind, before which nobody has income, goods or offers.
AFTER = ("wealth", "coin", "income_so_far", "goods")


class TaxRecord(NamedTuple):
    """What taxes found and did in the K episodes of one seed."""

    income: Tensor  # [P, K, A], on the tax days
    coin: Tensor  # [P, K, A], at hand before the tax
    rates: Tensor  # [P, K, B], in force
    cap: Tensor  # [P, K, 1], share of the designer's rates that was allowed
    day: Tensor  # int64 [P], step of every tax day
    wealth: Tensor  # [T, K, A], total coin after every step
    present_income: Tensor  # [T, K, A], before every step, since the last tax day
    present_coin: Tensor  # [T, K, A], at hand before every step
    goods: Tensor  # [T, K, A, 2], stone and wood before every step, at hand and on offer
    rank: Tensor  # int64 [K, A], skill ranks
    rules: Rules

    @classmethod
    def of(cls, extra: dict[str, Tensor], rules: Rules = RULES) -> TaxRecord:
        """The record of one seed, from what the task keeps of every step ``[T, K, ...]``."""
        day = extra["tax_day"][:, 0].nonzero()[:, 0]
        wealth, coin, income, goods = (extra[name].double() for name in AFTER)
        if not len(day):  # nothing was recorded of any
            rates = wealth.new_zeros(*wealth.shape[:2], len(rules.cutoffs))
            extra = {**extra, "income": wealth, "taxed_coin": wealth, "rates": rates, "cap": rates[..., 0]}
        return cls(
            extra["income"][day], extra["taxed_coin"][day], extra["rates"][day], extra["cap"][day, :, None], day,
            wealth, shifted(income, 0.0), shifted(coin, rules.start_coin), shifted(goods, 0.0), extra["rank"][0].long(),
            rules,
        )  # fmt: skip

    @property
    def since(self) -> Tensor:
        """Tax days up to and including each step, int64 ``[T]``."""
        steps = torch.arange(len(self.wealth), device=self.day.device)
        return torch.searchsorted(self.day, steps, right=True)

    @property
    def wealth_before(self) -> Tensor:
        """Total coin before every step, ``[T, K, A]``."""
        return shifted(self.wealth, self.rules.start_coin)


def shifted(after: Tensor, first: float) -> Tensor:
    """What was so before every step ``[T, ...]``, from what was so after it and at the beginning."""
    return torch.cat([torch.full_like(after[:1], first), after[:-1]])


# ---------------------------------------------------------------------- taxes


def taxable(income: Tensor, rules: Rules) -> Tensor:
    """Income in each bracket, ``[..., A, B]``."""
    cutoffs = income.new_tensor(rules.cutoffs)
    upper = torch.cat([cutoffs[1:], cutoffs.new_tensor([torch.inf])])
    return (income[..., None] - cutoffs).clamp_min(0.0).minimum(upper - cutoffs)


def shared_out(paid: Tensor, income: Tensor, rules: Rules) -> Tensor:
    """What everybody gets of all that was paid, ``[..., A]`` or, where all get the same, ``[..., 1]``."""
    if rules.rebate == "equal":
        return paid.mean(-1, keepdim=True)
    if rules.rebate == "need":
        parts = 1 / income.clamp_min(1.0)
    else:  # n for the lowest income, 1 for the highest; those who are equal have the mean of their ranks
        above = (income[..., :, None] - income[..., None, :]).sign()
        parts = income.shape[-1] + 0.5 - (1 + above).sum(-1) / 2
    return parts / parts.sum(-1, keepdim=True) * paid.sum(-1, keepdim=True)


def transfers(rates: Tensor, income: Tensor, coin: Tensor, rules: Rules) -> Tensor:
    """Rebate less tax, ``[..., A]``, for rates ``[..., B]``.

    The tax is limited by the coin at hand; where it is, the derivative is 0.
    """
    paid = (taxable(income, rules) * rates[..., None, :]).sum(-1).minimum(coin)
    return shared_out(paid, income, rules) - paid


def transfer_derivatives(rates: Tensor, income: Tensor, coin: Tensor, rules: Rules) -> Tensor:
    """Derivative of :func:`transfers` by the rates, ``[..., A, B]``."""
    base = taxable(income, rules)
    base = base * ((base * rates[..., None, :]).sum(-1, keepdim=True) < coin[..., None])
    return shared_out(base.mT, income[..., None, :], rules).mT - base


def utility(coin: Tensor, rules: Rules) -> Tensor:
    """Isoelastic utility of coin; that of labor is apart."""
    if rules.utility_eta == 1:
        return coin.clamp_min(1.0).log()
    left = 1 - rules.utility_eta
    return (coin.clamp_min(0.0) ** left - 1) / left


def reward_change(rates: Tensor, base: Tensor, record: TaxRecord, floor: float, carry: bool = False) -> Tensor:
    """What the agents' rewards change when the rates ``[P, K, B]`` change from ``base``, ``[T, K, A]``.

    Only the utility of the tax days themselves is followed, as published, or with ``carry`` also that of all later
    steps, whose coin the transfers shift.

    Parameters
    ----------
    rates, base : Tensor ``[P, K, B]``
    record : TaxRecord
    floor : float
        Least coin in the utility: it bounds the derivative for those who have none.
    carry : bool
        Whether later steps count.
    """
    rules, taxed = record.rules, (record.income, record.coin, record.rules)

    def worth(wealth: Tensor, shift: Tensor) -> Tensor:
        return utility((wealth + shift).clamp_min(floor), rules) - utility(wealth.clamp_min(floor), rules)

    shift = transfers(rates, *taxed) - transfers(base, *taxed)
    if not carry:
        return torch.zeros_like(record.wealth).index_add(0, record.day, worth(record.wealth[record.day], shift))
    total = torch.cat([torch.zeros_like(shift[:1]), shift.cumsum(0)])[record.since]
    after = worth(record.wealth, total)
    return after - torch.cat([torch.zeros_like(after[:1]), after[:-1]])


# ---------------------------------------------------------------------- welfare


def equality(wealth: Tensor) -> Tensor:
    """``1 - Gini`` over the last axis, by the formulas of :func:`fastenvs.metrics.gini` for few agents and for many."""
    n, total = wealth.shape[-1], wealth.sum(-1)
    if n >= SORTED_GINI:
        return 2 / (n + 1) * wealth.sort(-1).values.cumsum(-1).sum(-1) / (total + 1e-10)
    difference = (wealth[..., :, None] - wealth[..., None, :]).abs().sum((-1, -2))
    return 1 - difference / (2 * n * total + 1e-10) / ((n - 1) / n)


def welfare(wealth: Tensor, rules: Rules) -> Tensor:
    """What the economy's designer is after: as a rule, equality times mean coin."""
    if not rules.equal_worth:
        weights = 1 / wealth.clamp_min(1.0)
        return (weights * wealth).sum(-1) / weights.sum(-1)
    v = rules.productivity_weight
    return wealth.mean(-1) * ((1 - v) * equality(wealth) + v)


def welfare_rewards(wealth: Tensor, kind: str, rules: Rules) -> Tensor:
    """Reward of every step ``[T, K]`` from coin after it ``[T, K, A]``: the ``level`` of welfare, or its ``delta``."""
    level = welfare(wealth, rules)
    return level if kind == "level" else level.diff(dim=0, prepend=torch.full_like(level[:1], rules.start_coin))


def welfare_return(rates: Tensor, record: TaxRecord, kind: str, gamma: float) -> Tensor:
    """The designer's return on these episodes, behaviour fixed: every transfer shifts the coin of all later steps."""
    rules, shifts = record.rules, [torch.zeros_like(record.income[0])]
    for p in range(len(rates)):
        # Coin that earlier taxes moved is there to be taxed, or is missing, where the tax is limited by it.
        moved = transfers(rates[p], record.income[p], record.coin[p] + shifts[-1], rules)
        shifts.append(shifts[-1] + moved - transfers(record.rates[p], record.income[p], record.coin[p], rules))
    rewards = welfare_rewards(record.wealth + torch.stack(shifts)[record.since], kind, rules)
    return estimators.discounted_sums(rewards[None], gamma)[0, 0].mean()


# ---------------------------------------------------------------------- derivatives of the agents' advantages


def _marginal(wealth: Tensor, floor: float, rules: Rules) -> Tensor:
    """Marginal utility of coin, ``[..., 1]``; 0 below the floor."""
    floor = max(floor, 1.0) if rules.utility_eta == 1 else floor
    return (wealth.clamp_min(floor) ** -rules.utility_eta * (wealth > floor))[..., None]


def reward_derivatives(record: TaxRecord, floor: float) -> Tensor:
    """Derivative of the agents' rewards on the tax days by the rates in force, ``[P, K, A, B]``."""
    marginal = _marginal(record.wealth[record.day], floor, record.rules)
    return marginal * transfer_derivatives(record.rates, record.income, record.coin, record.rules)


def present_derivatives(record: TaxRecord, floor: float) -> Tensor:
    """The same as if present income were taxed before each step, at the period's rates, ``[T, K, A, B]``."""
    period = torch.searchsorted(record.day, torch.arange(len(record.wealth), device=record.day.device))
    rates = record.rates[period.clamp_max(len(record.day) - 1)]
    marginal = _marginal(record.wealth_before, floor, record.rules)
    return marginal * transfer_derivatives(rates, record.present_income, record.present_coin, record.rules)


def delays(record: TaxRecord, decay: float) -> tuple[Tensor, Tensor]:
    """What the advantage of a step sees of the reward of a tax day, ``[T, P]`` twice.

    ``decay^(tax day - step)`` for tax days to come, else 0; and the same for the next tax day alone, whose tax falls
    on present income too.
    """
    steps = torch.arange(len(record.wealth), device=record.day.device)
    left = (record.day - steps[:, None]).to(record.wealth.dtype)
    weight = torch.where(left >= 0, decay ** left.clamp_min(0), 0.0)
    return weight, weight * (weight.cumsum(1) == weight)


def others_by_rank(x: Tensor, rank: Tensor) -> Tensor:
    """Mean over the other episodes, at the same step and skill rank; ``x [.., K, A, B]``, ``rank [K, A]``."""
    order = rank.argsort(1)[..., None].expand(x.shape[-3:]).expand_as(x)
    by_rank = x.gather(-2, order)
    mean = (group.total(by_rank.sum(-3, keepdim=True)) - by_rank) / (x.shape[-3] * group.size() - 1)
    return torch.empty_like(x).scatter_(-2, order, mean)


def advantage_derivatives(record: TaxRecord, decay: float, floor: float, baseline: bool) -> Tensor:
    """Derivative of the agents' advantages by rates common to all periods, ``[T, K, A, B]``.

    With ``baseline`` less a baseline, else less its mean: critic values do not depend on the rates, so the derivative
    has none of its own. Any function of the state may be subtracted, since it multiplies a score. Taken is the
    derivative as if present income were taxed now, and the mean over the other episodes of what is left.
    """
    weight, coming = delays(record, decay)
    ahead = torch.einsum("tp,pkib->tkib", weight, reward_derivatives(record, floor))
    if not baseline:
        return ahead - group.mean(ahead.mean((0, 1, 2)))
    rest = ahead - coming.sum(1)[:, None, None, None] * present_derivatives(record, floor)
    return rest - others_by_rank(rest, record.rank)


def baseline_credit(score: Tensor, record: TaxRecord, decay: float, floor: float) -> Tensor:
    """The same baseline for rates of each period and episode: what it takes from their credit, ``[P, K, B]``.

    Parameters
    ----------
    score : Tensor ``[T, K, A]``
        What multiplies the advantages.
    record : TaxRecord
    decay : float
        What an advantage loses of a reward for every step in between.
    floor : float
        Least coin in the utility.
    """
    (weight, coming), now = delays(record, decay), present_derivatives(record, floor)
    steady = now - others_by_rank(now, record.rank)
    later = others_by_rank(reward_derivatives(record, floor), record.rank)
    return torch.einsum("tp,tki,tkib->pkb", coming, score, steady) + torch.einsum(
        "tp,tki,pkib->pkb", weight, score, later
    )
