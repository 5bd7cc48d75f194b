"""States as pictures: RGB arrays, and episodes as GIF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastenvs.checks import affordable, as_array, positive_int

#: Colours of agents, as of their houses; further agents repeat them.
AGENT_COLOURS = np.array(
    [
        (214, 39, 40), (31, 119, 180), (255, 187, 0), (148, 103, 189), (227, 119, 194), (23, 190, 207), (188, 80, 20),
        (60, 60, 60),
    ],
    np.uint8,
)  # fmt: skip
_LAND, _WATER = (236, 229, 206), (120, 170, 214)
_WOOD, _WOOD_SOURCE = (44, 120, 50), (190, 214, 160)
_STONE, _STONE_SOURCE = (110, 108, 104), (205, 203, 198)
_LEVER, _SHUT, _OPEN = (190, 150, 110), (90, 90, 96), (150, 205, 130)


def pixels(shape: tuple[int, ...], cell_size: Any, least: int) -> int:
    """Checked pixels of a cell, of a map of this shape."""
    size = positive_int("cell_size", cell_size, least)
    affordable("the pixels of a picture", shape[0] * shape[1], 8 * size**2)
    return size


def render_bars(shares: np.ndarray, cell_size: int = 20) -> np.ndarray:
    """Picture of what agents have: a bar for each, in the colour of its number.

    Parameters
    ----------
    shares : float ``[A]``
        What each has, as a share of the most.
    cell_size : int
        Width of a bar in pixels, at least 1.

    Returns
    -------
    uint8 ``[10 * cell_size, A * cell_size, 3]``
    """
    size = pixels((10, len(shares)), cell_size, 1)
    height = np.ceil(np.clip(shares, 0, 1) * 10 * size)
    filled = np.arange(10 * size)[::-1, None] < height
    colours = AGENT_COLOURS[np.arange(len(shares)) % len(AGENT_COLOURS)]
    return np.where(filled[..., None], colours, np.uint8(255)).repeat(size, 1)


def render_gtb(cells: np.ndarray, cell_size: int = 20) -> np.ndarray:
    """Picture of one Gather-Trade-Build world.

    Land is sand, water blue. A source is a pale green (wood) or grey (stone) cell, with a full square on it while it
    carries a unit. Houses are frames, agents discs in the colour of their number.

    Parameters
    ----------
    cells : uint8 ``[H, W, C]``
        A world: ``obs["designer"]["map"][e]``.
    cell_size : int
        Pixels a cell, at least 4.

    Returns
    -------
    uint8 ``[H * cell_size, W * cell_size, 3]``
    """
    cells = as_array("cells", cells, "iu", "integers")
    if cells.ndim != 3 or cells.shape[2] < 8:
        raise ValueError(f"cells must have shape [H, W, 8 or 9], got {list(cells.shape)}")
    size = pixels(cells.shape, cell_size, 4)
    stone, wood, _, water, stone_source, wood_source, owner, agent = np.moveaxis(cells[..., :8], -1, 0).astype(int)
    ground = np.empty((*cells.shape[:2], 3), np.uint8)
    ground[:] = _LAND
    for where, colour in ((water, _WATER), (stone_source, _STONE_SOURCE), (wood_source, _WOOD_SOURCE)):
        ground[where > 0] = colour
    picture = ground.repeat(size, 0).repeat(size, 1)
    offset = _offset(size)
    square = (offset[:, None] < 0.3) & (offset < 0.3)
    frame = (offset[:, None] > 0.32) | (offset > 0.32)
    for where, shape, colours in (
        (wood, square, np.array([_WOOD])),
        (stone, square, np.array([_STONE])),
        (owner, frame, AGENT_COLOURS),
        (agent, _disc(size), AGENT_COLOURS),
    ):
        for row, column in np.argwhere(where):
            number = max(0, where[row, column] - 2) if len(colours) > 1 else 0
            block = picture[row * size : (row + 1) * size, column * size : (column + 1) * size]
            block[shape] = colours[number % len(colours)]
    return picture


def render_room(place: np.ndarray, door_open: bool, cell_size: int = 20) -> np.ndarray:
    """Picture of one Escape Room: places from left to right, one row an agent.

    The lever's column is brown, the start's is sand, the door's is a dark grey, or green if it opened in the last step.
    Agents are discs in the colour of their number.

    Parameters
    ----------
    place : uint8 ``[A]``
        Where every agent is: 0 lever, 1 start, 2 door.
    door_open : bool
        Whether the door opened in the last step.
    cell_size : int
        Pixels a cell, at least 4.

    Returns
    -------
    uint8 ``[A * cell_size, 3 * cell_size, 3]``
    """
    size = pixels((len(place), 3), cell_size, 4)
    ground = np.array([_LEVER, _LAND, _OPEN if door_open else _SHUT], np.uint8)
    picture = np.tile(ground, (len(place), 1, 1)).repeat(size, 0).repeat(size, 1)
    disc = _disc(size)
    for i, column in enumerate(np.asarray(place).tolist()):
        block = picture[i * size : (i + 1) * size, column * size : (column + 1) * size]
        block[disc] = AGENT_COLOURS[i % len(AGENT_COLOURS)]
    return picture


def _disc(size: int) -> np.ndarray:
    offset = _offset(size)
    return offset[:, None] ** 2 + offset**2 < 0.32**2


def _offset(size: int) -> np.ndarray:
    """Distance of a cell's pixels from its middle, as a share of the cell."""
    return np.abs(np.arange(size) - (size - 1) / 2) / size


#: From about so many pixels of all pictures the colours of a GIF are taken.
_PALETTE_PIXELS = 500_000


def save_gif(frames: Iterable[np.ndarray], path: str | Path, seconds_per_frame: float = 0.15) -> None:
    """Write pictures of one size as an endless GIF; needs Pillow."""
    from PIL import Image

    frames = list(frames)
    if not frames:
        raise ValueError("no frames to write")
    # One palette for all pictures, of pixels from everywhere: finding one for each takes several times as long. Its
    # colours have five bits, since of close ones Pillow does not find the nearest.
    every = math.ceil(math.sqrt(sum(frame[..., 0].size for frame in frames) / _PALETTE_PIXELS))
    seen = np.concatenate([frame[::every, ::every] for frame in frames])
    palette = Image.fromarray(seen & 0xF8 | seen >> 5).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = max(20, round(1000 * seconds_per_frame))
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def record(env: Any, policy: Callable[[dict], np.ndarray], steps: int, copy: int = 0) -> list[np.ndarray]:
    """Pictures of one copy while ``policy`` acts: the state before each of ``steps`` steps, and after the last.

    Parameters
    ----------
    env : VecEnv
        An environment that has been reset and has a method ``render(copy)``.
    policy : callable
        From observations to actions ``[N, A]``.
    steps, copy : int
        How many steps, and which copy to show.
    """
    steps = positive_int("steps", steps, 0)
    frames = [env.render(copy)]
    for _ in range(steps):
        env.step(policy(env.obs))
        frames.append(env.render(copy))
    return frames
