"""Where the runs of the list lie, and training those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from metagrad.experiment import run as runs_of
from metagrad.experiment.folder import Busy, Taken, read_experiment
from metagrad.reproduce.listed import Listed, Run
from metagrad.tasks.experiments import Experiment


class Part(NamedTuple):
    """Seeds of a run that are trained in one folder."""

    folder: Path
    seeds: tuple[int, ...]

    @property
    def begun(self) -> bool:
        """Whether it was begun."""
        return (self.folder / "config.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        return (self.folder / "results.json").is_file()


def parts(run: Run, root: Path) -> list[Part]:
    """The folders of a run: NAME, NAME_b and so on, or NAME_SEED for seeds that were begun, or are left, one by one."""
    place = root / run.folder
    alone = [Part(place / f"{run.name}_{seed}", (seed,)) for _, seeds in run.sets() for seed in seeds]
    found = [part for part in alone if part.begun]
    single = {part.seeds[0] for part in found}
    for name, seeds in run.sets():
        together = Part(place / name, seeds)
        if together.begun and not single.issuperset(seeds):
            found.append(Part(place / name, read_experiment(place / name).run.seeds))
        elif single.isdisjoint(seeds):
            found.append(together)
        else:
            found += [part for part in alone if part.seeds[0] in seeds and not part.begun]
    return sorted(found, key=lambda part: part.seeds)


def to_go(runs: Sequence[Run], root: Path) -> str:
    """How many folders of some runs are finished, and a guess of the time that the others take on one core."""
    pieces = [(run, part) for run in runs for part in parts(run, root)]
    left = [(run, part) for run, part in pieces if not part.finished]
    hours = sum(len(part.seeds) * run.experiment.run.episodes / run.speed for run, part in left) / 3600
    return f"{len(pieces) - len(left)} of {len(pieces)} folders there, {hours:.1f} h to go"


def train(listed: Listed, runs: Sequence[Run], root: Path, console: Console) -> list[str]:
    """Train what is missing of some runs, one folder after the other; returns why some were passed over.

    Finished folders are kept, and interrupted ones go on. Those that another process trains are passed over, so that
    several processes share the runs.
    """
    passed = []
    for run in runs:
        for part in (part for part in parts(run, root) if not part.finished):
            try:
                made = None if part.begun else _with_seeds(listed, run, part, root)
                console.print(f"run: {part.folder}")
                _go_on(part.folder, made, console)
            except Busy as busy:
                passed.append(str(busy))
    return passed


def _go_on(folder: Path, made: Experiment | None, console: Console) -> None:
    """Train a run that is new, or go on with one that was begun, perhaps by another process meanwhile."""
    if made is not None:
        try:
            runs_of.train(made, folder, console)
            return
        except Taken:
            if not (folder / "config.json").is_file():
                raise
    runs_of.resume(folder, console)


def _with_seeds(listed: Listed, run: Run, part: Part, root: Path) -> Experiment:
    """What to train in a folder: the run on its seeds, from the folder with the agents of these seeds."""
    made, source = run.experiment, None
    if run.source:
        place = parts(listed.runs[run.game][run.source], root)
        start = next((one for one in place if set(part.seeds) <= set(one.seeds)), place[0])
        if not start.finished:
            raise Busy(f"{part.folder} waits for {start.folder}, which is not finished")
        source = str(start.folder)
    return replace(made, run=replace(made.run, seeds=part.seeds, init_from=source))
