"""The learners: iterations, and the two ways to the meta-gradient in time and memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from blocks import Block, timed
from measuring import MatrixProducts, Row

torch = pytest.importorskip("torch")

from gradients import both_ways, economy, trainer_of  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from metagrad.compiled.sparse_conv import convolve, input_gradient, kernel_gradient  # noqa: E402
from metagrad.experiment.registry import experiment  # noqa: E402
from metagrad.metagradient import LastSteps  # noqa: E402
from metagrad.streams import Streams  # noqa: E402

SEEDS = tuple(range(8))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def simulator(e, seeds):
    """A call that gives the time of the simulator alone for the episodes of one batch, random actions."""
    copies = len(seeds) * e.run.k
    env = e.task.make(copies, Streams(seeds).env_seeds())
    draw = np.random.default_rng(0)
    actions = [draw.integers(0, env.n_actions, (copies, env.n_agents)) for _ in range(e.task.horizon)]

    def play():
        env.reset()
        for a in actions:
            env.step(a)

    return lambda: timed(play, 1)


def learning(setting, e, seeds=(0,)):
    """A row of iterations from the start of training on, simulator included."""
    trainer = trainer_of(e, seeds=seeds)
    trainer.train(2)
    with FlopCounterMode(display=False) as counter:
        trainer.iterate()
    shares = {
        "matrix_products": MatrixProducts(counter.get_total_flops()),
        "simulator": simulator(e, seeds),
    }
    facts = {"game": e.game, "method": e.method, "seeds": len(seeds), "k": e.run.k}
    return Row(setting, Block(trainer.iterate), "episodes", len(seeds) * e.run.k, shares, facts)


def learners():
    for preset, method in (
        *(("er_5_2", m) for m in ("none", "metagrad", "lio", "amd", "dual-rl-continuous")),
        ("er_5_2_paper", "metagrad"), ("er_10_5", "metagrad"),
    ):  # fmt: skip
        yield learning(preset, experiment("escape-room", preset, method), SEEDS)
    for method in ("none", "metagrad", "dual-rl-continuous", "central"):
        yield learning("cleanup", experiment("cleanup", "cleanup", method))
    for method in ("free-market", "metagrad", "dual-rl"):
        yield learning("gtb", economy(method))
    for method in ("free-market", "metagrad"):
        yield learning("gtb, published convolutions", economy(method, "trunk"))


def test_iterations(sitting):
    """Episodes/s of all games and the main methods: our presets, 16 episodes an update; Escape Room with 8 seeds."""
    sitting(list(learners()), "learner")


def ready(k, mode):
    """A meta-gradient of 8 seeds of ER(5,2), ready to be computed."""
    return both_ways(trainer_of(experiment("escape-room", "er_5_2"), seeds=SEEDS, k=k))[mode]


MEMORY = """
import re, sys, torch
from pathlib import Path
sys.path.insert(0, {path!r})
import test_learner
torch.set_num_threads(1)
call = test_learner.{prepare}{arguments!r}
if {compute}:
    call()
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kilobytes(prepare, *arguments, compute):
    """Peak memory of a process that prepares, and computes, a meta-gradient."""
    path = __file__.rsplit("/", 1)[0]
    code = MEMORY.format(path=path, prepare=prepare, arguments=arguments, compute=compute)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_metagradients(sitting):
    """The meta-gradient alone, on one batch and its validation episodes: 8 seeds of ER(5,2), one of the economy."""
    calls = {(f"er_5_2, K = {k}", mode): ready(k, mode) for k in (1, 16, 256) for mode in ("forward", "unrolled")}
    calls |= {
        (f"gtb, {policy}, K = 4", mode): ready_gtb(4, policy, mode)
        for policy in ("planes", "trunk") for mode in ("forward", "unrolled")
    }  # fmt: skip
    rows = [Row(setting, Block(call), "meta-gradients", 1, facts={"mode": m}) for (setting, m), call in calls.items()]
    sitting(rows, "metagradient")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("k", [256, pytest.param(2048, marks=pytest.mark.long_table)])
def test_metagradient_memory(benchmark, k, mode):
    """Peak memory of a process, above that of one with the smallest batch."""
    peaks = []
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready", k, mode, compute=True)), rounds=1)
    least = peak_kilobytes("ready", 1, "forward", compute=False)
    benchmark.extra_info["peak_megabytes"] = (peaks[0] - least) / 1024


def convolution(channels, share, inner):
    """One convolution of the paper's networks on 400 agents' maps and its way back, by set entries and by the library.

    ``share`` of its input is not 0, and somewhat less of what comes back.
    """
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, channels, 5, 5), torch.zeros(6)
    maps = (torch.rand(400, 11, 11, channels, generator=draw) < share).to(torch.uint8)
    d_out = torch.randn(400, 11, 11, 6) * (torch.rand(400, 11, 11, 6, generator=draw) < (share + 0.2) / 3)
    dense = maps.float()

    def library():
        images, back = dense.permute(0, 3, 1, 2), d_out.permute(0, 3, 1, 2)
        torch.nn.functional.conv2d(images, weight, bias, padding=2)
        torch.ops.aten.convolution_backward(
            back, images, weight, [6], [1, 1], [2, 2], [1, 1], False, [0, 0], 1, [inner, True, True]
        )

    def entries():
        seen = dense if inner else maps
        convolve(seen, weight, bias)
        kernel_gradient(seen, d_out, 5)
        if inner:
            input_gradient(d_out, weight)

    return {"entries": entries, "library": library}


def test_convolutions_gtb(sitting):
    """Both convolutions: of trained agents' inputs a tenth is not 0 in the first one, three tenths in the second."""
    ways = {"first layer": convolution(9, 0.1, False), "second layer": convolution(6, 0.3, True)}
    rows = [
        Row(layer, Block(call), "batches", 1, facts={"mode": m}) for layer, w in ways.items() for m, call in w.items()
    ]
    sitting(rows, "convolution")


def ready_gtb(k, policy, mode):
    """The designer's gradient through one step of the agents on the economy, ready to be computed."""
    e = economy("metagrad", policy)
    designer = replace(e.designer, path=LastSteps(1), incentive=replace(e.designer.incentive, baseline=False))
    e = replace(e, agents=replace(e.agents, minibatches=1), designer=designer)
    trainer = trainer_of(e, k=k)
    trainer.train(1)
    return both_ways(trainer)[mode]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("policy", ["planes", "trunk"])
def test_metagradient_memory_gtb(benchmark, policy, mode):
    """Peak memory of a process with K = 16 episodes of the economy, above that of one that computes none."""
    peaks = []
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready_gtb", 16, policy, mode, compute=True)), rounds=1)
    least = peak_kilobytes("ready_gtb", 16, policy, "forward", compute=False)
    benchmark.extra_info["extra_megabytes"] = (peaks[0] - least) / 1024
