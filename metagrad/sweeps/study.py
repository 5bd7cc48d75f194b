"""A study: what is searched, how, and on which seeds; a TOML file that is checked before anything runs."""

from __future__ import annotations

import contextlib
import io
import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from metagrad.checks import Bound, Checked, Count, shown
from metagrad.experiment.config import ConfigError, located
from metagrad.experiment.learners import Learners
from metagrad.experiment.metrics import row_of, shown_fields
from metagrad.experiment.registry import experiment, parse
from metagrad.tasks.experiments import MAX_SEEDS, Experiment, Seed

#: Trials that are asked before the first one is told, where settings follow from scores.
AHEAD = 10


@dataclass(frozen=True)
class Seeds(Checked):
    """``count`` seeds from ``first`` on."""

    first: Seed
    count: Annotated[int, Bound(1, MAX_SEEDS)]

    @property
    def each(self) -> range:
        """All of them."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Halving(Checked):
    """Successive halving: a trial stops after ``first`` episodes, and each time it has done ``factor`` times as many.

    It goes on if its score is among the best ``1 / factor`` of the trials before it that came as far.
    """

    first: Count
    factor: Annotated[int, Bound(2, 1000)] = 2


@dataclass(frozen=True)
class Range(Checked):
    """Numbers from ``low`` to ``high``, integers if both are; ``log`` for a uniform logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low must be below high{', and above 0' if self.log else ''}, got {self.low}, {self.high}"
            )


@dataclass(frozen=True)
class Study(Checked):
    """What is searched, how, and on which seeds.

    Parameters
    ----------
    game, preset, method : str
        Where the options start from, as on the command line; without a preset or a method the game's first.
    search_seeds, report_seeds : Seeds
        The seeds of every trial, and those of the best setting at the end; they have none in common.
    space : dict
        Choices (a tuple) or a :class:`Range` for each option that is searched.
    options : dict
        Options that are fixed, by their names on the command line.
    sampler : {"grid", "random", "tpe"}
        How Optuna chooses settings.
    trials : int, optional
        Number of trials; a grid's is the number of its points.
    seed : int
        Of the sampler.
    ahead : int, optional
        A trial is asked when the one this many before it has been told; by default 10 for ``tpe``, and all trials at
        once where the sampler does not look at scores. It decides what a search finds, and the number of workers does
        not.
    halving : Halving, optional
        Successive halving; without it every trial is trained to its end.
    score : str, optional
        What is searched for, a column of metrics.csv; by default the score of the game.
    direction : {"maximize", "minimize"}
        Whether the most or the least of it is best.
    """

    game: str
    search_seeds: Seeds
    report_seeds: Seeds
    space: dict
    preset: str | None = None
    method: str | None = None
    options: dict = field(default_factory=dict)
    sampler: Literal["grid", "random", "tpe"] = "tpe"
    trials: Count | None = None
    seed: Annotated[int, Bound(0, 2**31)] = 0
    ahead: Count | None = None
    halving: Halving | None = None
    score: str | None = None
    direction: Literal["maximize", "minimize"] = "maximize"

    def __post_init__(self) -> None:
        super().__post_init__()
        search, report = self.search_seeds.each, self.report_seeds.each
        if common := range(max(search[0], report[0]), min(search[-1], report[-1]) + 1):
            raise ValueError(f"report_seeds and search_seeds must differ, and {common[0]} is one of both")
        if not self.space:
            raise ValueError("space must name an option that is searched")
        if both := sorted(self.options.keys() & self.space.keys()):
            raise ValueError(f"{both[0]} is both fixed, in options, and searched, in space")
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"space.{ranges[0]} must be a list of choices for a grid")
        if self.sampler == "grid" and self.trials not in (None, self.points):
            raise ValueError(f"trials must be left out of a grid, or be its {self.points} points, got {self.trials}")
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"trials must be given for sampler {self.sampler}")

    @property
    def points(self) -> int:
        """Points of a grid."""
        return math.prod(len(values) for values in self.space.values())

    @property
    def n_trials(self) -> int:
        """Number of trials."""
        return self.trials or self.points

    def rungs(self, episodes: int) -> list[int]:
        """Episodes after which a trial of that many may be stopped."""
        rungs, at = [], self.halving.first if self.halving else episodes
        while at < episodes:
            rungs.append(at)
            at *= self.halving.factor  # type: ignore[union-attr]
        return rungs

    def arguments(self, setting: dict[str, Any]) -> list[str]:
        """The command line's options for a setting of what is searched."""
        return [word for name, value in (self.options | setting).items() for word in _flag(name, value)]

    def experiment(self, setting: dict[str, Any], seeds: Seeds) -> Experiment:
        """The experiment of a setting; a :class:`ConfigError` says which option cannot be."""
        base = experiment(self.game, self.preset, self.method)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                made = parse(base, ["--threads", "1", *self.arguments(setting)], "metagrad sweep")
        except SystemExit:
            raise ConfigError(_reason(said.getvalue())) from None
        return replace(made, run=replace(made.run, seeds=tuple(seeds.each)))


