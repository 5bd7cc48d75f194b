"""The vectorised environment that all games share.

A game subclasses :class:`VecEnv`, allocates its state, and supplies three hooks over a range of
environments ``[lo, hi)``: step, reset, observe. Buffers, validation, threads, random streams, autoreset,
snapshots and the Gymnasium-style interface are here, once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastenvs import rng
from fastenvs.checks import positive_int
from fastenvs.jit import wrapping

AUTORESET_MODES = ("same_step", "next_step", "disabled")

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastenvs")
    return _pool


def _drop_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):  # a forked child inherits the pool's object but not its threads
    os.register_at_fork(after_in_child=_drop_pool)


class Buffers(NamedTuple):
    """What a step reads and writes besides the state; allocated once, environment axis first."""

    actions: np.ndarray  # int32 [N, A]
    active: np.ndarray  # bool [N]: rows that take part in this step
    rewards: np.ndarray  # float32 [N, A]
    designer_reward: np.ndarray  # float32 or float64 [N]
    terminated: np.ndarray  # bool [N]
    truncated: np.ndarray  # bool [N]


class Draw(NamedTuple):
    """A random draw that can be handed in: what it holds for one copy."""

    shape: tuple[int, ...]
    dtype: type
    low: float
    high: float


class VecEnv:
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
        next call overwrites.

    Notes
    -----
    Subclasses set ``name``, ``n_actions``, ``min_rows_per_thread`` and ``rows_per_chunk``, build
    ``self.state`` (a NamedTuple of arrays) and ``self.obs`` (dict of arrays), call ``_offer_draws``, and
    implement ``_step``, ``_reset``, ``_observe`` and ``single_observation_space``.
    """

    name: ClassVar[str]
    #: Below this many rows a thread costs more than it saves.
    min_rows_per_thread: ClassVar[int] = 1024
    #: A chunk goes through all components of a step while it is in cache.
    rows_per_chunk: ClassVar[int] = 4096

    n_actions: int
    state: Any
    #: Current observations, the buffers that ``reset`` and ``step`` return.
    obs: dict[str, Any]

    def __init__(
        self,
        num_envs: int,
        n_agents: int,
        *,
        seed: rng.Seed = None,
        autoreset: str = "same_step",
        num_threads: int | None = None,
        copy: bool = False,
        designer_reward_dtype: type = np.float32,
    ) -> None:
        self.num_envs = positive_int("num_envs", num_envs)
        self.n_agents = positive_int("n_agents", n_agents)
        if autoreset not in AUTORESET_MODES:
            raise ValueError(f"autoreset must be one of {AUTORESET_MODES}, got {autoreset!r}")
        self.autoreset = autoreset
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.num_threads = cores if num_threads is None else positive_int("num_threads", num_threads)
        self.copy = bool(copy)
        n = self.num_envs
        self.streams = rng.make_streams(seed, n)
        self.buffers = Buffers(
            actions=np.zeros((n, n_agents), np.int32),
            active=np.ones(n, np.bool_),
            rewards=np.zeros((n, n_agents), np.float32),
            designer_reward=np.zeros(n, designer_reward_dtype),
            terminated=np.zeros(n, np.bool_),
            truncated=np.zeros(n, np.bool_),
        )
        self._done = np.zeros(n, np.bool_)
        self._all = np.ones(n, np.bool_)
        self._draw_specs: dict[str, Draw] = {}
        self._drawn: dict[str, np.ndarray] = {}
        self._injected = True
        self._started = False
        self._final_obs: dict[str, Any] | None = None
        self._info: dict[str, Any] = {}

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

    def reset(self, *, seed: rng.Seed = None, options: Mapping[str, Any] | None = None):
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
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        draws = options.pop("draws", None)
        if options:
            raise ValueError(f"unknown reset option: {', '.join(sorted(options))}")
        if mask is None:
            mask = self._all
        else:
            mask = np.asarray(mask)
            if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
                raise ValueError(f"reset_mask must be bool [{self.num_envs}], got {mask.dtype} {list(mask.shape)}")
            if seed is not None:
                raise ValueError("a seed rekeys every copy: it cannot be combined with reset_mask")
            if not self._started and not mask.all():
                raise RuntimeError("the first reset must reset every copy")
        streams = None if seed is None else rng.make_streams(seed, self.num_envs)
        checked = self._check_draws(draws)
        if streams is not None:
            for mine, new in zip(self.streams, streams, strict=True):
                mine[:] = new
        self._inject(checked)
        self.buffers.terminated[mask] = False
        self.buffers.truncated[mask] = False
        self._done[mask] = False

        def begin(lo: int, hi: int) -> None:
            self._reset(mask, lo, hi)
            self._observe(self.obs, mask, lo, hi)

        self._run(begin)
        self._started = True
        return self._result(self.obs), {}

    def step(self, actions, *, draws: Mapping[str, Any] | None = None):
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
            ``designer_reward`` ``[N]``, the game's own arrays, and with ``same_step`` ``final_obs`` (rows are
            meaningful where ``_final_obs`` is set).
        """
        if not self._started:
            raise RuntimeError("call reset() before the first step()")
        checked = self._check_actions(actions)
        injected = self._check_draws(draws)
        np.copyto(self.buffers.actions, checked, casting="unsafe")
        self._inject(injected)
        self._prepare()
        self._run(self._advance[self.autoreset])
        self._finish()
        b = self.buffers
        if not self._info:
            self._info = self._build_info()
        result = (self.obs, b.rewards, b.terminated, b.truncated, self._info)
        return self._result(result) if self.copy else (*result[:4], dict(self._info))

    @cached_property
    def _advance(self) -> dict[str, Callable[[int, int], None]]:
        return {
            "same_step": self._advance_same_step,
            "next_step": self._advance_next_step,
            "disabled": self._advance_disabled,
        }

    def _advance_same_step(self, lo: int, hi: int) -> None:
        b, done = self.buffers, self._done
        if self._final_obs is None:
            raise RuntimeError(f"{type(self).__name__} has not called _allocate_final_obs()")
        self._step(lo, hi)
        np.logical_or(b.terminated[lo:hi], b.truncated[lo:hi], out=done[lo:hi])
        self._observe(self._final_obs, done, lo, hi)
        self._reset(done, lo, hi)
        self._observe(self.obs, self._all, lo, hi)

    def _advance_next_step(self, lo: int, hi: int) -> None:
        b, done = self.buffers, self._done
        b.terminated[lo:hi] = False
        b.truncated[lo:hi] = False
        np.logical_not(done[lo:hi], out=b.active[lo:hi])
        self._step(lo, hi)
        self._reset(done, lo, hi)
        np.logical_or(b.terminated[lo:hi], b.truncated[lo:hi], out=done[lo:hi])
        self._observe(self.obs, self._all, lo, hi)

    def _advance_disabled(self, lo: int, hi: int) -> None:
        b, done = self.buffers, self._done
        np.logical_not(done[lo:hi], out=b.active[lo:hi])
        self._step(lo, hi)
        np.logical_or(b.terminated[lo:hi], b.truncated[lo:hi], out=done[lo:hi])
        self._observe(self.obs, b.active, lo, hi)

    def _allocate_final_obs(self) -> None:
        """Allocate what ``same_step`` needs besides ``self.obs``; a game calls it after allocating ``obs``."""
        if self.autoreset == "same_step":
            self._final_obs = copy_tree(self.obs)

    def _build_info(self) -> dict[str, Any]:
        info = {"designer_reward": self.buffers.designer_reward, **self._step_info()}
        if self._final_obs is not None:
            info |= {"final_obs": self._final_obs, "_final_obs": self._done}
        return info

    def _result(self, tree):
        return copy_tree(tree) if self.copy else tree

    # ------------------------------------------------------------------ threads

    def _run(self, chunk: Callable[[int, int], Any]) -> None:
        """Call ``chunk(lo, hi)`` over all rows, by contiguous ranges, one range a thread."""
        n = self.num_envs
        threads = min(self.num_threads, n // self.min_rows_per_thread)

        def work(first: int, last: int) -> None:
            with wrapping():
                for lo in range(first, last, self.rows_per_chunk):
                    chunk(lo, min(lo + self.rows_per_chunk, last))

        if threads <= 1:
            work(0, n)
            return
        bounds = [n * t // threads for t in range(threads + 1)]
        pool = _threads()
        futures = [pool.submit(work, a, b) for a, b in zip(bounds[1:-1], bounds[2:], strict=True)]
        work(bounds[0], bounds[1])
        for future in futures:
            future.result()

    # ------------------------------------------------------------------ validation

    def _check_actions(self, actions) -> np.ndarray:
        a = np.asarray(actions)
        if a.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, got dtype {a.dtype}")
        if a.shape != self.buffers.actions.shape:
            raise ValueError(f"actions must have shape {list(self.buffers.actions.shape)}, got {list(a.shape)}")
        if a.min() < 0 or a.max() >= self.n_actions:
            env, agent = np.argwhere((a < 0) | (a >= self.n_actions))[0]
            raise ValueError(
                f"action {a[env, agent]} of agent {agent} in environment {env} is not in 0..{self.n_actions - 1}"
            )
        return a

    @property
    def draw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Random draws that can be handed to ``reset`` and ``step``, and their shapes."""
        return {name: (self.num_envs, *spec.shape) for name, spec in self._draw_specs.items()}

    def _offer_draws(self, **specs: Draw) -> None:
        """Declare the draws that can be handed in.

        A kernel is given ``self._drawn[name]``, which has no rows while nothing is handed in.
        """
        self._draw_specs |= specs
        self._inject({})

    def _check_draws(self, draws: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        checked: dict[str, np.ndarray] = {}
        for name, values in (draws or {}).items():
            if name not in self._draw_specs:
                known = ", ".join(self._draw_specs) or "none"
                raise ValueError(f"{self.name} with these options draws nothing called {name!r}; draws: {known}")
            spec, values, shape = self._draw_specs[name], np.asarray(values), self.draw_shapes[name]
            if values.shape != shape:
                raise ValueError(f"draw {name!r} must have shape {list(shape)}, got {list(values.shape)}")
            # NaN stands for a draw that is not made.
            wrong = (values < spec.low) | (values > spec.high)
            if np.dtype(spec.dtype).kind != "f":
                wrong |= values != np.floor(values)
            if wrong.any():
                where = tuple(int(i) for i in np.argwhere(wrong)[0])
                raise ValueError(
                    f"draw {name!r} at {where} is {values[where]}, not in {spec.low}..{spec.high} "
                    f"(environment {where[0]})"
                )
            checked[name] = np.ascontiguousarray(values, spec.dtype)
        return checked

    def _inject(self, draws: Mapping[str, np.ndarray]) -> None:
        """Put the draws of this call in place; what was not handed in is drawn natively."""
        if draws or self._injected:
            specs = self._draw_specs.items()
            empty: dict[str, np.ndarray] = {name: np.empty((0, *spec.shape), spec.dtype) for name, spec in specs}
            self._drawn = {**empty, **draws}
            self._injected = bool(draws)

    # ------------------------------------------------------------------ snapshot and restore

    def _leaves(self) -> Iterator[tuple[str, np.ndarray]]:
        parts = {
            "state": self.state,
            "streams": self.streams,
            "buffers": self.buffers,
            "done": self._done,
            "obs": self.obs,
        }
        # Read-only observations are views of the state.
        return ((name, array) for name, array in iter_leaves(parts) if array.flags.writeable)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Everything that decides how the copies go on, as a flat dict of fresh arrays."""
        if not self._started:
            raise RuntimeError("call reset() before the first snapshot()")
        return {"options": self._options_digest(), **{name: array.copy() for name, array in self._leaves()}}

    def _options_digest(self) -> np.ndarray:
        """A fingerprint of what the copies play by, uint8 ``[32]``."""
        rules = getattr(self, "options", None) or getattr(self, "config", None)
        maps = [getattr(rules, name, np.empty(0)).tobytes() for name in ("cells", "symbols")]
        told = repr((self.name, self.n_agents, self.autoreset, rules)).encode()
        return np.frombuffer(hashlib.sha256(told + b"".join(maps)).digest(), np.uint8)

    def restore(self, snapshot: Mapping[str, np.ndarray]) -> None:
        """Go back to a snapshot of an environment made with the same options.

        Raises
        ------
        ValueError
            If it is of other options, or an array is missing, unknown, or of another shape or dtype; nothing is
            changed then.
        """
        snapshot = dict(snapshot)
        digest, mine = snapshot.pop("options", None), dict(self._leaves())
        if mine.keys() != snapshot.keys():
            raise ValueError(f"snapshot and environment differ in: {sorted(mine.keys() ^ snapshot.keys())}")
        for name, array in mine.items():
            given = snapshot[name]
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(
                    f"snapshot array {name!r} is {given.dtype} {list(given.shape)}, "
                    f"the environment has {array.dtype} {list(array.shape)}"
                )
        if digest is None or not np.array_equal(digest, self._options_digest()):
            raise ValueError("the snapshot is of an environment with other options")
        for name, array in mine.items():
            array[...] = snapshot[name]
        self._started = True


def copy_tree(tree):
    """Copy nested dicts and tuples of arrays."""
    if isinstance(tree, dict):
        return {key: copy_tree(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(copy_tree(value) for value in tree)
    return tree.copy()


def iter_leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of nested dicts and NamedTuples with their paths, ``a/b/c``."""
    for key, value in (tree if isinstance(tree, dict) else tree._asdict()).items():
        if isinstance(value, np.ndarray):
            yield f"{prefix}{key}", value
        else:
            yield from iter_leaves(value, f"{prefix}{key}/")
