"""Environment steps per second: over copies, agents, maps and threads."""

import pytest
from measuring import stepping

import fastenvs

COPIES = [1, 64, 1024, 4096]
SETTINGS = {
    "er_2_1": ("escape_room", {"n_agents": 2, "min_at_lever": 1}),
    "er_5_2": ("escape_room", {"n_agents": 5, "min_at_lever": 2}),
    "er_10_5": ("escape_room", {"n_agents": 10, "min_at_lever": 5}),
    "cleanup_paper_7x7": ("cleanup", {}),
    "cleanup_authors_10x10": ("cleanup", {"preset": "authors_10x10"}),
    "cleanup_large": ("cleanup", {"preset": "large"}),
    "gtb_paper": ("gtb", {}),
    "gtb_25": ("gtb", {"map": "pure_mixed_25", "n_agents": 10}),
}
MAIN = ("er_5_2", "cleanup_paper_7x7", "gtb_paper")
OTHERS = [s for s in SETTINGS if s not in MAIN]
#: Copies at which two threads share a step; below the games' own bounds a call stays on one.
THREADED = {"er_5_2": 32768, "cleanup_paper_7x7": 4096, "gtb_paper": 4096}


def make(setting, num_envs, threads=1, **options):
    game, settings = SETTINGS[setting]
    return fastenvs.make(game, num_envs, seed=0, num_threads=threads, **{**settings, **options})


def test_copies(sitting):
    rows = [stepping(s, make(s, n)) for s in MAIN for n in COPIES]
    sitting([*rows, *(stepping("gtb_paper", make("gtb_paper", n)) for n in (256, 2048))], "copies")


def test_settings(sitting):
    sitting([stepping(s, make(s, 1024)) for s in OTHERS], "settings")


@pytest.mark.long_table
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_copies(sitting, setting):
    sitting([stepping(setting, make(setting, n)) for n in (*COPIES, 16384)], "copies, long")


def test_agents_gtb(sitting):
    """More agents on 40 x 40 cells."""
    crowded = {"map": "pure_mixed_40", "fixed_four": False}
    economies = [make("gtb_paper", 64, n_agents=n, **crowded) for n in (4, 10, 32, 100)]
    sitting([stepping("gtb, 40 x 40", economy) for economy in economies], "agents")


def test_agents_escape_room(sitting):
    """More agents, of whom half have to be at the lever."""
    rooms = [make("er_5_2", 1024, n_agents=n, min_at_lever=n // 2) for n in (2, 5, 20, 50)]
    sitting([stepping("er, half at the lever", room) for room in rooms], "agents")


def test_maps_gtb(sitting):
    worlds = {n: make("gtb_paper", 256, map=f"pure_mixed_{n}", fixed_four=False) for n in (15, 25, 40)}
    sitting([stepping(f"gtb, {n} x {n}", world, series="gtb_paper", size=n) for n, world in worlds.items()], "maps")


def test_threads(sitting):
    sitting([stepping(s, make(s, THREADED[s], threads=t)) for s in MAIN for t in (1, 2)], "threads")
