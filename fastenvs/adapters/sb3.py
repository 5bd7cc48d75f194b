"""Agents of all copies as a vector environment of Stable-Baselines3 (extra ``sb3``), and a network for small maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict, Space
from gymnasium.spaces.utils import flatdim
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv as VectorBase
from torch import nn

from fastenvs.adapters import check_env
from fastenvs.adapters.gymnasium import VectorAgents
from fastenvs.vecenv import VecEnv


class VecAgents(VectorBase):
    """Every agent of every copy as an environment of its own; one policy learns for all.

    ``action_masks()`` is what MaskablePPO asks for. Arrays are always fresh: Stable-Baselines3 reads the last
    observations after the next step.

    Parameters
    ----------
    env : VecEnv
        The copies, with ``autoreset="same_step"``; it is closed with this one.
    render_mode : {None, "rgb_array"}
        Whether pictures are made.
    """

    def __init__(self, env: VecEnv, *, render_mode: str | None = None) -> None:
        check_env(env)
        if env.autoreset != "same_step":
            raise ValueError(f"Stable-Baselines3 needs autoreset='same_step', this environment has {env.autoreset!r}")
        self.view = VectorAgents(env, render_mode=render_mode)
        super().__init__(self.view.num_envs, env.agent_observation_space, env.agent_action_space)

    def reset(self) -> Any:
        """Start new episodes, with the seed that was given last."""
        obs, _ = self.view.reset(seed=self._seeds[0], options=self._options[0])
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Take the step."""
        obs, rewards, terminated, truncated, info = self.view.step(self._actions)
        over = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(over)
        final = info["final_obs"] if len(ended) else ()
        for i in ended:
            infos[i] = {"terminal_observation": final[i], "TimeLimit.truncated": bool(truncated[i])}
        return obs, rewards, over, infos

    def action_masks(self) -> np.ndarray:
        """Which actions are legal now, bool ``[N * A, n_actions]``; all are where the game has no masks."""
        seen = self.view.env.obs["agents"]
        shape = (self.num_envs, self.view.env.agent_action_space.n)
        masked = isinstance(seen, dict) and "mask" in seen
        return seen["mask"].reshape(shape).astype(bool) if masked else np.ones(shape, bool)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Value of an attribute, the same for all agents."""
        for source in (self.view, self.view.env, self):
            if hasattr(source, attr_name):
                return [getattr(source, attr_name)] * len(list(self._get_indices(indices)))
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: agents share one environment."""
        raise AttributeError(f"agents share one environment: set {attr_name!r} there")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Masks of the agents; other methods are those of the one environment."""
        if method_name != "action_masks":
            raise AttributeError(f"agents share one environment: call {method_name!r} there")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No agent is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Pictures of the copies, one an agent."""
        return self.view.render() or [None] * self.num_envs

    def close(self) -> None:
        """Close the environment."""
        self.view.close()


class MapExtractor(BaseFeaturesExtractor):
    """Features of small maps by two convolutions, beside vectors as they are; masks are left out.

    Stable-Baselines3's own network for pictures asks for 36 x 36 pixels or more. Pass this one as
    ``policy_kwargs={"features_extractor_class": MapExtractor}``.

    Parameters
    ----------
    observation_space : Space
        A map ``[height, width, channels]``, a vector, or a dict of these.
    map_features, channels : int
        Features made of the maps, and channels of the convolutions.
    """

    def __init__(self, observation_space: Space, map_features: int = 128, channels: int = 32) -> None:
        spaces = dict(observation_space.items()) if isinstance(observation_space, Dict) else {"": observation_space}
        spaces.pop("mask", None)
        maps = {name: space for name, space in spaces.items() if len(space.shape or ()) == 3}
        width = sum(map_features if name in maps else flatdim(space) for name, space in spaces.items())
        super().__init__(observation_space, width)
        # Stable-Baselines3 puts the channels of what it takes for pictures first, of nothing else.
        self._turned = {name for name, space in maps.items() if is_image_space(space)}
        self._names = list(spaces)
        self.maps = nn.ModuleDict(
            {name or "map": self._network(space, name in self._turned, map_features, channels)
             for name, space in maps.items()}
        )  # fmt: skip

    @staticmethod
    def _network(space: Any, turned: bool, features: int, channels: int) -> nn.Module:
        depth, *sides = space.shape if turned else (space.shape[-1], *space.shape[:-1])
        return nn.Sequential(
            nn.Conv2d(depth, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(), nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], features), nn.ReLU(),
        )  # fmt: skip

    def forward(self, observations: Any) -> torch.Tensor:
        """Features of a batch, ``[batch, features]``."""
        parts = []
        for name in self._names:
            x = observations[name] if name else observations
            if (name or "map") in self.maps:
                x = self.maps[name or "map"](x if name in self._turned else x.permute(0, 3, 1, 2))
            parts.append(x.flatten(1))
        return torch.cat(parts, 1)
