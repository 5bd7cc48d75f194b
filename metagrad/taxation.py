"""What taxes do to coin, utility and welfare, as differentiable functions of the rates.

Records of whole episodes go in; nothing here knows a network. Axes: P tax days, T steps, K episodes, A agents,
B brackets. Specification: metagrad 2.3 (the incentive chain); learning leads, GTB (direct path, baseline).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from metagrad.fitting import Axes
from metagrad.losses import leave_one_out


@dataclass
class TaxRecord:
    """What the designer saw and what its taxes did in K episodes; float64 but for views. P may be 0."""

    AXES: ClassVar[Axes] = {
        "day": ("P", torch.int64), "maps": ("P*K H W C", torch.uint8), "vectors": ("P*K G", None),
        "income": ("P K A", torch.float64), "coin": ("P K A", torch.float64), "rates": ("P K B", torch.float64),
        "cap": ("P K 1", torch.float64), "wealth": ("T K A", torch.float64),
        "present_income": ("T K A", torch.float64), "present_coin": ("T K A", torch.float64),
        "goods": ("T K A 2", torch.float64), "rank": ("K A", torch.int64),
    }  # fmt: skip
    #: What a designer's critic needs besides.
    OVERVIEW_AXES: ClassVar[Axes] = {"all_maps": ("T1*K H W C", torch.uint8), "all_vectors": ("T1*K G", None)}

    maps: Tensor  # uint8 [P * K, H, W, C], on the first day of every period
    vectors: Tensor  # [P * K, F]
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
    all_maps: Tensor | None = None  # uint8 [(T + 1) * K, H, W, C], before and after every step, for a designer's critic
    all_vectors: Tensor | None = None  # [(T + 1) * K, F]

    def episodes(self, share: slice | Tensor | None) -> TaxRecord:
        """The record of some of the episodes; None for all."""
        if share is None:
            return self
        k = len(self.rank)
        seen = [(n, getattr(self, n)) for n in ("maps", "vectors", "all_maps", "all_vectors")]
        views = {n: t.unflatten(0, (len(t) // k, k))[:, share].flatten(0, 1) for n, t in seen if t is not None}
        plain = ("income", "coin", "rates", "cap", "wealth", "present_income", "present_coin", "goods")
        return replace(self, **views, **{n: getattr(self, n)[:, share] for n in plain}, rank=self.rank[share])

    @property
    def since(self) -> Tensor:
        """Tax days up to and including each step, int64 ``[T]``."""
        steps = torch.arange(len(self.wealth), device=self.day.device)
        return torch.searchsorted(self.day, steps, right=True)


@dataclass(frozen=True)
class Rules:
    """What the economy fixes."""

    cutoffs: Tensor  # [B], lower edges of the brackets
    utility_eta: float
    coin_floor: float  # least coin in a differentiated utility: it bounds the gradient of those who have none


def taxable(income: Tensor, cutoffs: Tensor) -> Tensor:
    """Income in each bracket, ``[..., A, B]``."""
    upper = torch.cat([cutoffs[1:], cutoffs.new_tensor([torch.inf])])
    return (income[..., None] - cutoffs).clamp_min(0.0).minimum(upper - cutoffs)


def transfers(rates: Tensor, income: Tensor, coin: Tensor, cutoffs: Tensor) -> Tensor:
    """Rebate less tax, ``[..., A]``, for rates ``[..., B]``.

    The tax is limited by the coin at hand; where it is, the derivative is 0.
    """
    paid = (taxable(income, cutoffs) * rates[..., None, :]).sum(-1).minimum(coin)
    return paid.mean(-1, keepdim=True) - paid


def transfer_slopes(rates: Tensor, income: Tensor, coin: Tensor, cutoffs: Tensor) -> Tensor:
    """Derivative of :func:`transfers` with respect to the rates, ``[..., A, B]``."""
    base = taxable(income, cutoffs)
    base = base * ((base * rates[..., None, :]).sum(-1, keepdim=True) < coin[..., None])
    return base.mean(-2, keepdim=True) - base


def utility(coin: Tensor, labor: Tensor, eta: float, energy_cost: float) -> Tensor:
    """Isoelastic utility of coin less the cost of labor."""
    return (coin.clamp_min(0.0) ** (1 - eta) - 1) / (1 - eta) - energy_cost * labor


def reward_change(rates: Tensor, base: Tensor, record: TaxRecord, rules: Rules, carry: bool = False) -> Tensor:
    """What the agents' rewards change when the rates ``[P, K, B]`` change from ``base``, ``[T, K, A]``.

    Only the utility of the tax days themselves is followed, as published, or with ``carry`` also that of all later
    steps, whose coin the transfers shift.
    """

    def worth(wealth: Tensor, shift: Tensor) -> Tensor:
        level = [utility(c.clamp_min(rules.coin_floor), c, rules.utility_eta, 0.0) for c in (wealth + shift, wealth)]
        return level[0] - level[1]

    def moved(schedule: Tensor) -> Tensor:
        return transfers(schedule, record.income, record.coin, rules.cutoffs)

    shift = moved(rates) - moved(base)
    if not carry:
        return torch.zeros_like(record.wealth).index_add(0, record.day, worth(record.wealth[record.day], shift))
    total = torch.cat([torch.zeros_like(shift[:1]), shift.cumsum(0)])[record.since]
    after = worth(record.wealth, total)
    return after - torch.cat([torch.zeros_like(after[:1]), after[:-1]])


# ---------------------------------------------------------------------- the designer's reward


def equality(wealth: Tensor) -> Tensor:
    """``1 - Gini`` over the last axis, as the economy defines it for fewer than 30 agents."""
    n = wealth.shape[-1]
    difference = (wealth[..., :, None] - wealth[..., None, :]).abs().sum((-1, -2))
    return 1 - difference / (2 * n * wealth.sum(-1) + 1e-10) / ((n - 1) / n)


def welfare(wealth: Tensor) -> Tensor:
    """Equality times mean coin."""
    return wealth.mean(-1) * equality(wealth)


def designer_rewards(wealth: Tensor, start: float, kind: str) -> Tensor:
    """Reward of every step, ``[T, K]``: the ``level`` of welfare after it, or its change (``delta``).

    Parameters
    ----------
    wealth : Tensor ``[T, K, A]``
        Coin after every step.
    start : float
        Coin of an agent at the beginning, the same for all.
    kind : {"level", "delta"}
    """
    level = welfare(wealth)
    return level if kind == "level" else level.diff(dim=0, prepend=torch.full_like(level[:1], start))


def discounted(rewards: Tensor, gamma: float) -> Tensor:
    """``G_t = sum over k >= t of γ^(k-t) r_k`` along axis 0."""
    out = [rewards[-1]]
    for r in reversed(rewards[:-1]):
        out.append(r + gamma * out[-1])
    return torch.stack(out[::-1])


def designer_advantages(rewards: Tensor, gamma: float) -> Tensor:
    """Weights of the designer's score function ``[T, K]``: ``γ^t (G_t - its mean over the other episodes)``.

    With γ^t, so that this path and :func:`direct_objective` are derivatives of one and the same return.
    """
    returns = discounted(rewards, gamma)
    return discounts(rewards, gamma) * leave_one_out(returns.flatten(), rewards.shape[1]).view_as(returns)


def discounts(rewards: Tensor, gamma: float) -> Tensor:
    """``γ^t``, ``[T, 1]``."""
    return gamma ** torch.arange(len(rewards), dtype=rewards.dtype, device=rewards.device)[:, None]


def direct_objective(
    rates: Tensor, base: Tensor, record: TaxRecord, rules: Rules, start: float, kind: str, gamma: float
) -> Tensor:
    """The designer's return on these episodes, behaviour fixed: every transfer shifts the coin of all later steps."""
    shifts = [torch.zeros_like(record.income[0])]
    for p in range(len(rates)):
        # Coin that earlier taxes moved is there to be taxed, or is missing, where the tax is limited by it.
        moved = transfers(rates[p], record.income[p], record.coin[p] + shifts[-1], rules.cutoffs)
        shifts.append(shifts[-1] + moved - transfers(base[p], record.income[p], record.coin[p], rules.cutoffs))
    rewards = designer_rewards(record.wealth + torch.stack(shifts)[record.since], start, kind)
    return discounted(rewards, gamma)[0].mean()


