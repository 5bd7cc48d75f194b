"""Environments as Gymnasium's vector environments, seen from three sides.

:class:`VectorAgents` has one entry an agent, :class:`VectorTeam` one a copy, whose agents act together, and
:class:`VectorDesigner` one a copy, whose designer acts while the agents follow a policy. Importing this module
registers ids for :func:`gymnasium.make_vec`: ``fastenvs/EscapeRoom-v0``, ``fastenvs/Cleanup-v0``,
``fastenvs/GTB-v0`` and ``fastenvs/OneStepEconomy-v0`` are teams, the same with ``-agents`` or ``-designer`` before the
version are the others.

As in :class:`gymnasium.vector.SyncVectorEnv`, a seed ``s`` resets copy ``i`` as one copy alone is reset by ``s + i``,
and every array of ``info`` has a mask of the entries that it holds for. Results equal those of ``SyncVectorEnv`` over
single copies in all three autoreset modes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv

import fastenvs
from fastenvs.adapters import check_env
from fastenvs.adapters.view import MODES, Seen, View
from fastenvs.checks import has_shape, positive_int
from fastenvs.snapshots import copy_tree, map_tree
from fastenvs.vecenv import VecEnv


class VectorAgents(View):
    """Every agent of every copy as an environment of its own, ``num_envs = N * A``: agent i of copy e is ``e * A + i``.

    An agent sees ``obs["agents"]`` and gets its own reward; agents of a copy end together. ``info`` has the arrays of
    the game that have one entry an agent. A policy that all agents share is thus trained as in any single-agent script.

    Parameters
    ----------
    env : VecEnv
        The copies; it is closed with the view.
    copy : bool
        Whether ``reset`` and ``step`` return fresh arrays; if not, the next call overwrites them.
    render_mode : {None, "rgb_array"}
        Whether :meth:`render` makes pictures.
    """

    def __init__(self, env: VecEnv, *, copy: bool = True, render_mode: str | None = None) -> None:
        check_env(env)
        seen, acts = env.agent_observation_space, env.agent_action_space
        super().__init__(env, env.n_agents, seen, acts, copy, env.autoreset, render_mode)

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> Seen:
        own = {name: info[name] for name in self.env.agent_info}
        final = info["final_obs"]["agents"] if "final_obs" in info else ()
        obs, rewards, own, final = map_tree(_fold, (obs["agents"], rewards, own, final))
        return obs, rewards, ended, own, final

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every copy by one step, with actions int ``[N * A]``."""
        actions = np.asarray(actions)
        has_shape("actions", actions, (self.num_envs,))
        self.env.step(actions.reshape(self.env.num_envs, -1))
        return self._result(*self._shown)


