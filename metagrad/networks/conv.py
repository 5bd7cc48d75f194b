"""Networks on a picture and a vector: convolutions, a dense layer, then dense layers on both.

The passes that learning needs are written by hand: one forward pass serves the agents' gradient, the designer's, and
the tangent of its meta-gradient. They go through the rows in chunks that stay in cache and may run on several threads;
sums over chunks are taken in order, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, takewhile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad.checks import Checked, Count, CountOrNone, Positive, Threads, Widths
from metagrad.compiled import bands, passes
from metagrad.networks.base import (
    Obs,
    Shapes,
    Sight,
    Where,
    glorot,
    inputs_of,
    picture_of,
    sight_of,
    vector_width,
)
from metagrad.networks.chunks import each, joined, split_rows, summed
from metagrad.networks.convolutions import convolve, input_gradient, kernel_gradient, readable
from metagrad.networks.mlp import where_active
from metagrad.optim import Params


@dataclass(frozen=True)
class ConvTrunk(Checked):
    """Convolutions of a picture and a dense layer, joined by a vector, then dense layers on both; rectified units.

    The picture is the observation of shape ``[h, w, C]``; all others but the mask are the vector, in the order of their
    names. There is one network: agents share it, and seeds train one after the other.

    Parameters
    ----------
    filters : int
        Filters of every convolution.
    kernel : int
        Width of the convolutions, odd; padding keeps the picture's size.
    convolutions : int
        How many there are; with 0 the dense layer reads the picture itself.
    map_width : int, optional
        Width of the dense layer on the convolved picture; None for that of the vector.
    hidden : tuple of int
        Widths of the hidden layers on both.
    head_scale : float
        Factor of the last layer's initial kernel: large first logits of one action drown the others for long.
    scale : float
        Factor of the picture's numbers.
    threads : int
        Chunks of rows worked on at a time.
    """

    filters: Count = 16
    kernel: Count = 3
    convolutions: CountOrNone = 1
    map_width: Count | None = None
    hidden: Widths = (64,)
    head_scale: Positive = 0.1
    scale: Positive = 1.0
    threads: Threads = 1
    stacks = False
    sequential = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"ConvTrunk.kernel must be odd, got {self.kernel}")

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw the network: Glorot-uniform kernels, zero biases."""
        (generator,) = one_network(generators, n, "a ConvTrunk")
        height, width, channels = shapes[picture_of(shapes, "a ConvTrunk")]
        vector = vector_width(shapes)
        map_width = vector if self.map_width is None else self.map_width
        last = self.filters if self.convolutions else channels
        layers: dict[str, tuple[int, ...]] = {}
        for i in range(self.convolutions):
            layers[f"c{i}"] = (self.filters, self.filters if i else channels, self.kernel, self.kernel)
        layers["map"] = (map_width, last * height * width)
        sizes = (map_width + vector, *self.hidden, outputs)
        layers |= {f"f{i}": (b, a) for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))}
        return draw_layers(generator, layers, where, self.head_scale)

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> ConvForward:
        """Run the network on rows; no autograd graph is built."""
        return ConvForward(params, sight_of(obs, params["map"].dtype), self.scale, self.threads)

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        single = {name: p[0] for name, p in params.items()}
        picture, vector = sight_of(obs, params["map"].dtype)
        x = picture[0].permute(0, 3, 1, 2).to(vector.dtype) * self.scale
        for name in numbered(single, "c"):
            x = F.relu(F.conv2d(x, single[name], single[f"{name}_bias"], padding=single[name].shape[-1] // 2))
        x = F.relu(F.linear(x.permute(0, 2, 3, 1).flatten(1), single["map"], single["map_bias"]))
        x = torch.cat([x, vector[0]], 1)
        names = numbered(single, "f")
        for name in names:
            x = F.linear(x, single[name], single[f"{name}_bias"])
            if name != names[-1]:
                x = F.relu(x)
        return x[None]

    def begin(self, params: Params, obs: Obs, n_rows: int) -> Parts:
        """A pass over rows that come part by part."""
        return Parts(self, params, sight_of(obs, params["map"].dtype), n_rows)


def one_network(generators: Sequence[np.random.Generator], n: int, what: str) -> Sequence[np.random.Generator]:
    """The generators, if they are for one network; several are refused."""
    if len(generators) * n != 1:
        raise ValueError(
            f"{what} is one network, but {len(generators)} seeds of {n} are asked for: its agents share parameters "
            "(share_parameters=True), and each seed trains in a Trainer of its own"
        )
    return generators


def draw_layers(
    generator: np.random.Generator, layers: dict[str, tuple[int, ...]], where: Where, head_scale: float = 1.0
) -> Params:
    """Glorot-uniform kernels ``[1, ...]`` and zero biases ``[1, width]``; the last layer's times ``head_scale``."""
    params: Params = {}
    for name, shape in layers.items():
        fans = int(np.prod(shape[2:])) * (shape[0] + shape[1])
        kernel = glorot(generator, shape, fans, head_scale if name == list(layers)[-1] else 1.0)
        params[name] = torch.tensor(kernel, device=where.device, dtype=where.dtype)[None]
        params[f"{name}_bias"] = torch.zeros(1, shape[0], device=where.device, dtype=where.dtype)
    return params


def numbered(params: Params, letter: str) -> list[str]:
    """Names of the layers that begin with a letter, in order."""
    return _numbered(tuple(params), letter)


@cache
def _numbered(names: tuple[str, ...], letter: str) -> list[str]:
    return list(takewhile(names.__contains__, (f"{letter}{i}" for i in count())))


class Parts:
    """A trunk's pass over rows that come part by part; see :class:`metagrad.networks.base.Growing`."""

    def __init__(self, network: ConvTrunk, params: Params, sight: Sight, n_rows: int) -> None:
        self._network, self._params, self._prepared = network, params, prepared(params, network.scale)
        self._compiled = _compiled(self._prepared, sight, n_rows)
        self.independent = self._compiled is not None
        self._passes: list[ConvForward] = []
        self._seen: list[Obs] = []

    def add(self, obs: Obs) -> Tensor:
        """Take in the next rows; returns their outputs."""
        self._seen.append(inputs_of(obs))
        sight, network = sight_of(obs, self._params["map"].dtype), self._network
        if self._compiled:
            return self._compiled.add(sight.picture[0])[None]
        self._passes.append(ConvForward(self._params, sight, network.scale, network.threads, self._prepared))
        return self._passes[-1].out

    def finish(self) -> ConvForward:
        """The pass over the rows that came; nothing is computed anew."""
        seen = {name: torch.cat([obs[name] for obs in self._seen], 1) for name in self._seen[0]}
        if not self._compiled:
            return ConvForward.joined(self._passes, seen)
        sight, network = sight_of(seen, self._params["map"].dtype), self._network
        whole = ConvForward(self._params, sight, network.scale, network.threads, self._prepared, self._compiled)
        whole.seen = seen
        return whole


class ConvForward:
    """A trunk's pass over rows; see :class:`metagrad.networks.base.Forward`.

    The factor of the picture is put into the first layer's weight, so that pictures of bytes stay as they are.
    """

    seen: Obs  # what all rows show, where they came part by part

    def __init__(
        self, params: Params, sight: Sight, scale: float, threads: int, single: Params | None = None,
        done: bands.Trunk | None = None,
    ) -> None:  # fmt: skip
        self._hold(params, scale, threads, prepared(params, scale) if single is None else single)
        self._inputs = split_rows(sight.picture[0], sight.vector[0])
        compiled = done or _compiled(self._single, sight, sight.picture.shape[1])
        if compiled:
            if not done:
                compiled.add(sight.picture[0])
            sizes, (*layers, out) = [len(vector) for _, vector in self._inputs], compiled.layers
            self._layers = [list(chunk) for chunk in zip(*(x.split(sizes) for x in layers), strict=True)]
            self.out = out[None]
            return
        self._layers = each(lambda chunk: _forward(self._single, *chunk), self._inputs, threads)
        self.out = joined([layers.pop() for layers in self._layers])[None]

    def _hold(self, params: Params, scale: float, threads: int, single: Params) -> None:
        self.params, self.scale, self.threads, self._single = params, scale, threads, single
        self._first = _first(params)

    @classmethod
    def joined(cls, parts: Sequence[ConvForward], seen: Obs) -> ConvForward:
        """Of the rows of ``parts`` one after the other, which ``seen`` holds as well; not computed anew."""
        whole = cls.__new__(cls)
        whole.seen, sight = seen, sight_of(seen, parts[0].out.dtype)
        whole._hold(parts[0].params, parts[0].scale, parts[0].threads, parts[0]._single)
        whole._inputs, whole.out = (
            split_rows(sight.picture[0], sight.vector[0]),
            torch.cat([part.out for part in parts], 1),
        )
        chunks = [chunk for part in parts for chunk in part._layers]
        sizes = [len(vector) for _, vector in whole._inputs]
        pieces = [torch.cat(layer).split(sizes) for layer in zip(*chunks, strict=True)]
        whole._layers = [list(chunk) for chunk in zip(*pieces, strict=True)]
        return whole

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return {name: g[None] for name, g in scaled(self._summed(_vjp, d_out[0]), self.scale).items()}

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, 1, ...]``, on one way back."""
        return {name: g[:, None] for name, g in scaled(self._summed(_vjps, d_out[0], weights[0]), self.scale).items()}

    @torch.no_grad()
    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""
        along = scaled({name: p[0] for name, p in tangent.items()}, self.scale)
        chunks = list(zip(self._inputs, self._layers, strict=True))
        return torch.cat(each(lambda chunk: _jvp(self._single, along, *chunk), chunks, self.threads))[None]

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[1, R]``."""
        parts = self._each(lambda *part: _row_norms(self._single, self._first, self.scale, *part), d_out[0])
        return torch.cat(parts)[None]

    def _summed(self, f: Callable[..., Params], *rows: Tensor) -> Params:
        return summed(self._each(lambda *part: f(self._single, *part), *rows), list(self.params))

    def _each(self, f: Callable, *rows: Tensor) -> list:
        """``f`` of every chunk's inputs and layers, and its part of these rows."""
        sizes = [len(vector) for _, vector in self._inputs]
        chunks = list(zip(self._inputs, self._layers, *(r.split(sizes) for r in rows), strict=True))
        return each(lambda chunk: f(*chunk), chunks, self.threads)


def prepared(params: Params, scale: float) -> Params:
    """The one network as passes go through it."""
    return scaled({name: p[0].detach() for name, p in params.items()}, scale)


def scaled(params: Params, scale: float) -> Params:
    """With the first layer's kernel times the picture's factor."""
    first = _first(params)
    return params if scale == 1 else {**params, first: params[first] * scale}


def _first(params: Params) -> str:
    return "c0" if "c0" in params else "map"


def _compiled(single: Params, sight: Sight, rows: int) -> bands.Trunk | None:
    """A pass in compiled code, for a convolution of colours and layers on nothing else."""
    names = ["map", *numbered(single, "f")]
    if sight.vector.shape[2] or len(numbered(single, "c")) != 1 or not bands.fits(sight.picture[0]):
        return None
    dense: list[passes.Layer] = [(single[n].T.contiguous()[None], single[f"{n}_bias"][None, None]) for n in names]
    return bands.Trunk(single["c0"], single["c0_bias"], dense, rows, *sight.picture.shape[2:4])


# ---------------------------------------------------------------------- one chunk


def _forward(params: Params, picture: Tensor, vector: Tensor) -> list[Tensor]:
    """Activations: every convolution ``[B, h, w, f]``, input of every dense layer, outputs."""
    convolutions = numbered(params, "c")
    layers = [readable(picture, vector.dtype, bool(convolutions))]
    for name in convolutions:
        layers.append(convolve(layers[-1], params[name], params[f"{name}_bias"]).relu_())
    x = F.linear(layers[-1].flatten(1), params["map"], params["map_bias"]).relu_()
    layers.append(joined([x, vector], 1))
    names = numbered(params, "f")
    for name in names:
        x = F.linear(layers[-1], params[name], params[f"{name}_bias"])
        layers.append(x.relu_() if name != names[-1] else x)
    return layers[1:]


def _arranged(
    params: Params, picture: Tensor, layers: list[Tensor], dtype: torch.dtype
) -> tuple[list[str], list[Tensor], list[Tensor]]:
    """Names of the convolutions, inputs of them and of the dense layer on the picture, inputs of the other layers."""
    convolutions = numbered(params, "c")
    n = len(convolutions)
    return convolutions, [readable(picture, dtype, n > 0), *layers[:n]], layers[n:]


def _deltas(
    params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """From the last layer to the first: name, input, and the derivative with respect to what it gives before ReLU."""
    convolutions, maps, dense = _arranged(params, inputs[0], layers, d.dtype)
    for i, name in reversed(list(enumerate(numbered(params, "f")))):
        yield name, dense[i], d
        d = d @ params[name]
        if i:
            d = where_active(d, dense[i])
    width = len(params["map_bias"])
    d = where_active(d[:, :width], dense[0][:, :width])
    yield "map", maps[-1].flatten(1), d
    if convolutions:
        d = (d @ params["map"]).view_as(maps[-1])
    for i, name in reversed(list(enumerate(convolutions))):
        d = where_active(d, maps[i + 1])
        yield name, maps[i], d
        if i:
            d = input_gradient(d, maps[i], params[name])


def _vjp(params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor) -> Params:
    grads: Params = {}
    for name, x, delta in _deltas(params, inputs, layers, d):
        grads |= _layer_gradient(name, x, delta, params[name])
    return grads


def _vjps(params: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor, weights: Tensor) -> Params:
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
    return {
        name: kernel_gradient(delta, x, weight),
        f"{name}_bias": delta.flatten(1).sum(0).view(-1, len(weight)).sum(0),
    }


def _row_norms(
    params: Params, first: str, scale: float, inputs: tuple[Tensor, Tensor], layers: list[Tensor], d: Tensor
) -> Tensor:
    """Squared lengths ``[B]`` of the gradients of single rows."""
    total = d.new_zeros(len(d))
    for name, x, delta in _deltas(params, inputs, layers, d):
        factor = scale**2 if name == first else 1.0
        if delta.dim() == 2:
            total += (factor * _squares(x) + 1) * _squares(delta)
            continue
        k = params[name].shape[-1]
        patches = F.unfold(x.permute(0, 3, 1, 2).to(d.dtype), k, padding=k // 2)  # [B, C k k, h w]
        total += factor * _squares(torch.bmm(patches, delta.flatten(1, 2))) + _squares(delta.sum((1, 2)))
    return total


def _squares(x: Tensor) -> Tensor:
    return (x * x).flatten(1).sum(1)


def _jvp(params: Params, tangent: Params, inputs: tuple[Tensor, Tensor], layers: list[Tensor]) -> Tensor:
    convolutions, maps, dense = _arranged(params, inputs[0], layers, layers[-1].dtype)
    moved = maps[0]
    for i, name in enumerate(convolutions):
        own = convolve(maps[i], tangent[name], tangent[f"{name}_bias"])
        moved = where_active(own + convolve(moved, params[name], None) if i else own, maps[i + 1])
    own = F.linear(maps[-1].flatten(1), tangent["map"], tangent["map_bias"])
    width = len(params["map_bias"])
    moved = where_active(moved.flatten(1) @ params["map"].T + own if convolutions else own, dense[0][:, :width])
    for i, name in enumerate(numbered(params, "f")):
        own = F.linear(dense[i], tangent[name], tangent[f"{name}_bias"])
        weight = params[name] if i else params[name][:, :width]  # the vector does not move
        moved = torch.addmm(own, moved if i == 0 else where_active(moved, dense[i]), weight.T)
    return moved
