"""A dense layer on binary planes of pictures: sums of the weights' rows of the entries that are set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastenvs.jit import PURE_PYTHON, kernel
from metagrad.compiled.sparse_conv import LANES as ADDED
from metagrad.compiled.sparse_conv import add_lanes
from metagrad.networks.base import Obs

#: Numbers that are summed at a time, in registers: weights are padded to a multiple.
LANES = 64


def planes_of(picture: Tensor, planes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> Tensor:
    """The planes of a picture ``[G, R, h, w, C]``, flattened cell by cell, ``[G, R, h w P]``."""
    shown = [(picture[..., c] >= least) & (picture[..., c] <= most) for c, least, most in planes]
    return torch.stack(shown, -1).flatten(2).to(dtype)


@cache
def _table(planes: tuple[tuple[int, int, int], ...], channels: int) -> np.ndarray:
    """Plane that every value of a channel sets, or -1, int16 ``[C, 256]``."""
    table = np.full((channels, 256), -1, np.int16)
    for plane, (channel, least, most) in enumerate(planes):
        table[channel, least : most + 1] = plane
    return table


def set_places(picture: Tensor, planes: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Entries of the flattened planes that are set, int32 ``[G, R, 1 + most]``: how many, and which."""
    rows, table = picture.flatten(0, 1).flatten(1).contiguous().numpy(), _table(planes, picture.shape[-1])
    places = np.empty((len(rows), 1 + _most(rows)), np.int32)
    _find(rows, table, len(planes), np.empty(rows.shape[1] + 1, np.int32), places)
    return torch.from_numpy(places).unflatten(0, picture.shape[:2])


@kernel
def _most(pictures):
    """The largest number of entries of a picture that are not 0."""
    most = 0
    for b in range(pictures.shape[0]):
        n = 0
        for i in range(pictures.shape[1]):
            n += pictures[b, i] != 0
        most = max(most, n)
    return most


@kernel
def _find(pictures, table, n_planes, room, places):
    channels = table.shape[0]
    for b in range(pictures.shape[0]):
        # Entries first, without a branch: one on the entries would go wrong too often.
        n, found = 0, 0
        for i in range(pictures.shape[1]):
            room[n] = i
            n += pictures[b, i] != 0
        for m in range(n):
            cell = room[m] // channels
            plane = np.int64(table[room[m] - cell * channels, pictures[b, room[m]]])
            if plane >= 0:
                found += 1
                places[b, found] = cell * n_planes + plane
        places[b, 0] = found


if PURE_PYTHON:

    def gather_lanes(out, to, source, column, places, first, n):
        """Add the lanes of some rows of ``source`` to those of ``out``; see the compiled form."""
        rows = places.reshape(-1)[first : first + n]
        out[to : to + LANES] += source[rows, column : column + LANES].sum(0)

else:
    from llvmlite import ir

    @numba.extending.intrinsic
    def gather_lanes(typingctx, out, to, source, column, places, first, n):
        """Add, to the lanes of ``out`` from ``to`` on, those from ``column`` on of ``n`` rows of ``source``.

        Which rows stands in ``places`` from ``first`` on, counted flat. The sums stay in registers; nothing is checked.
        """

        def codegen(context, builder, signature, args):
            dtype, word = signature.args[0].dtype, ir.IntType(64)
            lanes = ir.VectorType(context.get_value_type(dtype), LANES)
            align = dtype.bitwidth // 8

            def array(i):
                return context.make_array(signature.args[i])(context, builder, args[i])

            def integer(i):
                return context.cast(builder, args[i], signature.args[i], numba.types.int64)

            def vector(data, at):
                return builder.bitcast(builder.gep(data, [at]), lanes.as_pointer())

            target = vector(array(0).data, integer(1))
            given, column, rows = array(2), integer(3), builder.gep(array(4).data, [integer(5)])
            width = builder.extract_value(given.shape, 1)
            start, n = builder.load(target, align=align), integer(6)
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed(">", n, word(0)), loop, after)

            builder.position_at_end(loop)
            m, total = builder.phi(word), builder.phi(lanes)
            row = builder.sext(builder.load(builder.gep(rows, [m])), word)
            held = vector(given.data, builder.add(builder.mul(row, width), column))
            now, following = builder.fadd(total, builder.load(held, align=align)), builder.add(m, word(1))
            builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

            m.add_incoming(word(0), before)
            m.add_incoming(following, loop)
            builder.position_at_end(after)
            result = builder.phi(lanes)
            for phi in (total, result):
                phi.add_incoming(start, before)
                phi.add_incoming(now, loop)
            builder.store(result, target, align=align)
            return context.get_dummy_value()

        return numba.types.none(out, to, source, column, places, first, n), codegen


