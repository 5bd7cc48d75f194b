"""What the loop needs of a designer, and the designer that does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from metagrad.agents.base import Agents, AgentState, Interface, Step
from metagrad.batch import Batch
from metagrad.networks.base import Where
from metagrad.streams import Streams

#: Diagnostics of the designer's learning, ``[S]`` each.
Notes = dict[str, Tensor]


class Transition(NamedTuple):
    """Everything that happened in one iteration."""

    before: AgentState
    steps: list[Step]
    after: AgentState
    batches: list[Batch]  # that the agents learned from
    fresh: Batch | None  # episodes that validate the designer
    diagnose: bool = False  # whether notes are wanted


class Designer:
    """How incentives are set and learned; a base class whose methods do nothing.

    A designer is a pure function on an explicit state, any nesting of dicts, NamedTuples, tensors and numbers.
    """

    #: Which agents play the fresh episodes that the designer learns from: those after their step, before it, or none.
    validation: Literal["after", "before", "none"] = "none"
    #: Whether all seeds have one designer, so that they cannot train apart.
    pooled: bool = False

    def init(self, game: Interface, agents: Agents, state: AgentState, rng: Streams, where: Where) -> Any:
        """The state to begin with; none where there is nothing to learn."""
        return None

    def check(self, env: Any, k: int) -> None:
        """Refuse an environment, or a number of episodes in an update, that it cannot work with."""

    def begin(self, state: Any, env: Any, rng: Streams) -> None:
        """Called before an episode's first step."""

    def act(self, state: Any, env: Any, obs: Any, step: int, rng: Streams) -> dict[str, np.ndarray]:
        """Act on the environment before a step, where the game allows it; returns what to record, ``[N, ...]``."""
        return {}

    def pay(self, state: Any, batch: Batch, rng: Streams) -> Batch:
        """Fill in ``batch.payments``."""
        return batch

    def settle(self, state: Any, agents: Agents, agent_state: AgentState, batch: Batch) -> tuple[Any, Batch]:
        """Have the last word on payments before the agents learn."""
        return state, batch

    def update(self, state: Any, agents: Agents, transition: Transition, rng: Streams) -> tuple[Any, Notes]:
        """Learn from an iteration."""
        return state, {}

    def eta(self, state: Any) -> dict[str, Tensor]:
        """What of the state decides the incentives, by name; ``[S, ...]`` each."""
        return {}


def require(agents: Any, what: str, *methods: str) -> None:
    """Refuse agents that lack some of the methods that an option needs beyond :class:`metagrad.agents.Agents`."""
    for name in methods:
        if not hasattr(agents, name):
            raise ValueError(f"{what} needs agents with a method {name}, which {type(agents).__name__} have not")


@dataclass(frozen=True)
class NoDesigner(Designer):
    """Agents on their own, under whatever rules the environment holds."""
