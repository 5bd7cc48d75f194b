"""What surrounds a game's step in a call: which actions are accepted, and which copies step, begin and are observed.

The three autoreset modes are told apart here and nowhere else: a game observes ``seen`` after a step, and before that
resets ``fresh``, whose last observations it writes in mode ``same_step``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from fastenvs.jit import inline, kernel

AutoresetMode = Literal["same_step", "next_step", "disabled"]
SAME_STEP, NEXT_STEP, DISABLED = range(3)


class Turns(NamedTuple):
    """Whose turn it is, of N copies."""

    mode: int
    done: np.ndarray  # bool [N], the episode is over
    fresh: np.ndarray  # bool [N], this call begins an episode
    seen: np.ndarray  # bool [N], a step writes observations
    shown: np.ndarray  # bool [2, N], terminated and truncated as they are handed out


class Offer(NamedTuple):
    """Actions of all agents of all copies, one after another, before they are accepted."""

    wanted: np.ndarray  # int64
    actions: np.ndarray  # int32, the accepted ones
    n_actions: int


@kernel
def accept(offer, lo, hi):
    """Take over the actions of places ``[lo, hi)`` if all of them exist, and say whether they do."""
    wanted, actions, least, most = offer.wanted, offer.actions, 0, 0
    places = range(np.uint64(lo), np.uint64(hi))  # of signed ones some might count from the end: no vector loop
    for k in places:
        least, most = min(least, wanted[k]), max(most, wanted[k])
    exist = least >= 0 and most < offer.n_actions
    if exist:
        for k in places:
            actions[k] = wanted[k]
    return exist


@inline
def before_step(turns, buffers, lo, hi):
    """Let the copies of ``[lo, hi)`` step whose episodes go on."""
    if turns.mode != SAME_STEP:
        for e in range(lo, hi):
            buffers.active[e] = not turns.done[e]
            turns.fresh[e] = turns.done[e] and turns.mode == NEXT_STEP
            if turns.mode == NEXT_STEP:
                buffers.terminated[e] = buffers.truncated[e] = False


@inline
def after_step(turns, buffers, lo, hi):
    """Note whose episodes are over, and return how many copies of ``[lo, hi)`` begin one in this call."""
    n_fresh = 0
    for e in range(lo, hi):
        over = buffers.terminated[e] | buffers.truncated[e]
        turns.shown[0, e], turns.shown[1, e] = buffers.terminated[e], buffers.truncated[e]
        turns.done[e] = over
        if turns.mode == SAME_STEP:
            turns.fresh[e] = over
        n_fresh += turns.fresh[e]
    return n_fresh


class Around(NamedTuple):
    """What surrounds a step that is not one compiled call."""

    turns: Turns
    buffers: tuple


@kernel
def before(around, lo, hi):
    """Do what precedes a step; see :func:`before_step`."""
    before_step(around.turns, around.buffers, lo, hi)


@kernel
def after(around, lo, hi):
    """Do what follows a step; see :func:`after_step`."""
    return after_step(around.turns, around.buffers, lo, hi)
