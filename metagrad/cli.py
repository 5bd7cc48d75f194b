"""Command line: ``metagrad train``, ``evaluate``, ``plot``, ``compare`` and ``replay``."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from metagrad import run
from metagrad.checkpoint import CheckpointError
from metagrad.config import (
    MAX_SEEDS,
    AnyConfig,
    CleanupConfig,
    CleanupMethod,
    Config,
    ConfigError,
    EconomyConfig,
    Method,
    TaxMethod,
)
from metagrad.evaluate import bounds
from metagrad.games import KITS
from metagrad.log import comparison_table, read_metrics, results_table
from metagrad.presets import CLEANUP_PRESETS, ECONOMY_PRESETS, PRESETS, preset
from metagrad.stopping import Stopped
from metagrad.terminal import any_terminal
from metagrad.turns import TurnLearner

USAGE = """usage: metagrad train {escape-room,cleanup,gtb} [--preset NAME] [--method NAME] [--out FOLDER] ...
       metagrad train --resume RUN
       metagrad evaluate RUN [--episodes N]
       metagrad plot RUN [RUN ...] [--out FILE]
       metagrad compare RUN [RUN ...]
       metagrad replay RUN [--seed N] [--out FILE]

`metagrad train escape-room --help` lists all options of that game."""


@dataclass(frozen=True)
class TrainEscapeRoom:
    """Train a designer and its agents. Every option below starts from the preset's value."""

    preset: Literal[tuple(PRESETS)] = "er_5_2"  # type: ignore[valid-type]
    """Experiment."""
    method: Method = "metagrad"
    """How incentives are set."""
    seeds: int = 8
    """Number of independent runs, trained side by side."""
    first_seed: int = 12340
    """Seed of the first of them; the others follow."""
    out: Path | None = None
    """Folder of the run, which must not exist (default: a new one, runs/PRESET-METHOD)."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True)
class TrainCleanup:
    """Train agents on Cleanup, and a designer that pays them. Every option below starts from the preset's value."""

    preset: Literal[tuple(CLEANUP_PRESETS)] = "cleanup"  # type: ignore[valid-type]
    """Experiment."""
    method: CleanupMethod = "metagrad"
    """How incentives are set; `central` is one policy for all agents."""
    seeds: int = 1
    """Number of independent runs, trained in turn."""
    first_seed: int = 12340
    """Seed of the first of them; the others follow."""
    out: Path | None = None
    """Folder of the run, which must not exist (default: a new one, runs/PRESET-METHOD)."""
    config: Annotated[CleanupConfig, tyro.conf.arg(name="")] = field(default_factory=CleanupConfig)


@dataclass(frozen=True)
class TrainGTB:
    """Train the agents of the economy under a tax schedule. Every option below starts from the preset's value."""

    preset: Literal[tuple(ECONOMY_PRESETS)] = "gtb"  # type: ignore[valid-type]
    """Experiment."""
    method: TaxMethod = "free-market"
    """How taxes are set; the rates of `fixed` are `--game.rates`."""
    seeds: int = 1
    """Number of independent runs, trained in turn."""
    first_seed: int = 12340
    """Seed of the first of them; the others follow."""
    out: Path | None = None
    """Folder of the run, which must not exist (default: a new one, runs/PRESET-METHOD)."""
    config: Annotated[EconomyConfig, tyro.conf.arg(name="")] = field(default_factory=EconomyConfig)


TRAIN = {"escape-room": TrainEscapeRoom, "cleanup": TrainCleanup, "gtb": TrainGTB}


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its last checkpoint."""

    resume: Path
    """Folder of the run."""


@dataclass(frozen=True)
class Evaluate:
    """Test the last checkpoint of a run on fresh episodes."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int | None = None
    """Episodes for each seed (default: those of the run's own test, which it then repeats exactly)."""


@dataclass(frozen=True)
class Plot:
    """Draw a run, or compare several."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""
    out: Path | None = None
    """File of the figure (default: figure.png in the run, comparison.png beside several)."""


@dataclass(frozen=True)
class Compare:
    """Put the results of finished runs into one table, in Markdown."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs."""


