"""The learners: iterations, and the two ways to the meta-gradient in time and memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measuring import best_time

torch = pytest.importorskip("torch")

from gradients import both_ways, economy, trainer_of  # noqa: E402

from metagrad.experiment.registry import experiment  # noqa: E402
from metagrad.metagradient import LastSteps  # noqa: E402
from metagrad.networks.sparse_conv import convolve, input_gradient, kernel_gradient  # noqa: E402

SEEDS = tuple(range(8))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def sgemm_flops():
    """Floating point operations a second of a single-precision matrix product, in this run."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / best_time(lambda: a @ a, 10)


def forward_flops(e):
    """Multiplications and additions of one pass of all networks over the rows of one batch, 8 seeds."""
    n, rows = e.task.n_agents, e.task.horizon * e.run.k
    sizes = (3 * n, *e.agents.hidden, 3)
    weights = sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    return 2 * 8 * n * rows * weights


@pytest.mark.parametrize("name", ["er_5_2_paper", "er_5_2", "er_10_5"])
def test_iteration(benchmark, name):
    """One iteration of 8 seeds, at the start of training."""
    e = experiment("escape-room", name)
    trainer = trainer_of(e, seeds=SEEDS)
    trainer.train(5)
    benchmark.pedantic(trainer.iterate, rounds=60)
    seconds = benchmark.stats.stats.median
    # Rollout, agents' gradient (1 + 2), designer's gradient (2), Jacobian-vector product (2), in forward passes.
    flops = 8 * forward_flops(e)
    benchmark.extra_info.update(
        episodes_per_second=8 * e.run.k / seconds, fraction_of_sgemm=flops / seconds / sgemm_flops()
    )


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


@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("k", [1, 16, 256])
def test_metagradient(benchmark, k, mode):
    """The meta-gradient alone, on one batch and its validation episodes."""
    benchmark.pedantic(ready(k, mode), rounds=30, warmup_rounds=3)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("k", [256, pytest.param(2048, marks=pytest.mark.long_table)])
def test_metagradient_memory(benchmark, k, mode):
    """Peak memory of a process, above that of one with the smallest batch."""
    peaks = []
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready", k, mode, compute=True)), rounds=1)
    least = peak_kilobytes("ready", 1, "forward", compute=False)
    benchmark.extra_info["peak_megabytes"] = (peaks[0] - least) / 1024


# Multiplications and additions of one pass of a policy over one episode, 400 rows: of the convolutions as published
# (docs/spec/metagrad.md, 9), and of dense layers on planes as if none of their cells were 0.
GTB_FORWARD = {"trunk": 0.857e6 * 400}


def gtb_forward(trainer, policy):
    weights = sum(p.numel() for p in trainer.state.agents.policy.values())
    return GTB_FORWARD.get(policy, 2 * weights * 400)


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ("free-market", "planes"), ("free-market", "trunk"), ("dual-rl", "planes"), ("metagrad", "planes"),
        ("metagrad", "trunk"),
    ],
)  # fmt: skip
def test_iteration_gtb(benchmark, method, policy):
    """One iteration of the economy's learner, simulator included: our preset, K = 16 episodes."""
    e = economy(method, policy)
    trainer = trainer_of(e)
    trainer.train(1)
    benchmark.pedantic(trainer.iterate, rounds=6)
    seconds = benchmark.stats.stats.median
    # In forward passes: episodes, the agents' step (3); the designer's adjoint (2; the episodes' pass serves it),
    # a share of the steps once more for the agents' response (1 + 1 back + 1 for each of about three brackets reached).
    passes = 4 + (2 + 5 / e.designer.path.stride if method == "metagrad" else 0)
    flops = e.run.k * passes * gtb_forward(trainer, policy)
    benchmark.extra_info.update(
        episodes_per_second=e.run.k / seconds,
        fraction_of_sgemm=flops / seconds / sgemm_flops(),
        simulator_share=simulator_seconds(e) / seconds,
    )