def _reason(said: str) -> str:
    """Why options were refused, which stands in a box below its title, above advice for the command line."""
    parts = [" ".join(part.split()) for part in re.split("[─-]{3,}", re.sub("[│|╭╮╰╯+]", " ", said))]
    return parts[1] if len(parts) > 1 else " ".join(parts)


def _flag(name: str, value: Any) -> list[str]:
    """An option and its value as on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        path, _, last = flag.rpartition(".")
        return [f"--{flag}"] if value else [f"--{path}.no-{last}" if path else f"--no-{last}"]
    return [f"--{flag}", *(shlex.split(value) if isinstance(value, str) else [str(value)])]


def read_study(path: Path) -> Study:
    """The study of a file; a :class:`ConfigError` names the first option that is unknown or cannot be."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        made = {name: _made(kind, values[name], name) for name, kind in _PARTS.items() if name in values}
        study = _made(Study, values | made)
        _check_options(study)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return study


_PARTS: dict[str, Any] = {
    "search_seeds": Seeds, "report_seeds": Seeds, "halving": Halving,
    "options": lambda given: dict(_options(given)),
    "space": lambda given: {name: _values(name, values) for name, values in _options(given)},
}  # fmt: skip


def _made(kind: Any, values: Any, path: str = "") -> Any:
    """An object of options from a table of the file, which stands at ``path``."""
    if not isinstance(kind, type):
        return kind(values)
    known, place = [f.name for f in fields(kind)], f"{path}." if path else ""
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must be a table of {', '.join(known)}, got {shown(values)}")
    if unknown := sorted(values.keys() - set(known)):
        raise ConfigError(f"unknown option {shown(place + unknown[0])}")
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if lacks := [name for name in required if name not in values]:
        raise ConfigError(f"{place}{lacks[0]} is missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(located(error, kind, path)) from error


def _options(given: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their full names, which may be written with dots or as tables in one another."""
    if not isinstance(given, dict):
        raise ConfigError(f"options and space must be tables, got {shown(given)}")
    for name, value in given.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _options(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _values(name: str, values: Any) -> Any:
    """What an option is chosen from."""
    if isinstance(values, dict):
        return _made(Range, values, f"space.{name}")
    if not isinstance(values, list) or not values or not all(isinstance(v, bool | int | float | str) for v in values):
        raise ConfigError(f"space.{name} must be a list of choices or a table of low and high, got {shown(values)}")
    if len(set(values)) < len(values):
        raise ConfigError(f"space.{name} must have distinct choices, got {shown(values)}")
    return tuple(values)


def _check_options(study: Study) -> None:
    """Refuse options that are unknown or cannot be, every choice for itself."""
    tried: list[dict[str, Any]] = [{}]
    for name, values in study.space.items():
        tried += [{name: v} for v in ((values.low, values.high) if isinstance(values, Range) else values)]
    for setting in tried:
        try:
            made = study.experiment(setting, study.search_seeds)
        except ConfigError as error:
            raise ConfigError(" ".join([*(f"space.{name}:" for name in setting), str(error)])) from error
        if study.halving and not made.run.eval_period <= study.halving.first < made.run.episodes:
            raise ConfigError(
                f"halving.first must be at least eval_period ({made.run.eval_period:,}) and below episodes "
                f"({made.run.episodes:,}), got {study.halving.first:,}"
            )


def score_of(study: Study) -> str:
    """The name of what is searched for, seen in one iteration; a :class:`ConfigError` if there is no such."""
    made = study.experiment({}, study.search_seeds)
    learners = Learners(replace(made, run=replace(made.run, seeds=made.run.seeds[:1])))
    scores = learners.trial()
    names = list(row_of(scores, 0))
    score = study.score or shown_fields(made.task, scores)[0]
    if score not in names:
        raise ConfigError(f"score must be one of {', '.join(names)}, got {shown(score)}")
    return score
