"""The tax designer of the economy, and its gradient through the agents' learning.

The gradient has two paths. ``chain``: rates -> tax -> redistribution -> utility -> reward -> advantage -> the agents'
Adam step -> their behaviour on fresh episodes (the published method). ``direct``: on those episodes taxes also move the
coin that the designer's own reward is made of, at fixed behaviour. Specification: metagrad 2.3; learning leads, GTB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastenvs import rng
from metagrad import optim, taxation
from metagrad.actor_critic import Critic
from metagrad.config import EconomyConfig
from metagrad.convnet import Evaluation, apply_trunk, init_trunk
from metagrad.economy import (
    Batch,
    GatherTradeBuild,
    PolicyStep,
    Workforce,
    advantages,
    gradient,
    has_critic,
    log_prob,
    slope,
)
from metagrad.fitting import Axes, Group, begun, check_like
from metagrad.judges import Judge, LinearJudge, NetworkJudge
from metagrad.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.nets import Params, sigmoid
from metagrad.response import Response
from metagrad.rollout import purpose_seeds
from metagrad.taxation import TaxRecord
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors


def init_designer(config: EconomyConfig, env: GatherTradeBuild, seed: int, outputs: int) -> Params:
    """Network from what the designer observes, or the logits of a schedule, which start at a given rate."""
    d, dtype = config.designer, DTYPES[config.dtype]
    if config.method.startswith("metagrad") and d.policy == "schedule":
        return {"logits": torch.full((outputs,), math.log(d.start / (1 - d.start)), device=config.device, dtype=dtype)}
    net = config.planner if config.method == "dual-rl" else d
    maps, vector = designer_view(env)
    generator = np.random.default_rng(purpose_seeds([seed], "train designer")[0])
    height, width, channels = maps.shape[1:]
    return init_trunk(
        generator, channels, height * width, vector.shape[1], net.filters, net.hidden, outputs, config.device, dtype
    )


def flat_vector(params: Params) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.flatten() for p in params.values()])


def designer_view(env: GatherTradeBuild) -> tuple[np.ndarray, np.ndarray]:
    """What the designer sees: map uint8 ``[K, H, W, C]``, and market, cycle and each agent's numbers ``[K, F]``."""
    seen = env.obs["designer"]
    return seen["map"], np.concatenate([seen["flat"], seen["agents"].reshape(len(seen["flat"]), -1)], axis=1)


def apply_designer(eta: Params, maps: Tensor, vectors: Tensor) -> Tensor:
    """Rates ``[rows, B]`` in (0, 1)."""
    if "logits" in eta:
        return sigmoid(eta["logits"]).expand(len(vectors), -1)
    return sigmoid(apply_trunk(eta, maps, vectors))


def designer_rates(eta: Params, record: TaxRecord) -> Tensor:
    """Rates in force ``[P, K, B]`` as a function of η on what the designer saw."""
    rates = apply_designer(eta, record.maps, record.vectors).double()
    return rates.unflatten(0, record.income.shape[:2]) * record.cap


