"""Small games for tests of the learner, as a user would write them."""

import numpy as np


class Lights:
    """N copies: agents switch lights; some switches are blocked, episodes end early when all lights burn.

    Observations are dicts with a mask and a picture, and the game draws random numbers.
    """

    n_agents, n_actions = 2, 3

    def __init__(self, num_envs, seed=None, steps=5, plain=False):
        self.num_envs, self.steps, self.plain = num_envs, steps, plain
        self.rng = np.random.default_rng(seed)

    def _obs(self):
        mask = np.ones((self.num_envs, 2, 3), bool)
        mask[..., 2] = self.blocked
        picture = np.zeros((self.num_envs, 2, 2, 2, 1), np.uint8)
        picture[:, :, 0, 0, 0] = self.level
        picture[:, :, 1, 1, 0] = self.blocked
        own = np.stack([self.level, np.repeat(self.level.sum(1, keepdims=True), 2, 1)], -1).astype(np.float32)
        if self.plain:
            return {"agents": own, "designer": self.level.astype(np.float32)}
        agents = {"own": own, "picture": picture, "mask": mask}
        return {"agents": agents, "designer": {"level": self.level.astype(np.float32)}}

    def reset(self, seed=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.level = np.zeros((self.num_envs, 2), np.int64)
        self.blocked = self.rng.random((self.num_envs, 2)) < 0.5
        self.t = 0
        return self._obs(), {}

    def step(self, actions):
        assert self.plain or (self.blocked | (actions < 2)).all(), "an illegal action was taken"
        self.t += 1
        self.level = np.minimum(self.level + (actions > 0), 3)
        rewards = 0.3 * self.level.sum(1, keepdims=True) - (actions > 0) * 0.8
        self.blocked = self.rng.random((self.num_envs, 2)) < 0.5
        terminated = self.level.sum(1) >= 5
        truncated = np.full(self.num_envs, self.t >= self.steps) & ~terminated
        info = {"designer_reward": rewards.sum(1), "bright": self.level.copy()}
        return self._obs(), rewards, terminated, truncated, info


class Until:
    """N copies of two agents; an episode is over when both take action 1, or go on to the step limit."""

    n_agents, n_actions = 2, 2

    def __init__(self, num_envs, seed=None):
        self.num_envs = num_envs

    def _obs(self):
        seen = np.full((self.num_envs, 2, 2), 0.5, np.float32)
        seen[..., 1] = self.t / 10
        return {"agents": seen, "designer": seen[:, 0]}

    def reset(self, seed=None):
        self.t = 0
        return self._obs(), {}

    def step(self, actions):
        self.t += 1
        rewards = actions - 0.7 * actions.sum(1, keepdims=True)
        over = actions.all(1)
        return self._obs(), rewards, over, np.zeros_like(over), {"designer_reward": 1.0 - actions.mean(1)}
