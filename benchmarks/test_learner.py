"""The learners: iterations, and the two ways to the meta-gradient in time and memory."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measuring import best_time

torch = pytest.importorskip("torch")

from metagrad.legacy.presets import preset  # noqa: E402
from metagrad.legacy.train import Learner  # noqa: E402

from metagrad.designers import MetaGradient  # noqa: E402
from metagrad.metagradient import LastSteps, log_prob_objective, unrolled  # noqa: E402
from metagrad.networks.sparse_conv import convolve, input_gradient, kernel_gradient  # noqa: E402
from metagrad.tasks import experiment  # noqa: E402
from metagrad.tasks.gtb import TaxSchedule  # noqa: E402
from metagrad.tasks.gtb.presets import trunk  # noqa: E402
from metagrad.trainer import Trainer  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def sgemm_flops():
    """Floating point operations a second of a single-precision matrix product, in this run."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / best_time(lambda: a @ a, 10)


def forward_flops(config):
    """Multiplications and additions of one pass of all networks over the rows of one batch, 8 seeds."""
    n, rows = config.game.n_agents, config.game.max_steps * config.k
    sizes = (3 * n, *config.agents.hidden, 3)
    weights = sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    return 2 * 8 * n * rows * weights


@pytest.mark.parametrize("name", ["er_5_2_paper", "er_5_2", "er_10_5"])
def test_iteration(benchmark, name):
    """One iteration of 8 seeds, at the start of training."""
    config = replace(preset(name), seeds=tuple(range(8)))
    learner = Learner(config)
    for _ in range(5):
        learner.iterate()
    benchmark.pedantic(learner.iterate, rounds=60)
    seconds = benchmark.stats.stats.median
    # Rollout, agents' gradient (1 + 2), designer's gradient (2), Jacobian-vector product (2), in forward passes.
    flops = 8 * forward_flops(config)
    benchmark.extra_info.update(
        episodes_per_second=8 * config.k / seconds, fraction_of_sgemm=flops / seconds / sgemm_flops()
    )


def ready(k, mode):
    """A meta-gradient of 8 seeds of ER(5,2), ready to be computed."""
    config = preset("er_5_2")
    learner = Learner(replace(config, k=k, seeds=tuple(range(8)), designer=replace(config.designer, mode=mode)))
    calls = []
    original = learner.metagradient
    learner.metagradient = lambda *args: calls.append(args) or original(*args)  # type: ignore[method-assign]
    learner.iterate()
    return lambda: original(*calls[-1])


MEMORY = """
import re, sys, torch
from pathlib import Path
sys.path.insert(0, {path!r})
import test_learner
torch.set_num_threads(1)
call = test_learner.{prepare}({k}, {mode!r})
if {compute}:
    call()
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kilobytes(prepare, k, mode, compute):
    """Peak memory of a process that prepares, and computes, a meta-gradient."""
    path = __file__.rsplit("/", 1)[0]
    code = MEMORY.format(path=path, prepare=prepare, k=k, mode=mode, compute=compute)
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
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready", k, mode, True)), rounds=1)
    benchmark.extra_info["peak_megabytes"] = (peaks[0] - peak_kilobytes("ready", 1, "forward", False)) / 1024


# Multiplications and additions of one pass of the paper's policy network over one episode (metagrad specification, 9).
GTB_FORWARD = 0.857e6 * 400


def economy(method, network="planes", **run):
    """Our preset of the economy, by default with its policy on planes; "trunk" is the published one."""
    e = experiment("gtb", method=method)
    agents = e.agents if network == "planes" else replace(e.agents, network=trunk(128, 128))
    return replace(e, agents=agents, run=replace(e.run, **run))


def economists(e):
    """Its trainer, one seed."""
    return Trainer(e.task, e.agents, e.designer, seeds=(1,), k=e.run.k, pipeline=e.run.pipeline)


@pytest.mark.parametrize("network", ["planes", "trunk"])
@pytest.mark.parametrize("method", ["free-market", "dual-rl", "metagrad"])
def test_iteration_gtb(benchmark, method, network):
    """One iteration of the economy's learner, simulator included: our preset, K = 16 episodes."""
    e = economy(method, network)
    trainer = economists(e)
    trainer.iterate()
    benchmark.pedantic(trainer.iterate, rounds=6)
    seconds = benchmark.stats.stats.median
    extra = {"episodes_per_second": e.run.k / seconds, "simulator_share": simulator_seconds(e) / seconds}
    if network == "trunk":
        # In forward passes: episodes, the agents' step (3); the designer's adjoint (2; the episodes' pass serves it),
        # a share of the steps once more for the agents' response (1 + 1 back + 1 for each of about three brackets).
        passes = 4 + (2 + 5 / e.designer.path.stride if method == "metagrad" else 0)
        extra["fraction_of_sgemm"] = e.run.k * passes * GTB_FORWARD / seconds / sgemm_flops()
    benchmark.extra_info.update(extra)


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
    actions = np.zeros((e.run.k, 4), np.int64)
    return e.task.steps * best_time(lambda: env.step(actions), 50)


def ready_gtb(k, mode):
    """The designer's gradient through one step of the agents on the economy, ready to be computed."""
    e = economy("metagrad", "trunk", k=k)
    incentive, agents = TaxSchedule(trunk(256, 256), baseline=False), replace(e.agents, minibatches=1)
    designer = MetaGradient(incentive, gamma=1.0, path=LastSteps(1), chain=1.0, discount_scores=True)
    trainer = economists(replace(e, agents=agents, designer=designer))
    trainer.iterate()
    batch, state, eta = trainer.state.pending, trainer.state.agents, trainer.state.designer.eta
    after, steps = agents.update(state, batch, trainer.rng)
    weights = designer.weights(trainer.state.designer, batch) / -k
    if mode == "unrolled":
        objective = log_prob_objective(agents, batch, -weights)
        return lambda: unrolled(agents, incentive, eta, steps, objective)

    def forward():
        adjoint = agents.score_vjp(after, batch.replace(memo={}), weights)
        return designer.path.gradient(None, eta, agents, incentive, steps, adjoint, batch)

    return forward


@pytest.mark.parametrize("mode", ["forward", "unrolled"])
def test_metagradient_gtb(benchmark, mode):
    """K = 4 episodes of the economy, the paper's networks."""
    benchmark.pedantic(ready_gtb(4, mode), rounds=5, warmup_rounds=1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["forward", "unrolled"])
def test_metagradient_memory_gtb(benchmark, mode):
    """Peak memory of a process with K = 16 episodes of the economy, above that of one that computes none."""
    peaks = []
    benchmark.pedantic(lambda: peaks.append(peak_kilobytes("ready_gtb", 16, mode, True)), rounds=1)
    benchmark.extra_info["extra_megabytes"] = (peaks[0] - peak_kilobytes("ready_gtb", 16, "forward", False)) / 1024


# Multiplications and additions of one pass of Cleanup's policy over one row: convolution, two dense layers, head.
CLEANUP_FORWARD = 2 * (81 * 27 * 6 + 486 * 64 + 64 * 64 + 64 * 6)


@pytest.mark.parametrize("method", ["none", "central", "dual-rl-continuous", "metagrad"])
def test_iteration_cleanup(benchmark, method):
    """One iteration of Cleanup's learner, simulator included: our preset, K = 16 episodes."""
    e = experiment("cleanup", method=method)
    trainer = Trainer(e.task, e.agents, e.designer, seeds=(0,), k=e.run.k)
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