# ---------------------------------------------------------------------- derivatives of the agents' advantages


def reward_slopes(record: TaxRecord, rules: Rules) -> Tensor:
    """Derivative of the agents' rewards on the tax days with respect to the rates in force, ``[P, K, A, B]``."""
    wealth = record.wealth[record.day]
    marginal = wealth.clamp_min(rules.coin_floor) ** -rules.utility_eta * (wealth > rules.coin_floor)
    return marginal[..., None] * transfer_slopes(record.rates, record.income, record.coin, rules.cutoffs)


def present_slopes(record: TaxRecord, rules: Rules) -> Tensor:
    """The same as if present income were taxed before each step, at the period's rates, ``[T, K, A, B]``."""
    period = torch.searchsorted(record.day, torch.arange(len(record.wealth), device=record.day.device))
    rates = record.rates[period.clamp_max(len(record.day) - 1)]
    before = torch.cat([record.present_coin[:1], record.wealth[:-1]])  # nothing is in escrow at the start
    marginal = before.clamp_min(rules.coin_floor) ** -rules.utility_eta * (before > rules.coin_floor)
    return marginal[..., None] * transfer_slopes(rates, record.present_income, record.present_coin, rules.cutoffs)


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
    order = rank.argsort(1)[..., None].expand(x.shape[-3:])
    order = order.expand_as(x)
    by_rank = x.gather(-2, order)
    mean = (by_rank.sum(-3, keepdim=True) - by_rank) / (x.shape[-3] - 1)
    return torch.empty_like(x).scatter_(-2, order, mean)


def advantage_slopes(record: TaxRecord, rules: Rules, decay: float, baseline: bool) -> Tensor:
    """Derivative of the agents' advantages with respect to rates common to all periods, ``[T, K, A, B]``.

    With ``baseline`` less a baseline, else less its mean: critic values do not depend on the rates, so the derivative
    has none of its own. Any function of the state may be subtracted, since it multiplies a score. Taken is the
    derivative as if present income were taxed now, and the mean over the other episodes of what is left.
    """
    weight, coming = delays(record, decay)
    ahead = torch.einsum("tp,pkib->tkib", weight, reward_slopes(record, rules))
    if not baseline:
        return ahead - ahead.mean((0, 1, 2))
    rest = ahead - coming.sum(1)[:, None, None, None] * present_slopes(record, rules)
    return rest - others_by_rank(rest, record.rank)


def baseline_credit(score: Tensor, record: TaxRecord, rules: Rules, decay: float) -> Tensor:
    """The same baseline for rates of each period and episode: what it takes from their credit, ``[P, K, B]``.

    Parameters
    ----------
    score : Tensor ``[T, K, A]``
        What multiplies the advantages.
    """
    (weight, coming), now = delays(record, decay), present_slopes(record, rules)
    steady = now - others_by_rank(now, record.rank)
    later = others_by_rank(reward_slopes(record, rules), record.rank)
    return torch.einsum("tp,tki,tkib->pkb", coming, score, steady) + torch.einsum(
        "tp,tki,pkib->pkb", weight, score, later
    )
