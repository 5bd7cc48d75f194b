"""What decides a run: a game, agents, a designer, and how long to train, as frozen dataclasses."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from metagrad.checks import Checked, Count


@dataclass(frozen=True)
class RunOptions(Checked):
    """How a run trains, evaluates and saves.

    Parameters
    ----------
    seeds : tuple of int
        Independent trainings.
    target : float, optional
        Score that counts as solved; None where no score does.
    episodes : int
        Training episodes of each seed.
    k : int
        Episodes in one update, K.
    agent_batches : int
        Batches that the agents learn from before the designer does, M.
    pipeline : bool
        Use the validation episodes as the agents' next training episodes.
    eval_period, eval_episodes : int
        Training episodes between evaluations, and episodes in each.
    test_episodes : int
        Episodes in the test at the end.
    checkpoint_period : int
        Training episodes between checkpoints.
    init_from : str, optional
        Folder of a run whose agents this one starts with; empty where they have to be named.
    device : str
        Where the networks live.
    dtype : {"float32", "float64"}
        Floating point type of the networks.
    threads : int
        Threads of tensor operations.
    """

    seeds: tuple[int, ...] = (12340,)
    target: float | None = None
    episodes: Count = 10_000
    k: Count = 16
    agent_batches: Count = 1
    pipeline: bool = True
    eval_period: Count = 400
    eval_episodes: Count = 10
    test_episodes: Count = 100
    checkpoint_period: Count = 4_000
    init_from: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be distinct and not negative, got {self.seeds}")
        if max(self.seeds) >= 2**53:
            raise ValueError(f"seeds must be below 2**53, got {max(self.seeds)}")
        if self.episodes < self.k:
            raise ValueError(f"episodes ({self.episodes}) must be at least k ({self.k})")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides what a run does.

    Parameters
    ----------
    game, preset, method : str
        Names by which it was made.
    task, agents, designer
        The objects of the library themselves.
    run : RunOptions
        How to train.
    """

    game: str
    preset: str
    method: str
    task: Any
    agents: Any
    designer: Any
    run: RunOptions = field(default_factory=RunOptions)


class ConfigError(ValueError):
    """An option is unknown, has the wrong type or an impossible value."""


def trees(value: Any) -> Iterator[Any]:
    """An object of options and all that it is made of."""
    yield value
    if is_dataclass(value):
        for f in fields(value):
            yield from trees(getattr(value, f.name))


# ---------------------------------------------------------------------- as JSON

#: Where classes are looked for by their bare names.
_MODULES = (
    "metagrad", "metagrad.networks", "metagrad.agents", "metagrad.designers", "metagrad.optim", "metagrad.schedules",
    "metagrad.metagradient", "metagrad.tasks", "metagrad.experiment.config",
)  # fmt: skip


def to_dict(value: Any) -> Any:
    """Plain values of an object of options, with the names of classes under ``type``."""
    if is_dataclass(value):
        return {"type": _name_of(type(value)), **{f.name: to_dict(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple):
        return [to_dict(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    source = getattr(value, "imported_from", None)
    if source is not None:
        return {"import": source}
    raise ConfigError(
        f"a {type(value).__name__} cannot be written to a run's folder: give what a run is made of as frozen "
        "dataclasses, or name the module that makes it (metagrad train MODULE:NAME)"
    )


def _name_of(cls: type) -> str:
    for module in _MODULES:
        if getattr(importlib.import_module(module), cls.__name__, None) is cls:
            return cls.__name__
    return f"{cls.__module__}:{cls.__qualname__}"


def from_dict(values: Any, path: str = "") -> Any:
    """Inverse of :func:`to_dict`.

    Raises
    ------
    ConfigError
        If a type or an option is unknown, or has an impossible value; the message says where.
    """
    if isinstance(values, list):
        return tuple(from_dict(v, f"{path}[{i}]") for i, v in enumerate(values))
    if not isinstance(values, dict):
        return values
    if "import" in values:
        return imported(str(values["import"]))
    cls = _class_of(values.get("type"), path)
    known = {f.name for f in fields(cls)}
    unknown = sorted(values.keys() - known - {"type"})
    if unknown:
        raise ConfigError(f"unknown option {_joined(path, unknown[0])}")
    arguments = {name: from_dict(v, _joined(path, name)) for name, v in values.items() if name != "type"}
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _class_of(name: Any, path: str) -> type:
    where = path or "the configuration"
    if not isinstance(name, str):
        raise ConfigError(f"{where} must be an object with a type")
    if ":" in name:
        cls = imported(name)
    else:
        found = (getattr(importlib.import_module(module), name, None) for module in _MODULES)
        cls = next((c for c in found if c is not None), None)
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise ConfigError(f"{where} is of an unknown type {name!r}")
    return cls


def imported(source: str) -> Any:
    """What ``module:name`` stands for.

    Raises
    ------
    ConfigError
        If there is no such module or name.
    """
    module, _, name = source.partition(":")
    try:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{source!r} cannot be imported: {error}") from error
    return value


def load(text: str, where: str) -> Experiment:
    """Read an experiment that was written as JSON.

    Raises
    ------
    ConfigError
        If it is not valid, or not an experiment; the message names ``where`` it came from.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {error}") from error
    if isinstance(values, dict) and "game_name" in values:
        raise ConfigError(f"{where} was written by metagrad 0.1; that version reads it")
    try:
        experiment = from_dict(values)
    except (ConfigError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{where} is not the configuration of a run")
    return experiment


def dump(experiment: Experiment) -> str:
    """The experiment as JSON."""
    return json.dumps(to_dict(experiment), indent=1, allow_nan=False) + "\n"


def with_seeds(experiment: Experiment, first: int, n: int) -> Experiment:
    """The experiment on ``n`` seeds from ``first`` on."""
    return replace(experiment, run=replace(experiment.run, seeds=tuple(range(first, first + n))))
