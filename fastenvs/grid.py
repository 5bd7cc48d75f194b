"""Shared grid pieces: maps as text, the named maps of the games, windows around a cell."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fastenvs.checks import affordable, as_path, shown
from fastenvs.jit import copy_rows, inline

# A run of cells in one row, as (row, columns); from docs/spec/gtb.md, section 1.3.
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
    """The original 25 x 18 map; from ``docs/spec/cleanup.md``, section 2."""
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


#: Rows and columns of cells are 16-bit numbers.
MAX_SIDE = 32_767


def read_map(source: str | Path, named: Mapping[str, str]) -> np.ndarray:
    """Read a map.

    Parameters
    ----------
    source : str or Path
        The name of one of ``named``, the path of a text file (UTF-8), or the text itself; rows are separated by line
        breaks or semicolons, and a text of one row ends in one.
    named : mapping of str to str
        Texts of the named maps.

    Returns
    -------
    ndarray of str ``[H, W]``
        One symbol a cell; read-only.

    Raises
    ------
    ValueError
        If it is neither a name, a readable file nor a rectangle of printable symbols, or too large.
    """
    source = as_path("map", source)
    text = named.get(str(source))
    if text is None:
        is_text = isinstance(source, str) and any(end in source for end in ";\n\r")
        text = str(source) if is_text else _read_file(source, named)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace(";\n", "\n").replace(";", "\n")
    rows = text.split("\n")
    while rows and not rows[-1]:
        rows.pop()
    if not rows or not rows[0]:
        raise ValueError("a map must be a rectangle of symbols, but its first row is empty")
    width = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(
                f"a map must be a rectangle of symbols, but row 0 has {width} and row {number} has {len(row)}"
            )
        if not row.isprintable():
            column, symbol = next((c, s) for c, s in enumerate(row) if not s.isprintable())
            raise ValueError(f"the map has the unprintable symbol {symbol!r} at row {number}, column {column}")
    if max(len(rows), width) > MAX_SIDE:
        raise ValueError(f"a map has at most {MAX_SIDE} rows and columns, this one {len(rows)} x {width}")
    affordable("the cells of the map", len(rows) * width, 4)
    cells = np.array([list(row) for row in rows])
    cells.flags.writeable = False
    return cells


def _read_file(source: str | Path, named: Mapping[str, str]) -> str:
    """Text of the file that ``source`` names; every way in which it cannot be read is said in one line."""
    what = shown(str(source))
    try:
        path = Path(source)
        if path.is_dir():
            raise ValueError(f"map {what} is a folder, not a file")
        if path.is_file():
            return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"map {what} is not a text in UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ValueError(f"map {what} cannot be read: {error.strerror}") from None
    hint = "" if isinstance(source, Path) else "; a map as text has a line break or semicolon after its only row"
    raise ValueError(f"no map is called {what} and no such file exists; maps: {', '.join(named)}{hint}")


def map_text(cells: np.ndarray) -> str:
    """Text that :func:`read_map` reads as these cells."""
    return "\n".join("".join(row) for row in cells.tolist()) + "\n"


@inline
def copy_window(source, e, top, left, out, number, side):
    """Copy a square window of world ``e``, zero outside it, row by row.

    ``source`` is uint8 ``[N, H, W, C]``, ``out`` uint8 whose windows ``[side, side, C]`` lie one after the other;
    ``number`` is the place of this one among them. ``top`` and ``left`` may lie outside the world. What ``out`` holds
    there already must be zero.
    """
    height, width, channels = source.shape[1], source.shape[2], source.shape[3]
    first, last = max(0, left), min(width, left + side)
    first_row, last_row = max(0, top), min(height, top + side)
    if last > first and last_row > first_row:
        to = ((number * side + first_row - top) * side + first - left) * channels
        start = ((e * height + first_row) * width + first) * channels
        rows, n = last_row - first_row, (last - first) * channels
        copy_rows(out, to, side * channels, source, start, width * channels, rows, n)
