"""Taxes that a designer sets, for the economies that have them."""

from metagrad.tasks.taxes.head import PerBracketCategorical
from metagrad.tasks.taxes.saez import share_memories
from metagrad.tasks.taxes.schedule import TaxSchedule, Welfare

__all__ = ["PerBracketCategorical", "TaxSchedule", "Welfare", "share_memories"]
