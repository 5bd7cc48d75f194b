"""Networks with the three passes that learning needs, written by hand or by automatic differentiation."""

from metagrad.networks.base import Forward, Network, Obs, Shapes, Where
from metagrad.networks.conv import ConvTrunk
from metagrad.networks.levels import Levels
from metagrad.networks.mlp import MLP, Normal
from metagrad.networks.module import ModuleNetwork
from metagrad.networks.planes import PlaneMLP
from metagrad.networks.recurrent import RecurrentTrunk

__all__ = [
    "MLP", "ConvTrunk", "Forward", "Levels", "ModuleNetwork", "Network", "Normal", "Obs", "PlaneMLP", "RecurrentTrunk",
    "Shapes", "Where",
]  # fmt: skip
