"""What a run writes and shows: metrics.csv, also for other programs, live progress, and results."""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from metagrad.experiment.config import Experiment, to_dict
from metagrad.tasks.figures import COLUMNS, words

#: Evaluations whose mean has to exceed the target.
WINDOW = 10
Scores = dict[str, np.ndarray]


class Metrics:
    """metrics.csv: one row an evaluation and seed.

    Of an existing file ``size`` bytes are kept: what a killed run wrote after its last checkpoint goes. It goes on with
    the columns that it has, though another revision wrote others.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file = open(path, "r+" if size else "w", newline="", encoding="utf-8")  # noqa: SIM115, see close
        self._file.truncate(size)
        self._columns = self._file.readline().rstrip().split(",") if size else []
        self._file.seek(size)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self.fileno = self._file.fileno

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Append rows, and return what is written of them; the first call writes the header."""
        if not self._columns:
            self._columns = list(rows[0])
            self._writer.writerow(self._columns)
        written = [{name: row.get(name, float("nan")) for name in self._columns} for row in rows]
        self._writer.writerows([row.values() for row in written])
        self._file.flush()
        return written

    def size(self) -> int:
        """Bytes written so far, on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


class Unwritten(contextlib.nullcontext):
    """What stands for metrics.csv in a process that follows another, which writes it."""

    path = Path(os.devnull)

    def __init__(self) -> None:
        super().__init__(self)

    def fileno(self) -> int:
        """Nothing is open."""
        return 0

    def write(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Nothing is written."""
        return rows

    def size(self) -> int:
        """Nothing was written."""
        return 0


class _TensorBoard:
    """Events of every seed in a folder of its own; those of an earlier sitting go, since all are told anew.

    Hiding them alone would not do: files begun in one second are read in the order of their processes' numbers.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writers = {}
        for seed in experiment.run.seeds:
            place = folder / "tensorboard" / f"seed_{seed}"
            for earlier in place.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writers[seed] = SummaryWriter(str(place), purge_step=0)  # for one who is looking at it

    def write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for name in row.keys() - {"seed", "episode"}:
                self._writers[row["seed"]].add_scalar(name, row[name], row["episode"])

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _WeightsAndBiases:
    """One run, with the seeds as groups of its charts; nothing leaves the machine unless ``WANDB_MODE`` says so."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        import wandb

        self._run = wandb.init(
            project=f"metagrad-{experiment.game}", name=folder.name, dir=str(folder), config=to_dict(experiment),
            mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def write(self, rows: list[dict[str, Any]]) -> None:
        told = {f"seed_{row['seed']}/{name}": row[name] for row in rows for name in row.keys() - {"seed", "episode"}}
        self._run.log(told, step=rows[0]["episode"])

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}


class Trackers:
    """Programs that are told the rows of metrics.csv as they come, by name: ``tensorboard``, ``wandb``.

    A sitting of a resumed run tells all rows that it goes on from, since an earlier one may have been killed before its
    rows were on disk, or was not followed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        for name in names:
            importlib.import_module(name)  # what is not installed is missed before a run has begun
        self._kinds = [_TRACKERS[name] for name in dict.fromkeys(names)]
        self._open: list[Any] = []

    @contextlib.contextmanager
    def following(self, folder: Path, experiment: Experiment, size: int) -> Iterator[None]:
        """Follow a run that goes on from ``size`` bytes of metrics.csv."""
        self._open = [kind(folder, experiment) for kind in self._kinds]
        try:
            if self._open:
                self._tell(read_metrics(folder / "metrics.csv", size), len(experiment.run.seeds))
            yield
        finally:
            for tracker in self._open:
                tracker.close()

    def _tell(self, metrics: dict[str, np.ndarray], n_seeds: int) -> None:
        table = [
            dict(zip(metrics, row, strict=True)) for row in zip(*(x.tolist() for x in metrics.values()), strict=True)
        ]
        for row in table:
            row |= {"seed": int(row["seed"]), "episode": int(row["episode"])}
        for first in range(0, len(table), n_seeds):
            self.write(table[first : first + n_seeds])

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Pass the rows of one evaluation on."""
        for tracker in self._open:
            tracker.write(rows)


def read_metrics(path: Path, size: int | None = None) -> dict[str, np.ndarray]:
    """Columns of metrics.csv as float64 arrays, of the first ``size`` bytes; none before the first evaluation.

    A last line that is still being written, or was when its writer was killed, does not count.
    """
    if not path.is_file():
        return {}
    data = path.read_bytes()[:size]
    if size and not data.endswith(b"\n"):
        raise ValueError(f"{path} is damaged: byte {size} is not the end of a line")
    header, *lines = data.decode("ascii", "replace").replace("\r\n", "\n").split("\n")[:-1] or [""]
    names = header.split(",")
    if not lines:
        return {}
    if not {"seed", "episode"} <= set(names):
        raise ValueError(f"{path} is not the metrics of a run: it has no columns seed and episode")
    table = np.empty((len(lines), len(names)))
    for i, line in enumerate(lines):
        try:
            table[i] = [float(cell) for cell in line.split(",")]
        except ValueError as error:
            raise ValueError(f"{path} is damaged in line {i + 2}") from error
    return {name: table[:, i] for i, name in enumerate(names)}


