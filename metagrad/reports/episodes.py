"""Test episodes of a run, played as ``metagrad evaluate`` plays them, with what a log records of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fastenvs import gtb
from fastenvs.log import EpisodeLog, Table
from metagrad.batch import Batch
from metagrad.experiment import size
from metagrad.experiment.learners import Learners
from metagrad.tasks import JointAction
from metagrad.trainer import Evaluator, Trainer

#: Called after every step with the log around the environment.
Look = Callable[[EpisodeLog], None]


class Played(NamedTuple):
    """Episodes of the seeds that one trainer holds; copy ``s * K + j`` is episode j of seed s."""

    seeds: tuple[int, ...]
    batch: Batch
    log: EpisodeLog

    def tables(self, seeds: Sequence[int]) -> dict[str, Table]:
        """Tables of the log with ``seed`` and ``episode`` in front, and the incentives that agents received."""
        paid = self.batch.payments.double().cpu().numpy()  # [S, T, K, A]
        k, by_agent = self.batch.k, paid.shape[3] == self.log.n_agents
        made = {}
        for name, table in self.log.tables().items():
            first = (table["episode"] == 0) & np.isin(self.seeds, seeds)[table["env"] // k]
            kept = {column: x[first] for column, x in table.items()}
            seed, episode = np.divmod(kept.pop("env"), k)
            kept |= {"episode": episode}
            if by_agent and name == "agents":
                kept["incentive"] = paid[seed, kept["step"] - 1, episode, kept["agent"]]
            elif by_agent and name == "steps":
                kept["incentives"] = paid.sum(3)[seed, kept["step"] - 1, episode]
            elif by_agent and name == "episodes":
                kept["incentives"] = paid.sum((1, 3))[seed, episode]
            made[name] = {"seed": np.array(self.seeds)[seed], **kept}
        return made


def play(learners: Learners, episodes: int, seeds: Sequence[int], look: Look = lambda log: None) -> Iterator[Played]:
    """The test episodes of some seeds, those that ``metagrad evaluate`` scores.

    Parameters
    ----------
    learners : Learners
        Of a run; they are left as they were.
    episodes : int
        Of each seed.
    seeds : sequence of int
        Seeds of the run. Those that are trained side by side are played side by side, whichever are asked for.
    look : callable, optional
        Called after every step.

    Raises
    ------
    ValueError
        If a seed is none of the run's, or there are too few episodes.
    MemoryError
        If the episodes do not fit into the memory.
    """
    run = learners.experiment.run
    for seed in seeds:
        if seed not in run.seeds:
            raise ValueError(f"--seed must be one of {list(run.seeds)}, got {seed}")
    if episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {episodes}")
    size.check(replace(learners.experiment, run=replace(run, test_episodes=episodes)))
    for trainer in learners.trainers:
        if set(seeds) & set(trainer.seeds):
            yield _played(trainer, episodes, look)


def _played(trainer: Trainer, episodes: int, look: Look) -> Played:
    task, trainer.task = trainer.task, _Watched(trainer.task, look)
    try:
        return Played(trainer.seeds, Evaluator(trainer, "test", episodes).play(), trainer.task.log)
    finally:
        trainer.task = task


class _Watched:
    """A task whose environment keeps a log, and is looked at after every step."""

    log: EpisodeLog

    def __init__(self, task: Any, look: Look) -> None:
        self._task, self._look = task, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def make(self, num_envs: int, seeds: Sequence[int]) -> Any:
        """The task's environment within a log; of one mind for all the agents' own, which has their actions."""
        env = self._task.make(num_envs, seeds)
        joint = isinstance(self._task, JointAction)
        game = env.env if joint else env
        self.log = gtb.EpisodeLog(game) if isinstance(game, gtb.GatherTradeBuild) else EpisodeLog(game)
        if not joint:
            return self.log
        env.env = self.log
        return env

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Look, and record."""
        self._look(self.log)
        return self._task.record(env, info)
