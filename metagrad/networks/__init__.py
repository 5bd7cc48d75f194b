"""Networks with the three passes that learning needs, written by hand or by automatic differentiation."""

from metagrad.networks.base import Forward, Network, Obs, Shapes, Where
from metagrad.networks.mlp import MLP, Normal

__all__ = ["MLP", "Forward", "Network", "Normal", "Obs", "Shapes", "Where"]
