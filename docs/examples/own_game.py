import numpy as np
import torch
from metagrad import IncentiveFunction, MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, VectorTask, optim


class PublicGood:
    """N copies of a repeated game: contributing costs 1 and gives 0.6 to each of three players."""

    n_agents, n_actions = 3, 2

    def __init__(self, num_envs, seed=None):
        self.num_envs = num_envs

    def _obs(self):
        mean = np.repeat(self.last.mean(1)[:, None, None], 3, axis=1)
        return {"agents": np.concatenate([self.last[..., None], mean], axis=-1), "designer": self.last}

    def reset(self):
        self.last, self.t = np.zeros((self.num_envs, 3), np.float32), 0
        return self._obs(), {}

    def step(self, actions):
        self.last, self.t = actions.astype(np.float32), self.t + 1
        rewards = 0.6 * self.last.sum(1, keepdims=True) - self.last
        over = np.full(self.num_envs, self.t >= 5)
        return self._obs(), rewards, np.zeros_like(over), over, {"designer_reward": rewards.sum(1)}


def subsidy(eta, batch):
    """What every agent is paid, [S, T, K, A]: up to 2 for contributing, by what happened in the step before."""
    rows = batch.designer_obs["obs"].flatten(1, 2)                                  # [S, T * K, 3]
    rate = 2 * torch.baddbmm(eta["b"], rows, eta["w"]).sigmoid()
    return batch.actions * rate.view(*batch.alive.shape, 1)


task = VectorTask(PublicGood, horizon=5)
agents = PolicyGradientAgents(hidden=(16,), optimiser=optim.SGD(0.3))
incentive = IncentiveFunction(subsidy, init=lambda n: {"w": torch.zeros(n, 3, 1), "b": torch.zeros(n, 1, 1)})

for designer in (NoDesigner(), MetaGradient(incentive, optim.Adam(0.03), cost=0.02)):
    trainer = Trainer(task, agents, designer, seeds=(1, 2, 3, 4), k=16)
    trainer.train(iterations=300)
    print(type(designer).__name__, trainer.evaluate(episodes=100)["welfare"])      # [S]
