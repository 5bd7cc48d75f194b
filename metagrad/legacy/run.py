"""A run is a folder: configuration, metrics as they come, checkpoints, results and figures."""

from __future__ import annotations

import errno
import fcntl
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from metagrad.legacy import checkpoint
from metagrad.legacy.config import AnyConfig, ConfigError, EconomyConfig, from_dict, load, to_dict
from metagrad.legacy.games import kit
from metagrad.legacy.log import LiveProgress, Metrics, first_solved, read_metrics, results, results_table


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


def start(config: AnyConfig, folder: Path, console: Console) -> dict:
    """Train a new run in ``folder``, which must not exist yet or be empty.

    Returns
    -------
    dict
        The summary that is written to results.json.
    """
    with _explained(folder):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise RunError(
            f"{folder} exists already: choose another --out, or go on with `metagrad train --resume {folder}`"
        )
    _adopt(_make_learner(config))  # what cannot work fails before anything is written
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / "config.json", json.dumps(to_dict(config), indent=1) + "\n")
        return _train(config, folder, console, resumed=False)


def resume(folder: Path, console: Console) -> dict:
    """Go on with a run from its last checkpoint; one that was killed before the first starts again."""
    config = read_config(folder)
    has_checkpoint = bool(checkpoint.saved(folder / "checkpoints"))
    if not has_checkpoint:
        metrics = read_metrics(folder / "metrics.csv")
        if (folder / "results.json").exists() or (metrics and metrics["episode"].max() > config.checkpoint_period):
            raise RunError(f"no checkpoint in {folder / 'checkpoints'}, though this run had one; nothing was changed")
    with _explained(folder):
        return _train(config, folder, console, resumed=has_checkpoint)


def read_config(folder: Path) -> AnyConfig:
    """Configuration of a run."""
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder} is not a run: it has no config.json")
    return load(folder / "config.json")


def read_results(folder: Path) -> dict:
    """Summary that a finished run wrote."""
    path = folder / "results.json"
    if not path.is_file():
        raise RunError(f"{folder} has no results yet; finish it with `metagrad train --resume {folder}`")
    try:
        summary = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    needed = {"fields", "seeds", "solved", "first_solved_episode", "diverged", "wall_time"}
    if not isinstance(summary, dict) or not {*needed, *summary.get("fields", ())} <= summary.keys():
        raise RunError(f"{path} does not hold the results of a run")
    return summary


def load_learner(folder: Path) -> Any:
    """The learner of a run as of its last checkpoint."""
    config = read_config(folder)
    learner = _make_learner(config)
    learner.load_state(*_load(folder, config))
    return learner


def _load(folder: Path, config: AnyConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest checkpoint of a run; options that are younger than it have their defaults."""
    return checkpoint.load(
        folder / "checkpoints", to_dict(config), lambda theirs: to_dict(from_dict(theirs, type(config)))
    )


def evaluate(folder: Path, episodes: int | None = None) -> tuple[Any, Any]:
    """Test the last checkpoint of a run on fresh episodes; the default repeats the run's own test."""
    learner = load_learner(folder)
    config = learner.config
    evaluator = kit(config).evaluator(config, "test", episodes or config.test_episodes)
    return learner, evaluator(learner)


def summarise(folder: Path, learner: Any, scores: Any, seconds: float) -> dict:
    """Summary of a run with the given test scores."""
    config = learner.config
    metrics = read_metrics(folder / "metrics.csv")
    score = scores.FIELDS[0]
    solved_at = [first_solved(metrics, score, s, config.target) if metrics else float("nan") for s in config.seeds]
    return results(config, scores, solved_at, learner.diverged(), seconds)


def _train(config: AnyConfig, folder: Path, console: Console, resumed: bool) -> dict:
    with open(folder / "config.json") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is training {folder}") from None
        return _train_alone(config, folder, console, resumed)


def _train_alone(config: AnyConfig, folder: Path, console: Console, resumed: bool) -> dict:
    # The economy's networks share rows out among threads themselves.
    torch.set_num_threads(1 if isinstance(config, EconomyConfig) else config.threads)
    learner = _make_learner(config)
    evaluator = kit(config).evaluator(config, "eval", config.eval_episodes)
    before, size = 0.0, 0
    if resumed:
        tensors, values = _load(folder, config)
        before, size = values["wall_time"], values["metrics_size"]
        path = folder / "metrics.csv"
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise RunError(
                f"{path} is damaged: it has {found} bytes, the last checkpoint knew {size}; nothing was changed"
            )
        evaluator.set_counters(values["eval_streams"])
        learner.load_state(tensors, values)
    else:
        _adopt(learner)
    metrics = Metrics(folder / "metrics.csv", size)
    read_metrics(folder / "metrics.csv")  # damage shows before it costs anything
    began, first = time.perf_counter(), learner.episode

    def save() -> None:
        tensors, values = learner.state()
        values["eval_streams"] = evaluator.counters()
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
                progress.update(episode, (episode - first) * len(config.seeds) / seconds, scores.headline())
            if episode // config.checkpoint_period > last // config.checkpoint_period:
                save()
    save()
    metrics.close()
    seconds = before + time.perf_counter() - began
    scores = kit(config).evaluator(config, "test", config.test_episodes)(learner)
    summary = summarise(folder, learner, scores, seconds)
    checkpoint.write_text(folder / "results.json", json.dumps(summary, indent=1) + "\n")
    console.print(results_table(summary))
    return summary


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
    if source:
        learner.adopt(*checkpoint.load(Path(source) / "checkpoints"), source)


def _make_learner(config: AnyConfig) -> Any:
    """The learner of a configuration; what the machine cannot do is said in a line."""
    try:
        torch.zeros(1, device=config.device).numpy(force=True)
        return kit(config).learner(config)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ConfigError(f"this run is too large for the memory: {str(error).splitlines()[0]}") from error
    except (RuntimeError, AssertionError, NotImplementedError) as error:
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
            saved = (self.folder / "config.json").is_file()
            advice = f"What was saved before is intact; afterwards go on with `metagrad train --resume {self.folder}`"
            raise RunError(
                f"cannot write to {self.folder}: {reason}. "
                f"{advice if saved else 'Nothing was trained yet; start again'}"
            ) from error
