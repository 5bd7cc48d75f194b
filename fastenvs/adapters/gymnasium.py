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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import fastenvs
from fastenvs.adapters import check_env
from fastenvs.bound import bind
from fastenvs.checks import has_shape, positive_int
from fastenvs.jit import kernel
from fastenvs.snapshots import copy_tree, map_tree
from fastenvs.vecenv import VecEnv

_MODES = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
    "disabled": AutoresetMode.DISABLED,
}


class Infos(dict):
    """Info whose ``final_obs`` is made when it is first looked at: Gymnasium's array of one object an entry.

    With ``copy=False`` it has to be looked at before the next call.
    """

    def put_final(self, obs: Any, rows: np.ndarray) -> None:
        """Offer the last observations ``obs`` of the entries that ``rows`` marks."""
        self._obs, self._rows = obs, rows
        self["final_obs"] = None

    def _make(self) -> None:
        if "final_obs" in self and super().__getitem__("final_obs") is None:
            made = np.full(len(self._rows), None, object)
            for i in np.flatnonzero(self._rows):
                made[i] = map_tree(lambda array: array[i], self._obs)  # noqa: B023
            self["final_obs"] = made

    def __getitem__(self, key: str) -> Any:
        if key == "final_obs":
            self._make()
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:  # being there, it makes dict() and ** ask for every value
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        """Value of a key, or ``default``."""
        self._make()
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:  # type: ignore[override]
        """Value of a key, which goes."""
        self._make()
        return super().pop(key, *default)

    def values(self) -> Any:
        """Values of all keys."""
        self._make()
        return super().values()

    def items(self) -> Any:
        """Keys with their values."""
        self._make()
        return super().items()

    def copy(self) -> dict:
        """Return a plain dict of the same."""
        self._make()
        return super().copy()


_ONES = np.uint64(0x0101010101010101)


#: Observations, rewards, flags ``[2, N]``, ``info`` and last observations, as a view shows them.
_Seen = tuple[Any, Any, np.ndarray, dict, Any]


class Flags(NamedTuple):
    """Flags of N copies, and of all their entries."""

    terminated: np.ndarray  # uint8 [N]
    truncated: np.ndarray  # uint8 [N]
    each: np.ndarray  # uint8 [4, entries]: terminated, truncated, over, going on
    words: np.ndarray  # uint64 [2, N, W]: the first two of these, of a copy eight a word; its last word ends behind it


@kernel
def spread(flags, lo, hi):
    """Write the flags of all entries, and return how many are over; last words go first, to be overwritten.

    Flags are numbers here: of truth values the compiler makes branches, which nobody can predict.
    """
    for w in range(flags.words.shape[2] - 1, -1, -1):
        for e in range(lo, hi):
            flags.words[0, e, w] = _ONES * np.uint64(flags.terminated[e])
            flags.words[1, e, w] = _ONES * np.uint64(flags.truncated[e])
    each, n_over = flags.each, np.int64(0)
    for k in range(np.uint64(each.shape[1])):
        over = each[0, k] | each[1, k]
        each[2, k] = over
        each[3, k] = over ^ 1
        n_over += np.int64(over)
    return n_over


