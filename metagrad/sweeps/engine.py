"""Who trains: processes of this machine, or Ray's. Both train a run until an episode and say its score there."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from metagrad.experiment.folder import RunError
from metagrad.experiment.process import SIGNALS

#: Processes that may die in a row, without a run that came to its stop, before something else must be wrong.
MOST_DEATHS = 10
#: Seconds to wait for a process that a killed head left behind to let go of a run.
PATIENCE = 60.0


class Work(NamedTuple):
    """Train the run of a folder: its configuration (JSON), the episode to stop at, None for its end, and the score."""

    folder: str
    config: str
    until: int | None
    score: str


def train(work: Work) -> float | str:
    """Train a run, which may have begun, until an episode; returns its score there.

    Where the parts of a setting do not go together, the reason is returned.
    """
    from rich.console import Console

    from metagrad.experiment import run
    from metagrad.experiment.config import ConfigError, load
    from metagrad.experiment.folder import Busy

    folder, console, began = Path(work.folder), Console(quiet=True), time.monotonic()
    while True:
        try:
            if (folder / "config.json").is_file():
                run.resume(folder, console, until=work.until)
            else:
                run.train(load(work.config, str(folder)), folder, console, until=work.until)
            return score(work)
        except Busy:
            if time.monotonic() - began > PATIENCE:
                raise
            time.sleep(0.1)
        except ConfigError as error:
            return str(error)


def score(work: Work) -> float:
    """The score of a run that is where it was to stop, mean over seeds: of its test, or of its last evaluations.

    Before the end those are the later half of the evaluations, and at most ten.
    """
    import numpy as np

    from metagrad.experiment.folder import read_results
    from metagrad.experiment.metrics import WINDOW, read_metrics

    if work.until is None:
        return float(np.mean([row[work.score] for row in read_results(Path(work.folder))["test"]]))
    metrics = read_metrics(Path(work.folder) / "metrics.csv")
    episodes = np.unique(metrics["episode"])
    last = episodes[-min(WINDOW, (len(episodes) + 1) // 2) :]
    return float(metrics[work.score][np.isin(metrics["episode"], last)].mean())


class Engine(Protocol):
    """Trains what is submitted, ``workers`` runs at a time, and again where a worker died."""

    workers: int

    def submit(self, key: Any, work: Work) -> None:
        """Take on work, which ``key`` stands for."""

    def done(self, seconds: float) -> list[tuple[Any, float | str]]:
        """What has been done, waiting for at most so long; raises what a worker raised."""


class Processes:
    """A pool of processes that are spawned once and import once; they end with the one that spawned them."""

    def __init__(self, workers: int) -> None:
        self.workers, self._deaths = workers, 0
        self._others = set(multiprocessing.active_children())
        self._work: dict[Any, Work] = {}
        self._start()

    def _start(self) -> None:
        self._pool = futures.ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _begin)
        self._keys: dict[futures.Future, Any] = {}
        for key in self._work:
            self._keys[self._pool.submit(_train_or_end, self._work[key])] = key

    def submit(self, key: Any, work: Work) -> None:
        """Take on work, which ``key`` stands for."""
        self._work[key] = work
        with contextlib.suppress(BrokenProcessPool):  # seen, and started again, by done
            self._keys[self._pool.submit(_train_or_end, work)] = key

    def done(self, seconds: float) -> list[tuple[Any, float | str]]:
        """What has been done, waiting for at most so long; raises what a worker raised."""
        finished, _ = futures.wait(self._keys, seconds, futures.FIRST_COMPLETED)
        broken, results = len(self._keys) < len(self._work), []
        for future in finished:
            if isinstance(error := future.exception(), BrokenProcessPool):
                broken = True
                continue
            if error is not None:
                raise error
            key = self._keys.pop(future)
            del self._work[key]
            results.append((key, future.result()))
        self._deaths = 0 if results else self._deaths + broken
        if self._deaths > MOST_DEATHS:
            raise RuntimeError(
                f"{self._deaths} times in a row a worker died: is there enough memory for {self.workers}?"
            )
        if broken:
            self._pool.shutdown()
            self._start()
        return results

    def stop(self) -> None:
        """Let workers finish what they are at and save; those that are idle end."""
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a new worker does: it leaves the terminal's signals to its head, and ends when that has gone."""
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _train_or_end(work: Work) -> float | str:
    """Train; one who was asked to stop has saved, and ends."""
    try:
        return train(work)
    except KeyboardInterrupt:
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Ray:
    """Tasks of Ray: on this machine, or on the cluster of an address, whose machines share the folder."""

    def __init__(self, workers: int | None, address: str | None) -> None:
        import ray

        self._ray = ray
        local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 10**8}
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else local))
        except Exception as error:  # Ray has no class of its own for it
            raise RunError(f"Ray did not start: {error}; --engine processes does without it") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():  # Ray's own would end the head at once
                signal.signal(number, handler)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._train = ray.remote(num_cpus=1, max_retries=-1)(train)
        self._keys: dict[Any, Any] = {}

    def submit(self, key: Any, work: Work) -> None:
        """Take on work, which ``key`` stands for."""
        self._keys[self._train.remote(work)] = key

    def done(self, seconds: float) -> list[tuple[Any, float | str]]:
        """What has been done, waiting for at most so long; raises what a worker raised."""
        finished, _ = self._ray.wait(list(self._keys), timeout=seconds) if self._keys else ([], [])
        try:
            return [(self._keys.pop(ref), self._ray.get(ref)) for ref in finished]
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def stop(self) -> None:
        """Let workers finish what they are at and save."""
        for ref in self._keys:
            self._ray.cancel(ref)
        if self._keys:
            self._ray.wait(list(self._keys), num_returns=len(self._keys), timeout=PATIENCE)
        self._ray.shutdown()


@contextlib.contextmanager
def engine(name: str | None, workers: int | None, address: str | None) -> Iterator[Engine]:
    """The engine of a name, ``ray`` or ``processes``; by default Ray where it is installed."""
    if name == "processes" and address:
        raise ValueError("--address is of a Ray cluster, and --engine is processes")
    ray = bool(address) or (find_spec("ray") is not None if name is None else name == "ray")
    made: Any = Ray(workers, address) if ray else Processes(workers or os.cpu_count() or 1)
    try:
        yield made
    finally:
        made.stop()
