"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.console import Console

from metagrad.batch import below
from metagrad.checks import Bound, Checked, NonNegative
from metagrad.experiment import checkpoint, size
from metagrad.experiment.checkpoint import CheckpointError
from metagrad.experiment.config import ConfigError, Experiment, dump, to_dict
from metagrad.experiment.folder import (
    Held,
    NotHeld,
    RunError,
    begin,
    changed,
    explained,
    read_experiment,
    read_results,
    refuse_taken,
    write_changed,
    write_results,
)
from metagrad.experiment.learners import Evaluators, Learners, check_device
from metagrad.experiment.metrics import (
    LiveProgress,
    Metrics,
    Trackers,
    Unwritten,
    headline,
    read_metrics,
    results,
    row_of,
)
from metagrad.experiment.process import Stopping, resume_command
from metagrad.experiment.registry import flags, game, starting_point
from metagrad.parallel import group
from metagrad.parallel.launch import orphaned


def train(
    experiment: Experiment,
    folder: Path | str,
    console: Console | None = None,
    track: Sequence[str] = (),
    until: int | None = None,
) -> dict[str, Any]:
    """Train a new run in ``folder``, which must not exist yet or be empty; returns what is written to results.json.

    Parameters
    ----------
    experiment : Experiment
        What to train.
    folder : Path or str
        Where the run's files go.
    console : rich.console.Console, optional
        Where progress is printed.
    track : sequence of str
        Who is told the metrics beside metrics.csv: ``tensorboard``, ``wandb``.
    until : int, optional
        Episodes after which to stop at a checkpoint, without results, if the run is longer; :func:`resume` goes on.

    Raises
    ------
    RunError, ConfigError
        If it cannot start or go on; the message says why.
    Stopped
        By a signal; the run can be resumed.
    """
    folder, console = Path(folder), console or Console(markup=False, emoji=False, highlight=False)
    trackers = Trackers(track)
    _join(experiment)
    if group.follows():
        learners = Learners(experiment)
        learners.trial()
        _adopt(learners)
        with Stopping(folder) as stopping, NotHeld(folder) as held:
            return _Training(learners, held, console, Trackers(())).run(stopping, until)
    with Stopping(folder) as stopping:
        with explained(folder):
            refuse_taken(folder, "config.json", resume_command(folder))
        text = dump(experiment)
        learners = Learners(experiment)  # what cannot work fails before anything is written
        learners.trial()
        _adopt(learners)
        with explained(folder), begin(folder, "config.json", text, resume_command(folder)) as held:
            return _Training(learners, held, console, trackers).run(stopping, until)


def resume(
    folder: Path, console: Console, track: Sequence[str] = (), until: int | None = None, **changes: Any
) -> dict[str, Any]:
    """Go on with a run from its last checkpoint; one that never had any starts again, and a finished one stays.

    ``until`` is as for :func:`train`. ``changes`` are options of the run that need not stay as they were: ``device``,
    ``threads``, and ``episodes``, so that a finished run goes on.
    """
    check_device(changes.get("device", "cpu"))
    experiment, trackers = changed(folder, changes), Trackers(() if group.follows() else track)
    _join(experiment)
    with Stopping(folder) as stopping, (NotHeld if group.follows() else Held)(folder) as held:
        begun = bool(checkpoint.saved(folder / "checkpoints"))
        if not begun and (reason := _without_checkpoint(folder)):
            raise RunError(f"no checkpoint in {folder / 'checkpoints'}, though {reason}; nothing was changed")
        learners = Learners(experiment)
        training = _Training(learners, held, console, trackers)
        if begun:
            training.restore()
        else:
            _adopt(learners)
        write_changed(held, experiment)
        if begun and learners.episode >= experiment.run.episodes:
            with contextlib.suppress(RunError):  # it has not written its results, or they are damaged
                return read_results(folder)
        with explained(folder):
            return training.run(stopping, until)


def _without_checkpoint(folder: Path) -> str:
    """Why a run that has no checkpoint must have had one; empty if it never had any whole one.

    The first checkpoint is whole before metrics.csv is made.
    """
    if (folder / "results.json").exists():
        return "this run is finished"
    path = folder / "metrics.csv"
    return "this run had one" if path.is_file() and path.stat().st_size else ""


def load_learners(folder: Path) -> Learners:
    """The learners of a run as of its last checkpoint."""
    learners = Learners(read_experiment(folder))
    _restore(learners, folder, learners.evaluators("eval", learners.experiment.run.eval_episodes))
    return learners


