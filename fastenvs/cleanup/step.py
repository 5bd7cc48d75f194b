"""A step: moves, meals, beams, spawning and rewards (sections 7 and 8); and what a call does around it."""

from __future__ import annotations

import numpy as np

from fastenvs.cleanup.config import (
    APPLE,
    BEAM_LENGTH,
    CLEAN,
    CLEANED,
    CLEANING_BEAM,
    COLLECTED,
    EMPTY,
    FIRE,
    HIT,
    OTHER,
    PENALTY_BEAM,
    RIVER,
    SHOT,
    WALL,
    WASTE,
)
from fastenvs.cleanup.movement import move
from fastenvs.cleanup.observe import observe
from fastenvs.cleanup.spawning import reset, spawn
from fastenvs.cleanup.state import paint, paint_as
from fastenvs.jit import inline, kernel, part
from fastenvs.turns import SAME_STEP, after_step, before_step


@inline
def fire_beam(config, state, rewards, action, e, i):
    """The beam of agent ``i``: up to three lanes, each ended by a wall, an agent, or waste that it cleans."""
    height, width = state.canvas.shape[1], state.canvas.shape[2]
    heading = np.int64(state.heading[e, i])
    cleaning = action == CLEAN
    code = CLEANING_BEAM if cleaning else PENALTY_BEAM
    ahead_row, ahead_column = (-1, 0, 1, 0)[heading], (0, 1, 0, -1)[heading]
    right_row, right_column = (0, 1, 0, -1)[heading], (1, 0, -1, 0)[heading]
    own_row, own_column = config.row[state.cell[e, i]], config.column[state.cell[e, i]]
    for lane in range(config.lanes):
        # Lanes: centre, right, left. The centre starts ahead of the agent, the others beside it.
        sideways = (0, config.side, -config.side)[lane]
        forward = 1 if lane == 0 else 0
        row = own_row + forward * ahead_row + sideways * right_row
        column = own_column + forward * ahead_column + sideways * right_column
        for _ in range(BEAM_LENGTH):
            if row < 0 or column < 0 or row >= height or column >= width:
                break
            cell = row * width + column
            content = state.content[e, cell]
            if content == WALL:
                break
            state.beam[e, cell] = code
            state.beam_cells[e, state.n_beam_cells[e]] = cell
            state.n_beam_cells[e] += 1
            found = cleaning and content == WASTE
            if found:
                state.content[e, cell] = RIVER
                state.n_waste[e] -= 1
                state.n_cleaned[e, i] += 1
            paint_as(config, state, e, cell, code)
            hit = np.int64(state.occupant[e, cell]) - 1
            if hit >= 0:
                if not cleaning:
                    rewards[e, hit] += HIT
                break
            if found:
                break
            row += ahead_row
            column += ahead_column
    if not cleaning:
        rewards[e, i] += SHOT


@part
def step(config, state, buffers, streams, draws, lo, hi):
    """One step of the active copies in ``[lo, hi)``."""
    n_agents, width, rewards = state.cell.shape[1], state.canvas.shape[2], buffers.rewards
    for e in range(lo, hi):
        for i in range(n_agents):
            rewards[e, i] = 0.0
            state.n_cleaned[e, i] = state.cleaned[e, i] = state.collected[e, i] = 0
            state.action_type[e, i] = OTHER
        buffers.designer_reward[e] = 0.0
        if not buffers.active[e]:
            continue
        covered = state.n_beam_cells[e]
        state.n_beam_cells[e] = 0
        for k in range(covered):
            cell = state.beam_cells[e, k]
            state.beam[e, cell] = 0
            paint(config, state, e, cell)
        move(config, state, buffers.actions, streams, draws.move_order, width, e)
        for i in range(n_agents):
            ate = state.content[e, state.cell[e, i]] == APPLE
            if ate:
                state.content[e, state.cell[e, i]] = EMPTY
            rewards[e, i] += ate
            state.collected[e, i] = ate
        for i in range(n_agents):
            action = config.base_action[buffers.actions[e, i]]
            state.cleaned[e, i] = action == CLEAN
            if action >= FIRE:
                fire_beam(config, state, rewards, action, e, i)
        spawn(config, state, streams, draws, e)
        for i in range(n_agents):
            buffers.designer_reward[e] += rewards[e, i]
            kind = CLEANED if state.cleaned[e, i] else COLLECTED if rewards[e, i] > 0 else OTHER
            state.action_type[e, i] = kind
            rewards[e, i] -= config.cleaning_penalty * state.cleaned[e, i]
        state.time[e] += 1
        buffers.terminated[e] = False
        buffers.truncated[e] = state.time[e] >= config.steps


@kernel
def play(game, lo, hi):
    """What a call does to the copies in ``[lo, hi)``; returns how many of them a step ended that are reset."""
    config, state, turns, n_fresh = game.config, game.state, game.turns, 0
    if game.steps:
        before_step(turns, game.buffers, lo, hi)
        step(config, state, game.buffers, game.streams, game.draws, lo, hi)
        n_fresh = after_step(turns, game.buffers, lo, hi)
        if n_fresh > 0 and turns.mode == SAME_STEP:
            observe(config, state, game.final, turns.fresh, lo, hi)
    if n_fresh > 0 or not game.steps:
        reset(config, state, game.streams, game.draws, turns.fresh, lo, hi)
    observe(config, state, game.obs, turns.seen if game.steps else turns.fresh, lo, hi)
    return n_fresh
