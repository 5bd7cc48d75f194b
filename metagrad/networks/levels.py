"""Policies over ordered actions, such as hours of labour or prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metagrad.checks import Checked, Count, Positive
from metagrad.networks.base import Forward, Obs, Shapes, Where
from metagrad.networks.mlp import MLP
from metagrad.optim import Params


@dataclass(frozen=True)
class Levels(Checked):
    """Logits of a normal distribution over ordered actions, whose mean a perceptron gives.

    What an action brings says something about its neighbours, which a softmax over as many outputs has to try one by
    one. The width is fixed: the agents' hands tremble, and go on doing so.

    Parameters
    ----------
    levels : int
        Number of actions; the first stands at -1, the last at 1.
    network : MLP
        Its one output is the mean.
    width : float
        Standard deviation.
    """

    levels: Count = 101
    network: MLP = field(default_factory=lambda: MLP((32,), head_scale=0.1))
    width: Positive = 0.04
    stacks = True
    sequential = False

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw ``n`` networks from each generator, stacked generator by generator."""
        if outputs != self.levels:
            raise ValueError(f"Levels.levels must be the number of actions, {outputs}, got {self.levels}")
        return self.network.init(generators, n, shapes, 1, where)

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> LevelsForward:
        """Run the networks; no autograd graph is built."""
        return LevelsForward(self, self.network.forward(params, obs, steps))

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        return -0.5 * self.away(self.network(params, obs, steps)).square()

    def away(self, mean: Tensor) -> Tensor:
        """Distances of all actions to the mean ``[G, R, 1]``, in widths, ``[G, R, L]``."""
        place = torch.linspace(-1, 1, self.levels, dtype=mean.dtype, device=mean.device)
        return (place - mean).div_(self.width)


class LevelsForward:
    """A pass; see :class:`metagrad.networks.base.Forward`. The derivative by the mean is known, the rest the network's.

    Attributes
    ----------
    out : Tensor ``[G, R, L]``
        Logits.
    inner : Forward
        The perceptron's pass.
    slope : Tensor ``[G, R, L]``
        Derivative of the logits by the mean.
    """

    def __init__(self, levels: Levels, inner: Forward) -> None:
        self.params, self.inner = inner.params, inner
        away = levels.away(inner.out)
        self.slope = away / levels.width
        self.out = away.square_().mul_(-0.5)

    def _down(self, d_out: Tensor) -> Tensor:
        return torch.linalg.vecdot(d_out, self.slope)[..., None]

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return self.inner.vjp(self._down(d_out))

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``, ``[G, R, L]``."""
        return self.inner.jvp(tangent) * self.slope

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``."""
        return self.inner.vjps(self._down(d_out), weights)

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""
        return self.inner.row_norms(self._down(d_out))
