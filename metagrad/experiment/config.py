"""What decides a run: a game, agents, a designer, and how long to train, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class RunOptions:
    """How a run trains, evaluates and saves.

    Parameters
    ----------
    seeds : tuple of int
        Independent trainings.
    target : float, optional
        Score that counts as solved; None where no score does.
    episodes : int
        Training episodes of each seed.
    k : int
        Episodes in one update, K.
    agent_batches : int
        Batches that the agents learn from before the designer does, M.
    pipeline : bool
        Use the validation episodes as the agents' next training episodes.
    eval_period, eval_episodes : int
        Training episodes between evaluations, and episodes in each.
    test_episodes : int
        Episodes in the test at the end.
    checkpoint_period : int
        Training episodes between checkpoints.
    device : str
        Where the networks live.
    dtype : {"float32", "float64"}
        Floating point type of the networks.
    threads : int
        Threads of tensor operations.
    """

    seeds: tuple[int, ...] = (12340,)
    target: float | None = None
    episodes: int = 10_000
    k: int = 16
    agent_batches: int = 1
    pipeline: bool = True
    eval_period: int = 400
    eval_episodes: int = 10
    test_episodes: int = 100
    checkpoint_period: int = 4_000
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run does.

    Parameters
    ----------
    game, preset, method : str
        Names by which it was made.
    task, agents, designer
        The objects of the library themselves.
    run : RunOptions
        How to train.
    """

    game: str
    preset: str
    method: str
    task: Any
    agents: Any
    designer: Any
    run: RunOptions = field(default_factory=RunOptions)
