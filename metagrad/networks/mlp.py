"""Stacked multilayer perceptrons with hand-written passes.

Parameters are a dict ``w0, b0, w1, b1, ...`` of tensors ``[G, in, out]`` and ``[G, 1, out]``: G independent networks
side by side. For networks as small as these an autograd graph would take several times longer than the arithmetic.
:func:`metagrad.compiled.passes.compiled` says which go through compiled passes; others are batched matrix passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metagrad.checks import Checked, NonNegative, Positive, Widths
from metagrad.compiled import passes
from metagrad.networks.base import Obs, Shapes, Where, joined_inputs, width_of
from metagrad.optim import Params


@dataclass(frozen=True)
class Normal(Checked):
    """Initial parameters with normal kernels and constant biases, or none at all.

    Parameters
    ----------
    deviation : float
        Of the kernels.
    bias : float, optional
        Of every unit; None for layers without biases.
    """

    deviation: NonNegative
    bias: float | None = None


@dataclass(frozen=True)
class MLP(Checked):
    """A multilayer perceptron with rectified hidden layers on all observations, flattened and joined.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers; empty for a linear map.
    output_bias : bool
        Whether the last layer has a bias.
    initial : {"glorot", "torch"} or Normal
        Initial parameters: Glorot-uniform kernels and zero biases; uniform in ``± 1 / sqrt(fan_in)``, both; or normal.
    head_scale : float
        Factor of the last layer's initial kernel: small first logits keep a policy close to uniform.
    """

    hidden: Widths = (64, 32)
    output_bias: bool = True
    initial: Literal["glorot", "torch"] | Normal = "glorot"
    head_scale: Positive = 1.0
    stacks = True
    sequential = False

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw ``n`` networks from each generator, stacked generator by generator."""
        sizes = (width_of(shapes), *self.hidden, outputs)
        if not sizes[0]:
            raise ValueError(f"an MLP needs something to read, but its observations are {shapes}")
        params: Params = {}
        for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = layer == len(sizes) - 2
            kernel, bias = self._draw(generators, n, fan_in, fan_out)
            if last and self.head_scale != 1:
                kernel = kernel * self.head_scale
            params[f"w{layer}"] = torch.tensor(kernel, device=where.device, dtype=where.dtype)
            if bias is not None and (self.output_bias or not last):
                params[f"b{layer}"] = torch.tensor(bias, device=where.device, dtype=where.dtype)
        return params

    def _draw(
        self, generators: Sequence[np.random.Generator], n: int, fan_in: int, fan_out: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        shape, scheme = (n, fan_in, fan_out), self.initial
        if isinstance(scheme, Normal):
            kernel = np.concatenate([g.normal(0.0, scheme.deviation, shape) for g in generators])
            bias = None if scheme.bias is None else np.full((len(kernel), 1, fan_out), scheme.bias)
            return kernel, bias
        limit = np.sqrt(6 / (fan_in + fan_out)) if scheme == "glorot" else 1 / np.sqrt(fan_in)
        kernels, biases = [], []
        for g in generators:
            kernels.append(g.uniform(-limit, limit, shape))
            small = (n, 1, fan_out)
            biases.append(g.uniform(-limit, limit, small) if scheme == "torch" else np.zeros(small))
        return np.concatenate(kernels), np.concatenate(biases)

    @torch.no_grad()
    def forward(self, params: Params, obs: Obs, steps: int = 1) -> MLPForward:
        """Run the networks; no autograd graph is built."""
        return MLPForward(params, joined_inputs(obs, params["w0"].dtype))

    def begin(self, params: Params, obs: Obs, n_rows: int) -> MLPForward | None:
        """A pass over rows that come part by part, ``n_rows`` of each network in all; None where it would differ."""
        x = joined_inputs(obs, params["w0"].dtype)
        return MLPForward.begun(params, n_rows, x.shape[2]) if passes.compiled(x, layers_of(params)) else None

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        x = joined_inputs(obs, params["w0"].dtype)
        layers = n_layers(params)
        for i in range(layers):
            x = affine(x, params[f"w{i}"], params.get(f"b{i}"))
            if i < layers - 1:
                x = x.relu()
        return x


class MLPForward:
    """A forward pass of stacked perceptrons; see :class:`metagrad.networks.base.Forward`.

    Attributes
    ----------
    inputs : list of Tensor ``[G, R, width]``
        What each layer reads.
    """

    independent = True  # of a pass that was begun
    _compiled: passes.Pass | None
    _filled: int

    def __init__(self, params: Params, x: Tensor) -> None:
        layers = layers_of(params)
        if passes.compiled(x, layers):
            whole = passes.Pass(layers, x.contiguous())
            whole.fill()
            self._hold(params, whole)
            return
        self.params, self.inputs, self._compiled = params, [x], None
        for i, (w, b) in enumerate(layers):
            x = affine(x, w, b)
            if i < len(layers) - 1:
                x = x.relu_()
                self.inputs.append(x)
        self.out = x

    def _hold(self, params: Params, compiled: passes.Pass) -> None:
        self.params, self.inputs, self.out, self._compiled = params, compiled.inputs, compiled.out, compiled

    @classmethod
    def begun(cls, params: Params, n_rows: int, width: int) -> MLPForward:
        """A compiled pass over ``n_rows`` rows to come."""
        made = cls.__new__(cls)
        like = params["w0"]
        made._hold(params, passes.Pass(layers_of(params), like.new_empty(like.shape[0], n_rows, width)))
        made._filled = 0
        return made

    def add(self, obs: Obs) -> Tensor:
        """Take in the next rows; returns their outputs."""
        x = joined_inputs(obs, self.out.dtype)
        first, self._filled = self._filled, self._filled + x.shape[1]
        self.inputs[0][:, first : self._filled] = x
        assert self._compiled is not None
        self._compiled.fill(first, self._filled)
        return self.out[:, first : self._filled]

    def finish(self) -> MLPForward:
        """The pass over the rows that came."""
        if self._filled == self.out.shape[1]:
            return self
        return MLPForward(self.params, self.inputs[0][:, : self._filled])

    @property
    def seen(self) -> Obs:
        """What all rows show."""
        return {"obs": self.inputs[0]}

    @classmethod
    def of(cls, params: Params, out: Tensor, inputs: list[Tensor]) -> MLPForward:
        """A pass whose numbers are known."""
        made = cls.__new__(cls)
        made.params, made.out, made.inputs, made._compiled = params, out, inputs, None
        return made

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        grads: Params = {}
        if self._compiled:
            for i, (w, b) in enumerate(self._compiled.gradients(d_out)):
                grads |= {f"w{i}": w} if b is None else {f"w{i}": w, f"b{i}": b}
            return grads
        with torch.no_grad():
            for i, x, delta in self.deltas(d_out):
                grads |= self.layer_grads(i, x, delta)
        return {name: grads[name] for name in self.params}

    @torch.no_grad()
    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``; one product a layer."""
        grads: Params = {}
        for i, x, delta in self.deltas(d_out):
            grads |= self.layer_vjps(i, x, delta, weights)
        return {name: grads[name] for name in self.params}

    @torch.no_grad()
    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""
        total = torch.zeros_like(d_out[..., 0])
        for i, x, delta in self.deltas(d_out):
            total = total + (row_squares(x) + float(f"b{i}" in self.params)) * row_squares(delta)
        return total

    @torch.no_grad()
    def jvp(self, tangent: Params, moved_input: Tensor | None = None) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``, and with them the first inputs of a row."""
        if self._compiled:
            return self._compiled.tangents(layers_of(tangent))
        moved = affine(self.inputs[0], tangent["w0"], tangent.get("b0"))
        if moved_input is not None:
            moved = product(moved_input, self.params["w0"][:, : moved_input.shape[2]], moved)
        for i in range(1, len(self.inputs)):
            own = affine(self.inputs[i], tangent[f"w{i}"], tangent.get(f"b{i}"))
            moved = product(where_active(moved, self.inputs[i]), self.params[f"w{i}"], own)
        return moved

    def deltas(self, d: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """From the last layer to the first: its number, its input, and the derivative by what it gives."""
        for i in reversed(range(len(self.inputs))):
            yield i, self.inputs[i], d
            if i:
                d = where_active(product(d, self.params[f"w{i}"].transpose(1, 2)), self.inputs[i])

    def layer_grads(self, i: int, x: Tensor, delta: Tensor) -> Params:
        """Gradient of layer ``i``, as :meth:`deltas` gives it."""
        grads = {f"w{i}": product(x.transpose(1, 2), delta)}
        if f"b{i}" in self.params:
            grads[f"b{i}"] = column_sums(delta)
        return grads

    def layer_vjps(self, i: int, x: Tensor, delta: Tensor, weights: Tensor) -> Params:
        """Gradients ``[J, G, ...]`` of layer ``i`` for all weights ``[G, R, J]``."""
        weighted = (weights[..., None] * delta[:, :, None]).flatten(2)  # [G, R, J * out]
        each = product(x.transpose(1, 2), weighted).unflatten(-1, (weights.shape[-1], delta.shape[-1]))
        grads = {f"w{i}": each.permute(2, 0, 1, 3)}
        if f"b{i}" in self.params:
            grads[f"b{i}"] = product(weights.transpose(1, 2), delta).transpose(0, 1)[:, :, None]
        return grads


def n_layers(params: Params) -> int:
    """Number of affine layers."""
    return sum(name.startswith("w") for name in params)


def layers_of(params: Params) -> list[passes.Layer]:
    """Matrix and bias of every layer."""
    biases = ((f"w{i}", params.get(f"b{i}")) for i in range(n_layers(params)))
    return [(params[w].contiguous(), b if b is None else b.contiguous()) for w, b in biases]


def product(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``a b``, plus ``c`` if given, matrix by matrix, with the same bits however many there are.

    A single product with a vector is computed in another way by the library, so it is given a twin.
    """
    if a.shape[0] == 1 and 1 in (a.shape[1], b.shape[2]):
        return product(*(x if x is None else x.expand(2, -1, -1) for x in (a, b, c)))[:1]  # type: ignore[arg-type]
    return torch.bmm(a, b) if c is None else torch.baddbmm(c, a, b)


def affine(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """``x w + b`` network by network."""
    return product(x, w, b)


def where_active(d: Tensor, activation: Tensor) -> Tensor:
    """``d`` where the rectified unit fired, else 0; ``d`` itself is changed, which saves a walk through memory."""
    return torch.ops.aten.threshold_backward.grad_input(d, activation, 0.0, grad_input=d)


def row_squares(x: Tensor) -> Tensor:
    """Squared length of each row; by a batched product, which unlike a reduction treats all members alike."""
    return product(x * x, x.new_ones(len(x), x.shape[2], 1))[..., 0]


def column_sums(x: Tensor) -> Tensor:
    """Sums over the rows of each network, ``[G, 1, width]``; by a batched product, as :func:`row_squares`."""
    return product(x.new_ones(len(x), 1, x.shape[1]), x)
