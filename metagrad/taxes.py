"""The tax designer of the economy: rates from what it observes, and its gradient through the agents' learning step.

The gradient has two paths. ``chain``: rates -> tax -> redistribution -> utility -> reward -> advantage -> the agents'
Adam step -> their behaviour on fresh episodes (the published method). ``direct``: on those episodes taxes also move the
coin that the designer's own reward is made of, at fixed behaviour. Specification: metagrad 2.3; learning leads, GTB.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad import optim
from metagrad.config import EconomyConfig, TaxDesigner
from metagrad.economy import (
    Batch,
    GatherTradeBuild,
    Workforce,
    apply_trunk,
    gradient,
    init_trunk,
    masked_log_softmax,
    play,
)
from metagrad.losses import leave_one_out
from metagrad.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.nets import Params, sigmoid
from metagrad.rollout import purpose_seeds
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors


@dataclass
class TaxRecord:
    """What the designer saw and what its taxes did in K episodes of P periods and T steps; float64 but for views."""

    maps: Tensor  # uint8 [P * K, H, W, C], on the first day of every period
    vectors: Tensor  # [P * K, F]
    income: Tensor  # [P, K, A], on the tax days
    coin: Tensor  # [P, K, A], at hand before the tax
    escrow: Tensor  # [P, K, A]
    labor: Tensor  # [P, K, A]
    rates: Tensor  # [P, K, B], in force
    wealth: Tensor  # [T, K, A], total coin after every step
    day: Tensor  # int64 [P], step of every tax day


def designer_rates(eta: Params, record: TaxRecord) -> Tensor:
    """Rates ``[P, K, B]`` of the tax function on what it saw."""
    periods, k = record.income.shape[:2]
    return sigmoid(apply_trunk(eta, record.maps, record.vectors)).double().unflatten(0, (periods, k))


def transfers(rates: Tensor, record: TaxRecord, cutoffs: Tensor) -> Tensor:
    """Rebate less tax of every agent on every tax day, ``[P, K, A]``, differentiable in the rates.

    The tax is limited by the coin at hand; where it is, the derivative is 0.
    """
    upper = torch.cat([cutoffs[1:], cutoffs.new_tensor([torch.inf])])
    taxable = (record.income[..., None] - cutoffs).clamp_min(0.0).minimum(upper - cutoffs)
    paid = (taxable * rates[:, :, None]).sum(-1).minimum(record.coin)
    return paid.mean(-1, keepdim=True) - paid


def utility(coin: Tensor, labor: Tensor, eta: float, energy_cost: float) -> Tensor:
    """Isoelastic utility of coin less the cost of labor."""
    return (coin.clamp_min(0.0) ** (1 - eta) - 1) / (1 - eta) - energy_cost * labor


def reward_change(rates: Tensor, base: Tensor, record: TaxRecord, cutoffs: Tensor, eta: float, floor: float) -> Tensor:
    """What the agents' rewards change when the rates change from ``base``, ``[T, K, A]``.

    Only the utility of the tax days themselves is followed, as published. ``floor`` bounds the marginal utility of
    those without coin.
    """

    def worth(schedule: Tensor) -> Tensor:
        coin = record.coin + record.escrow + transfers(schedule, record, cutoffs)
        return utility(coin.clamp_min(floor), record.labor, eta, 0.0)

    return torch.zeros_like(record.wealth).index_add(0, record.day, worth(rates) - worth(base))


def equality(wealth: Tensor) -> Tensor:
    """``1 - Gini`` over the last axis, as the economy defines it for fewer than 30 agents."""
    n = wealth.shape[-1]
    difference = (wealth[..., :, None] - wealth[..., None, :]).abs().sum((-1, -2))
    return 1 - difference / (2 * n * wealth.sum(-1) + 1e-10) / ((n - 1) / n)


def designer_rewards(wealth: Tensor, scale: float) -> Tensor:
    """Level of productivity times equality after every step, ``[T, K]``."""
    return scale * wealth.sum(-1) * equality(wealth)


def direct_objective(rates: Tensor, record: TaxRecord, cutoffs: Tensor, designer: TaxDesigner) -> Tensor:
    """The designer's return on these episodes, behaviour fixed: every transfer shifts the coin of all later steps."""
    base, shifts = rates.detach(), [torch.zeros_like(record.income[0])]
    for p in range(len(rates)):
        # Coin that earlier taxes moved is there to be taxed, or is missing, where the tax is limited by it.
        period = replace(record, income=record.income[p : p + 1], coin=record.coin[p : p + 1] + shifts[-1])
        before = replace(period, coin=record.coin[p : p + 1])
        moved = transfers(rates[p : p + 1], period, cutoffs) - transfers(base[p : p + 1], before, cutoffs)
        shifts.append(shifts[-1] + moved[0])
    steps = torch.arange(len(record.wealth), device=record.day.device)
    since = torch.searchsorted(record.day, steps, right=True)  # tax days up to and including each step
    rewards = designer_rewards(record.wealth + torch.stack(shifts)[since], designer.scale)
    powers = designer.gamma ** torch.arange(len(rewards), dtype=rewards.dtype, device=rewards.device)
    return (rewards * powers[:, None]).sum(0).mean()


