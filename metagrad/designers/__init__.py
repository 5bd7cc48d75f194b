"""Designers: who pays or taxes the agents, and how they learn to."""

from metagrad.designers.amd import AMD
from metagrad.designers.base import Designer, NoDesigner, Notes, Transition
from metagrad.designers.dual_rl import Categorical, DualRL, Head, SquashedGaussian
from metagrad.designers.incentives import (
    ByAction,
    ByActionType,
    ByAgent,
    Incentive,
    IncentiveFunction,
    StateAndActions,
    StateOnly,
    View,
)
from metagrad.designers.meta_gradient import MetaGradient
from metagrad.designers.mutual import MutualIncentive

__all__ = [
    "AMD", "ByAction", "ByActionType", "ByAgent", "Categorical", "Designer", "DualRL", "Head", "Incentive",
    "IncentiveFunction", "MetaGradient", "MutualIncentive", "NoDesigner", "Notes", "SquashedGaussian",
    "StateAndActions", "StateOnly", "Transition", "View",
]  # fmt: skip
