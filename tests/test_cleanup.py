"""Cleanup: movement and beams against the naive reference, its rules one by one, its statistics."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from naive import cleanup as naive

import fastenvs
from fastenvs import jit
from fastenvs.cleanup import Options
from fastenvs.cleanup import config as cleanup
from fastenvs.cleanup.config import APPLE, CLEANING_BEAM, PENALTY_BEAM, RIVER, WASTE

LEFT, RIGHT, UP, DOWN, STAY, TURN, TURN_BACK, FIRE, CLEAN = range(9)


@st.composite
def rooms(draw):
    """A walled room of spawn points with some walls, waste and apples."""
    height, width = draw(st.integers(3, 7)), draw(st.integers(3, 7))
    inner = draw(
        st.lists(
            st.sampled_from("PPPPP@HRB S"), min_size=(height - 2) * (width - 2), max_size=(height - 2) * (width - 2)
        )
    )
    inner[0] = "P"
    rows = ["@" * width]
    for r in range(height - 2):
        rows.append("@" + "".join(inner[r * (width - 2) : (r + 1) * (width - 2)]) + "@")
    rows.append("@" * width)
    n = draw(st.integers(1, min(12, inner.count("P"))))
    return "\n".join(rows), n, draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([1, 3, 5, 7]))


@settings(deadline=None, max_examples=200)
@given(rooms())
@example(("@@@@@\n@PPP@\n@@@@@\n@PPP@\n@PP@@\n@P@@@\n@@@@@", 9, 11430, 1))  # a swap beside a shared cell
def test_movement_and_beams_against_the_naive_reference(room):
    text, n, seed, width = room
    env = fastenvs.make(
        "cleanup", 1, seed=seed, map=text, n_agents=n, actions="all", beam_width=width, shuffle_spawn=True,
        random_orientation=True, depletion=0.9, steps=1000,
    )  # fmt: skip
    env.reset()
    rng = np.random.default_rng(seed)
    shape = env.options.symbols.shape
    walls = {tuple(c) for c in np.argwhere(env.options.symbols == "@").tolist()}
    for _ in range(12):
        actions = rng.choice(9, size=n, p=[0.17, 0.17, 0.17, 0.17, 0.06, 0.06, 0.05, 0.05, 0.1])
        cells = [tuple(p) for p in env.locations[0].tolist()]
        headings = naive.turn(env.state.heading[0].tolist(), actions)
        content = env.state.content[0].reshape(shape).copy()
        movers = rng.permutation(np.flatnonzero(actions <= 4))
        order = np.full((1, n), -1)
        order[0, : len(movers)] = movers
        _, rewards, _, _, info = env.step(actions[None], draws={"move_order": order})
        after = naive.move(walls, cells, headings, actions.tolist(), movers.tolist())
        assert [tuple(p) for p in env.locations[0].tolist()] == after
        assert env.state.heading[0].tolist() == headings
        want = np.zeros(n)
        for i, cell in enumerate(after):
            if content[cell] == APPLE:
                content[cell] = 0
                want[i] += 1
        beams, cleaned = np.zeros(shape, int), np.zeros(n, int)
        for i in np.flatnonzero(actions >= FIRE):
            cleaning = actions[i] == CLEAN
            waste = {tuple(c) for c in np.argwhere(content == WASTE).tolist()}
            covered, clean, hit = naive.beam(walls, waste, after, headings[i], i, width, cleaning, shape)
            for cell in covered:
                beams[cell] = CLEANING_BEAM if cleaning else PENALTY_BEAM
            for cell in clean:
                content[cell] = RIVER
            cleaned[i] = len(clean)
            if not cleaning:
                want[i] -= 1
                for j in hit:
                    want[j] -= 50
        np.testing.assert_array_equal(rewards[0], want)
        np.testing.assert_array_equal(info["n_cleaned"][0], cleaned)
        np.testing.assert_array_equal(env.state.beam[0].reshape(shape), beams)
        grown = env.state.content[0].reshape(shape) != content
        assert grown.sum() <= (content == 0).sum() + 1
        assert np.isin(env.state.content[0].reshape(shape)[grown], [APPLE, WASTE]).all()
        check_bookkeeping(env)


def check_bookkeeping(env):
    """Counts, occupants and the canvas are what the rest of the state says."""
    s = env.state
    waste = np.zeros(s.content.shape[1], bool)
    waste[env.config.waste_points] = True
    for e in range(env.num_envs):
        assert s.n_waste[e] == (s.content[e] == WASTE).sum()
        assert not (s.content[e] == WASTE)[~waste].any()
        occupant = np.zeros_like(s.occupant[e])
        for i, cell in enumerate(s.cell[e]):
            occupant[cell] = i + 1
        np.testing.assert_array_equal(s.occupant[e], occupant)
        if env.options.observation == "rgb":
            np.testing.assert_array_equal(s.canvas[e], env.render(e, cell_size=1))


@settings(deadline=None, max_examples=60)
@given(rooms())
def test_orderly_movement_never_shares_a_cell(room):
    text, n, seed, _ = room
    env = fastenvs.make(
        "cleanup", 20 if not jit.PURE_PYTHON else 1, seed=seed, map=text, n_agents=n, actions="all", movement="orderly",
        shuffle_spawn=True, random_orientation=True, steps=1000,
    )  # fmt: skip
    env.reset()
    rng = np.random.default_rng(seed)
    for _ in range(15):
        before = env.state.cell.copy()
        env.step(rng.integers(0, 7, (env.num_envs, n)))
        cells = env.state.cell
        assert (np.diff(np.sort(cells, axis=1), axis=1) > 0).all()
        for e in range(env.num_envs):  # and nobody swaps
            moves = {(int(a), int(b)) for a, b in zip(before[e], cells[e], strict=True) if a != b}
            assert not any((b, a) in moves for a, b in moves)
        check_bookkeeping(env)


CORRIDOR = "@@@@@@\n@PPPP@\n@PPPP@\n@PPPP@\n@@@@@@"


def scene(cells, headings=None, *, text=CORRIDOR, draws=None, **options):
    """Agents at given (row, column), facing up unless said; nothing grows."""
    options = {"apple_rate": 0.0, "waste_rate": 0.0, "steps": 1000, "actions": "all", **options}
    env = fastenvs.make("cleanup", 1, seed=0, map=text, n_agents=len(cells), autoreset="disabled", **options)
    width = env.options.symbols.shape[1]
    start = {"spawn": [[r * width + c for r, c in cells]], "heading": [headings or [0] * len(cells)]}
    env.reset(options={"draws": {**start, **(draws or {})}})
    return env


def put(env, content, *cells):
    for row, column in cells:
        env.state.content[0, row * env.options.symbols.shape[1] + column] = content
    env.state.n_waste[0] = (env.state.content[0] == WASTE).sum()


def places(env):
    return [tuple(p) for p in env.locations[0].tolist()]


@pytest.mark.parametrize(
    ("start", "headings", "actions", "order", "end"),
    [
        ([(1, 1), (3, 3)], [0, 0], (RIGHT, UP), [0, 1], [(1, 2), (2, 3)]),
        ([(2, 2), (3, 4)], [3, 1], (UP, LEFT), [0, 1], [(2, 1), (2, 4)]),  # moves are relative to the heading
        ([(1, 1), (1, 2)], [0, 0], (RIGHT, LEFT), [0, 1], [(1, 1), (1, 2)]),  # no swap
        ([(1, 1), (1, 2)], [0, 0], (RIGHT, RIGHT), [0, 1], [(1, 2), (1, 3)]),  # a queue advances
        ([(1, 1), (1, 3)], [0, 0], (RIGHT, LEFT), [1, 0], [(1, 1), (1, 2)]),  # the first in the order
        ([(1, 1), (1, 3)], [0, 0], (RIGHT, LEFT), [0, 1], [(1, 2), (1, 3)]),
        ([(1, 1), (1, 2)], [0, 0], (RIGHT, STAY), [0, 1], [(1, 1), (1, 2)]),
        ([(1, 1), (1, 2)], [0, 0], (RIGHT, TURN), [0, -1], [(1, 1), (1, 2)]),  # who turns is an obstacle
        ([(1, 1), (1, 4)], [0, 0], (UP, RIGHT), [0, 1], [(1, 1), (1, 4)]),  # walls
        # A turning cycle of four.
        ([(1, 1), (1, 2), (2, 2), (2, 1)], [0] * 4, (RIGHT, DOWN, LEFT, UP), [0, 1, 2, 3],
         [(1, 2), (2, 2), (2, 1), (1, 1)]),
        # The overlap quirk: two want a cell whose occupant turns out to be stuck.
        ([(3, 2), (2, 3), (3, 3), (3, 4)], [0] * 4, (RIGHT, DOWN, RIGHT, STAY), [0, 1, 2, 3],
         [(3, 3), (2, 3), (3, 3), (3, 4)]),
    ],
)  # fmt: skip
def test_moves(start, headings, actions, order, end):
    env = scene(start, headings)
    env.step([actions], draws={"move_order": [order]})
    assert places(env) == end


def test_the_orderly_mode_has_no_overlap_quirk():
    env = scene([(3, 2), (2, 3), (3, 3), (3, 4)], movement="orderly")
    env.step([[RIGHT, DOWN, RIGHT, STAY]], draws={"move_order": [[0, 1, 2, 3]]})
    assert places(env) == [(3, 2), (2, 3), (3, 3), (3, 4)]


def test_an_apple_on_a_shared_cell_goes_to_the_lowest_number():
    env = scene([(3, 2), (2, 3), (3, 3), (3, 4)])
    put(env, APPLE, (3, 3))
    _, rewards, *_ = env.step([[RIGHT, DOWN, RIGHT, STAY]], draws={"move_order": [[0, 1, 2, 3]]})
    assert rewards[0].tolist() == [1, 0, 0, 0]
    assert env.state.occupant[0].reshape(5, 6)[3, 3] == 3


HALL = "@" * 9 + "\n" + ("@" + "P" * 7 + "@\n") * 7 + "@" * 9


def test_side_lanes_start_beside_the_agent_and_reach_one_less():
    env = scene([(7, 4)], text=HALL)
    env.step([[CLEAN]])
    covered = {tuple(c) for c in np.argwhere(env.state.beam[0].reshape(9, 9)).tolist()}
    lanes = {(r, 4) for r in range(2, 7)} | {(r, c) for r in range(3, 8) for c in (3, 5)}
    assert covered == lanes


def test_wide_beams_leave_gaps():
    env = scene([(7, 4)], text=HALL, beam_width=5)
    env.step([[CLEAN]])
    columns = set(np.argwhere(env.state.beam[0].reshape(9, 9))[:, 1].tolist())
    assert columns == {2, 4, 6}


def test_cleaning_stops_at_waste_and_the_penalty_beam_does_not():
    text = HALL.replace("PPPPPPP", "PPPHPPP", 4)
    env = scene([(7, 4)], text=text, beam_width=1)
    _, _, _, _, info = env.step([[CLEAN]])
    assert info["n_cleaned"][0, 0] == 1
    assert (env.state.content[0].reshape(9, 9)[:, 4] == RIVER).sum() == 1
    assert env.state.content[0].reshape(9, 9)[4, 4] == RIVER
    env.step([[FIRE]])
    assert (env.state.beam[0] == PENALTY_BEAM).sum() == 5


def test_waste_under_another_agent_is_cleaned_and_the_beam_ends_there():
    text = HALL.replace("PPPPPPP", "PPPHPPP", 6)
    env = scene([(7, 4), (6, 4)], text=text, beam_width=1)
    _, rewards, _, _, info = env.step([[CLEAN, STAY]])
    assert info["n_cleaned"][0].tolist() == [1, 0]
    assert (env.state.beam[0] > 0).sum() == 1
    assert not rewards.any()
    own = scene([(6, 4)], text=text, beam_width=3)
    assert own.step([[CLEAN]])[4]["n_cleaned"][0, 0] == 1
    assert own.state.content[0].reshape(9, 9)[6, 4] == WASTE  # not the one under its own feet


def test_firing_costs_one_and_being_hit_fifty():
    env = scene([(7, 4), (5, 4), (4, 4)], text=HALL)
    _, rewards, _, _, info = env.step([[FIRE, STAY, STAY]])
    assert rewards[0].tolist() == [-1, -50, 0]
    assert info["designer_reward"][0] == -51


def test_beams_act_in_index_order_on_what_is_left():
    text = HALL.replace("PPPPPPP", "PPPHPPP", 4)
    env = scene([(7, 4), (5, 3)], [0, 0], text=text, beam_width=3)
    _, _, _, _, info = env.step([[CLEAN, CLEAN]])
    # Agent 0 opens (4, 4); the right lane of agent 1, one column aside, then reaches the next.
    assert info["n_cleaned"][0].tolist() == [1, 1]
    assert env.state.content[0].reshape(9, 9)[3:5, 4].tolist() == [RIVER, RIVER]


def test_eating_precedes_beams_and_a_hit_eater_has_type_two():
    env = scene([(7, 4), (5, 3)], text=HALL)
    put(env, APPLE, (5, 4))
    _, rewards, _, _, info = env.step([[FIRE, RIGHT]])
    assert rewards[0].tolist() == [-1, -49]
    assert info["collected"][0].tolist() == [0, 1]
    assert info["action_type"][0].tolist() == [cleanup.OTHER, cleanup.OTHER]


def test_action_types():
    env = scene([(7, 4), (5, 3), (1, 1)], text=HALL)
    put(env, APPLE, (5, 4), (7, 5))
    _, _, _, _, info = env.step([[CLEAN, RIGHT, STAY]])
    assert info["action_type"][0].tolist() == [cleanup.CLEANED, cleanup.COLLECTED, cleanup.OTHER]
    assert info["cleaned"][0].tolist() == [1, 0, 0]


def test_the_cleaning_penalty_is_the_agents_alone():
    env = scene([(7, 4), (5, 3)], text=HALL, cleaning_penalty=0.25)
    put(env, APPLE, (5, 4))
    _, rewards, _, _, info = env.step([[CLEAN, RIGHT]])
    assert rewards[0].tolist() == [-0.25, 1]
    assert info["designer_reward"][0] == 1


def test_spawn_probabilities_keep_the_form_of_the_formula():
    apple, waste = cleanup.spawn_probabilities(Options())
    assert apple.tolist() == [0.5, 0.08333333333333331, 0.0]
    assert waste.tolist() == [0.5, 0.5, 0.0]
    text = "@" * 12 + "\n@" + "R" * 10 + "@\n@P" + " " * 9 + "@\n" + "@" * 12
    _, waste = cleanup.spawn_probabilities(Options(map=text, n_agents=1, depletion=0.1))
    assert waste[1] > 0  # 1 - (10 - 1) / 10 lies just below 0.1


def test_a_new_apple_never_appears_under_an_agent_but_waste_can():
    text = "@@@@@\n@BPR@\n@@@@@"
    env = scene([(1, 1)], text=text, apple_rate=1.0, waste_rate=1.0, depletion=1.0)
    assert APPLE not in env.state.content[0]
    assert env.state.content[0].reshape(3, 5)[1, 3] == WASTE  # a spawn round runs at reset
    env = scene([(1, 3)], text=text, apple_rate=1.0, waste_rate=1.0, depletion=1.0)
    assert env.state.content[0].reshape(3, 5)[1].tolist()[1] == APPLE
    assert env.state.content[0].reshape(3, 5)[1, 3] == WASTE


def test_spawn_points_are_dealt_from_the_end():
    env = fastenvs.make("cleanup", 1, seed=0)
    env.reset()
    assert places(env) == [(5, 2), (1, 4)]


@pytest.mark.skipif(jit.PURE_PYTHON, reason="thousands of copies are slow in plain Python")
def test_waste_appears_as_by_the_procedure():
    """With both cells of the 7 x 7 map clean 0.75, with one clean 0.5; each cell as often as the other."""
    n = 20_000
    env = fastenvs.make("cleanup", n, seed=1)
    env.reset()
    for clean, share in ((2, 0.75), (1, 0.5)):
        env.reset()
        points = env.config.waste_points
        env.state.content[:, points] = RIVER
        env.state.content[:, points[clean:]] = WASTE
        env.state.n_waste[:] = 2 - clean
        env.step(np.full((n, 2), STAY))
        new = (env.state.content[:, points[:clean]] == WASTE).mean(0)
        assert new.sum() == pytest.approx(share, abs=0.02)
        assert new == pytest.approx(share / clean, abs=0.02)


@pytest.mark.skipif(jit.PURE_PYTHON, reason="thousands of copies are slow in plain Python")
def test_apples_contests_and_starts_have_the_right_odds():
    n = 20_000
    env = fastenvs.make("cleanup", n, seed=1, waste_rate=0.0)
    env.reset()
    env.state.content[:, env.config.waste_points[0]] = RIVER
    env.state.n_waste[:] = 1
    env.step(np.full((n, 2), STAY))
    grown = (env.state.content[:, env.config.apple_points] == APPLE).mean(0)
    assert grown == pytest.approx(0.08333, abs=0.01)
    width = 6
    rivals = fastenvs.make(
        "cleanup", n, seed=2, map=CORRIDOR, n_agents=2, actions="all", apple_rate=0.0, waste_rate=0.0
    )
    rivals.reset(options={"draws": {"spawn": np.tile([width + 1, width + 3], (n, 1))}})
    rivals.step(np.tile([RIGHT, LEFT], (n, 1)))
    assert (rivals.state.cell[:, 0] == width + 2).mean() == pytest.approx(0.5, abs=0.02)
    assert ((rivals.state.cell == width + 2).sum(1) == 1).all()
    starts = fastenvs.make("cleanup", n, seed=3, preset="large", n_agents=2)
    starts.reset()
    count = np.array([(starts.state.cell[:, 0] == p).mean() for p in starts.config.spawn_points])
    assert count == pytest.approx(0.1, abs=0.015)
    assert (np.diff(starts.state.cell, axis=1) != 0).all()
    assert np.bincount(starts.state.heading.ravel()) / (2 * n) == pytest.approx(0.25, abs=0.015)


@pytest.mark.parametrize("heading", range(4))
def test_pictures_turn_the_heading_to_the_top(heading):
    """What lies ahead of the agent is above it in its picture, in colours and in planes."""
    for observation in ("rgb", "planes"):
        env = scene([(4, 4), (1, 1)], [heading, 1], text=HALL, view_size=2, observation=observation)
        ahead = np.add((4, 4), naive.HEADINGS[heading])
        put(env, APPLE, tuple(ahead))
        cell = ahead[0] * 9 + ahead[1]
        env.state.canvas[0].reshape(81, -1)[cell] = env.config.palette[APPLE]
        env.step([[STAY, STAY]])
        seen = env.obs["agents"][0, 0]
        np.testing.assert_array_equal(seen[1, 2], env.config.palette[APPLE])
        others = np.delete(seen.reshape(25, -1), 7, axis=0)
        assert not (others == env.config.palette[APPLE]).all(1).any()


def test_planes_hold_what_colours_do_and_headings():
    rng = np.random.default_rng(0)
    options = {"preset": "large", "n_agents": 5, "seed": 4, "depletion": 0.9, "apple_rate": 0.3, "view_size": 5}
    rgb, planes = (fastenvs.make("cleanup", 3, observation=o, **options) for o in ("rgb", "planes"))
    assert planes.reset()[0]["agents"].shape[-1] == 6 + 5 + 4
    rgb.reset()
    for _ in range(60 if not jit.PURE_PYTHON else 3):
        actions = rng.integers(0, 9, (3, 5))
        a, b = rgb.step(actions)[0], planes.step(actions)[0]
        for name in ("agents", "designer"):
            decoded = np.zeros((*b[name].shape[:-1], 3), int)
            for channel, code in enumerate(cleanup.PLANES):
                decoded += b[name][..., channel, None] * np.array(cleanup.COLOURS[code])
            for i in range(5):
                decoded += b[name][..., 6 + i, None] * np.array(cleanup.AGENT_COLOURS[i])
            np.testing.assert_array_equal(decoded, a[name])
            assert (b[name][..., :11].sum(-1) <= 1).all()
            np.testing.assert_array_equal(b[name][..., 11:].sum(-1), b[name][..., 6:11].sum(-1))
        # In its own picture an agent faces the top; in the planner's, where it really faces.
        if not rgb.state.beam.any():
            for i in range(5):
                assert b["agents"][:, i, 5, 5, 11].all()


def test_reference_points_and_default_centre():
    env = scene([(4, 4), (1, 1)], text=HALL, global_ref_point=(4, 4), view_size=4, planner_view_size=4)
    np.testing.assert_array_equal(env.obs["agents"][0, 0], env.obs["agents"][0, 1])
    np.testing.assert_array_equal(env.obs["designer"][0], env.obs["agents"][0, 0])
    np.testing.assert_array_equal(env.obs["designer"][0], env.render(0, cell_size=1))


@pytest.mark.parametrize("preset", list(cleanup.PRESETS))
def test_presets_play(preset):
    env = fastenvs.make("cleanup", 4, preset=preset, seed=0)
    env.reset()
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(200 if not jit.PURE_PYTHON else 3):
        _, rewards, *_ = env.step(rng.integers(0, env.n_actions, (4, env.n_agents)))
        total += np.maximum(rewards, 0).sum()
    check_bookkeeping(env)
    assert total > 0 or preset == "large" or jit.PURE_PYTHON


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"map": "PP\nPP"}, ValueError, "closed by walls"),
        ({"map": "@@@\n@X@\n@@@"}, ValueError, "unknown symbols"),
        ({"n_agents": 3}, ValueError, "3 agents do not fit on 2"),
        ({"beam_width": 2}, ValueError, "odd"),
        ({"actions": "some"}, ValueError, "actions"),
        ({"movement": "wild"}, ValueError, "movement"),
        ({"observation": "text"}, ValueError, "observation"),
        ({"apple_rate": 1.5}, ValueError, "apple_rate"),
        ({"cleaning_penalty": -1.0}, ValueError, "cleaning_penalty"),
        ({"global_ref_point": (3.5, 0)}, ValueError, "global_ref_point"),
        ({"planner_ref_point": (3, 0, 1)}, ValueError, "planner_ref_point"),
        ({"depletion": float("nan")}, ValueError, "depletion"),
        ({"preset": "tiny"}, ValueError, "no Cleanup preset"),
        ({"colour": 1}, TypeError, "unknown Cleanup option"),
        ({"view_size": -1}, ValueError, "view_size"),
    ],
)
def test_impossible_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        fastenvs.make("cleanup", 2, **options)


def test_bad_draws_are_refused():
    env = fastenvs.make("cleanup", 1)
    with pytest.raises(ValueError, match="into a wall"):
        env.reset(options={"draws": {"spawn": [[0, 9]]}})
    with pytest.raises(ValueError, match="go together"):
        env.reset(options={"draws": {"waste": [[0.5, 0.5]]}})
