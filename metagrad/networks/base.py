"""What the learner needs of a network: three passes, none of which builds an autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metagrad.optim import Params

#: Observations of networks, ``[G, R, ...]`` each: G networks side by side, R rows.
Obs = dict[str, Tensor]
#: Shapes of one row of each observation, masks left out.
Shapes = dict[str, tuple[int, ...]]


class Where(NamedTuple):
    """Where parameters live, and of what type they are."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class Forward(Protocol):
    """One forward pass: its outputs, and the way back. The graph-free counterpart of an autograd tape."""

    params: Params
    out: Tensor  # [G, R, outputs]

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``, ``[G, R, outputs]``."""

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j of ``weights [G, R, J]``, ``[J, G, ...]``."""

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""


class Network(Protocol):
    """A network; its parameters are stacked, ``[G, ...]``."""

    stacks: bool  # whether several networks side by side cost less than one after the other
    sequential: bool  # whether it reads rows as sequences, step-major, so that they cannot be mixed

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw ``n`` networks from each generator, stacked generator by generator."""

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> Forward:
        """Run the networks on rows of ``steps`` steps, step-major; no autograd graph is built."""

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs ``[G, R, outputs]``, differentiable: for oracles and users' own losses."""

    def join(self, parts: Sequence[Forward], obs: Obs) -> Forward | None:
        """One pass over the rows of ``parts`` one after the other, or None where that is better computed anew."""


def inputs_of(obs: Obs) -> Obs:
    """What a network reads: all but the mask, in the order of their names."""
    return {name: obs[name] for name in sorted(obs) if name != "mask"}


def joined_inputs(obs: Obs, dtype: torch.dtype) -> Tensor:
    """All observations but the mask as one matrix for each network, ``[G, R, width]``."""
    parts = [x.flatten(2).to(dtype) for x in inputs_of(obs).values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def width_of(shapes: Shapes) -> int:
    """Numbers in a row of all observations but the mask."""
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "mask")


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function. Unlike ``torch.sigmoid``, whose last bit depends on an element's place in the tensor."""
    return (1 + torch.exp(-x.clamp_min(-80.0))).reciprocal()


def sigmoid_grad(x: Tensor, value: Tensor) -> Tensor:
    """Derivative of :func:`sigmoid` at ``x``; not 0 where ``value`` has rounded to 1."""
    return value * (value * torch.exp(-x.clamp_min(-80.0)))
