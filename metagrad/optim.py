"""Optimiser steps as pure functions, what the meta-gradient needs of them, and schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, kernel
from metagrad.checks import BelowOne, Checked, NonNegative, Positive
from metagrad.compiled.tiles import numbers_at

Params = dict[str, Tensor]

_TINY = 1e-30
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class AdamState(NamedTuple):
    """Moments and the number of steps done."""

    m: Params
    v: Params
    t: int


class AdamAdjoint(NamedTuple):
    """Derivatives of the designer's objective with respect to Adam's moments."""

    m: Params
    v: Params


def add(params: Params, other: Params, scale: float = 1.0) -> Params:
    """``params + scale * other``."""
    return _zip(params, torch._foreach_add(_list(params), _list(other), alpha=scale))


# ---------------------------------------------------------------------- schedules


@dataclass(frozen=True)
class Linear(Checked):
    """A quantity that goes in a straight line from one value to another, and stays there.

    Parameters
    ----------
    start, end : float
        Values at the beginning and at the end.
    over : float
        How long the line is, in the unit of whoever asks: iterations for exploration, episodes learned from for the
        entropy bonus, an optimiser's own steps for its learning rate.
    after : float
        When it begins, in the same unit.
    """

    start: NonNegative
    end: NonNegative
    over: Positive
    after: NonNegative = 0.0

    def __call__(self, done: float) -> float:
        """The value after so much has been done."""
        return self.end + (self.start - self.end) * max(0.0, 1 - max(0.0, done - self.after) / self.over)

    def __str__(self) -> str:
        """``START:END:OVER``, with ``:AFTER`` if it begins later, as :meth:`read` takes it."""
        return f"{self.start}:{self.end}:{self.over}" + (f":{self.after}" if self.after else "")

    @classmethod
    def read(cls, text: str) -> Schedule:
        """A schedule from ``START:END:OVER[:AFTER]``, or a constant from one number; else a ``ValueError``."""
        try:
            values = [float(part) for part in text.split(":")]
        except ValueError:
            values = []
        if len(values) not in (1, 3, 4):
            raise ValueError(f"{text!r} is neither a number nor START:END:OVER[:AFTER]")
        return values[0] if len(values) == 1 else cls(*values)


Schedule = float | Linear


def value_at(schedule: Schedule, done: float) -> float:
    """Value of a schedule, or of a constant, after so much has been done."""
    return schedule(done) if isinstance(schedule, Linear) else schedule


# ---------------------------------------------------------------------- optimisers


@dataclass(frozen=True)
class SGD(Checked):
    """Plain gradient descent, ``θ - lr * g``.

    Parameters
    ----------
    lr : float or Linear
        Learning rate; a schedule goes by the steps done.
    """

    lr: NonNegative | Linear

    def init(self, params: Params) -> int | None:
        """The number of steps done where a schedule goes by it, else no state."""
        return 0 if isinstance(self.lr, Linear) else None

    def step(self, params: Params, grads: Params, state: int | None) -> tuple[Params, int | None]:
        """One step."""
        return add(params, grads, -value_at(self.lr, state or 0)), None if state is None else state + 1

    def pullback(self, grads: Params, state: int | None, adjoint: Params, state_adjoint: None):
        """Carry the adjoint of the new parameters back to ``-g``; see :meth:`Adam.pullback`."""
        return _zip(adjoint, torch._foreach_mul(_list(adjoint), value_at(self.lr, state or 0))), None

    def pushforward(
        self,
        grads: Params,
        state: int | None,
        d_params: Params,
        d_m: Params,
        d_grads: Params,
        steps: int = 1,
        memory: float = 1.0,
    ) -> tuple[Params, Params]:
        """Carry tangents forward through steps with this tangent of the gradient; see :meth:`Adam.pushforward`."""
        moved = value_at(self.lr, state or 0) * steps
        return {name: memory * p - moved * d_grads[name] for name, p in d_params.items()}, d_m

    def squared_length(self, grads: Params, state: int | None, d_params: Params) -> Tensor:
        """``Σ d² / step`` of a tangent, ``[G]``; see :meth:`Adam.squared_length`."""
        lr = value_at(self.lr, state or 0)
        return sum(d.square().flatten(1).sum(1) for d in d_params.values()) / lr  # type: ignore[return-value]


@dataclass(frozen=True)
class Adam(Checked):
    """Adam with the step index starting at 1.

    Parameters
    ----------
    lr : float or Linear
        Learning rate; a schedule goes by the steps done.
    beta1, beta2, eps : float
        As usual.
    eps_mode : {"torch", "tf1"}
        Whether ``eps`` is added after the bias correction of the second moment, or before.
    stop_second_moment : bool
        Whether :meth:`pullback` and a differentiated :meth:`step` leave out the dependence of the second moment on
        the gradient, as the published code does. Exact by default.
    """

    lr: NonNegative | Linear
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    eps: NonNegative = 1e-8
    eps_mode: Literal["torch", "tf1"] = "torch"
    stop_second_moment: bool = False

    def init(self, params: Params) -> AdamState:
        """Zero moments."""
        m, v = ({name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2))
        return AdamState(m, v, 0)

    def _corrections(self, t: int) -> tuple[float, float]:
        """Scale of the update and of ``sqrt(v)`` at step ``t``: update = scale * m / (root * sqrt(v) + eps)."""
        lr, first, second = value_at(self.lr, t - 1), 1 - self.beta1**t, (1 - self.beta2**t) ** 0.5
        return (lr / first, 1 / second) if self.eps_mode == "torch" else (lr * second / first, 1.0)

    def step(self, params: Params, grads: Params, state: AdamState) -> tuple[Params, AdamState]:
        """One step; differentiable in ``params``, ``grads`` and the moments."""
        t = state.t + 1
        scale, root = self._corrections(t)
        g = _list(grads)
        if _compiled((*g, *params.values(), *state.m.values())):
            numbers = (1 - self.beta1, self.beta2, 1 - self.beta2, -scale, root, self.eps)
            after = [_zip(params, x) for x in _adam_step(params, grads, state, numbers)]
            return after[0], AdamState(after[1], after[2], t)
        squared = [x.detach() for x in g] if self.stop_second_moment else g
        m = torch._foreach_lerp(_list(state.m), g, 1 - self.beta1)
        v = torch._foreach_mul(_list(state.v), self.beta2)
        v = torch._foreach_addcmul(v, squared, squared, 1 - self.beta2)
        # The floor is far below eps; it gives units that never fired a derivative of 0 instead of 0 * inf.
        sqrt_v = torch._foreach_sqrt(torch._foreach_clamp_min(v, _TINY))
        denominator = torch._foreach_add(torch._foreach_mul(sqrt_v, root), self.eps)
        # The derivative of _foreach_addcdiv fails for some shapes.
        new = torch._foreach_add(_list(params), torch._foreach_div(m, denominator), alpha=-scale)
        return _zip(params, new), AdamState(_zip(params, m), _zip(params, v), t)

    def pullback(
        self, grads: Params, state: AdamState, adjoint: Params, state_adjoint: AdamAdjoint | None
    ) -> tuple[Params, AdamAdjoint]:
        """Carry adjoints of the new parameters and moments back through one step.

        Parameters
        ----------
        grads : dict
            The gradient ``g`` that the step used.
        state : AdamState
            State *before* the step.
        adjoint : dict
            Derivative of the objective with respect to the new parameters.
        state_adjoint : AdamAdjoint or None
            The same for the new moments, where later steps used them.

        Returns
        -------
        u : dict
            Derivative of the objective with respect to ``-g``.
        state_adjoint : AdamAdjoint
            Derivative with respect to the moments before the step.
        """
        scale, root = self._corrections(state.t + 1)
        u: Params = {}
        back_m: Params = {}
        back_v: Params = {}
        for name, g in grads.items():
            m = torch.lerp(state.m[name], g, 1 - self.beta1)
            v = self.beta2 * state.v[name] + (1 - self.beta2) * g * g
            sqrt_v = v.clamp_min(_TINY).sqrt()
            denominator = root * sqrt_v + self.eps
            d_m = -scale * adjoint[name] / denominator
            d_v = scale * adjoint[name] * m * root / (2 * denominator**2 * sqrt_v) * (v > _TINY)
            if state_adjoint is not None:
                d_m, d_v = d_m + state_adjoint.m[name], d_v + state_adjoint.v[name]
            d_g = (1 - self.beta1) * d_m
            if not self.stop_second_moment:
                d_g = d_g + 2 * (1 - self.beta2) * g * d_v
            u[name] = -d_g
            back_m[name], back_v[name] = self.beta1 * d_m, self.beta2 * d_v
        return u, AdamAdjoint(back_m, back_v)

    def pushforward(
        self,
        grads: Params,
        state: AdamState,
        d_params: Params,
        d_m: Params,
        d_grads: Params,
        steps: int = 1,
        memory: float = 1.0,
    ) -> tuple[Params, Params]:
        """Carry tangents of parameters, first moment and gradient forward through steps with this tangent.

        The second moment is held fixed at that of the step given: after some hundred steps its derivative is about a
        hundredth of the whole. Tangents may have leading axes of their own.

        Parameters
        ----------
        grads, state
            Gradient of the (last) step, and the state before it.
        d_params, d_m, d_grads : dict
            Tangents of parameters and first moment before the steps, and of the gradient in each.
        steps : int
            Number of steps.
        memory : float
            Share of the parameters' tangent that is kept.

        Returns
        -------
        d_params, d_m : dict
            Tangents of the parameters and of the first moment after the steps.
        """
        kept = self.beta1**steps
        echo = self.beta1 * (1 - kept) / (1 - self.beta1)  # of the old moment in the sum of the new ones
        after: Params = {}
        moment: Params = {}
        for name, step in _step_sizes(self, grads, state):
            moment[name] = torch.lerp(d_m[name], d_grads[name], 1 - kept)
            total = (d_grads[name] * (steps - echo)).add_(d_m[name], alpha=echo)
            after[name] = total.mul_(-step).add_(d_params[name], alpha=memory)
        return after, moment

    def squared_length(self, grads: Params, state: AdamState, d_params: Params) -> Tensor:
        """``Σ d² / step`` of a tangent of the parameters, ``[G]``, by the step that each takes for a gradient of 1.

        In this metric the steps go downhill, so that a quadratic loss with second derivative h along the tangent takes
        a share of ``h / squared_length`` away from it in each.
        """
        sizes = _step_sizes(self, grads, state)
        return sum((d_params[name].square() / size).flatten(1).sum(1) for name, size in sizes)  # type: ignore[return-value]


Optimiser = SGD | Adam


def _step_sizes(adam: Adam, grads: Params, state: AdamState) -> Iterator[tuple[str, Tensor]]:
    """By parameter, what a step multiplies the first moment by."""
    scale, root = adam._corrections(state.t + 1)
    for name, g in grads.items():
        v = adam.beta2 * state.v[name] + (1 - adam.beta2) * g * g
        yield name, scale / (root * v.clamp_min(_TINY).sqrt() + adam.eps)


def _list(params: Params) -> list[Tensor]:
    return list(params.values())


def _zip(like: Params, values) -> Params:
    return dict(zip(like, values, strict=True))


# ---------------------------------------------------------------------- compiled


def _compiled(tensors: Sequence[Tensor]) -> bool:
    """Whether there is compiled code for a step on these, which are not differentiated."""
    plain = not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    return plain and not PURE_PYTHON and all(x.is_cpu for x in tensors)


def _adam_step(params: Params, grads: Params, state: AdamState, numbers: Sequence[float]) -> list[list[Tensor]]:
    """Parameters and moments after a step, in one walk through memory; each number as in the step by torch."""
    dtype = next(iter(params.values())).dtype
    every = ((of[name] for name in params) for of in (params, grads, state.m, state.v))
    given = [[x if x.dtype is dtype and x.is_contiguous() else x.to(dtype).contiguous() for x in of] for of in every]
    made = [[torch.empty_like(p) for p in given[0]] for _ in range(3)]
    table = [[p.numel() for p in given[0]], *([x.data_ptr() for x in row] for row in (*given, *made))]
    _adam(np.array(table), np.array(numbers, _NUMPY[dtype]))
    return made


@kernel
def _adam(table, numbers):
    share, kept, added, scale, root, eps = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    for row in range(table.shape[1]):
        for first in range(0, table[0, row], 1024):
            # One loop for each result, from 0 on: else the compiler gives up on vectors.
            at, n = first * numbers.itemsize, min(1024, table[0, row] - first)
            p, g = numbers_at(table[1, row] + at, numbers), numbers_at(table[2, row] + at, numbers)
            m, v = numbers_at(table[3, row] + at, numbers), numbers_at(table[4, row] + at, numbers)
            new_p, new_m = numbers_at(table[5, row] + at, numbers), numbers_at(table[6, row] + at, numbers)
            new_v = numbers_at(table[7, row] + at, numbers)
            for i in range(n):
                new_m[i] = m[i] + share * (g[i] - m[i])
            for i in range(n):
                new_v[i] = v[i] * kept + added * g[i] * g[i]
            for i in range(n):
                new_p[i] = p[i] + scale * (new_m[i] / (root * np.sqrt(new_v[i]) + eps))
