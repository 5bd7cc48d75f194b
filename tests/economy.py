"""Small economies for the tests of the learner, in float64."""

import torch

from metagrad.agents.critics import Critic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.designers import MetaGradient, NoDesigner
from metagrad.metagradient import LastSteps
from metagrad.networks import MLP
from metagrad.optim import Adam
from metagrad.tasks.gtb import GatherTradeBuild, TaxSchedule
from metagrad.trainer import Trainer

AGENTS = {
    "network": MLP((12,), head_scale=0.1), "optimiser": Adam(0.03), "share_parameters": True, "gae_lambda": 0.98,
    "entropy": 0.1, "terminal": "bootstrap", "normalise": True, "reduction": "rows",
    "critic": Critic(MLP((9,), head_scale=0.1), Adam(0.02), reads=("flat",)),
}  # fmt: skip


def task(**options):
    return GatherTradeBuild(**{"steps": 20, "tax_period": 5, **options})


def agents(**options):
    return PolicyGradientAgents(**{**AGENTS, **options})


def designer(incentive=None, **options):
    """As published: the path through one step of the agents, judged by returns."""
    incentive = incentive or TaxSchedule(baseline=False)
    settings = {"optimiser": Adam(0.01), "gamma": 1.0, "path": LastSteps(1), "chain": 1.0, "discount_scores": True}
    return MetaGradient(incentive, **{**settings, **options})


def trainer(designer=None, iterations=0, seeds=(1,), k=3, game=None, pipeline=True, dtype=torch.float64, **options):
    """A trainer some iterations on; ``designer`` None for a free market."""
    where = task(**(game or {})) if designer is not None else task(**{"tax_mode": "none", **(game or {})})
    made = Trainer(
        where, agents(**options), designer or NoDesigner(), seeds=seeds, k=k, pipeline=pipeline, dtype=dtype
    )  # fmt: skip
    made.train(iterations)
    return made


def captured(made, iterations=1):
    """The designer's state and the transition of the last of some more iterations."""
    seen, kind = {}, type(made.designer)

    def update(state, agents, transition, rng):
        seen.update(state=state, transition=transition)
        return kind.update(made.designer, state, agents, transition, rng)

    object.__setattr__(made.designer, "update", update)
    made.train(iterations)
    object.__delattr__(made.designer, "update")
    return seen["state"], seen["transition"]
