"""What a run writes and shows: metrics.csv, live progress, the table at the end."""

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

from metagrad.config import AnyConfig, CleanupConfig, Config, EconomyConfig, TaxDesigner
from metagrad.evaluate import bounds


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
        ends = (line_ends(path) if size else "") or "\n"  # a file goes on as it began
        self._file = open(path, "r+" if size else "w", newline="", encoding="utf-8")  # noqa: SIM115, see close
        self._file.truncate(size)
        self._file.seek(size)
        self._writer = csv.writer(self._file, lineterminator=ends)
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


def line_ends(path: Path) -> str:
    """How the lines of metrics end, by the first; nothing before there is a whole one. Older programs wrote CR LF."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        first = file.readline()
    return "\r\n" if first.endswith(b"\r\n") else "\n" if first.endswith(b"\n") else ""


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


class LiveProgress:
    """A line that moves while a run trains."""

    def __init__(self, config: AnyConfig, done: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} episodes"),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[scores]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            # A log file gets no moving line, only the table at the end.
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            f"{config.method} {config.preset}", total=config.episodes, completed=done, rate="", scores=""
        )
        self._console = console
        self._every = max(1, config.episodes // 10)
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
            self._progress.update(self._task, completed=episode, rate=f"{rate:,.0f} episodes/s", scores=text)
            if not self._console.is_terminal and episode >= self._next:
                self._console.print(f"episode {episode:,}: {text}, {rate:,.0f} episodes/s", markup=False)
                self._next = self._every * (episode // self._every + 1)


def _unseen() -> contextlib.AbstractContextManager[None]:
    """A terminal that is gone, as after a hang-up, does not keep a run from going on or saving."""
    return contextlib.suppress(OSError)


def first_solved(
    metrics: dict[str, np.ndarray],
    score: str,
    seed: int,
    target: float,
    otherwise: float = float("nan"),
    window: int = 10,
) -> float:
    """First episode at which the mean score of the last ``window`` evaluations of a seed exceeds ``target``.

    ``otherwise`` if there is none: the episode of a test that the seed passed, or NaN.
    """
    if not metrics:
        return otherwise
    mine = metrics["seed"] == seed
    scores, episode = metrics[score][mine], metrics["episode"][mine]
    if len(scores) < window:
        return otherwise
    means = np.convolve(scores, np.full(window, 1 / window), "valid")
    passed = np.flatnonzero(means > target)
    return float(episode[window - 1 + passed[0]]) if len(passed) else otherwise


def results(config: AnyConfig, scores: Any, solved_at: list[float], diverged: np.ndarray, seconds: float) -> dict:
    """Summary of a finished run, as in results.json."""
    summary: dict[str, Any] = {
        "method": config.method,
        "preset": config.preset,
        "seeds": list(config.seeds),
        "test_episodes": config.test_episodes,
        "target": config.target,
        "fields": list(scores.FIELDS),
        "wall_time": seconds,
    }
    if isinstance(config, Config):
        summary["bounds"] = bounds(config.game)
    for name in scores.FIELDS:
        summary[name] = [float(v) for v in getattr(scores, name)]
    summary["test"] = [scores.row(s) for s in range(len(config.seeds))]
    aims = config.target is not None
    summary["solved"] = [bool(v) if aims else None for v in (scores.score > config.target if aims else scores.score)]
    summary["first_solved_episode"] = [None if np.isnan(v) else int(v) for v in solved_at]
    summary["diverged"] = [bool(v) for v in diverged]
    return summary


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
        f"first above {target:g}: mean {name} of the last 10 evaluations, or else of that test"
    )


def comparison_table(runs: Sequence[tuple[AnyConfig, dict[str, Any]]]) -> Table:
    """One row a run, means and standard errors over its seeds; in Markdown, for documents.

    How many seeds were solved, and from when on, where a run has a target.
    """
    table = Table(box=box.MARKDOWN)
    fields = runs[0][1]["fields"]
    aims = any(config.target is not None for config, _ in runs)
    columns = ["preset", "method", "K", "seeds", "episodes"] + ["solved", "first solved at episode"] * aims
    for column in (*columns, *(f.replace("_", " ") for f in fields), "diverged", "seconds"):
        table.add_column(_plain(column))
    for config, summary in runs:
        if summary["fields"] != fields:
            raise ValueError("runs on different games have different scores: compare those of one game")
        n = len(summary["seeds"])
        cells = []
        for name in fields:
            v = np.array(summary[name])
            cells.append(f"{v.mean():.2f} ± {v.std(ddof=1) / n**0.5:.2f}" if n > 1 else f"{v[0]:.2f}")
        row = (
            config.preset,
            method_label(config),
            str(config.k),
            f"{config.seeds[0]}..{config.seeds[-1]}",
            f"{config.episodes:,}",
            *(_aim(config, summary) if aims else ()),
            *cells,
            str(sum(summary["diverged"])),
            f"{summary['wall_time']:.0f}",
        )
        table.add_row(*(_plain(cell.replace("|", "\\|")) for cell in row))
    return table


def _aim(config: AnyConfig, summary: dict[str, Any]) -> tuple[str, str]:
    """How many seeds passed the test at the end, and when the first and the last were above the target."""
    if config.target is None:
        return "", ""
    first = [v for v in summary["first_solved_episode"] if v is not None]
    span = f"{min(first):,} to {max(first):,}" if first else "never"
    return f"{sum(summary['solved'])} of {len(summary['seeds'])} above {config.target:g}", span


def _plain(text: str) -> Text:
    """Text in which brackets and colons mean themselves, on one line."""
    return Text(" ".join(text.split()))


def method_label(config: AnyConfig) -> str:
    """Method, with what tells apart runs of the same method."""
    if isinstance(config, Config):
        return config.method + _variant(config) + _access(config)
    if isinstance(config, CleanupConfig):
        small = type(config.game)().preset
        return config.method + _access(config) + (f" ({config.game.preset})" if config.game.preset != small else "")
    if isinstance(config, EconomyConfig) and config.method.startswith("metagrad"):
        return f"{config.method} {_paths(config.designer)}"
    if config.method == "fixed":
        rates = config.game.rates if len(set(config.game.rates)) > 1 else config.game.rates[:1]
        return f"{config.method} {{{', '.join(f'{v:g}' for v in rates)}}}"
    return config.method


def _variant(config: Config) -> str:
    """What tells apart Escape Room runs of the same method."""
    levels = f" {{{', '.join(f'{v:g}' for v in config.dual.levels)}}}" if config.method == "dual-rl-discrete" else ""
    published = " (published scores)" if config.method == "amd" and config.amd.scores_at == "planner" else ""
    return levels + published


def _access(config: Config | CleanupConfig) -> str:
    return " (cloned agents)" if config.agent_access == "cloned" else ""


def _paths(designer: TaxDesigner) -> str:
    """The paths of a tax designer's gradient, with their weights, and what judges the chain's actions."""
    chain = f"trace {designer.response_time:g}" if designer.response == "trace" else designer.response
    parts = [
        f"{'' if weight == 1 else f'{weight:g} '}{name}"
        for weight, name in ((designer.chain, chain), (designer.direct, "direct"))
        if weight
    ]
    judged = f", {designer.critic}" if designer.chain else ""
    return f"({' + '.join(parts)}, {designer.policy}{judged})"
