"""Every option of an experiment as a flag of the command line, from the objects themselves."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import docstring_parser
import tyro

from metagrad.experiment.config import ConfigError, Experiment, located

GROUPS = ("task", "agents", "designer", "run")


def parse(experiment: Experiment, args: Sequence[str], program: str) -> Experiment:
    """The experiment with the options that ``args`` name replaced.

    Every leaf of its objects is a flag, ``--agents.optimiser.lr``; ``--help`` prints them all with the experiment's own
    values as defaults. Options of the run need no prefix, ``--episodes``.

    Raises
    ------
    ConfigError
        If a value is impossible.
    """
    shown = {name: getattr(experiment, name) for name in GROUPS}
    mirror = _mirror(type(experiment), shown, top=True)
    parsed: Any = tyro.cli(
        mirror, args=list(args), prog=program, description=_about(experiment), config=(tyro.conf.AvoidSubcommands,)
    )
    changed = {name: _back(shown[name], getattr(parsed, name, None), "" if name == "run" else name) for name in GROUPS}
    return dataclasses.replace(experiment, **changed)


def _about(experiment: Experiment) -> str:
    return (
        f"Train {experiment.method} on {experiment.game}. Every option below starts from the value of preset "
        f"{experiment.preset}. Further options: --preset NAME and --method NAME, which `metagrad train --help` lists; "
        "--seeds N and --first-seed N, number and first of the seeds; --out FOLDER of the run, which must not exist."
    )


def _mirror(cls: type, values: dict[str, Any], top: bool = False) -> type:
    """A dataclass with the same fields, each of the type of its present value, so that it can be parsed."""
    help_of, hints, entries = _help(cls), typing.get_type_hints(cls), []
    for name, value in values.items():
        if is_dataclass(value):
            # The names of the seeds are given by their number and the first.
            inner = {f.name: getattr(value, f.name) for f in fields(value) if not (name == "run" and f.name == "seeds")}
            kind: Any = _mirror(type(value), inner)
            if not dataclasses.fields(kind):
                continue  # nothing to choose
            default: Any = dataclasses.field(default_factory=kind)
            kind = Annotated[kind, tyro.conf.arg(name="" if top and name == "run" else name)]
        else:
            leaf = _leaf_type(value, hints.get(name, Any))
            if leaf is None:
                continue
            default, kind = value, Annotated[leaf, tyro.conf.arg(help=help_of.get(name, ""))]
        entries.append((name, kind, default))
    made = dataclasses.make_dataclass(cls.__name__, entries, frozen=True)
    made.__doc__ = (cls.__doc__ or "").strip().split("\n")[0]
    return made


def _leaf_type(value: Any, hint: Any) -> Any:
    """How a leaf is read; None for what the command line cannot give."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    if isinstance(value, tuple):
        kinds = {type(v) for v in value}
        plain = kinds <= {int, float, str}
        entry: Any = kinds.pop() if len(kinds) == 1 else _entry_type(hint)
        return tuple.__class_getitem__((entry, ...)) if plain else None
    if typing.get_origin(hint) is typing.Literal:
        return hint
    if value is None:
        known = [a for a in options if a in (int, float, str, bool)]
        return known[0] | None if known else None
    if isinstance(value, bool | int | float | str):
        optional = type(None) in options
        kind = float if float in options or hint is float else type(value)
        return kind | None if optional else kind
    return None


def _entry_type(hint: Any) -> type:
    args = typing.get_args(hint)
    return args[0] if args and args[0] in (int, float, str) else float


def _help(cls: type) -> dict[str, str]:
    """What a class says of its parameters."""
    out: dict[str, str] = {}
    for parameter in docstring_parser.parse(cls.__doc__ or "").params:
        text = " ".join((parameter.description or "").split())
        out |= {name.strip(): text for name in parameter.arg_name.split(",")}
    return out


def _back(value: Any, parsed: Any, path: str) -> Any:
    """``value`` with what was parsed put in its place."""
    if not is_dataclass(value) or parsed is None:
        return value
    changes = {}
    for f in fields(parsed):
        mine, theirs = getattr(value, f.name), getattr(parsed, f.name)
        new = _back(mine, theirs, f"{path}.{f.name}".lstrip(".")) if is_dataclass(mine) else theirs
        if new is not mine and new != mine:
            changes[f.name] = new
    if not changes:
        return value
    try:
        return dataclasses.replace(value, **changes)  # type: ignore[type-var]
    except ValueError as error:
        name, space, reason = located(error, type(value), path).partition(" ")
        raise ConfigError(f"--{name.replace('_', '-')}{space}{reason}") from error