@kernel
def _sum_rows(places, weight, bias, rectified, room, out):
    """Sums of the weights of every row's places and biases: ``weight [n, W]``, ``out [R, w]`` with ``w <= W``."""
    width, filled, each = len(room), len(bias), places.shape[1]
    for b in range(places.shape[0]):
        for j in range(width):
            room[j] = bias[j] if j < filled else 0
        for j in range(0, width, LANES):
            gather_lanes(room, j, weight, j, places, b * each + 1, places[b, 0])
        for j in range(filled):
            out[b, j] = room[j] if room[j] > 0 or not rectified else 0


@kernel
def _spread_rows(places, d, weight):
    """Transpose of the sums: add every row of ``d [R, W]`` to the weights of its places."""
    width = d.shape[1]
    for b in range(places.shape[0]):
        for m in range(1, 1 + places[b, 0]):
            for j in range(0, width, ADDED):
                add_lanes(weight, places[b, m] * width + j, 1.0, d, b * width + j)


class PlaneLayer:
    """The dense layer on the planes of some rows, and its transpose.

    Parameters
    ----------
    seen : dict
        As :meth:`metagrad.PlaneMLP.read` gives it.
    planes : sequence of (int, int, int)
    """

    def __init__(self, seen: Obs, planes: Sequence[tuple[int, int, int]]) -> None:
        self.seen, self.planes = seen, planes

    def apply(self, weight: Tensor, bias: Tensor, rectified: bool, out: Tensor) -> Tensor:
        """Fill ``out [G, R, w]`` with planes times weights ``[G, h w P, w]`` plus biases ``[G, 1, w]``."""
        if "places" not in self.seen:
            sums = torch.baddbmm(bias, self._dense(weight), weight)
            return out.copy_(sums.relu_() if rectified else sums)
        places, padded = self.seen["places"].numpy(), _pad(weight, LANES).numpy()
        room = np.empty(padded.shape[2], padded.dtype)
        for g in range(len(weight)):
            _sum_rows(places[g], padded[g], bias[g, 0].numpy(), rectified, room, out[g].numpy())
        return out

    def shown(self, like: Tensor) -> Tensor:
        """How many entries of a row's planes are set, ``[G, R]``."""
        if "places" not in self.seen:
            return self._dense(like).sum(-1)
        return self.seen["places"][..., 0].to(like.dtype)

    def transposed(self, d: Tensor, n: int) -> Tensor:
        """Derivative of ``sum(d * sums)`` by the ``n`` rows of weights, ``[G, n, w]``, for ``d [G, R, w]``."""
        if "places" not in self.seen:
            return torch.bmm(self._dense(d).transpose(1, 2), d)
        given, places = _pad(d, ADDED), self.seen["places"].numpy()
        weight = d.new_zeros(len(d), n, given.shape[2])
        for g in range(len(d)):
            _spread_rows(places[g], given[g].numpy(), weight[g].numpy())
        return weight[..., : d.shape[2]]

    def _dense(self, like: Tensor) -> Tensor:
        return planes_of(self.seen["picture"], self.planes, like.dtype)


def _pad(x: Tensor, lanes: int) -> Tensor:
    """With zeros up to full lanes; as it is where they are full."""
    missing = -x.shape[-1] % lanes
    return (F.pad(x.detach(), (0, missing)) if missing else x.detach()).contiguous()
