"""What a run writes and shows: metrics.csv, live progress, results and their tables."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from metagrad.experiment.config import Experiment

#: Evaluations whose mean has to exceed the target.
WINDOW = 10
Scores = dict[str, np.ndarray]


class Metrics:
    """metrics.csv: one row an evaluation and seed.

    Parameters
    ----------
    path : Path
        The file.
    size : int
        Bytes to keep of an existing file; what a killed run wrote after its last checkpoint goes.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._file = open(path, "r+" if size else "w", newline="", encoding="utf-8")  # noqa: SIM115, see close
        self._file.truncate(size)
        self._file.seek(size)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._empty = size == 0

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows; the first call writes the header."""
        if self._empty:
            self._writer.writerow(rows[0].keys())
            self._empty = False
        self._writer.writerows([row.values() for row in rows])
        self._file.flush()

    def size(self) -> int:
        """Bytes written so far, on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def fileno(self) -> int:
        """The open file."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path, size: int | None = None) -> dict[str, np.ndarray]:
    """Columns of metrics.csv as float64 arrays; none before the first evaluation.

    A last line that is still being written, or was when its writer was killed, does not count.

    Parameters
    ----------
    path : Path
        The file.
    size : int, optional
        Bytes that count, of whole lines.

    Raises
    ------
    ValueError
        If a line is damaged, or the file is not the metrics of a run.
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


# ---------------------------------------------------------------------- scores


def row_of(scores: Scores, s: int) -> dict[str, float]:
    """Flat record of seed ``s``: scores by agent and further axes have their numbers behind their names."""
    row: dict[str, float] = {}
    for name, values in scores.items():
        for index in np.ndindex(values.shape[1:]):
            row["_".join([name, *map(str, index)])] = float(values[(s, *index)])
    return row


#: Columns of metrics.csv before the scores.
COLUMNS = ("seed", "episode", "iteration", "env_steps", "wall_time", "diverged")


def check_scores(task: Any, scores: Any, n_seeds: int) -> None:
    """Refuse scores that cannot be written, for the tasks of users.

    Raises
    ------
    ValueError
        If they are no dict of arrays by seed, or have impossible names; the message says which.
    """
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
    shown = shown_fields(task, {name: np.asarray(x) for name, x in scores.items()})
    if not shown or any(name not in scores or np.ndim(scores[name]) != 1 for name in shown):
        raise ValueError(f"the scores that {task.name} shows, {shown}, must be one number for each seed")


def shown_fields(task: Any, scores: Scores) -> list[str]:
    """Names of the scores that a table shows, the score first."""
    return list(task.fields or (name for name, values in scores.items() if values.ndim == 1))


def headline(task: Any, scores: Scores) -> str:
    """A line for the progress bar: means over seeds."""
    return "  ".join(f"{name.replace('_', ' ')} {scores[name].mean():.2f}" for name in shown_fields(task, scores)[:2])


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
        episodes = experiment.run.episodes
        self._task = self._progress.add_task("", total=episodes, completed=done, rate="", scores="")
        self._console = console
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


# ---------------------------------------------------------------------- results


