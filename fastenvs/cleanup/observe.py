"""What agents and designer see (section 9)."""

from __future__ import annotations

import numpy as np

from fastenvs.cleanup.config import DOWN, RIGHT, UP
from fastenvs.grid import copy_window
from fastenvs.jit import clear_bytes, copy_bytes, part


@part
def observe(config, state, out, mask, lo, hi):
    """Windows around the agents, their headings to the top, and the designer's window."""
    n_agents, channels = state.cell.shape[1], state.canvas.shape[3]
    side, designer_side = out.agents.shape[2], out.designer.shape[1]
    window, designer_window = side * side * channels, designer_side * designer_side * channels
    for e in range(lo, hi):
        if not mask[e]:
            continue
        clear_bytes(out.agents, e * n_agents * window, n_agents * window)
        for i in range(n_agents):
            row, column = config.row[state.cell[e, i]], config.column[state.cell[e, i]]
            if config.centre.shape[0] > 0:
                row, column = config.centre[0], config.centre[1]
            top, left = row - side // 2, column - side // 2
            if state.heading[e, i] == UP:
                copy_window(state.canvas, e, top, left, out.agents, e * n_agents + i, side)
            else:
                turned_window(state.canvas, e, top, left, out.agents, e * n_agents + i, np.int64(state.heading[e, i]))
        clear_bytes(out.designer, e * designer_window, designer_window)
        row, column = config.designer_centre[0], config.designer_centre[1]
        top, left = row - designer_side // 2, column - designer_side // 2
        copy_window(state.canvas, e, top, left, out.designer, e, designer_side)


@part
def turned_window(canvas, e, top, left, out, number, heading):
    """Copy a window turned so that ``heading`` points to its top; see :func:`fastenvs.grid.copy_window`.

    Place (a, b) of the window shows cell ``corner + a * down + b * right`` of the world. Heading planes, if any, are
    turned too.
    """
    height, width, channels, side = canvas.shape[1], canvas.shape[2], canvas.shape[3], out.shape[2]
    last = side - 1
    rows_before, rows_after = max(0, -top), max(0, top + side - height)  # of the window, outside the world
    columns_before, columns_after = max(0, -left), max(0, left + side - width)
    if heading == DOWN:
        corner, down, right = (top + last) * width + left + last, -width, -1
        first_a, end_a, first_b, end_b = rows_after, side - rows_before, columns_after, side - columns_before
    elif heading == RIGHT:
        corner, down, right = top * width + left + last, -1, width
        first_a, end_a, first_b, end_b = columns_after, side - columns_before, rows_before, side - rows_after
    else:
        corner, down, right = (top + last) * width + left, 1, -width
        first_a, end_a, first_b, end_b = columns_before, side - columns_after, rows_after, side - rows_before
    for a in range(first_a, end_a):
        start = (e * height * width + corner + a * down + first_b * right) * channels
        to = ((number * side + a) * side + first_b) * channels
        if channels == 3:
            for _ in range(first_b, end_b):
                copy_bytes(out, to, canvas, start, 3)  # a constant: no call
                start += right * 3
                to += 3
        else:
            for _ in range(first_b, end_b):
                copy_bytes(out, to, canvas, start, channels - 4)
                for k in range(4):
                    turned = (k + heading) % 4
                    copy_bytes(out, to + channels - 4 + k, canvas, start + channels - 4 + turned, 1)
                start += right * channels
                to += channels
