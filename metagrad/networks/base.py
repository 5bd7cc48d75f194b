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
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j: ``[G, R, J]`` to ``[J, G, ...]``."""

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""


class Growing(Protocol):
    """A pass over rows that come step by step."""

    independent: bool  # whether the numbers of a row are to the bit those in a pass over any other rows

    def add(self, obs: Obs) -> Tensor:
        """Take in the next rows; returns their outputs."""

    def finish(self) -> Forward:
        """The pass over the rows that came; its ``seen`` is what :meth:`Network.forward` may be given of them."""


class Network(Protocol):
    """A network; its parameters are stacked, ``[G, ...]``.

    One that lays out observations before its passes may have a method ``read(obs, dtype)``, whose result
    :meth:`forward` takes as well, so that it is done once for a batch; and ``begin(params, obs, n_rows)``, which gives
    a :class:`Growing` pass, so that the steps of an episode need no second one, or None.
    """

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


class Sight(NamedTuple):
    """What a network on pictures reads."""

    picture: Tensor  # [G, R, h, w, C], bytes or floats
    vector: Tensor  # [G, R, F], of the network's type


def picture_of(shapes: Shapes, network: str) -> str:
    """Name of the picture ``(h, w, C)`` among the observations.

    Raises
    ------
    ValueError
        Unless there is exactly one.
    """
    found = [name for name, shape in shapes.items() if len(shape) == 3 and name != "mask"]
    if len(found) != 1:
        seen = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{network} reads one picture [h, w, C] and vectors, but the observations are {seen}")
    return found[0]


def sight_of(obs: Obs, dtype: torch.dtype) -> Sight:
    """The picture, and all other observations but the mask as one vector, in the order of their names."""
    picture, parts = None, []
    for x in inputs_of(obs).values():
        if x.dim() == 5:
            picture = x
        else:
            parts.append(x.flatten(2).to(dtype))
    assert picture is not None
    if not parts:
        return Sight(picture, picture.new_zeros(*picture.shape[:2], 0, dtype=dtype))
    return Sight(picture, parts[0] if len(parts) == 1 else torch.cat(parts, -1))


def vector_width(shapes: Shapes) -> int:
    """Numbers in a row of all observations but picture and mask."""
    return width_of({name: shape for name, shape in shapes.items() if len(shape) != 3})


def glorot(generator: np.random.Generator, shape: Sequence[int], fans: int, scale: float = 1.0) -> np.ndarray:
    """A kernel drawn uniformly in ``± sqrt(6 / fans) * scale``; ``fans`` are its inputs and outputs together."""
    limit = np.sqrt(6 / fans) * scale
    return generator.uniform(-limit, limit, tuple(shape))


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function. Unlike ``torch.sigmoid``, whose last bit depends on an element's place in the tensor."""
    return (1 + torch.exp(-x.clamp_min(-80.0))).reciprocal()


def sigmoid_grad(x: Tensor, value: Tensor) -> Tensor:
    """Derivative of :func:`sigmoid` at ``x``; not 0 where ``value`` has rounded to 1."""
    return value * (value * torch.exp(-x.clamp_min(-80.0)))
