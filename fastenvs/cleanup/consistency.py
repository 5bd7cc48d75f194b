"""What a state of Cleanup must be like; a restored one is checked, since kernels trust it."""

from __future__ import annotations

import numpy as np

from fastenvs.cleanup.config import (
    AGENT,
    APPLE,
    CLEANING_BEAM,
    EMPTY,
    PENALTY_BEAM,
    RIVER,
    WALL,
    WASTE,
    Config,
    Options,
)
from fastenvs.cleanup.state import State
from fastenvs.snapshots import refuse


def state_bounds(o: Options, state: State) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every array."""
    cells = state.content.shape[1]
    any_int32 = (-(2**31), 2**31 - 1)
    return {
        "content": (EMPTY, APPLE),
        "occupant": (0, o.n_agents),
        "beam": (0, CLEANING_BEAM),
        "beam_cells": (0, cells - 1),
        "n_beam_cells": (0, state.beam_cells.shape[1]),
        "canvas": (0, 255),
        "cell": (0, cells - 1),
        "heading": (0, 3),
        "n_waste": (0, cells),
        "time": (0, o.steps),
        "p_apple": (0, 1),
        "p_waste": (0, 1),
        "n_cleaned": (0, state.beam_cells.shape[1]),
        "cleaned": (0, 1),
        "collected": (0, 1),
        "action_type": (0, 2),
        "scratch": any_int32,  # every use writes it first
    }


def check_state(config: Config, s: State) -> None:
    """Refuse contents that the map does not have, agents in walls, and what does not follow from the rest."""
    n, start = len(s.content), config.start.ravel()
    allowed = np.zeros((APPLE + 1, len(start)), np.bool_)
    allowed[start, np.arange(len(start))] = True
    allowed[WASTE, config.waste_points] = allowed[RIVER, config.waste_points] = True
    allowed[APPLE, config.apple_points] = True
    refuse("state/content", s.content, ~allowed[s.content, np.arange(len(start))], "not what this cell can hold")
    waste = (s.content[:, config.waste_points] == WASTE).sum(1)
    refuse("state/n_waste", s.n_waste, s.n_waste != waste, "not the number of cells with waste")
    rows = np.arange(n)[:, None]
    refuse("state/cell", s.cell, s.content[rows, s.cell] == WALL, "a wall")
    occupant = np.zeros_like(s.occupant)
    for i in range(s.cell.shape[1]):  # rising, so that the highest number stays
        occupant[np.arange(n), s.cell[:, i]] = i + 1
    refuse("state/occupant", s.occupant, s.occupant != occupant, "not the highest agent on this cell, + 1")
    check_beams(s)
    codes = np.where(s.beam > 0, s.beam, s.content).astype(np.int64)
    agent = s.occupant.astype(np.int64) - 1
    looks = AGENT + 4 * agent + s.heading[rows, np.maximum(agent, 0)]
    codes = np.where((agent >= 0) & (s.beam == 0), looks, codes)
    wrong = (s.canvas.reshape(*codes.shape, -1) != config.palette[codes]).any(2).reshape(s.canvas.shape[:3])
    refuse("state/canvas", s.canvas, wrong, "not how this cell looks")


def check_beams(s: State) -> None:
    """Refuse a beam that the next step would not take away."""
    refuse("state/beam", s.beam, (s.beam > 0) & (s.beam < PENALTY_BEAM), "no beam")
    listed = np.zeros(s.beam.shape, np.bool_)
    copy, place = np.nonzero(np.arange(s.beam_cells.shape[1]) < s.n_beam_cells[:, None])
    listed[copy, s.beam_cells[copy, place]] = True
    refuse("state/beam", s.beam, (s.beam > 0) != listed, "not what the list of the beams' cells says")
