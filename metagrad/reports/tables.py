"""Tables of finished runs: every seed of one, several beside one another, and their differences seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from metagrad.experiment.config import Experiment
from metagrad.experiment.folder import read_experiment, read_results
from metagrad.experiment.metrics import WINDOW
from metagrad.experiment.registry import label_of
from metagrad.reports import pooling
from metagrad.tasks.figures import words

#: Level of the intervals, how many resamples of the seeds they are from, and how many seeds a row names.
LEVEL, RESAMPLES, NAMED = 0.95, 10_000, 20
#: What the numbers of the tables are.
MEANING = (
    f"±: mean and standard error over seeds; [ ]: interquartile mean over seeds, the mean of the middle half, with its "
    f"{LEVEL:.0%} percentile bootstrap interval ({RESAMPLES:,} resamples of the seeds)"
).replace("%", " %")


class Cells(NamedTuple):
    """A table: the names of its columns, and rows of text."""

    header: list[str]
    rows: list[list[str]]


class Finished(NamedTuple):
    """A finished run: its name among others, what it did, and the summary of results.json."""

    name: str
    experiment: Experiment
    summary: dict[str, Any]

    @property
    def score(self) -> dict[int, float]:
        """Score of the test at the end by seed."""
        summary = self.summary
        return dict(zip(summary["seeds"], summary[summary["fields"][0]], strict=True))


def read_finished(folders: Sequence[Path]) -> list[Finished]:
    """Finished runs by the names of their folders, or by their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [
        Finished(name if unique else str(folder), read_experiment(folder), read_results(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def pooled(runs: Sequence[Finished]) -> list[Finished]:
    """Runs that differ in their seeds alone as one run, by all of their names."""
    return [_joined([runs[i] for i in group]) for group in pooling.groups([run.experiment for run in runs])]


def _joined(runs: Sequence[Finished]) -> Finished:
    summary = dict(runs[0].summary)
    for name in ("seeds", "test", "solved", "first_solved_episode", "diverged", *summary["fields"]):
        summary[name] = [value for run in runs for value in run.summary.get(name, ())]
    summary["wall_time"] = sum(run.summary["wall_time"] for run in runs)
    others = "".join(f" + {run.name}" for run in runs[1:]) if len(runs) < 3 else f" + {len(runs) - 1} more"
    return Finished(runs[0].name + others, pooling.joined([run.experiment for run in runs]), summary)


# ---------------------------------------------------------------------- numbers over seeds


def interquartile_mean(values: np.ndarray, axis: int = -1) -> Any:
    """The mean of the middle half."""
    from scipy import stats  # slow to import, and a training has no use for it

    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap interval of the interquartile mean of values ``[S]``, the same at every call."""
    from scipy import stats

    found = stats.bootstrap(
        (values,), interquartile_mean, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile",
        random_state=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_and_error(values: np.ndarray) -> str:
    """Mean and standard error of values ``[S]``; the mean alone where there is one."""
    n = len(values)
    return f"{values.mean():.2f} ± {values.std(ddof=1) / n**0.5:.2f}" if n > 1 else f"{values[0]:.2f}"


def mean_and_interval(values: np.ndarray) -> str:
    """Interquartile mean of values ``[S]`` with its interval; nothing where there is one."""
    if len(values) < 2:
        return ""
    low, high = interval(values)
    return f"{interquartile_mean(values):.2f} [{low:.2f}, {high:.2f}]"


# ---------------------------------------------------------------------- tables


def seeds_of(summary: dict[str, Any]) -> Cells:
    """The test at the end of a run: a row a seed, then their mean and standard error."""
    names, target, seeds = summary["fields"], summary["target"], summary["seeds"]
    aims = target is not None

    def row(name: str, numbers: Sequence[float], last: str) -> list[str]:
        return [name, *(f"{v:.3f}" for v in numbers), *([last] if aims else [])]

    rows = []
    for s, seed in enumerate(seeds):
        first = summary["first_solved_episode"][s]
        note = " (diverged)" if summary["diverged"][s] else ""
        rows.append(row(f"{seed}{note}", [summary[n][s] for n in names], "never" if first is None else f"{first:,}"))
    values = np.array([summary[name] for name in names])
    rows.append(row("mean", list(values.mean(1)), f"{sum(map(bool, summary['solved']))} solved"))
    if len(seeds) > 1:
        rows.append(row("standard error", list(values.std(1, ddof=1) / len(seeds) ** 0.5), f"of {len(seeds)}"))
    return Cells(["seed", *map(words, names), *([f"first above {target:g}"] if aims else [])], rows)


def definition_of_solved(summary: dict[str, Any]) -> str | None:
    """What it means that a seed is solved; None without a target."""
    if summary["target"] is None:
        return None
    score, target = words(summary["fields"][0]), f"{summary['target']:g}"
    return (
        f"solved: mean {score} of the test at the end above {target}; first above {target}: mean {score} of the last "
        f"{WINDOW} evaluations, or else of that test"
    )


def results_table(summary: dict[str, Any]) -> Table:
    """The table over seeds that a run ends with; who is solved, where there is a target."""
    title = f"{summary['method']} on {summary['preset']}: {summary['test_episodes']} test episodes a seed"
    definition, cells = definition_of_solved(summary), seeds_of(summary)
    table = Table(title=_plain(title), caption=definition and _plain(definition))
    for column in cells.header:
        table.add_column(_plain(column), justify="right")
    for i, row in enumerate(cells.rows):
        table.add_row(*map(_plain, row), end_section=i + 1 == len(summary["seeds"]))
    return table


def comparison(runs: Sequence[Finished]) -> Cells:
    """One row a run: means and standard errors over its seeds, and of its score the interquartile mean.

    How many seeds were solved, and from when on, where a run has a target.
    """
    fields = runs[0].summary["fields"]
    if any(run.summary["fields"] != fields for run in runs):
        raise ValueError("runs on different games have different scores: compare those of one game")
    aims = any(run.experiment.run.target is not None for run in runs)
    header = ["run", "preset", "method", "K", "seeds", "episodes"] + ["solved", "first solved at episode"] * aims
    header += [*map(words, fields), f"{words(fields[0])} [{LEVEL * 100:g} %]", "diverged", "seconds"]
    rows = []
    for name, experiment, summary in runs:
        run = experiment.run
        rows.append([
            name, experiment.preset, label_of(experiment), str(run.k), pooling.ranges(run.seeds),
            f"{run.episodes:,}", *(_aim(run.target, summary) if aims else ()),
            *(mean_and_error(np.array(summary[field])) for field in fields),
            mean_and_interval(np.array(summary[fields[0]])), str(sum(summary["diverged"])),
            f"{summary['wall_time']:.0f}",
        ])  # fmt: skip
    return Cells(header, rows)


def compared(runs: Sequence[Finished]) -> str:
    """The tables of ``metagrad compare`` in Markdown, with the meaning of their numbers in between."""
    subtracted = differences(runs)
    parts = [markdown(comparison(runs)), f"{MEANING}.", *([markdown(subtracted)] if subtracted.rows else [])]
    return "\n\n".join(parts)


def differences(runs: Sequence[Finished]) -> Cells:
    """Scores seed by seed, less those of the first run in the order given that has seeds in common.

    There is a row for every run but those first ones.
    """
    rows = []
    for i, run in enumerate(runs):
        mine = run.score
        other = next((other for other in runs[:i] if mine.keys() & other.score.keys()), None)
        if other is None:
            continue
        theirs = other.score
        values = np.array([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
        each = ", ".join(f"{v:+.2f}" for v in values[:NAMED]) + ", …" * (len(values) > NAMED)
        above = f"{(values > 0).sum()} of {len(values)}"
        rows.append([run.name, other.name, mean_and_error(values), mean_and_interval(values), above, each])
    score = words(runs[0].summary["fields"][0])
    header = ["run", "less", f"difference in {score}", f"difference [{LEVEL * 100:g} %]", "seeds above", "seed by seed"]
    return Cells(header, rows)


def markdown(cells: Cells) -> str:
    """A table in Markdown, with columns under one another."""
    rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (cells.header, *cells.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def _aim(target: float | None, summary: dict[str, Any]) -> tuple[str, str]:
    """How many seeds passed the test at the end, and when the first and the last were above the target."""
    if target is None:
        return "", ""
    first = [v for v in summary["first_solved_episode"] if v is not None]
    span = f"{min(first):,} to {max(first):,}" if first else "never"
    return f"{sum(summary['solved'])} of {len(summary['seeds'])} above {target:g}", span


def _plain(text: str) -> Text:
    """Text in which brackets and colons mean themselves, on one line."""
    return Text(" ".join(text.split()))
