"""One counter-based random stream per environment.

A stream is a SplitMix generator (Steele, Lea and Flood 2014): a 64-bit key, an odd 64-bit stride and a
counter; draw ``c`` is ``mix(key + c * stride)``. Keys and strides come from ``numpy.random.SeedSequence``,
so what environment ``i`` draws depends on (seed, i) and on how often it has drawn, on nothing else: not on
the number of environments, threads or chunks. The counter is the whole mutable state, which makes
streams trivial to save.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastenvs.checks import as_array, as_int, positive_int
from fastenvs.jit import inline, kernel, part

Seed = int | Sequence[int] | np.ndarray | None


class Streams(NamedTuple):
    """N random streams; arrays of dtype uint64 and shape ``[N]``."""

    key: np.ndarray
    stride: np.ndarray
    counter: np.ndarray


def make_streams(seed: Seed, n: int) -> Streams:
    """Make ``n`` streams.

    Parameters
    ----------
    seed : int, sequence of int, or None
        An int keys stream ``i`` by (seed, i). A sequence of G ints, with G dividing ``n``, splits the streams
        into G equal groups; member ``j`` of group ``g`` is keyed by (seed[g], j), as if the group stood
        alone. ``None`` takes fresh entropy from the system.
    n : int
        Number of streams.

    Raises
    ------
    ValueError
        If a seed is negative, or the number of seeds does not divide ``n``.
    """
    n = positive_int("n", n)
    if isinstance(seed, np.ndarray):
        seed = as_array("seed", seed, "iu", "integers")
        seed = seed.tolist()
    several = isinstance(seed, Sequence) and not isinstance(seed, str | bytes | bytearray)
    given: list[Any] = list(seed) if several else [seed]  # type: ignore[arg-type]
    if not given or n % len(given):
        raise ValueError(f"{len(given)} seeds cannot be shared out evenly over {n} streams")
    seeds = [None] if seed is None else [as_int("a seed", s) for s in given]
    for s in seeds:
        if s is not None and s < 0:
            raise ValueError(f"a seed must be a non-negative integer, got {s}")
    each = n // len(seeds)
    words = [np.random.SeedSequence(s).generate_state(2 * each, np.uint64) for s in seeds]
    table = np.concatenate(words).reshape(n, 2)
    return Streams(table[:, 0].copy(), table[:, 1] | np.uint64(1), np.zeros(n, np.uint64))


@part
def bits(streams, i):
    """Next 64 random bits of stream ``i`` (uint64)."""
    streams.counter[i] += np.uint64(1)
    z = streams.key[i] + streams.counter[i] * streams.stride[i]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def skip(streams, i):
    """Pass over the next draw of stream ``i``."""
    streams.counter[i] += np.uint64(1)


@part
def uniform(streams, i):
    """Next uniform number in [0, 1) of stream ``i`` (float64, 53 random bits)."""
    return np.float64(bits(streams, i) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@part
def below(streams, i, n):
    """Next integer of stream ``i``, uniform over 0 .. n-1 up to a bias of n / 2**53."""
    return np.int64(uniform(streams, i) * n)


@kernel
def fill_uniform(streams, out):
    """Fill row ``i`` of ``out`` (float64 ``[N, D]``) with the next D uniforms of stream ``i``."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = uniform(streams, i)
