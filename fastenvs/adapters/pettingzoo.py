"""One copy of a game as PettingZoo's parallel environment (extra ``pettingzoo``).

Agents are called ``agent_0``, ``agent_1`` and so on. Where actions can be illegal, observations are dicts whose
``action_mask`` is int8, as PettingZoo's own games have it. ``state()`` is what the designer sees, as one vector.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space, flatten, flatten_space
from pettingzoo import ParallelEnv

import fastenvs
from fastenvs.adapters import check_env
from fastenvs.snapshots import map_tree
from fastenvs.vecenv import VecEnv


class ParallelCopy(ParallelEnv):
    """The only copy of an environment, which is never reset by itself.

    Parameters
    ----------
    env : VecEnv
        One copy, with ``autoreset="disabled"``; it is closed with this one.
    copy : bool
        Whether observations are fresh arrays; if not, the next call overwrites them.
    render_mode : {None, "rgb_array", "human"}
        Whether :meth:`render` returns a picture, or shows it in a window (this needs pygame).
    """

    def __init__(self, env: VecEnv, *, copy: bool = True, render_mode: str | None = None) -> None:
        check_env(env)
        if env.num_envs != 1 or env.autoreset != "disabled":
            raise ValueError("a parallel environment is one copy with autoreset='disabled'")
        modes = ["human", "rgb_array"]
        self.metadata = {"name": f"{env.name}_v0", "render_modes": modes, "render_fps": 5, "is_parallelizable": True}
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode must be None, 'human' or 'rgb_array', got {render_mode!r}")
        self.env, self.render_mode = env, render_mode
        self.possible_agents = [f"agent_{i}" for i in range(env.n_agents)]
        self.agents: list[str] = []
        seen, acts = _masked_space(env.agent_observation_space), env.agent_action_space
        # Every agent has spaces of its own: each can be seeded.
        self.observation_spaces = {agent: deepcopy(seen) for agent in self.possible_agents}
        self.action_spaces = {agent: deepcopy(acts) for agent in self.possible_agents}
        self.state_space = flatten_space(env.designer_space)
        self._copy = copy and not env.copy
        self._window: Any = None

    def observation_space(self, agent: str) -> Space:
        """Observation space of an agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        """Action space of an agent."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start a new episode; of the options, ``draws`` is that of the game, and others are ignored."""
        draws = (options or {}).get("draws")
        obs, _ = self.env.reset(seed=seed, options=None if draws is None else {"draws": draws})
        self.agents = list(self.possible_agents)
        return self._seen(obs), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]):
        """Let every agent act; all of them leave when the episode ends."""
        playing = self.agents
        if not playing:
            return {}, {}, {}, {}, {}
        joint = np.array([actions[agent] for agent in playing])[None]
        obs, rewards, *flags, info = self.env.step(joint)
        terminated, truncated = (bool(flag[0]) for flag in flags)
        designer = info["designer_reward"][0]
        if terminated or truncated:
            self.agents = []
        infos = {
            agent: {"designer_reward": designer, **{name: info[name][0, i] for name in self.env.agent_info}}
            for i, agent in enumerate(playing)
        }
        if self._copy:
            infos = map_tree(lambda array: array.copy(), infos)  # a number stays one
        return (
            self._seen(obs),
            dict(zip(playing, rewards[0].tolist(), strict=True)),
            dict.fromkeys(playing, terminated),
            dict.fromkeys(playing, truncated),
            infos,
        )

    def _seen(self, obs: dict[str, Any]) -> dict[str, Any]:
        shown = _masked(obs["agents"])
        own = np.copy if self._copy else np.asarray
        return {
            agent: map_tree(lambda array: own(array[0, i]), shown)  # noqa: B023
            for i, agent in enumerate(self.possible_agents)
        }

    def state(self) -> np.ndarray:
        """What the designer sees, flat."""
        return np.asarray(flatten(self.env.designer_space, map_tree(lambda array: array[0], self.env.obs["designer"])))

    def render(self) -> np.ndarray | None:
        """Picture of the game, or nothing, if it is shown in a window."""
        if self.render_mode is None:
            return None
        picture: np.ndarray = self.env.render()  # type: ignore[attr-defined]
        if self.render_mode == "rgb_array":
            return picture
        import pygame

        turned = picture.swapaxes(0, 1)
        if self._window is None:
            pygame.display.init()
            self._window = pygame.display.set_mode(turned.shape[:2])
        pygame.surfarray.blit_array(self._window, turned)
        pygame.display.flip()
        pygame.event.pump()
        return None

    def close(self) -> None:
        """Close the environment, and its window."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = None
        self.env.close()


def parallel_env(
    name: str, *, copy: bool = True, render_mode: str | None = None, seed: Any = None, **options: Any
) -> ParallelCopy:
    """Make a game as a parallel environment.

    Parameters
    ----------
    name : str
        One of :func:`fastenvs.games`.
    copy, render_mode
        As in :class:`ParallelCopy`.
    seed, **options
        As of :func:`fastenvs.make`.
    """
    env = fastenvs.make(name, 1, seed=seed, autoreset="disabled", **options)
    return ParallelCopy(env, copy=copy, render_mode=render_mode)


def _masked(tree: Any) -> Any:
    """The same observations, with the mask by PettingZoo's name and type."""
    if not isinstance(tree, dict) or "mask" not in tree:
        return tree
    return {name: array for name, array in tree.items() if name != "mask"} | {"action_mask": tree["mask"].view(np.int8)}


def _masked_space(space: Space) -> Space:
    if not isinstance(space, Dict) or "mask" not in space.spaces:
        return space
    parts = {name: part for name, part in space.items() if name != "mask"}
    return Dict({**parts, "action_mask": Box(0, 1, space["mask"].shape, np.int8)})
