"""Kernels are compiled ahead of time: afterwards no option of a game makes another one be compiled."""

import os
import subprocess
import sys

import pytest

import fastenvs
from fastenvs import warmup

PLAY = """
import sys
import numpy as np
import fastenvs

GTB = [{}, {"preset": "upstream"}, *({"tax_mode": m} for m in ("planner", "us_federal", "saez", "none"))]
GTB += [{"tax_mode": "fixed", "fixed_rates": (0.3,) * 7}, {"full_view": True}, {"planner_sees_map": False}]
GTB += [{"designer_obs": "decision"}, {"gather_skill": "lognormal"}, {"tax_mode": "saez", "saez_shared": True}]
GTB += [{"planner_objective": "inverse_income_utility", "anneal": (1, 0.1)}, {"n_agents": 10, "map": "pure_mixed_25"}]
GTB += [{"rebate": "rank"}, {"skills": (1, 2, 3, 4), "brackets": (0, 5)}, {"places": ((0, 0), (0, 1), (0, 2), (0, 3))}]
GTB += [{"tax_mode": "fixed", "fixed_rates": rates} for rates in (((0.3,) * 7,) * 2, lambda seen: (0.3,) * 7)]
SETTINGS = {
    "escape_room": [{}, {"n_agents": 5, "min_at_lever": 2}, {"n_agents": 50}, {"randomize": True}],
    "cleanup": [{"preset": "authors_10x10"}, {"preset": "large"}, {"observation": "planes"}, {"movement": "orderly"}],
    "gtb": GTB,
    "one_step_economy": [{}, {"tax_mode": "planner", "announce": True}, {"tax_mode": "saez"}, {"draw_skills": True}],
}
for name, settings in SETTINGS.items():
    for options in settings:
        for autoreset in ("same_step", "next_step", "disabled"):
            limit = {"escape_room": {"max_steps": 11}, "one_step_economy": {}}.get(name, {"steps": 11})
            env = fastenvs.make(name, 3, seed=0, autoreset=autoreset, **{**options, **limit})
            env.reset()
            rng = np.random.default_rng(0)
            for _ in range(13):
                env.step(rng.integers(0, env.n_actions, (3, env.n_agents)))
            env.restore(env.snapshot())
            env.reset(seed=1)
"""


def run(*args, cache):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_nothing_is_left_to_compile(tmp_path):
    first = run("-m", "fastenvs.warmup", cache=tmp_path)
    assert all(f"{name}: ready" in first.stdout for name in fastenvs.games())
    assert "compiling" in first.stderr
    assert "compiling" not in run("-c", PLAY, cache=tmp_path).stderr


def test_every_game_has_settings():
    assert tuple(warmup.SETTINGS) == fastenvs.games()


def test_an_unknown_game_is_refused(capsys):
    with pytest.raises(SystemExit):
        warmup.main(["chess"])
    assert "escape_room" in capsys.readouterr().err
