"""The head of a study: it alone talks to Optuna; workers train."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from metagrad.experiment import checkpoint
from metagrad.experiment.config import ConfigError, dump
from metagrad.experiment.folder import Held, RunError, begin, read_results, refuse_taken
from metagrad.experiment.process import Stopped, Stopping, resume_command
from metagrad.experiment.registry import experiment
from metagrad.reports.figures import plot_runs
from metagrad.reports.tables import results_table
from metagrad.sweeps.engine import Engine, Work, engine, score
from metagrad.sweeps.journal import Trial, Trials, figures
from metagrad.sweeps.study import Study, read_study, score_of


@dataclass(frozen=True)
class Workers:
    """Who trains: the engine, by default Ray where it is installed, with how many workers, and a cluster's address."""

    engine: str | None = None
    workers: int | None = None
    address: str | None = None


def start(path: Path, folder: Path, workers: Workers, console: Console) -> None:
    """Search as a study file says, in a new folder."""
    read_study(path)  # what is wrong is said before anything is written
    refuse_taken(folder, "study.toml", _resume(folder))
    with begin(folder, "study.toml", path.read_text("utf-8"), _resume(folder)):
        pass
    resume(folder, workers, console)


def resume(folder: Path, workers: Workers, console: Console) -> None:
    """Go on with the study of a folder to its end; one that is finished is shown again."""
    if not (folder / "study.toml").is_file():
        raise RunError(f"{folder} is not a study: it has no study.toml")
    study = read_study(folder / "study.toml")
    try:
        with Stopping(folder), Held(folder, "study.toml"):
            head = _Head(study, folder.absolute(), console)
            if not head.finished():
                with engine(workers.engine, workers.workers, workers.address) as them:
                    head.search(them)
            head.conclude(folder)
    except Stopped as stopped:
        raise Stopped(stopped.number, f"stopped; go on with `{_resume(folder)}`") from None


def _resume(folder: Path) -> str:
    return resume_command(folder, "sweep")


class _Head:
    """What a study has done, and what it does next."""

    def __init__(self, study: Study, folder: Path, console: Console) -> None:
        self.study, self.folder, self.console = study, folder, console
        self.score = score_of(study)
        run = study.experiment({}, study.search_seeds).run
        self.episodes, self.rungs = run.episodes, study.rungs(run.episodes)
        self.trials = Trials(study, self.rungs, folder)
        self.report = folder / "report"

    def finished(self) -> bool:
        """Whether all has been trained."""
        return self.trials.told == self.study.n_trials and (self.report / "results.json").is_file()

    def run_of(self, trial: Trial) -> Path:
        """The folder of a trial's run."""
        return self.folder / "trials" / f"{trial.number:04d}"

    def work(self, folder: Path, trial: Trial, seeds: Any, until: int | None) -> Work:
        """What a worker is told."""
        return Work(str(folder), dump(self.study.experiment(trial.setting, seeds)), until, self.score)

    def search(self, engine: Engine) -> None:
        """Train all trials, and the best setting on the report seeds."""
        kind = type(engine).__name__.lower()
        self.console.print(f"study: {self.folder}, {self.study.n_trials} trials, {engine.workers} workers ({kind})")
        self._trials(engine)
        best = self.trials.best()
        if best is None:
            raise RunError(f"no trial of {self.folder} came to its end: there is nothing to report")
        engine.submit("report", self.work(self.report, best, self.study.report_seeds, None))
        while not (done := engine.done(seconds=1.0)):
            pass
        if isinstance(done[0][1], str):
            raise RunError(f"{self.report}: {done[0][1]}")

    def _trials(self, engine: Engine) -> None:
        scores: dict[tuple[int, int | None], float | str] = {}
        running: set[tuple[int, int | None]] = set()
        with _Progress(self.study, self.console) as progress:
            while True:
                self.trials.settle(scores)
                for trial in self.trials.proceed():
                    progress.told(trial)
                if self.trials.told == self.study.n_trials:
                    return
                self._submit(engine, scores, running)
                progress.show(self.trials, len(running))
                for key, value in engine.done(seconds=1.0) if running else ():
                    running.remove(key)
                    scores[key] = value

    def _submit(self, engine: Engine, scores: dict, running: set) -> None:
        """Let as many trials go on as there are workers, those of lower numbers first."""
        for trial in self.trials.each[self.trials.told :]:
            key = (trial.number, trial.next(self.rungs))
            if trial.state != "running" or key in scores or key in running:
                continue
            if len(running) >= engine.workers:
                return
            folder = self.run_of(trial)
            try:
                work = self.work(folder, trial, self.study.search_seeds, key[1])
            except ConfigError as error:
                scores[key] = str(error)
                continue
            if key[1] is None and (folder / "results.json").is_file():
                scores[key] = score(work)
                continue
            engine.submit(key, work)
            running.add(key)

    def conclude(self, shown: Path) -> None:
        """Write the table and the figures, and say what was found; ``shown`` is how the folder was named."""
        table, best = self.table(), self.trials.best()
        assert best is not None
        checkpoint.write_text(self.folder / "table.md", table)
        print_ = self.console.print
        print_(table, soft_wrap=True)
        base = experiment(self.study.game, self.study.preset, self.study.method)
        command = [self.study.game, "--preset", base.preset, "--method", base.method]
        print_(f"best: metagrad train {shlex.join([*command, *self.study.arguments(best.setting)])}", soft_wrap=True)
        for path in figures(self.trials, self.score, self.folder):
            print_(f"figure: {shown / path.name}")
        plot_runs([self.report], self.report / "figure.png")
        print_(results_table(read_results(self.report)))

    def table(self) -> str:
        """All trials in Markdown, and how many episodes they took."""
        names = list(self.study.space)
        lines = [["trial", *names, "episodes", "ended", self.score], ["---:"] * (len(names) + 4)]
        took = 0
        for trial in self.trials.each:
            episodes = self.episodes if trial.state == "complete" else max(trial.rungs, default=0)
            took += episodes
            value = "" if math.isnan(trial.score) else f"{trial.score:.6g}"
            setting = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in map(trial.setting.get, names)]
            lines.append([str(trial.number), *setting, f"{episodes:,}", trial.state, value])
        whole = self.study.n_trials * self.episodes
        return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (
            f"\n{took:,} episodes of each of {self.study.search_seeds.count} seeds, {took / whole:.0%} of the "
            f"{whole:,} that all trials would take to their ends.\n"
        )


class _Progress:
    """All trials in a moving line; in what is no terminal, a line each as they end."""

    def __init__(self, study: Study, console: Console) -> None:
        self.console = console
        self._bar = Progress(
            BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total} trials  {task.fields[text]}"),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=study.n_trials, text="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def told(self, trial: Trial) -> None:
        """Say how a trial ended."""
        if not self.console.is_terminal:
            at = f" after {max(trial.rungs):,} episodes" if trial.state == "pruned" else ""
            self.console.print(f"trial {trial.number}: {trial.state}{at}, {trial.score:.6g}")

    def show(self, trials: Trials, running: int) -> None:
        """Show how far all are."""
        best, pruned = trials.best(), sum(t.state == "pruned" for t in trials.each)
        text = f"{running} running, {pruned} pruned" + (f", best {best.score:.6g}" if best else "")
        self._bar.update(self._task, completed=trials.told, text=text)
