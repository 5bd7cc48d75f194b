"""Trainings that are killed at random moments, resumed, and compared bit for bit with undisturbed ones.

``python -m torture.kills --minutes 5`` with ``PYTHONPATH=tests`` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from experiments import shrunk
from rich.console import Console
from safetensors.torch import load_file

from metagrad.experiment import checkpoint
from metagrad.experiment import run as runs
from metagrad.experiment.checkpoint import CheckpointError
from metagrad.experiment.config import ConfigError, Experiment, dump
from metagrad.experiment.folder import RunError
from metagrad.experiment.process import Stopped
from metagrad.experiment.registry import experiment, game
from metagrad.tasks import GAMES

SEED, ROUNDS = 20_261, 2
REFUSED, BROKEN = 2, 99
OWN = ("own:experiment", "own:task", "own:plain", "own:functions")


def combinations() -> list[tuple[str, str, str]]:
    """Every game with each of its presets and the methods that go with it, in a fixed order."""
    found = []
    for name in (*GAMES, *OWN):
        for preset in game(name).PRESETS:
            for method in game(name).METHODS:
                try:
                    runs.Learners(alter(experiment(name, preset, method), random.Random(0)))
                except (ValueError, AttributeError, TypeError):  # a method that this preset has not
                    continue
                found.append((name, preset, method))
    return found


def recipe(index: int, pool: list[tuple[str, str, str]]) -> Experiment:
    """Experiment number ``index``: a training of well under a second."""
    return alter(experiment(*pool[index % len(pool)]), random.Random(f"{SEED} recipe {index}"))


def alter(made: Experiment, dice: random.Random) -> Experiment:
    """The experiment with small networks, and odd numbers of episodes and periods."""
    k, iterations = dice.choice((2, 3, 4, 5, 7)), 12 if made.game == "escape-room" else 6
    first, seeds = dice.randrange(1, 10_000), dice.choice((1, 2, 3))
    options = dataclasses.replace(
        made.run, k=k, episodes=k * iterations + dice.randrange(k), seeds=tuple(range(first, first + seeds)),
        eval_episodes=2, test_episodes=3, init_from=None, pipeline=dice.random() < 0.8,
        agent_batches=dice.choice((1, 1, 2)), dtype=dice.choice(("float32", "float32", "float64")),
        # Shorter than k, not its multiples, longer than the run: whatever.
        eval_period=dice.choice((1, k, k + 1, 2 * k + 1, 3 * k - 1, 5 * k)),
        checkpoint_period=dice.choice((1, k, k + 2, 3 * k + 1, 6 * k + 1, k * iterations * 2)),
    )  # fmt: skip
    return dataclasses.replace(shrunk(made), run=options)


def run_files(folder: Path) -> dict[str, bytes]:
    """Everything in a run's folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def differences(left: Path, right: Path) -> list[str]:
    """What tells two finished runs apart, wall times aside."""
    found = []
    rows = [_without_times((f / "metrics.csv").read_bytes()) for f in (left, right)]
    if rows[0] != rows[1]:
        found.append("metrics.csv")
    one, two = (json.loads((f / "results.json").read_text()) for f in (left, right))
    if {**one, "wall_time": 0} != {**two, "wall_time": 0}:
        found.append("results.json")
    states = [checkpoint.saved(f / "checkpoints")[-1] for f in (left, right)]
    if states[0].name != states[1].name:
        found.append("number of the last checkpoint")
    a, b = (load_file(s / "state.safetensors") for s in states)
    found += sorted(a.keys() ^ b.keys())
    found += [n for n in a.keys() & b.keys() if a[n].numpy().tobytes() != b[n].numpy().tobytes()]
    found += [f"left over: {p.name}" for p in right.glob(".*")]
    return found


def _without_times(data: bytes) -> list[list[bytes]]:
    """Cells of metrics.csv, line ends included, without the wall times."""
    lines = [line.split(b",") for line in data.splitlines(keepends=True)]
    if not lines:
        return []
    column = lines[0].index(b"wall_time")
    return [line[:column] + line[column + 1 :] for line in lines]


