"""Small learners for the tests."""

from dataclasses import replace

import torch

from metagrad.legacy.config import Agents, Config, Designer, Game
from metagrad.legacy.train import Learner

DESIGNER = set(Designer.__dataclass_fields__)


def tiny_config(**options):
    """ER(3,1) in float64 with small networks; options of the agents take the prefix ``agents_``."""
    agents = {k.removeprefix("agents_"): options.pop(k) for k in list(options) if k.startswith("agents_")}
    designer = {k: options.pop(k) for k in list(options) if k in DESIGNER}
    top = {
        "preset": "tiny",
        "seeds": (1, 2),
        "k": 3,
        "episodes": 10_000,
        "dtype": "float64",
        # Random biases: with zero ones a unit behind dead units sits exactly on the kink of its ReLU.
        "init": "torch",
        "game": Game(n_agents=3, min_at_lever=1),
        "agents": Agents(**{"hidden": (8, 6), "lr": 0.01, **agents}),
        "designer": Designer(**{"hidden": (7, 5), "lr_incentive": 0.01, "lr_cost": 0.001, **designer}),
    }
    return Config(**{**top, **options})


def captured_metagradient(config, iterations=6):
    """Arguments of the last of some iterations' ``metagradient`` calls, with the learner as it was then."""
    learner = Learner(config)
    calls = []
    original = learner.metagradient

    def record(*args):
        calls.append((dict(learner.eta), args))
        return original(*args)

    learner.metagradient = record
    for _ in range(iterations):
        learner.iterate()
    del learner.metagradient
    learner.eta, args = calls[-1]
    return learner, args


def with_designer(learner, **options):
    learner.config = replace(learner.config, designer=replace(learner.config.designer, **options))
    return learner


def relative_error(got, want):
    a = torch.cat([got[n].flatten() for n in want])
    b = torch.cat([want[n].flatten() for n in want])
    return float((a - b).norm() / b.norm())
