"""Perceptrons on a picture of codes and a vector: the first layer reads binary planes of the picture.

A picture of bytes whose channels hold kinds and owners is read as planes of zeros and ones, of which few are set. The
dense layer then is a sum of the weights' rows of the entries that are set, and its derivatives are as cheap: nothing is
convolved, and the planes themselves are never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad.checks import Checked, Count, CountOrNone, Positive, Threads, Widths
from metagrad.networks.base import (
    Forward,
    Obs,
    Shapes,
    Sight,
    Where,
    glorot,
    picture_of,
    sight_of,
    vector_width,
)
from metagrad.networks.chunks import each, summed
from metagrad.networks.mlp import MLP, MLPForward, affine, column_sums, product, row_squares, where_active
from metagrad.networks.plane_layer import PlaneLayer, planes_of, set_places
from metagrad.optim import Params

_CHUNK = 1024  # rows whose activations fit the second-level cache by and large


@dataclass(frozen=True)
class PlaneMLP(Checked):
    """A dense layer on binary planes of a picture, joined by a vector, then dense layers on both; rectified units.

    The picture is the observation of shape ``[h, w, C]``, of bytes; all others but the mask are the vector, in the
    order of their names.

    Parameters
    ----------
    planes : tuple of (int, int, int)
        What each plane shows: a channel of the picture, and the least and the largest value (1 to 255) that set a cell.
        Those of one channel must not overlap.
    map_width : int
        Width of the dense layer on the planes.
    hidden : tuple of int
        Widths of the hidden layers on both.
    head_scale : float
        Factor of the last layer's initial kernel: small first logits keep a policy close to uniform.
    threads : int
        Chunks of rows worked on at a time.
    """

    planes: tuple[tuple[CountOrNone, Count, Count], ...]
    map_width: Count = 128
    hidden: Widths = (128, 128)
    head_scale: Positive = 0.1
    threads: Threads = 1
    stacks = True
    sequential = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.planes:
            raise ValueError("a PlaneMLP needs planes")
        taken: set[tuple[int, int]] = set()
        for channel, least, most in self.planes:
            values = {(channel, value) for value in range(least, min(most, 255) + 1)}
            if not least <= most <= 255 or values & taken:
                raise ValueError(
                    f"planes of a PlaneMLP are (channel, least, largest) with values from 1 to 255 that do not overlap "
                    f"in a channel, got {self.planes}"
                )
            taken |= values

    @property
    def _top(self) -> MLP:
        return MLP(self.hidden, head_scale=self.head_scale)

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw ``n`` networks from each generator: Glorot-uniform kernels, zero biases."""
        height, width, channels = shapes[picture_of(shapes, "a PlaneMLP")]
        if max(channel for channel, _, _ in self.planes) >= channels:
            raise ValueError(f"planes of a PlaneMLP name channels up to {channels - 1}, got {self.planes}")
        shape = (n, height * width * len(self.planes), self.map_width)
        kernel = np.concatenate([glorot(g, shape, shape[1] + shape[2]) for g in generators])
        first = {
            "map": torch.tensor(kernel, device=where.device, dtype=where.dtype),
            "map_bias": torch.zeros(len(kernel), 1, self.map_width, device=where.device, dtype=where.dtype),
        }
        return first | self._top.init(generators, n, {"both": (self.map_width + vector_width(shapes),)}, outputs, where)

    def read(self, obs: Obs, dtype: torch.dtype) -> Obs:
        """Observations as the passes go through them, rows ``[G, R, ...]``; which may be read again.

        The entries of the planes that are set, on a CPU, or the picture, and the vector.
        """
        if "vector" in obs and obs.keys() <= {"places", "picture", "vector"}:
            return obs
        sight = self._sight(obs, dtype)
        if sight.picture.device.type != "cpu":
            return {"picture": sight.picture, "vector": sight.vector}
        return {"places": set_places(sight.picture, self.planes), "vector": sight.vector}

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> PlaneForward:
        """Run the networks on rows; no autograd graph is built."""
        return PlaneForward(params, self.read(obs, params["map"].dtype), self.planes, self.threads)

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        picture, vector = self._sight(obs, params["map"].dtype)
        x = affine(planes_of(picture, self.planes, vector.dtype), params["map"], params["map_bias"]).relu()
        return self._top({n: p for n, p in params.items() if n[:3] != "map"}, {"both": torch.cat([x, vector], -1)})

    def join(self, parts: Sequence[Forward], obs: Obs) -> Forward:
        """One pass over the rows of ``parts`` one after the other; nothing is computed anew."""
        return PlaneForward.joined(parts, self.read(obs, parts[0].out.dtype))  # type: ignore[arg-type]

    @staticmethod
    def _sight(obs: Obs, dtype: torch.dtype) -> Sight:
        sight = sight_of(obs, dtype)
        if sight.picture.dtype != torch.uint8:
            raise TypeError(f"a PlaneMLP reads pictures of bytes, got {sight.picture.dtype}")
        return sight


class _Chunk(NamedTuple):
    """Some rows: the layer on their planes, and the layers on both, whose first inputs are what that gave."""

    layer: PlaneLayer
    top: MLPForward


