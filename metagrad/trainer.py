"""Algorithm 1, once: agents learn from incentives, a designer learns incentives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metagrad.agents.base import Agents, AgentState
from metagrad.batch import (
    Batch,
    batch_of,
    below,
    check_batch,
    check_names,
    check_tensor,
    flatten,
    has_empty,
    unflatten,
)  # fmt: skip
from metagrad.designers.base import Designer, Notes, Transition
from metagrad.networks.base import Where
from metagrad.parallel import group
from metagrad.playing.place import Place
from metagrad.playing.rollout import rollout
from metagrad.streams import Streams

#: Beginnings of the names of what a :class:`Place` saves.
_PLACE = ("env/", "streams/")


class TrainState(NamedTuple):
    """Everything that decides how training goes on, but for random streams and environment."""

    agents: AgentState
    designer: Any
    pending: Batch | None  # episodes that the agents learn from next
    iteration: int
    episodes: int  # training episodes of each seed, validation episodes included


class _Saved:
    """What a trainer knows, as tensors by name."""

    state: TrainState
    agents: Any
    designer: Designer
    task: Any
    place: Place
    where: Where
    seeds: tuple[int, ...]
    k: int
    agent_batches: int
    pipeline: bool
    env_steps: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on, by name."""
        flat = flatten(self.state._replace(pending=None))
        if self.state.pending is not None:
            flat |= flatten(self.state.pending.gathered(), "pending/")
        flat |= self.place.tensors() | flatten({"env_steps": self.env_steps})
        return {name: t.detach() for name, t in flat.items()}

    def load(self, tensors: dict[str, Tensor], dry: bool = False) -> None:
        """Go on from :meth:`tensors`.

        Parameters
        ----------
        tensors : dict
        dry : bool
            Only see whether they fit.

        Raises
        ------
        ValueError
            If an entry is missing, unknown, or of another shape or type; nothing is changed then.
        """
        held, place = below(tensors, "pending/"), {n: t for n, t in tensors.items() if n.startswith(_PLACE)}
        state = unflatten(self.state._replace(pending=None), tensors)
        steps = unflatten({"env_steps": self.env_steps}, tensors)["env_steps"]
        self.place.load(place, dry=True)
        if state.iteration < 0 or state.episodes < 0 or bool(state.episodes) != bool(place["streams/actions"].any()):
            raise ValueError("iteration and episodes do not go with the streams")
        if self.pipeline and self.designer.validation != "none" and state.iteration:
            check_batch(held, self.sample(), len(self.seeds), self.k, "pending/")
        elif held:
            raise ValueError(f"pending/{min(held)} is unknown")
        rest = {n: t for n, t in tensors.items() if not n.startswith(("pending/", *_PLACE))}
        self._check_filled(rest, state.iteration)
        if not dry:
            pending = batch_of(held, self.where.device).replace(options=self.task.interface.options) if held else None
            self.place.load(place)
            if pending is not None and group.size() > 1:
                pending = pending.episodes(group.share(self.k))
            self.state, self.env_steps = state._replace(pending=pending), steps

    def _check_filled(self, found: dict[str, Tensor], iteration: int) -> None:
        """Refuse unknown tensors, and what training fills in unless it is as another trainer's after an iteration."""
        fresh = flatten(self.state._replace(pending=None))
        filled: dict[str, Tensor] = {}
        if iteration and has_empty(self.state._replace(pending=None)):
            other = self._alone()
            other.iterate()
            filled = {n: t for n, t in flatten(other.state._replace(pending=None)).items() if n not in fresh}
        check_names(found, [*fresh, *filled, "env_steps"])
        for name, t in filled.items():
            shape = (len(self.seeds) * len(t), *t.shape[1:]) if t.dim() else ()
            check_tensor(name, found[name], shape, t.dtype)

    def _alone(self) -> Trainer:
        """A new trainer with one seed."""
        return Trainer(
            self.task, self.agents, self.designer, seeds=self.seeds[:1], k=self.k, agent_batches=self.agent_batches,
            pipeline=self.pipeline, device=self.where.device, dtype=self.where.dtype, threads=None,
        )  # fmt: skip

    def sample(self) -> Batch:
        """A batch of a new trainer with one seed, to see what batches are made of; nothing is changed."""
        other = self._alone()
        return other.collect(other.state.agents)

    def trial(self) -> Batch:
        """Episodes of a new trainer with one seed after an iteration, to see whether all goes; nothing is changed."""
        other = self._alone()
        other.iterate(diagnose=True)
        return other.state.pending or other.collect(other.state.agents)

    def adopt(self, tensors: dict[str, Tensor]) -> None:
        """Start with the agents of another training, from its :meth:`tensors`: networks, critics and their optimisers.

        Fresh optimisers would jolt them. Schedules of exploration and entropy start anew; those of learning rates go
        on, by the steps of the optimisers.

        Raises
        ------
        ValueError
            If they are other agents; nothing is changed then.
        """
        agents = unflatten({"agents": self.state.agents}, tensors)["agents"]
        theirs = {name: t for name, t in tensors.items() if name.startswith("agents/")}
        check_names(theirs, list(flatten({"agents": agents})))
        self.state = self.state._replace(agents=agents._replace(batches=0))

    def diverged(self) -> np.ndarray:
        """Whether anything that a seed has learned is no longer finite, bool ``[S]``."""
        n, bad = len(self.seeds), np.zeros(len(self.seeds), np.bool_)
        learned = {"policy": self.state.agents.policy, "critic": self.state.agents.critic,
                   "eta": self.designer.eta(self.state.designer)}  # fmt: skip
        for p in flatten(learned).values():
            if p.is_floating_point() and p.dim() and len(p) % n == 0:
                bad |= ~p.reshape(n, -1).isfinite().all(1).cpu().numpy()
        return bad


