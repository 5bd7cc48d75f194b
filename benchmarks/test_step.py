"""Environment steps per second: over copies, agents, maps and threads."""

import pytest

import fastenvs

COPIES = [1, 64, 1024, 4096, 16384]
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


def make(setting, num_envs, threads=1, **options):
    game, settings = SETTINGS[setting]
    return fastenvs.make(game, num_envs, seed=0, num_threads=threads, **{**settings, **options})


@pytest.mark.parametrize("num_envs", COPIES)
@pytest.mark.parametrize("setting", MAIN)
def test_copies(step_benchmark, setting, num_envs):
    step_benchmark(make(setting, num_envs))


@pytest.mark.parametrize("num_envs", [256, 2048])
def test_copies_gtb(step_benchmark, num_envs):
    step_benchmark(make("gtb_paper", num_envs))


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s not in MAIN])
def test_settings(step_benchmark, setting):
    step_benchmark(make(setting, 1024))


@pytest.mark.long_table
@pytest.mark.parametrize("num_envs", COPIES)
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s not in MAIN])
def test_settings_copies(step_benchmark, setting, num_envs):
    step_benchmark(make(setting, num_envs))


@pytest.mark.parametrize("n_agents", [4, 10, 32, 100])
def test_agents_gtb(step_benchmark, n_agents):
    """More agents on 40 x 40 cells."""
    step_benchmark(
        fastenvs.make("gtb", 64, seed=0, map="pure_mixed_40", n_agents=n_agents, fixed_four=False, num_threads=1)
    )


@pytest.mark.parametrize("n_agents", [2, 5, 20, 50])
def test_agents_escape_room(step_benchmark, n_agents):
    step_benchmark(
        fastenvs.make("escape_room", 1024, seed=0, n_agents=n_agents, min_at_lever=n_agents // 2, num_threads=1)
    )


@pytest.mark.parametrize("size", [15, 25, 40])
def test_maps_gtb(step_benchmark, size):
    step_benchmark(fastenvs.make("gtb", 256, seed=0, map=f"pure_mixed_{size}", fixed_four=False, num_threads=1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("setting", MAIN)
def test_threads(step_benchmark, setting, threads):
    step_benchmark(make(setting, 4096, threads=threads))
