"""The agents' policy-gradient loss and its derivatives in closed form at the logits.

Rows are (time, episode) pairs, time-major: tensors ``[G, R, L]`` with G networks, R = T * K rows and L actions.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Softmax(NamedTuple):
    """A policy's probabilities ``[G, R, L]``: of the softmax, and mixed with uniform exploration."""

    p: Tensor
    mixed: Tensor


def probabilities(logits: Tensor, epsilon: float) -> Softmax:
    """Softmax ``p`` and ``(1 - ε) p + ε / L``, the policy that acts."""
    p = logits.softmax(-1)
    return Softmax(p, p if epsilon == 0 else (1 - epsilon) * p + epsilon / p.shape[-1])


def score(policy: Softmax, onehot: Tensor, epsilon: float) -> Tensor:
    """Derivative of the log-probability of the chosen actions with respect to the logits, ``[G, R, L]``."""
    if epsilon == 0:
        return onehot - policy.p
    taken = (onehot * policy.p).sum(-1, keepdim=True) / (onehot * policy.mixed).sum(-1, keepdim=True).clamp_min(
        torch.finfo(policy.p.dtype).tiny
    )
    return (1 - epsilon) * taken * (onehot - policy.p)


def entropy_gradient(policy: Softmax, epsilon: float) -> Tensor:
    """Derivative of the entropy of the acting policy with respect to the logits, ``[G, R, L]``."""
    p_log = torch.special.xlogy(policy.p, policy.mixed)
    return (1 - epsilon) * (policy.p * p_log.sum(-1, keepdim=True) - p_log)


def policy_gradient_loss(
    logits: Tensor, onehot: Tensor, weights: Tensor, alive: Tensor, entropy: float, epsilon: float, k: int
) -> Tensor:
    """Sum over networks of ``(1 / K) Σ_t [-w_t log π(a_t) - c H_t]``, for automatic differentiation.

    Sums over the steps of an episode, a mean over the K episodes (metagrad specification, 2.1 and 7.1).
    """
    log_p = logits.log_softmax(-1)
    if epsilon:
        log_p = ((1 - epsilon) * log_p.exp() + epsilon / logits.shape[-1]).log()
    chosen = (onehot * log_p).sum(-1)
    h = -(log_p.exp() * log_p).sum(-1)
    return -((weights * chosen + entropy * alive * h).sum()) / k


def discounted_returns(rewards: Tensor, gamma: float, k: int) -> Tensor:
    """``G_t = Σ_{j >= t} γ^{j-t} r_j`` of rewards ``[..., T * K]``, time-major.

    By recursion, so that trailing zero rows do not change a bit.
    """
    steps = rewards.unflatten(-1, (-1, k)).unbind(-2)
    out = [steps[-1]]
    for r in reversed(steps[:-1]):
        out.append(torch.add(r, out[-1], alpha=gamma))
    return torch.cat(out[::-1], -1)


def returns_transposed(weights: Tensor, gamma: float, k: int) -> Tensor:
    """``b_j = Σ_{t <= j} γ^{j-t} d_t``: the derivative of ``Σ_t d_t G_t`` with respect to the rewards."""
    steps = weights.unflatten(-1, (-1, k)).unbind(-2)
    out = [steps[0]]
    for d in steps[1:]:
        out.append(torch.add(d, out[-1], alpha=gamma))
    return torch.cat(out, -1)


def sum_over_agents(x: Tensor) -> Tensor:
    """Sum over axis 1, agent by agent: a library's reduction orders its terms by the shape of the whole tensor."""
    return functools.reduce(torch.add, x.unbind(1))


def leave_one_out(returns: Tensor, k: int) -> Tensor:
    """Returns minus the mean over the other K-1 episodes at the same time step; unchanged for K = 1."""
    if k == 1:
        return returns
    by_time = returns.unflatten(-1, (-1, k))
    others = (by_time.sum(-1, keepdim=True) - by_time) / (k - 1)
    return (by_time - others).flatten(-2)
