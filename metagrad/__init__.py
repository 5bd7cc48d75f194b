"""A central designer that learns incentives by differentiating through the agents' own learning step."""

import os

# MKL may choose the order of a sum by where its operands lie in memory; this asks for one order on one machine. It has
# to be said before the first matrix product of the process.
os.environ.setdefault("MKL_CBWR", "AUTO")

from metagrad import optim
from metagrad.agents import Critic, PolicyGradientAgents
from metagrad.designers import IncentiveFunction, MetaGradient, NoDesigner
from metagrad.tasks import VectorTask
from metagrad.trainer import Trainer
