"""What a run needs of a game: its presets, learner and evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from metagrad.accounts import EconomyEvaluator
from metagrad.cleaning import CleanupEvaluator
from metagrad.cleanup import CentralCrew, Crew, DualRLCrew, MetaGradCrew
from metagrad.cleanup_cloning import CloningCrew
from metagrad.config import AnyConfig, CleanupConfig, EconomyConfig
from metagrad.economy import Workforce
from metagrad.evaluate import Evaluator
from metagrad.planner import PlannedWorkforce
from metagrad.presets import CLEANUP_PRESETS, ECONOMY_PRESETS, PRESETS
from metagrad.taxes import TaxedWorkforce
from metagrad.train import Learner
from metagrad.turns import TurnLearner


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
