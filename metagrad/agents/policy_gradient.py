"""Selfish agents that learn by policy gradients: REINFORCE, actor-critic and PPO in one class.

With ``critic=None`` and ``gae_lambda=1`` an action is judged by its return, with ``gae_lambda=0`` by the temporal
difference of one step, in between by generalised advantages; with ``minibatches`` or ``epochs`` above 1 the loss is the
clipped surrogate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad import losses
from metagrad.agents.base import AgentState, Step
from metagrad.agents.derivatives import Differentiated
from metagrad.batch import Batch
from metagrad.optim import Params, value_at
from metagrad.parallel import group
from metagrad.streams import Streams


def mixed_rows(batch: Batch, minibatches: int, whole: bool, rng: Streams) -> Iterator[Tensor]:
    """Rows ``[G, M]`` of each minibatch, drawn without replacement.

    Rows of an episode are much alike, so they are mixed; ``whole`` keeps sequences together. Every seed shares out its
    own living rows, by uniforms for all steps up to the limit: how many steps a batch has depends on the other seeds.
    Processes that share the episodes draw one order for all rows and take those that they hold. As many are given
    whatever the seeds have, with -1 where one has fewer.
    """
    (steps, k), (networks, n) = batch.actions.shape[1:3], next(iter(batch.obs.values())).shape[:2]
    across = n // steps // k  # rows of an episode in a step
    alive = group.gathered(batch.alive, 2) if rng.parts > 1 else batch.alive
    limit, living = (1, torch.ones_like(alive[:, :1])) if whole else (batch.horizon, alive)
    of_all = living[..., None].expand(*living.shape, across).flatten(1).cpu().numpy() > 0
    uniform = rng.uniforms("shuffles", limit * k * rng.parts * across)[:, : of_all.shape[1]]
    orders = [order[mine[order]] for order, mine in zip(uniform.argsort(1), of_all, strict=True)]
    shares = [np.array_split(order, minibatches) for order in (*orders, np.arange(of_all.shape[1]))]
    for *part, most in zip(*shares, strict=True):
        found = [_held(mine, k, across, rng.parts) for mine in part]
        rows = np.full((len(found), len(most) if rng.parts == 1 else max(map(len, found))), -1)
        for row, mine in zip(rows, found, strict=True):
            row[: len(mine)] = mine
        if whole:
            later = np.arange(steps)[:, None] * (n // steps)
            rows = np.where(rows[:, None] < 0, -1, rows[:, None] + later).reshape(len(rows), -1)
        yield torch.from_numpy(rows.repeat(networks // len(rows), 0)).to(batch.alive.device)


def _held(rows: np.ndarray, k: int, across: int, parts: int) -> np.ndarray:
    """Of rows ``(step, episode, agent)`` of all episodes those of the ``k`` held here, as they lie here."""
    step, episode = np.divmod(rows // across, k * parts)
    place = episode - group.share(k * parts).start
    here = (place >= 0) & (place < k)
    return np.sort(((step * k + place) * across + rows % across)[here])


@dataclass(frozen=True)
class PolicyGradientAgents(Differentiated):
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
        Weight of the entropy bonus; a schedule goes by the episodes learned from.
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

    # ------------------------------------------------------------------ learning

    def update(self, state: AgentState, batch: Batch, rng: Streams) -> tuple[AgentState, list[Step]]:
        """Take the steps that a batch is good for, critics beside policies."""
        advantages = self.advantages(batch, batch.total_rewards)
        weight, steps = self.entropy_weight(state, batch), []
        targets = self._targets(state, batch)
        for rows in self._rows_of_steps(batch, rng):
            critic = self._critic_step(state, batch, rows, targets)
            policy, opt, step = self._policy_step(state.policy, state.policy_opt, batch, rows, advantages, weight)
            state = state._replace(policy=policy, policy_opt=opt, critic=critic)
            steps.append(step)
        return state._replace(batches=state.batches + 1), steps

    def _rows_of_steps(self, batch: Batch, rng: Streams) -> Iterator[Tensor | None]:
        """Rows of every step on a batch; None for all."""
        whole = self.critic is not None and self.critic.network.sequential  # such a critic needs whole sequences
        for _ in range(self.epochs):
            yield from (None,) if self.minibatches == 1 else mixed_rows(batch, self.minibatches, whole, rng)

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
        return value_at(self.entropy, state.batches * batch.k * group.size())

    def _policy_step(
        self, policy: Params, opt: Any, batch: Batch, rows: Tensor | None, advantages: Tensor, entropy: float
    ) -> tuple[Params, Any, Step]:
        seen = self._pass(policy, batch, rows)
        weights, alive = self._counted(self.rows.of(advantages), rows), self._alive(batch, rows)
        score = seen.acting.score
        if not self.one_step:
            ratio = (seen.acting.log_prob - self._pick(self.rows.of(batch.log_prob), rows)).exp()
            score = score * losses.active_ratio(ratio, weights, self.clip)[..., None]
        count = self._count(batch, alive)
        each = -1.0 / count.clamp_min(1)
        d_logits = (weights * each)[..., None] * score
        if entropy:
            assert seen.acting.entropy_gradient is not None
            d_logits.addcmul_(seen.acting.entropy_gradient, (alive * (entropy * each))[..., None])
        grads = seen.forward.vjp(d_logits)
        grads = group.means_of_rows(grads, count)
        new, after = self.optimiser.step(policy, grads, opt)
        return new, after, Step(batch, rows, seen.forward, score, advantages, grads, opt, entropy)
