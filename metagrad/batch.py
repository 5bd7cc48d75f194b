"""Experience as data: a batch of whole episodes, its axes, and how any state is saved and checked when it is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metagrad.networks.base import Obs
from metagrad.parallel import group
from metagrad.streams import Streams

T = TypeVar("T")


def as_dict(obs: Any) -> dict[str, np.ndarray]:
    """Observations by name; a single array is called ``obs``."""
    return obs if isinstance(obs, dict) else {"obs": obs}


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names start with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Rows:
    """The order in which networks read what is kept by seed, step, episode and agent.

    The agents of a seed share one network, ``G = S`` networks with rows (step, episode, agent), or there are
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


#: Leading axes of a batch's entries: seed S, step T, of which values have one more (U), episode K, agent A, and for
#: rows G and R, those of the last observations L. The axes behind are those of one entry.
AXES = {
    **dict.fromkeys(("actions", "log_prob", "rewards", "payments"), "STKA"),
    **dict.fromkeys(("alive", "cut", "designer_rewards", "designer_obs", "extra"), "STK"),
    "values": "SUKA", "last_designer_obs": "SK", "obs": "GR", "last_obs": "GL",
}  # fmt: skip


#: Name in ``extra`` of the agents that are in the game, where some leave before others.
PRESENT = "present"


@dataclass(frozen=True)
class Batch:
    """K whole episodes of each of S seeds, with T steps and A agents.

    Steps after the end of an episode are zero everywhere, but for masks, where all actions are legal, and for the step
    after an episode was cut off, which shows the observations that it was left with. Floating point numbers are of the
    run's type; of the observations, pictures of bytes stay bytes.
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
    options: Any = None  # those of the game, where it has any; never saved
    memo: dict[str, tuple[Any, Any]] = field(default_factory=dict, compare=False, repr=False)  # see `remember`

    @property
    def k(self) -> int:
        """Number of episodes of a seed, K."""
        return self.alive.shape[2]

    @property
    def agents_alive(self) -> Tensor:
        """1 for every agent that is in the game, ``[S, T, K, A]``: until the episode is over, or the agent has left."""
        alive = self.alive[..., None].expand(self.actions.shape)
        return alive * self.extra[PRESENT] if PRESENT in self.extra else alive

    @property
    def policy_entropy(self) -> Tensor:
        """Entropy of the policies that acted as their actions show it, in nats, ``[S]``: a mean over agents and steps.

        It is what the chosen actions' log-probabilities are on average, with the sign turned; exploration is included.
        """
        alive, axes = self.agents_alive.double(), (1, 2, 3)
        log_prob, steps = group.total(torch.stack([(self.log_prob * alive).sum(axes), alive.sum(axes)]))
        return (0 - log_prob) / steps

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
        valued = F.pad(self.alive, (0, 0, 0, 1))
        return valued + F.pad(self.cut, (0, 0, 1, 0)) if terminal == "bootstrap" else valued

    def agents_valued(self, terminal: str) -> Tensor:
        """The same of the agents' values, ``[S, T + 1, K, 1 or A]``, which count until an agent leaves."""
        if PRESENT not in self.extra:
            return self.valued(terminal)[..., None]
        own = F.pad(self.agents_alive, (0, 0, 0, 0, 0, 1))
        cut = F.pad(self.cut[..., None] * self.agents_alive, (0, 0, 0, 0, 1, 0))
        return own + cut if terminal == "bootstrap" else own

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
        """The same episodes with some entries replaced; passes of policies over them are kept."""
        return replace(self, **{"memo": dict(self.memo), **changes})

    def at(self, steps: Tensor) -> Batch:
        """The designer's side of some steps ``[D]``, as if nothing followed the last; without the agents' rows."""
        some = self._picked(lambda axes, x: x[:, steps] if axes[1] == "T" else x)
        return replace(some, values=None, obs={}, last_obs={}, cut=torch.zeros_like(some.cut))

    def episodes(self, share: slice) -> Batch:
        """Some of the K episodes."""
        rows = Rows(self.shared)

        def pick(axes: str, x: Tensor) -> Tensor:
            if axes[0] == "G":
                return rows.of(rows.back(x, self.actions if axes == "GR" else self.actions[:, :1])[:, :, share])
            return x[(slice(None),) * axes.index("K") + (share,)]

        return self._picked(pick)

    def gathered(self) -> Batch:
        """The episodes of all processes, in the order of their numbers."""
        rows = Rows(self.shared)

        def gather(axes: str, x: Tensor) -> Tensor:
            if axes[0] == "G":
                by_episode = rows.back(x, self.actions if axes == "GR" else self.actions[:, :1])
                return rows.of(group.gathered(by_episode, 2))
            return group.gathered(x, axes.index("K"))

        return self if group.size() == 1 else self._picked(gather)

    def _picked(self, pick: Callable[[str, Tensor], Tensor]) -> Batch:
        """Every entry by its axes."""
        own = {name: getattr(self, name) for name in AXES}
        changes: dict[str, Any] = {
            name: {n: pick(AXES[name], t) for n, t in x.items()} if isinstance(x, dict) else pick(AXES[name], x)
            for name, x in own.items() if x is not None
        }  # fmt: skip
        return replace(self, **changes, memo={})


# ---------------------------------------------------------------------- saving


