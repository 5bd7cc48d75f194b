"""A game with PettingZoo's parallel interface, copied K times and trained; PettingZoo itself is not needed.

Three neighbours may sort their waste in steps in which the bin is out, every other one: it costs the one who sorts 1
and is worth 0.6 to everybody. Nobody would; the optimum is that all do whenever they can, 3 * (3 * 0.6 - 1) = 2.4 in
each of three steps, 7.2 an episode.

``python docs/examples/pettingzoo_game.py``
"""

import numpy as np
from gymnasium import spaces

from metagrad import MLP, ByAction, MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, optim
from metagrad.tasks.pettingzoo import parallel_task

STEPS, OPTIMUM = 6, 7.2


class Sorting:
    """One copy of the game, as PettingZoo's ``ParallelEnv`` has it."""

    metadata = {"name": "sorting"}  # noqa: RUF012
    possible_agents = ("ann", "bob", "cem")

    def observation_space(self, agent):
        seen = spaces.Box(0.0, 1.0, (4,), np.float32)
        return spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(2)})

    def action_space(self, agent):
        return spaces.Discrete(2)

    def _obs(self):
        out = self.t % 2 == 0
        seen = np.append(self.last, out).astype(np.float32)
        return {a: {"observation": seen, "action_mask": np.array([1, out], np.int8)} for a in self.agents}

    def reset(self, seed=None, options=None):
        self.agents, self.t, self.last = list(self.possible_agents), 0, np.zeros(3)
        return self._obs(), {a: {} for a in self.agents}

    def step(self, actions):
        self.last, self.t = np.array([actions[a] for a in self.possible_agents], float), self.t + 1
        earned = 0.6 * self.last.sum() - self.last
        over = self.t >= STEPS
        result = self._obs(), dict(zip(self.agents, earned.tolist(), strict=True))
        ends = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, over), {a: {} for a in self.agents}
        if over:
            self.agents = []
        return (*result, *ends)


task = parallel_task(Sorting, STEPS)
agents = PolicyGradientAgents(hidden=(16,), optimiser=optim.SGD(0.05), entropy=0.05)


def main(iterations=100, seeds=(1, 2)):
    """Welfare of every seed by designer."""
    results = {}
    for designer in (NoDesigner(), MetaGradient(ByAction(MLP((16,), output_bias=False)), optim.Adam(0.02), cost=0.005)):
        trainer = Trainer(task, agents, designer, seeds=seeds, k=8)
        trainer.train(iterations)
        scores = trainer.evaluate(50)
        results[type(designer).__name__] = scores["welfare"]
        print(f"{type(designer).__name__}: welfare {scores['welfare'].round(2)} of {OPTIMUM:g}, "
              f"paid {scores['payments'].round(2)}")  # fmt: skip
    return results


if __name__ == "__main__":
    main()
