"""What a run needs of a game: its presets, learner and evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metagrad.legacy.accounts import EconomyEvaluator
from metagrad.legacy.cleaning import CleanupEvaluator
from metagrad.legacy.cleanup import CentralCrew, Crew, DualRLCrew, MetaGradCrew
from metagrad.legacy.cleanup_cloning import CloningCrew
from metagrad.legacy.config import AnyConfig, CleanupConfig, EconomyConfig
from metagrad.legacy.economy import Workforce
from metagrad.legacy.evaluate import Evaluator
from metagrad.legacy.planner import PlannedWorkforce
from metagrad.legacy.presets import CLEANUP_PRESETS, ECONOMY_PRESETS, PRESETS
from metagrad.legacy.taxes import TaxedWorkforce
from metagrad.legacy.train import Learner
from metagrad.legacy.turns import TurnLearner


@dataclass(frozen=True)
class Kit:
    """The parts of one game."""

    presets: dict[str, Callable[[], Any]]
    learner: Callable[[Any], Any]
    evaluator: Callable[[Any, str, int], Any]


def _economy(config: EconomyConfig) -> TurnLearner:
    workforces = {"metagrad": TaxedWorkforce, "metagrad-no-cv": TaxedWorkforce, "dual-rl": PlannedWorkforce}
    return TurnLearner(config, workforces.get(config.method, Workforce))


def _cleanup(config: CleanupConfig) -> TurnLearner:
    metagrad = CloningCrew if config.agent_access == "cloned" else MetaGradCrew
    crews: dict[str, type[Crew]] = {
        "metagrad": metagrad, "dual-rl-continuous": DualRLCrew, "central": CentralCrew, "none": Crew,
    }  # fmt: skip
    return TurnLearner(config, crews[config.method])


KITS = {
    "escape-room": Kit(PRESETS, Learner, Evaluator),
    "cleanup": Kit(CLEANUP_PRESETS, _cleanup, CleanupEvaluator),
    "gtb": Kit(ECONOMY_PRESETS, _economy, EconomyEvaluator),
}


def kit(config: AnyConfig) -> Kit:
    """The parts for a configuration."""
    return KITS[config.game_name]
