"""Networks on a map and a vector: convolutions, a dense layer, then dense layers on both.

:class:`Evaluation` has the passes that learning needs (outputs, vector-Jacobian and Jacobian-vector products) by hand:
one forward pass then serves the agents' gradient, the designer's, and the tangent of its meta-gradient. It goes through
the rows in chunks that stay in cache and may run on several threads; sums over chunks are taken in order, so results
do not depend on the number of threads. :func:`apply_trunk` is the same network for automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count, takewhile
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad.legacy import sparseconv
from metagrad.legacy.nets import Params

_CHUNK = 800  # rows whose activations fit the second-level cache by and large
_LEAST = 128  # rows that are worth handing to a thread
# The policy starts close to uniform: large first logits of one action drown the others for long.
_HEAD_SCALE = 0.1


def init_trunk(
    generator: np.random.Generator, channels: int, cells: int, width: int, filters: int, hidden: tuple[int, ...],
    n: int, device: str, dtype: torch.dtype, head_scale: float = _HEAD_SCALE, *,
    kernel: int = 5, convolutions: int = 2, map_width: int | None = None,
) -> Params:  # fmt: skip
    """Convolutions, a dense layer (by default as wide as the vector), then ``hidden`` on both, then ``n`` outputs."""
    map_width = width if map_width is None else map_width
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(convolutions):
        shapes[f"c{i}"] = (filters, filters if i else channels, kernel, kernel)
    shapes |= {"map": (map_width, filters * cells), **_dense(map_width + width, hidden, n)}
    return _draw(generator, shapes, device, dtype, head_scale)


def init_recurrent(
    generator: np.random.Generator, channels: int, cells: int, width: int, filters: int, hidden: tuple[int, ...],
    n: int, device: str, dtype: torch.dtype,
) -> Params:  # fmt: skip
    """A trunk without head, a recurrent layer (LSTM) as wide as the last hidden one, and ``n`` outputs."""
    *inner, size = hidden
    trunk = init_trunk(generator, channels, cells, width, filters, tuple(inner), size, device, dtype, 1.0)
    cell = _draw(generator, {"input": (4 * size, size), "state": (4 * size, size)}, device, dtype)
    cell["input_bias"][size : 2 * size] = 1.0  # the forget gate
    return {**trunk, **cell, **_draw(generator, {"head": (n, size)}, device, dtype, _HEAD_SCALE)}


def init_flat(
    generator: np.random.Generator, width: int, hidden: tuple[int, ...], device: str, dtype: torch.dtype
) -> Params:
    """A critic on the vector alone."""
    return _draw(generator, _dense(width, hidden, 1), device, dtype, _HEAD_SCALE)


def _dense(width: int, hidden: tuple[int, ...], n: int) -> dict[str, tuple[int, ...]]:
    sizes = (width, *hidden, n)
    return {f"f{i}": (b, a) for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))}


def _draw(
    generator: np.random.Generator, shapes: dict[str, tuple[int, ...]], device: str, dtype: torch.dtype,
    head_scale: float = 1.0,
) -> Params:  # fmt: skip
    """Glorot-uniform kernels and zero biases; the last layer's times ``head_scale``."""
    params: Params = {}
    for name, shape in shapes.items():
        area = int(np.prod(shape[2:]))
        limit = np.sqrt(6 / (area * (shape[0] + shape[1]))) * (head_scale if name == list(shapes)[-1] else 1)
        params[name] = torch.tensor(generator.uniform(-limit, limit, shape), device=device, dtype=dtype)
        params[f"{name}_bias"] = torch.zeros(shape[0], device=device, dtype=dtype)
    return params


# ---------------------------------------------------------------------- for automatic differentiation


