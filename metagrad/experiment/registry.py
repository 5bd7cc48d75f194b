"""Experiments by their names and options on the command line, be they the library's or a user's own."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import operator
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar

from metagrad.agents import PolicyGradientAgents
from metagrad.designers import ByAction, DualRL, MetaGradient, SquashedGaussian
from metagrad.experiment.config import ConfigError, Experiment, RunOptions, imported, located
from metagrad.optim import Linear
from metagrad.tasks import GAMES, VectorTask
from metagrad.tasks.experiments import METHODS, Methods, central


def game(name: str) -> Any:
    """The module of a game: one of ``GAMES``, or ``module:name`` of a task or an experiment of your own."""
    if ":" in name:
        return OwnGame(name)
    if name not in GAMES:
        raise ValueError(f"no game is called {name!r}; there are: {', '.join(GAMES)}, or MODULE:NAME of your own")
    return importlib.import_module(GAMES[name])


class OwnGame:
    """What the command line needs of a game, from a :class:`metagrad.VectorTask` or an experiment that is imported.

    A task is trained with default agents, made so that the size of rewards does not matter, and with ``ByAction``.
    """

    METHODS: ClassVar[Methods] = {
        **METHODS, "dual-rl": lambda e: replace(e, designer=DualRL(SquashedGaussian())), "central": central,
    }  # fmt: skip

    def __init__(self, source: str) -> None:
        made = imported(source)
        if isinstance(made, VectorTask):
            agents = PolicyGradientAgents(normalise=True)
            made = Experiment(source, "own", "metagrad", made, agents, MetaGradient(ByAction()))
        elif not isinstance(made, Experiment):
            raise ConfigError(f"{source} is a {type(made).__name__}, not a VectorTask or an Experiment")
        own = replace(made, game=source)
        self.PRESETS: dict[str, Callable[[], Experiment]] = {own.preset: lambda: own}


def experiment(name: str, preset: str | None = None, method: str | None = None) -> Experiment:
    """The experiment of a game, a preset and a method; by default the game's first preset and its method.

    A ``ValueError`` says which name is unknown, and which there are.
    """
    module = game(name)
    preset = preset or next(iter(module.PRESETS))
    if preset not in module.PRESETS:
        raise ValueError(f"no preset of {name} is called {preset!r}; there are: {', '.join(module.PRESETS)}")
    base = module.PRESETS[preset]()
    method = method or base.method
    if method not in module.METHODS:
        raise ValueError(f"no method of {name} is called {method!r}; there are: {', '.join(module.METHODS)}")
    return replace(module.METHODS[method](base), method=method)


def adjusted(made: Experiment, base: Experiment) -> Experiment:
    """What was made of ``base`` by other options, with what else follows from them in its game."""
    return getattr(game(base.game), "adjusted", lambda made, base: made)(made, base)


def starting_point(run: Experiment) -> Experiment | None:
    """The experiment that a run's options were changed from; None where its names are unknown now."""
    try:
        return experiment(run.game, run.preset, run.method)
    except (ValueError, ImportError):
        return None


def label_of(experiment: Experiment) -> str:
    """The method, with the options that are other than where it started from."""
    base = starting_point(experiment)
    if base is None:
        return experiment.method
    parts = (("task", ""), ("agents", "agents."), ("designer", "designer."))
    changed = [text for name, path in parts for text in _changes(getattr(base, name), getattr(experiment, name), path)]
    if experiment.run.k != base.run.k:
        changed.append(f"K = {experiment.run.k}")
    return f"{experiment.method} ({', '.join(changed)})" if changed else experiment.method


def _changes(base: Any, mine: Any, path: str) -> list[str]:
    if base == mine:
        return []
    if is_dataclass(mine) and type(base) is type(mine):
        parts = ((getattr(base, f.name), getattr(mine, f.name), f"{path}{f.name}.") for f in fields(mine))
        return [text for part in parts for text in _changes(*part)]
    return [f"{path.rstrip('.')} {_short(mine)}"]


def _short(value: Any) -> str:
    if is_dataclass(value):
        return str(value) if isinstance(value, Linear) else type(value).__name__
    if isinstance(value, tuple):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


#: What of an experiment is named by flags of its own.
_NAMED = ("game", "preset", "method", "seeds")


def flags(base: Any, mine: Any, path: str = "") -> list[str]:
    """Words of the command line that make ``mine`` of ``base``; parts that are of another kind are left out."""
    words = []
    for f in fields(mine):
        value, before, name = getattr(mine, f.name), getattr(base, f.name), f.name.replace("_", "-")
        if value == before or (f.name in _NAMED and isinstance(mine, Experiment | RunOptions)):
            continue
        if isinstance(value, Linear) and not is_dataclass(before):
            words += [f"--{path}{name}", str(value)]
        elif is_dataclass(value) or is_dataclass(before):
            below = "" if isinstance(value, RunOptions) else f"{path}{name}."
            words += flags(before, value, below) if type(before) is type(value) else []
        elif isinstance(value, bool):
            words.append(f"--{path}{name}" if value else f"--{path}no-{name}")
        else:
            words += [f"--{path}{name}", *map(str, _leaves(value))]
    return words


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, tuple) else [value]


