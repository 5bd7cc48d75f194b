"""A second phase of training: agents that have learned elsewhere, and go on under a new designer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metagrad.agents.base import AgentState
from metagrad.batch import flatten, unflatten


def adopt(state: AgentState, tensors: dict[str, Tensor], seeds: Sequence[int], theirs: Sequence[int]) -> AgentState:
    """Agents as another run left them, with their critics and the states of their optimisers; schedules start anew.

    Fresh optimisers would jolt the agents.

    Parameters
    ----------
    state : AgentState
        The agents of a new run.
    tensors : dict
        The other run's agents by name, as :func:`metagrad.batch.flatten` gives them.
    seeds, theirs : sequence of int
        Seeds of the new run and of the other one, in order.

    Raises
    ------
    ValueError
        If the other run lacks a seed, or has other networks.
    """
    for seed in seeds:
        if seed not in theirs:
            raise ValueError(f"the agents to start with have no seed {seed}; there are {', '.join(map(str, theirs))}")
    mine, places = flatten(state), [list(theirs).index(seed) for seed in seeds]
    if unknown := tensors.keys() - mine.keys():
        raise ValueError(_differs(min(unknown)))
    found: dict[str, Tensor] = {}
    for name, own in mine.items():
        other = tensors.get(name)
        if other is None or other.dim() != own.dim() or (own.dim() and len(other) % len(theirs)):
            raise ValueError(_differs(name))
        if own.dim():  # networks of a seed lie side by side
            other = other.unflatten(0, (len(theirs), -1))[places].flatten(0, 1).to(own.dtype)
        if other.shape != own.shape:
            raise ValueError(_differs(name))
        found[name] = other
    return unflatten(state, found)._replace(batches=state.batches)


def _differs(name: str) -> str:
    kind = {"policy": "policy", "policy_opt": "policy", "critic": "critic"}.get(name.split("/")[0], "learner")
    return f"the agents to start with have another {kind}: {name} differs"
