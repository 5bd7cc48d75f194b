"""The vectorised environment that all games share.

A game subclasses :class:`VecEnv`, allocates its state, and supplies three hooks over a range of
environments ``[lo, hi)``, step, reset, observe, or one compiled call in their place. Buffers, validation, threads,
random streams, autoreset, snapshots and the Gymnasium-style interface are here, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastenvs import rng
from fastenvs.bound import bind, rebind
from fastenvs.checks import affordable, as_array, as_int, has_shape, normalise, outside, positive_int, shown
from fastenvs.draws import Draw, check_draws, refuse_unused
from fastenvs.guard import exclusive
from fastenvs.jit import wrapping_call
from fastenvs.render import AGENT_COLOURS
from fastenvs.snapshots import Snapshots, copy_tree, fresh_maker, iter_leaves, map_tree
from fastenvs.turns import SAME_STEP, Around, AutoresetMode, Offer, Turns, accept, after, before

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastenvs")
    return _pool


def _work(call: Callable[[int, int], int], chunks: list[tuple[int, int]]) -> int:
    total = 0
    for lo, hi in chunks:
        total += call(lo, hi)
    return total


def _drop_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child inherits the pool's object but not its threads
    os.register_at_fork(after_in_child=_drop_pool)


#: What a step returns: observations, rewards ``[N, A]``, terminated ``[N]``, truncated ``[N]``, info.
StepResult = tuple[dict[str, Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class Buffers(NamedTuple):
    """What a step reads and writes besides the state; allocated once, environment axis first."""

    actions: np.ndarray  # int32 [N, A]
    active: np.ndarray  # bool [N]: rows that take part in this step
    rewards: np.ndarray  # float32 [N, A]
    designer_reward: np.ndarray  # float32 or float64 [N]
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]


@dataclass(frozen=True)
class RunOptions:
    """Options that every game shares; see :class:`VecEnv`."""

    autoreset: AutoresetMode = "same_step"
    num_threads: int | None = None
    copy: bool = False

    def __post_init__(self) -> None:
        normalise(self)
        if self.num_threads is not None:
            positive_int("num_threads", self.num_threads)


#: Keywords of the constructors that are not options of a game.
SHARED_OPTIONS = ("seed", "autoreset", "num_threads", "copy")


class VecEnv(Snapshots):
    """N copies of one game, stepped together.

    Parameters
    ----------
    num_envs : int
        Number of copies, N.
    seed : int, sequence of int, or None
        Seed used by the first :meth:`reset` that is given none; see :func:`fastenvs.rng.make_streams`.
    autoreset : {"same_step", "next_step", "disabled"}
        What happens when an episode ends, as in Gymnasium's vector environments. ``same_step``: the copy is
        reset at once; the returned observation is the first of the new episode, and
        ``info["final_obs"]`` holds the last one of the old. ``next_step``: the next call resets the copy,
        ignores its action and returns reward 0. ``disabled``: the copy stays as it is, with its flags kept
        and rewards 0, until ``reset(options={"reset_mask": mask})``.
    num_threads : int, optional
        Threads that share a call; by default one per available core. Results do not depend on it.
    copy : bool
        Whether ``reset`` and ``step`` return fresh arrays. By default they return views of buffers that the
        next call overwrites; the dicts around them are fresh in any case.

    Notes
    -----
    Copies (``copy.copy``, ``copy.deepcopy``) and pickles go on exactly as the original would. Two threads may not be
    inside one environment at once: the second call is refused.

    Subclasses set ``name``, ``n_actions``, ``min_rows_per_thread`` and ``rows_per_chunk``, build ``self.options`` (a
    frozen dataclass), ``self.state`` (a NamedTuple of arrays) and ``self._obs`` (dict of arrays), call
    ``_offer_draws``, at last ``_bind``, and implement ``_state_bounds``, ``_check_state``, ``single_observation_space``
    and either ``_step``, ``_reset`` and ``_observe`` or ``_calls``.
    """

    name: ClassVar[str]
    #: Arrays of ``info`` that have one entry an agent, ``[N, A, ...]``.
    agent_info: ClassVar[tuple[str, ...]] = ()
    #: Colours of the agents in pictures, uint8 ``[n, 3]``; further agents repeat them.
    agent_colours: ClassVar[np.ndarray] = AGENT_COLOURS
    #: Below this many rows a thread costs more than it saves.
    min_rows_per_thread: ClassVar[int] = 1024
    #: A chunk goes through all components of a step while it is in cache.
    rows_per_chunk: ClassVar[int] = 4096

    def __init__(
        self,
        num_envs: int,
        n_agents: int,
        *,
        bytes_each: int = 0,
        seed: rng.Seed = None,
        designer_reward_dtype: type = np.float32,
        **shared: Any,
    ) -> None:
        super().__init__()
        self._num_envs = n = positive_int("num_envs", num_envs)
        self._n_agents = n_agents
        affordable(f"num_envs = {n:,} copies", n, bytes_each + 16 * n_agents + 64)
        run = RunOptions(**shared)
        self._autoreset = run.autoreset
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._num_threads = cores if run.num_threads is None else run.num_threads
        self._chunks = self._shares()
        self.copy = run.copy
        self.streams = rng.make_streams(seed, n)
        self._flags = np.zeros((2, n), np.bool_)
        self.buffers = Buffers(
            actions=np.zeros((n, n_agents), np.int32),
            active=np.ones(n, np.bool_),
            rewards=np.zeros((n, n_agents), np.float32),
            designer_reward=np.zeros(n, designer_reward_dtype),
            terminated=self._flags[0],
            truncated=self._flags[1],
        )
        self._wanted = np.zeros((n, n_agents), np.int64)  # actions, until they are accepted
        self._done = np.zeros(n, np.bool_)
        self._all = np.ones(n, np.bool_)
        self._draw_specs: dict[str, Draw] = {}
        self._drawn: dict[str, np.ndarray] = {}
        self._injected = True
        self._bound: Any = None  # the kernel of _calls_of
        self._started = False
        self._final_obs: dict[str, Any] = {}
        self._step_makes = ("step",) if self._autoreset == "disabled" else ("step", "reset")
        self._final_rows = np.zeros(n, np.bool_)  # rows of final_obs that hold something
        self._turns = Turns(
            mode=get_args(AutoresetMode).index(self._autoreset),
            done=self._done,
            fresh=np.zeros(n, np.bool_),
            seen=self.buffers.active if self._autoreset == "disabled" else self._all,
            # Flags decide how copies go on, so those that are handed out are not the ones that are read.
            shown=np.zeros((2, n), np.bool_),
        )

    def _bind(self) -> None:
        """Set up what is handed out: views, so that nobody can reshape a buffer; a game calls it at last."""
        if self.autoreset == "same_step":
            self._final_obs = map_tree(lambda array: np.zeros(array.shape, array.dtype), self._obs)
        b, view = self.buffers, np.ndarray.view
        info = map_tree(view, {"designer_reward": b.designer_reward, **self._step_info()})
        self._fresh_obs = fresh_maker(map_tree(view, self._obs))
        self._fresh_info = self._fresh_quiet_info = fresh_maker(info)
        if self._final_obs:
            info |= {"final_obs": map_tree(view, self._final_obs), "_final_obs": view(self._done)}
            # Where no copy ended there is nothing to clear: these zeros, which take no memory, are handed out.
            nothing = map_tree(lambda array: np.zeros(array.shape, array.dtype), self._final_obs)
            for _, array in iter_leaves(nothing):
                array.flags.writeable = False
            self._fresh_info, self._fresh_quiet_info = fresh_maker(info), fresh_maker({**info, "final_obs": nothing})
        self._shown_arrays = (view(b.rewards), *self._turns.shown)
        self._accept = bind(accept, Offer(self._wanted.reshape(-1), b.actions.reshape(-1), self.n_actions))

    @classmethod
    def _split(cls, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keywords that all games share, and those of this game."""
        shared = {name: options[name] for name in SHARED_OPTIONS if name in options}
        return shared, {name: value for name, value in options.items() if name not in shared}

    @property
    def num_envs(self) -> int:
        """Number of copies, N."""
        return self._num_envs

    @property
    def n_agents(self) -> int:
        """Number of agents of a copy, A."""
        return self._n_agents

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the actions are called, by their numbers."""
        return tuple(map(str, range(self.n_actions)))

    @property
    def autoreset(self) -> AutoresetMode:
        """What happens when an episode ends."""
        return self._autoreset

    @property
    def num_threads(self) -> int:
        """Most threads that share a call."""
        return self._num_threads

    @property
    def obs(self) -> dict[str, Any]:
        """Present observations: a fresh dict around the arrays that ``reset`` and ``step`` return."""
        return self._fresh_obs()

    @property
    def views(self) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.bool_], dict[str, Any]]:
        """Observations, rewards, flags ``[2, N]`` and ``info`` of the last step, in arrays that the next overwrites.

        They are the same arrays for as long as the environment lives, also where ``step`` returns copies.
        """
        return self._fresh_obs(), self._shown_arrays[0], self._turns.shown, self._fresh_info()

    # ------------------------------------------------------------------ hooks of a game

    def _step(self, lo: int, hi: int) -> None:
        """Advance the active rows of ``[lo, hi)``; inactive rows get reward 0 and keep their flags."""
        raise NotImplementedError

    def _reset(self, mask: np.ndarray, lo: int, hi: int) -> None:
        """Start a new episode in the rows of ``[lo, hi)`` where ``mask`` is set."""
        raise NotImplementedError

    def _observe(self, out: dict[str, Any], mask: np.ndarray, lo: int, hi: int) -> None:
        """Write the observations of the rows of ``[lo, hi)`` where ``mask`` is set to ``out``."""
        raise NotImplementedError

    def _calls(self) -> tuple[Callable[[int, int], int], Callable[[int, int], int]]:
        """Calls on ``[lo, hi)``, asked for again when the draws in place change: advance all rows, begin fresh ones.

        Both return in how many rows a step was followed by a reset. By default they are made of the hooks above.
        """
        turns, fresh = self._turns, self._turns.fresh
        around = Around(turns, self.buffers)
        open_, close = bind(before, around), bind(after, around)

        def advance(lo: int, hi: int) -> int:
            open_(lo, hi)
            self._step(lo, hi)
            n_fresh = close(lo, hi)
            if n_fresh:
                if turns.mode == SAME_STEP:
                    self._observe(self._final_obs, fresh, lo, hi)
                self._keep_finished(fresh, lo, hi)
                self._reset(fresh, lo, hi)
                if turns.mode != SAME_STEP:
                    self._restate(fresh, lo, hi)
            self._observe(self._obs, turns.seen, lo, hi)
            return n_fresh

        def begin(lo: int, hi: int) -> int:
            over = self._done & fresh
            if over[lo:hi].any():
                self._keep_finished(over, lo, hi)
            self._reset(fresh, lo, hi)
            self._observe(self._obs, fresh, lo, hi)
            return 0

        return advance, begin

    def _calls_of(self, play: Callable[..., int], game: Any) -> tuple[Any, Any]:
        """What :meth:`_calls` returns where one kernel plays the game: it steps, or without ``game.steps`` begins."""
        self._bound = self._bound or bind(play, game)
        return rebind(self._bound, game), rebind(self._bound, game._replace(steps=False))

    def _clear_final(self) -> None:
        """Clear rows that hold last observations of an earlier step; called when some row ended."""
        rows = np.flatnonzero(self._final_rows & ~self._done)
        if rows.size:
            for _, array in iter_leaves(self._final_obs):
                array[rows] = 0
        np.copyto(self._final_rows, self._done)

    def _keep_finished(self, mask: np.ndarray, lo: int, hi: int) -> None:
        """Keep what is asked for later of episodes that ended, before they are reset (by default nothing)."""

    def _restate(self, mask: np.ndarray, lo: int, hi: int) -> None:
        """Bring the arrays of ``info`` to a new episode, in a call that resets copies and steps them not."""

    def _prepare(self) -> None:
        """Do what precedes a step of all rows."""

    def _finish(self) -> None:
        """Do what follows a step of all rows."""

    def _step_info(self) -> dict[str, Any]:
        """Further arrays of ``info``, buffers that every step fills (empty by default)."""
        return {}

    @property
    def single_observation_space(self):
        """Observation space of one copy: ``Dict(agents=..., designer=...)``."""
        raise NotImplementedError

    # ------------------------------------------------------------------ spaces

    @cached_property
    def single_action_space(self):
        """Joint action space of one copy, ``MultiDiscrete([n_actions] * A)``."""
        from gymnasium.spaces import MultiDiscrete

        return MultiDiscrete(np.full(self.n_agents, self.n_actions))

    @cached_property
    def agent_action_space(self):
        """Action space of one agent, ``Discrete(n_actions)``."""
        from gymnasium.spaces import Discrete

        return Discrete(self.n_actions)

    @cached_property
    def agent_observation_space(self):
        """Observation space of one agent, the same for all: ``obs["agents"]`` without its first two axes."""
        from gymnasium.spaces import Box, Dict

        def one(space):
            if isinstance(space, Dict):
                return Dict({name: one(part) for name, part in space.items()})
            return Box(space.low[0], space.high[0], space.shape[1:], space.dtype)

        return one(self.single_observation_space["agents"])

    @cached_property
    def action_space(self):
        """Action space of all copies, shape ``[N, A]``."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_action_space, self.num_envs)

    @cached_property
    def observation_space(self):
        """Observation space of all copies."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_observation_space, self.num_envs)

    @property
    def designer_space(self):
        """Observation space of one copy's designer."""
        return self.single_observation_space["designer"]

    # ------------------------------------------------------------------ reset and step

    @exclusive
    def reset(
        self, *, seed: rng.Seed = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start new episodes.

        Parameters
        ----------
        seed : int, sequence of int, or None
            Rekeys the random streams; ``None`` lets them go on.
        options : mapping, optional
            ``reset_mask``: bool ``[N]``, the copies to reset (default: all; not together with ``seed``).
            ``draws``: random draws handed in, see :attr:`draw_shapes`.

        Returns
        -------
        obs : dict
            ``agents``: ``[N, A, ...]``; ``designer``: ``[N, ...]``.
        info : dict
        """
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f"options of reset must be a mapping, got {shown(options)}")
        options = dict(options or {})
        mask = self._reset_mask(options.pop("reset_mask", None))
        draws = options.pop("draws", None)
        if options:
            raise ValueError(f"unknown reset option: {', '.join(sorted(map(str, options)))}")
        if mask is not self._all:
            if seed is not None:
                raise ValueError("a seed rekeys every copy: it cannot be combined with reset_mask")
            if not self._started and not mask.all():
                raise RuntimeError("the first reset must reset every copy")
        streams = None if seed is None else rng.make_streams(seed, self.num_envs)
        checked = self._checked_draws(draws, "reset")
        if streams is not None:
            for mine, new in zip(self.streams, streams, strict=True):
                mine[:] = new
        self._inject(checked)
        np.copyto(self._turns.fresh, mask)
        self._run(self._begin)
        self.buffers.terminated[mask] = False
        self.buffers.truncated[mask] = False
        self._done[mask] = False
        self._started = True
        self._show_flags()
        obs = self._fresh_obs()
        return copy_tree(obs) if self.copy else obs, {}

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return self._all
        try:  # a copy: the mask may be an array that this call changes
            mask = np.array(mask, order="C")
        except ValueError:
            raise ValueError(f"reset_mask must be bool [{self.num_envs}], got {shown(mask)}") from None
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must be bool [{self.num_envs}], got {mask.dtype} {list(mask.shape)}")
        return mask

    @exclusive
    def step(self, actions: ArrayLike, *, draws: Mapping[str, Any] | None = None) -> StepResult:
        """Advance every copy by one step.

        Parameters
        ----------
        actions : array of int, ``[N, A]``
            Each in ``0 .. n_actions-1``. Refused before anything changes if not.
        draws : mapping of str to array, optional
            Random draws handed in, see :attr:`draw_shapes`.

        Returns
        -------
        obs : dict
            ``agents``: ``[N, A, ...]``; ``designer``: ``[N, ...]``.
        rewards : float32 ``[N, A]``
        terminated, truncated : bool ``[N]``
            Episode over by the rules; cut off by the step limit.
        info : dict
            ``designer_reward`` ``[N]``, the game's own arrays, and with ``same_step`` ``final_obs``: zero where
            ``_final_obs`` is not set, and read-only if it nowhere is. With ``next_step`` the arrays of a copy that this
            call resets are of the new episode.
        """
        if not self._started:
            raise RuntimeError("call reset() before the first step()")
        wanted = as_array("actions", actions, "iu", "integers")
        has_shape("actions", wanted, self._wanted.shape)
        injected = self._checked_draws(draws, *self._step_makes)
        self._wanted[...] = wanted
        if not self._accept(0, self._wanted.size):
            raise outside(wanted, 0, self.n_actions - 1, "action {value} of agent {1} in environment {0}")
        self._inject(injected)
        self._prepare()
        ended = self._run(self._advance)
        if ended and self._final_obs:
            self._clear_final()
        self._finish()
        info = self._fresh_info() if ended else self._fresh_quiet_info()
        result = (self._fresh_obs(), *self._shown_arrays, info)
        return copy_tree(result) if self.copy else result

    def _show_flags(self) -> None:
        np.copyto(self._turns.shown, self._flags)

    # ------------------------------------------------------------------ threads

    def _shares(self) -> list[list[tuple[int, int]]]:
        """All rows as chunks ``(lo, hi)``, one list of contiguous ones a thread."""
        n, each = self.num_envs, self.rows_per_chunk
        threads = max(1, min(self.num_threads, n // self.min_rows_per_thread))
        bounds = [n * t // threads for t in range(threads + 1)]
        return [
            [(lo, min(lo + each, last)) for lo in range(first, last, each)]
            for first, last in zip(bounds[:-1], bounds[1:], strict=True)
        ]

    def _run(self, call: Callable[[int, int], int]) -> int:
        """Sum of ``call(lo, hi)`` over all rows."""
        mine, *others = self._chunks
        if not others:
            return _work(call, mine)
        pool = _threads()
        futures = [pool.submit(_work, call, chunks) for chunks in others]
        try:
            total = _work(call, mine)
        finally:  # whatever happened here, nothing may still be running when the call ends
            wait(futures)
        return total + sum(future.result() for future in futures)

    # ------------------------------------------------------------------ validation

    def _copy_index(self, env: Any) -> int:
        """Number of a copy, from 0 up."""
        return as_int("env", env, 0, self.num_envs - 1)

    @property
    def draw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Random draws that can be handed to ``reset`` and ``step`` with these options, and their shapes."""
        specs = self._draw_specs.items()
        return {name: (self.num_envs, *spec.shape) for name, spec in specs if not spec.unused}

    def _offer_draws(self, **specs: Draw) -> None:
        """Declare the draws that can be handed in.

        A kernel is given ``self._drawn[name]``, which has no rows while nothing is handed in.
        """
        self._draw_specs |= specs
        self._place({})

    def _check_draws(self, draws: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        """Checked draws; a game adds checks of its own."""
        return check_draws(self.name, self._draw_specs, self.num_envs, draws)

    def _checked_draws(self, draws: Mapping[str, Any] | None, *doing: str) -> dict[str, np.ndarray]:
        if draws is None:
            return {}
        checked = self._check_draws(draws)
        refuse_unused(self._draw_specs, checked, doing)
        return checked

    def _place(self, draws: Mapping[str, np.ndarray]) -> None:
        specs = self._draw_specs.items()
        empty: dict[str, np.ndarray] = {name: np.empty((0, *spec.shape), spec.dtype) for name, spec in specs}
        self._drawn = {**empty, **draws}

    def _inject(self, draws: Mapping[str, np.ndarray]) -> None:
        """Put the draws of this call in place; what was not handed in is drawn natively."""
        if draws or self._injected:
            self._place(draws)
            self._injected = bool(draws)
            self._advance, self._begin = map(wrapping_call, self._calls())
