"""One counter-based random stream for each seed and purpose.

What a seed sees depends neither on which others are trained beside it nor on what other purposes have drawn, and
saving a stream means saving one counter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastenvs import rng
from fastenvs.jit import wrapping
from metagrad.parallel import group

#: What random numbers are for. A purpose's place in this list keys its streams: new ones go to the end.
PURPOSES = (
    "parameters",
    *(f"{phase} {use}" for phase in ("train", "eval", "test") for use in ("environment", "actions", "designer")),
    "train shuffles",
    "surrogates",
    "designer critic",
    "designer parameters",
)


class Streams:
    """The random streams of S seeds in one phase of a run.

    Training, the evaluations beside it (``eval``) and the ``test`` at the end each draw from streams of their own.

    Parameters
    ----------
    seeds : sequence of int
    phase : {"train", "eval", "test"}
    shared : bool
        Whether the processes of a group share the episodes; all draw the same numbers, and each uses its own.
    """

    def __init__(self, seeds: Sequence[int], phase: str = "train", shared: bool = True) -> None:
        self.seeds, self.phase = tuple(int(s) for s in seeds), phase
        self.parts = group.size() if shared else 1
        self._streams: dict[str, rng.Streams] = {}

    def derived(self, purpose: str, part: int = 0) -> list[int]:
        """One derived seed for each seed."""
        key = (PURPOSES.index(purpose), *([part] if part else []))
        return [int(np.random.SeedSequence(s, spawn_key=key).generate_state(1, np.uint64)[0]) for s in self.seeds]

    def env_seeds(self, part: int = 0) -> list[int]:
        """Seeds for the environments of this phase, one for each seed; others for other parts of the copies."""
        return self.derived(f"{self.phase} environment", part)

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Fresh generators for initial parameters, one for each seed."""
        return [np.random.default_rng(s) for s in self.derived(purpose)]

    def uniforms(self, use: str, n: int) -> np.ndarray:
        """The next ``n`` uniforms of every seed for ``actions``, ``designer`` or ``shuffles``, float64 ``[S, n]``."""
        out = np.empty((len(self.seeds), n))
        with wrapping():
            rng.fill_uniform(self._of(use), out)
        return out

    def by_episode(self, use: str, steps: int, k: int, width: int) -> np.ndarray:
        """The next uniforms for the ``k`` episodes of every seed that are played here, ``[S, steps, k, width]``."""
        k *= self.parts
        every = self.uniforms(use, steps * k * width).reshape(-1, steps, k, width)
        return every[:, :, group.share(k)] if self.parts > 1 else every

    def _of(self, use: str) -> rng.Streams:
        if use not in self._streams:
            self._streams[use] = rng.make_streams(self.derived(f"{self.phase} {use}"), len(self.seeds))
        return self._streams[use]

    def counters(self) -> dict[str, np.ndarray]:
        """Positions of all streams of this phase, int64 ``[S]`` each."""
        uses = (p.removeprefix(f"{self.phase} ") for p in PURPOSES if p.startswith(f"{self.phase} "))
        return {use: self._of(use).counter.astype(np.int64) for use in uses if use != "environment"}

    def set_counters(self, counters: dict[str, np.ndarray]) -> None:
        """Go on from :meth:`counters`."""
        for use, counter in counters.items():
            self._of(use).counter[:] = np.asarray(counter).astype(np.uint64)
