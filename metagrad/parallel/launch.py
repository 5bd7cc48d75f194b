"""One command as several processes of this machine, which find one another as those of ``torchrun`` do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

#: Exit status of a process that ends because another one is gone.
PARTED = 3
#: Set for processes that are started here, to the number of the one that started them.
PARENT = "METAGRAD_PARENT"


def launch(n: int, args: Sequence[str]) -> int:
    """Run ``metagrad`` with these arguments as ``n`` processes; returns an exit status.

    Signals are passed on. When one process ends badly the others end too, and one message says why.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, PARENT: str(os.getpid())}
    with ExitStack() as stack:
        said = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, n))]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "metagrad", *args], start_new_session=True, stderr=said[rank],
                env={"OMP_NUM_THREADS": "1", **os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(n)
        ]  # fmt: skip
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: _pass_on(number, processes))
                stack.callback(signal.signal, number, before)
        return _watched(processes, said)


def launched() -> bool:
    """Whether :func:`launch` started this process, and says what ends the run."""
    return PARENT in os.environ


def orphaned() -> bool:
    """Whether the process that started this one by :func:`launch` is gone."""
    return launched() and os.getppid() != int(os.environ[PARENT])


def _pass_on(number: int, processes: list[subprocess.Popen]) -> None:
    for p in processes:
        p.send_signal(number)


def _watched(processes: list[subprocess.Popen], said: list[Any]) -> int:
    """Wait for all; the others get a moment to end by themselves when one has ended badly."""
    try:
        while all(p.poll() in (None, 0) for p in processes) and any(p.poll() is None for p in processes):
            time.sleep(0.05)
        for p in processes:
            p.wait(timeout=60 if any(q.poll() not in (None, 0) for q in processes) else None)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for p in processes:
            p.kill()
    codes = [p.wait() for p in processes]
    if not any(codes):
        return 0
    if codes[0] not in (0, PARTED) and codes[0] > 0:  # it has said why
        return codes[0]
    rank = next((r for r, code in enumerate(codes) if code not in (0, PARTED) and code != -signal.SIGKILL), 0)
    rank = rank or next((r for r, code in enumerate(codes) if code < 0), 0)
    print(f"metagrad: {_reason(rank, codes[rank], said[rank])}", file=sys.stderr)
    return codes[rank] if codes[rank] > 0 else 128 - codes[rank]


def _reason(rank: int, code: int, said: Any) -> str:
    """Why a process ended, in a line."""
    if code < 0:
        return (
            f"process {rank} of the run was ended by {signal.Signals(-code).name}; what was saved is intact: "
            "go on with `metagrad train --resume` and the run's folder"
        )
    text = ""
    if said is not None:
        said.seek(0)
        text = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2].removeprefix("metagrad: ")
    return f"process {rank}: {text or f'it ended with status {code}'}"
