"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import torch
from rich.console import Console

from metagrad import checkpoint
from metagrad.config import Config, ConfigError, load, to_dict
from metagrad.evaluate import Evaluator, Scores
from metagrad.log import LiveProgress, Metrics, first_solved, read_metrics, results, results_table
from metagrad.train import Learner


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


def start(config: Config, folder: Path, console: Console) -> dict:
    """Train a new run in ``folder``, which must not exist yet or be empty.

    Returns
    -------
    dict
        The summary that is written to results.json.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{folder} exists already: choose another --out, or go on with `metagrad train --resume {folder}`"
        )
    _check_device(config)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / "config.json", json.dumps(to_dict(config), indent=1) + "\n")
        return _train(config, folder, console, resumed=False)


def resume(folder: Path, console: Console) -> dict:
    """Go on with a run from its last checkpoint; one that was killed before the first starts again."""
    config = read_config(folder)
    _check_device(config)
    has_checkpoint = any((folder / "checkpoints").glob("[0-9]*"))
    with _explained(folder):
        return _train(config, folder, console, resumed=has_checkpoint)


def read_config(folder: Path) -> Config:
    """Configuration of a run."""
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder} is not a run: it has no config.json")
    return load(folder / "config.json")


def read_results(folder: Path) -> dict:
    """Summary that a finished run wrote."""
    path = folder / "results.json"
    if not path.is_file():
        raise RunError(f"{folder} has no results yet; finish it with `metagrad train --resume {folder}`")
    return json.loads(path.read_text())


def load_learner(folder: Path) -> Learner:
    """The learner of a run as of its last checkpoint."""
    config = read_config(folder)
    _check_device(config)
    learner = Learner(config)
    learner.load_state(*checkpoint.load(folder / "checkpoints", to_dict(config)))
    return learner


def evaluate(folder: Path, episodes: int | None = None) -> tuple[Learner, Scores]:
    """Test the last checkpoint of a run on fresh episodes; the default repeats the run's own test."""
    learner = load_learner(folder)
    evaluator = Evaluator(learner.config, "test", episodes or learner.config.test_episodes)
    return learner, evaluator(learner)


def summarise(folder: Path, learner: Learner, scores: Scores, seconds: float) -> dict:
    """Summary of a run with the given test scores."""
    config = learner.config
    metrics = read_metrics(folder / "metrics.csv")
    solved_at = [first_solved(metrics, s, config.target) if metrics else float("nan") for s in config.seeds]
    return results(config, scores, solved_at, learner.diverged(), seconds)


def _train(config: Config, folder: Path, console: Console, resumed: bool) -> dict:
    torch.set_num_threads(config.threads)
    learner = Learner(config)
    evaluator = Evaluator(config, "eval", config.eval_episodes)
    before, size = 0.0, 0
    if resumed:
        tensors, values = checkpoint.load(folder / "checkpoints", to_dict(config))
        before, size = values["wall_time"], values["metrics_size"]
        for name, streams in evaluator.streams.items():
            streams.counter[:] = values["eval_streams"][name]
        evaluator.env.streams.counter[:] = values["eval_streams"]["environment"]
        learner.load_state(tensors, values)
    metrics = Metrics(folder / "metrics.csv", size)
    began, first = time.perf_counter(), learner.episode

    def save() -> None:
        tensors, values = learner.state()
        streams = {**evaluator.streams, "environment": evaluator.env.streams}
        values["eval_streams"] = {name: s.counter.tolist() for name, s in streams.items()}
        values["wall_time"] = before + time.perf_counter() - began
        values["metrics_size"] = metrics.size()
        checkpoint.save(folder / "checkpoints", learner.episode, tensors, values, to_dict(config))

    with LiveProgress(config, learner.episode, console) as progress:
        while learner.episode < config.episodes:
            last = learner.episode
            learner.iterate()
            episode = learner.episode
            if episode // config.eval_period > last // config.eval_period:
                scores = evaluator(learner)
                seconds = time.perf_counter() - began
                metrics.write(_rows(learner, scores, before + seconds))
                progress.update(episode, (episode - first) * len(config.seeds) / seconds, scores)
            if episode // config.checkpoint_period > last // config.checkpoint_period:
                save()
    save()
    metrics.close()
    seconds = before + time.perf_counter() - began
    scores = Evaluator(config, "test", config.test_episodes)(learner)
    summary = summarise(folder, learner, scores, seconds)
    checkpoint.write_text(folder / "results.json", json.dumps(summary, indent=1) + "\n")
    console.print(results_table(summary))
    return summary


def _rows(learner: Learner, scores: Scores, seconds: float) -> list[dict]:
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


def _check_device(config: Config) -> None:
    try:
        torch.zeros(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {config.device!r} cannot be used: {str(error).splitlines()[0]}") from error


class _explained:
    """Turns a failed write into a message that says what is safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
            raise RunError(
                f"cannot write to {self.folder}: {reason}. What was saved before is intact; "
                f"afterwards go on with `metagrad train --resume {self.folder}`"
            ) from error
