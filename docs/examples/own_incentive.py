"""An incentive of your own: a flat income tax that is handed back in equal shares.

Boats of four fishers crowd each other out: a boat catches ``8 - boats``. The best catch, 16 a step and 80 an episode,
is that of one boat each; selfish fishers send two, and catch 7 to 12 a step. A tax makes them share what they catch,
and the more of it they share, the more each of them wants the best for all. The tax costs the designer nothing.

``python docs/examples/own_incentive.py``
"""

import numpy as np
import torch

from metagrad import IncentiveFunction, MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, VectorTask, optim

STEPS, OPTIMUM = 5, 80.0


class Fishery:
    """N copies of a fishery: 0, 1 or 2 boats for each of four fishers, who see everybody's boats of the step before."""

    n_agents, n_actions = 4, 3

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def _obs(self):
        others = np.stack([np.delete(self.last, i, axis=1) for i in range(4)], axis=1)
        return {"agents": {"own": self.last, "others": others}, "designer": self.last.reshape(self.num_envs, 12)}

    def reset(self):
        self.last, self.t = np.zeros((self.num_envs, 4, 3), np.float32), 0
        return self._obs(), {}

    def step(self, actions):
        self.last, self.t = np.eye(3, dtype=np.float32)[actions], self.t + 1
        catch = actions * (8.0 - actions.sum(1, keepdims=True))
        over = np.full(self.num_envs, self.t >= STEPS)
        return self._obs(), catch, np.zeros_like(over), over, {"designer_reward": catch.sum(1)}


def rate(eta):
    """The tax rate of every seed, ``[S, 1, 1, 1]``."""
    return eta["rate"].sigmoid()[:, None, None, None]


def flat_tax(eta, batch):
    """What every agent gets back less what it pays, ``[S, T, K, A]``: a differentiable function of η and the batch."""
    return rate(eta) * (batch.rewards.mean(-1, keepdim=True) - batch.rewards)


task = VectorTask(Fishery, STEPS)
incentive = IncentiveFunction(flat_tax, init=lambda n: {"rate": torch.zeros(n)})
agents = PolicyGradientAgents(hidden=(16,), optimiser=optim.SGD(0.01))


def main(iterations=300, seeds=(1, 2, 3, 4)):
    """Welfare of every seed by designer."""
    results = {}
    for designer in (NoDesigner(), MetaGradient(incentive, optim.Adam(0.05))):
        trainer = Trainer(task, agents, designer, seeds=seeds, k=16)
        trainer.train(iterations)
        welfare = trainer.evaluate(100)["welfare"]
        results[type(designer).__name__] = welfare
        print(f"{type(designer).__name__}: welfare {welfare.round(1)} of {OPTIMUM:g}")
    print(f"tax rates: {rate(trainer.state.designer.eta).flatten().numpy().round(2)}")
    return results


if __name__ == "__main__":
    main()