def parse(experiment: Experiment, args: Sequence[str], program: str) -> Experiment:
    """The experiment with the options that ``args`` name replaced.

    Every leaf of its objects is a flag, ``--agents.optimiser.lr``; ``--help`` prints them all with the experiment's own
    values as defaults. Options of the run need no prefix, ``--episodes``.
    """
    if not args:
        return experiment
    import tyro  # takes as long as all of this package

    about = (
        f"Train {experiment.method} on {experiment.game}. Every option below starts from the value of preset "
        f"{experiment.preset}. Further options: --preset NAME and --method NAME, which `metagrad train --help` lists; "
        "--seeds N and --first-seed N, number and first of the seeds; --out FOLDER of the run, which must not exist."
    )
    parsed: Any = tyro.cli(
        _mirror(experiment), args=list(args), prog=program, description=about,
        config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip
    return adjusted(_back(experiment, parsed, ""), experiment)


def _mirror(value: Any) -> type:
    """A dataclass with the same fields, each of the type of its present value, so that it can be parsed."""
    import tyro

    cls, entries = type(value), []
    help_of, hints = _help(cls), typing.get_type_hints(cls)
    for name in (f.name for f in fields(value)):
        mine = getattr(value, name)
        if cls in (Experiment, RunOptions) and name in _NAMED:
            continue
        if is_dataclass(mine):
            kind: Any = _mirror(mine)
            if fields(kind):
                flag = tyro.conf.arg(name="" if isinstance(mine, RunOptions) else name)
                entries.append((name, Annotated[kind, flag], dataclasses.field(default_factory=kind)))
        elif (leaf := _leaf_type(mine, hints.get(name, Any))) is not None:
            entries.append((name, Annotated[leaf, tyro.conf.arg(help=help_of.get(name, ""))], mine))
    made = dataclasses.make_dataclass(cls.__name__, entries, frozen=True)
    made.__doc__ = (cls.__doc__ or "").strip().split("\n")[0]
    return made


_PLAIN = (bool, int, float, str)
_UNIONS = (typing.Union, types.UnionType)


def _leaf_type(value: Any, hint: Any) -> Any:
    """How a leaf is read; None for what the command line cannot give."""
    if typing.get_origin(hint) in _UNIONS and set(typing.get_args(hint)) == {float, Linear}:
        return _schedule()
    kind = _readable(hint)
    if kind not in (None, type(None)):
        return kind
    kinds = {type(v) for v in value} if isinstance(value, tuple) else {type(value)}
    if len(kinds) != 1 or not kinds <= set(_PLAIN):  # nothing is declared, and the value tells nothing
        return None
    return tuple.__class_getitem__((*kinds, ...)) if isinstance(value, tuple) else type(value)


def _schedule() -> Any:
    """How a number is read that may as well be a schedule."""
    from tyro.constructors import PrimitiveConstructorSpec

    return Annotated[float, PrimitiveConstructorSpec(
        nargs=1, metavar="FLOAT|START:END:OVER[:AFTER]", instance_from_str=lambda words: Linear.read(words[0]),
        is_instance=lambda value: isinstance(value, float | Linear), str_from_instance=lambda value: [str(value)],
    )]  # fmt: skip


def _readable(hint: Any) -> Any:
    """What of a declared type a text can be read as; None for nothing."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        kinds = [kind for kind in map(_readable, args) if kind is not None]
        return functools.reduce(operator.or_, kinds) if kinds else None
    if origin is tuple:
        entries = [entry if entry is Ellipsis else _readable(entry) for entry in args]
        endless = any(typing.get_args(entry)[-1:] == (Ellipsis,) for entry in entries)  # where would each end?
        return None if None in entries or endless else tuple.__class_getitem__(tuple(entries))
    return hint if hint in (*_PLAIN, type(None)) or origin is typing.Literal else None


def _help(cls: type) -> dict[str, str]:
    """What a class says of its parameters."""
    import docstring_parser

    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # a task says what is other than in its game
        for parameter in docstring_parser.parse(base.__doc__ or "").params:
            text = " ".join((parameter.description or "").split())
            out |= {name.strip(): text for name in parameter.arg_name.split(",")}
    return out


def _back(value: Any, parsed: Any, path: str) -> Any:
    """``value`` with what was parsed put in its place."""
    changes = {}
    for f in fields(parsed):
        mine, new = getattr(value, f.name), getattr(parsed, f.name)
        if is_dataclass(mine):
            new = _back(mine, new, "" if isinstance(mine, RunOptions) else f"{path}.{f.name}".lstrip("."))
        if new is not mine and new != mine:
            changes[f.name] = new
    if not changes:
        return value
    try:
        return replace(value, **changes)
    except ValueError as error:
        name, space, reason = located(error, type(value), path).partition(" ")
        raise ConfigError(f"--{name.replace('_', '-')}{space}{reason}") from error
