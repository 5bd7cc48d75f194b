"""Tax schedules from outside: files of rates, and functions of what the designer sees."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastenvs.checks import imported, shown

#: A function of the designer's observations, arrays ``[N, ...]`` by name, to rates ``[N, B]`` or ``[B]``.
Schedule = Callable[[Mapping[str, np.ndarray]], Any]
#: A function by its name, ``module:name``.
_NAMED = re.compile(r"[\w.]+:[\w.]+")


def is_named(source: Any) -> bool:
    """Whether a schedule is a function that goes by its name, ``module:name``."""
    return isinstance(source, str) and bool(_NAMED.fullmatch(source))


def named(name: str, source: str) -> Schedule:
    """The function of that name; a ``ValueError`` says what ``name``, the option, cannot be."""
    try:
        function = imported(source)
    except Exception as error:  # whatever a module of the user's own raises
        raise ValueError(f"{name} {shown(source)} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ValueError(f"{name} {shown(source)} is no function, but a {type(function).__name__}")
    return function


def read_schedule(name: str, path: str | Path, cutoffs: np.ndarray) -> np.ndarray:
    """Rates by tax period and bracket from a CSV file.

    Parameters
    ----------
    name : str
        What an error calls the schedule.
    path : str or Path
        A file with columns ``bracket``, the lower edge in coin, and ``rate``; and ``period``, from 1 up, where
        periods differ. The last one's rates hold on.
    cutoffs : array ``[B]``
        Lower edges of the brackets, each of which has a rate in each period.

    Returns
    -------
    float64 ``[P, B]``

    Raises
    ------
    ValueError
        If the file cannot be read, or lacks a rate or has one too many; the message names the line.
    """
    rates: dict[int, dict[int, float]] = {}
    for line, row in _rows(name, path):
        where = f"{name} {shown(str(path))}, line {line}:"
        bracket, rate, period = (_number(where, row, column) for column in ("bracket", "rate", "period"))
        (at,) = np.nonzero(np.isclose(cutoffs, bracket, rtol=1e-9, atol=1e-9))
        if not len(at):
            raise ValueError(f"{where} no bracket begins at {bracket:g}; they begin at {shown(cutoffs.tolist())}")
        if period != int(period) or rates.setdefault(int(period), {}).setdefault(int(at[0]), rate) != rate:
            raise ValueError(
                f"{where} period {period:g} is no number of a period, or has two rates from {bracket:g} on"
            )
    complete = all(len(by_bracket) == len(cutoffs) for by_bracket in rates.values())
    if not rates or sorted(rates) != list(range(1, len(rates) + 1)) or not complete:
        raise ValueError(
            f"{name} {shown(str(path))} needs a rate for each of {len(cutoffs)} brackets in periods 1, 2, ..."
        )
    return np.array([[rates[p][b] for b in range(len(cutoffs))] for p in sorted(rates)])


def _rows(name: str, path: str | Path) -> list[tuple[int, dict[str, str]]]:
    try:
        if not Path(path).is_file():
            raise ValueError("there is none")
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = {"bracket", "rate"} - set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{name} {shown(str(path))} is no file of a schedule that can be read: {error}") from error
    if missing:
        raise ValueError(
            f"{name} {shown(str(path))} has no column {' and no '.join(sorted(missing))} in its first line"
        )
    return rows


def _number(where: str, row: dict[str, str], column: str) -> float:
    text = row.get(column, "1" if column == "period" else "")
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where} {column} must be a number, got {shown(text)}")
    return number
