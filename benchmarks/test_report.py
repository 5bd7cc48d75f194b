"""``report.py`` on a run that is made up: middles, ranges and shares, and one block of a page replaced."""

import json

import pytest

pytest.importorskip("matplotlib")

import report


@pytest.fixture
def run(tmp_path):
    """The file of a run with a table of two rows, and a benchmark of its own."""
    step = {"unit": "env steps", "units": 4, "num_envs": 4, "n_agents": 5, "threads": 2, "bytes_per_env_step": 7.0}
    measured = {"seconds": [1.0, 4.0, 2.0], "ran": [1, 1, 2], "cores": [1.0, 0.9, 1.0], "memset": [0.1, 0.4, 0.2]}
    ways = [{"setting": "K = 1", "mode": m, "seconds": s} for m, s in (("forward", [1, 2]), ("unrolled", [4, 4]))]
    benchmarks = [
        {"name": "test_copies", "extra_info": {"table": "copies", "rows": [{"setting": "er_5_2", **step, **measured}]}},
        {"name": "test_metagradients", "extra_info": {"table": "metagradient", "rows": ways}},
        {"name": "test_tax_day[x]", "extra_info": {"days": 2000.0}, "stats": {"mean": 1e-3, "stddev": 1e-6}},
    ]
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return path


def test_tables(run):
    rows, single = report.load(run)
    *_, line = report.stepping(rows).splitlines()
    assert line == "| copies | er_5_2 | 4 | 5 | 2 | 1 | 2 (1 to 4) | 10 | 7 | 0.2 |"
    *_, line = report.ways(rows, "metagradient", "forward", "unrolled").splitlines()
    assert line == "| K = 1 | 1.5 k (1 k to 2 k) | 4 k (4 k to 4 k) | 3 (2 to 4) |"
    *_, line = report.others(single).splitlines()
    assert line == "| tax_day | x | 1,000 | 1 | days 2 k |"


def test_insert_replaces_its_block_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- steps: made by benchmarks/report.py -->\nold\n<!-- end of steps -->\nb\n")
    report.insert(page, "steps", r"new \1")
    assert page.read_text() == ("a\n<!-- steps: made by benchmarks/report.py -->\nnew \\1\n<!-- end of steps -->\nb\n")
    with pytest.raises(SystemExit):
        report.insert(page, "peers", "new")
