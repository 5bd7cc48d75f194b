"""Episodes as tidy tables, one row an agent and step, recorded around an environment while it is stepped."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

#: Columns by name, all of one length.
Table = dict[str, np.ndarray]
Format = Literal["csv", "parquet"]
FORMATS = ("csv", "parquet")


class EpisodeLog:
    """An environment that records what its agents do and get.

    It is stepped in the environment's place: ``reset`` and ``step`` record, everything else is the environment's own.
    Automatic resets are followed in every mode, steps that a copy takes no part in are left out, and what a call
    refuses leaves no row. Episodes are numbered from 0 in every copy.

    Parameters
    ----------
    env : VecEnv
        Any game of ``fastenvs``, or another environment with ``num_envs``, ``n_agents``, ``reset`` and ``step`` as
        theirs, whose copies stay as they are after an episode until they are reset.

    Attributes
    ----------
    stepped, restarted : ndarray of bool, ``[N]``
        Copies that took part in the last step, and those of them that show the start of their next episode already.

    Notes
    -----
    :meth:`tables` gives

    - ``agents``, one row an agent and step: ``env``, ``episode``, ``step`` (from 1), ``agent``, ``action``, ``reward``;
      ``row`` and ``column`` after the step where the environment has ``locations`` (-1 after the last step of an
      episode that autoreset ``same_step`` has replaced); and every array ``[N, A]`` of ``info`` that ``agent_info``
      names
    - ``steps``, one row a copy and step: ``env``, ``episode``, ``step``, ``designer_reward``, ``terminated``,
      ``truncated``
    - ``episodes``, one row an episode, the present one as far as it has come: ``env``, ``episode``, ``steps``,
      ``designer_reward`` (its sum), ``terminated``, ``truncated``

    Examples
    --------
    >>> import fastenvs
    >>> log = EpisodeLog(fastenvs.make("escape_room", 2, n_agents=2, min_at_lever=1))
    >>> _ = log.reset(seed=0)
    >>> _ = log.step([[0, 2], [1, 1]])
    >>> log.tables()["agents"]["reward"].tolist()
    [-1.0, 10.0, 0.0, 0.0]
    """

    #: Columns of the table ``steps``, behind copy, episode and step.
    by_copy: tuple[str, ...] = ("designer_reward", "terminated", "truncated")

    def __init__(self, env: Any) -> None:
        self.env = env
        self._autoreset = getattr(env, "autoreset", "disabled")
        n = env.num_envs
        self._episode, self._time = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._over = np.zeros(n, np.bool_)
        self.stepped = self.restarted = np.zeros(n, np.bool_)
        self._begun = False
        self._steps: list[Table] = []

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start new episodes as the environment does."""
        result = self.env.reset(**options)
        mask = (options.get("options") or {}).get("reset_mask")
        self._next(np.ones_like(self._over) if mask is None else np.array(mask))
        self._begun = True
        return result

    def step(self, actions: ArrayLike, **options: Any) -> Any:
        """Advance every copy by one step as the environment does, and record it.

        Raises
        ------
        RuntimeError
            Before the first :meth:`reset` of the log.
        """
        if not self._begun:
            raise RuntimeError("call reset() of the log before its first step()")
        stepped = ~self._over
        result = self.env.step(actions, **options)
        self._time += stepped
        ended = stepped & (np.asarray(result[2]) | np.asarray(result[3]))
        self.stepped, self.restarted = stepped, ended & (self._autoreset == "same_step")
        keys = {"stepped": stepped, "episode": self._episode.copy(), "step": self._time.copy()}
        self._steps.append(keys | self._look(np.array(actions, np.int64), result))
        if self._autoreset == "next_step":  # this call began what the last one ended
            self._next(~stepped)
        self._next(self.restarted)
        self._over |= ended & ~self.restarted
        return result

    def _next(self, mask: np.ndarray) -> None:
        """Begin an episode in some copies."""
        self._episode += mask & (self._time > 0)
        self._time[mask], self._over[mask] = 0, False

    def _look(self, actions: np.ndarray, result: Any) -> Table:
        """What a step brought, copies of arrays ``[N, ...]``."""
        _, rewards, terminated, truncated, info = result
        seen = {"action": actions, "reward": np.array(rewards, np.float64)}
        if hasattr(self.env, "locations"):
            places = np.where(self.restarted[:, None, None], -1, self.env.locations)
            seen |= {"row": places[..., 0], "column": places[..., 1]}
        shape = (self.env.num_envs, self.env.n_agents)
        named = {name: np.array(info[name]) for name in getattr(self.env, "agent_info", ()) if name in info}
        seen |= {name: x for name, x in named.items() if x.shape == shape and name not in seen}
        ends = {"terminated": np.array(terminated), "truncated": np.array(truncated)}
        return {"designer_reward": np.array(info["designer_reward"], np.float64), **ends, **seen}

    def clear(self) -> None:
        """Forget the rows so far; the present episodes go on."""
        self._steps.clear()

    def tables(self) -> dict[str, Table]:
        """All that was recorded, by table and column; rows are sorted by copy and time.

        Raises
        ------
        ValueError
            If nothing was recorded yet.
        """
        if not self._steps:
            raise ValueError("no step was recorded yet")
        kept = {name: np.stack([step[name] for step in self._steps], 1) for name in self._steps[0]}
        rows = kept.pop("stepped")
        kept = {"env": np.arange(len(rows))[:, None].repeat(rows.shape[1], 1), **kept}
        return self._tables({name: x[rows] for name, x in kept.items()})

    def _tables(self, kept: Table) -> dict[str, Table]:
        """Tables from everything that was recorded ``[R, ...]``, one row a copy and step."""
        keys = {name: kept[name] for name in ("env", "episode", "step")}
        shape = kept["action"].shape
        mine = {name: x for name, x in kept.items() if x.shape == shape and name not in self.by_copy}
        first, last = bounds(keys)
        return {
            "agents": by_agent(keys, mine),
            "steps": {**keys, **{name: x for by in self.by_copy for name, x in columns(by, kept[by]).items()}},
            "episodes": {
                "env": keys["env"][last], "episode": keys["episode"][last], "steps": keys["step"][last],
                "designer_reward": np.add.reduceat(kept["designer_reward"], first),
                "terminated": kept["terminated"][last], "truncated": kept["truncated"][last],
            },
        }  # fmt: skip

    def write(self, folder: str | Path, format: Format = "csv") -> list[Path]:
        """Write the tables to ``folder``, one file each; see :func:`write`."""
        return write(self.tables(), folder, format)


