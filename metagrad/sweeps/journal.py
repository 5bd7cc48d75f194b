"""The trials of a study in Optuna's journal: asked, told and stopped in their order, whoever is done first.

What a search finds does not depend on the number of workers or on who was killed. Trials are told by their numbers, and
the next one is asked when a certain one was told. At a rung of successive halving a trial is compared with those of
lower numbers alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from metagrad.sweeps.study import AHEAD, Range, Study


@dataclass
class Trial:
    """A trial: its setting, its scores at rungs by episodes, and how it ended.

    ``state`` is ``running``, ``pruned``, ``complete`` or ``failed``; it may be known before it is told.
    """

    number: int
    setting: dict[str, Any]
    rungs: dict[int, float] = field(default_factory=dict)
    state: str = "running"
    score: float = math.nan

    def next(self, rungs: list[int]) -> int | None:
        """The episode that it goes on to; None for its end."""
        return next((rung for rung in rungs if rung not in self.rungs), None)


class Trials:
    """The trials of a study, as its journal has them."""

    def __init__(self, study: Study, rungs: list[int], folder: Path) -> None:
        self.study, self.rungs = study, rungs
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder / "journal.log"
        _mend(path)
        self.optuna = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))), study_name="sweep", direction=study.direction,
            pruner=optuna.pruners.NopPruner(), load_if_exists=True,
        )  # fmt: skip
        self.each: list[Trial] = []
        for known in self.optuna.get_trials(deepcopy=False):
            self._read(known)
        self.told = next((t.number for t in self.each if t.state == "running"), len(self.each))
        for trial in self.each[self.told :]:  # it was scored at a rung, and perhaps not judged any more
            if trial.rungs:
                self._judge(trial, max(trial.rungs))

    def _read(self, known: optuna.trial.FrozenTrial) -> None:
        names = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        rungs = {step: value for step, value in known.intermediate_values.items() if step in self.rungs}
        state, score = names.get(known.state, "running"), math.nan if known.value is None else known.value
        self.each.append(Trial(known.number, known.params, rungs, state, score))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of a trial, whose random numbers depend on its number alone."""
        if self.study.sampler == "grid":
            return optuna.samplers.GridSampler(
                {name: list(values) for name, values in self.study.space.items()}, seed=self.study.seed
            )
        kind = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}[self.study.sampler]
        return kind(seed=(self.study.seed + 1_000_003 * number) % 2**32)

    @property
    def ahead(self) -> int:
        """Trials that may be asked beyond those told."""
        return self.study.ahead or (AHEAD if self.study.sampler == "tpe" else self.study.n_trials)

    def proceed(self) -> Iterator[Trial]:
        """Ask and tell all that can be; yields each trial that was told."""
        while True:
            self._ask(min(self.study.n_trials, self.told + self.ahead))
            if self.told == len(self.each) or self.each[self.told].state == "running":
                return
            self._tell(self.each[self.told])
            yield self.each[self.told]
            self.told += 1

    def _ask(self, n: int) -> None:
        """Ask until there are ``n`` trials; one comes into the journal with its whole setting, or not at all."""
        if len(self.each) >= n:
            return
        draft = optuna.create_study(direction=self.study.direction)
        draft.add_trials(self.optuna.get_trials(deepcopy=False))
        for number in range(len(self.each), n):
            draft.sampler = self._sampler(number)
            asked = draft.ask()
            setting = {name: _drawn(asked, name, values) for name, values in self.study.space.items()}
            running = optuna.trial.create_trial(
                state=TrialState.RUNNING, params=asked.params, distributions=asked.distributions
            )
            self.optuna.add_trial(running)
            self.each.append(Trial(number, setting))

    def _tell(self, trial: Trial) -> None:
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[trial.state]
        self.optuna.tell(trial.number, trial.score if trial.state == "complete" else None, state)

    def settle(self, scores: dict[tuple[int, int | None], float | str]) -> None:
        """Take over scores by trial and episode, where those of lower numbers have come as far; they are removed."""
        settled = True
        while settled:
            settled = False
            for trial in self.each[self.told :]:
                at = trial.next(self.rungs)
                if trial.state != "running" or (trial.number, at) not in scores or not self._due(trial, at):
                    continue
                score, settled = scores.pop((trial.number, at)), True
                if isinstance(score, str) or (at is None and not math.isfinite(score)):
                    trial.state = "failed"
                elif at is None:
                    trial.state, trial.score = "complete", score
                else:
                    optuna.trial.Trial(self.optuna, trial.number).report(score, at)
                    trial.rungs[at] = score
                    self._judge(trial, at)

    def _due(self, trial: Trial, at: int | None) -> bool:
        """Whether all trials of lower numbers have been at a rung or have ended."""
        lower = self.each[self.told : trial.number]
        return at is None or all(t.state != "running" or at in t.rungs for t in lower)

    def _judge(self, trial: Trial, rung: int) -> None:
        """Stop a trial at a rung if Optuna's pruner says so, which sees the trials up to it."""
        pruner = optuna.pruners.SuccessiveHalvingPruner(rung, self.study.halving.factor)  # type: ignore[union-attr]
        seen = optuna.create_study(direction=self.study.direction, pruner=pruner)
        for other in self.each[: trial.number + 1]:
            if rung in other.rungs:
                one = seen.ask()
                one.report(other.rungs[rung], rung)
                pruned = one.should_prune()
        if pruned:
            trial.state, trial.score = "pruned", trial.rungs[rung]

    def best(self) -> Trial | None:
        """The complete trial with the best score, the first of equal ones."""
        sign = 1 if self.study.direction == "maximize" else -1
        complete = [t for t in self.each if t.state == "complete"]
        return max(complete, key=lambda t: (sign * t.score, -t.number), default=None)


def _drawn(trial: optuna.trial.Trial, name: str, values: Any) -> Any:
    """The value of an option."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _mend(path: Path) -> None:
    """Remove what a killed head left: the journal's locks, and a line that is not whole. The study is held by now."""
    for lock in path.parent.glob(f"{path.name}.lock*"):
        lock.unlink(missing_ok=True)
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def figures(trials: Trials, score: str, folder: Path) -> list[Path]:
    """Optuna's figures of parallel coordinates and of the importance of options; those that it can draw.

    With successive halving they show scores at the first rung, where all trials have been.
    """
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawn

    study, name, paths = trials.optuna, score, []
    if trials.rungs:
        study, first = optuna.create_study(direction=trials.study.direction), trials.rungs[0]
        name = f"{score} after {first:,} episodes"
        for known in trials.optuna.get_trials(deepcopy=False):
            value = known.intermediate_values.get(first, math.nan)
            if math.isfinite(value):
                study.add_trial(
                    optuna.trial.create_trial(value=value, params=known.params, distributions=known.distributions)
                )
    with warnings.catch_warnings(), pyplot.rc_context():
        warnings.simplefilter("ignore")  # they are called experimental
        for kind, draw in (("parallel", drawn.plot_parallel_coordinate), ("importance", drawn.plot_param_importances)):
            try:
                figure: Any = draw(study, target_name=name).figure
            except (ValueError, RuntimeError):  # too few trials, or scores that are all the same
                continue
            figure.savefig(folder / f"{kind}.png", dpi=150, bbox_inches="tight")
            pyplot.close(figure)
            paths.append(folder / f"{kind}.png")
    return paths
