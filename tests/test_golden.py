"""Every trace that is found, by default those in ``tests/traces``; others by ``--traces DIR``."""

from pathlib import Path

import numpy as np
import pytest
from golden import REPLAYS, find_traces, game_of, read_config

import fastenvs


def test_replay(trace_path):
    config = read_config(trace_path)
    game = game_of(config)
    if game not in fastenvs.games():
        pytest.skip(f"no game {game} yet")
    with np.load(trace_path) as archive:
        REPLAYS[game](config, {name: archive[name] for name in archive.files})


def test_a_wrong_trace_fails(tmp_path):
    """The replay notices one wrong reward."""
    path = find_traces([Path(__file__).parent / "traces"])["escape_room/er_5_2"]
    with np.load(path) as archive:
        trace = {name: archive[name] for name in archive.files}
    trace["rewards"][100, 3] += 1
    with pytest.raises(AssertionError):
        REPLAYS["escape_room"](read_config(path), trace)
