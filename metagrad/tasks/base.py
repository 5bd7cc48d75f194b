"""Games as tasks: how to make environments, what to record, how to score."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

import fastenvs
from fastenvs.vecenv import VecEnv
from metagrad.agents.base import Interface
from metagrad.batch import PRESENT, Batch, as_dict
from metagrad.networks.base import width_of
from metagrad.tasks import figures


class TaskError(ValueError):
    """A game does not offer what the learner needs, or offers what it cannot do."""


class VectorTask:
    """A task from any vectorised environment.

    Parameters
    ----------
    make : callable
        ``make(num_envs, seed=...)`` or ``make(num_envs)`` gives an environment with attributes ``num_envs``,
        ``n_agents`` and ``n_actions`` and methods

        - ``reset()`` → ``obs, info``
        - ``step(actions [N, A])`` → ``obs, rewards [N, A], terminated [N], truncated [N], info``

        where ``obs["agents"]`` is an array ``[N, A, ...]`` or a dict of such, with an optional key ``mask`` of legal
        actions ``[N, A, n_actions]``, ``obs["designer"]`` is an array ``[N, ...]`` or a dict of such, and
        ``info["designer_reward"]`` is ``[N]``. Copies need not reset themselves. Environments of ``fastenvs`` are such,
        with any options. One environment is made for each seed, and ``reset`` is given ``seed=`` where it takes one, so
        that a game with random numbers can be resumed bit for bit.
    horizon : int
        Step limit of an episode.
    name : str, optional
        Name of the game.

    Raises
    ------
    TaskError
        If the environment does not offer this; the message says what is missing or cannot be done.
    """

    name: str
    horizon: int
    #: Names of the scores that a table shows, ``[S]`` each; the first is the score. None for all of them.
    fields: tuple[str, ...] | None = None

    def __init__(self, make: Callable[..., Any], horizon: int, name: str | None = None) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
            raise TaskError(f"horizon must be a number of steps of at least 1, got {horizon!r}")
        if not callable(make):
            raise TaskError(f"make must be a function make(num_envs) that gives an environment, got {make!r}")
        self._make, self.horizon = make, int(horizon)
        self.interface = probe(self._one(2, 0), self.horizon, 2)
        self.name = str(name or getattr(make, "__name__", "game"))

    @cached_property
    def interface(self) -> Interface:
        """What agents and designers see."""
        return probe(self.make(1, [0]), self.horizon)

    @cached_property
    def n_agents(self) -> int:
        """Number of agents, A."""
        return self.interface.n_agents

    @cached_property
    def n_actions(self) -> int:
        """Number of actions of every agent, L."""
        return self.interface.n_actions

    def make(self, num_envs: int, seeds: Sequence[int]) -> Any:
        """An environment of ``num_envs`` copies, shared out evenly and in order over the seeds."""
        if isinstance(self._one(1, 0), VecEnv):
            return self._one(num_envs, list(seeds))
        return _SideBySide([self._one(num_envs // len(seeds), seed) for seed in seeds], seeds, self.interface)

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Further arrays ``[N, ...]`` to keep of a step, called after it."""
        return {}

    def prepare(self, env: Any, episodes: int, source: Any = None, n_seeds: int = 1) -> None:
        """Called before episodes are played, with the number of training episodes of a seed so far.

        ``source`` is the training environment where ``env`` is for an evaluation; both hold ``n_seeds`` seeds.
        """

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """Means over the episodes of a batch by name, ``[S]`` or ``[S, A, ...]``; the first is the score."""
        return {
            "welfare": per_seed(batch.designer_rewards),
            "payments": per_seed(batch.payments),
            "steps": per_seed(batch.alive),
        }

    def bounds(self) -> dict[str, float]:
        """What is known of the best possible score, by name."""
        return {}

    def camera(self, env: Any, copy: int) -> Callable[[], np.ndarray]:
        """What gives a picture of one copy as it stands whenever it is called, uint8 ``[height, width, 3]``."""
        if not hasattr(env, "render"):
            raise TaskError(f"{self.name} cannot be replayed: its environments have no method render(copy)")
        return lambda: env.render(copy)

    def panels(self, runs: Sequence[tuple[Any, str, dict[str, np.ndarray]]]) -> dict[str, Callable[[Any], None]]:
        """Panels of a figure of runs (experiment, label, columns of metrics.csv) by name.

        Each draws on a matplotlib axis that it is given. By default there is one for every score over training.
        """
        return figures.curves(runs)

    def _one(self, num_envs: int, seed: Any) -> Any:
        parameters = inspect.signature(self._make).parameters.values()
        takes_seed = any(p.name == "seed" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        return self._make(num_envs, seed=seed) if takes_seed else self._make(num_envs)


class FastTask(VectorTask):
    """A game of ``fastenvs``; its subclasses are frozen dataclasses that inherit the options of the game as well.

    So every option of the game is one of the task, with its default, its documentation and its checks.
    """

    limit: ClassVar = "steps"  # option that is the step limit of an episode

    def __post_init__(self) -> None:
        try:
            super().__post_init__()  # type: ignore[misc]  # of the game's options
        except (TypeError, ValueError) as error:
            named = any(re.match(rf"{name}\b", str(error)) for name in self.options())
            raise TaskError(f"{type(self).__name__}.{error}" if named else str(error)) from error
        object.__setattr__(self, "horizon", getattr(self, self.limit))

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """The options of a run that was written when some of them had other names."""
        return saved

    def options(self) -> dict[str, Any]:
        """Those of the environment."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def make(self, num_envs: int, seeds: Sequence[int]) -> Any:
        """An environment of ``num_envs`` copies, shared out evenly over the seeds."""
        shared: dict[str, Any] = {"seed": list(seeds), "autoreset": "disabled", "num_threads": 1}
        return fastenvs.make(self.name.replace("-", "_"), num_envs, **shared, **self.options())


def per_seed(x: Tensor) -> np.ndarray:
    """Sum over steps and agents, mean over the K episodes, float64 ``[S]``."""
    return (x.double().flatten(1).sum(1) / x.shape[2]).cpu().numpy()


def per_agent(x: Tensor) -> np.ndarray:
    """Sum over steps, mean over episodes of ``[S, T, K, A, ...]``, float64 ``[S, A, ...]``."""
    return x.double().sum(1).mean(1).cpu().numpy()


# ---------------------------------------------------------------------- what a game offers


def probe(env: Any, horizon: int, copies: int = 1) -> Interface:
    """What a game offers, seen in a few copies of it; a :class:`TaskError` if that is not what the learner needs."""
    for name in ("num_envs", "n_agents", "n_actions", "reset", "step"):
        if not hasattr(env, name):
            raise TaskError(f"the environment {type(env).__name__} has no {name!r}; see metagrad.VectorTask")
    n_agents, n_actions = _count(env, "n_agents", 1), _count(env, "n_actions", 2)
    if env.num_envs != copies:
        raise TaskError(f"make({copies}) gives an environment with num_envs = {env.num_envs}; it must be {copies}")
    result = env.reset()
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], dict)):
        raise TaskError("reset() must give (obs, info), with obs a dict of 'agents' and 'designer'")
    obs = result[0]
    for key in ("agents", "designer"):
        if key not in obs:
            raise TaskError(f"reset() gives observations without a key {key!r}")
    agents = _shapes(obs["agents"], "agents", (env.num_envs, n_agents))
    designer = _shapes(obs["designer"], "designer", (env.num_envs,))
    if "mask" in agents and agents["mask"] != (n_actions,):
        raise TaskError(f"obs['agents']['mask'] must have shape [N, A, {n_actions}], got [N, A, *{agents['mask']}]")
    if not width_of(agents):
        raise TaskError("obs['agents'] holds no number but in the mask, so that the agents see nothing")
    mask = as_dict(obs["agents"]).get("mask")
    _check_step(
        env.step(_legal(mask) if mask is not None else np.zeros((copies, n_agents), np.int64)), copies, n_agents
    )
    return Interface(n_agents, n_actions, horizon, agents, designer, getattr(env, "options", None))


def _count(env: Any, name: str, least: int) -> int:
    value = getattr(env, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        what = "the same number of actions for every agent" if name == "n_actions" else "an integer"
        raise TaskError(
            f"{name} must be {what}, got {value!r}; agents with other numbers of actions, or with continuous ones, "
            "are not supported: give illegal actions a mask, and continuous ones levels"
        )
    if value < least:
        raise TaskError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _shapes(obs: Any, key: str, leading: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    for name, x in as_dict(obs).items():
        if not isinstance(x, np.ndarray) or x.dtype.kind not in "buif":
            kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise TaskError(f"obs[{key!r}] must be an array of numbers, or a dict of such; {name!r} is {kind}")
        if x.shape[: len(leading)] != leading or x.ndim == len(leading):
            raise TaskError(f"obs[{key!r}] {name!r} must have shape {[*leading, '...']}, got {list(x.shape)}")
    return {name: tuple(x.shape[len(leading) :]) for name, x in as_dict(obs).items()}


def _legal(mask: np.ndarray) -> np.ndarray:
    """A legal action of every agent."""
    if not mask.any(-1).all():
        raise TaskError("obs['agents']['mask'] leaves an agent no legal action")
    return mask.astype(bool).argmax(-1)


def _check_step(result: Any, n: int, n_agents: int) -> None:
    """Look at what a step of ``n`` copies gives."""
    if not (isinstance(result, tuple) and len(result) == 5):
        raise TaskError("step(actions) must give (obs, rewards, terminated, truncated, info)")
    _, rewards, terminated, truncated, info = result
    flags = {"terminated": terminated, "truncated": truncated}
    for name, x in {"rewards": rewards, **flags}.items():
        shape = (n, n_agents) if name == "rewards" else (n,)
        if np.shape(x) != shape:
            raise TaskError(f"step(actions) gives {name} of shape {list(np.shape(x))}, but {list(shape)} is needed")
    for name, x in flags.items():
        if np.asarray(x).dtype != np.bool_:
            raise TaskError(f"step(actions) must give {name} as booleans, got {np.asarray(x).dtype}")
    if isinstance(info, dict) and PRESENT in info:
        found = np.asarray(info[PRESENT])
        if found.shape != (n, n_agents) or found.dtype != np.bool_:
            got = f"{found.dtype} {list(found.shape)}"
            raise TaskError(
                f"info[{PRESENT!r}] must be booleans [N, A] = {[n, n_agents]}: who was in the game, got {got}"
            )
    if not isinstance(info, dict) or np.shape(info.get("designer_reward", 0)) != (n,):
        raise TaskError(
            "info['designer_reward'] [N] is missing or of another shape: what the designer is after, as welfare"
        )


class _SideBySide:
    """Environments of several seeds as one; ``reset`` derives a seed of its own for each that takes one.

    Compiled code trusts shapes, so that all they give is compared with what was found of the game at construction.
    """

    def __init__(self, envs: Sequence[Any], seeds: Sequence[int], game: Interface) -> None:
        self.envs, self.seeds, self.resets, self._game = list(envs), list(seeds), 0, game
        self.n_agents, self.n_actions = envs[0].n_agents, envs[0].n_actions
        self.num_envs = sum(env.num_envs for env in envs)
        self._takes_seed = "seed" in inspect.signature(envs[0].reset).parameters
        self._on = np.ones(self.num_envs, np.bool_)  # copies whose episodes go on
        self._tells: bool | None = None  # whether steps say who is in the game; None before the first

    def reset(self) -> tuple[dict[str, Any], dict]:
        self.resets += 1
        new = [np.random.SeedSequence(seed, spawn_key=(self.resets,)).generate_state(1)[0] for seed in self.seeds]
        options = [{"seed": int(seed)} if self._takes_seed else {} for seed in new]
        self._on[:] = True
        return self._seen(_stack([env.reset(**one)[0] for env, one in zip(self.envs, options, strict=True)])), {}

    def step(self, actions: np.ndarray) -> tuple:
        if self._mask is not None:
            _legal(self._mask[self._on])
        parts = np.split(actions.copy(), len(self.envs))  # a game may keep what it was given
        results = [env.step(part) for env, part in zip(self.envs, parts, strict=True)]
        obs, *columns, infos = zip(*results, strict=True)
        arrays = [np.concatenate([np.asarray(x) for x in column]) for column in columns]
        keys = set.intersection(*(set(info) for info in infos))
        info = {key: _stack([info[key] for info in infos]) for key in sorted(keys)}
        result = (self._seen(_stack(obs)), *arrays, info)
        _check_step(result, self.num_envs, self.n_agents)
        tells = {PRESENT in one for one in infos}
        if len(tells | ({self._tells} - {None})) > 1:
            raise TaskError(f"step(actions) must give info[{PRESENT!r}] in every step, or in none")
        (self._tells,) = tells
        for name, x in {"rewards": arrays[0], "info['designer_reward']": info["designer_reward"]}.items():
            if not np.isfinite(np.asarray(x, float)[self._on]).all():
                raise TaskError(f"step(actions) gives {name} that are not finite")
        self._on &= ~(arrays[1] | arrays[2])
        return result

    def _seen(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Observations, if they are of the shapes that they had at construction."""
        leading = {"agents": (self.num_envs, self.n_agents), "designer": (self.num_envs,)}
        for key, due in {"agents": self._game.agents, "designer": self._game.designer}.items():
            found = _shapes(obs.get(key, {}), key, leading[key])
            if found != due:
                raise TaskError(f"obs[{key!r}] was {due} at construction, by name and shape, and now is {found}")
        self._mask = as_dict(obs["agents"]).get("mask")
        return obs


def _stack(trees: Sequence[Any]) -> Any:
    if len(trees) == 1:
        return trees[0]
    if isinstance(trees[0], dict):
        return {name: _stack([tree[name] for tree in trees]) for name in trees[0]}
    if isinstance(trees[0], np.ndarray):
        return np.concatenate(trees)
    return list(trees)
