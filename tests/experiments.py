"""Experiments that take a moment: narrow networks, short episodes and few of them."""

import dataclasses
from dataclasses import replace

from metagrad import VectorTask

#: What widths and lengths become, by the names of the options.
SMALL = {"filters": 2, "map_width": 6, "steps": 8, "tax_period": 3}


def shrunk(value):
    """The same objects with narrow layers and short episodes, wherever they have any."""
    if not dataclasses.is_dataclass(value):
        return value
    changes = {}
    for f in dataclasses.fields(value):
        mine = getattr(value, f.name)
        if f.name == "hidden" and mine:
            changes[f.name] = (8,) * len(mine)
        elif (isinstance(value, VectorTask) or f.name in ("filters", "map_width")) and f.name in SMALL and mine:
            changes[f.name] = SMALL[f.name]
        elif (smaller := shrunk(mine)) is not mine:
            changes[f.name] = smaller
    return replace(value, **changes) if changes else value


def small(made, **options):
    """A short training of an experiment."""
    run_options = {
        "k": 4, "episodes": 61, "seeds": (5, 6), "eval_episodes": 2, "test_episodes": 3, "eval_period": 7,
        "checkpoint_period": 9, **options,
    }  # fmt: skip
    return replace(shrunk(made), run=replace(made.run, **run_options))
