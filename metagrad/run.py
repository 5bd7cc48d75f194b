"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from metagrad import checkpoint, fitting, size
from metagrad.checkpoint import CheckpointError
from metagrad.config import AnyConfig, ConfigError, EconomyConfig, from_dict, to_dict
from metagrad.folder import Held, RunError, explained, read_config, read_results, without_checkpoint, write_results
from metagrad.games import kit
from metagrad.log import LiveProgress, Metrics, first_solved, read_metrics, results, results_table
from metagrad.presets import needs_agents
from metagrad.stopping import Stopping, resume_command

__all__ = ["RunError", "evaluate", "load_learner", "read_config", "read_results", "resume", "start", "summarise"]


def start(config: AnyConfig, folder: Path, console: Console) -> dict:
    """Train a new run in ``folder``, which must not exist yet or be empty.

    Returns
    -------
    dict
        The summary that is written to results.json.

    Raises
    ------
    Stopped
        By a signal; the run can be resumed.
    """
    with Stopping(folder) as stopping:
        with explained(folder):
            # One who was killed while it was written leaves an unfinished config.json behind.
            present = set(folder.iterdir()) if folder.is_dir() else set()
            taken = present - {checkpoint.unfinished(folder / "config.json")} or folder.is_file()
        if taken:
            raise RunError(f"{folder} exists already: choose another --out, or go on with `{resume_command(folder)}`")
        needs_agents(config)
        learner = _make_learner(config)  # what cannot work fails before anything is written
        _adopt(learner)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(folder / "config.json", json.dumps(to_dict(config), indent=1) + "\n")
            with Held(folder) as held:
                return _Training(learner, held, console).run(stopping)


def resume(folder: Path, console: Console) -> dict:
    """Go on with a run from its last checkpoint; one that never had any starts again, and a finished one stays."""
    config = read_config(folder)
    with Stopping(folder) as stopping, Held(folder) as held:
        begun = bool(checkpoint.saved(folder / "checkpoints"))
        if not begun and (reason := without_checkpoint(folder, config)):
            raise RunError(f"no checkpoint in {folder / 'checkpoints'}, though {reason}; nothing was changed")
        learner = _make_learner(config)
        if not begun:
            _adopt(learner)
        training = _Training(learner, held, console)
        if begun:
            training.restore()
            if learner.episode >= config.episodes and (summary := _finished(folder)):
                console.print(results_table(summary))
                return summary
        with explained(folder):
            return training.run(stopping)


def _finished(folder: Path) -> dict | None:
    """The results of a run that has all its training behind it, if it wrote them."""
    try:
        return read_results(folder)
    except RunError:
        return None


def load_learner(folder: Path) -> Any:
    """The learner of a run as of its last checkpoint."""
    config = read_config(folder)
    learner = _make_learner(config)
    _restore(learner, folder)
    return learner


def _restore(learner: Any, folder: Path, evaluator: Any = None) -> dict[str, Any]:
    """Take over the newest checkpoint, with the evaluator's streams, and return its plain values.

    Nothing changes if it does not fit. Options that are younger than it have their defaults.
    """
    config = learner.config
    tensors, values = checkpoint.load(
        folder / "checkpoints", to_dict(config), lambda theirs: to_dict(from_dict(theirs, type(config)))
    )
    try:
        fitting.check_like("", {"wall_time": 0.0, "metrics_size": 0}, values)
        if evaluator is not None:
            fitting.check_like("", {"eval_streams": evaluator.counters()}, values)
        learner.load_state(tensors, values)
    except (fitting.MisfitError, KeyError) as error:
        newest = checkpoint.saved(folder / "checkpoints")[-1]
        raise CheckpointError(f"checkpoint {newest} does not fit this run: {error}; nothing was changed") from error
    if evaluator is not None:
        evaluator.set_counters(values["eval_streams"])
    return values


def evaluate(folder: Path, episodes: int | None = None) -> tuple[Any, Any]:
    """Test the last checkpoint of a run on fresh episodes; the default repeats the run's own test."""
    learner = load_learner(folder)
    config = learner.config
    if episodes is not None:
        size.check(replace(config, test_episodes=episodes))
    evaluator = kit(config).evaluator(config, "test", episodes or config.test_episodes)
    return learner, evaluator(learner)


def summarise(folder: Path, learner: Any, scores: Any, seconds: float) -> dict:
    """Summary of a run with the given test scores."""
    config = learner.config
    metrics = read_metrics(folder / "metrics.csv")
    name, target = scores.FIELDS[0], config.target
    solved_at = [float("nan")] * len(config.seeds)
    if target is not None:
        # The test is the last look at a seed: one that passes it has passed, if not before.
        solved_at = [
            first_solved(metrics, name, seed, target, learner.episode if passed else float("nan"))
            for seed, passed in zip(config.seeds, scores.score > target, strict=True)
        ]
    return results(config, scores, solved_at, learner.diverged(), seconds)