@dataclass(frozen=True)
class _Sitting(Checked):
    """What a checkpoint knows beside tensors: seconds of training, and bytes of metrics.csv."""

    wall_time: NonNegative = 0.0
    metrics_size: Annotated[int, Bound(0, 2**63 - 1)] = 0


def _restore(learners: Learners, folder: Path, evaluators: Evaluators) -> _Sitting:
    """Take over the newest checkpoint, with the evaluators' streams; nothing changes if it does not fit."""
    tensors, values = checkpoint.load(folder / "checkpoints", to_dict(learners.experiment))
    newest = checkpoint.saved(folder / "checkpoints")[-1]
    try:
        sitting = _Sitting(values.get("wall_time"), values.get("metrics_size"))  # type: ignore[arg-type]
        training, evaluation = below(tensors, "training/"), below(tensors, "eval/")
        if len(training) + len(evaluation) < len(tensors):
            raise ValueError("it holds tensors of another kind")
        evaluators.load(evaluation, dry=True)
        learners.load(training)
        if learners.episode != int(newest.name):
            raise ValueError(f"it is of episode {learners.episode:,}")
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {newest} does not fit this run: {error}; nothing was changed") from error
    evaluators.load(evaluation)
    return sitting


def evaluate(folder: Path, episodes: int | None = None) -> dict[str, Any]:
    """Test the last checkpoint of a run on fresh episodes; the default repeats the run's own test."""
    learners = load_learners(folder)
    experiment = learners.experiment
    if episodes is not None:
        experiment = replace(experiment, run=replace(experiment.run, test_episodes=episodes))
        size.check(experiment)
    scores = learners.evaluators("test", experiment.run.test_episodes)()
    metrics = read_metrics(folder / "metrics.csv")
    return results(experiment, scores, metrics, learners.diverged(), learners.episode, seconds=0.0)


