"""A torch module as the policy: the fishery of own_incentive.py, by fishers who see the others as a set.

The module is called with the observations in the order of their names, here ``others`` and ``own``, and gives one
logit for each action. Parameters of all agents and seeds are stacked, and nothing in it need know that.

``python docs/examples/own_network.py``
"""

import torch
from own_incentive import OPTIMUM, incentive, task
from torch import nn

from metagrad import MetaGradient, ModuleNetwork, PolicyGradientAgents, Trainer, optim


class SetPolicy(nn.Module):
    """One embedding for whoever it sees, added up: it does not matter in which order the others come."""

    def __init__(self):
        super().__init__()
        self.other, self.own = nn.Linear(3, 16), nn.Linear(3, 16)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, others: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Logits ``[R, 3]`` for ``others [R, 3, 3]`` and ``own [R, 3]``."""
        return self.head(self.other(others).sum(-2) + self.own(own))


agents = PolicyGradientAgents(network=ModuleNetwork(SetPolicy), optimiser=optim.SGD(0.01))


def main(iterations=200, seeds=(1, 2)):
    """Welfare of every seed under the flat tax."""
    trainer = Trainer(task, agents, MetaGradient(incentive, optim.Adam(0.05)), seeds=seeds, k=16)
    trainer.train(iterations)
    welfare = trainer.evaluate(100)["welfare"]
    print(f"welfare {welfare.round(1)} of {OPTIMUM:g}")
    return welfare


if __name__ == "__main__":
    main()