def row_of(scores: Scores, s: int) -> dict[str, float]:
    """Flat record of seed ``s``: scores by agent and further axes have their numbers behind their names."""
    return {column: float(scores[name][(s, *index)]) for column, name, index in _columns(scores)}


def _columns(scores: Scores) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Columns of metrics.csv, each with the name of its score and its place there."""
    for name, values in scores.items():
        for index in np.ndindex(values.shape[1:]):
            yield "_".join([name, *map(str, index)]), name, index


def check_scores(task: Any, scores: Any, n_seeds: int) -> None:
    """Refuse scores that cannot be written, for the tasks of users."""
    if not isinstance(scores, dict) or not scores:
        raise ValueError(f"scores of {task.name} must be a dict of arrays by name, got {type(scores).__name__}")
    for name, values in scores.items():
        if not isinstance(name, str) or not name.isidentifier() or name in COLUMNS:
            raise ValueError(f"a score of {task.name} cannot be called {name!r}")
        x = np.asarray(values)
        if x.dtype.kind not in "buif" or x.ndim == 0 or len(x) != n_seeds:
            raise ValueError(
                f"score {name!r} of {task.name} must be numbers with a first axis of {n_seeds}, one for each seed; got "
                f"{x.dtype} {list(x.shape)}"
            )
    arrays = {name: np.asarray(x) for name, x in scores.items()}
    for column, times in Counter(column for column, *_ in _columns(arrays)).items():
        if times > 1:
            raise ValueError(f"two scores of {task.name} would both be the column {column!r}")
    shown = shown_fields(task, arrays)
    if not shown or any(name not in scores or np.ndim(scores[name]) != 1 for name in shown):
        raise ValueError(f"the scores that {task.name} shows, {shown}, must be one number for each seed")


def shown_fields(task: Any, scores: Scores) -> list[str]:
    """Names of the scores that a table shows, the score first."""
    return list(task.fields or (name for name, values in scores.items() if values.ndim == 1))


def headline(task: Any, scores: Scores) -> str:
    """A line for the progress bar: means over seeds."""
    return "  ".join(f"{words(name)} {scores[name].mean():.2f}" for name in shown_fields(task, scores)[:2])


class LiveProgress:
    """A line that moves while a run trains."""

    def __init__(self, experiment: Experiment, done: int, console: Console) -> None:
        self._progress = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[scores]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            # A log file gets no moving line, only the table at the end.
            disable=not console.is_terminal,
        )
        self._console, episodes = console, experiment.run.episodes
        self._task = self._progress.add_task("", total=episodes, completed=done, rate="", scores="")
        self._every = max(1, episodes // 10)
        self._next = self._every * (done // self._every + 1)

    def __enter__(self) -> LiveProgress:
        with _unseen():
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with _unseen():
            self._progress.stop()

    def update(self, episode: int, rate: float, text: str) -> None:
        """Show the latest evaluation, means over seeds."""
        with _unseen():
            self._progress.update(self._task, completed=episode, rate=f"{rate:,.0f}/s", scores=text)
            if not self._console.is_terminal and episode >= self._next:
                self._console.print(f"episode {episode:,}: {text}, {rate:,.0f} episodes/s")
                self._next = self._every * (episode // self._every + 1)


def _unseen() -> contextlib.AbstractContextManager[None]:
    """A terminal that is gone, as after a hang-up, does not keep a run from going on or saving."""
    return contextlib.suppress(OSError)


def first_solved(metrics: dict[str, np.ndarray], score: str, seed: int, target: float, otherwise: float) -> float:
    """First episode at which the mean score of the last ten evaluations of a seed exceeds ``target``.

    ``otherwise`` where it never did: the episode of a test that the seed passed, or NaN.
    """
    if not metrics:
        return otherwise
    mine = metrics["seed"] == seed
    scores, episode = metrics[score][mine], metrics["episode"][mine]
    if len(scores) < WINDOW:
        return otherwise
    means = np.convolve(scores, np.full(WINDOW, 1 / WINDOW), "valid")
    passed = np.flatnonzero(means > target)
    return float(episode[WINDOW - 1 + passed[0]]) if len(passed) else otherwise


def results(
    experiment: Experiment, scores: Scores, metrics: dict[str, np.ndarray], diverged: np.ndarray, episode: int,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Summary of a run with the given test scores, as in results.json."""
    run, names = experiment.run, shown_fields(experiment.task, scores)
    score = scores[names[0]]
    solved: list[bool | None] = [None] * len(run.seeds)
    first: list[int | None] = [None] * len(run.seeds)
    if run.target is not None:
        solved = [bool(v) for v in score > run.target]
        for s, seed in enumerate(run.seeds):
            # The test is the last look at a seed: one that passes it has passed, if not before.
            at = first_solved(metrics, names[0], seed, run.target, episode if solved[s] else float("nan"))
            first[s] = None if np.isnan(at) else int(at)
    return {
        "game": experiment.game, "method": experiment.method, "preset": experiment.preset, "seeds": list(run.seeds),
        "test_episodes": run.test_episodes, "target": run.target, "bounds": experiment.task.bounds(), "fields": names,
        "wall_time": seconds, **{name: [float(v) for v in scores[name]] for name in names},
        "test": [row_of(scores, s) for s in range(len(run.seeds))], "solved": solved, "first_solved_episode": first,
        "diverged": [bool(v) for v in diverged],
    }  # fmt: skip
