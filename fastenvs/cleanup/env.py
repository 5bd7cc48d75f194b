"""Vectorised Cleanup."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fastenvs.cleanup.config import (
    ACTION_NAMES,
    AGENT,
    AGENT_COLOURS,
    BEAM_LENGTH,
    COLOURS,
    WALL,
    make_config,
    make_options,
)
from fastenvs.cleanup.consistency import check_state, state_bounds
from fastenvs.cleanup.state import Draws, Game, State, Views
from fastenvs.cleanup.step import play
from fastenvs.draws import Draw
from fastenvs.render import pixels
from fastenvs.vecenv import VecEnv


class Cleanup(VecEnv):
    """N copies of Cleanup.

    Observations are uint8: ``agents`` ``[N, A, 2v+1, 2v+1, C]``, ``designer`` ``[N, 2q+1, 2q+1, C]``, with C = 3
    colours or ``6 + A + 4`` planes: wall, waste, river or stream, apple, penalty beam, cleaning beam, one for each
    agent, and four for the heading of the agent that is seen, relative to the top of the picture.

    ``info`` has ``designer_reward`` (sum of the agents' rewards, before ``cleaning_penalty``), ``n_cleaned``,
    ``cleaned``, ``collected`` and ``action_type`` ``[N, A]``.

    Parameters
    ----------
    num_envs : int
        Number of copies.
    preset : {"paper_7x7", "authors_10x10", "large"}
        Options to start from.
    **options
        See :class:`Options` and :class:`fastenvs.vecenv.VecEnv`.
    """

    name = "cleanup"
    agent_info = ("n_cleaned", "cleaned", "collected", "action_type")
    agent_colours = np.array(AGENT_COLOURS, np.uint8)
    min_rows_per_thread = 256
    rows_per_chunk = 1024

    def __init__(self, num_envs: int, *, preset: str = "paper_7x7", **options: Any) -> None:
        shared, options = self._split(options)
        self.options = o = make_options(preset, options)
        (height, width), side, designer_side = o.symbols.shape, 2 * o.view_size + 1, 2 * o.designer_radius + 1
        channels = o.channels
        seen = 2 * channels * (o.n_agents * side**2 + designer_side**2)
        super().__init__(num_envs, o.n_agents, bytes_each=seen + height * width * (channels + 3), **shared)
        self.config = make_config(o)
        self.n_actions = len(self.config.base_action)
        n, a = self.num_envs, o.n_agents
        self._width = width

        def zeros(*shape: int, dtype: type = np.uint8) -> np.ndarray:
            return np.zeros((n, *shape), dtype)

        self.state = State(
            content=zeros(height * width),
            occupant=zeros(height * width),
            beam=zeros(height * width),
            beam_cells=zeros(3 * BEAM_LENGTH * a, dtype=np.int32),
            n_beam_cells=zeros(dtype=np.int32),
            canvas=zeros(height, width, channels),
            cell=zeros(a, dtype=np.int32),
            heading=zeros(a),
            n_waste=zeros(dtype=np.int32),
            time=zeros(dtype=np.int32),
            p_apple=zeros(dtype=np.float64),
            p_waste=zeros(dtype=np.float64),
            n_cleaned=zeros(a, dtype=np.int16),
            cleaned=zeros(a),
            collected=zeros(a),
            action_type=zeros(a),
            scratch=zeros(5, a, dtype=np.int32),
        )
        self._views = Views(zeros(a, side, side, channels), zeros(designer_side, designer_side, channels))
        self._obs = self._views._asdict()
        points = height * width - 1
        n_apples, n_waste = len(self.config.apple_points), len(self.config.waste_points)
        self._offer_draws(
            spawn=Draw((a,), np.int32, 0, points, made_by=("reset",)),
            heading=Draw((a,), np.uint8, 0, 3, made_by=("reset",)),
            move_order=Draw((a,), np.int16, -1, a - 1, made_by=("step",)),
            apple=Draw((n_apples,), np.float64, 0, 1, optional=True),
            waste_order=Draw((n_waste,), np.int16, -1, n_waste - 1),
            waste=Draw((n_waste,), np.float64, 0, 1, optional=True),
        )
        self._bind()

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the actions are called, by their numbers."""
        return tuple(ACTION_NAMES[action] for action in self.config.base_action)

    @property
    def locations(self) -> np.ndarray:
        """Row and column of every agent, ``[N, A, 2]``."""
        return np.stack(np.divmod(self.state.cell, self._width), axis=-1)

    @cached_property
    def single_observation_space(self):
        """``Dict(agents=Box [A, 2v+1, 2v+1, C], designer=Box [2q+1, 2q+1, C])``, uint8."""
        from gymnasium.spaces import Box, Dict

        most = 255 if self.options.observation == "rgb" else 1
        return Dict({name: Box(0, most, array.shape[1:], np.uint8) for name, array in self._obs.items()})

    def render(self, env: int = 0, cell_size: int = 16) -> np.ndarray:
        """Picture of one copy in the game's colours, uint8 ``[H * cell_size, W * cell_size, 3]``."""
        env, size = self._copy_index(env), pixels(self.options.symbols.shape, cell_size, 1)
        codes, state = self.state.content[env].astype(int), self.state
        seen = state.occupant[env].astype(int)
        codes = np.where(seen > 0, AGENT + 4 * (seen - 1), codes)
        codes = np.where(state.beam[env] > 0, state.beam[env], codes)
        colours = np.array(
            [COLOURS[c] for c in range(AGENT)] + [AGENT_COLOURS[(k // 4) % 10] for k in range(4 * self.n_agents)]
        )
        picture = colours[codes].astype(np.uint8).reshape(-1, self._width, 3)
        return picture.repeat(size, 0).repeat(size, 1)

    def _game(self) -> Game:
        draws = Draws(*(self._drawn[name] for name in Draws._fields))
        final = Views(**self._final_obs) if self._final_obs else self._views
        return Game(True, self.config, self.state, self.streams, draws, self.buffers, self._turns, self._views, final)

    def _calls(self) -> tuple[Any, Any]:
        return self._calls_of(play, self._game())

    def _step_info(self) -> dict[str, Any]:
        return {name: getattr(self.state, name) for name in self.agent_info}

    def _check_draws(self, draws: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        checked = super()._check_draws(draws)
        if "spawn" in checked and (self.config.start.ravel()[checked["spawn"]] == WALL).any():
            raise ValueError("draw 'spawn' puts an agent into a wall")
        if ("waste" in checked) != ("waste_order" in checked):
            raise ValueError("draws 'waste' and 'waste_order' go together")
        for name, what in (
            ("spawn", "two agents on one cell"), ("waste_order", "a point twice"), ("move_order", "an agent twice"),
        ):  # fmt: skip
            if name in checked:
                row = np.sort(checked[name].astype(np.int64), axis=1)
                if ((np.diff(row, axis=1) == 0) & (row[:, 1:] >= 0)).any():
                    raise ValueError(f"draw {name!r} has {what}")
        return checked

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        return state_bounds(self.options, self.state)

    def _check_state(self, state: State) -> None:
        check_state(self.config, state)
