"""The learner on a GPU: episodes/s over K and S, and the forward meta-gradient against the unrolled one.

``python benchmarks/gpu.py [--device cuda] [--seconds 3] [--out FILE]`` prints a table in Markdown; without a GPU it
says so and measures the CPU. It takes under four minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gradients import both_ways, trainer_of

from metagrad.experiment.registry import experiment
from metagrad.trainer import Trainer


def made(game: str, preset: str, device: str, seeds: int, k: int, method: str = "metagrad") -> Trainer:
    """A trainer of a preset with other K and S."""
    e = experiment(game, preset, method)
    return trainer_of(e, seeds=tuple(range(1, seeds + 1)), k=k, device=device)


def seconds_of(work: Callable[[], Any], device: str, budget: float) -> float:
    """Mean time of a call, after one that warms up."""
    work()
    _wait(device)
    began, n = time.perf_counter(), 0
    while n < 2 or time.perf_counter() - began < budget:
        work()
        n += 1
        _wait(device)
    return (time.perf_counter() - began) / n


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


CASES = [
    *(("escape-room", "er_5_2", seeds, k) for seeds, k in ((8, 16), (8, 256), (64, 256))),
    *(("cleanup", "cleanup", 1, k) for k in (16, 128)),
    *(("gtb", "gtb", 1, k) for k in (16, 128)),
]


def speed(devices: list[str], budget: float) -> Iterator[str]:
    """Rows of episodes/s."""
    yield "| game, preset | S | K | " + " | ".join(f"{d}, episodes/s" for d in devices) + " |"
    yield "| --- " * (3 + len(devices)) + "|"
    for game, preset, seeds, k in CASES:
        cells = []
        for device in devices:
            try:
                trainer = made(game, preset, device, seeds, k)
            except ValueError as error:
                cells.append(str(error).split(";")[0])
                continue
            cells.append(f"{seeds * k / seconds_of(trainer.iterate, device, budget):,.0f}")
        yield f"| {game}, {preset} | {seeds} | {k} | " + " | ".join(cells) + " |"


def gradient(devices: list[str], budget: float) -> Iterator[str]:
    """Rows of milliseconds and extra memory of a meta-gradient."""
    yield "| meta-gradient | device | forward, ms | unrolled, ms | relative difference | forward, MB | unrolled, MB |"
    yield "| --- " * 7 + "|"
    for game, preset, seeds, k in (("escape-room", "er_5_2", 8, 256), ("cleanup", "cleanup", 1, 128)):
        for device in devices:
            yield _gradient_row(made(game, preset, device, seeds, k), game, device, budget)


def _gradient_row(trainer: Trainer, game: str, device: str, budget: float) -> str:
    trainer.train(1)
    ways = both_ways(trainer)
    forward, oracle = ways["forward"], ways["unrolled"]
    one, other = (torch.cat([p.flatten() for p in f().values()]) for f in (forward, oracle))
    difference = float((one - other).norm() / other.norm())
    cells = [f"{seconds_of(f, device, budget) * 1e3:.1f}" for f in (forward, oracle)]
    memory = [_memory(f, device) for f in (forward, oracle)]
    return f"| {game} | {device} | {cells[0]} | {cells[1]} | {difference:.1e} | {memory[0]} | {memory[1]} |"


def _memory(work: Callable[[], Any], device: str) -> str:
    """Peak beyond what is held before, in MB; on a GPU alone."""
    if not device.startswith("cuda"):
        return "-"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU's figures")
    parser.add_argument("--out", help="file of the tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # its products have ten bits
    devices = ["cpu", options.device] if options.device != "cpu" else ["cpu"]
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "no GPU"
    lines = [f"*{name}, torch {torch.__version__}, {torch.get_num_threads()} threads of the CPU.*", ""]
    for table in (speed, gradient):
        for line in table(devices, options.seconds):
            print(line, flush=True)
            lines.append(line)
        lines.append("")
    if options.out:
        with open(options.out, "w") as file:
            file.write("\n".join(lines))


if __name__ == "__main__":
    main()
