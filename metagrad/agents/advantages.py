"""By what policy-gradient agents judge their actions: advantages, and the critics that learn beside policies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metagrad import estimators
from metagrad.agents.base import AgentState, Credit
from metagrad.agents.policies import Policies
from metagrad.batch import Batch
from metagrad.networks.base import Forward


class ActorCritic(Policies):
    """Policies whose actions are judged by advantages."""

    def values(self, state: AgentState, batch: Batch) -> Tensor | None:
        """Values of the critics, 0 where none counts."""
        if self.critic is None or state.critic is None:
            return None
        out = self._critic_pass(state, batch).out[..., 0]
        like = torch.empty(len(batch.actions), batch.actions.shape[1] + 1, *batch.actions.shape[2:], device="meta")
        return self.rows.back(out, like) * batch.agents_valued(self.terminal)

    def _critic_pass(self, state: AgentState, batch: Batch) -> Forward:
        assert self.critic is not None
        assert state.critic is not None
        critic, held, steps = self.critic, state.critic, batch.actions.shape[1] + 1
        return batch.remember("critic", held.params, lambda: critic.forward(held, batch.seen(), steps))

    def advantages(self, batch: Batch, rewards: Tensor) -> Tensor:
        """Advantages of the actions under these rewards ``[S, T, K, A]``, differentiable in them."""
        raw = self.raw_advantages(batch, rewards)
        if not self.normalise:
            return raw
        return estimators.normalise(raw, batch.agents_alive, estimators.moments(raw, batch.agents_alive))

    def raw_advantages(self, batch: Batch, rewards: Tensor) -> Tensor:
        """The same before they are normalised; 0 after the end of an episode."""
        alive = batch.agents_alive
        return estimators.gae(rewards, batch.values, self.gamma, self.gae_lambda, alive) * alive

    def advantage_std(self, batch: Batch) -> Tensor:
        """What the advantages of a batch are divided by, ``[S, 1, 1, 1]``."""
        if not self.normalise:
            return batch.alive.new_ones(len(batch.alive), 1, 1, 1)
        raw = self.raw_advantages(batch, batch.total_rewards)
        return estimators.moments(raw, batch.agents_alive).std + estimators.GUARD

    def _targets(self, state: AgentState, batch: Batch) -> Tensor | None:
        """What the critics learn, ``[G, R]``: λ-returns by the target network."""
        if self.critic is None or state.critic is None:
            return None
        assert batch.values is not None
        later = batch.values
        if self.critic.target_tau < 1:
            out = self.critic.targets(state.critic, batch.seen(), later.shape[1], self.rows.of(later))
            later = self.rows.back(out, later) * batch.agents_valued(self.terminal)
        rewards = batch.total_rewards
        return self.rows.of(
            estimators.gae(rewards, later, self.gamma, self.gae_lambda, batch.agents_alive) + later[:, :-1]
        )

    def _critic_step(self, state: AgentState, batch: Batch, rows: Tensor | None, targets: Tensor | None) -> Any:
        if self.critic is None or state.critic is None or targets is None:
            return state.critic
        alive = self._alive(batch, rows)
        count = alive.sum(1, keepdim=True)
        if rows is not None:
            obs = {name: self._pick(x, rows) for name, x in self.critic.read(batch.obs).items() if name != "mask"}
            steps = batch.actions.shape[1]
            forward = self.critic.forward(state.critic, obs, steps)
            error = (forward.out[..., 0] - self._pick(targets, rows)) * alive
            return self.critic.step(state.critic, forward, error, count)
        forward = self._critic_pass(state, batch)
        error = torch.zeros_like(forward.out[..., 0])
        n = targets.shape[1]
        error[:, :n] = (forward.out[:, :n, 0] - targets) * alive
        return self.critic.step(state.critic, forward, error, count)

    def _credit(self, batch: Batch, d: Tensor) -> Credit:
        """Transpose of the advantages at the batch's own rewards."""
        fixed = raw = d
        if self.normalise:
            x = self.raw_advantages(batch, batch.total_rewards)
            by = estimators.moments(x, batch.agents_alive)
            fixed = estimators.centred(d, batch.agents_alive, by)
            raw = estimators.normalise_transposed(d, x, batch.agents_alive, by)
        alive = batch.agents_alive
        return Credit(fixed, estimators.discounted_sums_transposed(raw * alive, self.decay) * alive, self.decay)
