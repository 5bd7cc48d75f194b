"""What the views of an environment as Gymnasium's vector environments share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fastenvs.bound import bind
from fastenvs.checks import has_shape
from fastenvs.jit import kernel
from fastenvs.snapshots import copy_tree, map_tree
from fastenvs.vecenv import VecEnv

MODES = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
    "disabled": AutoresetMode.DISABLED,
}


class Infos(dict):
    """Info whose ``final_obs`` is made when it is first looked at: Gymnasium's array of one object an entry.

    With ``copy=False`` it has to be looked at before the next call.
    """

    def put_final(self, obs: Any, rows: np.ndarray) -> None:
        """Offer the last observations ``obs`` of the entries that ``rows`` marks."""
        self._obs, self._rows = obs, rows
        self["final_obs"] = None

    def _make(self) -> None:
        if "final_obs" in self and super().__getitem__("final_obs") is None:
            made = np.full(len(self._rows), None, object)
            for i in np.flatnonzero(self._rows):
                made[i] = map_tree(lambda array: array[i], self._obs)  # noqa: B023
            self["final_obs"] = made

    def __getitem__(self, key: str) -> Any:
        if key == "final_obs":
            self._make()
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:  # being there, it makes dict() and ** ask for every value
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        """Value of a key, or ``default``."""
        self._make()
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:  # type: ignore[override]
        """Value of a key, which goes."""
        self._make()
        return super().pop(key, *default)

    def values(self) -> Any:
        """Values of all keys."""
        self._make()
        return super().values()

    def items(self) -> Any:
        """Keys with their values."""
        self._make()
        return super().items()

    def copy(self) -> dict:
        """Return a plain dict of the same."""
        self._make()
        return super().copy()


_ONES = np.uint64(0x0101010101010101)


#: Observations, rewards, flags ``[2, N]``, ``info`` and last observations, as a view shows them.
Seen = tuple[Any, Any, np.ndarray, dict, Any]


class Flags(NamedTuple):
    """Flags of N copies, and of all their entries."""

    terminated: np.ndarray  # uint8 [N]
    truncated: np.ndarray  # uint8 [N]
    each: np.ndarray  # uint8 [4, entries]: terminated, truncated, over, going on
    words: np.ndarray  # uint64 [2, N, W]: the first two of these, of a copy eight a word; its last word ends behind it


@kernel
def spread(flags, lo, hi):
    """Write the flags of all entries, and return how many are over; last words go first, to be overwritten.

    Flags are numbers here: of truth values the compiler makes branches, which nobody can predict.
    """
    for w in range(flags.words.shape[2] - 1, -1, -1):
        for e in range(lo, hi):
            flags.words[0, e, w] = _ONES * np.uint64(flags.terminated[e])
            flags.words[1, e, w] = _ONES * np.uint64(flags.truncated[e])
    each, n_over = flags.each, np.int64(0)
    for k in range(np.uint64(each.shape[1])):
        over = each[0, k] | each[1, k]
        each[2, k] = over
        each[3, k] = over ^ 1
        n_over += np.int64(over)
    return n_over


class View(VectorEnv):
    """What the three views share: seeds, autoreset, ``info``, pictures, the end."""

    #: What :meth:`_bind` makes; copies and pickles make it anew.
    _BOUND = ("_everywhere", "_ended", "_flags", "_shown", "_spread")

    def __init__(
        self, env: VecEnv, entries: int, seen: Space, done: Space, copy: bool, mode: str, render_mode: str | None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.env, self.num_envs, self.render_mode = env, env.num_envs * entries, render_mode
        self.autoreset_mode = MODES[mode]
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 5, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = seen, done
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in (seen, done))
        self._entries = entries
        self._copy, self._own = copy, copy_tree if copy else _same
        self._over = np.zeros(self.num_envs, np.bool_)
        self._bind()

    def _bind(self) -> None:
        """Make what refers to the environment's arrays: they stay the same ones, so a step need not look at them."""
        obs, rewards, self._ended, info, final = self._look(*self.env.views)
        self._shown = obs, rewards, info, final
        self._everywhere = np.ones(self.num_envs, np.bool_)
        self._everywhere.flags.writeable = False
        room, entries = np.zeros((4, self.num_envs + 8), np.uint8), self._entries
        each = room[:, : self.num_envs]
        self._flags = each.view(np.bool_) if self._copy else tuple(each.view(np.bool_))
        shape, strides = (2, self.env.num_envs, -(-entries // 8)), (room.strides[0], entries, 8)
        words: np.ndarray = np.ndarray(shape, np.uint64, room.data, 0, strides)
        terminated, truncated = self._ended.view(np.uint8)
        self._spread = bind(spread, Flags(terminated, truncated, each, words))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._BOUND}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self.__dict__.update(saved)
        self._bind()

    def _look(self, obs: dict, rewards: np.ndarray, ended: np.ndarray, info: dict) -> Seen:
        """What of the environment's arrays this view shows."""
        raise NotImplementedError

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes.

        Parameters
        ----------
        seed : int, sequence of int, or None
            One seed a copy, or the first of consecutive ones.
        options : mapping, optional
            As of :meth:`fastenvs.vecenv.VecEnv.reset`; ``reset_mask`` is bool ``[num_envs]`` and the same for all
            agents of a copy.
        """
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.env.num_envs)
        given, mask = dict(options or {}), self._everywhere
        if given.get("reset_mask") is not None:
            mask = np.asarray(given["reset_mask"])
            has_shape("reset_mask", mask, (self.num_envs,))
            copies = mask.reshape(-1, self._entries)
            if (copies != copies[:, :1]).any():
                raise ValueError("reset_mask must be the same for all agents of a copy: they start together")
            given["reset_mask"] = copies[:, 0]
        _, info = self.env.reset(seed=seed, options=given)
        self._over = self._over & ~mask
        return _around(self._own(self._shown[0])), info

    def _result(
        self, obs: Any, rewards: np.ndarray, info: dict, final: Any
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """A step's five results, in arrays that need not be fresh."""
        n_over = self._spread(0, self.env.num_envs)
        terminated, truncated, over, going = self._own(self._flags)
        shown, held, info = Infos(), self._everywhere, self._own(info)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            held, self._over = ~self._over, over.copy()
        elif self.autoreset_mode is AutoresetMode.DISABLED:
            self._over = over.copy()
        elif n_over:
            held = going
            shown.update(final_info=_masked(info, over), _final_info=over, _final_obs=over)
            shown.put_final(self._own(final), over)
        shown.update(_masked(info, held))
        return _around(self._own(obs)), self._own(rewards), terminated, truncated, shown

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture an entry; agents of a copy share theirs."""
        if self.render_mode is None:
            return None
        pictures: list[np.ndarray] = [self.env.render(e) for e in range(self.env.num_envs)]  # type: ignore[attr-defined]
        return tuple(picture for picture in pictures for _ in range(self._entries))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.env.close()


def _masked(info: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Arrays of ``info``, each with the mask of the entries that it holds for."""
    out = {}
    for name, array in info.items():
        out[name], out["_" + name] = array, rows
    return out


def _same(tree: Any) -> Any:
    return tree


def _around(obs: Any) -> Any:
    """Observations in dicts that are the caller's."""
    return {name: _around(part) for name, part in obs.items()} if isinstance(obs, dict) else obs
