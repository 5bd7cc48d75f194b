"""Games: tasks, presets and methods. Adding one is a module and a line in ``GAMES``."""

from __future__ import annotations

import importlib
from typing import Any

from metagrad.tasks.base import JointAction, TaskError, VectorTask

__all__ = ["GAMES", "JointAction", "TaskError", "VectorTask", "experiment", "game", "starting_point"]

#: Name on the command line -> module with ``PRESETS`` and ``METHODS``, the first preset being the default.
GAMES = {
    "escape-room": "metagrad.tasks.escape_room",
    "cleanup": "metagrad.tasks.cleanup",
    "gtb": "metagrad.tasks.gtb",
}


def game(name: str) -> Any:
    """The module of a game: one of ``GAMES``, or ``module:name`` of a task or an experiment of your own.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if ":" in name:
        from metagrad.tasks.own import OwnGame

        return OwnGame(name)
    if name not in GAMES:
        raise ValueError(f"no game is called {name!r}; there are: {', '.join(GAMES)}, or MODULE:NAME of your own")
    return importlib.import_module(GAMES[name])


def experiment(name: str, preset: str | None = None, method: str | None = None) -> Any:
    """The experiment of a game, a preset and a method; by default the game's first preset and its method.

    Parameters
    ----------
    name : str
        One of ``GAMES``, or ``module:name``.
    preset, method : str, optional
        Names that the game knows.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError
        If one of the names is unknown.
    """
    from dataclasses import replace

    module = game(name)
    preset = preset or next(iter(module.PRESETS))
    if preset not in module.PRESETS:
        raise ValueError(f"no preset of {name} is called {preset!r}; there are: {', '.join(module.PRESETS)}")
    base = module.PRESETS[preset]()
    method = method or base.method
    if method not in module.METHODS:
        raise ValueError(f"no method of {name} is called {method!r}; there are: {', '.join(module.METHODS)}")
    return replace(module.METHODS[method](base), method=method)


def starting_point(run: Any) -> Any:
    """The experiment that a run's options were changed from; None where its names are unknown now."""
    try:
        return experiment(run.game, run.preset, run.method)
    except (ValueError, ImportError):
        return None