class Trainer(_Saved):
    """Agents that learn from incentives and a designer that learns incentives, all seeds side by side.

    Parameters
    ----------
    task : VectorTask
        The game.
    agents : Agents
        How the agents act and learn, as :class:`metagrad.PolicyGradientAgents`.
    designer : Designer
        How incentives are set and learned, as :class:`metagrad.MetaGradient` or :class:`metagrad.NoDesigner`.
    seeds : sequence of int
        One independent training each; results of a seed do not depend on the others.
    k : int
        Episodes in an update, K.
    agent_batches : int
        Batches that the agents learn from before the designer learns; a meta-gradient goes through all those steps.
    pipeline : bool
        Whether the fresh episodes of an iteration are the agents' next experience.
    device : str
        Where the networks live.
    dtype : torch.dtype
        Floating point type of the networks.
    threads : int, optional
        Threads of torch's operations from now on; None leaves them as they are. Small networks are several times
        faster with one, and results are promised bit for bit with one alone.

    Attributes
    ----------
    state : TrainState
    env_steps : ndarray ``[S]``
        Environment steps of each seed so far.

    Raises
    ------
    ValueError
        If seeds, ``k`` or ``agent_batches`` are not as above.
    """

    def __init__(
        self,
        task: Any,
        agents: Agents,
        designer: Designer,
        *,
        seeds: Sequence[int] = (0,),
        k: int = 16,
        agent_batches: int = 1,
        pipeline: bool = True,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = 1,
    ) -> None:
        _check(seeds, k, agent_batches)
        if threads is not None:
            torch.set_num_threads(threads)
        self.task, self.agents, self.designer = task, agents, designer
        self.seeds, self.k, self.agent_batches, self.pipeline = tuple(seeds), k, agent_batches, pipeline
        self.where = Where(device, dtype)
        self.place = Place(task, seeds, k)
        designer.check(self.env, k)
        first = agents.init(task.interface, self.rng, self.where)
        started = designer.init(task.interface, agents, first, self.rng, self.where)
        self.state = TrainState(first, started, None, 0, 0)
        self.env_steps = np.zeros(len(self.seeds), np.int64)

    @property
    def env(self) -> Any:
        """The environment, of which this process plays all copies or its share."""
        return self.place.env

    @property
    def rng(self) -> Streams:
        """The random streams of training."""
        return self.place.rng

    # ------------------------------------------------------------------ training

    def collect(self, agent_state: AgentState) -> Batch:
        """Play K episodes of every seed, and pay for them."""
        s = self.state
        self.task.prepare(self.env, s.episodes, n_seeds=len(self.seeds))
        batch = rollout(
            self.env, self.task, self.agents, agent_state, self.designer, s.designer, self.rng,
            epsilon=self.agents.epsilon(s.iteration), where=self.where, keep=self.designer.validation != "none",
        )  # fmt: skip
        self.state = s._replace(episodes=s.episodes + self.k)
        self.env_steps += group.total(batch.alive.sum((1, 2)).long().cpu()).numpy()
        return self.designer.pay(s.designer, batch, self.rng)

    def iterate(self, diagnose: bool = False) -> Notes:
        """One iteration of Algorithm 1; ``diagnose`` asks for notes on the agents and the designer's gradient."""
        before = self.state.agents
        batch = self.state.pending or self.collect(before)
        fresh = self.collect(before) if self.designer.validation == "before" else None
        # 1. The agents learn from what they earned and what they were paid.
        designer, batch = self.designer.settle(self.state.designer, self.agents, before, batch)
        after, steps = self.agents.update(before, batch, self.rng)
        batches = [batch]
        for _ in range(self.agent_batches - 1):
            batches.append(self.collect(after))
            after, more = self.agents.update(after, batches[-1], self.rng)
            steps += more
        # 2. The updated agents play fresh episodes.
        if self.designer.validation == "after":
            fresh = self.collect(after)
        # 3. The designer learns, with the agents' steps at hand.
        transition = Transition(before, steps, after, batches, fresh, diagnose)
        designer, notes = self.designer.update(designer, self.agents, transition, self.rng)
        # 4. The fresh episodes are the agents' next experience.
        pending = fresh if self.pipeline else None
        self.state = self.state._replace(
            agents=after, designer=designer, pending=pending, iteration=self.state.iteration + 1
        )
        return {"policy_entropy": batches[0].policy_entropy, **notes} if diagnose else notes

    def train(self, iterations: int) -> None:
        """Train for a number of iterations."""
        for _ in range(iterations):
            self.iterate()

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, episodes: int = 100) -> dict[str, np.ndarray]:
        """Scores of the present agents on fresh episodes, ``[S]`` or ``[S, A, ...]`` each; the same whenever called.

        Exploration is off, actions are drawn from the policies. Training is not disturbed.
        """
        return Evaluator(self, "test", episodes)()


