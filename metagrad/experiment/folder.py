"""The folder of a run: its files read and written, locked and watched while it is trained."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from metagrad.experiment import checkpoint
from metagrad.experiment.config import ConfigError, Experiment, RunOptions, dump, load, located, place
from metagrad.experiment.process import resume_command
from metagrad.parallel import group


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and what to do."""


class Busy(RunError):
    """Another process is at it."""


class Taken(RunError):
    """There is something in a folder that is for something new."""


def lock(opened: int, folder: Path) -> None:
    """Lock a file or folder that is open against other processes until it is closed; `Busy` if one trains there."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"another process is training {folder}") from None


class Held:
    """The folder of a run, or of a study, while it is trained: nobody else trains it, and it must stay what it is.

    ``name`` is the file of the folder that says what is trained.
    """

    def __init__(self, folder: Path, name: str = "config.json") -> None:
        self.folder, self._path = folder, folder / name
        self._lock, mine = self._locked()
        self._watched = [mine]

    def _locked(self) -> tuple[IO[str], tuple[Path, os.stat_result]]:
        """The file, open and locked, and as it is watched."""
        file = open(self._path)  # noqa: SIM115, closed on the way out
        try:
            lock(file.fileno(), self.folder)
        except Busy:
            file.close()
            raise
        return file, (self._path, os.fstat(file.fileno()))

    def rewrite(self, text: str) -> None:
        """Replace the file that says what is trained, and go on with the folder."""
        self.check()
        checkpoint.write_text(self._path, text)
        before = self._lock
        self._lock, self._watched[0] = self._locked()
        before.close()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, OSError):
                self.check()  # a folder that is gone is the better reason
        finally:
            self._lock.close()

    def watch(self, path: Path, opened: int) -> None:
        """Watch a file that is open as well."""
        self._watched.append((path, os.fstat(opened)))

    def check(self) -> None:
        """Refuse to go on if a watched file is not what its name means any more; a few microseconds.

        Whoever wrote on would write into nowhere, or into another run.
        """
        for path, mine in self._watched:
            try:
                same = os.path.samestat(os.stat(path), mine)
            except (FileNotFoundError, NotADirectoryError):
                same = False
            if not same:
                raise RunError(
                    f"{path} was deleted, moved or replaced while the run was trained: stopped, nothing more is written"
                )


class NotHeld(contextlib.nullcontext):
    """The folder for a process that follows another, which holds it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(self)
        self.folder = folder

    def watch(self, path: Path, opened: int) -> None:
        """Nothing to watch."""

    def rewrite(self, text: str) -> None:
        """Nothing to write."""

    def check(self) -> None:
        """Nothing to refuse."""


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a failed write into a message that says what is safe."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if place(error) and not full:  # it was not ours to write
            raise
        reason = "the disk is full" if full else str(error)
        advice = "Nothing was trained yet; start again"
        if (folder / "config.json").is_file():
            advice = f"What was saved before is intact; afterwards go on with `{resume_command(folder)}`"
        raise RunError(f"cannot write to {folder}: {reason}. {advice}") from error


def refuse_taken(folder: Path, name: str, command: str) -> None:
    """Refuse a folder for something new if anything is in it; ``command`` goes on with what is there.

    One who was killed while the file ``name`` was written leaves an unfinished one behind, which counts as nothing.
    """
    present = set(folder.iterdir()) if folder.is_dir() else set()
    if present - {checkpoint.unfinished(folder / name)} or folder.is_file():
        raise Taken(f"{folder} exists already: choose another --out, or go on with `{command}`")


def begin(folder: Path, name: str, text: str, command: str) -> Held:
    """Make a folder for something new with the file that says what it is, and hold it; ``command`` would go on with it.

    Of those who start in one folder at once one begins, and the others are refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        lock(opened, folder)
        refuse_taken(folder, name, command)
        checkpoint.write_text(folder / name, text)
        return Held(folder, name)
    finally:
        os.close(opened)


def read_experiment(folder: Path) -> Experiment:
    """The experiment of a run."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is not a run: it has no config.json")
    return load(path.read_bytes().decode("utf-8", "replace"), str(path))


def changed(folder: Path, changes: dict[str, Any]) -> Experiment:
    """The experiment of a run that goes on elsewhere or longer; a ``RunError`` if more episodes have been trained."""
    experiment = read_experiment(folder)
    try:
        now = replace(experiment, run=replace(experiment.run, **changes))
    except ValueError as error:
        raise ConfigError(located(error, RunOptions, "")) from error
    done = max((int(p.name) for p in checkpoint.saved(folder / "checkpoints")), default=0)
    if now.run.episodes != experiment.run.episodes and now.run.episodes < done:
        raise RunError(f"--episodes must be at least {done:,}, which {folder} has trained")
    return now


def write_changed(held: Held | NotHeld, now: Experiment) -> None:
    """Write the experiment of a run that goes on otherwise; one that goes on longer has no results any more."""
    before = read_experiment(held.folder)
    if now == before or group.follows():
        return
    with explained(held.folder):
        if now.run.episodes != before.run.episodes:
            (held.folder / "results.json").unlink(missing_ok=True)
        held.rewrite(dump(now))


def write_results(folder: Path, summary: dict[str, Any]) -> None:
    """Write the summary of a finished run; numbers that are not finite become null."""
    text = json.dumps(_without_nan(summary), indent=1, allow_nan=False)
    checkpoint.write_text(folder / "results.json", text + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_results(folder: Path) -> dict[str, Any]:
    """Summary that a finished run wrote: scores that were not finite are NaN."""
    path = folder / "results.json"
    if not path.is_file():
        raise RunError(f"{folder} has no results yet; finish it with `{resume_command(folder)}`")
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    run = read_experiment(folder).run
    try:
        return _checked(summary, run)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(f"{path} does not hold the results of a run: {error}") from error


def _checked(summary: Any, run: RunOptions) -> dict[str, Any]:
    """The summary of a run of this configuration."""
    n = len(run.seeds)
    if not isinstance(summary, dict):
        raise ValueError("it is not an object")
    found = dict(summary)
    if found["seeds"] != list(run.seeds):
        raise ValueError("it is of other seeds")
    for name in ("method", "preset", "test_episodes"):
        found[name]  # whose lack is an error
    if not isinstance(found["fields"], list) or not found["fields"]:
        raise ValueError("fields must be a list of names")
    for name in ("solved", "first_solved_episode", "diverged", *found["fields"]):
        if not isinstance(found[name], list) or len(found[name]) != n:
            raise ValueError(f"{name} must be a list of {n}")
    for name in found["fields"]:
        found[name] = [_number(v) for v in found[name]]
    found["test"] = [{name: _number(v) for name, v in row.items()} for row in found.get("test", [])]
    found |= {"wall_time": _number(found["wall_time"]), "target": run.target}
    found["diverged"] = [bool(v) for v in found["diverged"]]
    found["solved"] = [None if run.target is None else bool(v) for v in found["solved"]]
    first = found["first_solved_episode"]
    found["first_solved_episode"] = [None if run.target is None or v is None else int(v) for v in first]
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
        raise ValueError(f"{value!r} is not a number")
    return math.nan if value is None else float(value)