class PlaneForward:
    """A pass over rows; see :class:`metagrad.networks.base.Forward`.

    Parameters
    ----------
    params : dict
        As :meth:`PlaneMLP.init` draws them.
    seen : dict
        As :meth:`PlaneMLP.read` gives it.
    planes : sequence of (int, int, int)
        As for :class:`PlaneMLP`.
    threads : int
        Chunks worked on at a time.
    """

    def __init__(self, params: Params, seen: Obs, planes: Sequence[tuple[int, int, int]], threads: int) -> None:
        self.params, self.threads, self.planes = params, threads, planes
        self.width = params["map"].shape[2]
        top = {name: p for name, p in params.items() if name[:3] != "map"}

        def make(rows: Obs) -> _Chunk:
            layer, vector = PlaneLayer(rows, planes), rows["vector"]
            both = vector.new_empty(*vector.shape[:2], self.width + vector.shape[2])
            layer.apply(params["map"], params["map_bias"], True, both[..., : self.width])
            both[..., self.width :] = vector
            return _Chunk(layer, MLPForward(top, both))

        self._chunks = each(make, _split(seen), threads)
        self.out = torch.cat([chunk.top.out for chunk in self._chunks], 1)

    @classmethod
    def joined(cls, parts: Sequence[PlaneForward], seen: Obs) -> PlaneForward:
        """Of the rows of ``parts`` one after the other, which are those of ``seen``; not computed anew."""
        whole = cls.__new__(cls)
        whole.params, whole.threads, whole.width = parts[0].params, parts[0].threads, parts[0].width
        whole.planes, whole.out = parts[0].planes, torch.cat([part.out for part in parts], 1)
        top = MLPForward.joined([chunk.top for part in parts for chunk in part._chunks])
        rows = _split(seen)
        sizes = [len(r["vector"][0]) for r in rows]
        tops = zip(*(x.split(sizes, 1) for x in (top.out, *top.inputs)), strict=True)
        whole._chunks = [
            _Chunk(PlaneLayer(r, whole.planes), MLPForward.of(top.params, x[0], list(x[1:])))
            for r, x in zip(rows, tops, strict=True)
        ]
        return whole

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return summed(self._each(self._vjp, d_out), list(self.params))

    def _vjp(self, chunk: _Chunk, d_out: Tensor) -> Params:
        grads: Params = {}
        for i, x, delta in chunk.top.deltas(d_out):
            grads |= chunk.top.layer_grads(i, x, delta)
        first = self._first_delta(chunk, delta)
        return {"map": self._transposed(chunk, first), "map_bias": column_sums(first), **grads}

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``."""
        return summed(self._each(self._vjps, d_out, weights), list(self.params))

    def _vjps(self, chunk: _Chunk, d_out: Tensor, weights: Tensor) -> Params:
        grads: Params = {}
        for i, x, delta in chunk.top.deltas(d_out):
            grads |= chunk.top.layer_vjps(i, x, delta, weights)
        first = self._first_delta(chunk, delta)
        rows = [self._transposed(chunk, first * w[..., None]) for w in weights.unbind(-1)]
        biases = product(weights.transpose(1, 2), first).transpose(0, 1)[:, :, None]
        empty = self.params["map"].new_empty(0, *self.params["map"].shape)
        return {"map": torch.stack(rows) if rows else empty, "map_bias": biases, **grads}

    def _transposed(self, chunk: _Chunk, d: Tensor) -> Tensor:
        return chunk.layer.transposed(d, self.params["map"].shape[1])

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""

        def along(chunk: _Chunk) -> Tensor:
            moved = torch.empty_like(self._first(chunk), memory_format=torch.contiguous_format)
            chunk.layer.apply(tangent["map"], tangent["map_bias"], False, moved)
            return chunk.top.jvp(tangent, where_active(moved, self._first(chunk)))

        return torch.cat(each(along, self._chunks, self.threads), 1)

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""

        def norms(chunk: _Chunk, d: Tensor) -> Tensor:
            top, total = chunk.top, torch.zeros_like(d[..., 0])
            for _, x, delta in top.deltas(d):
                total += (row_squares(x) + 1) * row_squares(delta)
            return total + (chunk.layer.shown(d) + 1) * row_squares(self._first_delta(chunk, delta))

        return torch.cat(self._each(norms, d_out), 1)

    def _first(self, chunk: _Chunk) -> Tensor:
        return chunk.top.inputs[0][..., : self.width]

    def _first_delta(self, chunk: _Chunk, delta: Tensor) -> Tensor:
        """Derivative by what the layer on the planes gives, from that by what the one above it gives."""
        back = product(delta, self.params["w0"][:, : self.width].transpose(1, 2))
        return where_active(back, self._first(chunk))

    def _each(self, f, *rows: Tensor) -> list:
        sizes = [chunk.top.out.shape[1] for chunk in self._chunks]
        parts = list(zip(self._chunks, *(r.split(sizes, 1) for r in rows), strict=True))
        return each(lambda part: f(*part), parts, self.threads)


def _split(seen: Obs) -> list[Obs]:
    """Rows in chunks."""
    columns = (x.split(_CHUNK, 1) for x in seen.values())
    return [dict(zip(seen, rows, strict=True)) for rows in zip(*columns, strict=True)]