@pytest.mark.parametrize("by", ["entries", "library"])
@pytest.mark.parametrize(("layer", "channels", "share"), [("first", 9, 0.1), ("second", 6, 0.3)])
def test_convolution_gtb(benchmark, layer, channels, share, by):
    """Both convolutions of the paper's networks on 400 agents' maps, and their way back.

    As trained agents have it, a tenth of the first one's input is not 0, three tenths of what it gives, and a sixth of
    what the second gives.
    """
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, channels, 5, 5), torch.zeros(6)
    maps = (torch.rand(400, 11, 11, channels, generator=draw) < share).to(torch.uint8)
    d_out = torch.randn(400, 11, 11, 6) * (torch.rand(400, 11, 11, 6, generator=draw) < (share + 0.2) / 3)
    inner = layer == "second"
    if inner or by == "library":
        maps = maps.float()

    def library():
        images, back = maps.permute(0, 3, 1, 2), d_out.permute(0, 3, 1, 2)
        torch.nn.functional.conv2d(images, weight, bias, padding=2)
        torch.ops.aten.convolution_backward(
            back, images, weight, [6], [1, 1], [2, 2], [1, 1], False, [0, 0], 1, [inner, True, True]
        )

    def entries():
        convolve(maps, weight, bias)
        kernel_gradient(maps, d_out, 5)
        if inner:
            input_gradient(d_out, weight)

    benchmark(library if by == "library" else entries)


def simulator_seconds(e):
    """Time of the simulator alone for the steps of one batch."""
    env = e.task.make(e.run.k, [1])
    env.reset()
    actions = np.zeros((e.run.k, e.task.n_agents), np.int64)
    return e.task.horizon * best_time(lambda: env.step(actions), 50)


def ready_gtb(k, policy, mode):
    """The designer's gradient through one step of the agents on the economy, ready to be computed."""
    e = economy("metagrad", policy)
    designer = replace(e.designer, path=LastSteps(1), incentive=replace(e.designer.incentive, baseline=False))
    e = replace(e, agents=replace(e.agents, minibatches=1), designer=designer)
    trainer = trainer_of(e, k=k)
    trainer.train(1)
    return both_ways(trainer)[mode]


@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("policy", ["planes", "trunk"])
def test_metagradient_gtb(benchmark, policy, mode):
    """K = 4 episodes of the economy."""
    benchmark.pedantic(ready_gtb(4, policy, mode), rounds=5, warmup_rounds=1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("policy", ["planes", "trunk"])
def test_metagradient_memory_gtb(benchmark, policy, mode):
    """Peak memory of a process with K = 16 episodes of the economy, above that of one that computes none."""
    peaks = []
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready_gtb", 16, policy, mode, compute=True)), rounds=1)
    least = peak_kilobytes("ready_gtb", 16, policy, "forward", compute=False)
    benchmark.extra_info["extra_megabytes"] = (peaks[0] - least) / 1024


# Multiplications and additions of one pass of Cleanup's policy over one row: convolution, two dense layers, head.
CLEANUP_FORWARD = 2 * (81 * 27 * 6 + 486 * 64 + 64 * 64 + 64 * 6)


@pytest.mark.parametrize("method", ["none", "central", "dual-rl-continuous", "metagrad"])
def test_iteration_cleanup(benchmark, method):
    """One iteration of Cleanup's learner, simulator included: our preset, K = 16 episodes."""
    e = experiment("cleanup", method=method)
    trainer = trainer_of(e)
    trainer.train(3)
    benchmark.pedantic(trainer.iterate, rounds=20)
    seconds = benchmark.stats.stats.median
    # In forward passes of the policy: episodes, agents (3), their critic (3); with designers on half as many pictures,
    # their critic (3 / 2) and incentive function (4 / 2), values of fresh episodes (1 / 2), adjoint (3), tangent (2).
    passes = {"none": 7, "central": 3.5, "dual-rl-continuous": 10.5, "metagrad": 16}[method]
    rows = e.run.k * e.task.horizon * 2
    benchmark.extra_info.update(
        episodes_per_second=e.run.k / seconds,
        fraction_of_sgemm=passes * rows * CLEANUP_FORWARD / seconds / sgemm_flops(),
    )