class VectorTeam(View):
    """Every copy as an environment, whose agents one mind moves for the designer's reward.

    Observations are those of the copy, ``Dict(agents=..., designer=...)``, actions ``MultiDiscrete([n_actions] * A)``,
    and ``info`` has all arrays of the game. Parameters are those of :class:`VectorAgents`.
    """

    def __init__(self, env: VecEnv, *, copy: bool = True, render_mode: str | None = None) -> None:
        check_env(env)
        seen, acts = env.single_observation_space, env.single_action_space
        super().__init__(env, 1, seen, acts, copy, env.autoreset, render_mode)

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> Seen:
        info.pop("_final_obs", None)
        return obs, info.pop("designer_reward"), ended, info, info.pop("final_obs", None)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every copy by one step, with actions int ``[N, A]``."""
        self.env.step(actions)
        return self._result(*self._shown)


class VectorDesigner(View):
    """Every copy as an environment, whose designer acts, while the agents follow a policy: one step is one decision.

    In the economies a decision holds for a tax period: with ``tax_mode="planner"`` it is a choice of rates,
    ``MultiDiscrete([1 + R] * B)``, with ``"external"`` it is the rates, ``Box [B]``. In the other games it is what
    every agent is paid for its next deed, ``Box [A, types]``: for each of Cleanup's action types, or each action of the
    Escape Room. The reward of a step is the designer's, less what was paid, summed over the decision.

    Parameters
    ----------
    env : VecEnv
        The copies, with ``autoreset="disabled"``; it is closed with the view.
    policy : callable
        ``policy(obs, decision)`` returns the agents' actions ``[N, A]``; ``obs`` is that of the environment.
    told : callable, optional
        ``told(rewards, terminated, truncated)`` is called after every step of the agents, with rewards ``[N, A]`` that
        include what was paid, so that agents can learn.
    per_decision : int, optional
        Steps of the agents to a decision, where no tax period says it; 1 by default.
    most : float
        Largest payment for one deed.
    autoreset : {"same_step", "next_step", "disabled"}
        What happens when an episode ends.
    copy, render_mode
        As in :class:`VectorAgents`.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: Callable[[dict[str, Any], np.ndarray], Any],
        *,
        told: Callable[[np.ndarray, np.ndarray, np.ndarray], Any] | None = None,
        per_decision: int | None = None,
        most: float = 3.0,
        autoreset: str = "same_step",
        copy: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_env(env)
        if env.autoreset != "disabled":
            raise ValueError(f"a designer's environment needs autoreset='disabled', this one has {env.autoreset!r}")
        if autoreset not in MODES:
            raise ValueError(f"autoreset must be one of {', '.join(MODES)}, got {autoreset!r}")
        self._announce, self._steps, acts = _decisions(env, per_decision, most)
        super().__init__(env, 1, env.designer_space, acts, copy, autoreset, render_mode)
        self._policy, self._told = policy, told

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> Seen:
        return obs["designer"], None, np.zeros_like(ended), info, None

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Announce a decision for every copy and let the agents act until the next one."""
        before, rewards = self._over, np.zeros(self.num_envs)
        terminated, truncated, info = self._play(np.asarray(actions), rewards)
        seen, final, over = self._shown[0], None, terminated | truncated
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        fresh = over if same_step else before & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        if fresh.any():
            final, info = copy_tree(seen), copy_tree(info)
            kept = self._everywhere if same_step else ~fresh
            terminated, truncated = terminated & kept, truncated & kept
            self.env.reset(options={"reset_mask": fresh})
        self._ended[:] = terminated, truncated
        return self._result(seen, rewards, info, final)

    def _play(self, decision: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict]:
        """Play the steps of one decision, adding to ``rewards``; copies whose episode is over stay as they are."""
        offered, over = self._announce(decision), self._over
        for _ in range(self._steps):
            acts = np.asarray(self._policy(self.env.obs, decision))
            _, earned, terminated, truncated, info = self.env.step(acts)
            rewards += info.pop("designer_reward")
            if offered is not None:
                deeds = info.get("action_type", acts)
                paid = np.take_along_axis(offered, deeds[..., None], 2)[..., 0] * ~over[:, None]
                rewards -= paid.sum(1)
                earned = earned + paid
            if self._told is not None:
                self._told(earned, terminated, truncated)
            over = terminated | truncated
            if over.all():
                break
        return terminated, truncated, info


def _decisions(
    env: Any, per_decision: int | None, most: float
) -> tuple[Callable[[np.ndarray], np.ndarray | None], int, Space]:
    """How a decision is announced (it returns the payments offered, if any), its steps, and its space."""
    if not hasattr(env, "set_rates"):
        types = 3 if "action_type" in env.agent_info else env.n_actions
        space = Box(0, most, (env.n_agents, types), np.float32)
        offer = functools.partial(_offer, (env.num_envs, *space.shape))
        return offer, positive_int("per_decision", 1 if per_decision is None else per_decision), space
    mode = env.options.tax_mode
    if per_decision is not None:
        raise ValueError("a decision in an economy holds for a tax period: leave per_decision out")
    if mode not in ("planner", "external"):
        raise ValueError(f"with tax_mode {mode!r} there is nothing to decide: take 'planner' or 'external'")
    n_brackets = len(env.options.cutoffs)
    if mode == "external":
        return env.set_rates, env.options.tax_period, Box(0, 1, (n_brackets,), np.float64)
    choices = 1 + len(env.options.rate_choices)
    return env.choose_rates, env.options.tax_period, MultiDiscrete(np.full(n_brackets, choices))


def _offer(shape: tuple[int, ...], decision: np.ndarray) -> np.ndarray:
    has_shape("decisions", decision, shape)
    return decision


def _fold(array: np.ndarray) -> np.ndarray:
    """View of ``[N, A, ...]`` as ``[N * A, ...]``."""
    return array.reshape(-1, *array.shape[2:])


class Single(gymnasium.Env):
    """The one copy of a view as a plain environment, as :func:`gymnasium.make` returns it.

    Parameters
    ----------
    view : VectorTeam or VectorDesigner
        A view of one copy, with ``autoreset="disabled"``.
    """

    def __init__(self, view: VectorEnv) -> None:
        if view.num_envs != 1 or view.metadata["autoreset_mode"] is not AutoresetMode.DISABLED:
            raise ValueError("a single environment is one copy with autoreset='disabled'")
        self.view, self.render_mode = view, view.render_mode
        self.metadata = {name: value for name, value in view.metadata.items() if name != "autoreset_mode"}
        self.observation_space, self.action_space = view.single_observation_space, view.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode."""
        super().reset(seed=seed)
        obs, _ = self.view.reset(seed=seed, options=options)
        return map_tree(_first, obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        obs, rewards, terminated, truncated, infos = self.view.step(np.asarray(action)[None])
        info = {name: _first(values) for name, values in infos.items() if not name.startswith("_")}
        return map_tree(_first, obs), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """Picture of the copy."""
        pictures = self.view.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Close the environment."""
        self.view.close()


def _first(array: np.ndarray) -> Any:
    return array[0]


# ---------------------------------------------------------------------- ids


def make_agents(game: str, num_envs: int, *, copy: bool = True, render_mode: str | None = None, **options: Any):
    """Make :class:`VectorAgents` of a game; ``num_envs`` counts agents, a multiple of those of a copy."""
    each = fastenvs.make(game, 1, **options).n_agents
    copies, rest = divmod(num_envs, each)
    if rest or not copies:
        raise ValueError(f"num_envs counts agents: it must be a multiple of {each}, got {num_envs}")
    return VectorAgents(fastenvs.make(game, copies, **options), copy=copy, render_mode=render_mode)


def make_team(game: str, num_envs: int, *, copy: bool = True, render_mode: str | None = None, **options: Any):
    """Make :class:`VectorTeam` of ``num_envs`` copies of a game."""
    return VectorTeam(fastenvs.make(game, num_envs, **options), copy=copy, render_mode=render_mode)


def make_designer(
    game: str,
    num_envs: int,
    *,
    policy: Callable[[dict[str, Any], np.ndarray], Any],
    autoreset: str = "same_step",
    **options: Any,
):
    """Make :class:`VectorDesigner` of ``num_envs`` copies of a game, with parameters of either."""
    mine = {
        name: options.pop(name) for name in ("told", "per_decision", "most", "copy", "render_mode") if name in options
    }
    return VectorDesigner(
        fastenvs.make(game, num_envs, autoreset="disabled", **options), policy, autoreset=autoreset, **mine
    )


def make_single(make: Callable[..., VectorEnv], **options: Any) -> Single:
    """Make one copy as a plain environment, by :func:`make_team` or :func:`make_designer`."""
    return Single(make(num_envs=1, autoreset="disabled", **options))


def _register() -> None:
    here = __name__
    titles = {
        "escape_room": "EscapeRoom", "cleanup": "Cleanup", "gtb": "GTB", "one_step_economy": "OneStepEconomy",
    }  # fmt: skip
    for game, title in titles.items():
        gymnasium.register(
            f"fastenvs/{title}-agents-v0", vector_entry_point=f"{here}:make_agents", kwargs={"game": game}
        )
        for suffix, make in (("", make_team), ("-designer", make_designer)):
            gymnasium.register(
                f"fastenvs/{title}{suffix}-v0",
                entry_point=functools.partial(make_single, make),
                vector_entry_point=f"{here}:{make.__name__}",
                kwargs={"game": game},
            )


_register()
