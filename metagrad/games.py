"""What a run needs of a game: its presets, learner and evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metagrad.accounts import EconomyEvaluator
from metagrad.config import AnyConfig, EconomyConfig
from metagrad.economy import EconomyLearner, Workforce
from metagrad.evaluate import Evaluator
from metagrad.planner import PlannedWorkforce
from metagrad.presets import ECONOMY_PRESETS, PRESETS
from metagrad.taxes import TaxedWorkforce
from metagrad.train import Learner


@dataclass(frozen=True)
class Kit:
    """The parts of one game."""

    presets: dict[str, Callable[[], Any]]
    learner: Callable[[Any], Any]
    evaluator: Callable[[Any, str, int], Any]


def _economy_learner(config: EconomyConfig) -> EconomyLearner:
    workforces = {"metagrad": TaxedWorkforce, "metagrad-no-cv": TaxedWorkforce, "dual-rl": PlannedWorkforce}
    return EconomyLearner(config, workforces.get(config.method, Workforce))


KITS = {
    "escape-room": Kit(PRESETS, Learner, Evaluator),
    "gtb": Kit(ECONOMY_PRESETS, _economy_learner, EconomyEvaluator),
}


def kit(config: AnyConfig) -> Kit:
    """The parts for a configuration."""
    return KITS["gtb" if isinstance(config, EconomyConfig) else "escape-room"]
