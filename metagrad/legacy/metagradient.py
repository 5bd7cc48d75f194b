"""The designer's gradient through the agents' learning steps.

:func:`forward_metagradient` is exact and needs no second-order graph: the adjoint of the updated parameters is
carried back through the optimiser, one Jacobian-vector product gives a number for every agent and time step,
and what is left is a first-order pass through the incentives. :func:`unrolled_metagradient` differentiates
the same chain by automatic differentiation; it is the oracle.

Exact where the agents' loss depends on η through weights of the score function alone, computed with fixed critic
values: policy gradient, actor-critic, the first step of PPO. Not for several clipped epochs on one batch or
critics trained on incentives within the step; use the unrolled form there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metagrad.legacy import optim
from metagrad.legacy.nets import Params


@dataclass(frozen=True)
class InnerStep:
    """One learning step of the agents, as it was taken.

    Attributes
    ----------
    grads : dict
        Gradient that the step used.
    state : Any
        Optimiser state before the step.
    score_jvp : callable
        ``u -> d``: derivative of the log-probability of every chosen action along ``u``.
    weights_vjp : callable
        ``d -> ∇_η Σ_t d_t w_t(η)``, with the loss's own normalisation.
    hessian_vector : callable, optional
        ``u -> H u`` with the Hessian of the agents' loss; needed for all steps but the first.
    """

    grads: Params
    state: Any
    score_jvp: Callable[[Params], Tensor]
    weights_vjp: Callable[[Tensor], Params]
    hessian_vector: Callable[[Params], Params] | None = None


def forward_metagradient(steps: Sequence[InnerStep], optimiser: optim.Optimiser, adjoint: Params) -> Params:
    """``∇_η J(θ_M(η))`` for M inner steps.

    Parameters
    ----------
    steps : sequence of InnerStep
        In the order in which they were taken.
    optimiser : SGD or Adam
        The agents' optimiser.
    adjoint : dict
        ``∇_θ J`` at the parameters after the last step.
    """
    total: Params | None = None
    state_adjoint: Any = None
    for j in reversed(range(len(steps))):
        step = steps[j]
        u, state_adjoint = optimiser.pullback(step.grads, step.state, adjoint, state_adjoint)
        part = step.weights_vjp(step.score_jvp(u))
        total = part if total is None else optim.add(total, part)
        if j:
            if step.hessian_vector is None:
                raise ValueError(f"inner step {j} of {len(steps)} has no Hessian-vector product")
            adjoint = optim.add(adjoint, step.hessian_vector(u), -1.0)
    if total is None:
        raise ValueError("a meta-gradient needs at least one inner step")
    return total


def unrolled_metagradient(
    losses: Sequence[Callable[[Params, Params], Tensor]],
    optimiser: optim.Optimiser,
    theta: Params,
    state: Any,
    objective: Callable[[Params], Tensor],
    eta: Params,
) -> Params:
    """The same by automatic differentiation through the updates.

    Parameters
    ----------
    losses : sequence of callable
        ``loss_j(η, θ)``, the agents' loss on batch j.
    optimiser, state
        The agents' optimiser and its state before the first step.
    theta : dict
        Parameters before the first step.
    objective : callable
        ``J(θ)`` on the validation batch.
    eta : dict
        The designer's parameters.
    """
    eta = {name: p.detach().requires_grad_() for name, p in eta.items()}
    params = {name: p.detach().requires_grad_() for name, p in theta.items()}
    for loss in losses:
        grads = torch.autograd.grad(loss(eta, params), list(params.values()), create_graph=True)
        params, state = optimiser.step(params, dict(zip(params, grads, strict=True)), state)
    result = torch.autograd.grad(objective(params), list(eta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(eta, result, strict=True))
