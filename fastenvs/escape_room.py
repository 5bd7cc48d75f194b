"""Escape Room ER(N, M): all rules of the game.

N agents stand at a lever, a start or a door. The door is open only in steps in which at least M agents
choose the lever; whoever then chooses the door earns 10. Moving otherwise costs 1, staying is free. No
selfish agent gains by pulling the lever, so a designer has to pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.checks import make_options, normalise, positive_int
from fastenvs.draws import Draw
from fastenvs.jit import copy_bytes, inline, kernel, part, plain
from fastenvs.render import render_room
from fastenvs.turns import SAME_STEP, Turns, after_step, before_step
from fastenvs.vecenv import Buffers, VecEnv

LEVER, START, DOOR = 0, 1, 2
N_PLACES = 3
# A table of all observations pays while it shares the first-level cache with the rows it is copied to.
TABLE_BYTES = 1 << 15


@dataclass(frozen=True)
class Options:
    """Options of the game.

    Parameters
    ----------
    n_agents : int
        Number of agents, N in ER(N, M).
    min_at_lever : int
        Agents that have to pull, M in ER(N, M).
    max_steps : int
        Step limit of an episode.
    randomize : bool
        Whether an episode starts at uniformly drawn places; they can be handed in as draw ``place`` ``[N, A]``.
    """

    n_agents: int = 2
    min_at_lever: int = 1
    max_steps: int = 5
    randomize: bool = False

    def __post_init__(self) -> None:
        normalise(self)
        for name in ("n_agents", "min_at_lever", "max_steps"):
            positive_int(name, getattr(self, name))
        if self.min_at_lever > self.n_agents:
            raise ValueError(
                f"min_at_lever is {self.min_at_lever} with {self.n_agents} agents: the door could never open"
            )


class Config(NamedTuple):
    """Rules that the kernels need."""

    min_at_lever: int
    max_steps: int
    randomize: bool


class State(NamedTuple):
    """State of N copies."""

    place: np.ndarray  # uint8 [N, A]
    time: np.ndarray  # int32 [N], steps done in the episode
    door_open: np.ndarray  # bool [N], in the last step (a reset leaves it)


class Views(NamedTuple):
    """Observations of N copies."""

    agents: np.ndarray  # uint8 [N, A, 3 A]
    designer: np.ndarray  # uint8 [N, 3 A]


class Room(NamedTuple):
    """All that a call works on."""

    steps: bool  # or only begins episodes
    config: Config
    state: State
    streams: rng.Streams
    buffers: Buffers
    turns: Turns
    place: np.ndarray  # uint8 [N, A], drawn places that are handed in
    table: Views  # of all joint states, then zeros; without rows where there is none
    obs: Views
    final: Views  # last observations of the copies that ended


@inline
def step(config, state, buffers, lo, hi):
    """One step of the active copies in ``[lo, hi)``; without branches, since who does what cannot be predicted."""
    n_agents = state.place.shape[1]
    for e in range(lo, hi):
        if not buffers.active[e]:
            state.door_open[e] = False
            buffers.designer_reward[e] = 0.0
            for i in range(n_agents):
                buffers.rewards[e, i] = 0.0
            continue
        pulling = 0
        leaving = 0
        for i in range(n_agents):
            pulling += buffers.actions[e, i] == LEVER
            leaving += buffers.actions[e, i] == DOOR
        door_open = pulling >= config.min_at_lever
        total = 0
        for i in range(n_agents):
            action = buffers.actions[e, i]
            leaves = door_open & (action == DOOR)
            reward = 10 * leaves - ((action != state.place[e, i]) & (not leaves))
            buffers.rewards[e, i] = reward
            total += reward
            state.place[e, i] = action
        buffers.designer_reward[e] = total
        state.door_open[e] = door_open
        state.time[e] += 1
        escaped = door_open & (leaving > 0)
        buffers.terminated[e] = escaped
        buffers.truncated[e] = (not escaped) & (state.time[e] >= config.max_steps)


@inline
def reset(config, state, streams, draw_place, mask, lo, hi):
    """Put everyone at the start, or at a drawn place, in the copies of ``[lo, hi)`` that ``mask`` names."""
    for e in range(lo, hi):
        if not mask[e]:
            continue
        state.time[e] = 0
        for i in range(state.place.shape[1]):
            if not config.randomize:
                state.place[e, i] = START
            elif draw_place.shape[0] > 0:
                state.place[e, i] = draw_place[e, i]
            else:
                state.place[e, i] = rng.below(streams, e, N_PLACES)


@part
def observe(place, table, out, mask, otherwise, lo, hi):
    """Write one-hot places: the designer sees agents in order, agent i itself first.

    Where there is a table of all joint states, which this wrote before, its rows are copied; then copies outside
    ``mask`` get row ``otherwise``, or nothing if that is negative.
    """
    n_agents, width = place.shape[1], out.designer.shape[1]
    for e in range(lo, hi):
        if table.designer.shape[0] > 0:
            row = 0
            for j in range(n_agents):
                row = row * N_PLACES + int(place[e, j])
            row = row if mask[e] else otherwise
            if row >= 0:
                size = n_agents * width
                copy_bytes(out.agents, e * size, table.agents, row * size, size)
                copy_bytes(out.designer, e * width, table.designer, row * width, width)
        elif mask[e]:
            out.designer[e] = 0
            out.agents[e] = 0
            for j in range(n_agents):
                out.designer[e, j * N_PLACES + int(place[e, j])] = 1
                for i in range(j):  # agents before j list it in its own position
                    out.agents[e, i, j * N_PLACES + int(place[e, j])] = 1
                out.agents[e, j, place[e, j]] = 1
                for i in range(j + 1, n_agents):  # agents after j list it one later, behind themselves
                    out.agents[e, i, (j + 1) * N_PLACES + int(place[e, j])] = 1


@kernel
def play(room, lo, hi):
    """What a call does to the copies in ``[lo, hi)``; returns how many of them a step ended that are reset."""
    place, turns, n_fresh = room.state.place, room.turns, 0
    if room.steps:
        before_step(turns, room.buffers, lo, hi)
        step(room.config, room.state, room.buffers, lo, hi)
        n_fresh = after_step(turns, room.buffers, lo, hi)
        if turns.mode == SAME_STEP:  # writing all rows, zeros too, takes less than finding out which
            observe(place, room.table, room.final, turns.fresh, room.table.agents.shape[0] - 1, lo, hi)
    if n_fresh > 0 or not room.steps:
        reset(room.config, room.state, room.streams, room.place, turns.fresh, lo, hi)
    observe(place, room.table, room.obs, turns.seen if room.steps else turns.fresh, np.int64(-1), lo, hi)
    return n_fresh


def blank_views(n: int, n_agents: int) -> Views:
    """Observations of ``n`` copies, all zero."""
    width = n_agents * N_PLACES
    return Views(np.zeros((n, n_agents, width), np.uint8), np.zeros((n, width), np.uint8))


@cache
def observation_table(n_agents: int) -> Views:
    """Observations of all joint states in base-3 order, then zeros; no rows where they would not stay in cache."""
    n = N_PLACES ** min(n_agents, 20)
    if n * (n_agents + 1) * n_agents * N_PLACES > TABLE_BYTES:
        return blank_views(0, n_agents)
    table = blank_views(n + 1, n_agents)
    place = np.stack(np.unravel_index(np.arange(n), (N_PLACES,) * n_agents), axis=1)
    plain(observe)(place, blank_views(0, n_agents), table, np.ones(n, np.bool_), -1, 0, n)
    return table


class EscapeRoom(VecEnv):
    """N copies of ER(``n_agents``, ``min_at_lever``).

    Observations are uint8 zeros and ones: ``agents`` ``[N, A, 3A]``, ``designer`` ``[N, 3A]``. Actions are
    places: 0 lever, 1 start, 2 door. ``info["designer_reward"]`` is the sum of the agents' rewards,
    ``info["door_open"]`` bool ``[N]``.

    Parameters
    ----------
    num_envs : int
        Number of copies.
    **options
        See :class:`Options` and :class:`fastenvs.vecenv.VecEnv`.
    """

    name = "escape_room"
    n_actions = N_PLACES
    action_names = ("lever", "start", "door")
    min_rows_per_thread = 8192

    def __init__(self, num_envs: int, **options: Any) -> None:
        shared, options = self._split(options)
        self.options = o = make_options(Options, "Escape Room", {"": {}}, "", options)
        n_agents, width = o.n_agents, o.n_agents * N_PLACES
        super().__init__(num_envs, n_agents, bytes_each=2 * width * (n_agents + 1) + n_agents, **shared)
        self.config = Config(o.min_at_lever, o.max_steps, o.randomize)
        n = self.num_envs
        self.state = State(np.full((n, n_agents), START, np.uint8), np.zeros(n, np.int32), np.zeros(n, np.bool_))
        self._views = blank_views(n, n_agents)
        self._obs = self._views._asdict()
        self._table = observation_table(n_agents)
        fixed = "" if o.randomize else "without randomize everybody starts at the start"
        self._offer_draws(place=Draw((n_agents,), np.uint8, 0, N_PLACES - 1, unused=fixed, made_by=("reset",)))
        self._bind()

    @cached_property
    def single_observation_space(self):
        """``Dict(agents=Box [A, 3A], designer=Box [3A])`` of zeros and ones, uint8."""
        from gymnasium.spaces import Box, Dict

        width = self.n_agents * N_PLACES
        return Dict(agents=Box(0, 1, (self.n_agents, width), np.uint8), designer=Box(0, 1, (width,), np.uint8))

    def render(self, env: int = 0, cell_size: int = 20) -> np.ndarray:
        """Picture of one copy, uint8 ``[A * cell_size, 3 * cell_size, 3]``; see :func:`fastenvs.render.render_room`."""
        env = self._copy_index(env)
        return render_room(self.state.place[env], self.state.door_open[env], cell_size)

    def _room(self) -> Room:
        final = Views(**self._final_obs) if self._final_obs else self._views
        return Room(
            True, self.config, self.state, self.streams, self.buffers, self._turns, self._drawn["place"], self._table,
            self._views, final,
        )  # fmt: skip

    def _calls(self) -> tuple[Any, Any]:
        return self._calls_of(play, self._room())

    def _clear_final(self) -> None:
        if len(self._table.agents) == 0:
            super()._clear_final()

    def _step_info(self) -> dict[str, Any]:
        return {"door_open": self.state.door_open}

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        return {"place": (0, N_PLACES - 1), "time": (0, self.options.max_steps)}

    def _check_state(self, state: State) -> None:
        """Every state within the bounds is one."""