class TaxPlayer:
    """Sets the rates on the first day of every period of an episode, and records what comes of them."""

    def __init__(self, eta: Params, config: EconomyConfig) -> None:
        self.eta, self.config = eta, config
        self._views: list[tuple[np.ndarray, np.ndarray]] = []
        self._days: list[tuple[np.ndarray, ...]] = []
        self._no_day: list[tuple[np.ndarray, ...]] = []  # an entry to tell the shapes by where there is none
        self._steps: list[int] = []
        self._wealth: list[np.ndarray] = []
        self._present: list[tuple[np.ndarray, ...]] = []
        self._rank: np.ndarray | None = None
        self._all_views: list[tuple[np.ndarray, np.ndarray]] | None = [] if has_critic(config) else None

    def before_step(self, env: GatherTradeBuild) -> None:
        """Choose rates, on the first day of a period."""
        agents, taxes = env.state.agents, env.state.taxes
        goods = (agents.units + agents.escrow_units).astype(np.float64)
        self._present.append((agents.coin + agents.escrow_coin - taxes.last_coin, agents.coin.copy(), goods))
        if self._rank is None:
            self._rank = env.state.agents.pay.argsort(1, kind="stable").argsort(1)
            self._no_day = [(agents.coin, agents.coin, taxes.live, env.state.rates.cap[:, None])]
            self._see(env)
        if taxes.position[0] != 1:
            return
        maps, vectors = designer_view(env)
        self._views.append((maps.copy(), vectors))
        seen = torch.from_numpy(self._views[-1][0]).to(self.config.device)
        rates = apply_designer(self.eta, seen, torch.from_numpy(vectors).to(self.config.device, self._dtype))
        env.set_rates(rates.double().cpu().numpy())

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self.config.dtype]

    def _see(self, env: GatherTradeBuild) -> None:
        if self._all_views is not None:
            maps, vectors = designer_view(env)
            self._all_views.append((maps.copy(), vectors))

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Record wealth, and the tax days."""
        self._see(env)
        agents = env.state.agents
        self._wealth.append(agents.coin + agents.escrow_coin)
        if info["tax_day"][0]:
            self._steps.append(len(self._wealth) - 1)
            rates, cap = env.state.taxes.live.copy(), env.state.rates.cap[:, None].copy()
            self._days.append((info["tax_income"].copy(), info["coin"].copy(), rates, cap))

    def record(self) -> TaxRecord:
        """The episodes' record; a last period without a tax day is left out."""
        device, periods = self.config.device, len(self._days)

        def stack(arrays: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(arrays)).to(device)

        def columns(rows: Sequence[tuple[np.ndarray, ...]], n: int) -> list[Tensor]:
            """The first ``n`` rows' columns; of none, with the shapes of the first row."""
            return [stack(list(column))[:n] for column in zip(*(rows[: max(n, 1)]), strict=True)]

        income, coin, rates, cap = columns(self._days or self._no_day, periods)
        maps, vectors = (t.flatten(0, 1) for t in columns(self._views, periods))
        present_income, present_coin, goods = columns(self._present, len(self._present))
        day = torch.tensor(self._steps, dtype=torch.int64, device=device)
        overview: dict[str, Tensor] = {}
        if self._all_views is not None:
            all_maps, all_vectors = (t.flatten(0, 1) for t in columns(self._all_views, len(self._all_views)))
            overview = {"all_maps": all_maps, "all_vectors": all_vectors.to(self._dtype)}
        return TaxRecord(
            maps, vectors.to(self._dtype), income, coin, rates, cap, day, stack(self._wealth), present_income,
            present_coin, goods, torch.from_numpy(self._rank).to(device), **overview,
        )  # fmt: skip


