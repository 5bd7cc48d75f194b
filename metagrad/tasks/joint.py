"""One mind that acts for all agents of a game: its action is the joint one, its reward their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metagrad.agents.base import Interface
from metagrad.batch import PRESENT, Batch, as_dict
from metagrad.checks import Checked
from metagrad.tasks.base import TaskError, VectorTask

#: A central policy chooses among no more joint actions than this.
MAX_JOINT_ACTIONS = 10_000


def _places(game: Any) -> np.ndarray:
    """What an action of each agent counts in a joint one, whose digits they are, the first agent's the lowest."""
    return game.n_actions ** np.arange(game.n_agents)


class _JointEnv:
    """An environment as one agent sees it that acts for all: the designer's view, the joint action, summed rewards."""

    n_agents = 1

    def __init__(self, env: Any) -> None:
        self.env, self.num_envs = env, env.num_envs
        self.n_actions = env.n_actions**env.n_agents

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict]:
        obs, info = self.env.reset(**options)
        return self._view(obs), info

    def step(self, actions: np.ndarray) -> tuple:
        """Take a joint action."""
        each = actions // _places(self.env) % self.env.n_actions
        obs, rewards, terminated, truncated, info = self.env.step(each)
        info = {**{name: x for name, x in info.items() if name != PRESENT}, "agent_rewards": rewards}
        if "final_obs" in info:
            info["final_obs"] = self._view(info["final_obs"])
        return self._view(obs), rewards.sum(1, keepdims=True), terminated, truncated, info

    @staticmethod
    def _view(obs: dict[str, Any]) -> dict[str, Any]:
        one = {name: x[:, None] for name, x in as_dict(obs["designer"]).items() if name != "mask"}
        return {"agents": one, "designer": obs["designer"]}


@dataclass(frozen=True)
class JointAction(Checked, VectorTask):
    """A task with one agent that acts for all; the scores of the game are reported.

    Parameters
    ----------
    task : VectorTask
        The game, without masks, and with no more joint actions than ``MAX_JOINT_ACTIONS``.
    """

    task: VectorTask

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.task.interface
        if inner.n_actions**inner.n_agents > MAX_JOINT_ACTIONS:
            how_many = f"{inner.n_actions}**{inner.n_agents}"
            raise TaskError(f"one mind would choose among {how_many} joint actions; {MAX_JOINT_ACTIONS:,} is the most")
        if "mask" in inner.agents:
            raise TaskError("one mind for all cannot heed the agents' masks")
        seen = {name: shape for name, shape in inner.designer.items() if name != "mask"}
        joint = Interface(1, inner.n_actions**inner.n_agents, inner.horizon, seen, inner.designer)
        of_the_game = {name: getattr(self.task, name) for name in ("horizon", "fields", "bounds", "panels")}
        for name, value in {"name": f"{self.task.name} (central)", "interface": joint, **of_the_game}.items():
            object.__setattr__(self, name, value)

    def make(self, num_envs: int, seeds: Sequence[int]) -> _JointEnv:
        """An environment of ``num_envs`` copies."""
        return _JointEnv(self.task.make(num_envs, seeds))

    def record(self, env: _JointEnv, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """What the game records, and each agent's reward."""
        return {**self.task.record(env.env, info), "agent_rewards": info["agent_rewards"]}

    def prepare(self, env: _JointEnv, episodes: int, source: Any = None, n_seeds: int = 1) -> None:
        """As the game does."""
        self.task.prepare(env.env, episodes, None if source is None else source.env, n_seeds)

    def camera(self, env: Any, copy: int) -> Callable[[], np.ndarray]:
        """As the game shows it."""
        return self.task.camera(env, copy)

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """The game's scores, of what each of its agents did and earned."""
        game, rewards = self.task.interface, batch.extra["agent_rewards"]
        each = batch.actions // batch.actions.new_tensor(_places(game)) % game.n_actions
        return self.task.scores(
            replace(batch, actions=each, n_actions=game.n_actions, rewards=rewards, payments=rewards * 0, memo={})
        )
