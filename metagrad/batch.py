"""Experience as data: a batch of whole episodes, the axes in which it is kept, and the walk that saves any state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from metagrad.networks.base import Obs

T = TypeVar("T")


def as_dict(obs: Any) -> dict[str, np.ndarray]:
    """Observations by name; a single array is called ``obs``."""
    return obs if isinstance(obs, dict) else {"obs": obs}


@dataclass(frozen=True)
class Rows:
    """The order in which networks read what is kept by seed, step, episode and agent.

    Parameters
    ----------
    shared : bool
        Whether the agents of a seed share one network: ``G = S`` networks with rows (step, episode, agent), or
        ``G = S * A`` networks, one an agent, with rows (step, episode).
    """

    shared: bool

    def of(self, x: Tensor) -> Tensor:
        """``[S, T, K, A, ...]`` to ``[G, R, ...]``."""
        return x.flatten(1, 3) if self.shared else x.movedim(3, 1).flatten(2, 3).flatten(0, 1)

    def back(self, x: Tensor, like: Tensor) -> Tensor:
        """``[G, R, ...]`` to ``[S, T, K, A, ...]``, with the first four axes of ``like``."""
        s, t, k, a = like.shape[:4]
        if self.shared:
            return x.reshape(s, t, k, a, *x.shape[2:])
        return x.reshape(s, a, t, k, *x.shape[2:]).movedim(1, 3)


@dataclass(frozen=True)
class Batch:
    """K whole episodes of each of S seeds, with T steps and A agents.

    Steps after the end of an episode are zero everywhere, but for masks, where all actions are legal. Floating point
    numbers are of the run's type; of the observations, pictures of bytes stay bytes.
    """

    obs: Obs  # the agents' observations as policy rows, [G, R, ...] each; key "mask" for legal actions
    actions: Tensor  # int64 [S, T, K, A]
    log_prob: Tensor  # [S, T, K, A], of the policy that acted, exploration included
    rewards: Tensor  # [S, T, K, A], from the environment
    payments: Tensor  # [S, T, K, A], added by the designer; 0 where the environment has paid already
    alive: Tensor  # [S, T, K], 1 until the episode is over
    designer_obs: Obs  # [S, T, K, ...] each
    designer_rewards: Tensor  # [S, T, K]
    values: Tensor | None  # [S, T + 1, K, A], of the agents' critics before they learn from this batch
    epsilon: float  # share of uniform exploration in the policy that acted
    shared: bool  # whether rows are those of one network a seed; see Rows
    n_actions: int
    horizon: int  # step limit of an episode, which T may fall short of
    last_obs: Obs  # the agents' observations after the last step, as rows
    last_designer_obs: Obs  # [S, K, ...] each
    cut: Tensor  # [S, T, K], 1 in the step in which an episode was cut off rather than ended by the rules
    extra: dict[str, Tensor] = field(default_factory=dict)  # [S, T, K, ...], what task and designer recorded
    memo: dict[str, tuple[Any, Any]] = field(default_factory=dict, compare=False, repr=False)  # see `remember`

    @property
    def k(self) -> int:
        """Number of episodes of a seed, K."""
        return self.alive.shape[2]

    @property
    def agents_alive(self) -> Tensor:
        """``alive`` for every agent, ``[S, T, K, A]``."""
        return self.alive[..., None].expand(self.actions.shape)

    @property
    def total_rewards(self) -> Tensor:
        """What the agents earned and were paid, ``[S, T, K, A]``."""
        return self.rewards + self.payments

    def onehot_actions(self) -> Tensor:
        """Actions one-hot, 0 after the end of an episode, ``[S, T, K, A, L]``."""
        return self.remember("onehot", self.actions, self._onehot)

    def _onehot(self) -> Tensor:
        out = torch.zeros(*self.actions.shape, self.n_actions, dtype=self.alive.dtype, device=self.alive.device)
        return out.scatter_(-1, self.actions[..., None], self.agents_alive[..., None])

    def seen(self, rows: bool = True) -> Obs:
        """Observations of all steps and of the one after the last: the agents' rows, or the designer's."""
        if rows:
            return {name: torch.cat([x, self.last_obs[name]], 1) for name, x in self.obs.items() if name != "mask"}
        pairs = ((name, x.flatten(1, 2), self.last_designer_obs[name]) for name, x in self.designer_obs.items())
        return {name: torch.cat([x, last], 1) for name, x, last in pairs if name != "mask"}

    def valued(self, terminal: str) -> Tensor:
        """Where a value counts, ``[S, T + 1, K]``: before every step, and after a cut if ``terminal`` is bootstrap."""
        after = self.cut if terminal == "bootstrap" else torch.zeros_like(self.cut)
        return torch.cat([self.alive, torch.zeros_like(self.alive[:, :1])], 1) + torch.cat(
            [torch.zeros_like(after[:, :1]), after], 1
        )

    def remember(self, name: str, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for each ``key`` (compared by identity); never saved.

        A pass over a batch that one part of the learner makes serves the others as long as the parameters are the
        same object.
        """
        kept = self.memo.get(name)
        if kept is None or kept[0] is not key:
            kept = self.memo[name] = (key, make())
        return kept[1]

    def replace(self, **changes: Any) -> Batch:
        """The same episodes with some entries replaced; passes over the observations are kept."""
        return replace(self, **{"memo": dict(self.memo), **changes})

    def at(self, steps: Tensor) -> Batch:
        """The designer's side of some steps ``[D]``, as if nothing followed the last; without the agents' rows."""
        names = ("actions", "log_prob", "rewards", "payments", "alive", "designer_rewards")
        return replace(
            self,
            **{name: getattr(self, name)[:, steps] for name in names},
            values=None,
            obs={},
            last_obs={},
            designer_obs={name: x[:, steps] for name, x in self.designer_obs.items()},
            cut=torch.zeros_like(self.cut[:, steps]),
            extra={name: x[:, steps] for name, x in self.extra.items()},
            memo={},
        )

    def episodes(self, share: slice) -> Batch:
        """Some of the K episodes."""
        rows, like, last = Rows(self.shared), self.actions, self.actions[:, :1]

        def pick(x: Tensor, of: Tensor) -> Tensor:
            return rows.of(rows.back(x, of)[:, :, share])

        def plain(x: Tensor) -> Tensor:
            return x[:, :, share]

        picked: dict[str, Any] = {}
        names = ("actions", "log_prob", "rewards", "payments", "alive", "designer_rewards", "cut")
        picked |= {name: plain(getattr(self, name)) for name in names}
        return replace(
            self,
            **picked,
            values=None if self.values is None else plain(self.values),
            obs={name: pick(x, like) for name, x in self.obs.items()},
            last_obs={name: pick(x, last) for name, x in self.last_obs.items()},
            designer_obs={name: plain(x) for name, x in self.designer_obs.items()},
            last_designer_obs={name: x[:, share] for name, x in self.last_designer_obs.items()},
            extra={name: plain(x) for name, x in self.extra.items()},
            memo={},
        )


