"""A gate on ratios within one run, with wide margins; it runs with the tests and needs no benchmark option."""

import sys
from pathlib import Path

import pytest
from measuring import Memset, Stepper, best_time, bytes_written
from test_step import make

from fastenvs import jit

pytestmark = pytest.mark.skipif(jit.PURE_PYTHON, reason="nothing is compiled")


# A quarter to a third of what was measured when this was written.
@pytest.mark.parametrize(("setting", "least"), [("er_5_2", 0.02), ("cleanup_paper_7x7", 0.03), ("gtb_paper", 0.04)])
def test_step_against_memset(setting, least):
    env = make(setting, 4096)
    memset = Memset(bytes_written(env))
    assert min(memset() for _ in range(10)) / best_time(Stepper(env), 30) > least


def test_compiled_against_naive():
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from naive.escape_room import NaiveEscapeRoom

    def play():
        game = NaiveEscapeRoom(5, 2, 5, [1] * 5)
        game.step([0, 0, 2, 2, 1])
        game.designer_obs()
        for i in range(5):
            game.agent_obs(i)

    assert best_time(play) / (best_time(Stepper(make("er_5_2", 4096)), 30) / 4096) > 100


def test_forward_against_unrolled():
    torch = pytest.importorskip("torch")
    from test_learner import ready

    torch.set_num_threads(1)
    assert best_time(ready(16, "unrolled"), 10) / best_time(ready(16, "forward"), 10) > 1.3
