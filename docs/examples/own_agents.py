"""Agents of your own: tables in place of networks, and a natural policy gradient in place of a plain one.

An agent keeps a table of logits, one row for every observation of zeros and ones. For a softmax table the natural
gradient of the return is the advantage itself, so an entry moves by the mean return of its action, less the mean
return at that observation; old entries fade a little, which keeps the agents from being too sure. The designer needs
one more method than the agents do: ``backward``, the transpose of that step.

Stag hunt, whose optimum of 40 is reached: ``python docs/examples/own_agents.py``
"""

from dataclasses import dataclass

import torch
from matrix_games import GAMES, designer_of, optimum, task_of

from metagrad import Trainer
from metagrad.agents import Adjoint, AgentState, Credit, Step


class Logits:
    """What `act` gives: logits ``out [G, R, L]``."""

    def __init__(self, out):
        self.out = out


@dataclass(frozen=True)
class TabularAgents:
    """Softmax tables that follow natural gradients of their returns."""

    lr: float = 0.05
    fading: float = 0.02
    gamma: float = 0.99
    share_parameters = False  # one table for each agent: G = S * A, and rows are (step, episode)

    # ------------------------------------------------------------------ what agents do

    def init(self, game, rng, where):
        """Tables of zeros for every agent of every seed, ``[G, observations, L]``."""
        (width,) = game.agents["obs"]
        shape = len(rng.seeds) * game.n_agents, 2**width, game.n_actions
        return AgentState({"table": torch.zeros(shape, device=where.device, dtype=where.dtype)}, None, None)

    def epsilon(self, iteration):
        """No exploration beside that of the softmax."""
        return 0.0

    def act(self, state, obs):
        """Logits of rows."""
        table, at = state.policy["table"], self._at(obs["obs"])
        return Logits(table.gather(1, at[..., None].expand(*at.shape, table.shape[-1])))

    def values(self, state, batch):
        """No critic."""

    def update(self, state, batch, rng):
        """One step on a batch, and what of it the designer needs to know."""
        advantages = self._rows(self._returns(batch.total_rewards))
        moved = {"table": (1 - self.fading) * state.policy["table"] + self.lr * self._natural(advantages, batch)}
        step = Step(batch, None, self.act(state, batch.obs), None, advantages, {}, None, 0.0)
        return AgentState(moved, None, None, state.batches + 1), [step]

    # ------------------------------------------------------------------ what a designer asks of them

    def score_vjp(self, state, batch, weights):
        """``∇_θ Σ weights · log π(a|o)``: one-hot less probabilities, added up in the entries of the table."""
        seen, weights = self.act(state, batch.obs).out.softmax(-1), self._rows(weights)
        actions = self._rows(batch.actions)
        score = torch.nn.functional.one_hot(actions, seen.shape[-1]) - seen
        at = self._at(batch.obs["obs"])[..., None].expand_as(score)
        return {"table": torch.zeros_like(state.policy["table"]).scatter_add_(1, at, weights[..., None] * score)}

    def backward(self, step, adjoint):
        """From derivatives by the table after a step to those by the rewards, and by the table before."""
        batch, after = step.batch, adjoint.params["table"]
        entry, alive, counts = self._visits(batch)
        of_entry, of_row = counts.clamp_min(1), counts.sum(-1, keepdim=True).clamp_min(1)
        by_entry = after / of_entry - (after * (counts > 0)).sum(-1, keepdim=True) / of_row
        d = self.lr * by_entry.flatten(1).gather(1, entry) * alive
        d = d.unflatten(0, (len(batch.actions), -1)).unflatten(2, batch.alive.shape[1:]).movedim(1, 3)  # [S, T, K, A]
        before = {"table": (1 - self.fading) * after}
        return Credit(d, self._returns_transposed(d), self.gamma), Adjoint(before)

    def replay(self, state, steps, batches):
        """The same steps from ``state`` on batches with other payments."""
        taken = []
        for batch in batches:
            state, more = self.update(state, batch, None)
            taken += more
        return state, taken

    # ------------------------------------------------------------------ arithmetic

    @staticmethod
    def _at(obs):
        """Which row of the table: the observation read as a binary number."""
        return (obs * 2.0 ** torch.arange(obs.shape[-1], device=obs.device)).sum(-1).long()

    @staticmethod
    def _rows(x):
        """``[S, T, K, A]`` to ``[G, R]``."""
        return x.movedim(3, 1).flatten(2, 3).flatten(0, 1)

    def _visits(self, batch):
        """Entry of the table of each row ``[G, R]``, whether its episode goes on, and visits of every entry."""
        at, actions, alive = self._at(batch.obs["obs"]), self._rows(batch.actions), self._rows(batch.agents_alive)
        entry, n = at * batch.n_actions + actions, 2 ** batch.obs["obs"].shape[-1]
        counts = alive.new_zeros(len(at), n * batch.n_actions).scatter_add_(1, entry, alive)
        return entry, alive, counts.unflatten(1, (n, batch.n_actions))

    def _natural(self, returns, batch):
        """Mean return of every entry less that of its row; 0 where nobody was."""
        entry, alive, counts = self._visits(batch)
        sums = torch.zeros_like(counts).flatten(1).scatter_add_(1, entry, returns * alive).view_as(counts)
        means = sums / counts.clamp_min(1)
        return (means - sums.sum(-1, keepdim=True) / counts.sum(-1, keepdim=True).clamp_min(1)) * (counts > 0)

    def _powers(self, x):
        """``γ^(j - t)`` for a reward of step j and a return of step t, ``[T, T]``."""
        steps = torch.arange(x.shape[1], device=x.device)
        apart = steps[None] - steps[:, None]
        return (self.gamma ** apart.clamp_min(0) * (apart >= 0)).to(x.dtype)

    def _returns(self, rewards):
        """Discounted returns ``[S, T, K, A]``."""
        return torch.einsum("tj,sjka->stka", self._powers(rewards), rewards)

    def _returns_transposed(self, d):
        return torch.einsum("tj,stka->sjka", self._powers(d), d)


def main(iterations=200, seeds=(1, 2, 3, 4)):
    """Welfare of every seed."""
    payoff = GAMES["stag hunt"]
    trainer = Trainer(task_of(payoff), TabularAgents(), designer_of(), seeds=seeds, k=16)
    trainer.train(iterations)
    scores = trainer.evaluate(100)
    print(f"welfare {scores['welfare'].round(1)} of {optimum(payoff):g}, paid {scores['payments'].round(1)}")
    return scores["welfare"]


if __name__ == "__main__":
    main()
