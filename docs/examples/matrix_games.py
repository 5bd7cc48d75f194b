"""Two agents, one payoff matrix: iterated prisoner's dilemma, stag hunt and chicken, with a designer that pays.

Each game's best joint payoff is stated, and reached: python docs/examples/matrix_games.py
"""

import numpy as np

from metagrad import MLP, ByAction, MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, VectorTask, optim

STEPS = 5
# Payoff of the row player by own action and the other's; action 0 is to cooperate, to hunt the stag, to swerve.
GAMES = {
    "prisoner's dilemma": [[3.0, 0.0], [5.0, 1.0]],
    "stag hunt": [[4.0, 0.0], [3.0, 2.0]],
    "chicken": [[3.0, 1.0], [4.0, 0.0]],
}


class MatrixGame:
    """N copies of a repeated game between two players who see what both did in the step before."""

    n_agents, n_actions = 2, 2

    def __init__(self, num_envs, payoff):
        self.num_envs, self.payoff = num_envs, np.asarray(payoff)

    def _obs(self):
        return {"agents": np.stack([self.seen, self.seen[:, ::-1]], 1).reshape(self.num_envs, 2, 4),
                "designer": self.seen.reshape(self.num_envs, 4)}  # fmt: skip

    def reset(self):
        self.seen, self.t = np.zeros((self.num_envs, 2, 2), np.float32), 0
        return self._obs(), {}

    def step(self, actions):
        self.seen, self.t = np.eye(2, dtype=np.float32)[actions], self.t + 1
        rewards = np.stack([self.payoff[actions[:, 0], actions[:, 1]], self.payoff[actions[:, 1], actions[:, 0]]], 1)
        over = np.full(self.num_envs, self.t >= STEPS)
        return self._obs(), rewards, np.zeros_like(over), over, {"designer_reward": rewards.sum(1)}


def optimum(payoff):
    """Best sum of payoffs of an episode."""
    p = np.asarray(payoff)
    return STEPS * float((p + p.T).max())


def main(iterations=300, seeds=(1, 2, 3, 4)):
    """Welfare of every seed, without a designer and with one."""
    results = {}
    for name, payoff in GAMES.items():
        task = VectorTask(lambda n, payoff=payoff: MatrixGame(n, payoff), STEPS, name)
        agents = PolicyGradientAgents(hidden=(16,), optimiser=optim.SGD(0.003), entropy=0.05)
        # How to choose the cost: the largest at which payments fade without the behaviour. Start at a thousandth of
        # what a payment brings, and raise it tenfold until welfare falls.
        designer = MetaGradient(ByAction(MLP((16,), output_bias=False), scale=4.0), optim.Adam(0.01), cost=0.005)
        for who in (NoDesigner(), designer):
            trainer = Trainer(task, agents, who, seeds=seeds, k=16)
            trainer.train(iterations)
            scores = trainer.evaluate(100)
            results[name, type(who).__name__] = scores["welfare"]
            print(
                f"{name}, {type(who).__name__}: welfare {scores['welfare'].round(1)} of {optimum(payoff):g}, "
                f"paid {scores['payments'].round(1)}"
            )
    return results


if __name__ == "__main__":
    main()
