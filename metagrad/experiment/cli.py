"""Command line: ``metagrad train``, ``sweep``, ``evaluate``, ``plot``, ``compare``, ``report`` and others."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metagrad import EXTRAS, what_to_install

if TYPE_CHECKING:
    from rich.console import Console

    from metagrad.experiment.config import Experiment

GAMES = "{escape-room,cleanup,gtb,one-step-economy,MODULE:NAME}"
USAGE = f"""usage: metagrad train {GAMES} [--preset NAME] [--method NAME] [--out FOLDER] ...
       metagrad train --resume RUN [--episodes N] [--device NAME] [--threads N]
       metagrad train ... --processes P
       metagrad train ... --track {{tensorboard,wandb}}
       metagrad sweep STUDY.toml [--out FOLDER] [--workers N] [--engine {{processes,ray}}] [--address ADDRESS]
       metagrad sweep --resume FOLDER ...
       metagrad evaluate RUN [--episodes N]
       metagrad plot RUN [RUN ...] [--out FILE] [--panels NAME ...]
       metagrad compare RUN [RUN ...]
       metagrad report RUN [RUN ...] [--out FILE]
       metagrad export RUN [--episodes N] [--seed N] [--out FOLDER] [--format {{csv,parquet}}]
       metagrad replay RUN [--seed N] [--out FILE.html or FILE.gif]
       metagrad reproduce FIGURE [FIGURE ...] [--quick] [--draw] [--runs FOLDER] [--out FOLDER]
       metagrad reproduce --list [FIGURE ...]
       metagrad --version

