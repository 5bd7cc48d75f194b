"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import Tensor

from metagrad.experiment import checkpoint, size
from metagrad.experiment.checkpoint import CheckpointError
from metagrad.experiment.config import ConfigError, Experiment, dump, to_dict
from metagrad.experiment.folder import (
    Held,
    RunError,
    explained,
    read_experiment,
    read_results,
    without_checkpoint,
    write_results,
)
from metagrad.experiment.learners import Evaluators, Learners
from metagrad.experiment.metrics import LiveProgress, Metrics, headline, read_metrics, results, results_table, row_of
from metagrad.experiment.process import Stopping, resume_command
from metagrad.experiment.registry import game, starting_point

# ---------------------------------------------------------------------- start, resume, evaluate


def train(experiment: Experiment, folder: Path | str, console: Console | None = None) -> dict[str, Any]:
    """Train a new run in ``folder``, which must not exist yet or be empty.

    Parameters
    ----------
    experiment : Experiment
        What to train.
    folder : Path or str
        Where the run's files go.
    console : rich.console.Console, optional
        Where progress and the table at the end are printed.

    Returns
    -------
    dict
        The summary that is written to results.json.

    Raises
    ------
    RunError, ConfigError
        If it cannot start or go on; the message says why.
    Stopped
        By a signal; the run can be resumed.
    """
    folder, console = Path(folder), console or Console(markup=False, emoji=False, highlight=False)
    with Stopping(folder) as stopping:
        with explained(folder):
            # One who was killed while it was written leaves an unfinished config.json behind.
            present = set(folder.iterdir()) if folder.is_dir() else set()
            taken = present - {checkpoint.unfinished(folder / "config.json")} or folder.is_file()
        if taken:
            raise RunError(f"{folder} exists already: choose another --out, or go on with `{resume_command(folder)}`")
        text = dump(experiment)
        learners = Learners(experiment)  # what cannot work fails before anything is written
        learners.check_scores()
        _adopt(learners)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(folder / "config.json", text)
            with Held(folder) as held:
                return _Training(learners, held, console).run(stopping)


def resume(folder: Path, console: Console) -> dict[str, Any]:
    """Go on with a run from its last checkpoint; one that never had any starts again, and a finished one stays."""
    experiment = read_experiment(folder)
    with Stopping(folder) as stopping, Held(folder) as held:
        begun = bool(checkpoint.saved(folder / "checkpoints"))
        if not begun and (reason := without_checkpoint(folder)):
            raise RunError(f"no checkpoint in {folder / 'checkpoints'}, though {reason}; nothing was changed")
        learners = Learners(experiment)
        if not begun:
            _adopt(learners)
        training = _Training(learners, held, console)
        if begun:
            training.restore()
            if learners.episode >= experiment.run.episodes and (summary := _finished(folder)):
                _shown(console, results_table(summary))
                return summary
        with explained(folder):
            return training.run(stopping)


def _finished(folder: Path) -> dict[str, Any] | None:
    """The results of a run that has all its training behind it, if it wrote them."""
    try:
        return read_results(folder)
    except RunError:
        return None


def load_learners(folder: Path) -> Learners:
    """The learners of a run as of its last checkpoint."""
    learners = Learners(read_experiment(folder))
    _restore(learners, folder)
    return learners


def _restore(learners: Learners, folder: Path, evaluators: Evaluators | None = None) -> dict[str, Any]:
    """Take over the newest checkpoint, with the evaluators' streams, and return its plain values.

    Nothing changes if it does not fit.
    """
    tensors, values = checkpoint.load(folder / "checkpoints", to_dict(learners.experiment))
    newest = checkpoint.saved(folder / "checkpoints")[-1]
    try:
        _check_values(values)
        training, evaluation = (_starting(tensors, prefix) for prefix in ("training/", "eval/"))
        if len(training) + len(evaluation) < len(tensors):
            raise ValueError("it holds tensors of another kind")
        (evaluators or learners.evaluators("eval", learners.experiment.run.eval_episodes)).load(evaluation, dry=True)
        learners.load(training)
        if learners.episode != int(newest.name):
            raise ValueError(f"it is of episode {learners.episode:,}")
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint {newest} does not fit this run: {error}; nothing was changed") from error
    if evaluators is not None:
        evaluators.load(evaluation)
    return values


