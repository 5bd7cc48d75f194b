"""Evaluation of Cleanup: who cleans, who collects, and who is paid for what (metagrad specification, 5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from fastenvs.cleanup import Cleanup
from fastenvs.render import save_gif
from metagrad.legacy.cleanup import N_TYPES, Batch, Crew, make_cleanup
from metagrad.legacy.rollout import purpose_streams
from metagrad.legacy.turns import TurnEvaluator, TurnLearner

#: What agents are paid for.
KINDS = ("cleaned", "collected", "other")


@dataclass(frozen=True)
class CleanupScores:
    """Means over the episodes of an evaluation, one row a seed, float64."""

    FIELDS: ClassVar[tuple[str, ...]] = ("welfare", "incentives_paid", "waste_cleared")

    welfare: np.ndarray  # [S], sum of the environment rewards; incentives are not subtracted
    incentives_paid: np.ndarray  # [S]
    waste_cleared: np.ndarray  # [S]
    reward: np.ndarray  # [S, A], from the environment
    waste: np.ndarray  # [S, A], cleared
    count: np.ndarray  # [S, A, 3], times an agent did what it is paid for
    received: np.ndarray  # [S, A, 3], for that

    @property
    def score(self) -> np.ndarray:
        """What counts: social welfare."""
        return self.welfare

    def headline(self) -> str:
        """A line for the progress bar."""
        return f"welfare {self.welfare.mean():.2f}  incentives paid {self.incentives_paid.mean():.1f}"

    def row(self, s: int) -> dict[str, float]:
        """Flat record of seed ``s``, as in metrics.csv."""
        record = {name: float(getattr(self, name)[s]) for name in self.FIELDS}
        for i in range(self.reward.shape[1]):
            record |= {f"reward_{i}": float(self.reward[s, i]), f"waste_{i}": float(self.waste[s, i])}
            for c, kind in enumerate(KINDS):
                record[f"n_{kind}_{i}"] = float(self.count[s, i, c])
                record[f"received_{kind}_{i}"] = float(self.received[s, i, c])
        return record


class CleanupEvaluator(TurnEvaluator):
    """Evaluates learners of Cleanup, exploration off, actions sampled."""

    make_env = staticmethod(make_cleanup)

    def __call__(self, learner: TurnLearner) -> CleanupScores:
        """Scores of every seed."""
        pairs = zip(learner.workforces, self.envs, strict=True)
        rows = [self._score(s, crew, env) for s, (crew, env) in enumerate(pairs)]
        return CleanupScores(**{name: np.array([row[name] for row in rows]) for name in rows[0]})

    def _score(self, s: int, crew: Crew, env: Cleanup) -> dict[str, Any]:
        own = self.streams_of(s)
        return summary(crew.play(env, own["actions"], own["designer"], 0.0))


def summary(batch: Batch) -> dict[str, Any]:
    """Means over the episodes of a batch."""
    kinds = batch.kinds[..., None] == torch.arange(N_TYPES, device=batch.kinds.device)
    count = kinds.double().sum(0).mean(0)
    received = (kinds * batch.incentives[..., None]).double().sum(0).mean(0)
    reward, waste = (t.double().sum(0).mean(0) for t in (batch.rewards, batch.waste))
    return {
        "welfare": float(reward.sum()),
        "incentives_paid": float(received.sum()),
        "waste_cleared": float(waste.sum()),
        "reward": reward.cpu().numpy(),
        "waste": waste.cpu().numpy(),
        "count": count.cpu().numpy(),
        "received": received.cpu().numpy(),
    }


class _Filmed:
    """A game that keeps a picture of its first copy after every step."""

    def __init__(self, env: Cleanup) -> None:
        self._env = env
        self.frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: np.ndarray) -> Any:
        """Step, and take the picture."""
        result = self._env.step(actions)
        self.frames.append(self._env.render(0))
        return result


def replay(learner: TurnLearner, out: Path, seed: int | None = None) -> Path:
    """Write a fresh episode of a seed's agents (the first one's by default) as a GIF."""
    config = learner.config
    seed = config.seeds[0] if seed is None else seed
    crew = learner.workforces[config.seeds.index(seed)]
    filmed: Any = _Filmed(make_cleanup(config, seed, "test", 1))
    actions, choices = (purpose_streams([seed], f"test {use}") for use in ("actions", "designer"))
    crew.play(filmed, actions, choices, 0.0)
    save_gif(filmed.frames, out, 0.2)
    return out
