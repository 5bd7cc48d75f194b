"""What is listed in ``experiments.toml``: runs with their seeds and options, and figures with what the paper claims."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from typing import Any

from metagrad.experiment.config import from_dict, to_dict
from metagrad.experiment.registry import adjusted, experiment
from metagrad.tasks.experiments import Experiment, RunOptions

#: First seed of a run that is reported; tuning has others.
FIRST_SEED = 12340


@dataclass(frozen=True)
class Run:
    """A run of the list, whose seeds may be trained in several folders.

    Parameters
    ----------
    name, game, folder : str
        Its name, the game, and the folder of the game's runs.
    seeds : int
        Number of seeds, from ``first_seed`` on.
    a_folder : int
        How many of them are trained side by side in one folder.
    speed : float
        Episodes a second, all seeds together, by which its time is guessed.
    preset, method : str, optional
        Where its options start from.
    source : str, optional
        Name of the run whose agents it starts with.
    options : dict
        Options by their names, in tables as in config.json; those of the run need no table.
    quick : dict
        Options of a small version.
    """

    name: str
    game: str
    folder: str
    seeds: int
    a_folder: int
    speed: float
    first_seed: int = FIRST_SEED
    preset: str | None = None
    method: str | None = None
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)

    def small(self) -> Run:
        """The same with few short episodes, on the first seeds alone, so that all agents to start with are there."""
        options = {**self.quick}
        seeds = min(self.seeds, options.pop("seeds"))
        return replace(self, seeds=seeds, first_seed=FIRST_SEED, options=_merged(self.options, options))

    def sets(self) -> list[tuple[str, tuple[int, ...]]]:
        """Folders and their seeds: NAME, NAME_b and so on."""
        every = range(self.first_seed, self.first_seed + self.seeds)
        parts = [tuple(every[i : i + self.a_folder]) for i in range(0, self.seeds, self.a_folder)]
        return [(self.name + (f"_{chr(ord('a') + i)}" if i else ""), part) for i, part in enumerate(parts)]

    @functools.cached_property
    def experiment(self) -> Experiment:
        """What it does, whatever its seeds; agents to start with are not named yet."""
        base = experiment(self.game, self.preset, self.method)
        return adjusted(from_dict(_merged(to_dict(base), _full(self.options))), base)


@dataclass(frozen=True)
class Claim:
    """What the paper reports, in our words, and how it is judged.

    ``test`` compares two scores of the test at the end, or one with a number; without it the claim is judged by a
    look at panels, or ``untestable`` says why it cannot be.
    """

    says: str
    test: str | None = None
    look: str | None = None
    untestable: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure: runs by their labels, panels (all by default), and what the paper claims of it."""

    name: str
    game: str
    title: str
    runs: dict[str, Run]
    panels: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Listed:
    """All runs by game and name, and all figures by name."""

    runs: dict[str, dict[str, Run]]
    figures: dict[str, Figure]

    def chosen(self, targets: Sequence[str]) -> tuple[list[Figure], list[Run]]:
        """Figures and runs that some targets name, each run after the one whose agents it starts with.

        A target is a figure, a game with all of its figures and runs, GAME/RUN, ``paper`` (all figures of the paper),
        or ``all``.

        Raises
        ------
        ValueError
            If a target is none of these; the message says what there is.
        """
        figures: list[Figure] = []
        runs: list[Run] = []
        for target in targets:
            which, _, name = target.partition("/")
            if name and name in self.runs.get(which, {}):
                runs.append(self.runs[which][name])
            elif target in self.figures:
                figures.append(self.figures[target])
            elif target == "paper":
                figures += [figure for figure in self.figures.values() if figure.name.startswith("figure-")]
            elif target == "all" or target in self.runs:
                games = self.runs if target == "all" else [target]
                figures += [figure for figure in self.figures.values() if figure.game in games]
                runs += [run for one in games for run in self.runs[one].values()]
            elif which in self.runs:
                raise ValueError(f"no run of {which} is called {name!r}; there are: {', '.join(self.runs[which])}")
            else:
                known = f"{', '.join(self.figures)}; paper, {', '.join(self.runs)}, all for many; GAME/RUN for a run"
                raise ValueError(f"no figure is called {target!r}; there are: {known}")
        wanted = [*(run for figure in figures for run in figure.runs.values()), *runs]
        after = {(r.game, r.name): r for run in wanted for r in self._with_sources(run)}
        return list({figure.name: figure for figure in figures}.values()), list(after.values())

    def _with_sources(self, run: Run) -> Iterator[Run]:
        if run.source:
            yield from self._with_sources(self.runs[run.game][run.source])
        yield run


def read(quick: bool = False) -> Listed:
    """The list of this package, of small versions if asked for."""
    values = tomllib.loads(resources.files("metagrad.reproduce").joinpath("experiments.toml").read_text("utf-8"))
    runs: dict[str, dict[str, Run]] = {}
    for name, group in values["groups"].items():
        small = _merged(values["quick"], group.pop("quick", {}))
        made = {run: _run(run, name, group, given, small) for run, given in values["runs"][name].items()}
        runs[name] = {run: one.small() for run, one in made.items()} if quick else made
    return Listed(runs, {name: _figure(name, given, runs[given["game"]]) for name, given in values["figures"].items()})


def _run(name: str, game: str, group: dict[str, Any], given: dict[str, Any], quick: dict[str, Any]) -> Run:
    known = {f.name for f in fields(Run)} - {"options", "quick"}
    about = {"source" if key == "from" else key: value for key, value in given.items() if key in {*known, "from"}}
    options = {key: value for key, value in given.items() if key not in {*known, "from"}}
    return Run(**{"name": name, "game": game, **group, **about}, options=options, quick=quick)


def _figure(name: str, given: dict[str, Any], runs: dict[str, Run]) -> Figure:
    shown = given["runs"] if isinstance(given["runs"], dict) else {run: run for run in given["runs"]}
    return Figure(
        name, given["game"], given["title"], {label: runs[run] for label, run in shown.items()},
        tuple(given.get("panels", ())), tuple(Claim(**claim) for claim in given.get("claims", ())),
    )  # fmt: skip


def _full(options: dict[str, Any]) -> dict[str, Any]:
    """Options as they lie in config.json, where those of the run are a table too."""
    own = {f.name for f in fields(RunOptions)}
    run = {name: value for name, value in options.items() if name in own}
    return {"run": run, **{name: value for name, value in options.items() if name not in own}}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Tables with changes, which replace what is of another type as a whole."""
    merged = {**base}
    for name, value in changes.items():
        inside = isinstance(value, dict) and "type" not in value
        merged[name] = _merged(merged.get(name, {}), value) if inside else value
    return merged
