"""What of Saez's formula goes from training to evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np


def share_memories(mine: Any, of_training: Any, n_seeds: int) -> None:
    """Bring what Saez's formula has learned in training to the copies of an evaluation, seed by seed."""
    for array, learned in zip(mine, of_training, strict=True):
        if len(array):
            by_seed = array.reshape(n_seeds, -1, *array.shape[1:])
            theirs = learned.reshape(n_seeds, -1, *array.shape[1:])
            by_seed[...] = theirs[:, np.arange(by_seed.shape[1]) % theirs.shape[1]]
