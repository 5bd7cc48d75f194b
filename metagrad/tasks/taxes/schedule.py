"""Taxes as an incentive: a schedule of rates, or a network that sets them once a period.

The environment collects the taxes, so what an agent is paid under other parameters counts as a change of its reward.
A designer's gradient has two paths: through the agents' learning (rates, tax, redistribution, utility, reward,
advantage, behaviour on fresh episodes), as published, and the direct one: at fixed behaviour, taxes move the coin that
the designer's own reward is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from metagrad.agents.base import Credit, Interface, grad_of
from metagrad.batch import Batch
from metagrad.checks import Bound, Checked, NonNegative
from metagrad.designers.incentives import Incentive, StateOnly
from metagrad.networks.base import Network, Where, sigmoid
from metagrad.optim import Params
from metagrad.tasks.taxes import tax_math
from metagrad.tasks.taxes.tax_math import Rules, TaxRecord

#: Name in ``batch.extra`` of rates on the tax days that payments count from; without it, the present η's own.
BASE = "base_rates"
#: What a schedule can start with, and learn from there.
Rate = Annotated[float, Bound(0, 1 - 1e-12, open_low=True)]


def records(batch: Batch) -> list[TaxRecord]:
    """What taxes found and did, seed by seed."""

    def make() -> list[TaxRecord]:
        rules = Rules.of(batch.options)
        return [TaxRecord.of({name: x[s] for name, x in batch.extra.items()}, rules) for s in range(len(batch.alive))]

    return batch.remember("taxes", batch.extra["wealth"], make)


@dataclass(frozen=True)
class Welfare(Checked):
    """Welfare, as the economy defines it for its designer, as what a designer is after.

    Parameters
    ----------
    kind : {"delta", "level"}
        Its change in a step, whose sum is welfare at the end, or its level after every step.
    """

    kind: Literal["delta", "level"] = "delta"

    def __call__(self, batch: Batch) -> Tensor:
        """Rewards ``[S, T, K]``."""
        rewards = [tax_math.welfare_rewards(r.wealth, self.kind, r.rules) for r in records(batch)]
        return torch.stack(rewards).to(batch.rewards.dtype)


@dataclass(frozen=True)
class TaxSchedule(Checked, Incentive):
    """Marginal tax rates by bracket, set on the first day of every period; the tax is shared out equally.

    Parameters
    ----------
    network : Network, optional
        Rates from what the designer sees; None for one rate a bracket, whatever it sees.
    start : float or tuple of float
        Rate to start with, or one for each bracket; of a network, the rates where its outputs are 0.
    reward : Welfare
        What the designer is after.
    baseline : bool
        Subtract a baseline from the derivative of the agents' advantages by the rates.
    carry : bool
        Follow the agents' utility of transferred coin through all later steps, not on the tax day alone.
    coin_floor : float
        Least coin in the differentiated utility, which bounds the derivative for those who have none.
    view : StateOnly
        What the network sees.
    """

    network: Network | None = None
    start: Rate | tuple[Rate, ...] = 0.2
    reward: Welfare = field(default_factory=Welfare)
    baseline: bool = True
    carry: bool = False
    coin_floor: NonNegative = 0.01
    view: StateOnly = field(default_factory=StateOnly)

    in_rewards = True

    def levers(self, game: Interface) -> int:
        """One for each bracket."""
        return len(game.options.cutoffs)

    def init(self, game: Interface, generators: Sequence[np.random.Generator], where: Where) -> Params:
        """The logits of a schedule, or a network, for every seed."""
        if self.network is not None:
            return self.network.init(generators, 1, self.view.shapes(game), self.levers(game), where)
        like = torch.zeros(len(generators), self.levers(game), device=where.device, dtype=where.dtype)
        return {"logits": like + self._first_logits(like)}

    def _first_logits(self, like: Tensor) -> Tensor:
        start = self.start if isinstance(self.start, tuple) else (self.start,)
        return like.new_tensor([math.log(r / (1 - r)) for r in start])

    def check(self, env: Any, k: int) -> None:
        """Refuse anything but an economy with tax days and a welfare that it knows, and a baseline of one episode."""
        _check_economy(getattr(env, "options", None))
        if self.baseline and k < 2:
            raise ValueError("TaxSchedule.baseline needs k of at least 2")
        n_brackets = len(env.options.cutoffs)
        if isinstance(self.start, tuple) and len(self.start) != n_brackets:
            raise ValueError(f"TaxSchedule.start must be one rate, or {n_brackets}, one a bracket")

    # ------------------------------------------------------------------ in an episode

    def act(self, eta: Params, env: Any, obs: Any, step: int) -> dict[str, np.ndarray]:
        """Set the rates on the first day of a period."""
        if env.state.taxes.position[0] == 1:
            n = len(next(iter(eta.values())))
            rates = self._rates(eta, self.view.now(obs["designer"], eta), env.num_envs // n)
            # a seed that has diverged taxes nothing, and leaves the others alone
            env.set_rates(rates.flatten(0, 1).double().nan_to_num().cpu().numpy())
        return {}

    def _rates(self, eta: Params, rows: Any, n_rows: int) -> Tensor:
        """Rates ``[S, rows, B]`` in (0, 1), before any cap."""
        if self.network is None:
            return sigmoid(eta["logits"])[:, None].expand(-1, n_rows, -1)
        differentiated = any(p.requires_grad for p in eta.values())
        out = self.network(eta, rows) if differentiated else self.network.forward(eta, rows).out
        return sigmoid(out + self._first_logits(out))

    def rates(self, eta: Params, batch: Batch, capped: bool = True) -> Tensor:
        """Rates ``[S, P, K, B]`` as a function of η on what the designer saw, float64; by default those in force."""
        taxed = records(batch)
        n_days, rows = len(taxed[0].day), None
        if self.network is not None:
            day = taxed[0].day
            rows = batch.remember("first days", batch.designer_obs, lambda: self.view.rows(batch.at(_first_days(day))))
        rates = self._rates(eta, rows, n_days * batch.k).double().unflatten(1, (n_days, batch.k))
        return rates * torch.stack([record.cap for record in taxed]) if capped else rates

    # ------------------------------------------------------------------ what agents and designer get

    def payments(self, eta: Params, batch: Batch) -> Tensor:
        """Change of the agents' rewards ``[S, T, K, A]``, from those under the present η: it is 0, its derivative that
        at η. In a batch that was paid anew (:meth:`repay`) they move from those that it was really taxed by.
        """
        return self._change(self.rates(eta, batch), batch)

    def _change(self, rates: Tensor, batch: Batch) -> Tensor:
        taxed = records(batch)
        base = batch.extra[BASE][:, taxed[0].day] if BASE in batch.extra else rates.detach()
        each = zip(rates, base, taxed, strict=True)
        change = [tax_math.reward_change(new, old, r, self.coin_floor, self.carry) for new, old, r in each]
        return torch.stack(change).to(batch.rewards.dtype)

    def repay(self, eta: Params, batch: Batch) -> Batch:
        """The batch as if it had been taxed under η."""
        moved = batch.replace(extra={**batch.extra, BASE: batch.extra["rates"]})
        with torch.no_grad():
            return moved.replace(payments=self.payments(eta, moved))

    def judged_by(self, batch: Batch, giver: int = 0) -> tuple[Tensor, Tensor | None]:
        """Welfare; all agents' actions."""
        return self.reward(batch), None

    def cost(self, eta: Params, batch: Batch, gamma: float) -> Tensor:
        """Nothing: what is collected is given back."""
        return batch.alive.new_zeros(len(batch.alive))

    # ------------------------------------------------------------------ derivatives

    def vjp(self, eta: Params, batch: Batch, credit: Credit, giver: int = 0) -> Params:
        """``∇_η Σ credit.rewards · payments(η)``, less the baseline's part of it."""
        taken = self._baseline(batch, credit) if self.baseline else None

        def value(p: Params) -> Tensor:
            rates = self.rates(p, batch)
            total = (credit.rewards * self._change(rates, batch)).sum()
            return total if taken is None else total - (taken * rates).sum()

        return grad_of(value, eta)

    def _baseline(self, batch: Batch, credit: Credit) -> Tensor:
        """What the baseline takes from every rate's credit, ``[S, P, K, B]``."""
        score = credit.advantages.double()
        each = zip(score, records(batch), strict=True)
        return torch.stack([tax_math.baseline_credit(d, r, credit.decay, self.coin_floor) for d, r in each])

    def direct(self, eta: Params, batch: Batch, gamma: float) -> Tensor:
        """The designer's return on these episodes at fixed behaviour, ``[S]``."""
        each = zip(self.rates(eta, batch), records(batch), strict=True)
        return torch.stack([tax_math.welfare_return(rates, r, self.reward.kind, gamma) for rates, r in each])

    def advantage_slopes(self, batch: Batch, decay: float) -> Tensor:
        """Derivative of the agents' advantages by rates common to all periods, ``[S, T, K, A, B]``, float64."""
        options = decay, self.coin_floor, self.baseline
        return torch.stack([tax_math.advantage_derivatives(r, *options) * r.cap[0, 0] for r in records(batch)])

    def levers_vjp(self, eta: Params, batch: Batch, d_rates: Tensor) -> Params:
        """From a derivative by common rates ``[S, B]`` to that by η."""

        def value(p: Params) -> Tensor:
            return (d_rates * self.rates(p, batch, capped=False).mean((1, 2))).sum()

        return grad_of(value, eta)


def _check_economy(options: Any) -> None:
    """Refuse options of a game whose taxes, or whose designer's aim, a schedule could not follow."""
    if getattr(options, "tax_mode", None) != "external":
        raise ValueError("a TaxSchedule needs an economy with tax_mode 'external'")
    Rules.of(options)
    if options.tax_period > options.steps:
        raise ValueError(
            f"a TaxSchedule needs a tax day: tax_period is {options.tax_period}, an episode {options.steps} steps"
        )


def _first_days(day: Tensor) -> Tensor:
    """First step of each period that has a tax day."""
    return torch.cat([torch.zeros_like(day[:1]), day[:-1] + 1])
