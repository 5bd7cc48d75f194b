import pytest
from measuring import Stepper, best_time


def pytest_addoption(parser):
    parser.addoption("--benchmark-full", action="store_true", help="run the long tables too (several minutes)")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--benchmark-full"):
        long = pytest.mark.skip(reason="a long table: --benchmark-full")
        for item in items:
            if item.get_closest_marker("long_table"):
                item.add_marker(long)


@pytest.fixture
def step_benchmark(benchmark):
    """Measure steps of an environment and report its figures."""

    def measure(env):
        stepper = Stepper(env)
        rounds = int(min(1000, max(15, 0.5 / best_time(stepper, 3))))
        benchmark.pedantic(stepper, rounds=rounds, warmup_rounds=2)
        benchmark.extra_info.update(stepper.figures(benchmark.stats.stats.median))

    return measure