class _Training:
    """The course of a run, from a learner that is new or as of a checkpoint, to its results."""

    def __init__(self, learner: Any, held: Held, console: Console) -> None:
        self.learner, self.held, self.console = learner, held, console
        self.config, self.folder = learner.config, held.folder
        self.evaluator = kit(self.config).evaluator(self.config, "eval", self.config.eval_episodes)
        self.seconds_before, self.metrics_size = 0.0, 0
        self.restored = False

    def restore(self) -> None:
        """Go on from the newest checkpoint; nothing changes if it or the metrics are damaged."""
        values = _restore(self.learner, self.folder, self.evaluator)
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

    def run(self, stopping: Stopping) -> dict:
        """Train to the end, save, test, and write the results."""
        self.began = time.perf_counter()
        if not self.restored:
            # Before there are metrics: metrics without a checkpoint are of a run that has lost it.
            self._save(0)
        with Metrics(self.folder / "metrics.csv", self.metrics_size) as metrics:
            self.held.watch(metrics.path, metrics.fileno())
            with stopping.deferred(), LiveProgress(self.config, self.learner.episode, self.console) as progress:
                self._train(metrics, progress, stopping)
                self._save(metrics.size())
        scores = kit(self.config).evaluator(self.config, "test", self.config.test_episodes)(self.learner)
        self.held.check()
        summary = summarise(self.folder, self.learner, scores, self.seconds)
        write_results(self.folder, summary)
        self.console.print(results_table(summary))
        return summary

    def _train(self, metrics: Metrics, progress: LiveProgress, stopping: Stopping) -> None:
        config, learner = self.config, self.learner
        first = learner.episode
        while learner.episode < config.episodes and stopping.asked is None:
            last = learner.episode
            learner.iterate()
            self.held.check()
            episode = learner.episode
            if episode // config.eval_period > last // config.eval_period:
                scores = self.evaluator(learner)
                metrics.write(_rows(learner, scores, self.seconds))
                rate = (episode - first) * len(config.seeds) / (self.seconds - self.seconds_before)
                progress.update(episode, rate, scores.headline())
            if episode // config.checkpoint_period > last // config.checkpoint_period:
                self._save(metrics.size())

    def _save(self, metrics_size: int) -> None:
        self.held.check()
        tensors, values = self.learner.state()
        values["eval_streams"] = self.evaluator.counters()
        values["wall_time"] = self.seconds
        values["metrics_size"] = metrics_size
        checkpoint.save(self.folder / "checkpoints", self.learner.episode, tensors, values, to_dict(self.config))


def _rows(learner: Any, scores: Any, seconds: float) -> list[dict]:
    diverged = learner.diverged()
    return [
        {
            "seed": seed,
            "episode": learner.episode,
            "iteration": learner.iteration,
            "env_steps": int(learner.env_steps[s]),
            "wall_time": round(seconds, 3),
            "diverged": int(diverged[s]),
            **{name: float(f"{value:.6g}") for name, value in scores.row(s).items()},
        }
        for s, seed in enumerate(learner.config.seeds)
    ]


def _adopt(learner: Any) -> None:
    """Give a new learner the agents that its configuration names."""
    source = getattr(learner.config, "init_from", "")
    if not source:
        return
    folder = Path(source)
    try:
        theirs = read_config(folder)
        if theirs.game_name != learner.config.game_name:
            raise ConfigError(f"it is a run of {theirs.game_name}, not of {learner.config.game_name}")
        newest = checkpoint.saved(folder / "checkpoints")
        if newest and int(newest[-1].name) < theirs.episodes:
            done = f"{int(newest[-1].name):,} of {theirs.episodes:,} episodes"
            raise ConfigError(f"it has trained {done}; finish it with `{resume_command(folder)}`")
        tensors, values = checkpoint.load(folder / "checkpoints")
        learner.adopt(tensors, values)
    except (RunError, ConfigError, CheckpointError, fitting.MisfitError) as error:
        raise ConfigError(f"init_from {source}: {error}") from error


def _make_learner(config: AnyConfig) -> Any:
    """The learner of a configuration; what the machine cannot do is said in a line."""
    size.check(config)
    # The economy's networks share rows out among threads themselves.
    torch.set_num_threads(1 if isinstance(config, EconomyConfig) else min(config.threads, os.cpu_count() or 1))
    try:
        torch.zeros(1, device=config.device).numpy(force=True)
        return kit(config).learner(config)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(f"this run is too large for the memory: {str(error).splitlines()[0]}") from error
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {config.device!r} cannot be used: {str(error).splitlines()[0]}") from error
