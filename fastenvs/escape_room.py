"""Escape Room ER(N, M): all rules of the game.

N agents stand at a lever, a start or a door. The door is open only in steps in which at least M agents
choose the lever; whoever then chooses the door earns 10. Moving otherwise costs 1, staying is free. No
selfish agent gains by pulling the lever, so a designer has to pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.checks import make_options, normalise, positive_int
from fastenvs.draws import Draw
from fastenvs.jit import copy_bytes, kernel
from fastenvs.render import render_room
from fastenvs.vecenv import VecEnv

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


@kernel
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


@kernel
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


@kernel
def observe(place, agents, designer, mask, lo, hi):
    """Write one-hot places: the designer sees agents in order, agent i itself first."""
    n_agents = place.shape[1]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        designer[e] = 0
        agents[e] = 0
        for j in range(n_agents):
            designer[e, j * N_PLACES + int(place[e, j])] = 1
            for i in range(j):  # agents before j list it in its own position
                agents[e, i, j * N_PLACES + int(place[e, j])] = 1
            agents[e, j, place[e, j]] = 1
            for i in range(j + 1, n_agents):  # agents after j list it one later, behind themselves
                agents[e, i, (j + 1) * N_PLACES + int(place[e, j])] = 1


@kernel
def observe_from_table(place, table_agents, table_designer, agents, designer, mask, otherwise, lo, hi):
    """Do what :func:`observe` does, by copying rows that it wrote before for every joint state.

    Copies outside ``mask`` get row ``otherwise`` of the tables, or nothing if that is negative.
    """
    designer_bytes = designer.shape[1]
    agents_bytes = designer_bytes * agents.shape[1]
    for e in range(lo, hi):
        code = 0
        for j in range(place.shape[1]):
            code = code * N_PLACES + int(place[e, j])
        code = code if mask[e] else otherwise
        if code >= 0:
            copy_bytes(agents, e * agents_bytes, table_agents, code * agents_bytes, agents_bytes)
            copy_bytes(designer, e * designer_bytes, table_designer, code * designer_bytes, designer_bytes)


def observation_table(n_agents: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Observations of all joint states in base-3 order, then zeros, or None where they would not stay in cache."""
    width = n_agents * N_PLACES
    if n_agents > 20 or N_PLACES**n_agents * (n_agents + 1) * width > TABLE_BYTES:
        return None
    n = N_PLACES**n_agents
    place = np.stack(np.unravel_index(np.arange(n), (N_PLACES,) * n_agents), axis=1).astype(np.uint8)
    agents, designer = np.zeros((n + 1, n_agents, width), np.uint8), np.zeros((n + 1, width), np.uint8)
    observe(np.ascontiguousarray(place), agents, designer, np.ones(n, np.bool_), 0, n)
    return agents, designer


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
    min_rows_per_thread = 8192

    def __init__(self, num_envs: int, **options: Any) -> None:
        shared, options = self._split(options)
        self.options = o = make_options(Options, "Escape Room", {"": {}}, "", options)
        n_agents, width = o.n_agents, o.n_agents * N_PLACES
        super().__init__(num_envs, n_agents, bytes_each=2 * width * (n_agents + 1) + n_agents, **shared)
        self.config = Config(o.min_at_lever, o.max_steps, o.randomize)
        n = self.num_envs
        self.state = State(np.full((n, n_agents), START, np.uint8), np.zeros(n, np.int32), np.zeros(n, np.bool_))
        self._obs = {
            "agents": np.zeros((n, n_agents, width), np.uint8),
            "designer": np.zeros((n, width), np.uint8),
        }
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

    def _step(self, lo: int, hi: int) -> None:
        step(self.config, self.state, self.buffers, lo, hi)

    def _reset(self, mask: np.ndarray, lo: int, hi: int) -> None:
        reset(self.config, self.state, self.streams, self._drawn["place"], mask, lo, hi)

    def _observe(self, out: dict[str, Any], mask: np.ndarray, lo: int, hi: int) -> None:
        if self._table is None:
            observe(self.state.place, out["agents"], out["designer"], mask, lo, hi)
        else:
            self._from_table(out, mask, -1, lo, hi)

    def _observe_final(self, done: np.ndarray, lo: int, hi: int, ended: bool) -> None:
        if self._table is None:
            super()._observe_final(done, lo, hi, ended)
        else:  # writing all rows, zeros too, takes less than finding out which
            self._from_table(self._final_obs, done, len(self._table[0]) - 1, lo, hi)

    def _clear_final(self) -> None:
        if self._table is None:
            super()._clear_final()

    def _from_table(self, out: dict[str, Any], mask: np.ndarray, otherwise: int, lo: int, hi: int) -> None:
        observe_from_table(
            self.state.place,
            *self._table,
            out["agents"],
            out["designer"],
            mask,
            otherwise,
            lo,
            hi,  # type: ignore[misc]
        )

    def _step_info(self) -> dict[str, Any]:
        return {"door_open": self.state.door_open}

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        return {"place": (0, N_PLACES - 1), "time": (0, self.options.max_steps)}

    def _check_state(self, state: State) -> None:
        """Every state within the bounds is one."""