# ---------------------------------------------------------------------- saving


def _children(tree: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and values of a node; None for a leaf."""
    if isinstance(tree, dict):
        return iter(tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return zip(tree._fields, tree, strict=True)
    if dataclasses.is_dataclass(tree):
        names = (f.name for f in dataclasses.fields(tree) if f.name != "memo")
        return ((name, getattr(tree, name)) for name in names)
    return None


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Leaves of nested dicts, NamedTuples and dataclasses by path ``a/b/c``, as tensors; what is None is left out.

    Leaves are tensors, arrays and numbers.
    """
    flat: dict[str, Tensor] = {}
    for name, value in _children(tree) or ():
        path = f"{prefix}{name}"
        if value is None:
            continue
        if _children(value) is not None:
            flat |= flatten(value, f"{path}/")
        elif isinstance(value, Tensor):
            flat[path] = value
        elif isinstance(value, np.ndarray):
            flat[path] = torch.from_numpy(value.view(np.int64) if value.dtype == np.uint64 else value.copy())
        elif isinstance(value, (bool, int, float)):
            flat[path] = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        else:
            raise TypeError(f"{path} cannot be saved: it is of type {type(value).__name__}")
    return flat


def has_empty(tree: Any) -> bool:
    """Whether a tree holds an empty dict, which is filled as training goes on."""
    if isinstance(tree, dict) and not tree:
        return True
    return any(has_empty(value) for _, value in _children(tree) or ())


def unflatten(like: T, flat: dict[str, Tensor], prefix: str = "") -> T:
    """Inverse of :func:`flatten`: a tree as ``like`` with the leaves of ``flat``.

    Raises
    ------
    ValueError
        If a leaf is missing, or of another shape or type.
    """
    if isinstance(like, dict) and not like:  # what is filled as training goes on
        return nested({n.removeprefix(prefix): t for n, t in flat.items() if n.startswith(prefix)})  # type: ignore[return-value]
    made = {name: _leaf(value, flat, f"{prefix}{name}") for name, value in _children(like) or ()}
    if isinstance(like, dict):
        return made  # type: ignore[return-value]
    if hasattr(like, "_replace"):
        return like._replace(**made)
    return dataclasses.replace(like, **made)  # type: ignore[type-var]


def _leaf(like: Any, flat: dict[str, Tensor], path: str) -> Any:
    if like is None:
        return None
    if _children(like) is not None:
        return unflatten(like, flat, f"{path}/")
    if path not in flat:
        raise ValueError(f"{path} is missing")
    value = flat[path]
    if isinstance(like, Tensor):
        if value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(
                f"{path} is {value.dtype} {list(value.shape)}, but {like.dtype} {list(like.shape)} is needed"
            )
        return value.to(like.device).clone()
    if isinstance(like, np.ndarray):
        kind = np.dtype(np.int64) if like.dtype == np.uint64 else like.dtype
        array = value.cpu().numpy().copy()
        if array.shape != like.shape or array.dtype != kind:
            raise ValueError(f"{path} is {array.dtype} {list(array.shape)}, but {kind} {list(like.shape)} is needed")
        return array.view(like.dtype)
    if value.dim() or value.is_floating_point() != isinstance(like, float):
        raise ValueError(f"{path} must be one {'number' if isinstance(like, float) else 'integer'}")
    return type(like)(value.item())


def nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    """Nested dicts of tensors from their paths."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value.clone()
    return tree


def batch_of(flat: dict[str, Tensor], device: str) -> Batch:
    """Inverse of :func:`flatten` for a batch, whose number of steps is its own."""
    tree = nested({name: t.to(device) for name, t in flat.items()})
    numbers = {"epsilon": float, "shared": bool, "n_actions": int, "horizon": int}
    try:
        plain = {name: kind(tree.pop(name).item()) for name, kind in numbers.items()}
        return Batch(**{"values": None, "extra": {}, **tree, **plain})
    except (KeyError, TypeError) as error:
        raise ValueError(f"the saved episodes are incomplete: {error}") from error
