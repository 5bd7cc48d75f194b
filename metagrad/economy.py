"""Agents of the Gather-Trade-Build economy: one policy and one critic for all, under a given tax schedule.

Masked softmax policy on map and vector, generalised advantages, Adam; one step on a batch, or several proximal ones.
Specification: metagrad 2.3, 3.3, 4.3; what made the agents learn: learning leads, GTB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import fastenvs
from fastenvs import rng
from fastenvs.gtb import PAPER_ANNEAL
from fastenvs.gtb.env import GatherTradeBuild
from fastenvs.jit import kernel
from metagrad import optim
from metagrad.config import EconomyConfig
from metagrad.nets import Params
from metagrad.rollout import purpose_seeds, purpose_streams, uniforms
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors

TAX_MODES = {
    "free-market": "none", "us-federal": "us_federal", "saez": "saez", "fixed": "fixed", "metagrad": "external",
}  # fmt: skip
# The policy starts close to uniform: large first logits of one action drown the others for long.
_HEAD_SCALE = 0.1


def make_economy(config: EconomyConfig, seed: int, phase: str, episodes: int) -> GatherTradeBuild:
    """``episodes`` copies of the economy of one seed, for phase ``train``, ``eval`` or ``test``."""
    game = config.game
    return fastenvs.make(  # type: ignore[return-value]
        "gtb",
        episodes,
        seed=purpose_seeds([seed], f"{phase} environment"),
        autoreset="disabled",
        num_threads=1,
        designer_obs="decision",
        map=game.map,
        n_agents=game.n_agents,
        fixed_four=game.fixed_four,
        steps=game.steps,
        tax_period=game.tax_period,
        tax_mode=TAX_MODES[config.method],
        fixed_rates=tuple(game.rates) if config.method == "fixed" else None,
        anneal=PAPER_ANNEAL if game.anneal else None,
    )


# ---------------------------------------------------------------------- networks


def init_trunk(
    generator: np.random.Generator, channels: int, cells: int, width: int, filters: int, hidden: tuple[int, ...],
    n: int, device: str, dtype: torch.dtype,
) -> Params:  # fmt: skip
    """Two 5 x 5 convolutions, a dense layer as wide as the vector, then ``hidden`` on both, then ``n`` outputs."""
    shapes = {"c0": (filters, channels, 5, 5), "c1": (filters, filters, 5, 5), "map": (width, filters * cells)}
    return _draw(generator, {**shapes, **_dense(2 * width, hidden, n)}, device, dtype)


def init_flat(
    generator: np.random.Generator, width: int, hidden: tuple[int, ...], device: str, dtype: torch.dtype
) -> Params:
    """A critic on the vector alone."""
    return _draw(generator, _dense(width, hidden, 1), device, dtype)


def _dense(width: int, hidden: tuple[int, ...], n: int) -> dict[str, tuple[int, ...]]:
    sizes = (width, *hidden, n)
    return {f"f{i}": (b, a) for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))}


def _draw(
    generator: np.random.Generator, shapes: dict[str, tuple[int, ...]], device: str, dtype: torch.dtype
) -> Params:
    """Glorot-uniform kernels and zero biases; the last layer small."""
    params: Params = {}
    last = max(name for name in shapes if name.startswith("f"))
    for name, shape in shapes.items():
        area = int(np.prod(shape[2:]))
        limit = np.sqrt(6 / (area * (shape[0] + shape[1]))) * (_HEAD_SCALE if name == last else 1)
        params[name] = torch.tensor(generator.uniform(-limit, limit, shape), device=device, dtype=dtype)
        params[f"{name}_bias"] = torch.zeros(shape[0], device=device, dtype=dtype)
    return params


def apply_trunk(params: Params, maps: Tensor, flat: Tensor) -> Tensor:
    """Outputs ``[B, n]`` for maps uint8 ``[B, h, w, C]`` and vectors ``[B, F]``."""
    # Channel-last bytes become a channels-last image without a copy in memory order.
    x = maps.permute(0, 3, 1, 2).to(flat.dtype)
    for name in ("c0", "c1"):
        x = F.relu(F.conv2d(x, params[name], params[f"{name}_bias"], padding=2))
    x = F.relu(F.linear(x.flatten(1), params["map"], params["map_bias"]))
    return apply_flat(params, torch.cat([x, flat], 1))


def apply_flat(params: Params, x: Tensor) -> Tensor:
    """The dense layers, ReLU between them."""
    names = sorted(name for name in params if name.startswith("f") and "_" not in name)
    for name in names:
        x = F.linear(x, params[name], params[f"{name}_bias"])
        if name != names[-1]:
            x = F.relu(x)
    return x


# ---------------------------------------------------------------------- experience


@dataclass
class Batch:
    """K episodes: rows are (step, copy, agent), step-major; B = T * K * A rows."""

    maps: Tensor  # uint8 [B, h, w, C]
    flat: Tensor  # [B, F]
    mask: Tensor  # bool [B, n_actions]
    actions: Tensor  # int64 [B]
    log_prob: Tensor  # [B], of the actions, exploration included
    rewards: Tensor  # [T, K * A]
    values: Tensor  # [T + 1, K * A], of the critic that is yet to learn from this batch
    epsilon: float


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
    out = [delta[-1]]
    for d in reversed(delta[:-1]):
        out.append(d + gamma * lam * out[-1])
    return torch.stack(out[::-1])


def masked_log_softmax(logits: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Log-probabilities of the acting policy; illegal actions have the smallest finite number."""
    least = torch.finfo(logits.dtype).min
    log_p = logits.masked_fill(~mask, least).log_softmax(-1)
    if epsilon:
        mixed = (1 - epsilon) * log_p.exp() + epsilon / mask.sum(-1, keepdim=True).to(log_p.dtype)
        log_p = mixed.masked_fill(~mask, 1.0).log().masked_fill(~mask, least)
    return log_p


