"""Pictures and GIFs."""

import numpy as np
import pytest

import fastenvs
from fastenvs import render


def gtb():
    env = fastenvs.make("gtb", 2, seed=0)
    env.reset()
    return env


def test_gtb_picture():
    env = gtb()
    env.state.agents.units[:] = 1
    env.step(np.ones((2, 4), int))  # the agents off sources build
    picture = env.render(1, cell_size=10)
    assert picture.shape == (150, 150, 3)
    assert picture.dtype == np.uint8
    centre = picture[5::10, 5::10]
    for i, (row, column) in enumerate(env.state.agents.loc[1]):
        assert (centre[row, column] == render.AGENT_COLOURS[i]).all()
    houses = np.argwhere(env.state.world.cells[1, ..., 2])
    assert len(houses)
    for row, column in houses:
        owner = env.state.world.cells[1, row, column, 6] - 2
        assert (picture[row * 10, column * 10] == render.AGENT_COLOURS[owner]).all()
    assert (centre[7, 0] == render._WATER).all()
    assert (centre[0, 5] == render._LAND).all()


def test_gif(tmp_path):
    from PIL import Image

    env, rng = gtb(), np.random.default_rng(0)
    frames = render.record(env, lambda obs: rng.integers(46, 50, (2, 4)), 5)
    assert len(frames) == 6
    render.save_gif(frames, tmp_path / "episode.gif")
    with Image.open(tmp_path / "episode.gif") as gif:
        assert gif.n_frames == 6
        assert gif.size == (300, 300)
    with pytest.raises(ValueError, match="no frames"):
        render.save_gif([], tmp_path / "none.gif")


def test_bad_input():
    with pytest.raises(ValueError, match="cell_size"):
        gtb().render(0, cell_size=2)
    with pytest.raises(ValueError, match="shape"):
        render.render_gtb(np.zeros((3, 3), np.uint8))


def test_escape_room_picture():
    env = fastenvs.make("escape_room", 2, n_agents=3, min_at_lever=1, max_steps=9)
    env.reset()
    env.step([[0, 1, 1], [1, 1, 2]])
    opened, shut = env.render(0, cell_size=10), env.render(1, cell_size=10)
    assert opened.shape == (30, 30, 3)
    assert opened.dtype == np.uint8
    assert [tuple(opened[10 * i + 5, 10 * p + 5]) for i, p in enumerate((0, 1, 1))] == [
        tuple(colour) for colour in render.AGENT_COLOURS[:3]
    ]
    assert tuple(opened[0, 29]) == render._OPEN
    assert tuple(shut[0, 29]) == render._SHUT
    with pytest.raises(ValueError, match="env"):
        env.render(2)
