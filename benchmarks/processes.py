"""One run shared by several processes: time of an iteration, and what of it goes into messages.

``python benchmarks/processes.py [--processes 1 2] [--blocks 5]`` prints a table in Markdown. All numbers of processes
of a case take turns in one sitting; the table has medians over the blocks. ``busy`` is processor time of one process,
without messages; what of it does not shrink with the episodes is found by fitting a line through K and K / 2.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

#: Game, preset, K, and seeds, which processes share where they can.
CASES = [
    ("gtb", "gtb", 16, 2), ("gtb", "gtb", 32, 1), ("gtb", "gtb", 64, 1), ("cleanup", "cleanup", 32, 1),
    ("escape-room", "er_5_2", 64, 1),
]  # fmt: skip


def worker(game: str, preset: str, k: int, seeds: int, iterations: int) -> None:
    """Train as one of a group; the leader prints what an iteration takes."""
    import torch

    from metagrad.experiment.learners import Learners
    from metagrad.experiment.registry import experiment
    from metagrad.parallel import group

    sent = {"seconds": 0.0, "busy": 0.0, "messages": 0, "bytes": 0}

    def counted(call: Any) -> Any:
        def run(x: torch.Tensor, *rest: Any) -> torch.Tensor:
            wall, busy = time.perf_counter(), time.process_time()
            out = call(x, *rest)
            sent["seconds"] += time.perf_counter() - wall
            sent["busy"] += time.process_time() - busy
            sent["messages"] += 1
            sent["bytes"] += x.numel() * x.element_size()
            return out

        return run

    group.join(seeds=seeds)
    group._reduced = counted(group._reduced)
    e = experiment(game, preset)
    learners = Learners(replace(e, run=replace(e.run, k=k, seeds=tuple(range(1, seeds + 1)))))
    for _ in range(3):
        learners.iterate(diagnose=False)
    group.agreed(1)
    sent.update(dict.fromkeys(sent, 0))
    wall, busy = time.perf_counter(), time.process_time()
    for _ in range(iterations):
        learners.iterate(diagnose=False)
        group.agreed(0)  # as a run does, to stop together
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    if not group.follows():
        found = {"wall": wall, "busy": busy - sent.pop("busy"), **sent}
        print(json.dumps({name: value / iterations for name, value in found.items()}))
    group.leave()


def measured(n: int, *case: Any) -> dict[str, float]:
    """What an iteration of a case takes with n processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--worker", *map(str, case)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(n)
    ]
    out = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{n} processes did not finish {case}")
    return json.loads(out[0].splitlines()[-1])


def rows(cases: list[Any], processes: list[int], blocks: int, iterations: int) -> Any:
    """Rows of the table as they come."""
    yield "| game | K | seeds | processes | ms each | speed-up | busy, ms | fixed, ms | messages | MB | ms sent |"
    yield "|---" * 11 + "|"
    for game, preset, *numbers in cases:
        k, seeds = map(int, numbers)
        found: dict[int, list[dict[str, float]]] = {n: [] for n in processes}
        half = []
        for _ in range(blocks):
            for n in processes:
                found[n].append(measured(n, game, preset, k, seeds, iterations))
            half.append(measured(1, game, preset, k // 2, seeds, iterations)["busy"])
        middle = {n: {x: statistics.median(one[x] for one in all_) for x in all_[0]} for n, all_ in found.items()}
        fixed = 2 * statistics.median(half) - middle[processes[0]]["busy"]
        for n, one in middle.items():
            ratios = [a["wall"] / b["wall"] for a, b in zip(found[processes[0]], found[n], strict=True)]
            gain = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            times = [f"{one[x] * 1e3:.1f}" for x in ("wall", "busy", "seconds")]
            sent = f"{one['messages']:.0f} | {one['bytes'] / 1e6:.2f} | {times[2]}"
            yield f"| {game} | {k} | {seeds} | {n} | {times[0]} | {gain} | {times[1]} | {fixed * 1e3:.1f} | {sent} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--case", nargs=4, action="append", metavar=("GAME", "PRESET", "K", "SEEDS"))
    parser.add_argument("--worker", nargs=5)
    options = parser.parse_args()
    if options.worker:
        game, preset, *numbers = options.worker
        worker(game, preset, *map(int, numbers))
    else:
        for row in rows(options.case or CASES, options.processes, options.blocks, options.iterations):
            print(row, flush=True)
