"""The tax designer as a reinforcement learning agent: dual RL, the "AI Economist" (metagrad specification, 3.3).

Once a period it chooses, for every bracket, one of 21 rates or to keep the present one: a masked softmax a bracket. It
learns by one policy-gradient step on a batch, or several proximal ones, from the same reward as the other designers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastenvs import rng
from metagrad import optim, taxation
from metagrad.config import EconomyConfig
from metagrad.convnet import apply_trunk, init_trunk
from metagrad.economy import GatherTradeBuild, Workforce, advantages, gradient, masked_log_softmax, spread
from metagrad.nets import Params
from metagrad.rollout import purpose_seeds, uniforms
from metagrad.taxes import designer_view, init_designer
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors


@dataclass
class Decisions:
    """What the planner saw and chose in K episodes of D decisions."""

    maps: Tensor  # uint8 [D * K, H, W, C]
    vectors: Tensor  # [D * K, F]
    mask: Tensor  # bool [D * K, B, choices]
    choices: Tensor  # int64 [D * K, B]
    wealth: Tensor  # [T, K, A], total coin after every step
    day: Tensor  # int64 [D], step that each decision was made before


class PlanningPlayer:
    """Chooses rates on the first day of every period of an episode, and records them."""

    def __init__(self, params: Params, config: EconomyConfig, streams: rng.Streams) -> None:
        self.params, self.config, self.streams = params, config, streams
        self._views: list[tuple[np.ndarray, ...]] = []
        self._days: list[int] = []
        self._wealth: list[np.ndarray] = []

    @torch.no_grad()
    def before_step(self, env: GatherTradeBuild) -> None:
        """Choose, on the first day of a period."""
        if env.state.taxes.position[0] != 1:
            return
        maps, vectors = designer_view(env)
        mask = env.obs["designer"]["mask"].copy().view(np.bool_)
        maps = maps.copy()
        dtype = DTYPES[self.config.dtype]
        logits = apply_trunk(self.params, *_tensors(self.config.device, dtype, maps, vectors)).view(mask.shape)
        log_p = masked_log_softmax(logits, torch.from_numpy(mask).to(logits.device), 0.0)
        below = log_p.double().exp().cumsum(-1).cpu().numpy()[..., :-1]
        choices = (uniforms(self.streams, mask[..., 0].size).reshape(mask.shape[:2])[..., None] >= below).sum(-1)
        # A uniform above the sum of rounded probabilities would land on the last choice, allowed or not.
        last = mask.shape[-1] - 1 - mask[..., ::-1].argmax(-1)
        choices = np.minimum(choices, last)
        env.choose_rates(choices)
        self._views.append((maps, vectors, mask, choices))
        self._days.append(len(self._wealth))

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Record wealth."""
        self._wealth.append(env.state.agents.coin + env.state.agents.escrow_coin)

    def decisions(self) -> Decisions:
        """The episodes' record."""
        device = self.config.device
        maps, vectors, mask, choices = (
            torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*self._views, strict=True)
        )
        wealth = torch.from_numpy(np.stack(self._wealth)).to(device)
        day = torch.tensor(self._days, device=device)
        return Decisions(maps, vectors.to(DTYPES[self.config.dtype]), mask, choices, wealth, day)


def period_rewards(rewards: Tensor, day: Tensor, gamma: float) -> Tensor:
    """Discounted rewards from each decision to the next, ``[D, K]``, of the rewards of every step ``[T, K]``."""
    ends = [*day[1:].tolist(), len(rewards)]
    spans = [rewards[a:b] for a, b in zip(day.tolist(), ends, strict=True)]
    return torch.stack([taxation.discounted(span, gamma)[0] for span in spans])


