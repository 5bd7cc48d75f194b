"""Runs today's learners and records what they do, from outside: methods of single objects are wrapped."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from frozen.cases import ADOPTED, ITERATIONS
from frozen.reference import FULL_BATCH, Arrays, Reference, sketch, stored
from metagrad.legacy import actor_critic, train
from metagrad.legacy.config import AnyConfig, Config, to_dict
from metagrad.legacy.games import kit
from metagrad.legacy.planner import PlanningPlayer

# Parts of names in a learner's state that are no parameters.
_STATE = (
    "_state/", "judge/state/", "judge/steps", "response/moment/", "streams/", "env_steps", "tau/", "batch/", "record/",
    "carried/",
)  # fmt: skip
_COUNTERS = ("streams/", "carried/actions", "carried/choices", "carried/shuffles", "carried/environment")
_CARRIED = ("carried/cap", "carried/live")


def run(config: AnyConfig, name: str = "", disturb: Callable[[Tensor], None] | None = None) -> tuple[Reference, dict]:
    """Train for :data:`ITERATIONS`; what happened, and how initial tensors were drawn."""
    with _one_thread():
        return _run(config, ADOPTED.get(name), disturb)


@contextmanager
def _one_thread():
    """As runs have it: small products are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(config: AnyConfig, adopted: AnyConfig | None, disturb: Callable[[Tensor], None] | None):
    with _drawing() as drawn:
        learner = kit(config).learner(config)
    initial = {n: x.copy() for n, x in networks(learner).items()}
    if adopted is not None:
        source = kit(adopted).learner(adopted)
        for _ in range(ITERATIONS):
            source.iterate()
        tensors, values = source.state()
        learner.adopt(tensors, {**values, "config": to_dict(adopted)}, "another run")
    if disturb is not None:
        for n, t in learner.state()[0].items():
            if _is_network(n):
                disturb(t)
    recorder = _RoomRecorder(learner) if isinstance(config, Config) else _TurnRecorder(learner)
    for _ in range(ITERATIONS):
        learner.iterate()
    final = networks(learner)
    draws = {n: how for n, x in initial.items() if (how := _how(x, len(config.seeds), drawn)) is not None}
    return Reference(
        to_dict(config), to_dict(adopted) if adopted is not None else None, initial,
        {n: stored(x) for n, x in final.items()}, {n: x.shape for n, x in final.items()},
        _sketched(recorder.batches()), _counters(learner),
    ), draws  # fmt: skip


# ---------------------------------------------------------------------- networks


def _is_network(name: str) -> bool:
    return not any(part in name for part in _STATE) or name.endswith(_CARRIED)


def _of_all_seeds(learner: Any, wanted: Callable[[str], bool]) -> Arrays:
    """Tensors of the learner's state by name; those of a learner for each seed stacked ``[S, ...]``."""
    tensors = {n: t.numpy() for n, t in learner.state()[0].items() if wanted(n)}
    if isinstance(learner.config, Config):
        return tensors
    stacks: dict[str, list[np.ndarray]] = defaultdict(list)
    for n, x in tensors.items():
        stacks[n.split("/", 1)[1]].append(x)
    return {n: np.stack(parts) for n, parts in stacks.items()}


def networks(learner: Any) -> Arrays:
    """All parameters, and what else learns or survives an episode (values of a linear critic, rates in force)."""
    return {n: x for n, x in _of_all_seeds(learner, _is_network).items() if x.size}


def _counters(learner: Any) -> dict[str, list[int]]:
    found = _of_all_seeds(learner, lambda n: any(part in n for part in _COUNTERS))
    return {n.split("/")[-1]: x.astype(int).ravel().tolist() for n, x in found.items()}


@contextmanager
def _drawing():
    """Notes every draw of uniforms from NumPy's generators: seed, uniforms of this generator before, limit, numbers."""
    drawn: list[tuple[Any, int, float, np.ndarray]] = []

    class Generator:
        def __init__(self, seed: Any) -> None:
            self.seed, self.generator, self.before = seed, original(seed), 0
            self.known = True

        def uniform(self, low: float, high: float, size: Any) -> np.ndarray:
            out = self.generator.uniform(low, high, size)
            if self.known:
                drawn.append((self.seed, self.before, float(high), out))
            self.before += out.size
            return out

        def normal(self, *args: Any) -> np.ndarray:
            self.known = False  # a normal takes who knows how many
            return self.generator.normal(*args)

    original = np.random.default_rng
    with mock.patch("numpy.random.default_rng", Generator):
        yield drawn


def _how(x: np.ndarray, n_seeds: int, drawn: list) -> list | None:
    """How every seed's part of a tensor came about, as :func:`frozen.reference.read` takes it; None if not known."""
    found: list[Any] = []
    for part in x.reshape(n_seeds, -1):
        if (part == part[0]).all():
            found.append(float(part[0]))
            continue
        same = [d for d in drawn if d[3].size == part.size and (d[3].ravel() == part).all()]
        if not same:
            return None
        seed, before, limit, _ = same[0]
        found.append([seed, before, limit])
    return json.loads(json.dumps(found))


# ---------------------------------------------------------------------- batches


def _sketched(batches: Arrays) -> Arrays:
    """Large arrays of floats by batch and seed as sketches, under a name that says so; without those that are all 0."""
    out: Arrays = {}
    for n, x in batches.items():
        if not x.any():
            continue
        if x.dtype.kind == "f" and x[0, 0].size > FULL_BATCH:
            out[f"{n}_sketch"] = np.stack([np.stack([sketch(part) for part in batch]) for batch in x])
        else:
            out[n] = x
    return out