def first_solved(metrics: dict[str, np.ndarray], score: str, seed: int, target: float, otherwise: float) -> float:
    """First episode at which the mean score of the last ten evaluations of a seed exceeds ``target``.

    Parameters
    ----------
    metrics : dict
        Columns of metrics.csv.
    score : str
        Name of the score.
    seed : int
    target : float
    otherwise : float
        Where it never did: the episode of a test that the seed passed, or NaN.
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
        # The test is the last look at a seed: one that passes it has passed, if not before.
        at = [
            first_solved(metrics, names[0], seed, run.target, episode if passed else float("nan"))
            for seed, passed in zip(run.seeds, solved, strict=True)
        ]
        first = [None if np.isnan(v) else int(v) for v in at]
    return {
        "game": experiment.game,
        "method": experiment.method,
        "preset": experiment.preset,
        "seeds": list(run.seeds),
        "test_episodes": run.test_episodes,
        "target": run.target,
        "bounds": experiment.task.bounds(),
        "fields": names,
        "wall_time": seconds,
        **{name: [float(v) for v in scores[name]] for name in names},
        "test": [row_of(scores, s) for s in range(len(run.seeds))],
        "solved": solved,
        "first_solved_episode": first,
        "diverged": [bool(v) for v in diverged],
    }


def results_table(summary: dict[str, Any]) -> Table:
    """The table over seeds that a run ends with; who is solved, where there is a target."""
    names, target = summary["fields"], summary["target"]
    aims = target is not None
    table = Table(
        title=_plain(f"{summary['method']} on {summary['preset']}: {summary['test_episodes']} test episodes a seed"),
        caption=_plain(_definition(names[0], target)) if aims else None,
    )
    for column in ("seed", *names, *([f"first above {target:g}"] if aims else [])):
        table.add_column(column.replace("_", " "), justify="right")
    for s, seed in enumerate(summary["seeds"]):
        first = summary["first_solved_episode"][s]
        note = " (diverged)" if summary["diverged"][s] else ""
        cells = [f"{summary[name][s]:.3f}" for name in names]
        table.add_row(f"{seed}{note}", *cells, *(["never" if first is None else f"{first:,}"] if aims else []))
    table.add_section()
    values = {name: np.array(summary[name]) for name in names}
    solved = [f"{sum(summary['solved'])} solved"] if aims else []
    table.add_row("mean", *(f"{v.mean():.3f}" for v in values.values()), *solved)
    if len(summary["seeds"]) > 1:
        errors = (f"{v.std(ddof=1) / len(v) ** 0.5:.3f}" for v in values.values())
        table.add_row("standard error", *errors, *([f"of {len(summary['seeds'])}"] if aims else []))
    return table


def _definition(score: str, target: float) -> str:
    """What the words about a target mean."""
    name = score.replace("_", " ")
    return (
        f"solved: mean {name} of the test at the end above {target:g}; "
        f"first above {target:g}: mean {name} of the last {WINDOW} evaluations, or else of that test"
    )


def comparison_table(runs: Sequence[tuple[Experiment, str, dict[str, Any]]]) -> Table:
    """One row a run (experiment, label, results): means and standard errors over its seeds; in Markdown.

    How many seeds were solved, and from when on, where a run has a target.

    Raises
    ------
    ValueError
        If the runs have other scores.
    """
    table = Table(box=box.MARKDOWN)
    fields = runs[0][2]["fields"]
    aims = any(experiment.run.target is not None for experiment, *_ in runs)
    columns = ["preset", "method", "K", "seeds", "episodes"] + ["solved", "first solved at episode"] * aims
    for column in (*columns, *(f.replace("_", " ") for f in fields), "diverged", "seconds"):
        table.add_column(_plain(column))
    for experiment, label, summary in runs:
        if summary["fields"] != fields:
            raise ValueError("runs on different games have different scores: compare those of one game")
        run = experiment.run
        cells = [_mean_and_error(np.array(summary[name])) for name in fields]
        row = (
            experiment.preset, label, str(run.k), f"{run.seeds[0]}..{run.seeds[-1]}", f"{run.episodes:,}",
            *(_aim(experiment, summary) if aims else ()), *cells, str(sum(summary["diverged"])),
            f"{summary['wall_time']:.0f}",
        )  # fmt: skip
        table.add_row(*(_plain(cell.replace("|", "\\|")) for cell in row))
    return table


def _mean_and_error(v: np.ndarray) -> str:
    n = len(v)
    return f"{v.mean():.2f} ± {v.std(ddof=1) / n**0.5:.2f}" if n > 1 else f"{v[0]:.2f}"


def _aim(experiment: Experiment, summary: dict[str, Any]) -> tuple[str, str]:
    """How many seeds passed the test at the end, and when the first and the last were above the target."""
    if experiment.run.target is None:
        return "", ""
    first = [v for v in summary["first_solved_episode"] if v is not None]
    span = f"{min(first):,} to {max(first):,}" if first else "never"
    return f"{sum(summary['solved'])} of {len(summary['seeds'])} above {experiment.run.target:g}", span


def _plain(text: str) -> Text:
    """Text in which brackets and colons mean themselves, on one line."""
    return Text(" ".join(text.split()))
