"""The agents' losses in closed form at the logits, and the one masked softmax with exploration.

Rows are those of networks: tensors ``[G, R, L]`` with G networks, R rows and L actions. The differentiable twin
:func:`log_probabilities` is for oracles and for users' own losses.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, kernel

_FEW = 8


class Softmax(NamedTuple):
    """A policy's probabilities ``[G, R, L]``: of the softmax, and mixed with uniform exploration."""

    p: Tensor
    mixed: Tensor


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits with those of illegal actions at the smallest finite number."""
    return logits if mask is None else logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; for few actions action by action, which takes a quarter of the library's time."""
    if logits.shape[-1] > _FEW:
        return logits.softmax(-1)
    top = functools.reduce(torch.maximum, logits.unbind(-1))
    raised = (logits - top[..., None]).exp()
    return raised / functools.reduce(torch.add, raised.unbind(-1))[..., None]


def probabilities(logits: Tensor, epsilon: float, mask: Tensor | None = None) -> Softmax:
    """Softmax over the legal actions, and ``(1 - ε) p + ε / legal``, the policy that acts."""
    p = softmax(masked(logits, mask))
    if epsilon == 0:
        return Softmax(p, p)
    if mask is None:
        return Softmax(p, (1 - epsilon) * p + epsilon / p.shape[-1])
    return Softmax(p, (1 - epsilon) * p + epsilon * (mask / mask.sum(-1, keepdim=True).to(p.dtype)))


def log_probabilities(logits: Tensor, epsilon: float, mask: Tensor | None = None) -> Tensor:
    """Log-probabilities of the acting policy, differentiable; those of illegal actions are the smallest number."""
    log_p = masked(logits, mask).log_softmax(-1)
    if epsilon == 0:
        return log_p
    least = torch.finfo(logits.dtype).min
    mixed = probabilities(logits, epsilon, mask).mixed
    if mask is None:
        return mixed.log()
    return mixed.masked_fill(~mask, 1.0).log().masked_fill(~mask, least)


def chosen(x: Tensor, actions: Tensor) -> Tensor:
    """The entries of ``x [G, R, L]`` that ``actions [G, R]`` name, ``[G, R]``."""
    return x.gather(-1, actions[..., None])[..., 0]


def score(policy: Softmax, actions: Tensor, epsilon: float) -> Tensor:
    """Derivative of the log-probability of the chosen actions with respect to the logits, ``[G, R, L]``."""
    index = actions[..., None]
    out = policy.p.neg().scatter_add_(-1, index, torch.ones_like(index, dtype=policy.p.dtype))
    if epsilon == 0:
        return out
    taken = policy.p.gather(-1, index) / policy.mixed.gather(-1, index).clamp_min(torch.finfo(out.dtype).tiny)
    return out * ((1 - epsilon) * taken)


def entropy_gradient(policy: Softmax, epsilon: float) -> Tensor:
    """Derivative of the entropy of the acting policy with respect to the logits, ``[G, R, L]``."""
    p_log = policy.p * policy.mixed.clamp_min(torch.finfo(policy.p.dtype).tiny).log()
    out = policy.p * p_log.sum(-1, keepdim=True) - p_log
    return out if epsilon == 0 else (1 - epsilon) * out


def some_log(logits: Tensor) -> Tensor:
    """Log-probabilities that can be multiplied by probabilities, those of illegal actions too."""
    return logits.log_softmax(-1).clamp_min(-100.0)


def bend(p: Tensor, score: Tensor, along: Tensor) -> Tensor:
    """Change of a score's expectation when the logits move ``along [G, R, L]``, which is overwritten.

    With the policy move both the score of an action and how often it is taken.
    """
    likelier, mean = (torch.linalg.vecdot(x, along)[..., None] for x in (score, p))
    return along.sub_(mean).mul_(p).neg_().addcmul_(score, likelier)


def entropy_bend(log_p: Tensor, along: Tensor) -> Tensor:
    """Change of the entropy's derivative by the logits when they move ``along [G, R, L]``."""
    p = log_p.exp()
    level = (p * log_p).sum(-1, keepdim=True)
    away = along - (p * along).sum(-1, keepdim=True)
    return p * ((p * away * log_p).sum(-1, keepdim=True) - away * (1 + log_p - level))