def designer_advantages(record: TaxRecord, designer: TaxDesigner) -> Tensor:
    """Discounted returns of the designer less their mean over the other episodes, ``[T, K]``."""
    rewards = designer_rewards(record.wealth, designer.scale)
    out, last = torch.empty_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        last = rewards[t] + designer.gamma * last
        out[t] = last
    k = rewards.shape[1]
    return leave_one_out(out.flatten(), k).view_as(out)


def designer_vector(flat: np.ndarray, agents: np.ndarray) -> np.ndarray:
    """The designer's vector, market and cycle then each agent's numbers, ``[K, F]``."""
    return np.concatenate([flat, agents.reshape(len(flat), -1)], axis=1)


class TaxPlayer:
    """Sets the rates on the first day of every period of an episode, and records what comes of them."""

    def __init__(self, eta: Params, config: EconomyConfig) -> None:
        self.eta, self.config = eta, config
        self._views: list[tuple[np.ndarray, np.ndarray]] = []
        self._days: list[tuple[np.ndarray, ...]] = []
        self._steps: list[int] = []
        self._wealth: list[np.ndarray] = []

    def before_step(self, env: GatherTradeBuild) -> None:
        """Choose rates, on the first day of a period."""
        if env.state.taxes.position[0] != 1:
            return
        seen = env.obs["designer"]
        self._views.append((seen["map"].copy(), designer_vector(seen["flat"], seen["agents"])))
        maps, vectors = (torch.from_numpy(v).to(self.config.device) for v in self._views[-1])
        rates = sigmoid(apply_trunk(self.eta, maps, vectors.to(DTYPES[self.config.dtype])))
        env.set_rates(rates.double().cpu().numpy())

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Record wealth, and the tax days."""
        agents = env.state.agents
        self._wealth.append(agents.coin + agents.escrow_coin)
        if info["tax_day"][0]:
            self._steps.append(len(self._wealth) - 1)
            names = ("tax_income", "coin", "escrow_coin", "labor")
            self._days.append((*(info[name].copy() for name in names), env.state.taxes.live.copy()))

    def record(self) -> TaxRecord:
        """The episodes' record; a last period without a tax day is left out."""
        device, periods = self.config.device, len(self._days)

        def stack(arrays: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(arrays)).to(device)

        income, coin, escrow, labor, rates = (stack(list(column)) for column in zip(*self._days, strict=True))
        maps, vectors = (stack(list(column)).flatten(0, 1) for column in zip(*self._views[:periods], strict=True))
        return TaxRecord(
            maps,
            vectors.to(DTYPES[self.config.dtype]),
            income,
            coin,
            escrow,
            labor,
            rates,
            stack(self._wealth),
            torch.tensor(self._steps, device=device),
        )


