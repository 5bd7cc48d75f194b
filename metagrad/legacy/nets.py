"""Stacked multilayer perceptrons with hand-written derivatives.

Parameters are a dict ``w0, b0, w1, b1, ...`` of tensors ``[G, in, out]`` and ``[G, 1, out]``: G independent
networks (seeds times agents) side by side, applied by batched matrix products. The three functions here, value,
vector-Jacobian product and Jacobian-vector product, are all that the learner needs of a network: everything
above the logits has a closed form. No autograd graph is built; for networks as small as these it would
take several times longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Params = dict[str, Tensor]


def init_mlp(
    generators: Sequence[np.random.Generator],
    n: int,
    sizes: Sequence[int],
    *,
    output_bias: bool = True,
    init: str = "tf1",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Params:
    """Draw ``n`` networks from each generator, stacked generator by generator.

    Parameters
    ----------
    generators : sequence of numpy.random.Generator
        One a seed; a seed's networks depend on its generator alone.
    n : int
        Networks a seed.
    sizes : sequence of int
        Widths from the input to the output.
    output_bias : bool
        Whether the last layer has a bias.
    init : {"tf1", "torch"}
        ``tf1``: Glorot-uniform kernels, zero biases. ``torch``: uniform in ± 1 / sqrt(fan-in), both.
    """
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        limit = np.sqrt(6 / (fan_in + fan_out)) if init == "tf1" else 1 / np.sqrt(fan_in)
        kernel = [g.uniform(-limit, limit, (n, fan_in, fan_out)) for g in generators]
        params[f"w{layer}"] = torch.tensor(np.concatenate(kernel), device=device, dtype=dtype)
        if output_bias or layer < len(sizes) - 2:
            bias = [
                g.uniform(-limit, limit, (n, 1, fan_out)) if init == "torch" else np.zeros((n, 1, fan_out))
                for g in generators
            ]
            params[f"b{layer}"] = torch.tensor(np.concatenate(bias), device=device, dtype=dtype)
    return params


def init_normal(
    generators: Sequence[np.random.Generator],
    n: int,
    sizes: Sequence[int],
    *,
    deviation: float,
    bias: float | None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Params:
    """Draw networks with normal kernels and constant biases, or none; otherwise like :func:`init_mlp`."""
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        kernel = [g.normal(0.0, deviation, (n, fan_in, fan_out)) for g in generators]
        params[f"w{layer}"] = torch.tensor(np.concatenate(kernel), device=device, dtype=dtype)
        if bias is not None:
            shape = (n * len(generators), 1, fan_out)
            params[f"b{layer}"] = torch.full(shape, bias, device=device, dtype=dtype)
    return params


def forward(params: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs ``[G, R, out]`` for rows ``x [G, R, in]``, and the inputs of every layer."""
    layers = n_layers(params)
    inputs = [x]
    for i in range(layers):
        x = _affine(x, params[f"w{i}"], params.get(f"b{i}"))
        if i < layers - 1:
            x = x.relu_() if not x.requires_grad else x.relu()
            inputs.append(x)
    return x, inputs


def vjp(params: Params, inputs: list[Tensor], d_out: Tensor) -> Params:
    """Gradient of ``sum(d_out * outputs)`` with respect to the parameters."""
    grads: Params = {}
    for i in reversed(range(n_layers(params))):
        grads[f"w{i}"] = torch.bmm(inputs[i].transpose(1, 2), d_out)
        if f"b{i}" in params:
            grads[f"b{i}"] = d_out.sum(1, keepdim=True)
        if i:
            d_out = _where_active(torch.bmm(d_out, params[f"w{i}"].transpose(1, 2)), inputs[i])
    return {name: grads[name] for name in params}


def squared_norms(params: Params, inputs: list[Tensor], d_out: Tensor) -> Tensor:
    """Squared length of each row's own gradient of ``(d_out * outputs).sum(-1)``, ``[G, R]``."""
    total = torch.zeros_like(d_out[..., 0])
    for i in reversed(range(n_layers(params))):
        total = total + (_row_squares(inputs[i]) + float(f"b{i}" in params)) * _row_squares(d_out)
        if i:
            d_out = _where_active(torch.bmm(d_out, params[f"w{i}"].transpose(1, 2)), inputs[i])
    return total


def jvp(params: Params, inputs: list[Tensor], tangent: Params) -> Tensor:
    """Change of the outputs, ``[G, R, out]``, when the parameters move along ``tangent``."""
    moved = _affine(inputs[0], tangent["w0"], tangent.get("b0"))
    for i in range(1, n_layers(params)):
        own = _affine(inputs[i], tangent[f"w{i}"], tangent.get(f"b{i}"))
        moved = torch.baddbmm(own, _where_active(moved, inputs[i]), params[f"w{i}"])
    return moved


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function. Unlike ``torch.sigmoid``, whose last bit depends on an element's place in the tensor."""
    return (1 + torch.exp(-x.clamp_min(-80.0))).reciprocal()


def sigmoid_slope(x: Tensor, value: Tensor) -> Tensor:
    """Derivative of :func:`sigmoid` at ``x``; not 0 where ``value`` has rounded to 1."""
    return value * (value * torch.exp(-x.clamp_min(-80.0)))


def n_layers(params: Params) -> int:
    """Number of affine layers."""
    return sum(name.startswith("w") for name in params)


def _row_squares(x: Tensor) -> Tensor:
    """Squared length of each row; by a batched product, which unlike a reduction treats all members alike."""
    return torch.bmm(x * x, x.new_ones(len(x), x.shape[2], 1))[..., 0]


def _affine(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return torch.bmm(x, w) if b is None else torch.baddbmm(b, x, w)


def _where_active(d: Tensor, activation: Tensor) -> Tensor:
    """``d`` where the unit fired, else 0."""
    return torch.ops.aten.threshold_backward(d, activation, 0.0)
