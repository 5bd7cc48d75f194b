"""Agents of the Gather-Trade-Build economy: one policy and one critic for all, under a given tax schedule.

Masked softmax policy on map and vector, generalised advantages, Adam; one step on a batch, or several proximal ones.
Specification: metagrad 2.3, 3.3, 4.3; what made the agents learn: learning leads, GTB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

import fastenvs
from fastenvs import rng
from fastenvs.gtb import PAPER_ANNEAL
from fastenvs.gtb.env import GatherTradeBuild
from fastenvs.jit import kernel
from metagrad import optim
from metagrad.config import ConfigError, EconomyConfig
from metagrad.convnet import (
    Evaluation,
    apply_flat,
    apply_recurrent,
    apply_trunk,
    init_flat,
    init_recurrent,
    init_trunk,
)  # fmt: skip
from metagrad.fitting import Axes, Group, check_like
from metagrad.nets import Params
from metagrad.rollout import purpose_seeds, purpose_streams, uniforms
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors

TAX_MODES = {
    "free-market": "none", "us-federal": "us_federal", "saez": "saez", "fixed": "fixed", "metagrad": "external",
    "metagrad-no-cv": "external", "dual-rl": "planner",
}  # fmt: skip


def has_critic(config: EconomyConfig) -> bool:
    """Whether a value network judges every step for the designer."""
    return config.method.startswith("metagrad") and config.designer.critic == "network"


def make_economy(config: EconomyConfig, seed: int, phase: str, episodes: int) -> GatherTradeBuild:
    """``episodes`` copies of the economy of one seed, for phase ``train``, ``eval`` or ``test``."""
    game = config.game
    return fastenvs.make(  # type: ignore[return-value]
        "gtb",
        episodes,
        seed=purpose_seeds([seed], f"{phase} environment"),
        autoreset="disabled",
        num_threads=1,
        designer_obs="always" if has_critic(config) else "decision",
        map=game.map,
        n_agents=game.n_agents,
        fixed_four=game.fixed_four,
        steps=game.steps,
        tax_period=game.tax_period,
        tax_mode=TAX_MODES[config.method],
        fixed_rates=tuple(game.rates) if config.method == "fixed" else None,
        anneal=PAPER_ANNEAL if game.anneal else None,
    )


# ---------------------------------------------------------------------- experience


@dataclass
class Batch:
    """K episodes: rows are (step, copy, agent), step-major; B = T * K * A rows."""

    AXES: ClassVar[Axes] = {
        "maps": ("T*N h w c", torch.uint8), "flat": ("T*N F", None), "mask": ("T*N L", torch.bool),
        "actions": ("T*N", torch.int64), "log_prob": ("T*N", None), "rewards": ("T N", None), "values": ("T1 N", None),
    }  # fmt: skip

    maps: Tensor  # uint8 [B, h, w, C]
    flat: Tensor  # [B, F]
    mask: Tensor  # bool [B, n_actions]
    actions: Tensor  # int64 [B]
    log_prob: Tensor  # [B], of the actions, exploration included
    rewards: Tensor  # [T, K * A]
    values: Tensor  # [T + 1, K * A], of the critic that is yet to learn from this batch
    epsilon: float
    evaluation: Evaluation | None = None  # of the policy as it acted, where kept

    def rows(self, index: Tensor) -> Batch:
        """Some of the rows, with the rewards and values of all."""
        picked: dict[str, Any] = {n: getattr(self, n)[index] for n in ("maps", "flat", "mask", "actions", "log_prob")}
        return Batch(**picked, rewards=self.rewards, values=self.values, epsilon=self.epsilon)

    def episodes(self, share: slice | Tensor, k: int) -> Batch:
        """Some of the K episodes."""
        steps = len(self.rewards)

        def pick(t: Tensor, leading: int) -> Tensor:
            return t.reshape(leading, k, -1, *t.shape[1:])[:, share].flatten(0, 2)

        rows: dict[str, Any] = {
            n: pick(getattr(self, n), steps) for n in ("maps", "flat", "mask", "actions", "log_prob")
        }
        rewards, values = (t.unflatten(1, (k, -1))[:, share].flatten(1) for t in (self.rewards, self.values))
        return Batch(**rows, rewards=rewards, values=values, epsilon=self.epsilon)


@kernel
def _choose(logits, mask, uniform, epsilon, actions, log_prob):
    """Sample from the masked softmax, mixed with a uniform choice among the legal actions."""
    for b in range(logits.shape[0]):
        top, legal = -np.inf, 0
        for a in range(logits.shape[1]):
            if mask[b, a]:
                top, legal = max(top, np.float64(logits[b, a])), legal + 1
        total = 0.0
        for a in range(logits.shape[1]):
            if mask[b, a]:
                total += np.exp(np.float64(logits[b, a]) - top)
        left, chosen, probability = np.float64(uniform[b]), -1, 0.0
        for a in range(logits.shape[1]):
            if mask[b, a] and left >= 0:
                p = (1.0 - epsilon) * np.exp(np.float64(logits[b, a]) - top) / total + epsilon / legal
                left -= p
                chosen, probability = a, p
        actions[b] = chosen
        log_prob[b] = np.log(probability)


def advantages(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantages ``[T, N]``; the horizon is a cut, not an end, so the last value stands for what follows.

    Parameters
    ----------
    rewards : Tensor ``[T, N]``
    values : Tensor ``[T + 1, N]``
    """
    delta = rewards + gamma * values[1:] - values[:-1]
    return _decay(len(delta), gamma * lam, delta.dtype, delta.device) @ delta


