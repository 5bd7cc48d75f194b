"""Maps as text: reading, checking, and the named maps of Gather-Trade-Build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
    rows = text.replace(";", "\n").split("\n")
    while rows and not rows[-1]:
        rows.pop()
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        lengths = [len(row) for row in rows]
        raise ValueError(f"a map must be a rectangle of symbols, but its rows have lengths {lengths}")
    return np.array([list(row) for row in rows])
