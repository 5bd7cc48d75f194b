"""An experiment as JSON, and what a user's own modules hold."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import fastenvs
import metagrad
from fastenvs import checks
from metagrad.checks import shown
from metagrad.tasks.experiments import MAX_SEEDS, Experiment, RunOptions

__all__ = [
    "MAX_SEEDS",
    "ConfigError",
    "Experiment",
    "RunOptions",
    "dump",
    "imported",
    "load",
    "located",
    "place",
    "to_dict",
    "trees",
]


class ConfigError(ValueError):
    """An option is unknown, has the wrong type or an impossible value."""


#: Folders of what is not a user's own.
_INSTALLED = tuple(
    str(folder) + os.sep
    for folder in (
        *(Path(str(package.__file__)).parent for package in (fastenvs, metagrad)),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)


def place(error: BaseException) -> str:
    """Where in a user's own module an error came from, in brackets after a space; nothing if it passed through none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*_INSTALLED, "<"))]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def trees(value: Any) -> Iterator[Any]:
    """An object of options and all that it is made of."""
    yield value
    if is_dataclass(value):
        for f in fields(value):
            yield from trees(getattr(value, f.name))


#: Where classes are looked for by their bare names.
_MODULES = (
    "metagrad", "metagrad.networks", "metagrad.agents", "metagrad.designers", "metagrad.optim", "metagrad.metagradient",
    "metagrad.tasks", "metagrad.experiment.config",
)  # fmt: skip


#: Modules whose classes have moved, as runs of before name them.
_MOVED = {
    "metagrad.tasks.gtb.taxes": "metagrad.tasks.taxes.schedule",
    "metagrad.tasks.gtb.head": "metagrad.tasks.taxes.head",
}


def to_dict(value: Any, path: str = "") -> Any:
    """Plain values of an object of options, with the names of classes under ``type``."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: to_dict(getattr(value, f.name), _joined(path, f.name)) for f in fields(value)}
        return {"type": _name_of(type(value)), **inner}
    if isinstance(value, tuple):
        return [to_dict(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} must be finite, got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    source = getattr(value, "imported_from", None)
    if source is not None:
        return {"import": source}
    raise ConfigError(
        f"{path} is a {type(value).__name__}, which cannot be written to a run's folder: give what a run is made of as "
        "frozen dataclasses, or name the module that makes it (metagrad train MODULE:NAME)"
    )


def _known(name: str) -> Any:
    """What a bare name stands for."""
    found = (getattr(importlib.import_module(module), name, None) for module in _MODULES)
    return next((value for value in found if value is not None), None)


def _name_of(cls: type) -> str:
    return cls.__name__ if _known(cls.__name__) is cls else f"{cls.__module__}:{cls.__qualname__}"


def from_dict(values: Any, path: str = "") -> Any:
    """Inverse of :func:`to_dict`; a :class:`ConfigError` says where something is unknown or impossible."""
    if isinstance(values, list):
        return tuple(from_dict(v, f"{path}[{i}]") for i, v in enumerate(values))
    if not isinstance(values, dict):
        return values
    if "import" in values:
        if not isinstance(values["import"], str) or len(values) > 1:
            raise ConfigError(f"{path or 'the configuration'} must name one import")
        return imported(values["import"])
    cls = _class_of(values.get("type"), path)
    values = getattr(cls, "upgraded", dict)(values)
    unknown = sorted(values.keys() - {f.name for f in fields(cls)} - {"type"})
    if unknown:
        raise ConfigError(f"unknown option {shown(_joined(path, unknown[0]))}")
    arguments = {name: from_dict(v, _joined(path, name)) for name, v in values.items() if name != "type"}
    try:
        return cls(**arguments)
    except Exception as error:  # whatever a class of the user's own raises
        raise ConfigError(located(error, cls, path)) from error


def located(error: Exception, cls: type, path: str) -> str:
    """What was wrong with an option of a class, by the path to it."""
    text, own = str(error), f"{cls.__name__}."
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    if text.startswith(own):
        return _joined(path, text.removeprefix(own))
    return f"{path}: {text}" if path else text


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _class_of(name: Any, path: str) -> type:
    where = path or "the configuration"
    if not isinstance(name, str):
        raise ConfigError(f"{where} must be an object with a type")
    module, colon, own = name.partition(":")
    cls = imported(f"{_MOVED.get(module, module)}:{own}") if colon else _known(name)
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise ConfigError(f"{where} is of an unknown type {shown(name)}")
    return cls


def imported(source: str) -> Any:
    """What ``module:name`` stands for; modules are looked for in the working folder too.

    Parts that are no dataclasses remember how they are imported, so that they can be written to a run's folder.
    """
    try:
        value = checks.imported(source)
    except (Exception, SystemExit) as error:  # whatever a module of the user's own raises
        reason = f"{type(error).__name__}: {error}{place(error)}"
        raise ConfigError(f"{shown(source)} cannot be imported: {reason}") from error
    _name_parts(value, source)
    return value


def _name_parts(value: Any, source: str) -> None:
    if isinstance(value, type | bool | int | float | str | tuple | None):
        return
    if is_dataclass(value):
        for f in fields(value):
            _name_parts(getattr(value, f.name), f"{source}.{f.name}")
        return
    with contextlib.suppress(AttributeError, TypeError):  # it takes no attributes, and is refused where it is written
        value.imported_from = source


def load(text: str, where: str) -> Experiment:
    """Read an experiment that was written as JSON; messages of a :class:`ConfigError` name ``where`` it came from."""
    try:
        values = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
        if isinstance(values, dict) and "game_name" in values:
            raise ConfigError("it was written by metagrad 0.1; that version reads it")
        experiment = from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{where} is not the configuration of a run")
    return experiment


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; of two values of an option one would be dropped without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ConfigError(f"option {shown(next(n for n in names if names.count(n) > 1))} is there twice")
    return values


def _refuse(constant: str) -> None:
    raise ConfigError(f"{constant} is no number of JSON")


def dump(experiment: Experiment) -> str:
    """The experiment as JSON."""
    return json.dumps(to_dict(experiment), indent=1, allow_nan=False) + "\n"