class TaxedWorkforce(Workforce):
    """Agents and a designer that learns their taxes, of one seed (Algorithm 1, metagrad specification, 1.3 and 2.3)."""

    def __init__(self, config: EconomyConfig, seed: int) -> None:
        super().__init__(config, seed)
        d, options = config.designer, self.env.options
        brackets = self.env.state.taxes.live.shape[1]
        self.eta = init_designer(config, self.env, seed, brackets)
        self.eta_adam = optim.Adam(d.lr)
        self.eta_state = self.eta_adam.init(self.eta)
        cutoffs = torch.from_numpy(options.cutoffs).to(config.device)
        self.rules = taxation.Rules(cutoffs, options.utility_eta, d.coin_floor)
        self.response = Response.start(self.policy, brackets) if d.response == "trace" else None
        self.judge = self._make_judge(seed)
        self.tau: tuple[Batch, TaxRecord] | None = None
        self._evaluation: Evaluation | None = None  # of the agents as they are on ``tau``
        # With one step on a batch the evaluation serves that step as well, and has to be the same after a resumption.
        self._keeps_passes = config.agents.minibatches > 1
        paths = [path for path in ("chain", "direct") if getattr(d, path)]
        #: Of the last iteration: each path's norm; of the last before an evaluation: its cosine between half-batches.
        #: Saved, since evaluations report them.
        self.diagnostics = {f"{path}_{what}": float("nan") for path in paths for what in ("norm", "cosine")}

    def _make_judge(self, seed: int) -> Judge | None:
        d, r, config = self.config.designer, self.config.reward, self.config
        if d.critic == "returns":
            return None
        if d.critic == "linear":
            return LinearJudge(self.env.options.start_coin, r.gamma)
        maps, vectors = designer_view(self.env)
        height, width, channels = maps.shape[1:]
        params = init_trunk(
            np.random.default_rng(purpose_seeds([seed], "designer critic")[0]), channels, height * width,
            vectors.shape[1], d.filters, d.hidden, 1, config.device, DTYPES[config.dtype],
        )  # fmt: skip
        critic = Critic(
            params, d.lr_critic, d.target_tau, lambda p, seen: Evaluation(p, seen[0], seen[1], config.threads)
        )
        return NetworkJudge(critic, r.gamma, d.gae_lambda)

    def observer(self, streams: rng.Streams) -> TaxPlayer:
        """The designer as it is; nothing is random here."""
        return TaxPlayer(self.eta, self.config)

    def collect(self) -> tuple[Batch, TaxRecord]:
        """K training episodes of the present agents under the present designer."""
        player = self.observer(self.choices)
        return self.play_training(player), player.record()

    def iterate(self) -> None:
        """The agents' step on their episodes, fresh episodes, the designer's step through the agents' step."""
        before = self.episodes
        batch, record = self.tau or self.collect()
        validates = self.config.method == "metagrad"
        fresh = None if validates else self.collect()
        steps = self.learn_from(batch, self._evaluation)
        fresh = fresh or self.collect()
        after = fresh[0].evaluation or self.evaluate(fresh[0])
        if self.response is not None:
            self._advance_response(batch, record, steps)
        if self.judge is not None:
            self.judge.learn(record, self._rewards(record))
        for epoch in range(self.config.designer.epochs):
            total = self.designer_gradient(steps[-1], record, fresh, after, epoch)
            self.eta, self.eta_state = self.eta_adam.step(self.eta, total, self.eta_state)
        fresh[0].evaluation = None
        if self.episodes // self.config.eval_period > before // self.config.eval_period:
            self._compare_halves(steps[-1], record, fresh)
        self.tau = fresh if validates else None
        self._evaluation = after if validates and self.config.agents.minibatches == 1 else None
        self.iteration += 1

    # ------------------------------------------------------------------ the designer's gradient

    def designer_gradient(
        self, step: PolicyStep, record: TaxRecord, fresh: tuple[Batch, TaxRecord], after: Evaluation, epoch: int = 0
    ) -> Params:
        """Gradient of the designer's loss: the weighted sum of its two paths.

        Parameters
        ----------
        step, record : PolicyStep, TaxRecord
            The agents' last step, and the taxes of the episodes that they learned from.
        fresh, after
            Episodes of the agents after it, and their networks on them.
        epoch : int
            Designer's steps on these episodes so far.
        """
        d = self.config.designer
        total = {name: torch.zeros_like(p) for name, p in self.eta.items()}
        for path, part in self._paths(step, record, fresh, after, epoch):
            self.diagnostics[f"{path}_norm"] = float(flat_vector(part).norm())
            total = optim.add(total, part, getattr(d, path))
        return total

    def _paths(
        self, step: PolicyStep, record: TaxRecord, fresh: tuple[Batch, TaxRecord], after: Evaluation, epoch: int = 0
    ) -> Iterator[tuple[str, Params]]:
        """The paths that count, by name, before their weights; 0 where no tax was ever due."""
        if not len(record.day):
            for path in ("chain", "direct"):
                if getattr(self.config.designer, path):
                    yield path, {name: torch.zeros_like(p) for name, p in self.eta.items()}
            return
        if self.config.designer.chain:
            yield "chain", self._chain(step, record, fresh, after, epoch)
        if self.config.designer.direct:
            yield "direct", self.direct_gradient(fresh[1])

    def _compare_halves(self, step: PolicyStep, record: TaxRecord, fresh: tuple[Batch, TaxRecord]) -> None:
        """Note how well the gradients on the two halves of the fresh episodes agree."""
        k = self.config.k
        if k < 2:
            return
        halves: list[dict[str, Params]] = []
        for share in (slice(0, k // 2), slice(k // 2, 2 * (k // 2))):
            batch, outcome = fresh[0].episodes(share, k), fresh[1].episodes(share)
            halves.append(dict(self._paths(step, record, (batch, outcome), self.evaluate(batch))))
        for path, part in halves[0].items():
            one, other = flat_vector(part), flat_vector(halves[1][path])
            self.diagnostics[f"{path}_cosine"] = float(torch.cosine_similarity(one, other, 0))

    def _chain(
        self, step: PolicyStep, record: TaxRecord, fresh: tuple[Batch, TaxRecord], after: Evaluation, epoch: int
    ) -> Params:
        """The path through the agents' learning."""
        validation, outcome = fresh
        if self.config.designer.mode == "unrolled":
            return self.unrolled_gradient(step, record, validation, outcome)
        if epoch == 0:
            adjoint = after.vjp(slope(self.objective(validation, outcome), after.out))
            if self.response is not None:
                return self._through_rates(self.response.along(adjoint), outcome)
            return self.chain_gradient(step, record, adjoint)
        # The agents' step as it would have been under the present η, and how likely it makes what the real one did.
        weight = step.pick(self.taxed_weights(self.eta, step.batch, record, record.rates)).detach()
        grads = step.evaluation.vjp(slope(lambda x: self.policy_loss(x, step.batch, weight), step.evaluation.out))
        policy = self.policy_adam.step(step.policy, grads, step.state)[0]
        moved = Evaluation(policy, validation.maps, validation.flat, self.config.threads)
        adjoint = moved.vjp(slope(self.proximal_objective(validation, outcome, after), moved.out))
        return self.chain_gradient(replace(step, weight=weight, grads=grads), record, adjoint, record.rates)

    def direct_gradient(self, outcome: TaxRecord) -> Params:
        """The path through the coin that taxes move, behaviour fixed."""
        r, start = self.config.reward, self.env.options.start_coin

        def loss(eta: Params) -> Tensor:
            rates = designer_rates(eta, outcome)
            return -taxation.direct_objective(rates, outcome.rates, outcome, self.rules, start, r.reward, r.gamma)

        return gradient(loss, self.eta)

    def chain_gradient(
        self, step: PolicyStep, record: TaxRecord, adjoint: Params, base: Tensor | None = None
    ) -> Params:
        """The path through one step of the agents, in forward mode; ``adjoint`` is that of the parameters after it.

        ``base`` as in :meth:`taxed_weights`.
        """

        def score_jvp(u: Params) -> Tensor:
            return (step.evaluation.jvp(u) * self.score(step)).sum(-1)

        def weights_vjp(score: Tensor) -> Params:
            credit = self._baseline(score, step, record) if self.config.designer.baseline else None

            def objective(eta: Params) -> Tensor:
                value = (score * step.pick(self.taxed_weights(eta, step.batch, record, base))).mean()
                return value if credit is None else value - (credit * designer_rates(eta, record)).sum()

            return gradient(objective, self.eta)

        inner = InnerStep(step.grads, step.state, score_jvp, weights_vjp)
        return forward_metagradient([inner], self.policy_adam, adjoint)

    def _baseline(self, score: Tensor, step: PolicyStep, record: TaxRecord) -> Tensor:
        """What the baseline takes from every rate's credit, ``[P, K, B]``."""
        a, every = self.config.agents, torch.zeros_like(record.wealth)
        mine = every.flatten()
        mine[slice(None) if step.rows is None else step.rows] = score.double() / len(score)
        if a.normalise:  # by the mean and the spread of all rows
            mine -= mine.mean()
            mine /= self.spread(step.batch)
        return taxation.baseline_credit(every, record, self.rules, a.gamma * a.gae_lambda)

    def unrolled_gradient(self, step: PolicyStep, record: TaxRecord, validation: Batch, outcome: TaxRecord) -> Params:
        """The same path by automatic differentiation through the step; without a baseline."""
        batch, objective = step.batch, self.objective(validation, outcome)

        def loss(eta: Params, params: Params) -> Tensor:
            weight = step.pick(self.taxed_weights(eta, batch, record))
            return self.policy_loss(apply_trunk(params, batch.maps, batch.flat), batch, weight)

        return unrolled_metagradient(
            [loss], self.policy_adam, step.policy, step.state,
            lambda params: objective(apply_trunk(params, validation.maps, validation.flat)), self.eta,
        )  # fmt: skip

    def taxed_weights(self, eta: Params, batch: Batch, record: TaxRecord, base: Tensor | None = None) -> Tensor:
        """The agents' advantages ``[B]`` as a function of η: stored rewards, moved by the taxes of η against ``base``.

        The default base is η itself: the value is that of the stored rewards, the derivative that at the present η.
        """
        rates = designer_rates(eta, record)
        base = rates.detach() if base is None else base
        change = taxation.reward_change(rates, base, record, self.rules, self.config.designer.carry)
        return self.weights(batch, batch.rewards + change.flatten(1).to(batch.rewards.dtype))

    def objective(self, validation: Batch, outcome: TaxRecord) -> Callable[[Tensor], Tensor]:
        """The designer's loss on fresh episodes as a function of the agents' logits."""
        weight = self._designer_weights(outcome)

        def loss(logits: Tensor) -> Tensor:
            joint = log_prob(logits, validation).unflatten(0, (*weight.shape, -1)).sum(-1)
            return -(joint * weight).sum(0).mean()

        return loss

    def proximal_objective(
        self, validation: Batch, outcome: TaxRecord, after: Evaluation
    ) -> Callable[[Tensor], Tensor]:
        """The same with clipped ratios to the agents that acted (equation 5)."""
        weight, clip = self._designer_weights(outcome), self.config.designer.clip
        acted = log_prob(after.out, validation).unflatten(0, (*weight.shape, -1)).sum(-1)

        def loss(logits: Tensor) -> Tensor:
            ratio = (log_prob(logits, validation).unflatten(0, (*weight.shape, -1)).sum(-1) - acted).exp()
            gain = torch.minimum(ratio * weight, ratio.clamp(1 - clip, 1 + clip) * weight)
            return -gain.sum(0).mean()

        return loss

    def _designer_weights(self, outcome: TaxRecord) -> Tensor:
        r, rewards = self.config.reward, self._rewards(outcome)
        if self.judge is None:
            return taxation.designer_advantages(rewards, r.gamma)
        values = self.judge.values(outcome).to(rewards.dtype)
        gain = advantages(rewards, values, r.gamma, self.config.designer.gae_lambda)
        return taxation.discounts(rewards, r.gamma) * gain

    def _rewards(self, record: TaxRecord) -> Tensor:
        """The designer's, ``[T, K]``."""
        rewards = taxation.designer_rewards(record.wealth, self.env.options.start_coin, self.config.reward.reward)
        return rewards.to(DTYPES[self.config.dtype])

    # ------------------------------------------------------------------ the agents' response, carried along

    def _advance_response(self, batch: Batch, record: TaxRecord, steps: list[PolicyStep]) -> None:
        """Add what the present rates did to the agents' steps; judged by every so many-th step of the episodes."""
        if not len(record.day):
            return
        d, a = self.config.designer, self.config.agents
        assert self.response is not None
        slopes = taxation.advantage_slopes(record, self.rules, a.gamma * a.gae_lambda, d.baseline) * record.cap[0, 0]
        if a.normalise:
            slopes = slopes / self.spread(batch).double()
        # Rows of neighbouring steps are much alike; those of other episodes and agents are not.
        share = slice(self.iteration % d.trace_stride, None, d.trace_stride)
        index = torch.arange(len(batch.flat), device=batch.flat.device).view(batch.rewards.shape)[share]
        part = batch.rows(index.flatten())
        rows = slopes[share].flatten(0, 2).to(part.flat.dtype)
        evaluation = Evaluation(steps[0].policy, part.maps, part.flat, self.config.threads)
        score = slope(lambda logits: log_prob(logits, part).sum(), evaluation.out)
        reached = rows.any(0)  # brackets that anybody's income did; the others' derivative is 0
        d_grads = {name: p.new_zeros(rows.shape[1], *p.shape) for name, p in self.policy.items()}
        for name, column in evaluation.weighted_vjps(score, rows[:, reached] / -len(rows)).items():
            d_grads[name][reached] = column
        memory = max(0.0, 1 - self.config.k / d.response_time)
        self.response = self.response.advance(
            self.policy_adam, steps[-1].grads, steps[-1].state, d_grads, memory, len(steps)
        )

    def _through_rates(self, d_rates: Tensor, record: TaxRecord) -> Params:
        """From the derivative with respect to common rates ``[B]`` to that with respect to η."""

        def mean_rates(eta: Params) -> Tensor:
            return apply_designer(eta, record.maps, record.vectors).mean(0)

        return gradient(lambda eta: (d_rates * mean_rates(eta)).sum(), self.eta)

    # ------------------------------------------------------------------ saving

    def held(self, values: dict[str, Any]) -> list[Group]:
        """The episodes to learn from next with their taxes, what the judge knows, and the diagnostics."""
        env, k, steps, dtype = self.env, self.config.k, self.config.game.steps, DTYPES[self.config.dtype]
        seen, n = env.obs["agents"], env.n_agents
        maps, vectors = designer_view(env)
        lengths = {
            "T": steps, "T1": steps + 1, "K": k, "A": n, "N": k * n, "F": seen["flat"].shape[-1], "L": env.n_actions,
            "G": vectors.shape[1], "B": env.state.taxes.live.shape[1],
            **dict(zip("hwc", seen["map"].shape[2:], strict=True)), **dict(zip("HWC", maps.shape[1:], strict=True)),
        }  # fmt: skip
        check_like("", {"iteration": 0}, values)
        started = values["iteration"] > 0
        validates = self.config.method == "metagrad"
        tau = begun(values) if validates else False
        record = TaxRecord.AXES | (TaxRecord.OVERVIEW_AXES if has_critic(self.config) else {})
        notes: Axes = dict.fromkeys(self.diagnostics, ("", torch.int64))
        return [
            Group("batch", Batch.AXES, lengths, tau, dtype), Group("record", record, lengths, tau, dtype),
            Group("diagnostics", notes, {}, None, dtype),
            *([] if self.judge is None else self.judge.held(started, lengths, dtype)),
        ]  # fmt: skip

    def parameters(self) -> list[Tensor]:
        """Of all networks."""
        judge = [] if self.judge is None else self.judge.tensors().values()
        return [*super().parameters(), *self.eta.values(), *judge]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors, values = super().tensors()
        tensors |= {f"eta/{name}": p for name, p in self.eta.items()}
        tensors |= optimiser_tensors("eta_state", self.eta_state)
        values["optimiser_steps"]["eta_state"] = self.eta_state.t
        if self.judge is not None:
            tensors |= {f"judge/{name}": t for name, t in self.judge.tensors().items()}
        if self.response is not None:
            tensors |= {f"response/{name}": t for name, t in self.response.tensors().items()}
        # By their bits, so that two states are the same if all tensors are equal: NaN equals nothing.
        notes = torch.tensor(list(self.diagnostics.values()), dtype=torch.float64).view(torch.int64)
        tensors |= {f"diagnostics/{name}": bits.clone() for name, bits in zip(self.diagnostics, notes, strict=True)}
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
        if self.judge is not None:
            self.judge.load({n[6:]: t.to(device) for n, t in tensors.items() if n.startswith("judge/")})
        if self.response is not None:
            self.response = Response.of_tensors(
                {name: tensors[f"response/{name}"].to(device) for name in self.response.tensors()}
            )
        for name in self.diagnostics:
            bits = tensors.get(f"diagnostics/{name}")  # which older checkpoints do not have
            self.diagnostics[name] = math.nan if bits is None else float(bits.cpu().view(torch.float64))
        self.tau = self._evaluation = None
        if "epsilon" in values:
            taxes: dict[str, Any] = {n[7:]: t.to(device) for n, t in tensors.items() if n.startswith("record/")}
            held: dict[str, Any] = {key[6:]: t.to(device) for key, t in tensors.items() if key.startswith("batch/")}
            self.tau = Batch(**held, epsilon=values["epsilon"]), TaxRecord(**taxes)
