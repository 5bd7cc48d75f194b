"""A central designer that learns incentives by differentiating through the agents' own learning step."""

import os

# MKL may choose the order of a sum by where its operands lie in memory; this asks for one order on one machine. It has
# to be said before the first matrix product of the process.
os.environ.setdefault("MKL_CBWR", "AUTO")

from metagrad import optim
from metagrad.agents import Agents, Critic, DesignerCritic, LinearCritic, PolicyGradientAgents, Surrogate
from metagrad.batch import Batch
from metagrad.designers import (
    AMD,
    ByAction,
    ByActionType,
    ByAgent,
    Categorical,
    Designer,
    DualRL,
    Incentive,
    IncentiveFunction,
    MetaGradient,
    MutualIncentive,
    NoDesigner,
    SquashedGaussian,
)
from metagrad.metagradient import LastSteps, Sensitivity
from metagrad.networks import MLP, ConvTrunk, ModuleNetwork, Normal, PlaneMLP, RecurrentTrunk
from metagrad.schedules import Linear
from metagrad.tasks import JointAction, TaskError, VectorTask
from metagrad.trainer import Trainer

__all__ = [
    "AMD", "MLP", "Agents", "Batch", "ByAction", "ByActionType", "ByAgent", "Categorical", "ConvTrunk", "Critic",
    "Designer", "DesignerCritic", "DualRL", "Incentive", "IncentiveFunction", "JointAction", "LastSteps", "Linear",
    "LinearCritic", "MetaGradient", "ModuleNetwork", "MutualIncentive", "NoDesigner", "Normal", "PlaneMLP",
    "PolicyGradientAgents", "RecurrentTrunk", "Sensitivity", "SquashedGaussian", "Surrogate", "TaskError", "Trainer",
    "VectorTask", "optim",
]  # fmt: skip
