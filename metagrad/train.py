"""The training loop: Algorithm 1 and the baselines' loops, for S seeds side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastenvs
from fastenvs import rng
from fastenvs.vecenv import VecEnv
from metagrad import fitting, losses, nets, optim
from metagrad.agents import Evaluation, LearningStep, make_agents
from metagrad.baselines import ContinuousDualRL, DiscreteDualRL, MechanismDesigner, NoIncentives, dual_rl_step
from metagrad.cloning import clone
from metagrad.config import Config
from metagrad.designer import IncentiveFunction, MutualIncentives, Outputs
from metagrad.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.nets import Params
from metagrad.rollout import Batch, purpose_seeds, purpose_streams, rollout

# A learner's networks, and the states of the optimisers that move them.
_NETWORKS = {
    "theta": ("theta_state",), "eta": ("eta_state", "cost_state"), "critic": ("critic_state",),
    "phi": ("phi_state", "clone_state"),
}  # fmt: skip
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def make_env(config: Config, phase: str, episodes: int) -> VecEnv:
    """One environment for all seeds, ``episodes`` copies each, for phase ``train``, ``eval`` or ``test``."""
    game = config.game
    return fastenvs.make(
        config.game_name.replace("-", "_"),
        len(config.seeds) * episodes,
        seed=purpose_seeds(config.seeds, f"{phase} environment"),
        autoreset="disabled",
        num_threads=1,
        n_agents=game.n_agents,
        min_at_lever=game.min_at_lever,
        max_steps=game.max_steps,
        randomize=game.randomize,
    )


def make_streams(config: Config, phase: str) -> dict[str, rng.Streams]:
    """Streams of a phase, one a seed: for the agents' actions and for the designer's."""
    return {use: purpose_streams(config.seeds, f"{phase} {use}") for use in ("actions", "designer")}


class Learner:
    """Agents and a designer of S seeds, and how they learn.

    Attributes
    ----------
    theta, theta_state
        The agents' networks, stacked ``[S * A, ...]``, and their optimiser's state.
    eta, eta_state, cost_state
        The designer's networks, ``[S, ...]``, and the states of its optimisers; empty without a designer.
    critic, critic_state
        The agents' critics, stacked like ``theta``; empty without.
    phi, phi_state, clone_state
        Surrogates of the agents, the states of the optimiser that they are assumed to have and of the one that fits
        them; empty if the designer looks into the agents.
    tau : Batch or None
        Episodes that the agents learn from next.
    episode, iteration : int
        Training episodes of each seed so far, validation episodes included; designer steps so far.
    env_steps : ndarray ``[S]``
        Environment steps of each seed so far.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.env = make_env(config, "train", config.k)
        self.agents = make_agents(config.agents)
        self.streams = make_streams(config, "train")
        self.designer, eta_sizes, output_bias = self._make_designer()
        generators = [np.random.default_rng(s) for s in purpose_seeds(config.seeds, "parameters")]
        where: dict[str, Any] = {"device": config.device, "dtype": DTYPES[config.dtype]}
        n, width = config.game.n_agents, self.env.obs["agents"].shape[-1]
        policies = (n, width, self.env.n_actions, config.init)
        self.theta = self.agents.init(generators, *policies, **where)
        self.theta_state: Any = self.agents.optimiser.init(self.theta)
        self.eta: Params = {}
        if eta_sizes:
            givers = n if config.method == "lio" else 1
            self.eta = nets.init_mlp(generators, givers, eta_sizes, output_bias=output_bias, init=config.init, **where)
        self.eta_adam = self._make_adam()
        self.eta_state: Any = self.eta_adam.init(self.eta)
        self.cost_adam = optim.Adam(config.designer.lr_cost, beta2=config.designer.beta2_cost)
        self.cost_state: Any = self.cost_adam.init(self.eta) if self.is_metagrad else None
        self.critic = self.agents.init_critics(generators, n, width, **where)
        self.critic_adam = optim.Adam(config.agents.lr_critic)
        self.critic_state: Any = self.critic_adam.init(self.critic)
        is_cloned = config.agent_access == "cloned"
        self.phi: Params = self.agents.init(generators, *policies, **where) if is_cloned else {}
        self.phi_state: Any = self.agents.optimiser.init(self.phi)
        self.clone_adam = optim.Adam(config.clones.lr)
        self.clone_state: Any = self.clone_adam.init(self.phi)
        self.tau: Batch | None = None
        self.episode = 0
        self.iteration = 0
        self.env_steps = np.zeros(len(config.seeds), np.int64)
        self._evaluation: Evaluation | None = None

    def _make_designer(self):
        """The designer, the widths of its network, and whether that has an output bias."""
        c, n = self.config, self.config.game.n_agents
        seen = self.env.obs["designer"].shape[-1]
        width = seen + n * self.env.n_actions
        if c.method == "none":
            return NoIncentives(), (), False
        if c.method == "amd":
            amd = MechanismDesigner(c.amd, c.agents.lr, c.designer.scale, seen)
            return amd, (seen + n, *c.amd.hidden, n), False
        if c.method == "dual-rl-discrete":
            discrete = DiscreteDualRL(c.dual, self.env.n_actions)
            return discrete, (width, *c.dual.hidden, discrete.n_outputs), True
        if c.method == "dual-rl-continuous":
            return ContinuousDualRL(c.dual, n, c.designer.scale), (width, *c.dual.hidden, n), False
        d = c.designer
        if c.method == "lio":
            width = self.env.obs["agents"].shape[-1] + (n - 1) * self.env.n_actions
            return MutualIncentives("agent", d.scale, d.cost, d.gamma), (width, *d.hidden, n), False
        outputs = self.env.n_actions if d.output_type == "action" else n
        return IncentiveFunction(d.output_type, d.scale, d.cost, d.gamma), (width, *d.hidden, outputs), False

    def _make_adam(self) -> optim.Adam:
        c = self.config
        if self.is_metagrad:
            return optim.Adam(c.designer.lr_incentive, beta2=c.designer.beta2)
        return optim.Adam(c.amd.lr if c.method == "amd" else c.dual.lr)

    # ------------------------------------------------------------------ iterations

    @property
    def is_metagrad(self) -> bool:
        """Whether the designer differentiates through the agents' step."""
        return self.config.method in ("metagrad", "metagrad-no-cv", "lio")

    @property
    def epsilon(self) -> float:
        """Share of uniform exploration in this iteration."""
        a = self.config.agents
        left = max(0.0, 1 - self.iteration / a.epsilon_div)
        return a.epsilon_end + (a.epsilon_start - a.epsilon_end) * left

    def collect(self, theta: Params) -> Batch:
        """Play K training episodes of every seed; incentives are still to be paid."""
        batch = rollout(
            self.env,
            theta,
            self.streams["actions"],
            max_steps=self.config.game.max_steps,
            epsilon=self.epsilon,
        )
        batch.values = self.agents.values(self.critic, batch)
        self.episode += self.config.k
        self.env_steps += batch.alive.sum(1).long().cpu().numpy()
        return batch

    def iterate(self) -> None:
        """One iteration: the agents' learning steps and one step of the designer."""
        if self.is_metagrad:
            self._iterate_metagrad()
        else:
            self._iterate_baseline()
        self.iteration += 1

    def _iterate_metagrad(self) -> None:
        """Algorithm 1 (metagrad specification, 1.3)."""
        d = self.config.designer
        if self.tau is None:
            self.tau = self._paid(self.collect(self.theta))
        # 1. The agents learn, from the incentives they were paid.
        theta, state, batches, steps = self.theta, self.theta_state, [], []
        for j in range(d.inner_steps):
            batch = self._paid(self.collect(theta)) if j else self.tau
            if d.replica_eta == "recompute":
                batch = self._paid(batch)
            cached = self._evaluation if j == 0 else None
            evaluation = cached or self.agents.evaluate(theta, batch)
            theta, state, step = self.agents.learn(evaluation, batch.incentives, state)
            self._critic_step(batch)
            batches.append(batch)
            steps.append(step)
        # 2. Fresh episodes of the updated agents (without cross-validation: of the old ones).
        validation = self._paid(self.collect(self.theta if self.config.method == "metagrad-no-cv" else theta))
        evaluation = self.agents.evaluate(theta, validation)
        # 3. The designer learns through the agents' steps.
        if self.phi:
            self._designer_step(batches, *self._surrogate_steps(batches, validation))
        else:
            self._designer_step(batches, steps, evaluation)
        # 4. The updated agents go on, with the validation episodes as their next experience.
        self.theta, self.theta_state = theta, state
        self.tau, self._evaluation = (validation, evaluation) if d.pipeline else (None, None)

    def _paid(self, batch: Batch) -> Batch:
        self.designer.pay(self.eta, batch, self.streams["designer"])
        return batch

    def _iterate_baseline(self) -> None:
        """Play, let the designer learn, then the agents, on the same episodes (specification, 3.1)."""
        batch = self.collect(self.theta)
        evaluation = self.agents.evaluate(self.theta, batch)
        if isinstance(self.designer, MechanismDesigner):
            self.eta, self.eta_state = self.designer.learn(self.eta, evaluation, self.eta_adam, self.eta_state)
        else:
            choice = self.designer.pay(self.eta, batch, self.streams["designer"])
            if choice is not None:
                self.eta, self.eta_state = dual_rl_step(
                    self.designer, self.eta, batch, choice, self.eta_adam, self.eta_state
                )
        self.theta, self.theta_state, _ = self.agents.learn(evaluation, batch.incentives, self.theta_state)
        self._critic_step(batch)

    def _critic_step(self, batch: Batch) -> None:
        self.critic, self.critic_state = self.agents.learn_critic(
            self.critic, batch, self.critic_adam, self.critic_state
        )

    def _surrogate_steps(self, batches: Sequence[Batch], validation: Batch) -> tuple[list[LearningStep], Evaluation]:
        """Fit the surrogates to the agents' behaviour, and let them take the step that the agents are assumed to take.

        Returns the steps, and the updated surrogates on the real agents' fresh episodes (specification, 3.6).
        """
        c = self.config.clones
        self.phi, self.clone_state = clone(self.phi, batches[0], self.clone_adam, self.clone_state, c.steps)
        first = self.agents.evaluate(self.phi, batches[0])
        paid = [batch.incentives for batch in batches]
        after, self.phi_state, steps = self.agents.learn_through(first, batches, paid, self.phi_state)
        return steps, self.agents.evaluate(after, validation)

    # ------------------------------------------------------------------ the designer's step

    def _designer_step(self, batches: Sequence[Batch], steps: Sequence[LearningStep], validation: Evaluation) -> None:
        d = self.config.designer
        outputs = [self.designer.outputs(self.eta, batch) for batch in batches]
        gradient = self.metagradient(outputs, steps, validation)
        cost = self.cost_gradient(outputs, batches)
        if d.cost_optimiser == "combined":
            gradient = optim.add(gradient, cost, d.reg_coeff)
        self.eta, self.eta_state = self.eta_adam.step(self.eta, gradient, self.eta_state)
        if d.cost_optimiser == "separate":
            self.eta, self.cost_state = self.cost_adam.step(self.eta, cost, self.cost_state)

    def metagradient(self, outputs: Sequence[Outputs], steps: Sequence[LearningStep], validation: Evaluation) -> Params:
        """Gradient of the designer's loss on the validation episodes through the agents' steps.

        Parameters
        ----------
        outputs : sequence of Outputs
            Of the current η on the batch of every step.
        steps : sequence of LearningStep
            The agents' steps as they were taken.
        validation : Evaluation
            The updated agents on their fresh episodes.
        """
        first, state = steps[0].evaluation, steps[0].state
        batches = [step.evaluation.batch for step in steps]
        if self.config.designer.mode == "unrolled":
            return self._unrolled(batches, first.theta, state, validation.batch)
        if self.config.designer.replica_eta == "current":
            incentives = [self.designer.incentives(o, b) for o, b in zip(outputs, batches, strict=True)]
            theta, _, steps = self.agents.learn_through(first, batches, incentives, state)
            validation = self.agents.evaluate(theta, validation.batch)
        total: Params | None = None
        for giver, weights in enumerate(self.designer_weights(validation.batch)):
            d_logits = validation.score * (weights[..., None] * (-1.0 / self.config.k))
            adjoint = nets.vjp(validation.theta, validation.inputs, d_logits)
            inner = [self._inner_step(giver, o, step) for o, step in zip(outputs, steps, strict=True)]
            part = forward_metagradient(inner, self.agents.optimiser, adjoint)
            total = part if total is None else optim.add(total, part)
        assert total is not None
        return total

    def _unrolled(self, batches: Sequence[Batch], theta: Params, state: Any, validation: Batch) -> Params:
        """The same by automatic differentiation, giver by giver."""
        total: Params | None = None
        for giver, weights in enumerate(self.designer_weights(validation)):
            replica = [self._agents_loss(batch, giver) for batch in batches]
            objective = self._objective(validation, weights)
            part = unrolled_metagradient(replica, self.agents.optimiser, theta, state, objective, self.eta)
            total = part if total is None else optim.add(total, part)
        assert total is not None
        return total

    def designer_weights(self, batch: Batch) -> list[Tensor]:
        """Every giver's discounted returns for every network and row, ``[S * A, R]``."""
        d, weights = self.config.designer, []
        for rewards in self.designer.judged_by(batch):
            returns = losses.discounted_returns(rewards, d.gamma, batch.k)
            if d.baseline == "leave-one-out":
                returns = losses.leave_one_out(returns, batch.k) * batch.alive[:, None]
            weights.append(returns.flatten(0, 1))
        return weights

    def _inner_step(self, giver: int, outputs: Outputs, step: LearningStep) -> InnerStep:
        agents, batch = self.agents, step.evaluation.batch

        def weights_vjp(d: Tensor) -> Params:
            d_sigma = self.designer.to_outputs(agents.credit(d, batch) * (1.0 / batch.k), batch)
            return self.designer.vjp(self.eta, outputs, self.designer.only_giver(giver, d_sigma))

        return InnerStep(
            step.grads,
            step.state,
            lambda u: agents.score_jvp(step.evaluation, u),
            weights_vjp,
            lambda u: agents.hessian_vector(step, u),
        )

    def _agents_loss(self, batch: Batch, giver: int = 0):
        """``loss(η, θ)`` on a batch: its value from the incentives of the replica, its gradient from a giver's η."""

        def loss(eta: Params, theta: Params) -> Tensor:
            outputs = self.designer.of_giver(giver, self.designer.outputs(eta, batch))
            incentives = self.designer.incentives(outputs, batch)
            if self.config.designer.replica_eta == "stored":
                incentives = batch.incentives + (incentives - incentives.detach())
            return self.agents.loss(theta, batch, self.agents.weights(batch, incentives))

        return loss

    def _objective(self, batch: Batch, weights: Tensor):
        """A giver's loss on the validation episodes as a function of the agents' parameters."""

        def objective(theta: Params) -> Tensor:
            logits, _ = nets.forward(theta, batch.obs)
            zero = torch.zeros_like(weights)
            return losses.policy_gradient_loss(logits, batch.onehot, weights, zero, 0.0, batch.epsilon, batch.k)

        return objective

    def cost_gradient(self, outputs: Sequence[Outputs], batches: Sequence[Batch]) -> Params:
        """Gradient of the cost ψ, mean over the agents' batches."""
        total: Params | None = None
        for output, batch in zip(outputs, batches, strict=True):
            d_sigma = self.designer.cost_to_outputs(output, batch) * (1.0 / len(batches))
            part = self.designer.vjp(self.eta, output, d_sigma)
            total = part if total is None else optim.add(total, part)
        assert total is not None
        return total

    # ------------------------------------------------------------------ saving

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the run goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        counts = {}
        for network, optimisers in _NETWORKS.items():
            tensors |= _flatten(network, getattr(self, network))
            for name in optimisers:
                state = getattr(self, name)
                if state is not None:
                    tensors |= optimiser_tensors(name, state)
                    counts[name] = state.t
        for name, streams in {**self.streams, "environment": self.env.streams}.items():
            tensors[f"streams/{name}"] = torch.from_numpy(streams.counter.astype(np.int64))
        tensors["env_steps"] = torch.from_numpy(self.env_steps)
        values: dict[str, Any] = {
            "episode": self.episode,
            "iteration": self.iteration,
            "optimiser_steps": counts,
        }
        if self.tau is not None:
            tensors |= _flatten("tau", self.tau.tensors())
            values["tau"] = {"k": self.tau.k, "max_rows": self.tau.max_rows, "epsilon": self.tau.epsilon}
        return tensors, values

    def _fresh_state(self) -> fitting.State:
        """What :meth:`state` gives before the first iteration."""
        tensors, values = self.state()
        return tensors, {name: value for name, value in values.items() if name != "tau"}

    def _held(self, values: dict[str, Any]) -> list[fitting.Group]:
        """The episodes to learn from next, by plain values of a checkpoint."""
        fitting.check_like("", {"iteration": 0}, values)
        held = self.is_metagrad and self.config.designer.pipeline and values["iteration"] > 0
        c, n = self.config, self.config.game.n_agents
        rows = c.game.max_steps * c.k
        if held:
            fitting.check_like("tau", {"k": c.k, "max_rows": rows, "epsilon": 0.0}, values.get("tau"))
            if (values["tau"]["k"], values["tau"]["max_rows"]) != (c.k, rows):
                raise fitting.MisfitError(f"tau must be of {c.k} episodes and {rows} rows at most")
        elif "tau" in values:
            raise fitting.MisfitError("tau is unknown")
        width, seen = (self.env.obs[who].shape[-1] for who in ("agents", "designer"))
        lengths = {
            "S": len(c.seeds), "A": n, "D": width, "L": self.env.n_actions, "E": seen + n * self.env.n_actions,
        }  # fmt: skip
        return [fitting.Group("tau", Batch.AXES, lengths, held, DTYPES[c.dtype])]

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        MisfitError
            If it is of another learner; nothing is changed then.
        """
        fitting.check(self._fresh_state(), self._held(values), (tensors, values))
        device = self.config.device
        tensors = {name: t.clone() for name, t in tensors.items()}
        for name, streams in {**self.streams, "environment": self.env.streams}.items():
            streams.counter[:] = tensors.pop(f"streams/{name}").numpy().astype(np.uint64)
        self.env_steps = tensors.pop("env_steps").numpy().copy()
        tensors = {name: t.to(device) for name, t in tensors.items()}
        counts = values["optimiser_steps"]
        for network, optimisers in _NETWORKS.items():
            names = list(getattr(self, network))
            setattr(self, network, _unflatten(tensors, network, names))
            for name in optimisers:
                if name in counts:
                    setattr(self, name, load_optimiser_state(tensors, name, names, counts[name]))
        if "tau" in values:
            self.tau = Batch(**(values["tau"] | _unflatten(tensors, "tau", Batch.AXES)))
        self.episode, self.iteration = values["episode"], values["iteration"]
        self._evaluation = None

    def diverged(self) -> np.ndarray:
        """Whether any parameter of a seed is no longer finite, bool ``[S]``."""
        n = len(self.config.seeds)
        bad = torch.zeros(n, dtype=torch.bool, device=self.config.device)
        for network in _NETWORKS:
            for p in getattr(self, network).values():
                bad |= ~p.reshape(n, -1).isfinite().all(1)
        return bad.cpu().numpy()


def optimiser_tensors(name: str, state: optim.AdamState) -> dict[str, Tensor]:
    """The moments of an optimiser, named for a checkpoint."""
    return _flatten(f"{name}/m", state.m) | _flatten(f"{name}/v", state.v)


def load_optimiser_state(tensors: dict[str, Tensor], name: str, names: Iterable[str], t: int) -> optim.AdamState:
    """Inverse of :func:`optimiser_tensors`; ``names`` are those of the parameters, in their order."""
    names = list(names)
    return optim.AdamState(_unflatten(tensors, f"{name}/m", names), _unflatten(tensors, f"{name}/v", names), t)


def _flatten(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": t for name, t in tensors.items()}


def _unflatten(tensors: dict[str, Tensor], prefix: str, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: tensors[f"{prefix}/{name}"] for name in names}
