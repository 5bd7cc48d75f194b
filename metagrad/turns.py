"""Learners whose seeds take turns: one object a seed, with networks, optimisers, environment and random streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from fastenvs import rng
from metagrad import fitting
from metagrad.config import ConfigError
from metagrad.rollout import purpose_streams


class TurnLearner:
    """The agents and designers of all seeds; the interface of :class:`metagrad.train.Learner`."""

    def __init__(self, config: Any, workforce: Callable[[Any, int], Any]) -> None:
        self.config = config
        self.workforces = [workforce(config, seed) for seed in config.seeds]

    @property
    def episode(self) -> int:
        """Training episodes of each seed so far."""
        return self.workforces[0].episodes

    @property
    def iteration(self) -> int:
        """Learning steps so far."""
        return self.workforces[0].iteration

    @property
    def env_steps(self) -> np.ndarray:
        """Environment steps of each seed so far, ``[S]``."""
        return np.full(len(self.workforces), self.episode * self.config.game.steps)

    def iterate(self) -> None:
        """One iteration of every seed."""
        for workers in self.workforces:
            workers.iterate()

    def diverged(self) -> np.ndarray:
        """Whether any parameter of a seed is no longer finite, bool ``[S]``."""
        return np.array([not all(bool(p.isfinite().all()) for p in w.parameters()) for w in self.workforces])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the run goes on: tensors, and plain values."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {"seeds": []}
        for seed, workers in zip(self.config.seeds, self.workforces, strict=True):
            mine, plain = workers.tensors()
            tensors |= {f"{seed}/{name}": t for name, t in mine.items()}
            values["seeds"].append(plain)
        return tensors, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises
        ------
        MisfitError
            If it is of another learner; nothing is changed then.
        """
        fitting.check_like("", self.state()[1], values)
        pairs = list(zip(self.config.seeds, self.workforces, values["seeds"], strict=True))
        if unknown := [n for n in tensors if n.partition("/")[0] not in map(str, self.config.seeds)]:
            raise fitting.MisfitError(f"tensor {min(unknown)} is unknown")
        for seed, workers, plain in pairs:
            try:
                fitting.check(workers.tensors(), workers.held(plain), (_of_seed(tensors, seed), plain))
            except fitting.MisfitError as error:
                raise fitting.MisfitError(f"of seed {seed} {error}") from error
        for seed, workers, plain in pairs:
            workers.load(_of_seed(tensors, seed), plain)

    def adopt(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Start with the agents of another run's checkpoint, seed by seed (curriculum, specification 3.3)."""
        seeds = values["config"]["seeds"]
        fitting.check_like("", {"seeds": [{"optimiser_steps": {}}] * len(seeds)}, values)
        theirs = dict(zip(seeds, values["seeds"], strict=True))
        for seed, workers in zip(self.config.seeds, self.workforces, strict=True):
            if seed not in theirs:
                raise ConfigError(f"it has no agents of seed {seed}")
            workers.adopt(_of_seed(tensors, seed), theirs[seed])


def _of_seed(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    prefix = f"{seed}/"
    return {n.removeprefix(prefix): t.clone() for n, t in tensors.items() if n.startswith(prefix)}


class TurnEvaluator:
    """Environments and random streams for evaluating such learners; see :class:`metagrad.evaluate.Evaluator`."""

    make_env: Callable[[Any, int, str, int], Any]

    def __init__(self, config: Any, phase: str, episodes: int) -> None:
        self.config = config
        self.envs = [self.make_env(config, seed, phase, episodes) for seed in config.seeds]
        self.streams = {use: purpose_streams(config.seeds, f"{phase} {use}") for use in ("actions", "designer")}

    def streams_of(self, s: int) -> dict[str, rng.Streams]:
        """The streams of seed ``s``."""
        return {use: rng.Streams(*(array[s : s + 1] for array in streams)) for use, streams in self.streams.items()}

    def counters(self) -> dict[str, list]:
        """Random streams' positions, for checkpoints."""
        streams = {name: s.counter.tolist() for name, s in self.streams.items()}
        return {**streams, "environment": [env.streams.counter.tolist() for env in self.envs]}

    def set_counters(self, counters: dict[str, list]) -> None:
        """Go on from :meth:`counters`."""
        for name, streams in self.streams.items():
            streams.counter[:] = counters[name]
        for env, counter in zip(self.envs, counters["environment"], strict=True):
            env.streams.counter[:] = counter
