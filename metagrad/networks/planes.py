"""Perceptrons on a picture of codes and a vector: the first layer reads binary planes of the picture.

A picture of bytes whose channels hold kinds and owners is read as planes of zeros and ones, of which few are set. The
dense layer then is a sum of the weights' rows of the entries that are set, and its derivatives are as cheap: nothing is
convolved, and the planes themselves are never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad.checks import Checked, Count, CountOrNone, Positive, Threads, Widths
from metagrad.networks.base import Obs, Shapes, Sight, Where, glorot, picture_of, sight_of, vector_width
from metagrad.networks.chunks import each, summed
from metagrad.networks.mlp import MLP, MLPForward, affine, column_sums, n_layers, product, row_squares, where_active
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
        seen = self.read(obs, params["map"].dtype)
        whole = self.begin(params, seen, seen["vector"].shape[1])
        whole.add(seen)
        return whole

    def begin(self, params: Params, obs: Obs, n_rows: int) -> PlaneForward:
        """A pass over rows that come part by part, ``n_rows`` of each network in all, like those of ``obs``."""
        vector = self.read(obs, params["map"].dtype)["vector"]
        return PlaneForward(params, self, n_rows, vector.shape[2])

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        picture, vector = self._sight(obs, params["map"].dtype)
        x = affine(planes_of(picture, self.planes, vector.dtype), params["map"], params["map_bias"]).relu()
        return self._top({n: p for n, p in params.items() if n[:3] != "map"}, {"both": torch.cat([x, vector], -1)})

    @staticmethod
    def _sight(obs: Obs, dtype: torch.dtype) -> Sight:
        sight = sight_of(obs, dtype)
        if sight.picture.dtype != torch.uint8:
            raise TypeError(f"a PlaneMLP reads pictures of bytes, got {sight.picture.dtype}")
        return sight


class PlaneForward:
    """A pass over rows, which may come part by part; see :class:`metagrad.networks.base.Forward`.

    Parameters
    ----------
    params : dict
        As :meth:`PlaneMLP.init` draws them.
    network : PlaneMLP
    n_rows, vector_width : int
        Rows to come, and the width of the vector.
    """

    independent = False

    def __init__(self, params: Params, network: PlaneMLP, n_rows: int, vector_width: int) -> None:
        self.params, self.network = params, network
        self.top = {name: p for name, p in params.items() if name[:3] != "map"}
        self.width = params["map"].shape[2]
        like, layers = params["map"], n_layers(self.top)
        widths = [self.width + vector_width, *(self.top[f"w{i}"].shape[2] for i in range(layers))]
        *self.inputs, self.out = (like.new_empty(len(like), n_rows, w) for w in widths)
        self._seen: list[Obs] = []
        self._filled = 0

    # ------------------------------------------------------------------ forward

    def add(self, obs: Obs) -> Tensor:
        """Take in the next rows; returns their outputs."""
        seen = self.network.read(obs, self.out.dtype)
        self._seen.append(seen)
        rows = slice(self._filled, self._filled + seen["vector"].shape[1])
        self._filled = rows.stop
        both = self.inputs[0]
        self._layer(seen).apply(self.params["map"], self.params["map_bias"], True, both[:, rows, : self.width])
        both[:, rows, self.width :] = seen["vector"]
        for i, (x, y) in enumerate(pairwise((*self.inputs, self.out))):
            torch.baddbmm(self.top[f"b{i}"], x[:, rows], self.top[f"w{i}"], out=y[:, rows])
            if y is not self.out:
                y[:, rows].relu_()
        return self.out[:, rows]

    def finish(self) -> PlaneForward:
        """The pass over the rows that came."""
        if self._filled < self.out.shape[1]:
            self.inputs = [x[:, : self._filled].contiguous() for x in self.inputs]
            self.out = self.out[:, : self._filled].contiguous()
        return self

    @cached_property
    def seen(self) -> Obs:
        """What all rows show, as :meth:`PlaneMLP.read` gives it."""
        if len(self._seen) == 1:
            return self._seen[0]
        most = max(seen["places"].shape[2] for seen in self._seen) if "places" in self._seen[0] else 0
        joined = {}
        for name in self._seen[0]:
            parts = [seen[name] for seen in self._seen]
            if name == "places":
                parts = [F.pad(x, (0, most - x.shape[2])) for x in parts]
            joined[name] = torch.cat(parts, 1)
        return joined

    # ------------------------------------------------------------------ derivatives

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""

        def run(rows: slice) -> Params:
            grads: Params = {}
            top = MLPForward.of(self.top, self.out[:, rows], [x[:, rows] for x in self.inputs])
            for i, x, delta in top.deltas(d_out[:, rows]):
                grads |= top.layer_grads(i, x, delta)
            first = self._first_delta(delta, rows)
            mine = self._layer({name: x[:, rows] for name, x in self.seen.items()})
            grads["map"], grads["map_bias"] = mine.transposed(first, self.params["map"].shape[1]), column_sums(first)
            return grads

        threads = self.network.threads
        return summed(each(run, _chunks(self.out.shape[1]), threads), list(self.params))

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``."""
        grads: Params = {}
        top = self._top
        for i, x, delta in top.deltas(d_out):
            grads |= top.layer_vjps(i, x, delta, weights)
        first = self._first_delta(delta)
        layer, n = self._layer(self.seen), self.params["map"].shape[1]
        rows = each(lambda w: layer.transposed(first * w[..., None], n), weights.unbind(-1), self.network.threads)
        grads["map"] = torch.stack(rows) if rows else first.new_empty(0, *self.params["map"].shape)
        grads["map_bias"] = product(weights.transpose(1, 2), first).transpose(0, 1)[:, :, None]
        return {name: grads[name] for name in self.params}

    @torch.no_grad()
    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""
        moved = self.out.new_empty(*self.out.shape[:2], self.width)
        self._layer(self.seen).apply(tangent["map"], tangent["map_bias"], False, moved)
        return self._top.jvp(tangent, where_active(moved, self.inputs[0][..., : self.width]))

    @torch.no_grad()
    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""
        total = torch.zeros_like(d_out[..., 0])
        for _, x, delta in self._top.deltas(d_out):
            total += (row_squares(x) + 1) * row_squares(delta)
        shown = self._layer(self.seen).shown(d_out)
        return total + (shown + 1) * row_squares(self._first_delta(delta))

    @property
    def _top(self) -> MLPForward:
        """The pass through the layers on both, as a perceptron's."""
        return MLPForward.of(self.top, self.out, self.inputs)

    def _first_delta(self, delta: Tensor, rows: slice = slice(None)) -> Tensor:
        """Derivative by what the layer on the planes gives, from that by what the one above it gives."""
        above = product(delta, self.params["w0"][:, : self.width].transpose(1, 2))
        return where_active(above, self.inputs[0][:, rows, : self.width])

    def _layer(self, seen: Obs) -> PlaneLayer:
        return PlaneLayer(seen, self.network.planes)


def _chunks(n: int) -> list[slice]:
    return [slice(a, min(a + _CHUNK, n)) for a in range(0, max(n, 1), _CHUNK)]
