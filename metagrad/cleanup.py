"""Agents of Cleanup with one policy and one critic for all, and the designers that pay them.

Actor-critic agents see pictures; a designer sees the whole map and who cleans, and pays for what an agent does: clean,
collect, or anything else. Incentives do not change the course of an episode, so they are paid once it is over, by the
function that the meta-gradient differentiates. Specification: metagrad 2.2, 3.2, 4.2; learning leads, Cleanup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastenvs
from fastenvs import rng
from fastenvs.cleanup import Cleanup
from metagrad import optim
from metagrad.config import CleanupConfig
from metagrad.convnet import apply_picture, init_picture
from metagrad.economy import _choose, advantages, gradient, masked_log_softmax
from metagrad.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.nets import Params, sigmoid
from metagrad.rollout import purpose_seeds, purpose_streams, uniforms
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors

#: Action types that are paid for: cleaned, collected, anything else.
N_TYPES = 3


def make_cleanup(config: CleanupConfig, seed: int, phase: str, episodes: int) -> Cleanup:
    """``episodes`` copies of the game of one seed, for phase ``train``, ``eval`` or ``test``."""
    return fastenvs.make(  # type: ignore[return-value]
        "cleanup", episodes, preset=config.game.preset, steps=config.game.steps, autoreset="disabled", num_threads=1,
        seed=purpose_seeds([seed], f"{phase} environment"),
    )  # fmt: skip


@dataclass
class Batch:
    """K episodes of T steps; actors are the agents, or one for each episode that acts for all (central)."""

    pictures: Tensor  # uint8 [(T + 1) * K * actors, h, w, C]
    overview: Tensor  # uint8 [(T + 1) * K, H, W, C], the designer's
    actions: Tensor  # int64 [T * K * actors]
    log_prob: Tensor  # [T * K * actors], of the actions, exploration included
    rewards: Tensor  # [T, K, A], from the environment
    incentives: Tensor  # [T, K, A]
    kinds: Tensor  # int64 [T, K, A], action types
    cleaned: Tensor  # [T, K, A], whether the action was to clean
    waste: Tensor  # [T, K, A], units of waste removed
    noise: Tensor  # [T, K, 3], of a designer that draws its incentives
    epsilon: float

    @property
    def seen(self) -> Tensor:
        """Pictures that actions answered, without the last."""
        return self.pictures[: len(self.actions)]

    @property
    def seen_by_designer(self) -> tuple[Tensor, Tensor]:
        """Overviews and clean flags of every step, ``[T * K, ...]``."""
        steps, k, n = self.cleaned.shape
        flags = torch.stack([self.cleaned, 1 - self.cleaned], -1)
        return self.overview[: steps * k], flags.reshape(steps * k, 2 * n)


def picture_net(config: Any, generator: np.random.Generator, shape: Any, n: int, run: CleanupConfig, extra: int = 0):
    """A network of these widths on pictures of this shape."""
    return init_picture(generator, shape, config.filters, config.hidden, extra, n, run.device, DTYPES[run.dtype])


class Critic:
    """A value network with its target and optimiser."""

    def __init__(self, params: Params, lr: float, tau: float) -> None:
        self.params, self.target, self.tau = params, dict(params), tau
        self.adam = optim.Adam(lr)
        self.state = self.adam.init(params)

    @torch.no_grad()
    def values(self, pictures: Tensor, steps: int, which: str = "params") -> Tensor:
        """Values ``[steps, rows / steps]``, of the network or of its target."""
        return apply_picture(getattr(self, which), pictures)[:, 0].view(steps, -1)

    def learn(self, pictures: Tensor, goal: Tensor) -> None:
        """One Adam step to ``goal [rows]``, then the target follows."""
        grads = gradient(lambda p: ((apply_picture(p, pictures)[:, 0] - goal) ** 2).mean(), self.params)
        self.params, self.state = self.adam.step(self.params, grads, self.state)
        tau = self.tau
        self.target = {name: torch.lerp(old, self.params[name], tau) for name, old in self.target.items()}


class Crew:
    """The agents of one seed, and whoever pays them."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        self.config, a = config, config.agents
        self.env = make_cleanup(config, seed, "train", config.k)
        self.streams = purpose_streams([seed], "train actions")
        self.choices = purpose_streams([seed], "train designer")
        generator = np.random.default_rng(purpose_seeds([seed], "parameters")[0])
        shape = self.actor_pictures(self.env).shape[1:]
        self.policy = picture_net(a, generator, shape, self.n_actions, config)
        self.critic = Critic(picture_net(a, generator, shape, 1, config), a.lr_critic, a.target_tau)
        self.adam: optim.Optimiser = optim.Adam(a.lr) if a.optimiser == "adam" else optim.SGD(a.lr)
        self.policy_state: Any = self.adam.init(self.policy)
        self.iteration = self.collected = 0

    # ------------------------------------------------------------------ acting

    @property
    def n_actions(self) -> int:
        """Actions of an actor."""
        return self.env.n_actions

    def actor_pictures(self, env: Cleanup) -> np.ndarray:
        """What the actors see, uint8 ``[K * actors, h, w, C]``."""
        return env.obs["agents"].reshape(-1, *env.obs["agents"].shape[2:])

    def agent_actions(self, actions: np.ndarray, env: Cleanup) -> np.ndarray:
        """Actions of the agents ``[K, A]`` from those of the actors."""
        return actions.reshape(env.num_envs, env.n_agents)

    @property
    def epsilon(self) -> float:
        """Share of uniform exploration in this iteration."""
        a = self.config.agents
        return a.epsilon_end + (a.epsilon_start - a.epsilon_end) * max(0.0, 1 - self.iteration / a.epsilon_div)

    @property
    def episodes(self) -> int:
        """Training episodes so far."""
        return self.config.k * self.collected

    def collect(self) -> Batch:
        """K training episodes, paid."""
        self.collected += 1
        return self.play(self.env, self.streams, self.choices, self.epsilon)

    @torch.no_grad()
    def play(self, env: Cleanup, streams: rng.Streams, choices: rng.Streams, epsilon: float) -> Batch:
        """One episode in every copy, paid; as many uniforms whatever happens."""
        steps, k, n = self.config.game.steps, env.num_envs, env.n_agents
        env.reset()
        pictures, overview = [self.actor_pictures(env).copy()], [env.obs["designer"].copy()]
        rows = len(pictures[0])
        actions, log_prob = np.empty((steps, rows), np.int64), np.empty((steps, rows))
        legal = np.ones((rows, self.n_actions), np.uint8)
        rewards = np.empty((steps, k, n), np.float32)
        kinds, cleaned, waste = (np.empty((steps, k, n), np.int64) for _ in range(3))
        uniform = uniforms(streams, steps * rows).reshape(steps, rows)
        for t in range(steps):
            logits = apply_picture(self.policy, torch.from_numpy(pictures[-1]).to(self.config.device)).cpu().numpy()
            _choose(logits, legal, uniform[t], epsilon, actions[t], log_prob[t])
            _, rewards[t], *_, info = env.step(self.agent_actions(actions[t], env))
            kinds[t], cleaned[t], waste[t] = info["action_type"], info["cleaned"], info["n_cleaned"]
            pictures.append(self.actor_pictures(env).copy())
            overview.append(env.obs["designer"].copy())
        device, dtype = self.config.device, DTYPES[self.config.dtype]
        drawn = torch.from_numpy(uniforms(choices, steps * k * N_TYPES).reshape(steps, k, N_TYPES))

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        batch = Batch(
            tensor(np.concatenate(pictures)), tensor(np.concatenate(overview)), tensor(actions.ravel()),
            tensor(log_prob.ravel()).to(dtype), tensor(rewards).to(dtype), torch.zeros(steps, k, n, device=device,
            dtype=dtype), tensor(kinds), tensor(cleaned).to(dtype), tensor(waste).to(dtype),
            torch.special.ndtri(drawn.clamp_min(1e-16)).to(device, dtype), epsilon,
        )  # fmt: skip
        batch.incentives = self.incentives(batch)
        return batch

    # ------------------------------------------------------------------ learning

    def incentives(self, batch: Batch) -> Tensor:
        """What the agents are paid, ``[T, K, A]``."""
        return torch.zeros_like(batch.rewards)

    def actor_rewards(self, rewards: Tensor) -> Tensor:
        """Rewards of the actors ``[T, K * actors]`` from those of the agents ``[T, K, A]``."""
        return rewards.flatten(1)

    def iterate(self) -> None:
        """Play K episodes and learn from them."""
        self.learn_from(self.collect())
        self.iteration += 1

    def learn_from(self, batch: Batch) -> LearnedStep:
        """One step of the critic and one of the policy."""
        a, steps = self.config.agents, len(batch.rewards)
        values = self.critic.values(batch.pictures, steps + 1)
        step = LearnedStep(batch, values, self.policy, self.policy_state, {})
        rewards = self.actor_rewards(batch.rewards + batch.incentives)
        weight = self.weights(step, rewards)
        # Without a target network this is the critic itself.
        later = values if a.target_tau == 1 else self.critic.values(batch.pictures, steps + 1, "target")
        goal = advantages(rewards, later, a.gamma, a.gae_lambda) + later[:-1]
        self.critic.learn(batch.seen, goal.flatten())
        grads = gradient(lambda p: self.policy_loss(p, batch, weight), self.policy)
        self.policy, self.policy_state = self.adam.step(self.policy, grads, self.policy_state)
        return replace(step, grads=grads)

    def weights(self, step: LearnedStep, rewards: Tensor) -> Tensor:
        """Advantages ``[rows]`` of the actions under these rewards of the actors, differentiable in them."""
        a = self.config.agents
        weight = advantages(rewards, step.values, a.gamma, a.gae_lambda).flatten()
        return (weight - weight.mean()) / (weight.std() + 1e-8) if a.normalise else weight

    def policy_loss(self, params: Params, batch: Batch, weight: Tensor) -> Tensor:
        """Policy gradient loss with entropy bonus, a mean over all rows."""
        log_p = log_policy(params, batch)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return -(_chosen(log_p, batch) * weight + self.config.agents.entropy * entropy).mean()

    # ------------------------------------------------------------------ saving

    def parameters(self) -> list[Tensor]:
        """Of all networks."""
        return [p for params, _ in self.networks().values() for p in params.values()]

    def networks(self) -> dict[str, tuple[Params, Any]]:
        """Parameters and optimiser states by name."""
        return {"policy": (self.policy, self.policy_state), "critic": (self.critic.params, self.critic.state)}

    def set_network(self, name: str, params: Params, state: Any) -> None:
        """Put a network back."""
        if name == "policy":
            self.policy, self.policy_state = params, state
        else:
            self.critic.params, self.critic.state = params, state

    def targets(self) -> dict[str, Critic]:
        """Critics by name."""
        return {"critic": self.critic}

    def _counters(self) -> dict[str, np.ndarray]:
        return {
            "actions": self.streams.counter, "choices": self.choices.counter, "environment": self.env.streams.counter,
        }  # fmt: skip

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        counts = {}
        for name, (params, state) in self.networks().items():
            tensors |= {f"{name}/{key}": p for key, p in params.items()}
            if state is not None:
                tensors |= optimiser_tensors(f"{name}_state", state)
                counts[name] = state.t
        for name, critic in self.targets().items():
            tensors |= {f"{name}_target/{key}": p for key, p in critic.target.items()}
        tensors |= {f"streams/{n}": torch.from_numpy(c.astype(np.int64)) for n, c in self._counters().items()}
        return tensors, {"iteration": self.iteration, "collected": self.collected, "optimiser_steps": counts}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        device = self.config.device
        for name, (params, state) in self.networks().items():
            if state is not None:
                t = values["optimiser_steps"][name]
                state = load_optimiser_state(tensors, f"{name}_state", list(params), t)
            self.set_network(name, {key: tensors[f"{name}/{key}"].to(device) for key in params}, state)
        for name, critic in self.targets().items():
            critic.target = {key: tensors[f"{name}_target/{key}"].to(device) for key in critic.target}
        for name, counter in self._counters().items():
            counter[...] = tensors[f"streams/{name}"].cpu().numpy().astype(np.uint64)
        self.iteration, self.collected = values["iteration"], values["collected"]


