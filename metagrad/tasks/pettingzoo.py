"""PettingZoo parallel environments as tasks: K copies stepped one after the other.

Nothing is imported from PettingZoo, so any object with the methods of its ``ParallelEnv`` will do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from metagrad.batch import PRESENT
from metagrad.tasks.base import TaskError, VectorTask


def parallel_task(
    make: Callable[[], Any],
    horizon: int,
    designer_reward: Callable[[dict[str, float]], float] | None = None,
    designer_observation: Callable[[Any], np.ndarray] | None = None,
    name: str | None = None,
) -> VectorTask:
    """Make a task of a PettingZoo parallel environment.

    Parameters
    ----------
    make : callable
        Makes one copy, ``ParallelEnv``. All agents have the same ``Discrete`` action space and observation spaces of
        equal shapes; an observation may be a dict with an entry ``action_mask`` or ``mask`` of legal actions;
        a ``Discrete`` observation becomes one-hot.
    horizon : int
        Step limit of an episode.
    designer_reward : callable, optional
        From the agents' rewards of a step to the designer's; by default their sum.
    designer_observation : callable, optional
        From an environment to what the designer sees; by default ``env.state()``, or where the game has none,
        all agents' observations.
    name : str, optional
        Name of the game.

    Raises
    ------
    TaskError
        If the agents' spaces differ, or actions are continuous.
    """
    probe = make()
    agents = list(probe.possible_agents)
    _check_spaces(probe, agents)
    reward = designer_reward or (lambda rewards: float(sum(rewards.values())))

    def vector(num_envs: int, seed: int | None = None) -> ParallelCopies:
        return ParallelCopies([make() for _ in range(num_envs)], agents, reward, designer_observation)

    return VectorTask(vector, horizon, name or str(getattr(probe, "metadata", {}).get("name", "pettingzoo")))


def _check_spaces(env: Any, agents: list[str]) -> None:
    for agent in agents:
        space = env.action_space(agent)
        if not hasattr(space, "n") or getattr(space, "shape", None):  # MultiBinary has both
            raise TaskError(
                f"the actions of {agent} are {space}: take one of n (Discrete), and levels of continuous ones"
            )
    counts = {int(env.action_space(agent).n) for agent in agents}
    if len(counts) > 1:
        raise TaskError(
            f"the agents have other numbers of actions, {sorted(counts)}: give all of them the largest, and a mask"
        )
    first = _shape_of(env.observation_space(agents[0]))
    for agent in agents:
        if (shape := _shape_of(env.observation_space(agent))) != first:
            raise TaskError(f"{agent} observes {shape}, {agents[0]} {first}: all agents must observe the same shapes")


def _shape_of(space: Any) -> Any:
    inner = getattr(space, "spaces", None)
    if isinstance(inner, dict):
        return {name: _shape_of(part) for name, part in inner.items()}
    return tuple(getattr(space, "shape", None) or (getattr(space, "n", 1),))


class ParallelCopies:
    """Copies of a parallel environment behind the contract of :class:`metagrad.VectorTask`.

    ``reward`` makes the designer's reward of the agents', ``observe`` its observation of an environment, if given.
    """

    def __init__(
        self, envs: list[Any], agents: list[str], reward: Callable[[dict[str, float]], float], observe: Any
    ) -> None:
        self.envs, self.agents, self._reward, self._observe = envs, agents, reward, observe
        self.num_envs, self.n_agents = len(envs), len(agents)
        self.n_actions = int(envs[0].action_space(agents[0]).n)
        self._first = {agent: _first(envs[0].action_space(agent)) for agent in agents}
        self._seen: list[dict[str, Any]] = [{} for _ in envs]
        self._done = np.zeros(len(envs), np.bool_)
        self._spaces = {agent: envs[0].observation_space(agent) for agent in agents}

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict]:
        """Start new episodes in all copies; copy i takes the seed ``seed + i``."""
        self._done[:] = False
        for i, env in enumerate(self.envs):
            self._seen[i], _ = env.reset(seed=None if seed is None else (seed + i) % 2**31)
        return self._obs(), {}

    def step(self, actions: np.ndarray) -> tuple:
        """Advance the copies whose episodes go on; agents that have left do nothing and earn nothing."""
        n = self.num_envs
        rewards, designer, present = np.zeros((n, self.n_agents)), np.zeros(n), np.zeros((n, self.n_agents), np.bool_)
        terminated, truncated = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        for i, env in enumerate(self.envs):
            if self._done[i]:
                continue
            present[i] = [a in env.agents for a in self.agents]
            acts = {a: self._first[a] + int(actions[i, j]) for j, a in enumerate(self.agents) if a in env.agents}
            seen, earned, over, cut, _ = env.step(acts)
            self._seen[i].update(seen)
            rewards[i] = [earned.get(a, 0.0) for a in self.agents]
            designer[i] = self._reward(earned)
            if not env.agents:
                self._done[i] = True
                truncated[i] = any(cut.values()) and not all(over.values())
                terminated[i] = not truncated[i]
        return self._obs(), rewards, terminated, truncated, {"designer_reward": designer, PRESENT: present}

    def _obs(self) -> dict[str, Any]:
        by_copy = [_stacked([_named(seen[a], self._spaces[a]) for a in self.agents]) for seen in self._seen]
        agents = _stacked(by_copy)
        observe = self._observe or (self._state if self._has_state else None)
        if observe is None:
            rows = [x.reshape(self.num_envs, -1) for name, x in agents.items() if name != "mask"]
        else:
            rows = [np.stack([np.asarray(observe(env)).ravel() for env in self.envs])]
        return {"agents": agents, "designer": np.concatenate([x.astype(np.float32) for x in rows], 1)}

    @staticmethod
    def _state(env: Any) -> np.ndarray:
        return np.asarray(env.state(), np.float32)

    @cached_property
    def _has_state(self) -> bool:
        """Whether the game has a state of numbers; those that have none raise whatever they like."""
        try:
            self._state(self.envs[0])
        except Exception:
            return False
        return True


def _named(obs: Any, space: Any) -> dict[str, np.ndarray]:
    """One agent's observation as arrays by name; the mask under the learner's name."""
    if not isinstance(obs, dict):
        return {"obs": _array(obs, space)}
    parts = getattr(space, "spaces", {})
    return {"mask" if name == "action_mask" else name: _array(x, parts.get(name)) for name, x in obs.items()}


def _array(x: Any, space: Any) -> np.ndarray:
    """An array of at least one dimension; one of n things (``Discrete``) is one-hot."""
    if hasattr(space, "n") and not getattr(space, "shape", None):
        return np.eye(int(space.n), dtype=np.float32)[int(x) - _first(space)]
    return np.atleast_1d(np.asarray(x))


def _first(space: Any) -> int:
    """The lowest of the numbers that a ``Discrete`` space has."""
    return int(getattr(space, "start", 0))


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
