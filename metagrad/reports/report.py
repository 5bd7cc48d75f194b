"""A page on runs that can be mailed: configurations, tables, figures and every seed in one HTML file."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import fastenvs
from metagrad.experiment.checkpoint import write_text
from metagrad.experiment.config import Experiment, to_dict
from metagrad.experiment.registry import flags, parse, starting_point
from metagrad.reports import figures, tables
from metagrad.reports.tables import Cells, Finished, read_finished


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write a page on finished runs, of one game or several, as one HTML file without scripts; returns the file.

    Parameters
    ----------
    folders : sequence of Path
        Folders of the runs; differences seed by seed are those to the first run of a game.
    out : Path
        The file.

    Raises
    ------
    RunError, ConfigError
        If a run is not finished or damaged; nothing is written.
    """
    runs = read_finished(folders)
    games: dict[str, list[tuple[Finished, Path]]] = {}
    for run, folder in zip(runs, folders, strict=True):
        games.setdefault(run.experiment.game, []).append((run, folder))
    loader = PackageLoader("metagrad.reports", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        names=[run.name for run in runs],
        games={name: _game(*zip(*pairs, strict=True)) for name, pairs in games.items()},
        meaning=tables.MEANING,
        command=shlex.join(["metagrad", "report", *map(str, folders), "--out", str(out)]),
        version=fastenvs.__version__,
    )
    write_text(out, page)
    return out


def _game(runs: Sequence[Finished], folders: Sequence[Path]) -> dict[str, Any]:
    """What the page says of the runs of a game: the tables of those that differ in seeds alone together."""
    pooled = tables.pooled(runs)
    try:
        figure = _svg(folders)
    except ValueError:  # none was evaluated on the way
        figure = None
    return {
        "comparison": tables.comparison(pooled),
        "differences": tables.differences(pooled),
        "options": changes(pooled),
        "figure": figure,
        "runs": [_run(run) for run in runs],
    }


def _run(run: Finished) -> dict[str, Any]:
    return {
        "name": run.name,
        "command": command_of(run.experiment),
        "seeds": tables.seeds_of(run.summary),
        "tests": run.summary["test_episodes"],
        "solved": tables.definition_of_solved(run.summary),
        "config": json.dumps(to_dict(run.experiment), indent=1),
    }


def _svg(folders: Sequence[Path]) -> str:
    """The figure of runs of one game as SVG that can stand in a page, with no names that another one could have."""
    runs = figures.read_runs(folders)
    file = io.BytesIO()
    figures.draw(runs[0][0].task.panels(runs), runs, file, "svg")
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    return re.sub(r' id="[A-Za-z][\w.]*_\d+"', "", text)


def changes(runs: Sequence[Finished]) -> Cells:
    """Options that differ between runs; of one run, those that are other than where it started from."""
    made = [run.experiment for run in runs]
    names = [run.name for run in runs]
    if len(made) == 1:
        base = starting_point(made[0])
        made, names = ([base, made[0]], ["preset and method", *names]) if base else (made, names)
    return Cells(["option", *names], list(differing([to_dict(experiment) for experiment in made])))


def differing(values: list[Any], path: str = "") -> Iterator[list[str]]:
    """Rows of options that are not the same everywhere; parts of different kinds by the names of their kinds.

    ``values`` are objects of options as :func:`metagrad.experiment.config.to_dict` gives them, at ``path``.
    """
    if all(value == values[0] for value in values):
        return
    kinds = {value.get("type") if isinstance(value, dict) else None for value in values}
    if len(kinds) == 1 and kinds != {None}:
        for name in values[0]:
            yield from differing([value[name] for value in values], f"{path}.{name}".lstrip("."))
    else:
        yield [path, *map(_text, values)]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("type") or value.get("import")
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)


def command_of(experiment: Experiment) -> str | None:
    """The command line that trains an experiment; None where the command line alone does not make it."""
    base, run = starting_point(experiment), experiment.run
    if base is None:
        return None
    options = flags(base, experiment)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            made = parse(base, options, "metagrad train")
        made = replace(made, run=replace(made.run, seeds=run.seeds))
    except (SystemExit, ValueError):
        return None
    if made != experiment or run.seeds != tuple(range(run.seeds[0], run.seeds[0] + len(run.seeds))):
        return None
    words = [experiment.game, "--preset", experiment.preset, "--method", experiment.method]
    words += ["--first-seed", str(run.seeds[0]), "--seeds", str(len(run.seeds)), *options]
    return shlex.join(["metagrad", "train", *words])
