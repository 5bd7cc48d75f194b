"""What decides a run: a game, agents, a designer, and how long to train, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from metagrad.agents.base import Agents
from metagrad.checks import AtMost, Bound, Checked, Count, Threads, offers, shown
from metagrad.designers.base import Designer, NoDesigner
from metagrad.tasks.base import VectorTask
from metagrad.tasks.joint import JointAction

#: A seed, which other programs may read from JSON as a floating point number, and how many a run has at most.
Seed = Annotated[int, Bound(0, 2**53 - 1)]
MAX_SEEDS = 10_000


@dataclass(frozen=True)
class RunOptions(Checked):
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
    init_from : str, optional
        Folder of a run whose agents this one starts with; empty where they have to be named.
    device : str
        Where the networks live.
    dtype : {"float32", "float64"}
        Floating point type of the networks.
    threads : int
        Threads of tensor operations, of which no more are used than there are cores.
    """

    seeds: Annotated[tuple[Seed, ...], AtMost(MAX_SEEDS)] = (12340,)
    target: float | None = None
    episodes: Count = 10_000
    k: Count = 16
    agent_batches: Count = 1
    pipeline: bool = True
    eval_period: Count = 400
    eval_episodes: Count = 10
    test_episodes: Count = 100
    checkpoint_period: Count = 4_000
    init_from: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Threads = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct, and at least one, got {shown(self.seeds)}")
        if self.episodes < self.k:
            raise ValueError(f"episodes ({self.episodes}) must be at least k ({self.k})")


@dataclass(frozen=True)
class Experiment(Checked):
    """Everything that decides what a run does; a part of another kind raises a ``ValueError``.

    Parameters
    ----------
    game, preset, method : str
        Names by which it was made.
    task : VectorTask
        The game.
    agents : Agents
        How its agents act and learn.
    designer : Designer
        How incentives are set and learned.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("task", VectorTask), ("designer", Designer), ("agents", Agents)):
            part = getattr(self, name)
            if not (offers(part, kind) if kind is Agents else isinstance(part, kind)):
                raise ValueError(f"Experiment.{name} must be of type {kind.__name__}, got {shown(part)}")


def metagrad(e: Experiment) -> Experiment:
    """As it is."""
    if isinstance(e.designer, NoDesigner):
        raise ValueError(f"{e.game} has no designer, which method metagrad needs; method none does without one")
    return e


def without_validation(e: Experiment) -> Experiment:
    """Its designer learns from the episodes of the agents before their step."""
    try:
        return replace(e, designer=replace(metagrad(e).designer, validation="before"))
    except TypeError:
        kind = type(e.designer).__name__
        raise ValueError(f"{kind} of {e.game} has no option validation, which method metagrad-no-cv sets") from None


#: Methods by their names on the command line, from an experiment of method ``metagrad``.
Methods = dict[str, Callable[[Experiment], Experiment]]
#: Those that any game has.
METHODS: Methods = {
    "metagrad": metagrad,
    "metagrad-no-cv": without_validation,
    "none": lambda e: replace(e, designer=NoDesigner()),
}


def central(e: Experiment) -> Experiment:
    """One agent that acts for all."""
    return replace(e, task=JointAction(e.task), designer=NoDesigner())