class Acting(NamedTuple):
    """What a policy makes of rows in which actions were taken."""

    log_prob: Tensor  # [G, R], of the actions
    score: Tensor  # [G, R, L], its derivative by the logits
    entropy_gradient: Tensor | None  # [G, R, L], derivative of the entropy by the logits


def acting(logits: Tensor, mask: Tensor | None, actions: Tensor, epsilon: float, entropy: bool = False) -> Acting:
    """All of it in one go; on a CPU by compiled code.

    Parameters
    ----------
    logits : Tensor ``[G, R, L]``
    mask : Tensor, optional
        Legal actions.
    actions : Tensor ``[G, R]``
    epsilon : float
        Share of uniform exploration.
    entropy : bool
        Whether the entropy's derivative is asked for.
    """
    if logits.device.type != "cpu" or PURE_PYTHON:
        policy = probabilities(logits, epsilon, mask)
        gradient = entropy_gradient(policy, epsilon) if entropy else None
        return Acting(chosen(policy.mixed, actions).log(), score(policy, actions, epsilon), gradient)
    rows = logits.detach().flatten(0, 1).contiguous().numpy()
    legal = np.empty((0, rows.shape[1]), np.bool_) if mask is None else mask.flatten(0, 1).contiguous().numpy()
    log_prob, scores = np.empty(len(rows), rows.dtype), np.empty_like(rows)
    slopes = np.empty_like(rows) if entropy else rows[:0]
    taken = actions.flatten().contiguous().numpy()
    _act(rows, legal, taken, epsilon, np.empty((2, rows.shape[1]), rows.dtype), log_prob, scores, slopes)
    return Acting(
        torch.from_numpy(log_prob).view(logits.shape[:2]),
        torch.from_numpy(scores).view(logits.shape),
        torch.from_numpy(slopes).view(logits.shape) if entropy else None,
    )


@kernel
def _act(logits, mask, actions, epsilon, room, log_prob, score, entropy_gradient):
    n, masked, least = logits.shape[1], len(mask) > 0, 2.0**-1000
    p, log_m = room
    for b in range(len(logits)):
        top, legal, total = logits.dtype.type(-np.inf), 0, logits.dtype.type(0)
        for a in range(n):
            if not masked or mask[b, a]:
                top, legal = max(top, logits[b, a]), legal + 1
        for a in range(n):  # the exponential of 0 is known
            p[a] = 0.0 if masked and not mask[b, a] else np.exp(logits[b, a] - top) if logits[b, a] != top else 1.0
            total += p[a]
        taken, everyone, log_total = actions[b], epsilon / legal, np.log(total)
        for a in range(n):
            p[a] /= total
        share = 1.0
        if epsilon == 0:
            log_prob[b] = logits[b, taken] - top - log_total
        else:
            mixed = (1 - epsilon) * p[taken] + (everyone if not masked or mask[b, taken] else 0.0)
            log_prob[b] = np.log(mixed)
            share = (1 - epsilon) * p[taken] / max(mixed, least)
        for a in range(n):
            score[b, a] = share * ((a == taken) - p[a])
        if len(entropy_gradient):
            mean = 0.0
            for a in range(n):
                if p[a] > 0:
                    log_m[a] = logits[b, a] - top - log_total
                    if epsilon > 0:
                        log_m[a] = np.log((1 - epsilon) * p[a] + everyone)
                    mean += p[a] * log_m[a]
            for a in range(n):
                entropy_gradient[b, a] = (1 - epsilon) * p[a] * (mean - log_m[a]) if p[a] > 0 else 0.0


def entropy(log_p: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy ``[G, R]`` of log-probabilities, differentiable."""
    safe = log_p if mask is None else log_p.masked_fill(~mask, 0.0)
    return -(log_p.exp() * safe).sum(-1)


def active_ratio(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """What multiplies ``advantage * score`` in the gradient of the clipped surrogate (Schulman et al., 2017).

    It is the probability ratio to the policy that acted, and 0 where the loss is clipped.
    """
    free = ratio * advantages <= ratio.clamp(1 - clip, 1 + clip) * advantages
    return ratio * free


def clipped_gain(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate itself, differentiable."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
