"""The learner on Escape Room: iterations, and the two ways to the meta-gradient."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from metagrad.presets import preset  # noqa: E402
from metagrad.train import Learner  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["er_5_2_paper", "er_5_2", "er_10_5"])
def test_iteration(benchmark, name):
    """One iteration of 8 seeds, at the start of training."""
    config = replace(preset(name), seeds=tuple(range(8)))
    learner = Learner(config)
    for _ in range(5):
        learner.iterate()
    benchmark.pedantic(learner.iterate, rounds=60)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(episodes_per_second=8 * config.k / seconds)


@pytest.mark.parametrize("mode", ["forward", "unrolled"])
@pytest.mark.parametrize("k", [1, 16, 256])
def test_metagradient(benchmark, k, mode):
    """The meta-gradient alone, 8 seeds of ER(5,2), on one batch and its validation episodes."""
    config = preset("er_5_2")
    designer = replace(config.designer, mode=mode)
    learner = Learner(replace(config, k=k, seeds=tuple(range(8)), designer=designer))
    calls = []
    original = learner.metagradient
    learner.metagradient = lambda *args: calls.append(args) or original(*args)  # type: ignore[method-assign]
    learner.iterate()
    benchmark.pedantic(original, calls[-1], rounds=30, warmup_rounds=3)