class Workforce:
    """The agents of one seed: networks, optimisers, environment and random streams."""

    def __init__(self, config: EconomyConfig, seed: int) -> None:
        self.config, a = config, config.agents
        self.env = make_economy(config, seed, "train", config.k)
        self.streams = purpose_streams([seed], "train actions")
        self.shuffles = purpose_streams([seed], "train designer")
        generator = np.random.default_rng(purpose_seeds([seed], "parameters")[0])
        view, width = self.env.obs["agents"]["map"].shape[2:], self.env.obs["agents"]["flat"].shape[-1]
        dtype = DTYPES[config.dtype]
        trunk = (view[2], view[0] * view[1], width, a.filters, a.hidden)
        self.policy = init_trunk(generator, *trunk, self.env.n_actions, config.device, dtype)
        if a.critic == "trunk":
            self.critic = init_trunk(generator, *trunk, 1, config.device, dtype)
        else:
            self.critic = init_flat(generator, width, a.hidden, config.device, dtype)
        self.policy_adam, self.critic_adam = optim.Adam(a.lr), optim.Adam(a.lr_critic)
        self.policy_state = self.policy_adam.init(self.policy)
        self.critic_state = self.critic_adam.init(self.critic)
        self.iteration = 0

    def observer(self) -> Observer | None:
        """Who acts on an episode besides the agents."""
        return None

    @property
    def episodes(self) -> int:
        """Training episodes so far."""
        return self.config.k * self.iteration

    def value(self, critic: Params, maps: Tensor, flat: Tensor) -> Tensor:
        """Values ``[B]``."""
        out = apply_trunk(critic, maps, flat) if self.config.agents.critic == "trunk" else apply_flat(critic, flat)
        return out[:, 0]

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
        # Annealing goes by training episodes of all copies, not by those of one.
        self.env.state.clock.completed[:] = self.iteration * self.config.k
        batch = play(self, self.env, self.streams, self.epsilon)
        weight, target = self.weights(batch, batch.rewards), self.targets(batch)
        for rows in self._minibatches(len(weight)):
            self._learn(batch, weight, target, rows)
        self.iteration += 1

    def weights(self, batch: Batch, rewards: Tensor) -> Tensor:
        """Advantages ``[B]`` of the actions under these rewards ``[T, K * A]``, differentiable in them."""
        a = self.config.agents
        weight = advantages(rewards, batch.values, a.gamma, a.gae_lambda).flatten()
        return (weight - weight.mean()) / (weight.std() + 1e-8) if a.normalise else weight

    def targets(self, batch: Batch) -> Tensor:
        """What the critic learns, ``[B]``."""
        a = self.config.agents
        return (advantages(batch.rewards, batch.values, a.gamma, a.gae_lambda) + batch.values[:-1]).flatten()

    def _minibatches(self, n: int) -> Iterator[Tensor | slice]:
        a = self.config.agents
        if a.epochs * a.minibatches == 1:
            yield slice(None)
            return
        for _ in range(a.epochs):
            order = torch.from_numpy(uniforms(self.shuffles, n)[0].argsort()).to(self.config.device)
            yield from order.chunk(a.minibatches)

    def _learn(self, batch: Batch, weight: Tensor, target: Tensor, rows: Tensor | slice) -> Params:
        """One Adam step of the critic and one of the policy, whose gradient is returned."""
        maps, flat = batch.maps[rows], batch.flat[rows]
        grads = gradient(lambda p: ((self.value(p, maps, flat) - target[rows]) ** 2).mean(), self.critic)
        self.critic, self.critic_state = self.critic_adam.step(self.critic, grads, self.critic_state)

        grads = gradient(lambda p: self.policy_loss(p, batch, weight, rows), self.policy)
        self.policy, self.policy_state = self.policy_adam.step(self.policy, grads, self.policy_state)
        return grads

    def policy_loss(self, params: Params, batch: Batch, weight: Tensor, rows: Tensor | slice) -> Tensor:
        """Clipped proximal loss with entropy bonus; at the policy that acted it has the plain policy gradient."""
        log_p = masked_log_softmax(
            apply_trunk(params, batch.maps[rows], batch.flat[rows]), batch.mask[rows], batch.epsilon
        )
        chosen = log_p.gather(1, batch.actions[rows, None])[:, 0]
        ratio = (chosen - batch.log_prob[rows]).exp()
        clipped = ratio.clamp(1 - self.config.agents.clip, 1 + self.config.agents.clip)
        gain = torch.minimum(ratio * weight[rows], clipped * weight[rows])
        entropy = -(log_p.exp() * log_p.masked_fill(~batch.mask[rows], 0.0)).sum(-1)
        return -(gain + self.entropy * entropy).mean()

    def _carried(self) -> dict[str, np.ndarray]:
        """What of the streams and of the economy survives an episode."""
        s = self.env.state
        return {
            "actions": self.streams.counter, "shuffles": self.shuffles.counter, "environment": self.env.streams.counter,
            "cap": s.rates.cap, "live": s.taxes.live, **s.saez._asdict(),
        }  # fmt: skip

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        for name, params in (("policy", self.policy), ("critic", self.critic)):
            tensors |= {f"{name}/{key}": p for key, p in params.items()}
            tensors |= optimiser_tensors(f"{name}_state", getattr(self, f"{name}_state"))
        for key, array in self._carried().items():
            tensors[f"carried/{key}"] = torch.from_numpy(array.view(_signed(array.dtype)).copy())
        counts = {"policy_state": self.policy_state.t, "critic_state": self.critic_state.t}
        return tensors, {"iteration": self.iteration, "optimiser_steps": counts}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        for name in ("policy", "critic"):
            names = list(getattr(self, name))
            state = load_optimiser_state(tensors, f"{name}_state", names, values["optimiser_steps"][f"{name}_state"])
            setattr(self, f"{name}_state", state)
            setattr(self, name, {key: tensors[f"{name}/{key}"].to(self.config.device) for key in names})
        for key, array in self._carried().items():
            array[...] = tensors[f"carried/{key}"].cpu().numpy().view(array.dtype)
        self.iteration = values["iteration"]