def _children(tree: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and values of a node; None for a leaf."""
    if isinstance(tree, dict):
        return iter(tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return zip(tree._fields, tree, strict=True)
    if dataclasses.is_dataclass(tree):
        return ((f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree) if f.name not in ("memo", "options"))
    return None


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Leaves of nested dicts, NamedTuples and dataclasses by path ``a/b/c``, as tensors; what is None is left out.

    Leaves are tensors, arrays and numbers.
    """
    flat: dict[str, Tensor] = {}
    for name, value in _children(tree) or ():
        path = f"{prefix}{name}"
        if _children(value) is not None:
            flat |= flatten(value, f"{path}/")
        elif value is not None:
            flat[path] = _as_tensor(path, value)
    return flat


def _as_tensor(path: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.view(np.int64) if value.dtype == np.uint64 else value.copy())
    if isinstance(value, (bool, int, float)):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
    raise TypeError(f"{path} cannot be saved: it is of type {type(value).__name__}")


def has_empty(tree: Any) -> bool:
    """Whether a tree holds an empty dict, which is filled as training goes on."""
    return (isinstance(tree, dict) and not tree) or any(has_empty(value) for _, value in _children(tree) or ())


def unflatten(like: T, flat: dict[str, Tensor], prefix: str = "") -> T:
    """Inverse of :func:`flatten`: a tree as ``like`` with the leaves of ``flat``, which must fit."""
    tree: Any = like
    if isinstance(tree, dict) and not tree:  # what is filled as training goes on
        return nested(below(flat, prefix))
    made: Any = {name: _leaf(value, flat, f"{prefix}{name}") for name, value in _children(tree) or ()}
    if isinstance(tree, dict):
        return made
    return tree._replace(**made) if hasattr(tree, "_replace") else replace(tree, **made)


def _leaf(like: Any, flat: dict[str, Tensor], path: str) -> Any:
    if like is None:
        return None
    if _children(like) is not None:
        return unflatten(like, flat, f"{path}/")
    if path not in flat:
        raise ValueError(f"{path} is missing")
    found = flat[path]
    if isinstance(like, Tensor | np.ndarray):
        wanted = _as_tensor(path, like)
        check_tensor(path, found, wanted.shape, wanted.dtype)
        return (
            found.to(wanted.device).clone() if isinstance(like, Tensor) else found.cpu().numpy().copy().view(like.dtype)
        )
    if found.dim() or found.is_floating_point() != isinstance(like, float):
        raise ValueError(f"{path} must be one {'number' if isinstance(like, float) else 'integer'}")
    return type(like)(found.item())


def nested(flat: dict[str, Tensor]) -> Any:
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
        # A designer may see nothing, and empty dicts leave no tensors.
        empty: dict[str, Any] = {"values": None, "extra": {}, "designer_obs": {}, "last_designer_obs": {}}
        return Batch(**{**empty, **tree, **plain})
    except (KeyError, TypeError) as error:
        raise ValueError(f"the saved episodes are incomplete: {error}") from error


# ---------------------------------------------------------------------- whether saved tensors fit, before any is used


def check_names(found: dict[str, Tensor], wanted: Sequence[str], what: str = "") -> None:
    """Refuse tensors that are missing or unknown."""
    for name in sorted(found.keys() ^ set(wanted)):
        raise ValueError(f"{what}{name} is {'unknown' if name in found else 'missing'}")


def check_tensor(name: str, found: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or type."""
    if tuple(found.shape) != tuple(shape) or found.dtype != dtype:
        raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, but {dtype} {list(shape)} is needed")


def check_like(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str = "") -> None:
    """Refuse tensors that are not named and shaped as others are."""
    check_names(found, list(wanted), what)
    for name, t in wanted.items():
        check_tensor(f"{what}{name}", found[name], t.shape, t.dtype)


def check_batch(found: dict[str, Tensor], like: Batch, seeds: int, k: int, what: str) -> None:
    """Refuse a saved batch that is not as ``like``, but for the numbers of seeds, episodes and steps.

    ``what`` stands before the names in messages.
    """
    wanted = flatten(like)
    check_names(found, list(wanted), what)
    steps = found["actions"].shape[1] if found["actions"].dim() == 4 else 0
    if not 1 <= steps <= like.horizon:
        raise ValueError(f"{what}actions has shape {list(found['actions'].shape)}, with steps up to {like.horizon}")
    a = like.actions.shape[3]
    g, per_step = (seeds, k * a) if like.shared else (seeds * a, k)
    length = {"S": seeds, "T": steps, "U": steps + 1, "K": k, "A": a, "G": g, "R": steps * per_step, "L": per_step}
    for name, t in wanted.items():
        axes = AXES.get(name.split("/")[0], "")
        check_tensor(f"{what}{name}", found[name], (*(length[x] for x in axes), *t.shape[len(axes) :]), t.dtype)
    for name in ("n_actions", "horizon", "shared"):
        if found[name].item() != wanted[name].item():
            raise ValueError(f"{what}{name} is {found[name].item()}, not {wanted[name].item()}")
    # Numbers that would be used as places or shares.
    if int(found["actions"].min()) < 0 or int(found["actions"].max()) >= like.n_actions:
        raise ValueError(f"{what}actions must be from 0 to {like.n_actions - 1}")
    epsilon = found["epsilon"].item()
    if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
        raise ValueError(f"{what}epsilon must be from 0 to 1, got {epsilon}")


def check_streams(found: dict[str, Tensor], rng: Streams, what: str) -> None:
    """Refuse positions of random streams that are not those of these seeds and purposes."""
    check_like(found, flatten(rng.counters()), what)
    for name, t in found.items():
        if bool((t < 0).any()):
            raise ValueError(f"{what}{name} must not be negative")


def check_env(found: dict[str, Tensor], wanted: dict[str, np.ndarray]) -> None:
    """Refuse what is saved of an environment unless it is named and shaped as ``wanted``."""
    check_like(found, flatten(wanted), "env/")
    if "resets" in found and found["resets"].item() < 0:
        raise ValueError("env/resets must not be negative")
