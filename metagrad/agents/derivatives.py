"""What a designer may ask of policy-gradient agents: scores, their steps gone back through, and their loss."""

from __future__ import annotations

import torch
from torch import Tensor

from metagrad import losses, optim
from metagrad.agents.advantages import ActorCritic
from metagrad.agents.base import Adjoint, AgentState, Credit, Step
from metagrad.batch import Batch
from metagrad.networks.base import Obs
from metagrad.optim import Params, value_at
from metagrad.parallel import group


class Differentiated(ActorCritic):
    """Actor-critics whose learning steps can be differentiated."""

    def score_vjp(self, state: AgentState, batch: Batch, weights: Tensor) -> Params:
        """``∇_θ Σ weights · log π(a|o)`` for weights ``[S, T, K, A]``."""
        seen = self._pass(state.policy, batch)
        return group.means(seen.forward.vjp(self.rows.of(weights)[..., None] * seen.acting.score))

    def score_vjps(self, policy: Params, batch: Batch, weights: Tensor, rows: Tensor | None) -> Params:
        """The same for J sets of weights at once, on all rows or some: ``[G, R, J]`` to ``[J, G, ...]``."""
        seen = self._pass(policy, batch, rows)
        return group.means(seen.forward.vjps(seen.acting.score, weights))

    def stiffness(self, step: Step, moved: Params, rows: Tensor, stride: int = 1) -> Tensor:
        """Second derivative of a step's expected loss along ``moved``, ``[G]``, on the rows of every so many-th step.

        Second derivatives of the logits and uniform exploration are left out.
        """
        batch, params = step.batch, step.forward.params
        seen = self._pass(params, batch, rows)
        log_p, along = losses.some_log(self.legal(seen.forward.out, batch, rows)), seen.forward.jvp(moved)
        weights, alive = self._counted(self.rows.of(step.advantages), rows), self._alive(batch, rows)
        gain = step.entropy * alive * torch.linalg.vecdot(along, losses.entropy_bend(log_p, along))
        gain += weights * torch.linalg.vecdot(along, losses.bend(log_p.exp(), seen.acting.score, along.clone()))
        return group.mean((gain[..., None] * -self.row_scale(batch, rows, stride)).sum((1, 2)))

    def legal(self, logits: Tensor, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """Logits of a batch, or of some of its rows, with those of illegal actions masked."""
        mask = batch.obs.get("mask")
        return losses.masked(logits, None if mask is None else self._pick(mask, rows))

    def row_scale(self, batch: Batch, rows: Tensor, stride: int) -> Tensor | float:
        """What stands for the loss's own factor on the rows of every so many-th step, ``[G, 1, 1]`` or a number.

        Sums over episodes are so many times those of these steps, means over rows the means of these.
        """
        if self.reduction == "episode":
            return stride / batch.k
        return self._scale(batch, self._alive(batch, rows))

    def log_prob(self, state: AgentState, batch: Batch) -> Tensor:
        """Log-probabilities of what was done, ``[S, T, K, A]``."""
        seen = self._pass(state.policy, batch)
        return self.rows.back(seen.acting.log_prob, batch.actions)

    def score_norms(self, state: AgentState, batch: Batch, obs: Obs | None = None) -> Tensor:
        """``||∇_θ log π||²`` of every action, ``[S, T, K, A]``; at other observations than the agents' if given."""
        seen = self._pass(state.policy, batch if obs is None else batch.replace(obs=obs, memo={}))
        return self.rows.back(seen.forward.row_norms(seen.acting.score), batch.actions)

    def backward(self, step: Step, adjoint: Adjoint) -> tuple[Credit, Adjoint]:
        """Carry an adjoint back through a step of the policy; critics' values are held fixed."""
        batch = step.batch
        u, opt = self.optimiser.pullback(step.grads, step.opt, adjoint.params, adjoint.opt)
        d = (step.forward.jvp(u) * step.score).sum(-1)
        scale = self._scale(batch, self._alive(batch, step.rows))
        d = d * (scale if isinstance(scale, float) else scale[..., 0])
        if step.rows is not None:
            full = d.new_zeros(len(d), next(iter(batch.obs.values())).shape[1])
            rows = step.rows.expand(len(d), -1)
            d = full.scatter_add_(1, rows.clamp_min(0), d * (rows >= 0))
        credit = self._credit(batch, self.rows.back(d, batch.actions))
        if adjoint.last:
            return credit, Adjoint(adjoint.params, opt)
        params = optim.add(adjoint.params, self.hessian_vector(step, u), -1.0)
        return credit, Adjoint(params, opt)

    def hessian_vector(self, step: Step, u: Params) -> Params:
        """Hessian of the loss of a step times ``u``, by forward over reverse differentiation."""
        grad = torch.func.grad(lambda p: self.loss(p, step.batch, step.advantages, step.entropy, step.rows))
        return group.means(torch.func.jvp(grad, (step.forward.params,), (u,))[1])

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
        weights, alive = self._counted(self.rows.of(advantages), rows), self._alive(batch, rows)
        if self.one_step:
            gain = acted * weights
        else:
            ratio = (acted - self._pick(self.rows.of(batch.log_prob), rows)).exp()
            gain = losses.clipped_gain(ratio, weights, self.clip)
        total = gain + entropy * alive * losses.entropy(log_p, obs.get("mask"))
        scale = self._scale(batch, alive)
        return -(total * (scale if isinstance(scale, float) else scale[..., 0])).sum()