class _View(VectorEnv):
    """What the three views share: seeds, autoreset, ``info``, pictures, the end."""

    #: What :meth:`_bind` makes; copies and pickles make it anew.
    _BOUND = ("_everywhere", "_ended", "_flags", "_shown", "_spread")

    def __init__(
        self, env: VecEnv, entries: int, seen: Space, done: Space, copy: bool, mode: str, render_mode: str | None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.env, self.num_envs, self.render_mode = env, env.num_envs * entries, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 5, "autoreset_mode": _MODES[mode]}
        self.single_observation_space, self.single_action_space = seen, done
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in (seen, done))
        self._mode, self._entries = mode, entries
        self._copy, self._own = copy, copy_tree if copy else _same
        self._over = np.zeros(self.num_envs, np.bool_)
        self._bind()

    def _bind(self) -> None:
        """Make what refers to the environment's arrays: they stay the same ones, so a step need not look at them."""
        obs, rewards, self._ended, info, final = self._look(*self.env.views)
        self._shown = obs, rewards, info, final
        self._everywhere = np.ones(self.num_envs, np.bool_)
        self._everywhere.flags.writeable = False
        room, entries = np.zeros((4, self.num_envs + 8), np.uint8), self._entries
        each = room[:, : self.num_envs]
        self._flags = each.view(np.bool_) if self._copy else tuple(each.view(np.bool_))
        shape, strides = (2, self.env.num_envs, -(-entries // 8)), (room.strides[0], entries, 8)
        words: np.ndarray = np.ndarray(shape, np.uint64, room.data, 0, strides)
        terminated, truncated = self._ended.view(np.uint8)
        self._spread = bind(spread, Flags(terminated, truncated, each, words))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._BOUND}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved)
        self._bind()

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> _Seen:
        """What of the environment's arrays this view shows."""
        raise NotImplementedError

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Parameters
        ----------
        seed : int, sequence of int, or None
            One seed a copy, or the first of consecutive ones.
        options : mapping, optional
            As of :meth:`fastenvs.vecenv.VecEnv.reset`; ``reset_mask`` is bool ``[num_envs]`` and the same for all
            agents of a copy.
        """
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.env.num_envs)
        given, mask = dict(options or {}), self._everywhere
        if given.get("reset_mask") is not None:
            mask = np.asarray(given["reset_mask"])
            has_shape("reset_mask", mask, (self.num_envs,))
            copies = mask.reshape(-1, self._entries)
            if (copies != copies[:, :1]).any():
                raise ValueError("reset_mask must be the same for all agents of a copy: they start together")
            given["reset_mask"] = copies[:, 0]
        _, info = self.env.reset(seed=seed, options=given)
        self._over = self._over & ~mask
        return _around(self._own(self._shown[0])), info

    def _result(
        self, obs: Any, rewards: np.ndarray, info: dict, final: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """A step's five results, in arrays that need not be fresh."""
        n_over = self._spread(0, self.env.num_envs)
        terminated, truncated, over, going = self._own(self._flags)
        shown, held, info = Infos(), self._everywhere, self._own(info)
        if self._mode == "next_step":
            held, self._over = ~self._over, over.copy()
        elif self._mode == "disabled":
            self._over = over.copy()
        elif n_over:
            held = going
            shown.update(final_info=_masked(info, over), _final_info=over, _final_obs=over)
            shown.put_final(self._own(final), over)
        shown.update(_masked(info, held))
        return _around(self._own(obs)), self._own(rewards), terminated, truncated, shown

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture an entry; agents of a copy share theirs."""
        if self.render_mode is None:
            return None
        pictures: list[np.ndarray] = [self.env.render(e) for e in range(self.env.num_envs)]  # type: ignore[attr-defined]
        return tuple(picture for picture in pictures for _ in range(self._entries))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()


class VectorAgents(_View):
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

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> _Seen:
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


class VectorTeam(_View):
    """Every copy as an environment, whose agents one mind moves for the designer's reward.

    Observations are those of the copy, ``Dict(agents=..., designer=...)``, actions ``MultiDiscrete([n_actions] * A)``,
    and ``info`` has all arrays of the game. Parameters are those of :class:`VectorAgents`.
    """

    def __init__(self, env: VecEnv, *, copy: bool = True, render_mode: str | None = None) -> None:
        check_env(env)
        seen, acts = env.single_observation_space, env.single_action_space
        super().__init__(env, 1, seen, acts, copy, env.autoreset, render_mode)

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> _Seen:
        info.pop("_final_obs", None)
        return obs, info.pop("designer_reward"), ended, info, info.pop("final_obs", None)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every copy by one step, with actions int ``[N, A]``."""
        self.env.step(actions)
        return self._result(*self._shown)


class VectorDesigner(_View):
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
        if autoreset not in _MODES:
            raise ValueError(f"autoreset must be one of {', '.join(_MODES)}, got {autoreset!r}")
        self._announce, self._steps, acts = _decisions(env, per_decision, most)
        super().__init__(env, 1, env.designer_space, acts, copy, autoreset, render_mode)
        self._policy, self._told = policy, told

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> _Seen:
        return obs["designer"], None, np.zeros_like(ended), info, None

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Announce a decision for every copy and let the agents act until the next one."""
        before, rewards = self._over, np.zeros(self.num_envs)
        terminated, truncated, info = self._play(np.asarray(actions), rewards)
        seen, final, over = self._shown[0], None, terminated | truncated
        fresh = {"same_step": over, "next_step": before, "disabled": ~self._everywhere}[self._mode]
        if fresh.any():
            final, info = copy_tree(seen), copy_tree(info)
            kept = self._everywhere if self._mode == "same_step" else ~fresh
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


def _masked(info: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Arrays of ``info``, each with the mask of the entries that it holds for."""
    out = {}
    for name, array in info.items():
        out[name], out["_" + name] = array, rows
    return out


def _same(tree: Any) -> Any:
    return tree


def _around(obs: Any) -> Any:
    """Observations in dicts that are the caller's."""
    return {name: _around(part) for name, part in obs.items()} if isinstance(obs, dict) else obs


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