@dataclass(frozen=True)
class LearnedStep:
    """One learning step of the policy as it was taken."""

    batch: Batch
    values: Tensor  # [T + 1, K * actors], of the critic before its step
    policy: Params  # before
    state: Any  # of the optimiser, before
    grads: Params


def log_policy(params: Params, batch: Batch) -> Tensor:
    """Log-probabilities of the acting policy, ``[rows, n_actions]``."""
    logits = apply_picture(params, batch.seen)
    return masked_log_softmax(logits, torch.ones_like(logits, dtype=torch.bool), batch.epsilon)


def _chosen(log_p: Tensor, batch: Batch) -> Tensor:
    return log_p.gather(1, batch.actions[:, None])[:, 0]


class CentralCrew(Crew):
    """One actor for all agents: it sees the overview, chooses their joint action, and gets the sum of their rewards."""

    @property
    def n_actions(self) -> int:
        """Joint actions."""
        return self.env.n_actions**self.env.n_agents

    def actor_pictures(self, env: Cleanup) -> np.ndarray:
        """The overview."""
        return env.obs["designer"]

    def agent_actions(self, actions: np.ndarray, env: Cleanup) -> np.ndarray:
        """The joint action's digits, the first agent's lowest."""
        return actions[:, None] // env.n_actions ** np.arange(env.n_agents) % env.n_actions

    def actor_rewards(self, rewards: Tensor) -> Tensor:
        """The sum over the agents."""
        return rewards.sum(-1)