class PlannedWorkforce(Workforce):
    """Agents and a planner of one seed: one batch, the planner's steps, then the agents'."""

    def __init__(self, config: EconomyConfig, seed: int) -> None:
        super().__init__(config, seed)
        p = config.planner
        self.heads = self.env.obs["designer"]["mask"].shape[1:]
        self.planner = init_designer(config, self.env, seed, int(np.prod(self.heads)))
        maps, vectors = designer_view(self.env)
        _, height, width, channels = maps.shape
        generator = np.random.default_rng([*purpose_seeds([seed], "train designer"), 1])
        self.judge = init_trunk(
            generator, channels, height * width, vectors.shape[1], p.filters, p.hidden, 1, config.device,
            DTYPES[config.dtype],
        )  # fmt: skip
        self.planner_adam, self.judge_adam = optim.Adam(p.lr), optim.Adam(p.lr_critic)
        self.planner_state = self.planner_adam.init(self.planner)
        self.judge_state = self.judge_adam.init(self.judge)

    def observer(self, streams: rng.Streams) -> PlanningPlayer:
        """The planner as it is."""
        return PlanningPlayer(self.planner, self.config, streams)

    def iterate(self) -> None:
        """Play K episodes; the planner learns from them, then the agents."""
        player = self.observer(self.choices)
        batch = self.play_training(player)
        self.plan_from(player.decisions())
        self.learn_from(batch)
        self.iteration += 1

    def plan_from(self, decisions: Decisions) -> None:
        """The planner's steps on a batch."""
        p, r = self.config.planner, self.config.reward
        rewards = taxation.designer_rewards(decisions.wealth, self.env.options.start_coin, r.reward)
        rewards = period_rewards(rewards, decisions.day, r.gamma)
        gamma = r.gamma**self.config.game.tax_period
        with torch.no_grad():
            values = apply_trunk(self.judge, decisions.maps, decisions.vectors).view_as(rewards).double()
            acted = self._log_prob(self.planner, decisions)[0]
        # The episode ends with the last period: nothing follows it.
        weight = advantages(rewards, torch.cat([values, torch.zeros_like(values[:1])]), gamma, p.gae_lambda)
        target = (weight + values).flatten().to(acted.dtype)
        if p.normalise:
            weight = (weight - weight.mean()) / spread(weight)
        weight = weight.flatten().to(acted.dtype)

        def judge_loss(params: Params) -> Tensor:
            return ((apply_trunk(params, decisions.maps, decisions.vectors)[:, 0] - target) ** 2).mean()

        def loss(params: Params) -> Tensor:
            log_p, entropy = self._log_prob(params, decisions)
            ratio = (log_p - acted).exp()
            gain = torch.minimum(ratio * weight, ratio.clamp(1 - p.clip, 1 + p.clip) * weight)
            return -(gain + p.entropy * entropy).mean()

        for _ in range(p.epochs):
            grads = gradient(judge_loss, self.judge)
            self.judge, self.judge_state = self.judge_adam.step(self.judge, grads, self.judge_state)
            grads = gradient(loss, self.planner)
            self.planner, self.planner_state = self.planner_adam.step(self.planner, grads, self.planner_state)

    def _log_prob(self, params: Params, decisions: Decisions) -> tuple[Tensor, Tensor]:
        """Log-probability of the joint choice of all brackets and entropy, ``[D * K]``: sums over the brackets."""
        logits = apply_trunk(params, decisions.maps, decisions.vectors).unflatten(1, self.heads)
        log_p = masked_log_softmax(logits, decisions.mask, 0.0)
        entropy = -(log_p.exp() * log_p.masked_fill(~decisions.mask, 0.0)).sum((-1, -2))
        return log_p.gather(-1, decisions.choices[..., None])[..., 0].sum(-1), entropy

    def parameters(self) -> list[Tensor]:
        """Of all networks."""
        return [*super().parameters(), *self.planner.values(), *self.judge.values()]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors, values = super().tensors()
        for name in ("planner", "judge"):
            tensors |= {f"{name}/{key}": p for key, p in getattr(self, name).items()}
            tensors |= optimiser_tensors(f"{name}_state", getattr(self, f"{name}_state"))
            values["optimiser_steps"][f"{name}_state"] = getattr(self, f"{name}_state").t
        return tensors, values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        super().load(tensors, values)
        for name in ("planner", "judge"):
            names = list(getattr(self, name))
            state = load_optimiser_state(tensors, f"{name}_state", names, values["optimiser_steps"][f"{name}_state"])
            setattr(self, f"{name}_state", state)
            setattr(self, name, {key: tensors[f"{name}/{key}"].to(self.config.device) for key in names})


def _tensors(device: str, dtype: torch.dtype, maps: np.ndarray, vectors: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(maps).to(device), torch.from_numpy(vectors).to(device, dtype)