def _starting(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _check_values(values: dict[str, Any]) -> None:
    """Refuse plain values of a checkpoint that are not numbers as they should be."""
    seconds, size_of_metrics = values.get("wall_time"), values.get("metrics_size")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError("wall_time must be a number of seconds")
    if isinstance(size_of_metrics, bool) or not isinstance(size_of_metrics, int) or not 0 <= size_of_metrics < 2**63:
        raise ValueError("metrics_size must be a number of bytes")


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

    def __init__(self, learners: Learners, held: Held, console: Console) -> None:
        self.learners, self.held, self.console = learners, held, console
        self.experiment, self.folder = learners.experiment, held.folder
        self.evaluators = learners.evaluators("eval", self.experiment.run.eval_episodes)
        self.seconds_before, self.metrics_size = 0.0, 0
        self.restored = False

    def restore(self) -> None:
        """Go on from the newest checkpoint; nothing changes if it or the metrics are damaged."""
        values = _restore(self.learners, self.folder, self.evaluators)
        self.seconds_before, self.metrics_size = values["wall_time"], values["metrics_size"]
        self.restored = True
        path = self.folder / "metrics.csv"
        found = path.stat().st_size if path.exists() else 0
        if found < self.metrics_size:
            raise RunError(
                f"{path} is damaged: it has {found} bytes, the last checkpoint knew {self.metrics_size}; "
                "nothing was changed"
            )
        read_metrics(path, self.metrics_size)

    @property
    def seconds(self) -> float:
        """Wall time of all sittings."""
        return self.seconds_before + time.perf_counter() - self.began

    def run(self, stopping: Stopping) -> dict[str, Any]:
        """Train to the end, save, test, and write the results."""
        self.began = time.perf_counter()
        if not self.restored:
            # Before there are metrics: metrics without a checkpoint are of a run that has lost it.
            self._save(0)
        with Metrics(self.folder / "metrics.csv", self.metrics_size) as metrics:
            self.held.watch(metrics.path, metrics.fileno())
            with stopping.deferred(), LiveProgress(self.experiment, self.learners.episode, self.console) as progress:
                self._train(metrics, progress, stopping)
                self._save(metrics.size())
        scores = self.learners.evaluators("test", self.experiment.run.test_episodes)()
        self.held.check()
        seen = read_metrics(self.folder / "metrics.csv")
        learners = self.learners
        summary = results(self.experiment, scores, seen, learners.diverged(), learners.episode, self.seconds)
        write_results(self.folder, summary)
        _shown(self.console, results_table(summary))
        return summary

    def _train(self, metrics: Metrics, progress: LiveProgress, stopping: Stopping) -> None:
        run, learners = self.experiment.run, self.learners
        first = learners.episode
        while learners.episode < run.episodes and stopping.asked is None:
            last, coming = learners.episode, learners.next_episode()
            evaluates = coming // run.eval_period > last // run.eval_period
            learners.iterate(diagnose=evaluates)
            self.held.check()
            episode = learners.episode
            if evaluates:
                scores = self.evaluators()
                metrics.write(self._rows(scores))
                rate = (episode - first) * len(run.seeds) / (self.seconds - self.seconds_before)
                progress.update(episode, rate, headline(self.experiment.task, scores))
            if episode // run.checkpoint_period > last // run.checkpoint_period:
                self._save(metrics.size())

    def _rows(self, scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        learners, diverged = self.learners, self.learners.diverged()
        shown = {**scores, **learners.notes}
        return [
            {
                "seed": seed,
                "episode": learners.episode,
                "iteration": learners.iteration,
                "env_steps": int(learners.env_steps[s]),
                "wall_time": round(self.seconds, 3),
                "diverged": int(diverged[s]),
                **{name: float(f"{value:.6g}") for name, value in row_of(shown, s).items()},
            }
            for s, seed in enumerate(self.experiment.run.seeds)
        ]

    def _save(self, metrics_size: int) -> None:
        self.held.check()
        tensors = {f"training/{n}": t for n, t in self.learners.tensors().items()}
        tensors |= {f"eval/{n}": t for n, t in self.evaluators.tensors().items()}
        values = {"wall_time": self.seconds, "metrics_size": metrics_size}
        number = self.learners.episode
        checkpoint.save(self.folder / "checkpoints", number, tensors, values, to_dict(self.experiment))


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
        learners.adopt(_starting(tensors, "training/"), theirs)
    except (RunError, ConfigError, CheckpointError, ValueError) as error:
        raise ConfigError(f"init_from {source}: {error}" if source else str(error)) from error


def _first_phase(experiment: Experiment) -> str:
    """What to do where a phase goes on with agents that are not named."""
    seeds, first = experiment.run.seeds, getattr(game(experiment.game), "FIRST_PHASE", "")
    options = [experiment.game, *shlex.split(first), "--seeds", str(len(seeds)), "--first-seed", str(seeds[0])]
    options += [*_flags(experiment), "--out", "runs/agents"]
    return (
        f"preset {experiment.preset} starts with agents that have learned before: make them with "
        f"`metagrad train {shlex.join(options)}`, and add `--init-from runs/agents`"
    )


def _flags(experiment: Experiment) -> list[str]:
    """Options of the game that are other than the preset's, as on the command line."""
    base, task = starting_point(experiment), experiment.task
    if base is None or not is_dataclass(task) or type(base.task) is not type(task):
        return []
    flags = []
    for f in fields(task):
        value, name = getattr(task, f.name), f.name.replace("_", "-")
        if value == getattr(base.task, f.name) or is_dataclass(value):
            continue
        if isinstance(value, bool):
            flags.append(f"--task.{name}" if value else f"--task.no-{name}")
        else:
            flags += [f"--task.{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return flags


def _shown(console: Console, table: Any) -> None:
    """Print; a terminal that is gone, as after a hang-up, does not keep a run from ending well."""
    with contextlib.suppress(OSError):
        console.print(table)
