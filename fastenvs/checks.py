"""Checks of options, free of heavy imports."""

from __future__ import annotations

from typing import Any

import numpy as np


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as an int, or say which option is not an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