def apply_trunk(params: Params, maps: Tensor, flat: Tensor) -> Tensor:
    """Outputs ``[B, n]`` for maps ``[B, h, w, C]``, of bytes or floats, and vectors ``[B, F]``."""
    # Channel-last bytes become a channels-last image without a copy in memory order.
    x = maps.permute(0, 3, 1, 2).to(flat.dtype)
    for name in _convolutions(params):
        x = F.relu(F.conv2d(x, params[name], params[f"{name}_bias"], padding=params[name].shape[-1] // 2))
    x = F.relu(F.linear(x.permute(0, 2, 3, 1).flatten(1), params["map"], params["map_bias"]))
    return apply_flat(params, torch.cat([x, flat], 1))


def apply_flat(params: Params, x: Tensor) -> Tensor:
    """The dense layers, ReLU between them."""
    names = dense_layers(params)
    for name in names:
        x = F.linear(x, params[name], params.get(f"{name}_bias"))
        if name != names[-1]:
            x = F.relu(x)
    return x


def apply_recurrent(params: Params, maps: Tensor, flat: Tensor, sequences: int) -> Tensor:
    """Outputs ``[B, n]`` for rows of so many sequences, step-major, each from a state of zeros."""
    x = F.relu(apply_trunk(params, maps, flat)).unflatten(0, (-1, sequences))
    weights = [params[name] for name in ("input", "state", "input_bias", "state_bias")]
    start = x.new_zeros(1, sequences, x.shape[-1])
    out = torch.lstm(x, (start, start), weights, True, 1, 0.0, False, False, False)[0]
    return F.linear(out.flatten(0, 1), params["head"], params["head_bias"])


def dense_layers(params: Params) -> list[str]:
    """Names of the dense layers, in order."""
    return _numbered(params, "f")


def _convolutions(params: Params) -> list[str]:
    return _numbered(params, "c")


def _numbered(params: Params, letter: str) -> list[str]:
    return list(takewhile(params.__contains__, (f"{letter}{i}" for i in count())))


# ---------------------------------------------------------------------- passes by hand


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


class Evaluation:
    """A trunk on the rows of a batch.

    Parameters
    ----------
    params : dict
        As :func:`init_trunk` draws them.
    maps : Tensor ``[B, h, w, C]``, bytes or floats
    flat : Tensor ``[B, F]``
    threads : int
        Chunks worked on at a time.

    Attributes
    ----------
    out : Tensor ``[B, n]``
    """

    def __init__(self, params: Params, maps: Tensor, flat: Tensor, threads: int = 1) -> None:
        self.params, self.threads = params, threads
        self._inputs = self._chunks(maps, flat)
        self._layers = self._each(lambda chunk: _forward(params, *chunk), self._inputs)
        self.out = torch.cat([layers.pop() for layers in self._layers])

    @classmethod
    def joined(cls, parts: Sequence[Evaluation], maps: Tensor, flat: Tensor) -> Evaluation:
        """Of the rows of ``parts`` one after the other, which ``maps`` and ``flat`` hold as well; not computed anew."""
        whole = cls.__new__(cls)
        whole.params, whole.threads, whole.out = parts[0].params, parts[0].threads, torch.cat([p.out for p in parts])
        whole._inputs = cls._chunks(maps, flat)
        layers = [torch.cat(pieces) for pieces in zip(*(chunk for p in parts for chunk in p._layers), strict=True)]
        sizes = [len(vectors) for _, vectors in whole._inputs]
        whole._layers = [list(chunk) for chunk in zip(*(layer.split(sizes) for layer in layers), strict=True)]
        return whole

    @staticmethod
    def _chunks(maps: Tensor, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        size = min(_CHUNK, max(_LEAST, -(-len(flat) // 2)))
        return list(zip(maps.split(size), flat.split(size), strict=True))

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return self._summed(_vjp, d_out)

    def weighted_vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[:, j, None] * d_out * out)`` for all j, ``[J, ...]``.

        The way back through the layers is gone once for all.
        """
        return self._summed(_weighted_vjps, d_out, weights)

    def _summed(self, f: Callable[..., Params], *rows: Tensor) -> Params:
        """Over the chunks, with their part of these rows, in order."""
        sizes = [len(flat) for _, flat in self._inputs]
        chunks = list(zip(self._inputs, self._layers, *(r.split(sizes) for r in rows), strict=True))
        grads = self._each(lambda chunk: f(self.params, *chunk), chunks)
        total = list(grads[0].values())
        for part in grads[1:]:
            torch._foreach_add_(total, list(part.values()))
        return {name: grads[0][name] for name in self.params}

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``, ``[B, n]``."""
        chunks = list(zip(self._inputs, self._layers, strict=True))
        return torch.cat(self._each(lambda chunk: _jvp(self.params, tangent, *chunk), chunks))

    def _each(self, f: Callable[[Any], Any], chunks: Sequence[Any]) -> list[Any]:
        if self.threads == 1 or len(chunks) == 1:
            return [_without_graph(f, chunk) for chunk in chunks]
        return list(_pool(self.threads).map(lambda chunk: _without_graph(f, chunk), chunks))


@torch.no_grad()
def _without_graph(f: Callable[[Any], Any], chunk: Any) -> Any:
    return f(chunk)


def _forward(params: Params, maps: Tensor, flat: Tensor) -> list[Tensor]:
    """Activations: every convolution ``[B, h, w, f]``, input of every dense layer, outputs."""
    layers = [_readable(maps, flat.dtype)]
    for name in _convolutions(params):
        layers.append(_conv(layers[-1], params[name], params[f"{name}_bias"]).relu_())
    x = F.linear(layers[-1].flatten(1), params["map"], params["map_bias"]).relu_()
    layers.append(torch.cat([x, flat], 1))
    names = dense_layers(params)
    for name in names:
        x = F.linear(layers[-1], params[name], params[f"{name}_bias"])
        layers.append(x.relu_() if name != names[-1] else x)
    return layers[1:]


def _deltas(
    params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """From the last layer to the first: name, input, and the derivative with respect to what it gives before ReLU."""
    convolutions = _convolutions(params)
    maps, dense = [_readable(inputs[0], d.dtype), *layers[: len(convolutions)]], layers[len(convolutions) :]
    for i, name in reversed(list(enumerate(dense_layers(params)))):
        yield name, dense[i], d
        d = d @ params[name]
        if i:
            d = _where_active(d, dense[i])
    width = len(params["map_bias"])
    d = _where_active(d[:, :width], dense[0][:, :width])
    yield "map", maps[-1].flatten(1), d
    d = (d @ params["map"]).view_as(maps[-1])
    for i, name in reversed(list(enumerate(convolutions))):
        d = _where_active(d, maps[i + 1])
        yield name, maps[i], d
        if i:
            d = _conv_input_gradient(d, maps[i], params[name])


def _vjp(params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor) -> Params:
    grads: Params = {}
    for name, x, delta in _deltas(params, inputs, layers, d):
        grads |= _layer_gradient(name, x, delta, params[name])
    return grads


def _weighted_vjps(
    params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor, weights: Tensor
) -> Params:
    """All of them side by side, ``[J, ...]``."""
    grads = {name: p.new_empty(weights.shape[1], *p.shape) for name, p in params.items()}
    for name, x, delta in _deltas(params, inputs, layers, d):
        for j, weight in enumerate(weights.unbind(1)):
            weighted = delta * weight.view(-1, *[1] * (delta.dim() - 1))
            for key, grad in _layer_gradient(name, x, weighted, params[name]).items():
                grads[key][j] = grad
    return grads


def _layer_gradient(name: str, x: Tensor, delta: Tensor, weight: Tensor) -> Params:
    """Of a convolution or a dense layer, given its input and the derivative with respect to its output."""
    if weight.dim() == 2:
        return {name: delta.T @ x, f"{name}_bias": delta.sum(0)}
    return {name: _conv_kernel_gradient(delta, x, weight), f"{name}_bias": delta.sum((0, 1, 2))}


def _jvp(params: Params, tangent: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor]) -> Tensor:
    convolutions = _convolutions(params)
    maps, dense = [_readable(inputs[0], layers[-1].dtype), *layers[: len(convolutions)]], layers[len(convolutions) :]
    moved = maps[0]
    for i, name in enumerate(convolutions):
        own = _conv(maps[i], tangent[name], tangent[f"{name}_bias"])
        moved = _where_active(own + _conv(moved, params[name], None) if i else own, maps[i + 1])
    moved = moved.flatten(1) @ params["map"].T + F.linear(maps[-1].flatten(1), tangent["map"], tangent["map_bias"])
    width = len(params["map_bias"])
    moved = _where_active(moved, dense[0][:, :width])
    for i, name in enumerate(dense_layers(params)):
        own = F.linear(dense[i], tangent[name], tangent[f"{name}_bias"])
        weight = params[name] if i else params[name][:, :width]  # the vector does not move
        moved = torch.addmm(own, moved if i == 0 else _where_active(moved, dense[i]), weight.T)
    return moved


def _where_active(d: Tensor, activation: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(d, activation, 0.0)


def _readable(maps: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes stay bytes where the convolution goes by the entries that are not 0."""
    return maps if maps.dtype == torch.uint8 and maps.device.type == "cpu" else maps.to(dtype)


def _by_entries(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of channel-last maps ``[B, h, w, C]``."""
    if _by_entries(x):
        return sparseconv.convolve(x, weight, bias)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2).permute(0, 2, 3, 1).contiguous()


def _conv_input_gradient(d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Derivative of ``sum(d * _conv(x, weight, bias))`` with respect to ``x``."""
    if _by_entries(x):
        return sparseconv.input_gradient(d, weight)
    return _library_backward(d, x, weight, 0).permute(0, 2, 3, 1).contiguous()


def _conv_kernel_gradient(d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same with respect to the weight."""
    return sparseconv.kernel_gradient(x, d, weight.shape[-1]) if _by_entries(x) else _library_backward(d, x, weight, 1)


def _library_backward(d: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
    pad, wanted = [weight.shape[-1] // 2] * 2, [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        d.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, None, [1, 1], pad, [1, 1], False, [0, 0], 1, wanted
    )[which]
