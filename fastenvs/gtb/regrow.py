"""Regeneration of wood and stone (``docs/spec/gtb.md``, section 8)."""

import numpy as np

from fastenvs import rng
from fastenvs.gtb.state import SOURCE
from fastenvs.jit import inline, part

_FOREVER = 1 << 60


@inline
def wait(streams, e, probability):
    """Draws until the next success of a Bernoulli process, from 0 up."""
    if probability <= 0.0:
        return _FOREVER
    if probability >= 1.0:
        return 0
    return np.int64(min(np.log(1.0 - rng.uniform(streams, e)) / np.log1p(-probability), float(_FOREVER)))


@part
def restart(clock, streams, probability, mask, lo, hi):
    """Draw the first wait of new episodes."""
    for e in range(lo, hi):
        if mask[e]:
            clock.regrow_wait[e] = wait(streams, e, probability)


@part
def regrow(active, cells, sources, clock, streams, probability, given, lo, hi):
    """Let each source regain its unit with the given probability.

    ``sources`` int32 ``[n, 3]`` lists good, row and column. Natively the successes among the draws of all sources in
    all steps are found by jumping from one to the next, which is the same process. ``given`` uint8
    ``[N, 2, H, W]`` holds the outcomes instead.
    """
    n = sources.shape[0]
    for e in range(lo, hi):
        if not active[e]:
            continue
        if given.shape[0] > 0:
            for k in range(n):
                good, row, column = sources[k, 0], sources[k, 1], sources[k, 2]
                if given[e, good, row, column] > 0 and cells[e, row, column, SOURCE + good] > 0:
                    cells[e, row, column, good] = 1
            continue
        k = clock.regrow_wait[e]
        while k < n:
            good, row, column = sources[k, 0], sources[k, 1], sources[k, 2]
            cells[e, row, column, good] = 1
            k += 1 + wait(streams, e, probability)
        clock.regrow_wait[e] = k - n
