"""Agents of Cleanup with one policy and one critic for all, and the designers that pay them.

Actor-critic agents see pictures; a designer sees the whole map and who cleans, and pays for what an agent does: clean,
collect, or anything else. Incentives do not change the course of an episode, so they are paid once it is over, by the
function that the meta-gradient differentiates. Specification: metagrad 2.2, 3.2, 4.2; learning leads, Cleanup.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastenvs
from fastenvs import rng
from fastenvs.cleanup import PRESETS, Cleanup, Options
from metagrad import optim
from metagrad.actor_critic import (
    ActorCritic,
    Batch,
    Critic,
    LearnedStep,
    apply_picture,
    chosen,
    evaluate_picture,
    log_softmax,
    picture_net,
    score,
)
from metagrad.config import CleanupConfig, ConfigError
from metagrad.convnet import Evaluation
from metagrad.economy import _choose, advantages, gradient, slope
from metagrad.fitting import Group, begun
from metagrad.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.nets import Params, sigmoid
from metagrad.rollout import purpose_seeds, purpose_streams, uniforms
from metagrad.train import DTYPES, load_optimiser_state, optimiser_tensors

#: Action types that are paid for: cleaned, collected, anything else.
N_TYPES = 3


#: A central policy chooses among no more joint actions than this.
MAX_JOINT_ACTIONS = 10_000


def make_cleanup(config: CleanupConfig, seed: int, phase: str, episodes: int) -> Cleanup:
    """``episodes`` copies of the game of one seed, for phase ``train``, ``eval`` or ``test``."""
    game = config.game
    options = Options(**PRESETS[game.preset])
    return fastenvs.make(  # type: ignore[return-value]
        "cleanup", episodes, preset=game.preset, steps=game.steps, autoreset="disabled", num_threads=1,
        seed=purpose_seeds([seed], f"{phase} environment"),
        planner_view_size=max(options.view_size, *(n // 2 for n in options.symbols.shape)),  # the whole map
    )  # fmt: skip


class Crew(ActorCritic):
    """The agents of one seed, and whoever pays them."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        self.env = make_cleanup(config, seed, "train", config.k)
        generator = np.random.default_rng(purpose_seeds([seed], "parameters")[0])
        super().__init__(config, generator, self.actor_pictures(self.env).shape[1:], self.n_actions)
        self.streams = purpose_streams([seed], "train actions")
        self.choices = purpose_streams([seed], "train designer")
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
            seen = torch.from_numpy(pictures[-1]).to(self.config.device)
            logits = evaluate_picture(self.policy, seen).out.cpu().numpy()
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

    def iterate(self) -> None:
        """Play K episodes and learn from them."""
        self.learn_from(self.collect())
        self.iteration += 1

    # ------------------------------------------------------------------ saving

    def held(self, values: dict[str, Any]) -> list[Group]:
        """What :meth:`tensors` has beyond those of a fresh crew, by plain values of a checkpoint."""
        return []

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

    def critics(self) -> dict[str, Critic]:
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
        for name, critic in self.critics().items():
            if critic.tau < 1:
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
        for name, critic in self.critics().items():
            saved = f"{name}_target" if critic.tau < 1 else name
            critic.target = {key: tensors[f"{saved}/{key}"].to(device) for key in critic.target}
        for name, counter in self._counters().items():
            counter[...] = tensors[f"streams/{name}"].cpu().numpy().astype(np.uint64)
        self.iteration, self.collected = values["iteration"], values["collected"]


class CentralCrew(Crew):
    """One actor for all agents: it sees the overview, chooses their joint action, and gets the sum of their rewards."""

    @property
    def n_actions(self) -> int:
        """Joint actions."""
        n = self.env.n_actions**self.env.n_agents
        if n > MAX_JOINT_ACTIONS:
            raise ConfigError(
                f"method central would choose among {n:,} joint actions; {MAX_JOINT_ACTIONS:,} is the most"
            )
        return n

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

    def critics(self) -> dict[str, Critic]:
        """Critics by name."""
        return {**super().critics(), "judge": self.judge}

    def judge_learns(self, batch: Batch) -> Tensor:
        """One step of the designer's critic; the designer's advantages ``[T, K]`` by the values before it."""
        d = self.config.designer
        rewards = batch.rewards.sum(-1)
        return advantages(rewards, self.judge.learn(batch.overview, rewards, d.gamma, 0.0), d.gamma, d.gae_lambda)

    def judged(self, batch: Batch) -> Tensor:
        """The designer's advantages ``[T, K]`` on a batch."""
        d, steps = self.config.designer, len(batch.rewards)
        return advantages(batch.rewards.sum(-1), self.judge.values(batch.overview, steps + 1), d.gamma, d.gae_lambda)