def _wrap(obj: Any, method: str, note: Callable[..., None]) -> None:
    """Call ``note(result, *arguments)`` after every call of one object's method."""
    original = getattr(obj, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        note(result, *args)
        return result

    object.__setattr__(obj, method, wrapped)


def _whole(x: Tensor | np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    kept = x.astype(np.int16)
    assert (kept == x).all()
    return kept


class _RoomRecorder:
    """Batches of Escape Room; rows that were not played are 0."""

    def __init__(self, learner: train.Learner) -> None:
        self.learner = learner
        self.collected: list[Any] = []
        self.choices: list[np.ndarray] = []
        self.dual = learner.config.method.startswith("dual-rl")
        _wrap(learner, "collect", lambda batch, *_: self.collected.append(batch))
        if self.dual:
            _wrap(learner.designer, "pay", self._note_choice)

    def _note_choice(self, choice: Any, params: Any, batch: Any, *_: Any) -> None:
        score = choice.score * batch.alive[..., None]
        self.choices.append(self._steps(score, batch.k))

    def _steps(self, x: Tensor, k: int, *, agents: bool = False) -> np.ndarray:
        """``[S, R, ...]``, or ``[S, A, R]``, to ``[S, T, K, ...]`` with T the step limit."""
        steps = self.learner.config.game.max_steps
        played = (x.transpose(1, 2) if agents else x).unflatten(1, (-1, k)).numpy()[:, :steps]
        out = np.zeros((len(played), steps, *played.shape[2:]), played.dtype)
        out[:, : played.shape[1]] = played
        return out

    def batches(self) -> Arrays:
        found: dict[str, list[np.ndarray]] = defaultdict(list)
        for b in self.collected:
            found["actions"].append(_whole(self._steps(b.actions.argmax(-1), b.k, agents=True)))
            found["alive"].append(_whole(self._steps(b.alive, b.k)))
            found["rewards"].append(_whole(self._steps(b.rewards, b.k, agents=True)))
            assert b.designer_rewards.equal(b.rewards.sum(1))
            found["payments"].append(self._steps(b.incentives, b.k, agents=True))
            if self.learner.critic:
                found["values"].append(self._steps(b.values, b.k, agents=True))
            found["epsilon"].append(np.full(len(b.alive), b.epsilon))
        if self.dual:
            discrete = self.learner.config.method == "dual-rl-discrete"
            found["designer_choice" if discrete else "noise"] = [
                _whole(c.argmax(-1)) if discrete else c for c in self.choices
            ]
        return {n: np.stack(parts) for n, parts in found.items()}


class _TurnRecorder:
    """Batches of Cleanup and of the economy, seed by seed."""

    def __init__(self, learner: Any) -> None:
        self.seeds: list[dict[str, list[np.ndarray]]] = []
        for one in learner.workforces:
            self.seeds.append(defaultdict(list))
            if learner.config.game_name == "cleanup":
                _CleanupRecorder(one, self.seeds[-1])
            else:
                _EconomyRecorder(one, self.seeds[-1])

    def batches(self) -> Arrays:
        return {n: np.stack([np.stack(seed[n]) for seed in self.seeds], 1) for n in self.seeds[0]}


class _CleanupRecorder:
    def __init__(self, crew: Any, found: dict[str, list[np.ndarray]]) -> None:
        self.crew, self.found = crew, found
        _wrap(crew, "collect", self._note_batch)
        _wrap(crew, "learn_from", self._note_step)

    def _note_batch(self, batch: actor_critic.Batch) -> None:
        steps, k = batch.rewards.shape[:2]
        self.found["actions"].append(_whole(batch.actions.view(steps, k, -1)))
        self.found["rewards"].append(_whole(batch.rewards))
        self.found["payments"].append(batch.incentives.numpy())
        self.found["epsilon"].append(np.array(batch.epsilon))
        if self.crew.config.method.startswith("dual-rl"):
            self.found["noise"].append(batch.noise.numpy())

    def _note_step(self, step: actor_critic.LearnedStep, *_: Any) -> None:
        self.found["learned_values"].append(step.values.numpy())


class _EconomyRecorder:
    """As an observer it also notes the rates in force on tax days."""

    def __init__(self, workers: Any, found: dict[str, list[np.ndarray]]) -> None:
        self.workers, self.found = workers, found
        self._rates: list[np.ndarray] = []
        original = workers.play_training

        def play_training(*observers: Any) -> Any:
            self._rates = []
            batch = original(*observers, self)
            self._note(batch, observers)
            return batch

        workers.play_training = play_training
        if workers.config.agents.minibatches > 1:
            self._orders: list[np.ndarray] = []
            minibatches = workers._minibatches

            def noted(batch: Any) -> Any:
                rows = list(minibatches(batch))
                order = np.concatenate([r.numpy() for r in rows])
                found["minibatch_rows"].append(order.astype(np.int16))
                return iter(rows)

            workers._minibatches = noted

    def before_step(self, env: Any) -> None:
        pass

    def after_step(self, env: Any, info: dict[str, Any]) -> None:
        if info["tax_day"][0]:
            self._rates.append(env.state.taxes.live.copy())

    def _note(self, batch: Any, observers: Any) -> None:
        steps, k, n = len(batch.rewards), self.workers.env.num_envs, self.workers.env.n_agents
        self.found["actions"].append(_whole(batch.actions.view(steps, k, n)))
        self.found["rewards"].append(batch.rewards.view(steps, k, n).numpy())
        self.found["values"].append(batch.values.view(steps + 1, k, n).numpy())
        self.found["epsilon"].append(np.array(batch.epsilon))
        self.found["rates"].append(np.stack(self._rates))
        for observer in observers:
            if isinstance(observer, PlanningPlayer):
                self.found["designer_choice"].append(_whole(observer.decisions().choices.unflatten(0, (-1, k))))
