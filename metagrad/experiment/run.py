"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import contextlib
import shlex
import time
<<<<<<< HEAD
from dataclasses import fields, is_dataclass, replace
=======
from collections.abc import Iterator, Sequence
from dataclasses import replace
>>>>>>> t-gtb
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
<<<<<<< HEAD
from metagrad.tasks import game, starting_point
=======
from metagrad.tasks import game
from metagrad.trainer import Evaluator, Trainer

DTYPES = {"float32": torch.float32, "float64": torch.float64}


# ---------------------------------------------------------------------- the trainers of a run


class Learners:
    """The trainers of a run: one for all seeds side by side, or one a seed where networks do not stack.

    Parameters
    ----------
    experiment : Experiment

    Raises
    ------
    ConfigError
        If the machine cannot do what is asked.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, run = experiment, experiment.run
        size.check(experiment)
        torch.set_num_threads(min(run.threads, os.cpu_count() or 1))
        stacks = all(getattr(part, "stacks", True) for part in (*trees(experiment.agents), *trees(experiment.designer)))
        groups = [run.seeds] if stacks else [(seed,) for seed in run.seeds]
        try:
            torch.zeros(1, device=run.device).numpy(force=True)
            self.trainers = [self._trainer(seeds) for seeds in groups]
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(f"this run is too large for the memory: {str(error).splitlines()[0]}") from error
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(f"device {run.device!r} cannot be used: {str(error).splitlines()[0]}") from error
        self.notes: dict[str, np.ndarray] = {}

    def _trainer(self, seeds: tuple[int, ...]) -> Trainer:
        e, run = self.experiment, self.experiment.run
        return Trainer(
            e.task, e.agents, e.designer, seeds=seeds, k=run.k, agent_batches=run.agent_batches, pipeline=run.pipeline,
            device=run.device, dtype=DTYPES[run.dtype],
        )  # fmt: skip

    @property
    def episode(self) -> int:
        """Training episodes of each seed so far."""
        return self.trainers[0].state.episodes

    @property
    def iteration(self) -> int:
        """Iterations so far."""
        return self.trainers[0].state.iteration

    @property
    def env_steps(self) -> np.ndarray:
        """Environment steps of each seed so far, ``[S]``."""
        return np.concatenate([t.env_steps for t in self.trainers])

    def next_episode(self) -> int:
        """Training episodes of each seed after one more iteration."""
        t = self.trainers[0]
        batches = (t.agent_batches - 1) + (t.state.pending is None) + (t.designer.validation != "none")
        return t.state.episodes + t.k * batches

    def iterate(self, diagnose: bool) -> None:
        """One iteration of every seed; ``diagnose`` asks for notes on the designer's gradient."""
        notes = [t.iterate(diagnose) for t in self.trainers]
        if diagnose:
            self.notes = {n: np.concatenate([one[n].double().cpu().numpy() for one in notes]) for n in notes[0]}

    def diverged(self) -> np.ndarray:
        """Whether anything that a seed has learned is no longer finite, bool ``[S]``."""
        return np.concatenate([t.diverged() for t in self.trainers])

    def evaluators(self, phase: str, episodes: int) -> Evaluators:
        """Fresh episodes for scoring."""
        return Evaluators([Evaluator(t, phase, episodes) for t in self.trainers])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that decides how training goes on, by name."""
        return _prefixed(t.tensors() for t in self.trainers)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`; nothing is changed if they do not fit."""
        parts = [_below(tensors, i) for i in range(len(self.trainers))]
        for t, part in zip(self.trainers, parts, strict=True):
            t.load(part, dry=True)
        for t, part in zip(self.trainers, parts, strict=True):
            t.load(part)

    def adopt(self, tensors: dict[str, Tensor], theirs: Experiment) -> None:
        """Start with the agents of another run, seed by seed."""
        for t in self.trainers:
            t.adopt(agents_of(t.seeds, tensors, theirs))


def _shown(seeds: tuple[int, ...]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def agents_of(seeds: Sequence[int], tensors: dict[str, Tensor], theirs: Experiment) -> dict[str, Tensor]:
    """Agents of some seeds as one trainer has them, from those of a run, be they of one trainer or of one a seed."""
    agents = dict(zip(theirs.run.seeds, _by_seed(tensors, len(theirs.run.seeds)), strict=True))
    missing = [seed for seed in seeds if seed not in agents]
    if missing:
        raise ConfigError(f"it has no agents of seed {missing[0]}, but of seeds {_shown(theirs.run.seeds)}")
    return _side_by_side([agents[seed] for seed in seeds])


def _by_seed(tensors: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
    """The agents of each of ``n`` seeds, be they of one trainer for all or of one each."""
    agents = {name: t for name, t in tensors.items() if name.split("/")[1] == "agents"}
    if any(name.startswith("1/") for name in agents):
        return [_below(agents, i) for i in range(n)]
    stacked = {name: t.chunk(n) if t.dim() else (t,) * n for name, t in _below(agents, 0).items()}
    return [{name: parts[i] for name, parts in stacked.items()} for i in range(n)]


def _side_by_side(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The agents of one trainer from those of its seeds; counts are the same for all."""
    return {name: torch.cat([p[name] for p in parts]) if t.dim() else t for name, t in parts[0].items()}


def _prefixed(parts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{i}/{name}": t for i, part in enumerate(parts) for name, t in part.items()}


def _below(tensors: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    prefix = f"{i}/"
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


class Evaluators:
    """Evaluations of all seeds."""

    def __init__(self, parts: list[Evaluator]) -> None:
        self.parts = parts

    def __call__(self) -> dict[str, np.ndarray]:
        """Scores of every seed."""
        scores = [part() for part in self.parts]
        return {name: np.concatenate([np.asarray(one[name], float) for one in scores]) for name in scores[0]}

    def tensors(self) -> dict[str, Tensor]:
        """Positions of the random streams, for checkpoints."""
        return _prefixed(part.tensors() for part in self.parts)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        for i, part in enumerate(self.parts):
            part.load(_below(tensors, i))

>>>>>>> t-gtb

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