def paid_for(types: Tensor, kinds: Tensor) -> Tensor:
    """The entries of ``types [T, K, 3]`` that ``kinds [T, K, A]`` name, ``[T, K, A]``."""
    return types.gather(-1, kinds)


class MetaGradCrew(PaidCrew):
    """A designer that differentiates through the agents' learning step (metagrad specification, 1.3, 2.2)."""

    def __init__(self, config: CleanupConfig, seed: int) -> None:
        super().__init__(config, seed)
        self.tau: Batch | None = None
        self._evaluation: Evaluation | None = None  # of the agents as they are on ``tau``

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
        step = self.learn_from(batch, self._evaluation)
        self.tau = self.collect()
        self._evaluation = evaluate_picture(self.policy, self.tau.seen)
        self.judge_learns(batch)
        total = self.designer_gradient(step)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, total, self.eta_state)
        self.iteration += 1

    def designer_gradient(self, step: LearnedStep) -> Params:
        """Gradient of the designer's loss on the episodes after the agents' step, through that step."""
        assert self.tau is not None
        return self.metagradient(step, self.tau, self._evaluation)

    def metagradient(self, step: LearnedStep, validation: Batch, after: Evaluation | None = None) -> Params:
        """Gradient of the designer's loss on fresh episodes.

        Parameters
        ----------
        step : LearnedStep
            The agents' step as it was taken.
        validation : Batch
            Fresh episodes of the agents after it.
        after : Evaluation, optional
            The policy after the step on them.
        """
        weight = self.judged(validation)
        if self.config.designer.mode == "unrolled":
            return self._unrolled(step, validation, weight)
        after = after or evaluate_picture(step.after, validation.seen)
        before = step.evaluation or evaluate_picture(step.policy, step.batch.seen)
        adjoint = after.vjp(slope(lambda logits: self.designer_loss(logits, validation, weight), after.out))
        score_of_step = score(before.out, step.batch)

        def weights_vjp(d: Tensor) -> Params:
            return gradient(lambda eta: (d * self.paid_weights(eta, step)).mean(), self.eta)

        inner = InnerStep(step.grads, step.state, lambda u: (before.jvp(u) * score_of_step).sum(-1), weights_vjp)
        return forward_metagradient([inner], self.adam, adjoint)

    def _unrolled(self, step: LearnedStep, validation: Batch, weight: Tensor) -> Params:
        """The same by automatic differentiation through the step."""
        return unrolled_metagradient(
            [lambda eta, params: self.policy_loss(params, step.batch, self.paid_weights(eta, step))],
            self.adam, step.policy, step.state,
            lambda params: self.designer_loss(apply_picture(params, validation.seen), validation, weight), self.eta,
        )  # fmt: skip

    def paid_weights(self, eta: Params, step: LearnedStep) -> Tensor:
        """The agents' advantages as a function of η: the value is that of the stored incentives."""
        paid = self.pay(eta, step.batch)
        rewards = step.batch.rewards + step.batch.incentives + (paid - paid.detach())
        return self.weights(step, self.actor_rewards(rewards))

    @staticmethod
    def designer_loss(logits: Tensor, validation: Batch, weight: Tensor) -> Tensor:
        """The designer's loss on fresh episodes as a function of the agents' logits, a mean over steps."""
        joint = chosen(log_softmax(logits, validation), validation).view(*weight.shape, -1).sum(-1)
        return -(joint * weight).mean()

    def held(self, values: dict[str, Any]) -> list[Group]:
        """The episodes to learn from next."""
        env, k, steps = self.env, self.config.k, self.config.game.steps
        view, overview = self.actor_pictures(env).shape, env.obs["designer"].shape
        lengths = {
            "T": steps, "T1": steps + 1, "K": k, "A": env.n_agents, "M": view[0] // k,
            **dict(zip("hwc", view[1:], strict=True)), **dict(zip("HWC", overview[1:], strict=True)),
        }  # fmt: skip
        return [Group("batch", Batch.AXES, lengths, begun(values), DTYPES[self.config.dtype])]

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
        self.tau = self._evaluation = None
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
        weight = self.judge_learns(batch)

        def loss(eta: Params) -> Tensor:
            mean = apply_picture(eta, *batch.seen_by_designer).view_as(batch.noise)
            drawn = (mean + batch.noise).detach()
            return -((-((drawn - mean) ** 2) / 2).sum(-1) * weight).mean()

        grads = gradient(loss, self.eta)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, grads, self.eta_state)
        self.learn_from(batch)
        self.iteration += 1
