"""Designers: who pays or taxes the agents, and how they learn to."""

from metagrad.designers.base import Designer, NoDesigner, Notes, Transition
from metagrad.designers.incentives import (
    ByAction,
    ByActionType,
    ByAgent,
    Incentive,
    IncentiveFunction,
    MutualIncentive,
    View,
)
from metagrad.designers.meta_gradient import MetaGradient

__all__ = [
    "ByAction", "ByActionType", "ByAgent", "Designer", "Incentive", "IncentiveFunction", "MetaGradient",
    "MutualIncentive", "NoDesigner", "Notes", "Transition", "View",
]  # fmt: skip
