"""Games and experiments by their names on the command line, be they the library's or a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metagrad.agents import PolicyGradientAgents
from metagrad.designers import ByAction, DualRL, MetaGradient, NoDesigner, SquashedGaussian
from metagrad.experiment.config import ConfigError, Experiment, RunOptions, imported
from metagrad.tasks import GAMES, JointAction, VectorTask

#: Methods of a task or an experiment of a user's own.
METHODS: dict[str, Callable[[Experiment], Experiment]] = {
    "metagrad": lambda e: e,
    "metagrad-no-cv": lambda e: replace(e, designer=replace(e.designer, validation="before")),
    "dual-rl": lambda e: replace(e, designer=DualRL(SquashedGaussian())),
    "central": lambda e: replace(e, task=JointAction(e.task), designer=NoDesigner()),
    "none": lambda e: replace(e, designer=NoDesigner()),
}


def game(name: str) -> Any:
    """The module of a game: one of ``GAMES``, or ``module:name`` of a task or an experiment of your own.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if ":" in name:
        return OwnGame(name)
    if name not in GAMES:
        raise ValueError(f"no game is called {name!r}; there are: {', '.join(GAMES)}, or MODULE:NAME of your own")
    return importlib.import_module(GAMES[name])


def experiment(name: str, preset: str | None = None, method: str | None = None) -> Experiment:
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
    module = game(name)
    preset = preset or next(iter(module.PRESETS))
    if preset not in module.PRESETS:
        raise ValueError(f"no preset of {name} is called {preset!r}; there are: {', '.join(module.PRESETS)}")
    base = module.PRESETS[preset]()
    method = method or base.method
    if method not in module.METHODS:
        raise ValueError(f"no method of {name} is called {method!r}; there are: {', '.join(module.METHODS)}")
    return replace(module.METHODS[method](base), method=method)


def starting_point(run: Experiment) -> Experiment | None:
    """The experiment that a run's options were changed from; None where its names are unknown now."""
    try:
        return experiment(run.game, run.preset, run.method)
    except (ValueError, ImportError):
        return None


class OwnGame:
    """What the command line needs of a game, from an object that is imported.

    Parameters
    ----------
    source : str
        ``module:name`` of a :class:`metagrad.VectorTask`, which is trained with default agents and
        ``ByAction`` incentives, or of an ``Experiment``.

    Raises
    ------
    ConfigError
        If it cannot be imported, or is something else.
    """

    METHODS = METHODS

    def __init__(self, source: str) -> None:
        found = imported(source)
        if isinstance(found, VectorTask):
            made = Experiment(
                source, "own", "metagrad", found, PolicyGradientAgents(), MetaGradient(ByAction()), RunOptions()
            )
        elif isinstance(found, Experiment):
            made = replace(found, game=source)
        else:
            raise ConfigError(f"{source} is a {type(found).__name__}, not a VectorTask or an Experiment")
        self.PRESETS: dict[str, Callable[[], Any]] = {made.preset: lambda: made}
