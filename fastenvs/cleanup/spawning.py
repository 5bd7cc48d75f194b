"""The start of an episode (section 5), and where apples and waste appear (section 7)."""

from __future__ import annotations

import numpy as np

from fastenvs import rng
from fastenvs.cleanup.config import APPLE, UP, WASTE
from fastenvs.cleanup.state import paint
from fastenvs.jit import copy_bytes, inline, part


@inline
def spawn(config, state, streams, draws, e):
    """One spawn round: apples at free apple points, waste at one clean waste point at most."""
    dirty = np.int64(state.n_waste[e])
    p_apple, p_waste = config.p_apple[dirty], config.p_waste[dirty]
    state.p_apple[e], state.p_waste[e] = p_apple, p_waste
    given = draws.apple.shape[0] > 0
    if p_apple > 0:
        for k in range(config.apple_points.shape[0]):
            cell = config.apple_points[k]
            if state.occupant[e, cell] == 0 and state.content[e, cell] != APPLE:
                u = draws.apple[e, k] if given else rng.uniform(streams, e)
                if u < p_apple:
                    state.content[e, cell] = APPLE
                    paint(config, state, e, cell)
    if p_waste <= 0:
        return
    clean = config.waste_points.shape[0] - dirty
    chosen = -1
    if draws.waste_order.shape[0] > 0:
        for q in range(config.waste_points.shape[0]):
            k = int(draws.waste_order[e, q])
            if k >= 0 and state.content[e, config.waste_points[k]] != WASTE and draws.waste[e, q] < p_waste:
                chosen = k
                break
    elif clean > 0 and rng.uniform(streams, e) < config.p_any_waste[dirty]:
        skip = rng.below(streams, e, clean)
        for k in range(config.waste_points.shape[0]):
            if state.content[e, config.waste_points[k]] != WASTE:
                if skip == 0:
                    chosen = k
                    break
                skip -= 1
    if chosen >= 0:
        cell = config.waste_points[chosen]
        state.content[e, cell] = WASTE
        state.n_waste[e] += 1
        paint(config, state, e, cell)


@part
def reset(config, state, streams, draws, mask, lo, hi):
    """Lay out the map, place the agents, run one spawn round."""
    n_agents, size = state.cell.shape[1], config.start.size
    for e in range(lo, hi):
        if not mask[e]:
            continue
        copy_bytes(state.content, e * size, config.start, 0, size)
        copy_bytes(state.canvas, e * config.start_canvas.size, config.start_canvas, 0, config.start_canvas.size)
        state.occupant[e] = 0
        state.beam[e] = 0
        state.n_beam_cells[e] = 0
        state.time[e] = 0
        state.n_waste[e] = 0
        for k in range(config.waste_points.shape[0]):
            state.n_waste[e] += state.content[e, config.waste_points[k]] == WASTE
        for i in range(n_agents):
            cell = spawn_cell(config, state, streams, draws, e, i)
            state.cell[e, i] = cell
            state.occupant[e, cell] = i + 1
            state.heading[e, i] = UP
            if draws.heading.shape[0] > 0:
                state.heading[e, i] = draws.heading[e, i]
            elif config.random_orientation:
                state.heading[e, i] = rng.below(streams, e, 4)
            paint(config, state, e, cell)
        spawn(config, state, streams, draws, e)


@part
def spawn_cell(config, state, streams, draws, e, i):
    """Where agent ``i`` starts: the last free spawn point, or a random one."""
    n = config.spawn_points.shape[0]
    if draws.spawn.shape[0] > 0:
        return np.int64(draws.spawn[e, i])
    if not config.shuffle_spawn:
        return np.int64(config.spawn_points[n - 1 - i])
    skip = rng.below(streams, e, n - i)
    for k in range(n):
        cell = np.int64(config.spawn_points[k])
        if state.occupant[e, cell] == 0:
            if skip == 0:
                return cell
            skip -= 1
    return np.int64(-1)
