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
import torch.nn.functional as F
from torch import Tensor

from fastenvs.jit import kernel
from metagrad.checks import Checked, Count, CountOrNone, Positive, Threads, Widths
from metagrad.networks.base import Forward, Obs, Shapes, Sight, Where, glorot, picture_of, sight_of, vector_width
from metagrad.networks.chunks import each, summed
from metagrad.networks.mlp import MLP, MLPForward, affine, column_sums, product, row_squares, where_active
from metagrad.networks.sparse_conv import LANES, add_lanes
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

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> PlaneForward:
        """Run the networks on rows; no autograd graph is built."""
        return PlaneForward(params, self._sight(params, obs), self.planes, self.threads)

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        picture, vector = self._sight(params, obs)
        x = affine(_planes(picture, self.planes, vector.dtype), params["map"], params["map_bias"]).relu()
        return self._top({n: p for n, p in params.items() if n[:3] != "map"}, {"both": torch.cat([x, vector], -1)})

    def join(self, parts: Sequence[Forward], obs: Obs) -> Forward:
        """One pass over the rows of ``parts`` one after the other; nothing is computed anew."""
        return PlaneForward.joined(parts)  # type: ignore[arg-type]

    @staticmethod
    def _sight(params: Params, obs: Obs) -> Sight:
        sight = sight_of(obs, params["map"].dtype)
        if sight.picture.dtype != torch.uint8:
            raise TypeError(f"a PlaneMLP reads pictures of bytes, got {sight.picture.dtype}")
        return sight


