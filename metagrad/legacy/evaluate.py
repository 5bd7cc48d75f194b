"""Evaluation on fresh episodes, in environments and random streams of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from metagrad.legacy.config import Config, Game
from metagrad.legacy.rollout import Batch, rollout
from metagrad.legacy.train import Learner, make_env, make_streams

#: The agents' actions in Escape Room.
PLACES = ("lever", "start", "door")


@dataclass(frozen=True)
class Scores:
    """Means over the episodes of an evaluation, one row a seed, float64."""

    #: What results are reported of; the first is what counts as the score.
    FIELDS: ClassVar[tuple[str, ...]] = ("r_id", "environment_return", "incentives_paid", "steps")

    environment_return: np.ndarray  # [S], sum of the agents' environment rewards
    incentives_paid: np.ndarray  # [S]
    steps: np.ndarray  # [S], length of an episode
    reward_total: np.ndarray  # [S, A], environment rewards and incentives
    counts: np.ndarray  # [S, A, L], times an action was chosen
    received: np.ndarray  # [S, A, L], incentives received for an action

    @property
    def r_id(self) -> np.ndarray:
        """Designer return: environment return less the incentives paid, ``[S]``."""
        return self.environment_return - self.incentives_paid

    @property
    def score(self) -> np.ndarray:
        """What counts: the designer's return."""
        return self.r_id

    def headline(self) -> str:
        """A line for the progress bar."""
        return f"r_id {self.r_id.mean():.2f}  incentives paid {self.incentives_paid.mean():.2f}"

    def row(self, s: int) -> dict[str, float]:
        """Flat record of seed ``s``, as in metrics.csv."""
        record = {
            "r_id": self.r_id[s],
            "environment_return": self.environment_return[s],
            "incentives_paid": self.incentives_paid[s],
            "steps_per_episode": self.steps[s],
        }
        for i in range(self.counts.shape[1]):
            record[f"reward_total_{i}"] = self.reward_total[s, i]
            for a, place in enumerate(PLACES):
                record[f"n_{place}_{i}"] = self.counts[s, i, a]
            for a, place in enumerate(PLACES):
                record[f"incentive_{place}_{i}"] = self.received[s, i, a]
        return {name: float(value) for name, value in record.items()}


class Evaluator:
    """Evaluates a learner, exploration off, actions sampled.

    Parameters
    ----------
    config : Config
        The run.
    phase : {"eval", "test"}
        Which streams: those of the evaluations during training, or those of the test at the end.
    episodes : int
        Episodes for each seed.
    """

    def __init__(self, config: Config, phase: str, episodes: int) -> None:
        self.config = config
        self.env = make_env(config, phase, episodes)
        self.streams = make_streams(config, phase)

    def counters(self) -> dict[str, Any]:
        """Random streams' positions, for checkpoints."""
        streams = {**self.streams, "environment": self.env.streams}
        return {name: s.counter.tolist() for name, s in streams.items()}

    def set_counters(self, counters: dict[str, Any]) -> None:
        """Go on from :meth:`counters`."""
        for name, streams in {**self.streams, "environment": self.env.streams}.items():
            streams.counter[:] = counters[name]

    def play(self, learner: Learner) -> Batch:
        """The episodes themselves, incentives included."""
        batch = rollout(
            self.env,
            learner.theta,
            self.streams["actions"],
            max_steps=self.config.game.max_steps,
            epsilon=0.0,
        )
        learner.designer.pay(learner.eta, batch, self.streams["designer"])
        return batch

    def __call__(self, learner: Learner) -> Scores:
        """Scores of every seed."""
        batch = self.play(learner)
        k = batch.k
        actions, incentives = batch.actions.double(), batch.incentives.double()
        rewards = batch.rewards.double()

        def mean(total) -> np.ndarray:
            return (total / k).cpu().numpy()

        return Scores(
            mean(batch.designer_rewards.double().sum(1)),
            mean(incentives.sum((1, 2))),
            mean(batch.alive.double().sum(1)),
            mean((rewards + incentives).sum(2)),
            mean(actions.sum(2)),
            mean((actions * incentives[..., None]).sum(2)),
        )


def bounds(game: Game) -> dict[str, float] | None:
    """Best possible designer returns from the default start (specification, section 7); None for random starts."""
    if game.randomize:
        return None
    free = 10.0 * (game.n_agents - game.min_at_lever) - game.min_at_lever
    return {"no pay": max(0.0, free), "threshold pay": max(0.0, free - game.min_at_lever)}