class TaxedWorkforce(Workforce):
    """Agents and a designer that learns their taxes, of one seed (Algorithm 1, metagrad specification, 1.3 and 2.3)."""

    def __init__(self, config: EconomyConfig, seed: int) -> None:
        super().__init__(config, seed)
        d, seen = config.designer, self.env.obs["designer"]
        height, width, channels = seen["map"].shape[1:]
        vector = designer_vector(seen["flat"], seen["agents"]).shape[1]
        generator = np.random.default_rng(purpose_seeds([seed], "train designer")[0])
        brackets = self.env.state.taxes.live.shape[1]
        self.eta = init_trunk(
            generator, channels, height * width, vector, d.filters, d.hidden, brackets, config.device,
            DTYPES[config.dtype],
        )  # fmt: skip
        self.eta_adam = optim.Adam(d.lr)
        self.eta_state = self.eta_adam.init(self.eta)
        self.cutoffs = torch.from_numpy(self.env.options.cutoffs).to(config.device)
        self.tau: tuple[Batch, TaxRecord] | None = None
        self.diagnostics: dict[str, float] = {}

    def observer(self) -> TaxPlayer:
        """The designer as it is."""
        return TaxPlayer(self.eta, self.config)

    @property
    def episodes(self) -> int:
        """Training episodes so far, validation included."""
        return self.config.k * (self.iteration + (self.tau is not None))

    def collect(self) -> tuple[Batch, TaxRecord]:
        """K training episodes of the present agents under the present designer."""
        player = self.observer()
        batch = play(self, self.env, self.streams, self.epsilon, player)
        return batch, player.record()

    def iterate(self) -> None:
        """The agents' step on their episodes, fresh episodes, the designer's step through the agents' step."""
        batch, record = self.collect() if self.tau is None else self.tau
        before, state = self.policy, self.policy_state
        weight = self.weights(batch, batch.rewards)
        grads = self._learn(batch, weight, self.targets(batch), slice(None))
        validation, outcome = self.collect()
        total = self.designer_gradient(before, state, batch, record, grads, validation, outcome)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, total, self.eta_state)
        self.tau = validation, outcome
        self.iteration += 1

    def designer_gradient(
        self, before: Params, state: Any, batch: Batch, record: TaxRecord, grads: Params, validation: Batch,
        outcome: TaxRecord,
    ) -> Params:  # fmt: skip
        """Gradient of the designer's loss: the weighted sum of its two paths."""
        d = self.config.designer
        zero = {name: torch.zeros_like(p) for name, p in self.eta.items()}
        chain, direct = zero, zero
        if d.chain:
            if d.mode == "forward":
                chain = self.chain_gradient(before, state, batch, record, grads, validation, outcome)
            else:
                chain = self.unrolled_gradient(before, state, batch, record, validation, outcome)
        if d.direct:
            direct = gradient(
                lambda eta: -direct_objective(designer_rates(eta, outcome), outcome, self.cutoffs, d), self.eta
            )
        for name, part in (("chain", chain), ("direct", direct)):
            self.diagnostics[name] = float(torch.cat([p.flatten() for p in part.values()]).norm())
        return optim.add(optim.add(zero, chain, d.chain), direct, d.direct)

    def chain_gradient(
        self, before: Params, state: Any, batch: Batch, record: TaxRecord, grads: Params, validation: Batch,
        outcome: TaxRecord,
    ) -> Params:  # fmt: skip
        """The path through the agents' learning step, in forward mode."""
        adjoint = gradient(self.objective(validation, outcome), self.policy)

        def score_jvp(u: Params) -> Tensor:
            return torch.func.jvp(lambda p: self._log_prob(p, batch), (before,), (u,))[1]

        def weights_vjp(score: Tensor) -> Params:
            return gradient(lambda eta: (score * self.taxed_weights(eta, batch, record)).mean(), self.eta)

        step = InnerStep(grads, state, score_jvp, weights_vjp)
        return forward_metagradient([step], self.policy_adam, adjoint)

    def unrolled_gradient(
        self, before: Params, state: Any, batch: Batch, record: TaxRecord, validation: Batch, outcome: TaxRecord
    ) -> Params:
        """The same path by automatic differentiation through the step."""

        def loss(eta: Params, params: Params) -> Tensor:
            return self.policy_loss(params, batch, self.taxed_weights(eta, batch, record), slice(None))

        return unrolled_metagradient(
            [loss], self.policy_adam, before, state, self.objective(validation, outcome), self.eta
        )

    def taxed_weights(self, eta: Params, batch: Batch, record: TaxRecord, base: Tensor | None = None) -> Tensor:
        """The agents' advantages ``[B]`` as a function of η: stored rewards, moved by the taxes of η against ``base``.

        The default base is η itself: the value is that of the stored rewards, the derivative that at the present η.
        """
        rates = designer_rates(eta, record)
        base = rates.detach() if base is None else base
        options, floor = self.env.options, self.config.designer.coin_floor
        change = reward_change(rates, base, record, self.cutoffs, options.utility_eta, floor)
        return self.weights(batch, batch.rewards + change.flatten(1).to(batch.rewards.dtype))

    def objective(self, validation: Batch, outcome: TaxRecord):
        """The designer's loss on fresh episodes as a function of the agents' parameters, a mean over steps."""
        weight = designer_advantages(outcome, self.config.designer).to(validation.rewards.dtype)

        def loss(params: Params) -> Tensor:
            log_p = self._log_prob(params, validation).unflatten(0, (*weight.shape, -1)).sum(-1)
            return -(log_p * weight).mean()

        return loss

    @staticmethod
    def _log_prob(params: Params, batch: Batch) -> Tensor:
        log_p = masked_log_softmax(apply_trunk(params, batch.maps, batch.flat), batch.mask, batch.epsilon)
        return log_p.gather(1, batch.actions[:, None])[:, 0]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors, values = super().tensors()
        tensors |= {f"eta/{name}": p for name, p in self.eta.items()}
        tensors |= optimiser_tensors("eta_state", self.eta_state)
        values["optimiser_steps"]["eta_state"] = self.eta_state.t
        if self.tau is not None:
            parts: list[tuple[str, Any]] = [("batch", self.tau[0]), ("record", self.tau[1])]
            for prefix, part in parts:
                held = {f.name: getattr(part, f.name) for f in fields(part)}
                tensors |= {f"{prefix}/{name}": v for name, v in held.items() if isinstance(v, Tensor)}
            values["epsilon"] = self.tau[0].epsilon
        return tensors, values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        super().load(tensors, values)
        names, device = list(self.eta), self.config.device
        self.eta_state = load_optimiser_state(tensors, "eta_state", names, values["optimiser_steps"]["eta_state"])
        self.eta = {name: tensors[f"eta/{name}"].to(device) for name in names}
        if "epsilon" in values:
            record = TaxRecord(**{f.name: tensors[f"record/{f.name}"].to(device) for f in fields(TaxRecord)})
            held = {f.name: tensors[f"batch/{f.name}"].to(device) for f in fields(Batch) if f.name != "epsilon"}
            self.tau = Batch(**held, epsilon=values["epsilon"]), record
