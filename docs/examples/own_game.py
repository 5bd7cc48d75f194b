"""A public good that pays off only together, and a subsidy that is written by hand and ends when agents have learned.

Contributing costs 1, and n contributions give ``0.3 n²`` to each of three players, so nobody gains by being the first
or the second to contribute. The optimum is that all do in all five steps, 3 * 2.7 - 3 = 5.1 in each, 25.5 an episode.
There nobody gains by stopping, so agents stay when nothing is paid any more.

``python docs/examples/own_game.py``
"""

import numpy as np
import torch

from metagrad import IncentiveFunction, MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, VectorTask, optim

STEPS, OPTIMUM = 5, 25.5


class PublicGood:
    """N copies of the game; everybody sees who contributed in the step before."""

    n_agents, n_actions = 3, 2

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def _obs(self):
        mean = np.repeat(self.last.mean(1)[:, None, None], 3, axis=1)
        return {"agents": np.concatenate([self.last[..., None], mean], axis=-1), "designer": self.last}

    def reset(self):
        self.last, self.t = np.zeros((self.num_envs, 3), np.float32), 0
        return self._obs(), {}

    def step(self, actions):
        self.last, self.t = actions.astype(np.float32), self.t + 1
        rewards = 0.3 * self.last.sum(1, keepdims=True) ** 2 - self.last
        over = np.full(self.num_envs, self.t >= STEPS)
        return self._obs(), rewards, np.zeros_like(over), over, {"designer_reward": rewards.sum(1)}


def subsidy(eta, batch):
    """What every agent is paid, [S, T, K, A]: up to 2 for contributing, by what happened in the step before."""
    rows = batch.designer_obs["obs"].flatten(1, 2)  # [S, T * K, 3]
    rate = 2 * torch.baddbmm(eta["b"], rows, eta["w"]).sigmoid()
    return batch.actions * rate.view(*batch.alive.shape, 1)


task = VectorTask(PublicGood, STEPS)
agents = PolicyGradientAgents(hidden=(16,), optimiser=optim.SGD(0.1), normalise=True)
incentive = IncentiveFunction(subsidy, init=lambda n: {"w": torch.zeros(n, 3, 1), "b": torch.zeros(n, 1, 1)})
designer = MetaGradient(incentive, optim.Adam(0.03), cost=1.0, cost_optimiser=optim.Adam(0.02, beta2=0.98))


def main(iterations=300, seeds=(1, 2, 3, 4)):
    """Welfare and payments of every seed by designer."""
    results = {}
    for who in (NoDesigner(), designer):
        trainer = Trainer(task, agents, who, seeds=seeds, k=16)
        trainer.train(iterations)
        scores = trainer.evaluate(100)
        results[type(who).__name__] = scores
        print(f"{type(who).__name__}: welfare {scores['welfare'].round(1)} of {OPTIMUM:g}, "
              f"paid {scores['payments'].round(1)}")  # fmt: skip
    return results


if __name__ == "__main__":
    main()