def _signed(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int64) if dtype == np.uint64 else dtype


def gradient(loss: Callable[[Params], Tensor], params: Params) -> Params:
    """Gradient of a scalar."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    grads = torch.autograd.grad(loss(leaves), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True))


class Observer(Protocol):
    """Somebody who acts on an episode, or records it, besides the agents."""

    def before_step(self, env: GatherTradeBuild) -> None:
        """Called with the observations that the step starts from."""

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Called with what the step reports."""


@torch.no_grad()
def play(
    workers: Workforce, env: GatherTradeBuild, streams: rng.Streams, epsilon: float, observer: Observer | None = None
) -> Batch:
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
    obs, _ = env.reset()
    for t in range(steps + 1):
        seen = obs["agents"]
        maps[t], flat[t] = seen["map"].reshape(n, *view), seen["flat"].reshape(n, width)
        if t == steps:
            break
        mask[t] = seen["mask"].reshape(n, -1)
        m, f = torch.from_numpy(maps[t]).to(device), torch.from_numpy(flat[t]).to(device, dtype)
        logits = apply_trunk(workers.policy, m, f).cpu().numpy()
        _choose(logits, mask[t], uniform[t], epsilon, actions[t], log_prob[t])
        if observer is not None:
            observer.before_step(env)
        obs, reward, *_, info = env.step(actions[t].reshape(env.num_envs, env.n_agents))
        rewards[t] = reward.ravel()
        if observer is not None:
            observer.after_step(env, info)
    all_maps = torch.from_numpy(maps.reshape(-1, *view)).to(device)
    all_flat = torch.from_numpy(flat.reshape(-1, width)).to(device, dtype)
    values = workers.value(workers.critic, all_maps, all_flat).view(steps + 1, n)
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
    )


