"""What agents and designer see (section 9)."""

from __future__ import annotations

import numpy as np

from fastenvs.cleanup.config import DOWN, LEFT, UP
from fastenvs.grid import copy_window
from fastenvs.jit import kernel


@kernel
def observe(canvas, cell, heading, centre, designer_centre, agents, designer, mask, lo, hi):
    """Windows around the agents, their headings to the top, and the designer's window.

    ``centre`` int64 is row and column of a common centre for the agents, or empty.
    """
    n_agents, width = cell.shape[1], canvas.shape[2]
    side, designer_side = agents.shape[2], designer.shape[1]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            row, column = np.int64(cell[e, i]) // width, np.int64(cell[e, i]) % width
            if centre.shape[0] > 0:
                row, column = centre[0], centre[1]
            top, left = row - side // 2, column - side // 2
            agents[e, i] = 0
            if heading[e, i] == UP:
                copy_window(canvas, e, top, left, agents, e * n_agents + i, side)
            else:
                turned_window(canvas, heading[e, i], top, left, agents, e, i)
        designer[e] = 0
        top, left = designer_centre[0] - designer_side // 2, designer_centre[1] - designer_side // 2
        copy_window(canvas, e, top, left, designer, e, designer_side)


@kernel
def turned_window(canvas, heading, top, left, agents, e, i):
    """Copy a window turned so that ``heading`` points to its top; heading planes, if any, are turned too."""
    height, width, channels = canvas.shape[1], canvas.shape[2], canvas.shape[3]
    last = agents.shape[2] - 1
    h = np.int64(heading)
    for a in range(last + 1):
        for b in range(last + 1):
            row, column = top + b, left + last - a  # the quarter turn for RIGHT
            if h == DOWN:
                row, column = top + last - a, left + last - b
            elif h == LEFT:
                row, column = top + last - b, left + a
            if 0 <= row < height and 0 <= column < width:
                for c in range(min(channels, 3)):
                    agents[e, i, a, b, c] = canvas[e, row, column, c]
                if channels > 3:
                    for c in range(3, channels - 4):
                        agents[e, i, a, b, c] = canvas[e, row, column, c]
                    for k in range(4):
                        agents[e, i, a, b, channels - 4 + k] = canvas[e, row, column, channels - 4 + (k + h) % 4]