class PaidCrew(Crew):
    """Agents and a designer with an incentive function and a critic, of one seed."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        super().__init__(config, seed)
        d, shape = config.designer, self.env.obs["designer"].shape[1:]
        generator = np.random.default_rng(purpose_seeds([seed], "train designer")[0])
        self.eta = picture_net(d, generator, shape, N_TYPES, config, 2 * self.env.n_agents)
        self.eta_adam = optim.Adam(d.lr)
        self.eta_state: Any = self.eta_adam.init(self.eta)
        self.judge = Critic(picture_net(d, generator, shape, 1, config), d.lr_critic, d.target_tau)

    def networks(self) -> dict[str, tuple[Params, Any]]:
        """Parameters and optimiser states by name."""
        own = {"eta": (self.eta, self.eta_state), "judge": (self.judge.params, self.judge.state)}
        return {**super().networks(), **own}

    def set_network(self, name: str, params: Params, state: Any) -> None:
        """Put a network back."""
        if name == "eta":
            self.eta, self.eta_state = params, state
        elif name == "judge":
            self.judge.params, self.judge.state = params, state
        else:
            super().set_network(name, params, state)

    def targets(self) -> dict[str, Critic]:
        """Critics by name."""
        return {**super().targets(), "judge": self.judge}

    def _judge(self, batch: Batch, learn: bool) -> Tensor:
        """The designer's advantages ``[T, K]`` on a batch; ``learn`` takes a step of its critic on it, before."""
        d, steps = self.config.designer, len(batch.rewards)
        rewards = batch.rewards.sum(-1)
        if learn:
            later = self.judge.values(batch.overview, steps + 1, "target")
            goal = rewards + d.gamma * later[1:]
            self.judge.learn(batch.overview[: goal.numel()], goal.flatten())
        return advantages(rewards, self.judge.values(batch.overview, steps + 1), d.gamma, d.gae_lambda)


