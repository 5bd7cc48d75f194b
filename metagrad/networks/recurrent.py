"""A recurrent critic: a trunk on pictures and vectors, a recurrent layer (LSTM) on what it gives, and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad.checks import Checked
from metagrad.networks.base import Obs, Shapes, Where
from metagrad.networks.conv import ConvForward, ConvTrunk, draw_layers, one_network
from metagrad.networks.module import Repeated
from metagrad.optim import Params

_CELL = ("input", "state", "input_bias", "state_bias")
_OWN = (*_CELL, "head", "head_bias")


@dataclass(frozen=True)
class RecurrentTrunk(Checked):
    """A :class:`ConvTrunk`, a recurrent layer (LSTM) as wide as the trunk's last one, and outputs.

    Each sequence starts from a state of zeros. A network with a memory serves as a critic, which reads whole episodes;
    a policy, which is asked step by step, cannot be one.

    Parameters
    ----------
    trunk : ConvTrunk
        What reads each row; the last of its ``hidden`` widths is that of the recurrent layer, and its ``head_scale`` is
        for the outputs.
    """

    trunk: ConvTrunk
    stacks = False
    sequential = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trunk.hidden:
            raise ValueError("the trunk of a RecurrentTrunk needs a hidden layer")

    @property
    def _features(self) -> ConvTrunk:
        return replace(self.trunk, hidden=self.trunk.hidden[:-1], head_scale=1.0)

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw the network: Glorot-uniform kernels, zero biases but those of the forget gate, which are 1."""
        (generator,) = one_network(generators, n, "a RecurrentTrunk")
        size = self.trunk.hidden[-1]
        params = self._features.init(generators, n, shapes, size, where)
        params |= draw_layers(generator, {"input": (4 * size, size), "state": (4 * size, size)}, where)
        params["input_bias"][:, size : 2 * size] = 1.0
        return params | draw_layers(generator, {"head": (outputs, size)}, where, self.trunk.head_scale)

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> RecurrentForward:
        """Run the network on rows of ``steps`` steps, step-major."""
        return RecurrentForward(params, self._features.forward(_trunk_of(params), obs), steps)

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        return _unroll({name: params[name][0] for name in _OWN}, self._features(_trunk_of(params), obs)[0], steps)[None]


def _trunk_of(params: Params) -> Params:
    return {name: p for name, p in params.items() if name not in _OWN}


def _unroll(params: Params, features: Tensor, steps: int) -> Tensor:
    """Outputs ``[R, n]`` for what the trunk gives before its last units, ``[R, size]``, step-major."""
    x = F.relu(features).unflatten(0, (steps, -1))
    start = x.new_zeros(1, x.shape[1], x.shape[2])
    out = torch.lstm(x, (start, start), [params[name] for name in _CELL], True, 1, 0.0, False, False, False)[0]
    return F.linear(out.flatten(0, 1), params["head"], params["head_bias"])


class RecurrentForward(Repeated):
    """A pass over sequences; see :class:`metagrad.networks.base.Forward`.

    The trunk's passes are by hand, those of the recurrent layer by automatic differentiation.
    """

    def __init__(self, params: Params, trunk: ConvForward, steps: int) -> None:
        self.params, self._trunk, self._steps = params, trunk, steps
        own = {name: params[name][0] for name in _OWN} | {"features": trunk.out[0]}
        self._leaves = {name: p.detach().requires_grad_() for name, p in own.items()}
        with torch.enable_grad():
            self._graph = self._run(self._leaves)
        self.out = self._graph.detach()[None]

    def _run(self, leaves: Params) -> Tensor:
        return _unroll(leaves, leaves["features"], self._steps)

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        found = torch.autograd.grad(self._graph, list(self._leaves.values()), d_out[0], retain_graph=True)
        grads = {name: g[None] for name, g in zip(self._leaves, found, strict=True)}
        grads |= self._trunk.vjp(grads.pop("features"))
        return {name: grads[name] for name in self.params}

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""
        moved = self._trunk.jvp({name: tangent[name] for name in self._trunk.params})[0]
        along = {name: tangent[name][0] for name in _OWN} | {"features": moved}
        # The transpose of the transpose: the library has no forward derivative of the layer.
        with torch.enable_grad():
            d_out = torch.zeros_like(self._graph, requires_grad=True)
            out = self._run(self._leaves)
            back = torch.autograd.grad(out, list(self._leaves.values()), d_out, create_graph=True)
            total = torch.stack([(g * along[name]).sum() for name, g in zip(self._leaves, back, strict=True)]).sum()
        return torch.autograd.grad(total, d_out)[0][None]
