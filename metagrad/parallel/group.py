"""The processes that train as one.

Where there are seeds enough, each process trains its share of them, and only what is written is put together. Otherwise
each holds all parameters and plays its share of the K episodes. What a learner derives from episodes is a mean over
them, so the mean over the processes of what each finds on its share is what one process would find on all. A process
that trains alone is a group of one: nothing is sent, and no number changes by a bit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_apart = False  # whether the processes share the seeds, and each plays all episodes of its own


class Parted(RuntimeError):
    """Another process of the group is gone."""


def join(device: str = "cpu", seeds: int = 1) -> None:
    """Enter the group that the environment names, as ``torchrun`` does; without one this process trains alone.

    The processes share the ``seeds`` of a run if their number divides that of the seeds, and else the episodes of each.
    """
    global _apart
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n > 1 and not dist.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
        _apart = seeds % n == 0


def leave() -> None:
    """Leave the group."""
    global _apart
    if dist.is_initialized():
        dist.destroy_process_group()
    _apart = False


def follows() -> bool:
    """Whether another process of this command leads, as the environment has it: that one alone writes and prints."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0


def size() -> int:
    """Number of processes that share the episodes."""
    return dist.get_world_size() if dist.is_initialized() and not _apart else 1


def rank() -> int:
    """Number of this process among them; 0 leads."""
    return dist.get_rank() if size() > 1 else 0


# ---------------------------------------------------------------------- the seeds of a run


def shares() -> int:
    """Number of processes that share the seeds."""
    return dist.get_world_size() if _apart else 1


def own(items: Sequence[T]) -> Sequence[T]:
    """Of what stands for all seeds, one after the other, that of this process."""
    if not _apart:
        return items
    each = len(items) // shares()
    return items[dist.get_rank() * each : (dist.get_rank() + 1) * each]


def everyones(x: T) -> list[T]:
    """What the processes that share the seeds hold, in their order; one that does not lead gets its own alone."""
    if not _apart:
        return [x]
    leads = dist.get_rank() == 0
    found: list[T] = [x] * shares()
    with _together():
        dist.gather_object(x, found if leads else None)
    return found if leads else [x]


def agreed(x: int) -> int:
    """The largest number of any process of either kind."""
    return int(_reduced(torch.tensor(x), dist.ReduceOp.MAX)) if dist.is_initialized() else x


# ---------------------------------------------------------------------- the episodes of a batch


def mean(x: Tensor) -> Tensor:
    """Mean over the processes."""
    return _reduced(x, dist.ReduceOp.SUM) / size() if size() > 1 else x


def means(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over the processes, in one message."""
    if size() == 1:
        return params
    flat = mean(torch.cat([p.reshape(-1) for p in params.values()]))
    parts = flat.split([p.numel() for p in params.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(params.items(), parts, strict=True)}


def means_of_rows(means: dict[str, Tensor], count: Tensor) -> dict[str, Tensor]:
    """Means over the rows of all processes, from those over the rows at hand and their number ``[G, 1]``.

    They are 0 where nobody has any.
    """
    if size() == 1:
        return means
    found = total(torch.cat([count, *((p.flatten(1) * count) for p in means.values())], 1))
    parts = (found[:, 1:] / found[:, :1].clamp_min(1)).split([p[0].numel() for p in means.values()], 1)
    return {name: part.reshape(p.shape) for (name, p), part in zip(means.items(), parts, strict=True)}


def total(x: Tensor) -> Tensor:
    """Sum over the processes."""
    return _reduced(x, dist.ReduceOp.SUM) if size() > 1 else x


def most(x: int) -> int:
    """The largest number of any process."""
    return int(_reduced(torch.tensor(x), dist.ReduceOp.MAX)) if size() > 1 else x


def gathered(x: Tensor, axis: int) -> Tensor:
    """What all processes hold, side by side along an axis in the order of their numbers."""
    if size() == 1:
        return x
    mine = x.detach().movedim(axis, 0).contiguous()
    bits = mine.view(-1).view(torch.uint8)  # there are types that are not sent
    parts = [torch.empty_like(bits) for _ in range(size())]
    with _together():
        dist.all_gather(parts, bits)
    return torch.cat([part.view(mine.dtype).view(mine.shape) for part in parts]).movedim(0, axis)


def share(n: int) -> slice:
    """Which of ``n`` episodes are for this process; the number of processes must divide ``n``."""
    each = n // size()
    return slice(rank() * each, (rank() + 1) * each)


def _reduced(x: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    out = x.detach().clone(memory_format=torch.contiguous_format)
    with _together():
        dist.all_reduce(out, how)
    return out


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Parted("another process of the run is gone; what was saved is intact") from error


def own_copies(x: np.ndarray, n_seeds: int, k: int) -> np.ndarray:
    """Rows for this process of what stands for K copies of each of S seeds, ``[S * K, ...]``."""
    return x.reshape(n_seeds, k, *x.shape[1:])[:, share(k)].reshape(-1, *x.shape[1:])


def all_copies(x: np.ndarray, n_seeds: int) -> np.ndarray:
    """Inverse of :func:`own_copies`, from the rows of all processes."""
    mine = np.ascontiguousarray(x).reshape(n_seeds, -1)
    every = gathered(torch.from_numpy(mine.view(np.uint8)), 1).contiguous().numpy()
    return every.view(x.dtype).reshape(-1, *x.shape[1:])
