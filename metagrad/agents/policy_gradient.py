"""Selfish agents that learn by policy gradients: REINFORCE, actor-critic and PPO in one class.

With ``critic=None`` and ``gae_lambda=1`` an action is judged by its return, with ``gae_lambda=0`` by the temporal
difference of one step, in between by generalised advantages; with ``minibatches`` or ``epochs`` above 1 the loss is the
clipped surrogate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad import estimators, losses, optim
from metagrad.agents.base import Adjoint, AgentState, Credit, Interface, Step
from metagrad.agents.critics import Critic
from metagrad.batch import Batch, Rows
from metagrad.checks import Checked, Count, NonNegative, PositiveShare, Share, Widths
from metagrad.networks.base import Forward, Network, Obs, Where
from metagrad.networks.mlp import MLP
from metagrad.optim import Params
from metagrad.schedules import Linear, value_at
from metagrad.streams import Streams


class Pass(NamedTuple):
    """A policy on the rows of a batch."""

    forward: Forward
    policy: losses.Softmax
    score: Tensor  # [G, R, L], derivative of log π(a) by the logits


@dataclass(frozen=True)
class PolicyGradientAgents(Checked):
    """Agents that follow the gradient of what they earn and are paid.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers of the default network.
    optimiser : SGD or Adam
        How the policies take their steps.
    network : Network, optional
        Network of a policy, in place of a multilayer perceptron.
    share_parameters : bool
        One network for all agents of a seed, or one each.
    gamma, gae_lambda : float
        Discount, and decay of generalised advantages.
    entropy : float or Linear
        Weight of the entropy bonus; a schedule goes by training episodes.
    exploration : float or Linear
        Share of uniform exploration among the legal actions; a schedule goes by iterations.
    critic : Critic, optional
        Value function; None for returns without a baseline.
    terminal : {"zero", "bootstrap"}
        What stands for the rewards after an episode that was cut off: nothing, or the critic's value.
    normalise : bool
        Subtract the mean of a batch's advantages and divide by their deviation.
    reduction : {"episode", "rows"}
        Losses are sums over the steps of an episode and means over episodes, or means over all rows.
    epochs, minibatches : int
        Passes over a batch, and steps in each, on mixed rows.
    clip : float
        Clipping range of the probability ratio, idle in the first step on a batch.
    """

    hidden: Widths = (64, 32)
    optimiser: optim.Optimiser = field(default_factory=lambda: optim.SGD(0.05))
    network: Network | None = None
    share_parameters: bool = False
    gamma: Share = 0.99
    gae_lambda: Share = 1.0
    entropy: NonNegative | Linear = 0.01
    exploration: Share | Linear = 0.0
    critic: Critic | None = None
    terminal: Literal["zero", "bootstrap"] = "zero"
    normalise: bool = False
    reduction: Literal["episode", "rows"] = "episode"
    epochs: Count = 1
    minibatches: Count = 1
    clip: PositiveShare = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy.sequential:
            raise ValueError(
                "a network with a memory cannot be a policy, which is asked step by step: use it as a critic"
            )

    @property
    def policy(self) -> Network:
        """The network of a policy."""
        return MLP(self.hidden) if self.network is None else self.network

    @property
    def rows(self) -> Rows:
        """How networks read what is kept by agent."""
        return Rows(self.share_parameters)

    @property
    def decay(self) -> float:
        """What an advantage loses of a reward for every step in between."""
        return self.gamma * self.gae_lambda

    @property
    def one_step(self) -> bool:
        """Whether a batch is learned from in one step, where every probability ratio is 1."""
        return self.epochs * self.minibatches == 1

    @property
    def keeps_passes(self) -> bool:
        """Whether passes of the acting policy may serve a designer.

        They may where the agents themselves learn from mixed rows: a run that is resumed computes the passes of
        pending episodes anew, all rows at once, and its last bits must not differ.
        """
        return self.minibatches > 1

    # ------------------------------------------------------------------ acting

    def init(self, game: Interface, rng: Streams, where: Where, purpose: str = "parameters") -> AgentState:
        """Draw networks for every seed."""
        generators, n = rng.generators(purpose), 1 if self.share_parameters else game.n_agents
        shapes = {name: shape for name, shape in game.agents.items() if name != "mask"}
        policy = self.policy.init(generators, n, shapes, game.n_actions, where)
        critic = None if self.critic is None else self.critic.init(generators, n, shapes, where)
        return AgentState(policy, self.optimiser.init(policy), critic)

    def epsilon(self, iteration: int) -> float:
        """Share of uniform exploration in this iteration."""
        return value_at(self.exploration, iteration)

    def act(self, state: AgentState, obs: Obs) -> Forward:
        """Logits for one step of all copies."""
        return self.policy.forward(state.policy, obs)

    def values(self, state: AgentState, batch: Batch) -> Tensor | None:
        """Values of the critics, 0 where none counts."""
        if self.critic is None or state.critic is None:
            return None
        out = self._critic_pass(state, batch).out[..., 0]
        like = torch.empty(len(batch.actions), batch.actions.shape[1] + 1, *batch.actions.shape[2:], device="meta")
        return self.rows.back(out, like) * batch.valued(self.terminal)[..., None]

    def _critic_pass(self, state: AgentState, batch: Batch) -> Forward:
        assert self.critic is not None
        assert state.critic is not None
        critic, held, steps = self.critic, state.critic, batch.actions.shape[1] + 1
        return batch.remember("critic", held.params, lambda: critic.forward(held, batch.seen(), steps))

    # ------------------------------------------------------------------ learning

    def update(self, state: AgentState, batch: Batch, rng: Streams) -> tuple[AgentState, list[Step]]:
        """Take the steps that a batch is good for, critics beside policies."""
        advantages = self.advantages(batch, batch.total_rewards)
        weight, steps = self.entropy_weight(state, batch), []
        targets = self._targets(state, batch)
        for rows in self._minibatches(batch, rng):
            critic = self._critic_step(state, batch, rows, targets)
            policy, opt, step = self._policy_step(state.policy, state.policy_opt, batch, rows, advantages, weight)
            state = state._replace(policy=policy, policy_opt=opt, critic=critic)
            steps.append(step)
        return state._replace(batches=state.batches + 1), steps

    def replay(
        self, state: AgentState, steps: Sequence[Step], batches: Sequence[Batch]
    ) -> tuple[AgentState, list[Step]]:
        """Take the same policy steps from ``state`` on batches with other payments; critics are left as they are."""
        taken = []
        for step, batch in zip(steps, batches, strict=True):
            advantages = self.advantages(batch, batch.total_rewards)
            policy, opt, new = self._policy_step(
                state.policy, state.policy_opt, batch, step.rows, advantages, step.entropy
            )
            state = state._replace(policy=policy, policy_opt=opt)
            taken.append(new)
        return state, taken

    def entropy_weight(self, state: AgentState, batch: Batch) -> float:
        """Weight of the entropy bonus in the steps on this batch."""
        return value_at(self.entropy, state.batches * batch.k)

    def _policy_step(
        self, policy: Params, opt: Any, batch: Batch, rows: Tensor | None, advantages: Tensor, entropy: float
    ) -> tuple[Params, Any, Step]:
        seen = self._pass(policy, batch, rows)
        weights, alive = self._pick(self.rows.of(advantages), rows), self._alive(batch, rows)
        score = seen.score
        if not self.one_step:
            log_prob = losses.chosen(seen.policy.mixed, self._pick(self.rows.of(batch.actions), rows)).log()
            ratio = (log_prob - self._pick(self.rows.of(batch.log_prob), rows)).exp()
            score = score * losses.active_ratio(ratio, weights, self.clip)[..., None]
        d_logits = weights[..., None] * score
        if entropy:
            d_logits += losses.entropy_gradient(seen.policy, batch.epsilon) * (entropy * alive)[..., None]
        grads = seen.forward.vjp(d_logits * -self._scale(batch, alive))
        new, after = self.optimiser.step(policy, grads, opt)
        return new, after, Step(batch, rows, seen.forward, score, advantages, grads, opt, entropy)

    def _pass(self, policy: Params, batch: Batch, rows: Tensor | None = None) -> Pass:
        """A policy on a batch, or on some of its rows; kept with the batch if on all."""
        if rows is None:
            return batch.remember("policy", policy, lambda: self._make_pass(policy, batch, None))
        return self._make_pass(policy, batch, rows)

    def _make_pass(self, policy: Params, batch: Batch, rows: Tensor | None) -> Pass:
        obs = {name: self._pick(x, rows) for name, x in batch.obs.items()}
        joined = batch.memo.get("acted")
        if rows is None and joined is not None and joined[0] is policy:
            forward = joined[1]
        else:
            forward = self.policy.forward(policy, obs, batch.actions.shape[1])
        acting = losses.probabilities(forward.out, batch.epsilon, obs.get("mask"))
        actions = self._pick(self.rows.of(batch.actions), rows)
        return Pass(forward, acting, losses.score(acting, actions, batch.epsilon))

    @staticmethod
    def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
        """Some rows ``[m]`` of every network, or ``[G, m]`` of each."""
        if rows is None:
            return x
        if rows.dim() == 1 or len(rows) == 1:
            return x[:, rows.flatten()]
        return x[torch.arange(len(rows), device=x.device)[:, None], rows]

    def _alive(self, batch: Batch, rows: Tensor | None) -> Tensor:
        return self._pick(self.rows.of(batch.agents_alive), rows)

    def _scale(self, batch: Batch, alive: Tensor) -> Tensor | float:
        """What the loss multiplies its sum over rows by."""
        if self.reduction == "episode":
            return 1.0 / batch.k
        return (1.0 / estimators.sum_over_seed(alive))[:, None, None]

    def row_scale(self, batch: Batch, rows: Tensor) -> Tensor | float:
        """What stands for the loss's own factor where some rows stand for all, ``[G, 1, 1]`` or a number."""
        if self.reduction == "episode":
            return self.rows.of(batch.actions).shape[1] / len(rows) / batch.k
        return self._scale(batch, self._alive(batch, rows))

    def _minibatches(self, batch: Batch, rng: Streams) -> Iterator[Tensor | None]:
        """Rows of each minibatch, drawn without replacement; None for all.

        Rows of an episode are much alike, so they are mixed; only a recurrent critic needs whole sequences.
        """
        steps = batch.actions.shape[1]
        n = next(iter(batch.obs.values())).shape[1]
        whole = self.critic is not None and self.critic.network.sequential
        for _ in range(self.epochs):
            if self.minibatches == 1:
                yield None
                continue
            order = rng.uniforms("shuffles", n // steps if whole else n).argsort(1)
            for part in np.array_split(order, self.minibatches, axis=1):
                rows = np.sort(part, axis=1)
                if whole:
                    rows = (np.arange(steps)[:, None] * (n // steps) + rows[:, None]).reshape(len(rows), -1)
                each = len(batch.obs[next(iter(batch.obs))]) // len(rows)
                yield torch.from_numpy(rows.repeat(each, 0)).to(batch.alive.device)

    # ------------------------------------------------------------------ advantages and critics

    def advantages(self, batch: Batch, rewards: Tensor) -> Tensor:
        """Advantages of the actions under these rewards ``[S, T, K, A]``, differentiable in them."""
        raw = self.raw_advantages(batch, rewards)
        if not self.normalise:
            return raw
        return estimators.normalise(raw, batch.alive, estimators.moments(raw, batch.alive))

    def raw_advantages(self, batch: Batch, rewards: Tensor) -> Tensor:
        """The same before they are normalised; 0 after the end of an episode."""
        advantages = estimators.gae(rewards, batch.values, self.gamma, self.gae_lambda)
        return advantages if batch.values is None else advantages * batch.alive[..., None]

    def advantage_std(self, batch: Batch) -> Tensor:
        """What the advantages of a batch are divided by, ``[S, 1, 1, 1]``."""
        if not self.normalise:
            return batch.alive.new_ones(len(batch.alive), 1, 1, 1)
        raw = self.raw_advantages(batch, batch.total_rewards)
        return estimators.moments(raw, batch.alive).std + estimators.GUARD

    def _targets(self, state: AgentState, batch: Batch) -> Tensor | None:
        """What the critics learn, ``[G, R]``: λ-returns by the target network."""
        if self.critic is None or state.critic is None:
            return None
        assert batch.values is not None
        later = batch.values
        if self.critic.target_tau < 1:
            out = self.critic.targets(state.critic, batch.seen(), later.shape[1], self.rows.of(later))
            later = self.rows.back(out, later) * batch.valued(self.terminal)[..., None]
        rewards = batch.total_rewards
        return self.rows.of(estimators.gae(rewards, later, self.gamma, self.gae_lambda) + later[:, :-1])

    def _critic_step(self, state: AgentState, batch: Batch, rows: Tensor | None, targets: Tensor | None) -> Any:
        if self.critic is None or state.critic is None or targets is None:
            return state.critic
        alive = self._alive(batch, rows)
        count = alive.sum(1, keepdim=True)
        if rows is not None:
            obs = {name: self._pick(x, rows) for name, x in batch.obs.items() if name != "mask"}
            steps = batch.actions.shape[1]
            forward = self.critic.forward(state.critic, obs, steps)
            error = (forward.out[..., 0] - self._pick(targets, rows)) * alive
            return self.critic.step(state.critic, forward, error, count)
        forward = self._critic_pass(state, batch)
        error = torch.zeros_like(forward.out[..., 0])
        n = targets.shape[1]
        error[:, :n] = (forward.out[:, :n, 0] - targets) * alive
        return self.critic.step(state.critic, forward, error, count)

    # ------------------------------------------------------------------ what a designer may ask

    def score_vjp(self, state: AgentState, batch: Batch, weights: Tensor) -> Params:
        """``∇_θ Σ weights · log π(a|o)`` for weights ``[S, T, K, A]``."""
        seen = self._pass(state.policy, batch)
        return seen.forward.vjp(self.rows.of(weights)[..., None] * seen.score)

    def score_vjps(self, policy: Params, batch: Batch, weights: Tensor, rows: Tensor) -> Params:
        """The same for J sets of weights at once, on some of the rows: ``[G, R, J]`` to ``[J, G, ...]``."""
        seen = self._pass(policy, batch, rows)
        return seen.forward.vjps(seen.score, weights)

    def log_prob(self, state: AgentState, batch: Batch) -> Tensor:
        """Log-probabilities of what was done, ``[S, T, K, A]``."""
        seen = self._pass(state.policy, batch)
        return self.rows.back(losses.chosen(seen.policy.mixed, self.rows.of(batch.actions)).log(), batch.actions)

    def score_norms(self, state: AgentState, batch: Batch, obs: Obs | None = None) -> Tensor:
        """``||∇_θ log π||²`` of every action, ``[S, T, K, A]``; at other observations than the agents' if given."""
        if obs is not None:
            seen = self._make_pass(state.policy, batch.replace(obs=obs, memo={}), None)
        else:
            seen = self._pass(state.policy, batch)
        return self.rows.back(seen.forward.row_norms(seen.score), batch.actions)

    def backward(self, step: Step, adjoint: Adjoint) -> tuple[Credit, Adjoint]:
        """Carry an adjoint back through a step of the policy; critics' values are held fixed."""
        batch = step.batch
        u, opt = self.optimiser.pullback(step.grads, step.opt, adjoint.params, adjoint.opt)
        d = (step.forward.jvp(u) * step.score).sum(-1)
        alive = self._alive(batch, step.rows)
        scale = self._scale(batch, alive)
        d = d * (scale if isinstance(scale, float) else scale[..., 0])
        if step.rows is not None:
            full = d.new_zeros(len(d), next(iter(batch.obs.values())).shape[1])
            d = full.scatter_(1, step.rows.expand(len(d), -1), d)
        credit = self._credit(batch, self.rows.back(d, batch.actions))
        if adjoint.last:
            return credit, Adjoint(adjoint.params, opt)
        params = optim.add(adjoint.params, self.hessian_vector(step, u), -1.0)
        return credit, Adjoint(params, opt)

    def _credit(self, batch: Batch, d: Tensor) -> Credit:
        """Transpose of the advantages at the batch's own rewards."""
        fixed = raw = d
        if self.normalise:
            x = self.raw_advantages(batch, batch.total_rewards)
            by = estimators.moments(x, batch.alive)
            fixed = estimators.centred(d, batch.alive, by)
            raw = estimators.normalise_transposed(d, x, batch.alive, by)
        if batch.values is not None:
            raw = raw * batch.alive[..., None]
        return Credit(fixed, estimators.discounted_sums_transposed(raw, self.decay), self.decay)

    def hessian_vector(self, step: Step, u: Params) -> Params:
        """Hessian of the loss of a step times ``u``, by forward over reverse differentiation."""
        grad = torch.func.grad(lambda p: self.loss(p, step.batch, step.advantages, step.entropy, step.rows))
        return torch.func.jvp(grad, (step.forward.params,), (u,))[1]

    def loss(
        self, policy: Params, batch: Batch, advantages: Tensor, entropy: float | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """The loss that a step descends, summed over networks, for automatic differentiation.

        Parameters
        ----------
        policy : dict
        batch : Batch
        advantages : Tensor ``[S, T, K, A]``
        entropy : float, optional
            Weight of the entropy bonus, by default that at the beginning.
        rows : Tensor, optional
            Those of a minibatch.
        """
        entropy = value_at(self.entropy, 0) if entropy is None else entropy
        obs = {name: self._pick(x, rows) for name, x in batch.obs.items()}
        logits = self.policy(policy, obs, batch.actions.shape[1])
        log_p = losses.log_probabilities(logits, batch.epsilon, obs.get("mask"))
        acted = losses.chosen(log_p, self._pick(self.rows.of(batch.actions), rows))
        weights, alive = self._pick(self.rows.of(advantages), rows), self._alive(batch, rows)
        if self.one_step:
            gain = acted * weights
        else:
            ratio = (acted - self._pick(self.rows.of(batch.log_prob), rows)).exp()
            gain = losses.clipped_gain(ratio, weights, self.clip)
        total = gain + entropy * alive * losses.entropy(log_p, obs.get("mask"))
        scale = self._scale(batch, alive)
        return -(total * (scale if isinstance(scale, float) else scale[..., 0])).sum()