def columns(name: str, x: np.ndarray) -> Table:
    """An array ``[R]`` or ``[R, B]`` as one column, or numbered ones."""
    return {name: x} if x.ndim == 1 else {f"{name}_{b}": x[:, b] for b in range(x.shape[1])}


def by_agent(keys: Table, mine: Table) -> Table:
    """A table with one row an agent from keys ``[R]`` and arrays ``[R, A]``."""
    rows, n_agents = next(iter(mine.values())).shape
    spread = {name: x.repeat(n_agents) for name, x in keys.items()}
    return {**spread, "agent": np.tile(np.arange(n_agents), rows), **{name: x.reshape(-1) for name, x in mine.items()}}


def bounds(keys: Table) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of every episode in rows that are sorted by copy and time."""
    begins = np.ones(len(keys["env"]), np.bool_)
    begins[1:] = (np.diff(keys["env"]) != 0) | (np.diff(keys["episode"]) != 0)
    first = np.flatnonzero(begins)
    return first, np.append(first[1:], len(begins)) - 1


def write(tables: dict[str, Table], folder: str | Path, format: Format = "csv") -> list[Path]:
    """Write tables to a folder, ``NAME.csv`` or ``NAME.parquet`` each; returns the files.

    Numbers in CSV read back as the very same numbers.

    Raises
    ------
    ValueError
        If there is no such format.
    ModuleNotFoundError
        If ``pyarrow``, which writes Parquet, is not installed; nothing is written in both cases.
    """
    save = writer_of(format)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.{format}" for name in tables}
    for name, path in paths.items():
        save(tables[name], path)
    return list(paths.values())


def writer_of(format: str) -> Callable[[Table, Path], None]:
    """What writes a table to a file of this format; errors as of :func:`write`."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return _csv if format == "csv" else _parquet()


def _csv(table: Table, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*(x.tolist() for x in table.values()), strict=True))


def _parquet() -> Any:
    try:
        from pyarrow import parquet, table
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pyarrow is not installed: pip install 'fastenvs[parquet]'", name="pyarrow"
        ) from error
    return lambda columns, path: parquet.write_table(table(columns), path)