def paid_for(types: Tensor, kinds: Tensor) -> Tensor:
    """The entries of ``types [T, K, 3]`` that ``kinds [T, K, A]`` name, ``[T, K, A]``."""
    return types.gather(-1, kinds)


class MetaGradCrew(PaidCrew):
    """A designer that differentiates through the agents' learning step (metagrad specification, 1.3, 2.2)."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.tau: Batch | None = None

    def incentives(self, batch: Batch) -> Tensor:
        """What the present incentive function pays."""
        return self.pay(self.eta, batch)

    def pay(self, eta: Params, batch: Batch) -> Tensor:
        """Incentives ``[T, K, A]`` as a function of η."""
        types = self.config.designer.scale * sigmoid(apply_picture(eta, *batch.seen_by_designer))
        return paid_for(types.unflatten(0, batch.kinds.shape[:2]), batch.kinds)

    def iterate(self) -> None:
        """The agents' step, fresh episodes, the designer's step through the agents' step."""
        batch = self.tau or self.collect()
        step = self.learn_from(batch)
        self.tau = self.collect()
        self._judge(batch, learn=True)
        total = self.metagradient(step, self.tau)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, total, self.eta_state)
        self.iteration += 1

    def metagradient(self, step: LearnedStep, validation: Batch) -> Params:
        """Gradient of the designer's loss on fresh episodes."""
        objective = self.objective(validation)
        if self.config.designer.mode == "unrolled":
            return unrolled_metagradient(
                [lambda eta, p: self.policy_loss(p, step.batch, self.paid_weights(eta, step))], self.adam,
                step.policy, step.state, objective, self.eta,
            )  # fmt: skip
        adjoint = gradient(objective, self.policy)

        def score_jvp(u: Params) -> Tensor:
            return torch.func.jvp(lambda p: _chosen(log_policy(p, step.batch), step.batch), (step.policy,), (u,))[1]

        def weights_vjp(score: Tensor) -> Params:
            return gradient(lambda eta: (score * self.paid_weights(eta, step)).mean(), self.eta)

        return forward_metagradient([InnerStep(step.grads, step.state, score_jvp, weights_vjp)], self.adam, adjoint)

    def paid_weights(self, eta: Params, step: LearnedStep) -> Tensor:
        """The agents' advantages as a function of η: the value is that of the stored incentives."""
        paid = self.pay(eta, step.batch)
        rewards = step.batch.rewards + step.batch.incentives + (paid - paid.detach())
        return self.weights(step, self.actor_rewards(rewards))

    def objective(self, validation: Batch) -> Callable[[Params], Tensor]:
        """The designer's loss on fresh episodes as a function of the agents' parameters, a mean over steps."""
        weight = self._judge(validation, learn=False)

        def loss(params: Params) -> Tensor:
            joint = _chosen(log_policy(params, validation), validation).view(*weight.shape, -1).sum(-1)
            return -(joint * weight).mean()

        return loss

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how this seed goes on: tensors, and plain values."""
        tensors, values = super().tensors()
        if self.tau is not None:
            held = {f.name: getattr(self.tau, f.name) for f in fields(Batch)}
            tensors |= {f"batch/{name}": t for name, t in held.items() if isinstance(t, Tensor)}
            values["epsilon"] = self.tau.epsilon
        return tensors, values

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`tensors`."""
        super().load(tensors, values)
        self.tau = None
        if "epsilon" in values:
            names = [f.name for f in fields(Batch) if f.name != "epsilon"]
            held = {name: tensors[f"batch/{name}"].to(self.config.device) for name in names}
            self.tau = Batch(**held, epsilon=values["epsilon"])


class DualRLCrew(PaidCrew):
    """A designer that draws its incentives and learns by policy gradients (metagrad specification, 3.2)."""

    def incentives(self, batch: Batch) -> Tensor:
        """Squashed Gaussian incentives with unit deviation before squashing."""
        mean = apply_picture(self.eta, *batch.seen_by_designer).view_as(batch.noise)
        return paid_for(self.config.designer.scale * sigmoid(mean + batch.noise), batch.kinds)

    def iterate(self) -> None:
        """Play K episodes; the designer learns from them, then the agents."""
        batch = self.collect()
        weight = self._judge(batch, learn=False)
        self._judge(batch, learn=True)

        def loss(eta: Params) -> Tensor:
            mean = apply_picture(eta, *batch.seen_by_designer).view_as(batch.noise)
            drawn = (mean + batch.noise).detach()
            return -((-((drawn - mean) ** 2) / 2).sum(-1) * weight).mean()

        grads = gradient(loss, self.eta)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, grads, self.eta_state)
        self.learn_from(batch)
        self.iteration += 1


CREWS: dict[str, type[Crew]] = {
    "metagrad": MetaGradCrew, "dual-rl-continuous": DualRLCrew, "central": CentralCrew, "none": Crew,
}  # fmt: skip