@dataclass(frozen=True)
class Replay:
    """Write an episode of a run's agents as an animation (GIF)."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    seed: int | None = None
    """Whose agents (default: the first seed's)."""
    out: Path | None = None
    """File of the animation (default: episode.gif in the run)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, 128 and the number of a signal that stopped it."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands = {"train": _train, "evaluate": _evaluate, "plot": _plot, "compare": _compare, "replay": _replay}
    with any_terminal():
        if not args or args[0] not in commands:
            asked = bool(args) and args[0] in ("-h", "--help")
            print(USAGE, file=sys.stdout if asked else sys.stderr)
            return 0 if asked else 2
        try:
            commands[args[0]](args[1:], Console(markup=False, emoji=False, highlight=False))
        except (ConfigError, CheckpointError, run.RunError, ValueError, OSError) as error:
            return _say(error, 2)
        except KeyError as error:
            return _say(f"a file of the run lacks {error}; is it of another game or damaged?", 2)
        except MemoryError as error:
            return _say(f"there is not enough memory: {error}", 2)
        except Stopped as stopped:
            return _say(stopped, 128 + stopped.number)
        except KeyboardInterrupt:
            return _say("interrupted", 128 + signal.SIGINT)
        return 0


def _say(message: object, status: int) -> int:
    """Print why a command ends, on one line; returns its exit status."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"metagrad: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def _train(args: list[str], console: Console) -> None:
    if any(a == "--resume" or a.startswith("--resume=") for a in args):
        options = tyro.cli(Resume, args=args, prog="metagrad train")
        folder = options.resume
        run.resume(folder, console)
    else:
        if not args or args[0] not in TRAIN:
            raise ConfigError(f"say which game to train: metagrad train {{{','.join(TRAIN)}}}, or --resume RUN")
        folder, config = _parse_train(args)
        run.start(config, folder, console)
    figure = folder / "figure.png"
    up_to_date = figure.exists() and figure.stat().st_mtime_ns >= (folder / "results.json").stat().st_mtime_ns
    if read_metrics(folder / "metrics.csv") and not up_to_date:
        console.print(f"figure: {_figure([folder], figure)}")


def _parse_train(args: list[str]) -> tuple[Path, AnyConfig]:
    """Options over the preset that they name."""
    base: Any = TRAIN[args[0]]()
    for i, a in enumerate(args):
        if a == "--preset" and i + 1 < len(args):
            base = replace(base, preset=args[i + 1])
        elif a.startswith("--preset="):
            base = replace(base, preset=a.partition("=")[2])
    base = replace(base, config=preset(base.preset, KITS[args[0]].presets))
    options = tyro.cli(TRAIN[args[0]], args=args[1:], default=base, prog=f"metagrad train {args[0]}")
    if not 1 <= options.seeds <= MAX_SEEDS or options.first_seed < 0:
        raise ConfigError(f"--seeds must be 1 to {MAX_SEEDS:,} and --first-seed not negative")
    config = replace(
        options.config,
        method=options.method,
        seeds=tuple(range(options.first_seed, options.first_seed + options.seeds)),
    )
    if isinstance(config, Config) and config.game != base.config.game:
        config = _other_room(config, base.config)
    return options.out or _new_folder(Path("runs") / f"{options.preset}-{options.method}"), config


def _other_room(config: Config, base: Config) -> Config:
    """A preset with another game: named by it, and with a target of its own unless one was given."""
    name = f"ER({config.game.n_agents},{config.game.min_at_lever}) from {base.preset}"
    limits = bounds(config.game)
    if config.target != base.target or limits is None:
        return replace(config, preset=name)
    return replace(config, preset=name, target=0.95 * limits["threshold pay"])


def _new_folder(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... that does not exist."""
    if not path.exists():
        return path
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(p for p in numbered if not p.exists())


def _evaluate(args: list[str], console: Console) -> None:
    options = tyro.cli(Evaluate, args=args, prog="metagrad evaluate")
    if options.episodes is not None and options.episodes < 1:
        raise ConfigError("--episodes must be at least 1")
    learner, scores = run.evaluate(options.run, options.episodes)
    summary = run.summarise(options.run, learner, scores, seconds=0.0)
    summary["test_episodes"] = options.episodes or learner.config.test_episodes
    console.print(results_table(summary))


def _plot(args: list[str], console: Console) -> None:
    options = tyro.cli(Plot, args=args, prog="metagrad plot")
    if not options.runs:
        raise ConfigError("name at least one run to plot")
    for folder in options.runs:
        run.read_config(folder)
    single = len(options.runs) == 1
    default = options.runs[0] / "figure.png" if single else options.runs[0].parent / "comparison.png"
    console.print(f"figure: {_figure(options.runs, options.out or default)}")


def _compare(args: list[str], console: Console) -> None:
    options = tyro.cli(Compare, args=args, prog="metagrad compare")
    if not options.runs:
        raise ConfigError("name at least one run to compare")
    rows = [(run.read_config(f), run.read_results(f)) for f in options.runs]
    Console(width=400, markup=False, emoji=False, highlight=False).print(comparison_table(rows))


def _replay(args: list[str], console: Console) -> None:
    options = tyro.cli(Replay, args=args, prog="metagrad replay")
    learner = run.load_learner(options.run)
    if not isinstance(learner, TurnLearner):
        raise ConfigError("runs on Escape Room cannot be replayed")
    if options.seed is not None and options.seed not in learner.config.seeds:
        raise ConfigError(f"--seed must be one of {list(learner.config.seeds)}, got {options.seed}")
    if isinstance(learner.config, CleanupConfig):
        from metagrad.cleaning import replay
    else:
        from metagrad.replay import replay  # matplotlib takes a while to load

    console.print(f"episode: {replay(learner, options.out or options.run / 'episode.gif', options.seed)}")


def _figure(folders: Sequence[Path], out: Path) -> Path:
    from metagrad.plots import plot_runs  # matplotlib takes a while to load

    return plot_runs(folders, out)


if __name__ == "__main__":
    sys.exit(main())