class Evaluator:
    """Fresh episodes for scoring, in an environment and with random streams of their own.

    Parameters
    ----------
    trainer : Trainer
        Whose agents and designer play.
    phase : {"eval", "test"}
        Which streams: those of the evaluations during training, or those of the test at the end.
    episodes : int
        Episodes for each seed.
    """

    def __init__(self, trainer: Trainer, phase: str, episodes: int) -> None:
        if episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {episodes}")
        self.trainer, self.place = trainer, Place(trainer.task, trainer.seeds, episodes, phase)
        self.tensors, self.load = self.place.tensors, self.place.load  # streams and environment, for checkpoints

    @property
    def env(self) -> Any:
        """The environment."""
        return self.place.env

    def play(self) -> Batch:
        """The episodes themselves, payments included."""
        t, env, rng = self.trainer, self.place.env, self.place.rng
        t.task.prepare(env, t.state.episodes, t.env, len(t.seeds))
        batch = rollout(
            env, t.task, t.agents, t.state.agents, t.designer, t.state.designer, rng, epsilon=0.0, where=t.where,
        )  # fmt: skip
        batch = t.designer.pay(t.state.designer, batch, rng)
        return batch.gathered() if rng.parts > 1 else batch

    def __call__(self) -> dict[str, np.ndarray]:
        """Scores of every seed."""
        return self.trainer.task.scores(self.play())


def _check(seeds: Sequence[int], k: int, agent_batches: int) -> None:
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise ValueError(f"seeds must be integers, got {seed!r}")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be distinct and not negative, got {tuple(seeds)}")
    for name, value in (("k", k), ("agent_batches", agent_batches)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if k % group.size():
        raise ValueError(f"{group.size()} processes cannot share k = {k} episodes evenly")
