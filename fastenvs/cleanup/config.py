"""Options of Cleanup, and what its kernels need of them. Sections are those of ``docs/spec/cleanup.md``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastenvs import checks
from fastenvs.checks import MAX_AMOUNT, MAX_INT, in_range, normalise, positive_int
from fastenvs.grid import CLEANUP_MAPS, MAX_SIDE, read_map

# What a cell holds, and how it looks; an agent that can be seen looks like AGENT + 4 * number + heading.
EMPTY, WALL, WASTE, RIVER, STREAM, APPLE, PENALTY_BEAM, CLEANING_BEAM, AGENT = range(9)
SYMBOLS = {"@": WALL, " ": EMPTY, "P": EMPTY, "B": EMPTY, "H": WASTE, "R": RIVER, "S": STREAM}
UP, RIGHT, DOWN, LEFT = range(4)
STAY, CLOCKWISE, COUNTER_CLOCKWISE, FIRE, CLEAN = 4, 5, 6, 7, 8
#: Names of the base actions; moves are relative to the heading.
ACTION_NAMES = ("left", "right", "up", "down", "stay", "turn clockwise", "turn counter-clockwise", "fire", "clean")
#: Action types, for the designer: cleaned; earned a positive reward; anything else.
CLEANED, COLLECTED, OTHER = range(3)
BEAM_LENGTH = 5
MAX_AGENTS = 250
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
        Radius of the agents' and of the designer's window; the designer's default is that of the agents.
    global_ref_point, planner_ref_point : (int, int), optional
        Centre of the agents' windows, if not their own place; centre of the designer's, by default the map's middle.
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
        Subtracted from an agent's reward for each clean action; the designer's reward is without it.
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
        normalise(self)
        _check(self)

    @cached_property
    def symbols(self) -> np.ndarray:
        """Symbols of the map, ``[H, W]``."""
        return read_map(self.map, CLEANUP_MAPS)

    def points(self, symbols: str) -> np.ndarray:
        """Cells, ``row * W + column``, that carry one of the symbols, in reading order, int32."""
        return np.flatnonzero(np.isin(self.symbols, list(symbols))).astype(np.int32)

    @property
    def channels(self) -> int:
        """Numbers that an observation has for a cell."""
        return 3 if self.observation == "rgb" else len(PLANES) + self.n_agents + 4

    @property
    def designer_radius(self) -> int:
        """Radius of the designer's window."""
        return self.view_size if self.planner_view_size is None else self.planner_view_size

    @property
    def designer_centre(self) -> tuple[int, int]:
        """Centre of the designer's window."""
        height, width = self.symbols.shape
        return (height // 2, width // 2) if self.planner_ref_point is None else self.planner_ref_point


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
    for name, least, most in (
        ("n_agents", 1, MAX_AGENTS), ("steps", 1, MAX_INT), ("view_size", 0, MAX_INT), ("beam_width", 1, MAX_SIDE),
    ):  # fmt: skip
        positive_int(name, getattr(o, name), least, most)
    if o.planner_view_size is not None:
        positive_int("planner_view_size", o.planner_view_size, 0)
    in_range(o, 0, 1, "apple_rate", "waste_rate")
    in_range(o, -MAX_AMOUNT, MAX_AMOUNT, "depletion", "restoration")
    in_range(o, 0, MAX_AMOUNT, "cleaning_penalty")
    if o.beam_width % 2 == 0:
        raise ValueError(f"beam_width must be odd, got {o.beam_width}")
    symbols = o.symbols
    unknown = sorted(set(symbols.ravel().tolist()) - SYMBOLS.keys())
    if unknown:
        raise ValueError(f"the map has unknown symbols: {unknown}")
    if any((edge != "@").any() for edge in (symbols[0], symbols[-1], symbols[:, 0], symbols[:, -1])):
        raise ValueError("the map must be closed by walls")
    spawns = len(o.points("P"))
    if o.n_agents > spawns:
        raise ValueError(f"{o.n_agents} agents do not fit on {spawns} spawn points")


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
    out = np.zeros((n, o.channels), np.uint8)
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
    row: np.ndarray  # int64 [H * W], of every cell: a division takes longer
    column: np.ndarray  # int64 [H * W]
    start_canvas: np.ndarray  # uint8 [1, H, W, C], how they look
    palette: np.ndarray  # uint8 [codes, C]
    spawn_points: np.ndarray  # int32, in reading order
    apple_points: np.ndarray  # int32
    waste_points: np.ndarray  # int32
    p_apple: np.ndarray  # float64 [W + 1], by the number of waste cells
    p_waste: np.ndarray  # float64 [W + 1]
    p_any_waste: np.ndarray  # float64 [W + 1], that waste appears at one of the clean points
    centre: np.ndarray  # int64, row and column of a common centre of the agents' windows, or empty
    designer_centre: np.ndarray  # int64 [2]
    steps: int
    lanes: int
    side: int  # distance of the side lanes
    shuffle_spawn: bool
    random_orientation: bool
    orderly: bool
    cleaning_penalty: float


def make_options(preset: str, options: dict[str, Any]) -> Options:
    """Options of a preset, some of them replaced."""
    return checks.make_options(Options, "Cleanup", PRESETS, preset, options)


def make_config(o: Options) -> Config:
    """What the kernels need of the options."""
    start = np.vectorize(SYMBOLS.__getitem__, otypes=[np.uint8])(o.symbols)[None]
    looks = palette(o)
    p_apple, p_waste = spawn_probabilities(o)
    clean = np.arange(len(p_waste))[::-1]
    row, column = np.indices(o.symbols.shape)
    return Config(
        base_action=np.array(ACTION_SETS[o.actions]),
        start=start,
        row=row.ravel(),
        column=column.ravel(),
        start_canvas=looks[start],
        palette=looks,
        spawn_points=o.points("P"),
        apple_points=o.points("B"),
        waste_points=o.points("HR"),
        p_apple=p_apple,
        p_waste=p_waste,
        p_any_waste=1 - (1 - p_waste) ** clean,
        centre=np.array(() if o.global_ref_point is None else o.global_ref_point, np.int64),
        designer_centre=np.array(o.designer_centre, np.int64),
        steps=o.steps,
        lanes=1 if o.beam_width == 1 else 3,
        side=(o.beam_width - 1) // 2,
        shuffle_spawn=o.shuffle_spawn,
        random_orientation=o.random_orientation,
        orderly=o.movement == "orderly",
        cleaning_penalty=float(o.cleaning_penalty),
    )