class EconomyLearner:
    """The workforces of all seeds, which take turns; the interface of :class:`metagrad.train.Learner`."""

    def __init__(self, config: EconomyConfig, workforce: type[Workforce] = Workforce) -> None:
        self.config = config
        self.workforces = [workforce(config, seed) for seed in config.seeds]

    @property
    def episode(self) -> int:
        """Training episodes of each seed so far."""
        return self.workforces[0].episodes

    @property
    def iteration(self) -> int:
        """Learning steps so far."""
        return self.workforces[0].iteration

    @property
    def env_steps(self) -> np.ndarray:
        """Environment steps of each seed so far, ``[S]``."""
        return np.full(len(self.workforces), self.episode * self.config.game.steps)

    def iterate(self) -> None:
        """One iteration of every seed."""
        for workers in self.workforces:
            workers.iterate()

    def diverged(self) -> np.ndarray:
        """Whether any parameter of a seed is no longer finite, bool ``[S]``."""
        return np.array(
            [
                not all(bool(p.isfinite().all()) for p in (*w.policy.values(), *w.critic.values()))
                for w in self.workforces
            ]
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the run goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {"seeds": []}
        for seed, workers in zip(self.config.seeds, self.workforces, strict=True):
            mine, plain = workers.tensors()
            tensors |= {f"{seed}/{name}": t for name, t in mine.items()}
            values["seeds"].append(plain)
        return tensors, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for seed, workers, plain in zip(self.config.seeds, self.workforces, values["seeds"], strict=True):
            prefix = f"{seed}/"
            mine = {n.removeprefix(prefix): t.clone() for n, t in tensors.items() if n.startswith(prefix)}
            workers.load(mine, plain)


@dataclass(frozen=True)
class EconomyScores:
    """Means over the episodes of an evaluation, one entry a seed, float64 ``[S]``; skill ranks from low to high."""

    FIELDS: ClassVar[tuple[str, ...]] = ("welfare", "productivity", "equality", "houses")

    welfare: np.ndarray  # equality times mean coin at the end
    productivity: np.ndarray  # sum of coin at the end
    equality: np.ndarray
    houses: np.ndarray
    trades: np.ndarray
    tax_paid: np.ndarray
    coin: np.ndarray  # [S, A], at the end, by skill rank

    @property
    def score(self) -> np.ndarray:
        """What counts: welfare."""
        return self.welfare

    def headline(self) -> str:
        """A line for the progress bar."""
        return f"welfare {self.welfare.mean():.2f}  houses {self.houses.mean():.1f}"

    def row(self, s: int) -> dict[str, float]:
        """Flat record of seed ``s``, as in metrics.csv."""
        names = (*self.FIELDS, "trades", "tax_paid")
        record = {name: float(getattr(self, name)[s]) for name in names}
        return record | {f"coin_rank_{i}": float(c) for i, c in enumerate(self.coin[s])}


class EconomyEvaluator:
    """Evaluates learners of the economy, exploration off, actions sampled; see :class:`metagrad.evaluate.Evaluator`."""

    def __init__(self, config: EconomyConfig, phase: str, episodes: int) -> None:
        self.config = config
        self.envs = [make_economy(config, seed, phase, episodes) for seed in config.seeds]
        self.streams = {"actions": purpose_streams(config.seeds, f"{phase} actions")}

    def counters(self) -> dict[str, list]:
        """Random streams' positions, for checkpoints."""
        return {
            "actions": self.streams["actions"].counter.tolist(),
            "environment": [env.streams.counter.tolist() for env in self.envs],
        }

    def set_counters(self, counters: dict[str, list]) -> None:
        """Go on from :meth:`counters`."""
        self.streams["actions"].counter[:] = counters["actions"]
        for env, counter in zip(self.envs, counters["environment"], strict=True):
            env.streams.counter[:] = counter

    def __call__(self, learner: EconomyLearner) -> EconomyScores:
        """Scores of every seed; annealing and Saez's memory are those of training."""
        rows = [self._score(s, w, env) for s, (w, env) in enumerate(zip(learner.workforces, self.envs, strict=True))]
        return EconomyScores(**{name: np.array([row[name] for row in rows]) for name in rows[0]})

    def _score(self, s: int, workers: Workforce, env: GatherTradeBuild) -> dict[str, Any]:
        _copy_schedule(workers, env)
        one = rng.Streams(*(array[s : s + 1] for array in self.streams["actions"]))
        play(workers, env, one, 0.0, workers.observer())
        agents, events = env.state.agents, env.state.events
        coin = agents.coin + agents.escrow_coin
        by_rank = np.take_along_axis(coin, agents.pay.argsort(axis=1, kind="stable"), axis=1)
        return {
            "welfare": (events.equality * events.productivity).mean() / env.n_agents,
            "productivity": events.productivity.mean(),
            "equality": events.equality.mean(),
            "houses": agents.houses.sum(1).mean(),
            "trades": events.n_trades[:, :, 0].sum((1, 2)).mean(),
            "tax_paid": env.state.taxes.paid_sum.sum(1).mean(),
            "coin": by_rank.mean(0),
        }


def _copy_schedule(workers: Workforce, target: GatherTradeBuild) -> None:
    """Let evaluation see the schedule of training as it stands, and not advance it."""
    target.reset_completed(workers.iteration * workers.config.k)
    saez, mine = target.state.saez, workers.env.state.saez
    for array, of_training in zip(saez, mine, strict=True):
        if len(array):
            array[...] = of_training[np.arange(len(array)) % len(of_training)]
