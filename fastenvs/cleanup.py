"""Cleanup: all rules of the game, in the order in which a step runs them.

Apples grow on one side of a walled room as long as the river on the other side is clean enough. Collecting pays the
collector; cleaning, with a beam, pays nobody. Section numbers are those of the Cleanup specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.checks import positive_int
from fastenvs.grid import CLEANUP_MAPS, copy_window, read_map
from fastenvs.jit import copy_bytes, inline, kernel
from fastenvs.vecenv import Draw, VecEnv

# What a cell holds, and how it looks; an agent that can be seen looks like AGENT + 4 * number + heading.
EMPTY, WALL, WASTE, RIVER, STREAM, APPLE, PENALTY_BEAM, CLEANING_BEAM, AGENT = range(9)
SYMBOLS = {"@": WALL, " ": EMPTY, "P": EMPTY, "B": EMPTY, "H": WASTE, "R": RIVER, "S": STREAM}
UP, RIGHT, DOWN, LEFT = range(4)
STAY, CLOCKWISE, COUNTER_CLOCKWISE, FIRE, CLEAN = 4, 5, 6, 7, 8
#: Action types, for the designer: cleaned; earned a positive reward; anything else.
CLEANED, COLLECTED, OTHER = range(3)
BEAM_LENGTH = 5
HIT, SHOT = -50.0, -1.0

#: Base action of each index, by action set (section 4).
ACTION_SETS: dict[str, tuple[int, ...]] = {
    "all": (0, 1, 2, 3, 4, 5, 6, 7, 8),
    "no_fire": (0, 1, 2, 3, 4, 5, 6, 8),
    "no_rotation": (0, 1, 2, 3, 4, 8),
    "no_left_right": (2, 3, 4, 5, 6, 8),
    "no_left_right_no_rotation": (2, 3, 4, 8),
}

COLOURS = {
    EMPTY: (0, 0, 0), WALL: (180, 180, 180), WASTE: (113, 75, 24), RIVER: (99, 156, 194), STREAM: (99, 156, 194),
    APPLE: (0, 255, 0), PENALTY_BEAM: (255, 255, 0), CLEANING_BEAM: (100, 255, 255),
}  # fmt: skip
AGENT_COLOURS = (
    (159, 67, 255), (2, 81, 154), (204, 0, 204), (216, 30, 54), (254, 151, 0), (100, 255, 255), (99, 99, 255),
    (250, 204, 255), (238, 223, 16), (159, 67, 255),
)  # fmt: skip
# Channels of the planes: these, one an agent, and four for the heading of the agent that is seen.
PLANES = (WALL, WASTE, RIVER, APPLE, PENALTY_BEAM, CLEANING_BEAM)


@dataclass(frozen=True)
class Options:
    """Options of the game (section 3); defaults are the paper's 7 x 7 setting.

    Parameters
    ----------
    map : str or Path
        A named map (``small_7x7``, ``symmetric_10x10``, ``large_25x18``), the path of a text file, or the text.
    n_agents : int
        Number of agents, at most as many as the map has spawn points.
    steps : int
        Length of an episode.
    actions : str
        Which of :data:`ACTION_SETS` the agents have.
    view_size, planner_view_size : int
        Radius of the agents' and of the planner's window; the planner's default is that of the agents.
    global_ref_point, planner_ref_point : (int, int), optional
        Centre of the agents' windows, if not their own place; centre of the planner's, by default the map's middle.
    depletion, restoration : float
        Densities of waste from which on nothing grows, and up to which apples grow at the full rate.
    apple_rate, waste_rate : float
        Probabilities of an apple, at each free apple point, and of waste, at each clean waste point tried.
    beam_width : int
        Odd; side lanes run half of it beside the agent.
    shuffle_spawn, random_orientation : bool
        Start at random spawn points, with random headings.
    movement : {"reference", "orderly"}
        The published rule, in which two agents may come to share a cell, or one in which they never do.
    cleaning_penalty : float
        Subtracted from an agent's reward for each clean action; the planner's reward is without it.
    observation : {"rgb", "planes"}
        Colours, or one-hot planes of the same window with headings.
    """

    map: str | Path = "small_7x7"
    n_agents: int = 2
    steps: int = 50
    actions: Literal["all", "no_fire", "no_rotation", "no_left_right", "no_left_right_no_rotation"] = "no_rotation"
    view_size: int = 4
    planner_view_size: int | None = None
    global_ref_point: tuple[int, int] | None = None
    planner_ref_point: tuple[int, int] | None = None
    depletion: float = 0.6
    restoration: float = 0.0
    apple_rate: float = 0.5
    waste_rate: float = 0.5
    beam_width: int = 3
    shuffle_spawn: bool = False
    random_orientation: bool = False
    movement: Literal["reference", "orderly"] = "reference"
    cleaning_penalty: float = 0.0
    observation: Literal["rgb", "planes"] = "rgb"

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def symbols(self) -> np.ndarray:
        """Symbols of the map, ``[H, W]``."""
        return read_map(self.map, CLEANUP_MAPS)

    def points(self, symbols: str) -> np.ndarray:
        """Cells, ``row * W + column``, that carry one of the symbols, in reading order, int32."""
        return np.flatnonzero(np.isin(self.symbols, list(symbols))).astype(np.int32)

    @property
    def planner_radius(self) -> int:
        """Radius of the planner's window."""
        return self.view_size if self.planner_view_size is None else self.planner_view_size

    @property
    def planner_centre(self) -> tuple[int, int]:
        """Centre of the planner's window."""
        height, width = self.symbols.shape
        return self.planner_ref_point or (height // 2, width // 2)


PRESETS: dict[str, dict[str, Any]] = {
    "paper_7x7": {},
    "authors_10x10": {
        "map": "symmetric_10x10", "n_agents": 3, "view_size": 7, "depletion": 0.4, "apple_rate": 0.3,
    },
    "large": {
        "map": "large_25x18", "n_agents": 5, "steps": 1000, "view_size": 7, "depletion": 0.4, "apple_rate": 0.05,
        "actions": "all", "shuffle_spawn": True, "random_orientation": True,
    },
}  # fmt: skip


def _check(o: Options) -> None:
    positive_int("n_agents", o.n_agents)
    positive_int("steps", o.steps)
    positive_int("view_size", o.view_size, 0)
    positive_int("planner_view_size", o.planner_radius, 0)
    for name, choices in (
        ("actions", tuple(ACTION_SETS)), ("movement", ("reference", "orderly")), ("observation", ("rgb", "planes")),
    ):  # fmt: skip
        if getattr(o, name) not in choices:
            raise ValueError(f"{name} must be one of {list(choices)}, got {getattr(o, name)!r}")
    for name in ("apple_rate", "waste_rate"):
        if not 0 <= getattr(o, name) <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {getattr(o, name)!r}")
    for name in ("depletion", "restoration"):
        if not np.isfinite(getattr(o, name)):
            raise ValueError(f"{name} must be finite, got {getattr(o, name)!r}")
    if not (np.isfinite(o.cleaning_penalty) and o.cleaning_penalty >= 0):
        raise ValueError(f"cleaning_penalty must be finite and not negative, got {o.cleaning_penalty!r}")
    if positive_int("beam_width", o.beam_width) % 2 == 0:
        raise ValueError(f"beam_width must be odd, got {o.beam_width}")
    symbols = o.symbols
    unknown = sorted(set(symbols.ravel().tolist()) - SYMBOLS.keys())
    if unknown:
        raise ValueError(f"the map has unknown symbols: {unknown}")
    if any((edge != "@").any() for edge in (symbols[0], symbols[-1], symbols[:, 0], symbols[:, -1])):
        raise ValueError("the map must be closed by walls")
    spawns = len(o.points("P"))
    if o.n_agents > min(spawns, 250):
        raise ValueError(f"{o.n_agents} agents do not fit on {spawns} spawn points (and 250 is the most)")
    for name in ("global_ref_point", "planner_ref_point"):
        point = getattr(o, name)  # cells outside the map are seen as black
        if point is not None and not (len(point) == 2 and all(isinstance(p, (int, np.integer)) for p in point)):
            raise ValueError(f"{name} must be a row and a column, got {point!r}")


def spawn_probabilities(o: Options) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of apples and of waste by the number of waste cells, float64 ``[W + 1]`` (section 7, step 5)."""
    points = len(o.points("HR"))
    apple, waste = np.zeros(points + 1), np.zeros(points + 1)
    for k in range(points + 1):
        density = 1 - (points - k) / points if points else 0.0
        if density >= o.depletion:
            continue
        waste[k] = o.waste_rate
        slope = (density - o.restoration) / (o.depletion - o.restoration) if density > o.restoration else 0.0
        apple[k] = (1 - slope) * o.apple_rate if density > o.restoration else o.apple_rate
    return apple, waste


def palette(o: Options) -> np.ndarray:
    """How every code looks: uint8 ``[codes, 3]``, or ``[codes, 6 + A + 4]`` for planes."""
    n = AGENT + 4 * o.n_agents
    if o.observation == "rgb":
        colours = [COLOURS[code] for code in range(AGENT)]
        return np.array(colours + [AGENT_COLOURS[(k // 4) % 10] for k in range(n - AGENT)], np.uint8)
    out = np.zeros((n, len(PLANES) + o.n_agents + 4), np.uint8)
    for channel, code in enumerate(PLANES):
        out[code, channel] = 1
    out[STREAM] = out[RIVER]
    for k in range(4 * o.n_agents):
        out[AGENT + k, len(PLANES) + k // 4] = 1
        out[AGENT + k, len(PLANES) + o.n_agents + k % 4] = 1
    return out


class Config(NamedTuple):
    """What the kernels need of the options."""

    base_action: np.ndarray  # int64, by action index
    start: np.ndarray  # uint8 [1, H, W], contents at the start
    start_canvas: np.ndarray  # uint8 [1, H, W, C], how they look
    palette: np.ndarray  # uint8 [codes, C]
    spawn_points: np.ndarray  # int32, in reading order
    apple_points: np.ndarray  # int32
    waste_points: np.ndarray  # int32
    p_apple: np.ndarray  # float64 [W + 1], by the number of waste cells
    p_waste: np.ndarray  # float64 [W + 1]
    p_any_waste: np.ndarray  # float64 [W + 1], that waste appears at one of the clean points
    steps: int
    lanes: int
    side: int  # distance of the side lanes
    shuffle_spawn: bool
    random_orientation: bool
    orderly: bool
    cleaning_penalty: float


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


@inline
def paint(config, state, e, cell):
    """Bring the look of a cell up to date: beams hide agents, agents hide contents (section 9)."""
    code = np.int64(state.beam[e, cell])
    if code == 0:
        agent = np.int64(state.occupant[e, cell])
        code = np.int64(state.content[e, cell])
        if agent > 0:
            code = AGENT + 4 * (agent - 1) + np.int64(state.heading[e, agent - 1])
    channels = state.canvas.shape[3]
    copy_bytes(state.canvas, (e * state.content.shape[1] + cell) * channels, config.palette, code * channels, channels)


# ---------------------------------------------------------------------- section 5: reset


@kernel
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


@kernel
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


# ---------------------------------------------------------------------- section 6: movement


@inline
def step_towards(width, direction):
    """Difference of cells by a step in a direction."""
    sign = 1 if direction in (RIGHT, DOWN) else -1
    return sign * (1 if direction % 2 == 1 else width)


@inline
def occupant_below(state, e, cell, highest):
    """Highest agent below ``highest`` that stands on a cell, + 1; 0 for nobody."""
    found = 0
    for j in range(highest):
        if state.cell[e, j] == cell:
            found = j + 1
    return found


@inline
def move(config, state, actions, streams, order, width, e):
    """Turn and move the agents of copy ``e``.

    Rows of the scratch: fixed wishes (-1 for agents that do not move), live plans, starts, whether a plan is still
    open, places at the start of a pass.
    """
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    contested = False
    for i in range(n_agents):
        action = config.base_action[actions[e, i]]
        here = np.int64(cell[e, i])
        scratch[e, 2, i] = here
        want = np.int64(-1)
        if action == STAY:
            want = here
        elif action < STAY:
            offset = (3, 1, 0, 2)[action]
            want = here + step_towards(width, (np.int64(state.heading[e, i]) + offset) % 4)
            if state.content[e, want] == WALL:
                want = here
        elif action in (CLOCKWISE, COUNTER_CLOCKWISE):
            turn = 1 if action == CLOCKWISE else 3
            state.heading[e, i] = (np.int64(state.heading[e, i]) + turn) % 4
            scratch[e, 2, i] = -1  # so that its cell is painted again
        scratch[e, 0, i] = scratch[e, 1, i] = want
        for j in range(i):
            contested |= (want >= 0) & (scratch[e, 0, j] == want)
    if contested:
        settle_contests(config, state, streams, order, e)
    settle_rest(state, e)
    for i in range(n_agents):
        if scratch[e, 2, i] != cell[e, i]:
            if scratch[e, 2, i] >= 0:
                paint(config, state, e, scratch[e, 2, i])
            paint(config, state, e, cell[e, i])


@kernel
def settle_contests(config, state, streams, order, e):
    """Phase A: cells wanted by several movers, in reading order."""
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    last = np.int64(-1)
    while True:
        target, contenders = next_contest(scratch, e, last)
        if contenders == 0:
            return
        last = target
        k = np.int64(state.occupant[e, target]) - 1
        closed = False
        if k >= 0:
            plan = scratch[e, 1, k]
            for i in range(n_agents):
                if scratch[e, 0, i] == target:
                    closed |= i == k or scratch[e, 0, k] < 0 or plan == cell[e, k] or plan == cell[e, i]
        winner = -1 if closed else pick_winner(scratch, streams, order, target, contenders, e)
        if winner >= 0 and not config.orderly:
            left = np.int64(cell[e, winner])
            if left != target:
                cell[e, winner] = target
                state.occupant[e, left] = occupant_below(state, e, left, n_agents)
                state.occupant[e, target] = max(np.int64(state.occupant[e, target]), winner + 1)
        for i in range(n_agents):
            if scratch[e, 0, i] == target and not (config.orderly and i == winner):
                scratch[e, 1, i] = cell[e, i]


@kernel
def next_contest(scratch, e, last):
    """The first cell after ``last`` that several movers want, and how many; 0 of them where there is none."""
    n_agents, found, count = scratch.shape[2], np.int64(-1), 0
    for i in range(n_agents):
        want = np.int64(scratch[e, 0, i])
        if want > last and (found < 0 or want < found):
            rivals = 0
            for j in range(n_agents):
                rivals += scratch[e, 0, j] == want
            if rivals > 1:
                found, count = want, rivals
    return found, count


@kernel
def pick_winner(scratch, streams, order, target, contenders, e):
    """The contender that comes first in the random order of movers: each is as likely as the others."""
    n_agents = scratch.shape[2]
    if order.shape[0] > 0:
        for q in range(n_agents):
            i = int(order[e, q])
            if i >= 0 and scratch[e, 0, i] == target:
                return i
        return -1
    skip = rng.below(streams, e, contenders)
    for i in range(n_agents):
        if scratch[e, 0, i] == target:
            if skip == 0:
                return i
            skip -= 1
    return -1


@inline
def settle_rest(state, e):
    """Phase B: passes over the agents whose plans are open, until none is.

    The form of a fixed point that the specification mentions differs where agents share a cell: of a pair that would
    swap, one may see another agent on its target.
    """
    n_agents, scratch, cell = state.cell.shape[1], state.scratch, state.cell
    open_plans = 0
    for i in range(n_agents):
        scratch[e, 3, i] = scratch[e, 1, i] >= 0
        open_plans += scratch[e, 3, i]
    while open_plans > 0:
        settled, moved = 0, False
        for i in range(n_agents):
            scratch[e, 4, i] = cell[e, i]
        for i in range(n_agents):
            if scratch[e, 3, i] == 0:
                continue
            target = scratch[e, 1, i]
            if not occupied(state, e, target):
                cell[e, i] = target
                scratch[e, 3, i] = 0
                settled, moved = settled + 1, True
                continue
            k = np.int64(state.occupant[e, target]) - 1  # as of the start of the pass
            if k < 0:
                continue
            if k == i or scratch[e, 3, k] == 0 or scratch[e, 1, k] == cell[e, k]:
                scratch[e, 3, i] = 0
                settled += 1
            elif scratch[e, 1, k] == cell[e, i] and target == cell[e, k]:
                scratch[e, 3, i] = scratch[e, 3, k] = 0
                settled += 2
        if settled == 0:  # cycles turn
            for i in range(n_agents):
                if scratch[e, 3, i] == 1:
                    cell[e, i] = scratch[e, 1, i]
            settled, moved = open_plans, True
        if moved:
            for i in range(n_agents):
                state.occupant[e, scratch[e, 4, i]] = 0
            for i in range(n_agents):
                state.occupant[e, cell[e, i]] = i + 1
        open_plans -= settled


@inline
def occupied(state, e, target):
    """Whether an agent stands on a cell at this moment."""
    found = False
    for j in range(state.cell.shape[1]):
        found |= state.cell[e, j] == target
    return found


# ---------------------------------------------------------------------- section 7: beams and spawning


@inline
def fire_beam(config, state, rewards, width, action, e, i):
    """The beam of agent ``i``: up to three lanes, each ended by a wall, an agent, or waste that it cleans."""
    height = state.content.shape[1] // width
    heading = np.int64(state.heading[e, i])
    cleaning = action == CLEAN
    code = CLEANING_BEAM if cleaning else PENALTY_BEAM
    ahead_row, ahead_column = (-1, 0, 1, 0)[heading], (0, 1, 0, -1)[heading]
    right_row, right_column = (0, 1, 0, -1)[heading], (1, 0, -1, 0)[heading]
    for lane in range(config.lanes):
        # Lanes: centre, right, left. The centre starts ahead of the agent, the others beside it.
        sideways = (0, config.side, -config.side)[lane]
        forward = 1 if lane == 0 else 0
        row = np.int64(state.cell[e, i]) // width + forward * ahead_row + sideways * right_row
        column = np.int64(state.cell[e, i]) % width + forward * ahead_column + sideways * right_column
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
            paint(config, state, e, cell)
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


# ---------------------------------------------------------------------- sections 7 and 8: a step


@kernel
def step(config, state, buffers, streams, draws, width, lo, hi):
    """One step of the active copies in ``[lo, hi)``."""
    n_agents, rewards = state.cell.shape[1], buffers.rewards
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
                fire_beam(config, state, rewards, width, action, e, i)
        spawn(config, state, streams, draws, e)
        for i in range(n_agents):
            buffers.designer_reward[e] += rewards[e, i]
            kind = CLEANED if state.cleaned[e, i] else COLLECTED if rewards[e, i] > 0 else OTHER
            state.action_type[e, i] = kind
            rewards[e, i] -= config.cleaning_penalty * state.cleaned[e, i]
        state.time[e] += 1
        buffers.terminated[e] = False
        buffers.truncated[e] = state.time[e] >= config.steps


# ---------------------------------------------------------------------- section 9: observations


@kernel
def observe(canvas, cell, heading, centre, planner_centre, agents, planner, mask, lo, hi):
    """Windows around the agents, their headings to the top, and the planner's window.

    ``centre`` int64 is row and column of a common centre for the agents, or empty.
    """
    n_agents, width = cell.shape[1], canvas.shape[2]
    side, planner_side = agents.shape[2], planner.shape[1]
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
        planner[e] = 0
        top, left = planner_centre[0] - planner_side // 2, planner_centre[1] - planner_side // 2
        copy_window(canvas, e, top, left, planner, e, planner_side)


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
    min_rows_per_thread = 256
    rows_per_chunk = 1024

    def __init__(self, num_envs: int, *, preset: str = "paper_7x7", **options: Any) -> None:
        shared = {k: options.pop(k) for k in ("seed", "autoreset", "num_threads", "copy") if k in options}
        self.options = o = _make_options(preset, options)
        super().__init__(num_envs, o.n_agents, **shared)
        self.config = _make_config(o)
        self.n_actions = len(self.config.base_action)
        n, a, (height, width), channels = self.num_envs, o.n_agents, o.symbols.shape, self.config.palette.shape[1]
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
        side, planner_side = 2 * o.view_size + 1, 2 * o.planner_radius + 1
        self.obs = {
            "agents": zeros(a, side, side, channels),
            "designer": zeros(planner_side, planner_side, channels),
        }
        self._centre = np.array(() if o.global_ref_point is None else o.global_ref_point, np.int64)
        self._planner_centre = np.array(o.planner_centre, np.int64)
        self._allocate_final_obs()
        points = height * width - 1
        n_apples, n_waste = len(self.config.apple_points), len(self.config.waste_points)
        self._offer_draws(
            spawn=Draw((a,), np.int32, 0, points),
            heading=Draw((a,), np.uint8, 0, 3),
            move_order=Draw((a,), np.int16, -1, a - 1),
            apple=Draw((n_apples,), np.float64, 0, 1),
            waste_order=Draw((n_waste,), np.int16, -1, n_waste - 1),
            waste=Draw((n_waste,), np.float64, 0, 1),
        )

    @property
    def locations(self) -> np.ndarray:
        """Row and column of every agent, ``[N, A, 2]``."""
        return np.stack(np.divmod(self.state.cell, self._width), axis=-1)

    @cached_property
    def single_observation_space(self):
        """``Dict(agents=Box [A, 2v+1, 2v+1, C], designer=Box [2q+1, 2q+1, C])``, uint8."""
        from gymnasium.spaces import Box, Dict

        return Dict({name: Box(0, 255, array.shape[1:], np.uint8) for name, array in self.obs.items()})

    def render(self, env: int = 0, cell_size: int = 16) -> np.ndarray:
        """Picture of one copy in the game's colours, uint8 ``[H * cell_size, W * cell_size, 3]``."""
        size = positive_int("cell_size", cell_size)
        codes, state = self.state.content[env].astype(int), self.state
        seen = state.occupant[env].astype(int)
        codes = np.where(seen > 0, AGENT + 4 * (seen - 1), codes)
        codes = np.where(state.beam[env] > 0, state.beam[env], codes)
        colours = np.array(
            [COLOURS[c] for c in range(AGENT)] + [AGENT_COLOURS[(k // 4) % 10] for k in range(4 * self.n_agents)]
        )
        picture = colours[codes].astype(np.uint8).reshape(-1, self._width, 3)
        return picture.repeat(size, 0).repeat(size, 1)

    def _given(self) -> Draws:
        return Draws(*(self._drawn[name] for name in Draws._fields))

    def _step(self, lo: int, hi: int) -> None:
        step(self.config, self.state, self.buffers, self.streams, self._given(), self._width, lo, hi)

    def _reset(self, mask: np.ndarray, lo: int, hi: int) -> None:
        if mask[lo:hi].any():
            reset(self.config, self.state, self.streams, self._given(), mask, lo, hi)

    def _observe(self, out: dict[str, Any], mask: np.ndarray, lo: int, hi: int) -> None:
        if out is not self.obs and not mask[lo:hi].any():
            return
        s = self.state
        observe(
            s.canvas,
            s.cell,
            s.heading,
            self._centre,
            self._planner_centre,
            out["agents"],
            out["designer"],
            mask,
            lo,
            hi,
        )

    def _step_info(self) -> dict[str, Any]:
        return {name: getattr(self.state, name) for name in ("n_cleaned", "cleaned", "collected", "action_type")}

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


def _make_options(preset: str, options: dict[str, Any]) -> Options:
    if preset not in PRESETS:
        raise ValueError(f"no Cleanup preset is called {preset!r}; there are: {', '.join(PRESETS)}")
    unknown = sorted(options.keys() - {f.name for f in fields(Options)})
    if unknown:
        raise TypeError(f"unknown Cleanup option: {', '.join(unknown)}")
    return Options(**{**PRESETS[preset], **options})


def _make_config(o: Options) -> Config:
    start = np.vectorize(SYMBOLS.__getitem__, otypes=[np.uint8])(o.symbols)[None]
    looks = palette(o)
    p_apple, p_waste = spawn_probabilities(o)
    clean = np.arange(len(p_waste))[::-1]
    return Config(
        base_action=np.array(ACTION_SETS[o.actions]),
        start=start,
        start_canvas=looks[start],
        palette=looks,
        spawn_points=o.points("P"),
        apple_points=o.points("B"),
        waste_points=o.points("HR"),
        p_apple=p_apple,
        p_waste=p_waste,
        p_any_waste=1 - (1 - p_waste) ** clean,
        steps=o.steps,
        lanes=1 if o.beam_width == 1 else 3,
        side=(o.beam_width - 1) // 2,
        shuffle_spawn=o.shuffle_spawn,
        random_orientation=o.random_orientation,
        orderly=o.movement == "orderly",
        cleaning_penalty=float(o.cleaning_penalty),
    )
