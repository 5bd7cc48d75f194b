"""Vectorised, compiled multi-agent simulators for research on incentives and taxes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from fastenvs.cleanup import Cleanup
    from fastenvs.escape_room import EscapeRoom
    from fastenvs.gtb import GatherTradeBuild
    from fastenvs.one_step import OneStepEconomy
    from fastenvs.rng import Seed
    from fastenvs.vecenv import VecEnv

__version__ = "0.1.0"
__all__ = ["games", "make"]

# name -> module:class; a game is imported when it is first made.
_GAMES = {
    "escape_room": "fastenvs.escape_room:EscapeRoom",
    "cleanup": "fastenvs.cleanup:Cleanup",
    "gtb": "fastenvs.gtb:GatherTradeBuild",
    "one_step_economy": "fastenvs.one_step:OneStepEconomy",
}


def games() -> tuple[str, ...]:
    """Names of the games that :func:`make` knows."""
    return tuple(_GAMES)


@overload
def make(name: Literal["escape_room"], num_envs: int = 1, *, seed: Seed = None, **options: Any) -> EscapeRoom: ...
@overload
def make(name: Literal["cleanup"], num_envs: int = 1, *, seed: Seed = None, **options: Any) -> Cleanup: ...
@overload
def make(name: Literal["gtb"], num_envs: int = 1, *, seed: Seed = None, **options: Any) -> GatherTradeBuild: ...
@overload
def make(
    name: Literal["one_step_economy"], num_envs: int = 1, *, seed: Seed = None, **options: Any
) -> OneStepEconomy: ...
@overload
def make(name: str, num_envs: int = 1, *, seed: Seed = None, **options: Any) -> VecEnv: ...
def make(name: str, num_envs: int = 1, *, seed: Seed = None, **options: Any) -> VecEnv:
    """Make a vectorised environment.

    Parameters
    ----------
    name : str
        One of :func:`games`.
    num_envs : int
        Number of copies stepped per call, N.
    seed : int, sequence of int, or None
        Seed of the first reset; see :func:`fastenvs.rng.make_streams`.
    **options
        Options of the game, and those of :class:`fastenvs.vecenv.VecEnv` (``autoreset``, ``num_threads``,
        ``copy``).

    Raises
    ------
    ValueError
        If the game is unknown or an option is out of range.
    TypeError
        If an option does not exist.
    """
    if not isinstance(name, str) or name not in _GAMES:
        raise ValueError(f"no game is called {name!r}; there are: {', '.join(_GAMES)}")
    module, cls = _GAMES[name].split(":")
    return getattr(importlib.import_module(module), cls)(num_envs, seed=seed, **options)