def _planes(picture: Tensor, planes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> Tensor:
    """The planes of a picture ``[G, R, h, w, C]``, flattened cell by cell, ``[G, R, h w P]``."""
    shown = [(picture[..., c] >= least) & (picture[..., c] <= most) for c, least, most in planes]
    return torch.stack(shown, -1).flatten(2).to(dtype)


@kernel
def _add_rows(picture, table, room, n_planes, weight, out, backward):
    """Of every entry that sets a plane, add its weights to the row's outputs, or these to its weights.

    ``picture [R, h w C]``, ``table [C, 256]`` gives an entry's plane or -1, ``room [h w C]`` is scratch, ``weight
    [h w P, W]`` and ``out [R, W]``, with W a multiple of the lanes.
    """
    channels, width = table.shape[0], out.shape[1]
    for b in range(picture.shape[0]):
        # Places first, without a branch: one on the entries would go wrong too often.
        n = 0
        for i in range(picture.shape[1]):
            room[n] = i
            n += picture[b, i] != 0
        for m in range(n):
            cell = room[m] // channels
            plane = np.int64(table[room[m] - cell * channels, picture[b, room[m]]])
            if plane >= 0:
                row = (cell * n_planes + plane) * width
                for j in range(0, width, LANES):
                    if backward:
                        add_lanes(weight, row + j, 1.0, out, b * width + j)
                    else:
                        add_lanes(out, b * width + j, 1.0, weight, row + j)


class _PlaneLayer:
    """The sum over the set entries of pictures, and its transpose.

    Parameters
    ----------
    picture : Tensor ``[G, R, h, w, C]``
    planes : sequence of (int, int, int)
    """

    def __init__(self, picture: Tensor, planes: Sequence[tuple[int, int, int]]) -> None:
        self.picture, self.planes = picture, planes
        self.table = np.full((picture.shape[-1], 256), -1, np.int16)
        for plane, (channel, least, most) in enumerate(planes):
            self.table[channel, least : most + 1] = plane

    def apply(self, weight: Tensor) -> Tensor:
        """Planes times weights ``[G, h w P, W]``, ``[G, R, W]``."""
        if self.picture.device.type != "cpu":
            return torch.bmm(_planes(self.picture, self.planes, weight.dtype), weight)
        out = weight.new_zeros(*self.picture.shape[:2], _padded(weight.shape[2]))
        self._run(_pad(weight), out, False)
        return out[..., : weight.shape[2]]

    def transposed(self, d: Tensor) -> Tensor:
        """Derivative of ``sum(d * apply(weight))`` by the weights, for ``d [G, R, W]``."""
        if self.picture.device.type != "cpu":
            return torch.bmm(_planes(self.picture, self.planes, d.dtype).transpose(1, 2), d)
        cells = self.picture.shape[2] * self.picture.shape[3]
        weight = d.new_zeros(len(d), cells * len(self.planes), _padded(d.shape[2]))
        self._run(weight, _pad(d), True)
        return weight[..., : d.shape[2]]

    def _run(self, weight: Tensor, out: Tensor, backward: bool) -> None:
        room = np.empty(self.picture[0, 0].numel(), np.int64)
        for g in range(len(weight)):
            rows = self.picture[g].flatten(1).contiguous().numpy()
            _add_rows(rows, self.table, room, len(self.planes), weight[g].numpy(), out[g].numpy(), backward)


def _padded(width: int) -> int:
    return -(-width // LANES) * LANES


def _pad(x: Tensor) -> Tensor:
    """With zeros up to full lanes; as it is where they are full."""
    if x.shape[-1] % LANES == 0:
        return x.detach().contiguous()
    return F.pad(x.detach(), (0, _padded(x.shape[-1]) - x.shape[-1])).contiguous()


class _Chunk(NamedTuple):
    """Some rows: the layer on their planes, and the layers on both, whose first inputs are what that gave."""

    layer: _PlaneLayer
    top: MLPForward


class PlaneForward:
    """A pass over rows; see :class:`metagrad.networks.base.Forward`.

    Parameters
    ----------
    params : dict
        As :meth:`PlaneMLP.init` draws them.
    sight : Sight
        Picture and vector.
    planes : sequence of (int, int, int)
        As for :class:`PlaneMLP`.
    threads : int
        Chunks worked on at a time.
    """

    def __init__(self, params: Params, sight: Sight, planes: Sequence[tuple[int, int, int]], threads: int) -> None:
        self.params, self.threads = params, threads
        self.width = params["map"].shape[2]
        top = {name: p for name, p in params.items() if name[:3] != "map"}

        def make(rows: tuple[Tensor, Tensor]) -> _Chunk:
            layer = _PlaneLayer(rows[0], planes)
            x = (layer.apply(params["map"]) + params["map_bias"]).relu_()
            return _Chunk(layer, MLPForward(top, torch.cat([x, rows[1]], -1)))

        rows = zip(sight.picture.split(_CHUNK, 1), sight.vector.split(_CHUNK, 1), strict=True)
        self._chunks = each(make, list(rows), threads)
        self.out = torch.cat([chunk.top.out for chunk in self._chunks], 1)

    @classmethod
    def joined(cls, parts: Sequence[PlaneForward]) -> PlaneForward:
        """Of the rows of ``parts`` one after the other; not computed anew."""
        whole = cls.__new__(cls)
        whole.params, whole.threads, whole.width = parts[0].params, parts[0].threads, parts[0].width
        whole.out = torch.cat([part.out for part in parts], 1)
        whole._chunks = []
        some: list[_Chunk] = []
        rows = 0
        chunks = [chunk for part in parts for chunk in part._chunks]
        for i, chunk in enumerate(chunks):
            some, rows = [*some, chunk], rows + chunk.top.out.shape[1]
            if rows >= _CHUNK or i == len(chunks) - 1:
                picture = torch.cat([c.layer.picture for c in some], 1)
                layer = _PlaneLayer(picture, chunk.layer.planes)
                whole._chunks.append(_Chunk(layer, MLPForward.joined([c.top for c in some])))
                some, rows = [], 0
        return whole

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return summed(self._each(self._vjp, d_out), list(self.params))

    def _vjp(self, chunk: _Chunk, d_out: Tensor) -> Params:
        grads: Params = {}
        for i, x, delta in chunk.top.deltas(d_out):
            grads |= chunk.top.layer_grads(i, x, delta)
        first = self._first_delta(chunk, delta)
        return {"map": chunk.layer.transposed(first), "map_bias": column_sums(first), **grads}

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``."""
        return summed(self._each(self._vjps, d_out, weights), list(self.params))

    def _vjps(self, chunk: _Chunk, d_out: Tensor, weights: Tensor) -> Params:
        grads: Params = {}
        for i, x, delta in chunk.top.deltas(d_out):
            grads |= chunk.top.layer_vjps(i, x, delta, weights)
        first = self._first_delta(chunk, delta)
        rows = [chunk.layer.transposed(first * w[..., None]) for w in weights.unbind(-1)]
        biases = product(weights.transpose(1, 2), first).transpose(0, 1)[:, :, None]
        empty = self.params["map"].new_empty(0, *self.params["map"].shape)
        return {"map": torch.stack(rows) if rows else empty, "map_bias": biases, **grads}

    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""

        def along(chunk: _Chunk) -> Tensor:
            moved = chunk.layer.apply(tangent["map"]) + tangent["map_bias"]
            return chunk.top.jvp(tangent, where_active(moved, self._first(chunk)))

        return torch.cat(each(along, self._chunks, self.threads), 1)

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""

        def norms(chunk: _Chunk, d: Tensor) -> Tensor:
            top, total = chunk.top, torch.zeros_like(d[..., 0])
            for _, x, delta in top.deltas(d):
                total += (row_squares(x) + 1) * row_squares(delta)
            shown = chunk.layer.apply(self.params["map"].new_ones(*self.params["map"].shape[:2], 1))
            return total + (shown[..., 0] + 1) * row_squares(self._first_delta(chunk, delta))

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
