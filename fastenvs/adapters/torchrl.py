"""An environment as one of TorchRL (extra ``torchrl``), with agents and designer as groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Space
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Bounded, Categorical, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from fastenvs.adapters import check_env
from fastenvs.vecenv import VecEnv


class TorchRLEnv(EnvBase):
    """N copies as a batched environment, ``batch_size = [N]``, on the CPU.

    ==================================  ==========================================================================
    entry                               what it holds
    ==================================  ==========================================================================
    ``agents, observation``             ``[N, A, ...]``, or a nested dict of these
    ``agents, action_mask``             bool ``[N, A, n_actions]``, where actions can be illegal
    ``agents, action``, ``reward``      int64 ``[N, A]``, float32 ``[N, A, 1]``
    ``designer, observation``           ``[N, ...]``, or a nested dict of these
    ``designer, action``                in GTB: choices of rates, int64 ``[N, B]``, with ``tax_mode="planner"``, rates,
                                        float64 ``[N, B]``, with ``"external"``
    ``designer, action_mask``           bool ``[N, B, 1 + R]``, with choices
    ``designer, reward``                ``[N, 1]``
    ``done, terminated, truncated``     bool ``[N, 1]``, those of the copy
    ==================================  ==========================================================================

    Masks also go into the specs of the actions, so that ``rand_action`` takes legal ones. Copies are reset by TorchRL,
    each when it ends. Actions are read where they lie.

    Parameters
    ----------
    env : VecEnv
        The copies, with ``autoreset="disabled"``; it is closed with this one.
    copy : bool
        Whether tensors are fresh. If not, they share memory with the environment, and the next step overwrites them:
        safe where every step is used up or copied before the next, which ``rollout`` does not do.
    """

    def __init__(self, env: VecEnv, *, copy: bool = True) -> None:
        check_env(env)
        if env.autoreset != "disabled":
            raise ValueError(f"TorchRL resets by itself: it needs autoreset='disabled', not {env.autoreset!r}")
        super().__init__(device="cpu", batch_size=[env.num_envs])
        self.env = env
        self._seed: int | None = None
        self._copies = copy and not env.copy
        self.group_map = {"agents": [f"agent_{i}" for i in range(env.n_agents)], "designer": ["designer"]}
        self._decide = _decider(env)
        n, a = env.num_envs, env.n_agents
        seen = env.single_observation_space
        self.observation_spec = Composite(
            agents=_group_spec(seen["agents"], n, True),
            designer=_group_spec(seen["designer"], n, self._choosing),
            shape=[n],
        )
        actions = {"agents": Composite(action=Categorical(env.n_actions, shape=(n, a)), shape=[n])}
        if self._decide is not None:
            brackets, choices = seen["designer"]["mask"].shape if self._choosing else (0, 0)
            spec = (
                Categorical(choices, shape=(n, brackets)) if self._choosing
                else Bounded(0.0, 1.0, (n, len(env.options.cutoffs)), dtype=torch.float64)  # type: ignore[attr-defined]
            )  # fmt: skip
            actions["designer"] = Composite(action=spec, shape=[n])
        self.action_spec = Composite(actions, shape=[n])
        welfare = torch.float64 if env.buffers.designer_reward.dtype == np.float64 else torch.float32
        self.reward_spec = Composite(
            agents=Composite(reward=Unbounded((n, a, 1)), shape=[n]),
            designer=Composite(reward=Unbounded((n, 1), dtype=welfare), shape=[n]),
            shape=[n],
        )
        flags = ("done", "terminated", "truncated")
        self.done_spec = Composite({name: Binary(1, (n, 1), dtype=torch.bool) for name in flags}, shape=[n])

    @property
    def _choosing(self) -> bool:
        """Whether the designer has choices, and so a mask of them."""
        return getattr(self._decide, "__name__", "") == "choose_rates"

    def _set_seed(self, seed: int | None) -> None:
        """Keep the seed for the next reset of all copies."""
        self._seed = seed

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        options = None
        if mask is not None and not mask.all():
            options = {"reset_mask": mask.reshape(-1).numpy()}
        seed = None
        if options is None:
            seed, self._seed = self._seed, None
        obs, _ = self.env.reset(seed=seed, options=options)
        return self._tensors(obs, self.env.buffers.terminated, self.env.buffers.truncated)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._decide is not None:
            self._decide(tensordict["designer", "action"].numpy())
        obs, rewards, terminated, truncated, info = self.env.step(tensordict["agents", "action"].numpy())
        out = self._tensors(obs, terminated, truncated)
        out["agents", "reward"] = self._tensor(rewards[..., None])
        out["designer", "reward"] = self._tensor(info["designer_reward"][:, None])
        return out

    def _tensors(self, obs: dict[str, Any], terminated: np.ndarray, truncated: np.ndarray) -> TensorDictBase:
        n = self.env.num_envs
        agents, designer = self._group(obs["agents"], True), self._group(obs["designer"], self._choosing)
        for group, seen in (("agents", agents), ("designer", designer)):
            if "action_mask" in seen:
                self.input_spec["full_action_spec", group, "action"].update_mask(seen["action_mask"])
        flags = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        shown = {name: self._tensor(flag[:, None]) for name, flag in flags.items()}
        return TensorDict({"agents": agents, "designer": designer, **shown}, batch_size=[n], device=self.device)

    def _group(self, seen: Any, masked: bool) -> dict[str, Any]:
        if not isinstance(seen, dict):
            return {"observation": self._tensor(seen)}
        out: dict[str, Any] = {"observation": {k: self._tensor(v) for k, v in seen.items() if k != "mask"}}
        if masked and "mask" in seen:
            out["action_mask"] = self._tensor(seen["mask"].view(np.bool_))
        return out

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy() if self._copies or not array.flags.writeable else array)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment."""
        super().close(raise_if_closed=raise_if_closed)
        self.env.close()


def _decider(env: Any) -> Any:
    """How the designer's actions are put into force, if it has any."""
    entries = {"planner": "choose_rates", "external": "set_rates"}
    mode = getattr(env.options, "tax_mode", None)
    return getattr(env, entries[mode]) if mode in entries else None


def _group_spec(space: Space, n: int, masked: bool) -> Composite:
    if not isinstance(space, Dict):
        return Composite(observation=_spec(space, n), shape=[n])
    parts = {name: _spec(part, n) for name, part in space.items() if name != "mask"}
    spec = Composite(observation=Composite(parts, shape=[n]), shape=[n])
    if masked and "mask" in space.spaces:
        shape = (n, *(space["mask"].shape or ()))
        spec["action_mask"] = Binary(shape[-1], shape, dtype=torch.bool)
    return spec


def _spec(space: Any, n: int) -> TensorSpec:
    assert isinstance(space, Box)
    shape, dtype = (n, *space.shape), torch.from_numpy(np.empty(0, space.dtype)).dtype
    if not np.isfinite(space.high).all():
        return Unbounded(shape, dtype=dtype)
    low, high = (torch.from_numpy(bound).expand(shape) for bound in (space.low, space.high))
    return Bounded(low, high, shape, dtype=dtype)