def go_on(config: Experiment, folder: Path, log: Path, limit: int | None = None) -> int:
    """Start or resume a run, in a child, with files no longer than a limit; its exit status."""
    endless = resource.RLIM_INFINITY
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115, the process ends soon
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (endless if limit is None else limit, endless))
        try:
            if (folder / "config.json").exists():
                runs.resume(folder, console)
            else:
                runs.train(config, folder, console)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (endless, endless))
    except Stopped as stopped:
        return 128 + stopped.number
    except BaseException as error:
        with log.open("a") as file:
            file.write(traceback.format_exc())
        return REFUSED if isinstance(error, (RunError, CheckpointError, ConfigError)) else BROKEN
    return 0


def fork(work: Callable[[], int]) -> int:
    """A child that does the work; its process number."""
    child = os.fork()
    if child == 0:
        try:
            status = work()
        except BaseException:
            status = BROKEN
        os._exit(status)
    return child


def wait(child: int, seconds: float | None = None) -> int | None:
    """Exit status of a child, negative for a signal; None if it runs on after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.0005)


class Trial:
    """One run that is disturbed several times and then finished."""

    def __init__(
        self, number: int, pool: list[tuple[str, str, str]], folder: Path, scratch: Path,
        counts: collections.Counter[str],
    ) -> None:  # fmt: skip
        self.dice = random.Random(f"{SEED} trial {number}")
        self.counts = counts
        family = self.dice.choice(sorted({name.split(":")[0] for name, *_ in pool}))
        of_family = [i for i, (name, *_) in enumerate(pool) if name.split(":")[0] == family]
        self.index = self.dice.choice(of_family) + len(pool) * self.dice.randrange(ROUNDS)
        self.config = recipe(self.index, pool)
        self.whole, self.seconds = undisturbed(self.config, self.index, folder)
        self.folder, self.log = scratch / "trial", scratch / "trial.log"
        self.story: list[str] = []

    def run(self) -> list[str]:
        """What went wrong; nothing, for a good program."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        wrong: list[str] = []
        for _ in range(self.dice.choice((1, 2, 3, 4, 6))):
            wrong += self._disturb()
            if (self.folder / "results.json").exists():
                break
            if self.dice.random() < 0.2:
                wrong += self._damage()
        status = wait(fork(lambda: go_on(self.config, self.folder, self.log)))
        self.counts["resumed"] += 1
        if status != 0:
            return [*wrong, f"the run cannot go on: status {status}"]
        wrong += [f"differs: {name}" for name in differences(self.whole, self.folder)]
        self.counts["differing"] += bool(wrong)
        before = run_files(self.folder)
        if self.dice.random() < 0.2:
            status = wait(fork(lambda: go_on(self.config, self.folder, self.log)))
            self.counts["finished runs resumed"] += 1
            if status != 0 or run_files(self.folder) != before:
                wrong.append(f"a finished run changed when it was resumed: status {status}")
        return wrong

    def keep(self, kept: Path, wrong: list[str]) -> None:
        """Keep the run and the recipe of a failure."""
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        told = {"wrong": wrong, "story": self.story, "recipe": self.index, "config": json.loads(dump(self.config))}
        (kept / "recipe.json").write_text(json.dumps(told, indent=1))
        if self.folder.exists():
            shutil.copytree(self.folder, kept / "run")
        if self.log.exists():
            shutil.copy(self.log, kept)

    def _disturb(self) -> list[str]:
        kind = self.dice.choice((*("kill",) * 6, "term", "twice", "full"))
        moment = self.dice.uniform(0, self.seconds)
        self.story.append(f"{kind} after {moment:.4f} s")
        if kind == "full":
            limit = self.dice.choice((0, 100, 1_000, 10_000, 50_000, 200_000))
            status = wait(fork(lambda: go_on(self.config, self.folder, self.log, limit)))
            self.counts["full disks"] += status == REFUSED
            return [] if status in (0, REFUSED) else [f"a full disk ends with status {status}"]
        child = fork(lambda: go_on(self.config, self.folder, self.log))
        status = wait(child, moment)
        if status is None:
            os.kill(child, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            if kind == "twice":
                time.sleep(self.dice.uniform(0, 0.01))
                os.kill(child, signal.SIGTERM)  # it is not waited for yet, so the number is still its own
            status = wait(child)
            self.counts["kills" if kind == "kill" else "signals"] += status not in (0, REFUSED, BROKEN)
        expected = (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
        return [] if status in expected else [f"{kind} ends with status {status}"]

    def _damage(self) -> list[str]:
        """Truncate the newest checkpoint or flip a bit of it: refused, and nothing changes; then put it back."""
        saved = checkpoint.saved(self.folder / "checkpoints")
        if not saved:
            return []
        path = saved[-1] / self.dice.choice(("state.safetensors", "state.json"))
        data = path.read_bytes()
        place = self.dice.randrange(len(data))
        flipped = data[:place] + bytes([data[place] ^ 1 << self.dice.randrange(8)]) + data[place + 1 :]
        path.write_bytes(data[:place] if self.dice.random() < 0.5 else flipped)
        before = run_files(self.folder)
        status = wait(fork(lambda: go_on(self.config, self.folder, self.log)))
        self.story.append(f"damage of {path.name} at {place}")
        self.counts["damaged"] += 1
        self.counts["refused"] += status == REFUSED
        unchanged = run_files(self.folder) == before
        path.write_bytes(data)
        if status != REFUSED and _means_the_same(path.name, before[str(path.relative_to(self.folder))], data):
            return []
        return [] if status == REFUSED and unchanged else [f"a damaged {path.name}: status {status}"]


def _means_the_same(name: str, damaged: bytes, data: bytes) -> bool:
    """Whether only white space of a JSON text is damaged."""
    try:
        return name.endswith(".json") and json.loads(damaged) == json.loads(data)
    except ValueError:
        return False


def undisturbed(config: Experiment, index: int, folder: Path) -> tuple[Path, float]:
    """The whole run of a recipe and how long it takes; made once."""
    whole, told = folder / "whole" / str(index), folder / "whole" / f"{index}.json"
    if told.exists() and (known := json.loads(told.read_text()))["config"] == dump(config):
        return whole, known["seconds"]
    shutil.rmtree(whole, ignore_errors=True)
    whole.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    status = wait(fork(lambda: go_on(config, whole, folder / "trial.log")))
    if status != 0:
        raise RuntimeError(f"recipe {index} ends with status {status}: {(folder / 'trial.log').read_text()}")
    seconds = time.perf_counter() - began
    told.write_text(json.dumps({"seconds": seconds, "config": dump(config)}))
    return whole, seconds


def warm(pool: list[tuple[str, str, str]], folder: Path) -> None:
    """Import and compile what the children need, so that a fork is all that a trial costs."""
    torch.set_num_threads(1)
    for index in range(len(pool)):
        config = recipe(index, pool)
        shutil.rmtree(folder / "warm", ignore_errors=True)
        short = dataclasses.replace(config.run, episodes=2 * config.run.k, eval_period=config.run.k)
        runs.train(dataclasses.replace(config, run=short), folder / "warm", Console(quiet=True))


def run(deadline: float, counts: collections.Counter[str], folder: Path) -> None:
    """Disturb runs until the deadline; failures are kept in ``folder/failures`` with what was done to them."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / "kills.json"
    trials = json.loads(progress.read_text())["trials"] if progress.exists() else 0
    # Trials wait for the disk more than for anything else, and a killed process does not lose what it wrote.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        pool = combinations()
        warm(pool, Path(scratch))
        while time.monotonic() < deadline:
            trial = Trial(trials, pool, folder, Path(scratch), counts)
            wrong = trial.run()
            trials += 1
            counts["trials"] += 1
            counts[f"{trial.config.game} {trial.config.method}"] += 1
            if wrong:
                counts["failures"] += 1
                trial.keep(folder / "failures" / f"{trials - 1:06d}", wrong)
            checkpoint.write_text(progress, json.dumps({"seed": SEED, "trials": trials}))


def main() -> None:
    """Run alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=Path("build/torture/kills"))
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    run(time.monotonic() + 60 * options.minutes, counts, options.folder)
    for name, count in sorted(counts.items()):
        print(f"{name:40} {count:8,}")


if __name__ == "__main__":
    main()