@cache
def _decay(steps: int, factor: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a later step counts for an earlier one, ``[T, T]``: one product takes the place of a loop over the steps."""
    ahead = torch.arange(steps, dtype=torch.float64) - torch.arange(steps, dtype=torch.float64)[:, None]
    return torch.where(ahead >= 0, factor ** ahead.clamp(min=0), 0.0).to(device, dtype)


def masked_log_softmax(logits: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Log-probabilities of the acting policy; illegal actions have the smallest finite number."""
    least = torch.finfo(logits.dtype).min
    log_p = logits.masked_fill(~mask, least).log_softmax(-1)
    if epsilon:
        mixed = (1 - epsilon) * log_p.exp() + epsilon / mask.sum(-1, keepdim=True).to(log_p.dtype)
        log_p = mixed.masked_fill(~mask, 1.0).log().masked_fill(~mask, least)
    return log_p


@dataclass(frozen=True)
class PolicyStep:
    """One learning step of the policy as it was taken."""

    batch: Batch  # its rows, and the rewards and values of all
    rows: Tensor | None  # which of all rows; None for all
    weight: Tensor  # advantages of these rows
    policy: Params  # before
    state: optim.AdamState  # before
    grads: Params
    evaluation: Evaluation  # of the policy before, on the batch

    def pick(self, values: Tensor) -> Tensor:
        """Of values for all rows those of the step's."""
        return values if self.rows is None else values[self.rows]


def log_prob(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities ``[B]`` of what was done."""
    log_p = masked_log_softmax(logits, batch.mask, batch.epsilon)
    return log_p.gather(1, batch.actions[:, None])[:, 0]


def spread(weight: Tensor) -> Tensor:
    """Standard deviation, to divide by: never 0, and next to it for a single number."""
    return (weight.std() if weight.numel() > 1 else weight.new_zeros(())) + 1e-8


class Workforce:
    """The agents of one seed: networks, optimisers, environment and random streams."""

    def __init__(self, config: EconomyConfig, seed: int) -> None:
        self.config, a = config, config.agents
        self.env = make_economy(config, seed, "train", config.k)
        self.streams = purpose_streams([seed], "train actions")
        self.choices = purpose_streams([seed], "train designer")
        self.shuffles = purpose_streams([seed], "train shuffles")
        generator = np.random.default_rng(purpose_seeds([seed], "parameters")[0])
        view, width = self.env.obs["agents"]["map"].shape[2:], self.env.obs["agents"]["flat"].shape[-1]
        dtype = DTYPES[config.dtype]
        trunk = (view[2], view[0] * view[1], width, a.filters, a.hidden)
        self.policy = init_trunk(generator, *trunk, self.env.n_actions, config.device, dtype)
        if a.critic == "flat":
            self.critic = init_flat(generator, width, a.hidden, config.device, dtype)
        else:
            make = init_trunk if a.critic == "trunk" else init_recurrent
            self.critic = make(generator, *trunk, 1, config.device, dtype)
        self.policy_adam, self.critic_adam = optim.Adam(a.lr), optim.Adam(a.lr_critic)
        self.policy_state = self.policy_adam.init(self.policy)
        self.critic_state = self.critic_adam.init(self.critic)
        self.iteration = 0
        self.collected = 0  # batches of training episodes
        self.diagnostics: dict[str, float] = {}
        self._keeps_passes = False  # of training episodes, for who learns from how the agents acted

    def observer(self, streams: rng.Streams) -> Observer | None:
        """Who acts on an episode besides the agents, with random numbers of its own."""
        return None

    @property
    def episodes(self) -> int:
        """Training episodes so far."""
        return self.config.k * self.collected

    def play_training(self, *observers: Observer) -> Batch:
        """K training episodes of the agents as they are."""
        # Annealing goes by training episodes of all copies, not by those of one.
        self.env.state.clock.completed[:] = self.episodes
        self.collected += 1
        return play(self, self.env, self.streams, self.epsilon, observers, self._keeps_passes)

    def value(self, critic: Params, maps: Tensor, flat: Tensor, sequences: int) -> Tensor:
        """Values ``[B]`` of rows of so many sequences, step-major."""
        kind = self.config.agents.critic
        if kind == "lstm":
            return apply_recurrent(critic, maps, flat, sequences)[:, 0]
        return (apply_trunk(critic, maps, flat) if kind == "trunk" else apply_flat(critic, flat))[:, 0]

    @property
    def epsilon(self) -> float:
        """Share of uniform exploration in this iteration."""
        a = self.config.agents
        return a.epsilon_end + (a.epsilon_start - a.epsilon_end) * max(0.0, 1 - self.iteration / a.epsilon_div)

    @property
    def entropy(self) -> float:
        """Weight of the entropy bonus in this iteration."""
        a = self.config.agents
        done = min(1.0, self.iteration * self.config.k / a.entropy_episodes)
        return a.entropy + (a.entropy_end - a.entropy) * done

    def iterate(self) -> None:
        """Play K episodes and learn from them."""
        batch = self.play_training()
        self.learn_from(batch)
        self.iteration += 1

    def learn_from(self, batch: Batch, evaluation: Evaluation | None = None) -> list[PolicyStep]:
        """The agents' steps on a batch, each on a minibatch of its rows.

        ``evaluation`` is of the policy as it is on all of the batch, if at hand.
        """
        weight, target = self.weights(batch, batch.rewards), self.targets(batch)
        steps: list[PolicyStep] = []
        for rows in self._minibatches(batch):
            if rows is None:
                ready = evaluation if evaluation is not None and not steps else self.evaluate(batch)
                steps.append(self._learn(batch, None, weight, target, ready))
            else:
                part = batch.rows(rows)
                steps.append(self._learn(part, rows, weight[rows], target[rows], self.evaluate(part)))
        return steps

    def weights(self, batch: Batch, rewards: Tensor) -> Tensor:
        """Advantages ``[B]`` of the actions under these rewards ``[T, K * A]``, differentiable in them."""
        a = self.config.agents
        weight = advantages(rewards, batch.values, a.gamma, a.gae_lambda).flatten()
        return (weight - weight.mean()) / spread(weight) if a.normalise else weight

    def spread(self, batch: Batch) -> Tensor:
        """What the advantages of a batch are divided by where they are normalised."""
        a = self.config.agents
        return spread(advantages(batch.rewards, batch.values, a.gamma, a.gae_lambda))

    def targets(self, batch: Batch) -> Tensor:
        """What the critic learns, ``[B]``."""
        a = self.config.agents
        return (advantages(batch.rewards, batch.values, a.gamma, a.gae_lambda) + batch.values[:-1]).flatten()

    def _minibatches(self, batch: Batch) -> Iterator[Tensor | None]:
        """Rows of each minibatch, drawn without replacement; None for all.

        Rows of an episode are much alike, so they are mixed; only a recurrent critic needs whole sequences.
        """
        a, (steps, sequences) = self.config.agents, batch.rewards.shape
        whole = a.critic == "lstm"
        for _ in range(a.epochs):
            if a.minibatches == 1:
                yield None
                continue
            order = uniforms(self.shuffles, sequences if whole else steps * sequences)[0].argsort()
            for part in np.array_split(order, a.minibatches):
                rows = np.arange(steps)[:, None] * sequences + np.sort(part) if whole else np.sort(part)
                yield torch.from_numpy(rows.ravel()).to(self.config.device)

    def evaluate(self, batch: Batch) -> Evaluation:
        """The policy as it is on a batch."""
        return Evaluation(self.policy, batch.maps, batch.flat, self.config.threads)

    def _learn(
        self, batch: Batch, rows: Tensor | None, weight: Tensor, target: Tensor, evaluation: Evaluation
    ) -> PolicyStep:
        """One Adam step of the critic and one of the policy."""
        n = len(target) // len(batch.rewards)
        grads = gradient(lambda p: ((self.value(p, batch.maps, batch.flat, n) - target) ** 2).mean(), self.critic)
        self.critic, self.critic_state = self.critic_adam.step(self.critic, grads, self.critic_state)

        grads = evaluation.vjp(slope(lambda logits: self.policy_loss(logits, batch, weight), evaluation.out))
        step = PolicyStep(batch, rows, weight, self.policy, self.policy_state, grads, evaluation)
        self.policy, self.policy_state = self.policy_adam.step(self.policy, grads, self.policy_state)
        return step

    def policy_loss(self, logits: Tensor, batch: Batch, weight: Tensor) -> Tensor:
        """Clipped proximal loss with entropy bonus; at the policy that acted it has the plain policy gradient."""
        log_p = masked_log_softmax(logits, batch.mask, batch.epsilon)
        chosen = log_p.gather(1, batch.actions[:, None])[:, 0]
        ratio = (chosen - batch.log_prob).exp()
        gain = torch.minimum(ratio * weight, self._clipped(ratio) * weight)
        entropy = -(log_p.exp() * log_p.masked_fill(~batch.mask, 0.0)).sum(-1)
        return -(gain + self.entropy * entropy).mean()

    def score(self, step: PolicyStep) -> Tensor:
        """What the advantages multiply in the gradient of the loss at the logits, ``[rows, L]``.

        The derivative of the log-probability of the chosen action, times the ratio to the policy that acted; 0 where
        the loss is clipped.
        """
        batch, logits = step.batch, step.evaluation.out

        def ratio(x: Tensor) -> Tensor:
            return (log_prob(x, batch) - batch.log_prob).exp()

        now = ratio(logits)
        active = now * step.weight <= self._clipped(now) * step.weight
        return slope(lambda x: (ratio(x) * active).sum(), logits)

    def _clipped(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(1 - self.config.agents.clip, 1 + self.config.agents.clip)

    def _carried(self) -> dict[str, np.ndarray]:
        """What of the streams and of the economy survives an episode."""
        s = self.env.state
        return {
            "actions": self.streams.counter, "shuffles": self.shuffles.counter, "choices": self.choices.counter,
            "environment": self.env.streams.counter,
            "cap": s.rates.cap, "live": s.taxes.live, **s.saez._asdict(),
        }  # fmt: skip

    def held(self, values: dict[str, Any]) -> list[Group]:
        """What :meth:`tensors` has beyond those of a fresh workforce, by plain values of a checkpoint."""
        return []

    def parameters(self) -> list[Tensor]:
        """Of all networks."""
        return [*self.policy.values(), *self.critic.values()]

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        for name, params in (("policy", self.policy), ("critic", self.critic)):
            tensors |= {f"{name}/{key}": p for key, p in params.items()}
            tensors |= optimiser_tensors(f"{name}_state", getattr(self, f"{name}_state"))
        for key, array in self._carried().items():
            tensors[f"carried/{key}"] = torch.from_numpy(array.view(_signed(array.dtype)).copy())
        counts = {"policy_state": self.policy_state.t, "critic_state": self.critic_state.t}
        return tensors, {"iteration": self.iteration, "collected": self.collected, "optimiser_steps": counts}

    def adopt(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Start with the policy and the critic of a checkpoint, and with their optimisers: fresh ones jolt the agents.

        Schedules start anew.
        """
        mine, plain = self.tensors()
        names = ("policy", "critic")
        counts = {f"{name}_state": plain["optimiser_steps"][f"{name}_state"] for name in names}
        check_like("", {"optimiser_steps": counts}, values)
        for key, tensor in mine.items():
            name = key.split("_")[0].split("/")[0]
            if name in names and (key not in tensors or tensors[key].shape != tensor.shape):
                raise ConfigError(f"the agents to start with have another {name}: {key} differs")
        for name in names:
            self._take(name, tensors, values)

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        for name in ("policy", "critic"):
            self._take(name, tensors, values)
        for key, array in self._carried().items():
            array[...] = tensors[f"carried/{key}"].cpu().numpy().view(array.dtype)
        self.iteration, self.collected = values["iteration"], values["collected"]

    def _take(self, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """A network and its optimiser's state."""
        mine, device = getattr(self, name), self.config.device
        kept = {
            key: t.to(device, next(iter(mine.values())).dtype) for key, t in tensors.items() if key.startswith(name)
        }
        steps = values["optimiser_steps"][f"{name}_state"]
        setattr(self, f"{name}_state", load_optimiser_state(kept, f"{name}_state", mine, steps))
        setattr(self, name, {key: kept[f"{name}/{key}"] for key in mine})


def _signed(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype == np.uint64 else dtype


def gradient(loss: Callable[[Params], Tensor], params: Params) -> Params:
    """Gradient of a scalar."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    grads = torch.autograd.grad(loss(leaves), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True))


def slope(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of a scalar with respect to a tensor."""
    return gradient(lambda inputs: loss(inputs["x"]), {"x": x})["x"]


class Observer(Protocol):
    """Somebody who acts on an episode, or records it, besides the agents."""

    def before_step(self, env: GatherTradeBuild) -> None:
        """Called with the observations that the step starts from."""

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Called with what the step reports."""


@torch.no_grad()
def play(
    workers: Workforce, env: GatherTradeBuild, streams: rng.Streams, epsilon: float,
    observers: Sequence[Observer] = (), keep: bool = False,
) -> Batch:  # fmt: skip
    """One episode in every copy of ``env``, with the policy of ``workers``; as many uniforms whatever happens."""
    config = workers.config
    steps, n = config.game.steps, env.num_envs * env.n_agents
    device, dtype = config.device, DTYPES[config.dtype]
    view, width = env.obs["agents"]["map"].shape[2:], env.obs["agents"]["flat"].shape[-1]
    maps = np.empty((steps + 1, n, *view), np.uint8)
    flat = np.empty((steps + 1, n, width), np.float32)
    mask = np.empty((steps, n, env.n_actions), np.uint8)
    actions, log_prob = np.empty((steps, n), np.int64), np.empty((steps, n))
    rewards = np.empty((steps, n), np.float32)
    uniform = uniforms(streams, steps * n).reshape(steps, n)
    passes: list[Evaluation] = []
    obs, _ = env.reset()
    for t in range(steps + 1):
        seen = obs["agents"]
        maps[t], flat[t] = seen["map"].reshape(n, *view), seen["flat"].reshape(n, width)
        if t == steps:
            break
        mask[t] = seen["mask"].reshape(n, -1)
        m, f = torch.from_numpy(maps[t]).to(device), torch.from_numpy(flat[t]).to(device, dtype)
        evaluation = Evaluation(workers.policy, m, f, config.threads)
        if keep:
            passes.append(evaluation)
        _choose(evaluation.out.cpu().numpy(), mask[t], uniform[t], epsilon, actions[t], log_prob[t])
        for observer in observers:
            observer.before_step(env)
        obs, reward, *_, info = env.step(actions[t].reshape(env.num_envs, env.n_agents))
        rewards[t] = reward.ravel()
        for observer in observers:
            observer.after_step(env, info)
    all_maps = torch.from_numpy(maps.reshape(-1, *view)).to(device)
    all_flat = torch.from_numpy(flat.reshape(-1, width)).to(device, dtype)
    values = workers.value(workers.critic, all_maps, all_flat, n).view(steps + 1, n)
    rows = steps * n
    return Batch(
        all_maps[:rows],
        all_flat[:rows],
        torch.from_numpy(mask.reshape(rows, -1).view(np.bool_)).to(device),
        torch.from_numpy(actions.ravel()).to(device),
        torch.from_numpy(log_prob.ravel()).to(device, dtype),
        torch.from_numpy(rewards).to(device, dtype),
        values,
        epsilon,
        Evaluation.joined(passes, all_maps[:rows], all_flat[:rows]) if keep else None,
    )
