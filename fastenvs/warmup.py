"""Compiles the kernels of all games into the cache on disk: ``python -m fastenvs.warmup``.

A kernel is compiled once for each combination of types that it is called with, and the options of a game decide which
those are. So a few steps of every game under every option that changes a type compile all that any user will call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

#: Options of each game under which it calls its kernels with other types, or other kernels.
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "escape_room": ({"max_steps": 2}, {"max_steps": 2, "n_agents": 20, "randomize": True}),
    "cleanup": ({"steps": 2},),
    "gtb": (
        {"steps": 2, "tax_period": 1, "anneal": (1.0, 0.1)},
        {"steps": 2, "tax_period": 1, "rebate": "need"},
        {"steps": 2, "tax_period": 1, "tax_mode": "saez", "autoreset": "next_step"},
    ),
    "one_step_economy": ({}, {"tax_mode": "saez", "n_agents": 100}),
}


def play(name: str, **options: Any) -> None:
    """Play a game past the end of an episode."""
    import numpy as np

    import fastenvs

    with fastenvs.make(name, 2, seed=0, num_threads=1, **options) as env:
        env.reset()
        for _ in range(3):
            env.step(np.zeros((2, env.n_agents), np.int32))


def main(argv: Sequence[str] | None = None) -> int:
    """Compile what the named games call; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastenvs.warmup", description="Compile the kernels of the games.")
    parser.add_argument("games", nargs="*", metavar="GAME", help=f"default: {' '.join(SETTINGS)}")
    names = parser.parse_args(argv).games or list(SETTINGS)
    if unknown := [name for name in names if name not in SETTINGS]:
        parser.error(f"no game is called {', '.join(unknown)}; there are: {', '.join(SETTINGS)}")
    for name in names:
        began = time.perf_counter()
        for options in SETTINGS[name]:
            play(name, **options)
        print(f"{name}: ready after {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
