"""What agents and designer see (section 9)."""

from __future__ import annotations

import numpy as np

from fastenvs.cleanup.config import DOWN, LEFT, UP
from fastenvs.grid import copy_window
from fastenvs.jit import part


@part
def observe(config, state, out, mask, lo, hi):
    """Windows around the agents, their headings to the top, and the designer's window."""
    n_agents, width = state.cell.shape[1], state.canvas.shape[2]
    side, designer_side = out.agents.shape[2], out.designer.shape[1]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        for i in range(n_agents):
            row, column = np.int64(state.cell[e, i]) // width, np.int64(state.cell[e, i]) % width
            if config.centre.shape[0] > 0:
                row, column = config.centre[0], config.centre[1]
            top, left = row - side // 2, column - side // 2
            out.agents[e, i] = 0
            if state.heading[e, i] == UP:
                copy_window(state.canvas, e, top, left, out.agents, e * n_agents + i, side)
            else:
                turned_window(state.canvas, state.heading[e, i], top, left, out.agents, e, i)
        out.designer[e] = 0
        row, column = config.designer_centre[0], config.designer_centre[1]
        top, left = row - designer_side // 2, column - designer_side // 2
        copy_window(state.canvas, e, top, left, out.designer, e, designer_side)


@part
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
