"""Gather-Trade-Build: an economy whose taxes a designer sets."""

from metagrad.tasks.gtb.features import OwnedByRank
from metagrad.tasks.gtb.presets import FIRST_PHASE, METHODS, PRESETS, adjusted
from metagrad.tasks.gtb.task import GatherTradeBuild
from metagrad.tasks.taxes import PerBracketCategorical, TaxSchedule, Welfare

__all__ = [
    "FIRST_PHASE", "METHODS", "PRESETS", "GatherTradeBuild", "OwnedByRank", "PerBracketCategorical", "TaxSchedule",
    "Welfare", "adjusted",
]  # fmt: skip
