"""Steps per second of other people's simulators against ours, in one run; missing ones are skipped.

``extra_info["ours_over_theirs"]`` is the ratio of environment steps per second at the same number of copies. Games and
maps are the nearest there are, not the same.
"""

import pytest
from measuring import Stepper, best_time
from peers.simulators import PEERS
from test_step import make


@pytest.mark.parametrize("copies", [1, 1024])
@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.__name__)
def test_peer(benchmark, peer, copies):
    try:
        step, stepped = peer(copies)
    except ImportError as missing:
        pytest.skip(f"not installed: {missing.name}")
    if stepped != copies:
        pytest.skip("steps one copy at a time")
    benchmark.pedantic(step, rounds=100, warmup_rounds=10)
    theirs = copies / benchmark.stats.stats.median
    ours = copies / best_time(Stepper(make(PEERS[peer], copies)), 30)
    benchmark.extra_info.update(env_steps_per_second=theirs, ours_over_theirs=ours / theirs)
