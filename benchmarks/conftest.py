import measuring
import pytest


def pytest_addoption(parser):
    parser.addoption("--benchmark-full", action="store_true", help="run the long tables too (several minutes)")
    parser.addoption("--blocks", type=int, default=5, help="blocks of every row of a table (default: 5)")
    parser.addoption(
        "--peer", action="append", default=[], metavar="NAME=PYTHON",
        help="the interpreter that another simulator is installed for (benchmarks/peers/README.md; repeatable)",
    )  # fmt: skip


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--benchmark-full"):
        long = pytest.mark.skip(reason="a long table: --benchmark-full")
        for item in items:
            if item.get_closest_marker("long_table"):
                item.add_marker(long)


@pytest.fixture
def sitting(benchmark, request):
    """Measure the rows of a table in alternating blocks, and keep them for ``report.py``."""

    def measure(rows, table):
        rounds = request.config.getoption("--blocks")
        found = benchmark.pedantic(measuring.sitting, args=(rows, rounds), rounds=1)
        benchmark.extra_info.update(table=table, rows=found)

    return measure
