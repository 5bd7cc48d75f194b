"""State of the copies, and how a cell looks (sections 2 and 9)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastenvs.cleanup.config import AGENT, Config
from fastenvs.jit import copy_bytes, inline
from fastenvs.rng import Streams
from fastenvs.turns import Turns
from fastenvs.vecenv import Buffers


class State(NamedTuple):
    """State of N copies; a cell is ``row * W + column``."""

    content: np.ndarray  # uint8 [N, H * W]
    occupant: np.ndarray  # uint8 [N, H * W], highest number of an agent there + 1, 0 for nobody
    beam: np.ndarray  # uint8 [N, H * W], PENALTY_BEAM or CLEANING_BEAM of the last step, else 0
    beam_cells: np.ndarray  # int32 [N, 15 A], cells that beams of the last step cover
    n_beam_cells: np.ndarray  # int32 [N]
    canvas: np.ndarray  # uint8 [N, H, W, C], how the cells look
    cell: np.ndarray  # int32 [N, A], where the agents are
    heading: np.ndarray  # uint8 [N, A]
    n_waste: np.ndarray  # int32 [N]
    time: np.ndarray  # int32 [N]
    p_apple: np.ndarray  # float64 [N], of the last spawn round
    p_waste: np.ndarray  # float64 [N]
    n_cleaned: np.ndarray  # int16 [N, A], of the last step
    cleaned: np.ndarray  # uint8 [N, A], whether the action was clean
    collected: np.ndarray  # uint8 [N, A]
    action_type: np.ndarray  # uint8 [N, A]
    scratch: np.ndarray  # int32 [N, 5, A]


class Draws(NamedTuple):
    """Draws handed in; arrays without rows where they are made natively."""

    spawn: np.ndarray  # int32 [N, A], cells
    heading: np.ndarray  # uint8 [N, A]
    move_order: np.ndarray  # int16 [N, A], movers in order, rest -1
    apple: np.ndarray  # float64 [N, apple points], NaN where none is drawn
    waste_order: np.ndarray  # int16 [N, waste points], -1 where not drawn
    waste: np.ndarray  # float64 [N, waste points], by place in that order


class Views(NamedTuple):
    """Observations of N copies."""

    agents: np.ndarray  # uint8 [N, A, 2v+1, 2v+1, C]
    designer: np.ndarray  # uint8 [N, 2q+1, 2q+1, C]


class Game(NamedTuple):
    """All that a call works on."""

    steps: bool  # or only begins episodes
    config: Config
    state: State
    streams: Streams
    draws: Draws
    buffers: Buffers
    turns: Turns
    obs: Views
    final: Views  # last observations of the copies that ended


@inline
def paint(config, state, e, cell):
    """Bring the look of a cell up to date: beams hide agents, agents hide contents (section 9)."""
    code = np.int64(state.beam[e, cell])
    if code == 0:
        agent = np.int64(state.occupant[e, cell])
        code = np.int64(state.content[e, cell])
        if agent > 0:
            code = AGENT + 4 * (agent - 1) + np.int64(state.heading[e, agent - 1])
    paint_as(config, state, e, cell, code)


@inline
def paint_as(config, state, e, cell, code):
    """Let a cell look as a code does."""
    channels = state.canvas.shape[3]
    copy_bytes(state.canvas, (e * state.content.shape[1] + cell) * channels, config.palette, code * channels, channels)
