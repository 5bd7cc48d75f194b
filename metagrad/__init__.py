"""A central designer that learns incentives by differentiating through the agents' own learning step."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# MKL may choose the order of a sum by where its operands lie in memory; this asks for one order on one machine. It has
# to be said before the first matrix product of the process.
os.environ.setdefault("MKL_CBWR", "AUTO")

if TYPE_CHECKING:
    from metagrad import optim
    from metagrad.agents import Agents, Critic, DesignerCritic, LinearCritic, PolicyGradientAgents, Surrogate
    from metagrad.batch import Batch
    from metagrad.designers import AMD, Designer, MetaGradient, MutualIncentive, NoDesigner
    from metagrad.designers.dual_rl import Categorical, DualRL, SquashedGaussian
    from metagrad.designers.incentives import ByAction, ByActionType, ByAgent, Incentive, IncentiveFunction
    from metagrad.experiment.run import train
    from metagrad.metagradient import LastSteps, Sensitivity
    from metagrad.networks import MLP, ConvTrunk, ModuleNetwork, Normal, PlaneMLP, RecurrentTrunk
    from metagrad.optim import Linear
    from metagrad.tasks import Experiment, JointAction, RunOptions, TaskError, VectorTask
    from metagrad.trainer import Trainer

__all__ = [
    "AMD", "MLP", "Agents", "Batch", "ByAction", "ByActionType", "ByAgent", "Categorical", "ConvTrunk", "Critic",
    "Designer", "DesignerCritic", "DualRL", "Experiment", "Incentive", "IncentiveFunction", "JointAction", "LastSteps",
    "Linear", "LinearCritic", "MetaGradient", "ModuleNetwork", "MutualIncentive", "NoDesigner", "Normal", "PlaneMLP",
    "PolicyGradientAgents", "RecurrentTrunk", "RunOptions", "Sensitivity", "SquashedGaussian", "Surrogate", "TaskError",
    "Trainer", "VectorTask", "optim", "train",
]  # fmt: skip

# Modules of the names above. They import torch, which takes seconds that a command line's --help need not.
_HOMES = ("agents", "batch", "designers", "metagradient", "networks", "optim", "tasks", "trainer", "experiment.run")
#: Modules that extras install, with the name of the extra.
EXTRAS = dict.fromkeys(("torch", "scipy", "tyro", "rich", "safetensors", "jinja2", "matplotlib", "PIL"), "metagrad")
EXTRAS |= {"pyarrow": "parquet", "tensorboard": "tensorboard", "wandb": "wandb", "optuna": "sweep", "ray": "ray"}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name == "optim":
        return _imported("optim")
    for home in _HOMES if name in __all__ else ():
        module = _imported(home)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _imported(home: str) -> Any:
    try:
        return importlib.import_module(f"metagrad.{home}")
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            raise ModuleNotFoundError(what_to_install(error.name), name=error.name) from error
        raise


def what_to_install(module: str) -> str:
    """What to do where a module of an extra is missing."""
    return f"{module} is not installed: pip install 'fastenvs[{EXTRAS[module]}]'"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