`metagrad train --help` lists games and methods, `metagrad train escape-room --help` all options of that game."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, 128 and the number of a signal that stopped it."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "train": _train, "sweep": _sweep, "evaluate": _evaluate, "plot": _plot, "compare": _compare,
        "report": _report, "export": _export, "replay": _replay, "reproduce": _reproduce,
    }  # fmt: skip
    if args[:1] == ["--version"]:
        import fastenvs

        print(f"metagrad {fastenvs.__version__}")
        return 0
    if not args or args[0] not in commands:
        asked = bool(args) and args[0] in ("-h", "--help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    rest, course = split_course(args) if args[0] == "train" else (args, argparse.Namespace(processes=1))
    if course.processes > 1:
        from metagrad.parallel.launch import launch

        return launch(course.processes, [*rest, *(f"--track={name}" for name in course.track)])
    try:
        return _guarded(commands[args[0]], args[1:])
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return _say(what_to_install(error.name), 2)


def _guarded(command: Any, args: list[str]) -> int:
    """Run a command; whatever goes wrong is said in a line."""
    from metagrad.experiment.checkpoint import CheckpointError
    from metagrad.experiment.config import ConfigError, place
    from metagrad.experiment.folder import RunError
    from metagrad.experiment.process import Stopped, any_terminal
    from metagrad.parallel.group import Parted, leave
    from metagrad.parallel.launch import PARTED, launched

    with any_terminal():
        try:
            command(args)
        except (CheckpointError, RunError, ConfigError) as error:
            return _say(error, 2)
        except (ValueError, OSError) as error:
            return _say(f"{error}{place(error)}", 2)
        except KeyError as error:
            if where := place(error):
                return _say(f"KeyError: {error}{where}", 2)
            return _say(f"a file of the run lacks {error}; is it of another game or damaged?", 2)
        except Parted as error:
            return PARTED if launched() else _say(error, PARTED)
        except MemoryError as error:
            return _say(f"there is not enough memory: {error}", 2)
        except Stopped as stopped:
            return _say(stopped, 128 + stopped.number)
        except KeyboardInterrupt:
            return _say("interrupted", 128 + signal.SIGINT)
        finally:
            leave()
    return 0


def _say(message: object, status: int) -> int:
    """Print why a command ends, on one line; returns its exit status."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"metagrad: {' '.join(str(message).split())}", file=sys.stderr)
    return status


def _console() -> Console:
    from rich.console import Console

    from metagrad.parallel import group

    return Console(markup=False, emoji=False, highlight=False, quiet=group.follows())


def _train(args: list[str]) -> None:
    from metagrad.experiment import run

    console = _console()
    if not args or args[0] in ("-h", "--help"):
        print(_games())
        return
    args, course = split_course(args)
    if any(a == "--resume" or a.startswith("--resume=") for a in args):
        parser = argparse.ArgumentParser(prog="metagrad train", allow_abbrev=False)
        parser.add_argument("--resume", type=Path, required=True, metavar="RUN", help="folder of the run")
        for name, kind, what in (
            ("device", str, "where the networks live from now on"),
            ("threads", int, "threads of tensor operations from now on"),
            ("episodes", int, "episodes after which the run ends, also one that was finished"),
        ):
            parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=what)
        changes = vars(parser.parse_args(args))
        summary = run.resume(folder := changes.pop("resume"), console, course.track, **changes)
    else:
        folder, experiment = parse_train(args)
        console.print(f"run: {folder}")
        summary = run.train(experiment, folder, console, course.track)
    from metagrad.experiment.metrics import read_metrics
    from metagrad.parallel import group
    from metagrad.reports.figures import plot_runs
    from metagrad.reports.tables import results_table

    if group.follows():
        return
    with contextlib.suppress(OSError):  # a terminal that is gone does not keep a run from ending well
        console.print(results_table(summary))
    figure = folder / "figure.png"
    up_to_date = figure.exists() and figure.stat().st_mtime_ns >= (folder / "results.json").stat().st_mtime_ns
    if read_metrics(folder / "metrics.csv") and not up_to_date:
        console.print(f"figure: {plot_runs([folder], figure)}")


def _games() -> str:
    """Games with their presets and methods."""
    from metagrad.experiment.registry import game
    from metagrad.tasks import GAMES

    lines = ["usage: metagrad train GAME [--preset NAME] [--method NAME] [--seeds N] [--out FOLDER] ...", ""]
    for name in GAMES:
        module = game(name)
        lines += [name, f"  presets: {', '.join(module.PRESETS)}", f"  methods: {', '.join(module.METHODS)}"]
    return "\n".join([
        *lines,
        "MODULE:NAME",
        "  a VectorTask or an Experiment of your own, with methods metagrad, metagrad-no-cv, dual-rl, central, none",
        "",
        "The first preset is the default. `metagrad train GAME --help` lists all options of a game.",
        "--track tensorboard and --track wandb write the metrics for these programs too, beside metrics.csv.",
        "--processes P lets P processes of this machine share the seeds, or the K episodes of each.",
    ])  # fmt: skip


def _some(text: str) -> int:
    """A number of processes."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"must be 1 to 1,024, got {text!r}")
    return int(text)


def split_course(args: list[str]) -> tuple[list[str], argparse.Namespace]:
    """The arguments of ``metagrad train`` that say what a run does; and by how many processes, and who else is told."""
    parser = argparse.ArgumentParser(prog="metagrad train", add_help=False, allow_abbrev=False)
    parser.add_argument("--track", action="append", choices=("tensorboard", "wandb"), default=[])
    parser.add_argument("--processes", type=_some, default=1)
    named, rest = parser.parse_known_args(args)
    return rest, named


def parse_train(args: list[str]) -> tuple[Path, Experiment]:
    """The folder and the experiment that the arguments of ``metagrad train`` name."""
    from metagrad.experiment.config import MAX_SEEDS
    from metagrad.experiment.registry import experiment, parse

    head = argparse.ArgumentParser(prog=f"metagrad train {args[0]}", add_help=False, allow_abbrev=False)
    for flag, kind in (("preset", str), ("method", str), ("seeds", int), ("first-seed", int), ("out", Path)):
        head.add_argument(f"--{flag}", type=kind)
    named, rest = head.parse_known_args(args[1:])
    base = experiment(args[0], named.preset, named.method)
    chosen = parse(base, rest, f"metagrad train {args[0]}")
    if (named.seeds, named.first_seed) != (None, None):
        first = base.run.seeds[0] if named.first_seed is None else named.first_seed
        n = len(base.run.seeds) if named.seeds is None else named.seeds
        if not 1 <= n <= MAX_SEEDS or first < 0:
            raise ValueError(f"--seeds must be 1 to {MAX_SEEDS:,} and --first-seed not negative")
        chosen = replace(chosen, run=replace(chosen.run, seeds=tuple(range(first, first + n))))
    path = Path("runs") / f"{chosen.preset}-{chosen.method}"
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return named.out or next(p for p in itertools.chain([path], numbered) if not p.exists()), chosen


def sweep_parser() -> argparse.ArgumentParser:
    """The options of ``metagrad sweep``."""
    parser = argparse.ArgumentParser(
        prog="metagrad sweep", description="Train many runs, or go on.", allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the study's file, in TOML")
    which.add_argument("--resume", type=Path, metavar="FOLDER", help="folder of a study that was begun")
    parser.add_argument("--out", type=Path, help="folder of a new study (default: runs/ and the file's name)")
    parser.add_argument("--workers", type=_some, help="runs at a time (default: cores)")
    parser.add_argument("--engine", choices=("processes", "ray"), help="who trains (default: Ray, if it is installed)")
    parser.add_argument("--address", help="of a Ray cluster")
    return parser


def _sweep(args: list[str]) -> None:
    options = sweep_parser().parse_args(args)
    from metagrad.sweeps.search import Workers, resume, start

    workers = Workers(options.engine, options.workers, options.address)
    if options.resume is None:
        start(options.study, options.out or Path("runs") / options.study.stem, workers, _console())
    else:
        resume(options.resume, workers, _console())


def _parser(command: str, about: str, runs: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"metagrad {command}", description=about, allow_abbrev=False)
    if runs:
        parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of the runs")
    else:
        parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    return parser


def _evaluate(args: list[str]) -> None:
    parser = _parser("evaluate", "Test the last checkpoint of a run on fresh episodes.", runs=False)
    parser.add_argument("--episodes", type=int, help="for each seed (default: repeats the run's own test exactly)")
    options = parser.parse_args(args)
    if options.episodes is not None and options.episodes < 1:
        raise ValueError("--episodes must be at least 1")
    from metagrad.experiment import run
    from metagrad.reports.tables import results_table

    _console().print(results_table(run.evaluate(options.run, options.episodes)))


def _plot(args: list[str]) -> None:
    parser = _parser("plot", "Draw a run, or several in one figure.", runs=True)
    parser.add_argument(
        "--out", type=Path, help="PNG, PDF or SVG; default: figure.png in the run, comparison.png beside several"
    )
    parser.add_argument("--panels", nargs="+", default=[], metavar="NAME", help="what to draw (default: everything)")
    options = parser.parse_args(args)
    from metagrad.reports.figures import plot_runs

    single = len(options.runs) == 1
    default = options.runs[0] / "figure.png" if single else options.runs[0].parent / "comparison.png"
    _console().print(f"figure: {plot_runs(options.runs, options.out or default, options.panels)}")


def _compare(args: list[str]) -> None:
    about = "Put finished runs into one table, and their differences seed by seed into another, in Markdown."
    options = _parser("compare", about, runs=True).parse_args(args)
    from metagrad.reports import tables

    print(tables.compared(tables.pooled(tables.read_finished(options.runs))))


def _report(args: list[str]) -> None:
    about = "Put tables, figures and configurations of finished runs on a page that can be mailed, in one HTML file."
    parser = _parser("report", about, runs=True)
    parser.add_argument("--out", type=Path, help="default: report.html in the run, or beside several")
    options = parser.parse_args(args)
    from metagrad.reports.report import write_report

    folder = options.runs[0] if len(options.runs) == 1 else options.runs[0].parent
    _console().print(f"report: {write_report(options.runs, options.out or folder / 'report.html')}")


def _export(args: list[str]) -> None:
    parser = _parser("export", "Write test episodes of a run as tables: agents by step, trades, tax days.", runs=False)
    parser.add_argument("--episodes", type=int, help="for each seed (default: the run's own test exactly)")
    parser.add_argument("--seed", type=int, help="whose episodes (default: all seeds')")
    parser.add_argument("--out", type=Path, help="default: tables in the run")
    parser.add_argument("--format", default="csv", help="csv (the default) or parquet")
    options = parser.parse_args(args)
    from metagrad.reports.export import export

    seeds = None if options.seed is None else [options.seed]
    out = options.out or options.run / "tables"
    for path in export(options.run, out, options.episodes, seeds, options.format):
        _console().print(f"table: {path}")


def _replay(args: list[str]) -> None:
    parser = _parser("replay", "Write an episode of a run's agents to look at.", runs=False)
    parser.add_argument("--seed", type=int, help="whose agents (default: the first seed's)")
    parser.add_argument(
        "--out", type=Path, help="a page (.html) or an animation (.gif; default: episode.gif in the run)"
    )
    options = parser.parse_args(args)
    from metagrad.experiment.run import load_learners
    from metagrad.reports.replay import replay

    out = options.out or options.run / "episode.gif"
    _console().print(f"episode: {replay(load_learners(options.run), out, options.seed)}")


def reproduce_parser() -> argparse.ArgumentParser:
    """The options of ``metagrad reproduce``."""
    parser = argparse.ArgumentParser(
        prog="metagrad reproduce", description="Train the runs of a figure that are missing, and draw it beside the "
        "published claim.", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("targets", nargs="*", metavar="FIGURE", help="figures, games, GAME/RUN, paper, or all")
    parser.add_argument("--list", action="store_true", help="show figures, whether their runs are there, and the time")
    parser.add_argument("--quick", action="store_true", help="a small version, which takes seconds a run")
    parser.add_argument("--draw", action="store_true", help="train nothing; draw what is there")
    parser.add_argument("--runs", type=Path, help="where the runs lie (default: runs, or runs/quick)")
    parser.add_argument("--out", type=Path, help="where the figures go (default: figures beside the runs)")
    return parser


def _reproduce(args: list[str]) -> None:
    options = reproduce_parser().parse_args(args)
    from metagrad.reports.tables import Cells, markdown
    from metagrad.reproduce import course, listed, pages

    if not options.targets and not options.list:
        raise ValueError("name a figure, a game or all; `metagrad reproduce --list` shows them")
    known, console = listed.read(options.quick), _console()
    chosen, runs = known.chosen(options.targets or ["all"])
    root = options.runs or Path("runs/quick" if options.quick else "runs")
    if options.list:
        rows = [[f.name, f.title, course.to_go(known.chosen([f.name])[1], root)] for f in chosen]
        print(markdown(Cells(["figure", "title", "its runs"], rows)))
        return
    passed = []
    if not options.draw:
        console.print(f"runs: {course.to_go(runs, root)} on one core")
        passed = course.train(known, runs, root, console)
    out = options.out or root / "figures"
    for figure in chosen:
        missing = pages.write(figure, root, out, options.quick)
        console.print(f"figure: {out / figure.name}", *(f"  missing: {folder}" for folder in missing), sep="\n")
    if {"paper", "all"} & {*options.targets}:
        (out / "claims.md").write_text(pages.overview(chosen, root, options.quick), "utf-8")
    for reason in passed:
        console.print(f"passed over: {reason}")


if __name__ == "__main__":
    sys.exit(main())