class _Training:
    """The course of a run, from learners that are new or as of a checkpoint, to its results."""

    def __init__(self, learners: Learners, held: Held | NotHeld, console: Console, trackers: Trackers) -> None:
        self.learners, self.held, self.console, self.trackers = learners, held, console, trackers
        self.experiment, self.folder = learners.experiment, held.folder
        self.evaluators = learners.evaluators("eval", self.experiment.run.eval_episodes)
        self.before = _Sitting()  # what an earlier sitting left

    def restore(self) -> None:
        """Go on from the newest checkpoint; nothing changes if it or the metrics are damaged."""
        self.before = _restore(self.learners, self.folder, self.evaluators)
        path, known = self.folder / "metrics.csv", self.before.metrics_size
        found = path.stat().st_size if path.exists() else 0
        if found < known:
            raise RunError(
                f"{path} is damaged: it has {found} bytes, the last checkpoint knew {known}; nothing was changed"
            )
        read_metrics(path, known)

    @property
    def seconds(self) -> float:
        """Wall time of all sittings."""
        return self.before.wall_time + time.perf_counter() - self.began

    def run(self, stopping: Stopping, until: int | None = None) -> dict[str, Any]:
        """Train to the end, save, test, and write the results; or train until an earlier episode, and save."""
        self.began = time.perf_counter()
        run, learners = self.experiment.run, self.learners
        last = min(run.episodes, until or run.episodes)
        # Before there are metrics: metrics without a checkpoint are of a run that has lost it.
        self._save(self.before.metrics_size)
        file = Unwritten() if group.follows() else Metrics(self.folder / "metrics.csv", self.before.metrics_size)
        with file as metrics:
            self.held.watch(metrics.path, metrics.fileno())
            follow = self.trackers.following(self.folder, self.experiment, self.before.metrics_size)
            progress = LiveProgress(self.experiment, learners.episode, self.console)
            with stopping.deferred(), follow, progress:
                self._train(metrics, progress, stopping, last)
                self._save(metrics.size())
        if learners.episode < run.episodes:
            return {}
        scores, diverged = learners.evaluators("test", run.test_episodes)(), learners.diverged()
        if group.follows():
            return {}
        self.held.check()
        seen = read_metrics(self.folder / "metrics.csv")
        summary = results(self.experiment, scores, seen, diverged, learners.episode, self.seconds)
        write_results(self.folder, summary)
        return summary

    def _train(self, metrics: Metrics | Unwritten, progress: LiveProgress, stopping: Stopping, end: int) -> None:
        run, learners = self.experiment.run, self.learners
        first, began = learners.episode, time.perf_counter()
        while learners.episode < end and not self._asked(stopping):
            last, coming = learners.episode, learners.next_episode()
            evaluates = coming // run.eval_period > last // run.eval_period
            learners.iterate(diagnose=evaluates)
            self.held.check()
            episode = learners.episode
            if evaluates:
                scores = self.evaluators()
                self.trackers.write(metrics.write(self._rows(scores)))
                rate = (episode - first) * len(run.seeds) / (time.perf_counter() - began)
                progress.update(episode, rate, headline(self.experiment.task, scores))
            if episode // run.checkpoint_period > last // run.checkpoint_period:
                self._save(metrics.size())

    @staticmethod
    def _asked(stopping: Stopping) -> bool:
        """Whether this process, or another of its group, was asked to stop."""
        asked = group.agreed(stopping.asked or (signal.SIGHUP if orphaned() else 0))
        if asked:  # another signal may have come meanwhile
            stopping.asked = asked
        return asked > 0

    def _rows(self, scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        learners, diverged, steps = self.learners, self.learners.diverged(), self.learners.env_steps()
        if group.follows():
            return []
        shown = {**scores, **learners.notes, **scores}  # a score keeps its name and its place
        return [
            {
                "seed": seed, "episode": learners.episode, "iteration": learners.iteration,
                "env_steps": int(steps[s]), "wall_time": round(self.seconds, 3), "diverged": int(diverged[s]),
                **{name: float(f"{value:.6g}") for name, value in row_of(shown, s).items()},
            }
            for s, seed in enumerate(self.experiment.run.seeds)
        ]  # fmt: skip

    def _save(self, metrics_size: int) -> None:
        self.held.check()
        tensors = {f"training/{n}": t for n, t in self.learners.tensors().items()}
        tensors |= {f"eval/{n}": t for n, t in self.evaluators.tensors().items()}
        values = {"wall_time": self.seconds, "metrics_size": metrics_size}
        folder, number = self.folder / "checkpoints", self.learners.episode
        if group.follows():
            return
        checkpoint.save(folder, number, tensors, values, to_dict(self.experiment))


def _join(experiment: Experiment) -> None:
    """Enter the group of processes, which share the seeds where each seed trains for itself."""
    group.join(experiment.run.device, 1 if experiment.designer.pooled else len(experiment.run.seeds))


def _adopt(learners: Learners) -> None:
    """Give new learners the agents that the experiment names."""
    source = learners.experiment.run.init_from
    if source is None:
        return
    try:
        if not source:
            raise ConfigError(_first_phase(learners.experiment))
        folder = Path(source)
        theirs = read_experiment(folder)
        if theirs.game != learners.experiment.game:
            raise ConfigError(f"it is a run of {theirs.game}, not of {learners.experiment.game}")
        newest = checkpoint.saved(folder / "checkpoints")
        if newest and int(newest[-1].name) < theirs.run.episodes:
            done = f"{int(newest[-1].name):,} of {theirs.run.episodes:,} episodes"
            raise ConfigError(f"it has trained {done}; finish it with `{resume_command(folder)}`")
        tensors, _ = checkpoint.load(folder / "checkpoints")
        try:
            learners.adopt(below(tensors, "training/"), theirs)
        except ValueError as error:
            raise ConfigError(f"{error}{_other_sight(learners.experiment.task, theirs.task)}") from error
    except (RunError, ConfigError, CheckpointError, ValueError) as error:
        raise ConfigError(f"init_from {source}: {error}" if source else str(error)) from error


def _other_sight(mine: Any, theirs: Any) -> str:
    """That the agents of two games observe arrays of other shapes, and by which options; empty if they do not."""
    if mine.interface.agents == theirs.interface.agents:
        return ""
    return f"; its agents see other things than agents do here, by {shlex.join(flags(theirs, mine, 'task.'))}"


def _first_phase(experiment: Experiment) -> str:
    """What to do where a phase goes on with agents that are not named."""
    seeds, first = experiment.run.seeds, getattr(game(experiment.game), "FIRST_PHASE", "")
    base, task = starting_point(experiment), experiment.task
    options = [experiment.game, *shlex.split(first), "--seeds", str(len(seeds)), "--first-seed", str(seeds[0])]
    options += flags(base.task, task, "task.") if base is not None and type(base.task) is type(task) else []
    options += ["--out", "runs/agents"]
    return (
        f"preset {experiment.preset} starts with agents that have learned before: make them with "
        f"`metagrad train {shlex.join(options)}`, and add `--init-from runs/agents`"
    )
