"""Escape Room against the naive reference, and its rules one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.escape_room import NaiveEscapeRoom

import fastenvs

LEVER, START, DOOR = 0, 1, 2


@st.composite
def plays(draw):
    n = draw(st.integers(1, 12))
    m = draw(st.integers(1, n))
    limit = draw(st.integers(1, 6))
    copies = draw(st.integers(1, 4))
    steps = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    return n, m, limit, copies, steps, seed, draw(st.booleans())


@settings(deadline=None, max_examples=60)
@given(plays())
def test_matches_the_naive_reference(play):
    n, m, limit, copies, steps, seed, randomize = play
    env = fastenvs.make(
        "escape_room", copies, seed=seed, n_agents=n, min_at_lever=m, max_steps=limit, randomize=randomize
    )
    obs, _ = env.reset()
    rng = np.random.default_rng(seed)
    games = [NaiveEscapeRoom(n, m, limit, env.state.place[e].tolist()) for e in range(copies)]
    for _ in range(steps):
        # Mostly useful actions, so that the door opens for large n too.
        actions = rng.choice(3, size=(copies, n), p=rng.dirichlet([1, 0.3, 1]))
        obs, rewards, terminated, truncated, info = env.step(actions)
        for e, game in enumerate(games):
            want, over, cut, is_open = game.step(actions[e].tolist())
            assert rewards[e].tolist() == want
            assert info["designer_reward"][e] == sum(want)
            assert (terminated[e], truncated[e], info["door_open"][e]) == (over, cut, is_open)
            last = info["final_obs"] if over or cut else obs
            assert last["designer"][e].tolist() == game.designer_obs()
            assert [row.tolist() for row in last["agents"][e]] == [game.agent_obs(i) for i in range(n)]
            if over or cut:
                games[e] = NaiveEscapeRoom(n, m, limit, env.state.place[e].tolist())
                assert randomize or games[e].places == [START] * n
                assert obs["designer"][e].tolist() == games[e].designer_obs()


@pytest.mark.parametrize(
    ("before", "actions", "rewards", "terminated"),
    [
        ([START, START], [LEVER, DOOR], [-1, 10], True),
        ([LEVER, DOOR], [LEVER, DOOR], [0, 10], True),  # staying at an opening door pays
        ([LEVER, START], [START, DOOR], [-1, -1], False),  # only this step's levers count
        ([LEVER, DOOR], [DOOR, DOOR], [-1, 0], False),
        ([START, START], [START, START], [0, 0], False),
        ([DOOR, START], [LEVER, LEVER], [-1, -1], False),  # open, but nobody leaves
        ([DOOR, LEVER], [START, LEVER], [-1, 0], False),
    ],
)
def test_rules_of_a_step(before, actions, rewards, terminated):
    env = fastenvs.make("escape_room", 1, n_agents=2, min_at_lever=1, randomize=True)
    env.reset(options={"draws": {"place": [before]}})
    _, got, over, cut, _ = env.step([actions])
    assert got[0].tolist() == rewards
    assert over[0] == terminated
    assert not cut[0]


def test_winning_in_the_last_step_is_no_truncation():
    env = fastenvs.make("escape_room", 2, n_agents=2, min_at_lever=1, max_steps=1)
    env.reset()
    _, _, terminated, truncated, _ = env.step([[LEVER, DOOR], [START, START]])
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [False, True]


@pytest.mark.parametrize(("n", "m", "best"), [(2, 1, 9), (3, 1, 19), (3, 2, 8), (4, 2, 18), (5, 2, 28)])
def test_best_outcome_by_exhaustion(n, m, best):
    """No single step earns more than 10 (N - M) - M, and it ends the episode."""
    joint = np.stack(np.meshgrid(*[range(3)] * n, indexing="ij"), axis=-1).reshape(-1, n)
    env = fastenvs.make("escape_room", len(joint), n_agents=n, min_at_lever=m)
    env.reset()
    _, _, terminated, _, info = env.step(joint)
    assert info["designer_reward"].max() == best == 10 * (n - m) - m
    assert terminated[info["designer_reward"].argmax()]


def test_random_starts_are_uniform():
    env = fastenvs.make("escape_room", 4000, seed=3, n_agents=5, min_at_lever=2, randomize=True)
    env.reset()
    counts = np.stack([(env.state.place == k).sum(axis=0) for k in range(3)])
    assert np.abs(counts / 4000 - 1 / 3).max() < 0.04


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_agents": 0}, "n_agents"),
        ({"n_agents": 2, "min_at_lever": 3}, "never open"),
        ({"min_at_lever": 0}, "min_at_lever"),
        ({"max_steps": 0}, "max_steps"),
        ({"n_agents": 2.5}, "n_agents"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        fastenvs.make("escape_room", 2, **options)
