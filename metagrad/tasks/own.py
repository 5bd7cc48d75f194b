"""A task or an experiment of your own on the command line: ``metagrad train my_module:task``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metagrad.agents import PolicyGradientAgents
from metagrad.designers import ByAction, DualRL, MetaGradient, NoDesigner, SquashedGaussian
from metagrad.experiment.config import ConfigError, Experiment, RunOptions, imported
from metagrad.tasks.base import JointAction, VectorTask

METHODS: dict[str, Callable[[Experiment], Experiment]] = {
    "metagrad": lambda e: e,
    "metagrad-no-cv": lambda e: replace(e, designer=replace(e.designer, validation="before")),
    "dual-rl": lambda e: replace(e, designer=DualRL(SquashedGaussian())),
    "central": lambda e: replace(e, task=JointAction(e.task), designer=NoDesigner()),
    "none": lambda e: replace(e, designer=NoDesigner()),
}


class OwnGame:
    """What the command line needs of a game, from an object that is imported.

    Parameters
    ----------
    source : str
        ``module:name`` of a :class:`metagrad.VectorTask`, which is trained with default agents and
        ``ByAction`` incentives, or of an ``Experiment``. The module is looked for in the working folder too.

    Raises
    ------
    ConfigError
        If it cannot be imported, or is something else.
    """

    METHODS = METHODS

    def __init__(self, source: str) -> None:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        found = imported(source)
        if isinstance(found, VectorTask):
            found.imported_from = source  # type: ignore[attr-defined]
            made = Experiment(
                source, "own", "metagrad", found, PolicyGradientAgents(), MetaGradient(ByAction()), RunOptions()
            )
        elif isinstance(found, Experiment):
            made = replace(found, game=source)
        else:
            raise ConfigError(f"{source} is a {type(found).__name__}, not a VectorTask or an Experiment")
        self.PRESETS: dict[str, Callable[[], Any]] = {made.preset: lambda: made}
