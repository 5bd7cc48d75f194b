"""Shared grid pieces: maps as text, the named maps of the games, windows around a cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastenvs.jit import copy_bytes, inline

# A run of cells in one row, as (row, columns); from the Gather-Trade-Build specification, section 1.3.
_Rows = dict[int, str]

_PURE_MIXED: dict[int, dict[str, _Rows]] = {
    15: {
        "W": {
            0: "0 1 2", 1: "0", 2: "0 1 2", 3: "0 1 2", 4: "0", 5: "1", 9: "0 1 2", 10: "1 2", 11: "0 1 2",
            12: "0 2", 13: "0",
        },
        "S": {1: "1 2", 4: "1 2", 5: "0 2", 9: "12", 10: "12 13", 11: "13 14", 14: "13"},
        "@": {
            **dict.fromkeys((0, 1, 2, 3, 6, 8, 9, 12, 13, 14), "7"),
            7: "0 1 2 3 6 7 8 9 12 13 14",
        },
    },
    25: {
        "W": {
            0: "1 2 4", 1: "2 3 4", 2: "2 3", 3: "0 4", 4: "0 3 4", 5: "0 3", 6: "2 3", 7: "1 2", 8: "4",
            9: "1 4", 15: "2", 16: "1 2", 18: "1 2 4", 19: "0 2 3", 20: "0 1 2", 21: "1 2 3 4", 22: "0 1 4",
            23: "4", 24: "3",
        },
        "S": {
            1: "1", 2: "0 1", 3: "1 2 3", 4: "1 2", 5: "1 4", 6: "4", 7: "0 4", 8: "2", 9: "2",
            15: "20 21 22 23 24", 16: "20 21 22", 17: "21 23 24", 18: "20 21 22 24", 19: "20 21 22 23",
            20: "20 23 24", 21: "21 23", 22: "20", 23: "23", 24: "20 22 23 24",
        },
        "@": {
            **dict.fromkeys((*range(4), *range(7, 12), *range(13, 19), *range(22, 25)), "12"),
            12: "0 1 2 3 7 8 9 10 11 12 13 14 15 16 17 18 22 23 24",
        },
    },
    40: {
        "W": {
            0: "3 6 7", 1: "9", 2: "1 4 10", 3: "6", 4: "3 12", 5: "2 7 9", 6: "7 9", 7: "6 7", 16: "35",
            17: "32 33 39", 20: "31 34 35", 21: "36", 22: "27 31",
        },
        "S": {
            16: "26 27", 19: "29 36 39", 20: "37", 21: "30 33", 22: "32 36 38", 31: "3", 32: "0 4", 34: "3 4",
            36: "5 8 9 12", 37: "3 4 6 9", 38: "0 2 3 8 12", 39: "0 1 2 3 5 8 9",
        },
        "@": {},
    },
}  # fmt: skip


def _draw(size: int, layers: dict[str, _Rows]) -> str:
    cells = np.full((size, size), " ")
    for symbol, rows in layers.items():
        for row, columns in rows.items():
            cells[row, [int(c) for c in columns.split()]] = symbol
    return "\n".join("".join(row) for row in cells)


#: Named maps of Gather-Trade-Build as text, one line a row.
GTB_MAPS: dict[str, str] = {f"pure_mixed_{n}": _draw(n, layers) for n, layers in _PURE_MIXED.items()}


def _draw_cleanup(height: int, width: int, points: dict[str, _Rows]) -> str:
    """A walled room with the given points."""
    cells = np.full((height, width), "@")
    cells[1:-1, 1:-1] = " "
    for symbol, rows in points.items():
        for row, columns in rows.items():
            cells[row, [int(c) for c in columns.split()]] = symbol
    return "\n".join("".join(row) for row in cells)


def _large_cleanup() -> str:
    """The original 25 x 18 map; from the Cleanup specification, section 2."""
    widths = {1: 6, 2: 6, 3: 6, 8: 6, 9: 6, 12: 6, 13: 6, 15: 4, 19: 4, 23: 4}
    dirty = {2, 6, 8, 9, 11, 13, 15, 17, 19, 21, 23}
    points: dict[str, _Rows] = {"H": {}, "R": {}, "S": {}, "B": {}, "P": {}}
    for row in range(1, 24):
        columns = range(1, widths.get(row, 5) + 1)
        points["H" if row in dirty else "R"][row] = " ".join(map(str, columns))
        first = 13 if row % 2 == 0 or row == 9 else 12
        points["B"][row] = " ".join(map(str, range(first, 17)))
    points["S"] = dict.fromkeys((8, 9), "7 8 9 10 11 12")
    points["P"] = {4: "8", 5: "10", 10: "9 11", 11: "9", 12: "11", 13: "8", 15: "9", 17: "8 10"}
    return _draw_cleanup(25, 18, points)


#: Named maps of Cleanup as text, one line a row.
CLEANUP_MAPS: dict[str, str] = {
    "small_7x7": _draw_cleanup(
        7, 7, {"H": {1: "1", 2: "1"}, "B": dict.fromkeys(range(1, 6), "5"), "P": {1: "4", 5: "2"}}
    ),
    "symmetric_10x10": _draw_cleanup(
        10,
        10,
        {
            "H": dict.fromkeys((1, 3, 5, 7), "1 2"),
            "R": dict.fromkeys((2, 4, 6, 8), "1 2"),
            "B": dict.fromkeys((1, 3, 5, 7), "8") | dict.fromkeys((2, 4, 6, 8), "7 8"),
            "P": {1: "6", 5: "4", 8: "3"},
        },
    ),
    "large_25x18": _large_cleanup(),
}


def read_map(source: str | Path, named: Mapping[str, str]) -> np.ndarray:
    """Read a map.

    Parameters
    ----------
    source : str or Path
        The name of one of ``named``, the path of a text file, or the text itself; rows are separated by line breaks
        or semicolons.
    named : mapping of str to str
        Texts of the named maps.

    Returns
    -------
    ndarray of str ``[H, W]``
        One symbol a cell.

    Raises
    ------
    ValueError
        If it is neither a name, a file nor a rectangle of symbols.
    """
    text = named.get(str(source))
    if text is None and isinstance(source, str) and (";" in source or "\n" in source):
        text = source
    elif text is None:
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"no map is called {str(source)!r} and no such file exists; maps: {', '.join(named)}")
        text = path.read_text()
    rows = text.replace("\r\n", "\n").replace(";\n", "\n").replace(";", "\n").split("\n")
    while rows and not rows[-1]:
        rows.pop()
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        lengths = [len(row) for row in rows]
        raise ValueError(f"a map must be a rectangle of symbols, but its rows have lengths {lengths}")
    return np.array([list(row) for row in rows])


@inline
def copy_window(source, e, top, left, out, number, side):
    """Copy a square window of world ``e``, zero outside it, row by row.

    ``source`` is uint8 ``[N, H, W, C]``, ``out`` uint8 whose windows ``[side, side, C]`` lie one after the other;
    ``number`` is the place of this one among them. ``top`` and ``left`` may lie outside the world. What ``out`` holds
    there already must be zero.
    """
    height, width, channels = source.shape[1], source.shape[2], source.shape[3]
    first, last = max(0, left), min(width, left + side)
    start = (number * side * side + first - left) * channels
    if last > first:
        for row in range(max(0, top), min(height, top + side)):
            to = start + (row - top) * side * channels
            copy_bytes(out, to, source, ((e * height + row) * width + first) * channels, (last - first) * channels)
