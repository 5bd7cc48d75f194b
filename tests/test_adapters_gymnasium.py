"""Gymnasium's vector environments: its own checks and wrappers, and equality with its SyncVectorEnv."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

import fastenvs
from fastenvs.adapters.gymnasium import Single, VectorAgents, VectorDesigner, VectorTeam, make_designer, make_team
from fastenvs.snapshots import iter_leaves

MODES = ("same_step", "next_step", "disabled")
# Short episodes, some of which end early, so that a few steps meet every case.
GAMES = {
    "escape_room": {"n_agents": 3, "max_steps": 3, "randomize": True},
    "cleanup": {"steps": 4},
    "gtb": {"steps": 5, "tax_period": 3, "tax_mode": "planner"},
    "one_step_economy": {"announce": True, "draw_skills": True, "tax_mode": "planner"},
}
PREFIX = {"escape_room": "EscapeRoom", "cleanup": "Cleanup", "gtb": "GTB", "one_step_economy": "OneStepEconomy"}


def act(obs, decision):
    """A policy of agents that follows what it sees and was told."""
    agents = obs["agents"]
    seen = agents["flat"] if isinstance(agents, dict) else agents
    n, a = seen.shape[:2]
    return (seen.reshape(n, a, -1).sum(-1) * 7 + np.arange(a) + decision.reshape(n, -1).sum(1)[:, None]).astype(int) % 3


def make_view(kind, game, n, autoreset="same_step", **options):
    options = {**GAMES[game], **options}
    if kind == "designer":
        return make_designer(game, n, policy=act, autoreset=autoreset, **options)
    env = fastenvs.make(game, n, autoreset=autoreset, **options)
    return VectorTeam(env) if kind == "team" else VectorAgents(env)


def assert_equal(mine, theirs, rows=None):
    if isinstance(theirs, dict):
        assert set(mine) == set(theirs)
        for key in theirs:
            assert_equal(mine[key], theirs[key], rows)
    elif isinstance(theirs, tuple):
        for a, b in zip(mine, theirs, strict=True):
            assert_equal(a, b, rows)
    else:
        mine, theirs = (np.asarray(x) if rows is None else np.asarray(x)[rows] for x in (mine, theirs))
        np.testing.assert_array_equal(mine, theirs)


def assert_info_equal(mine, theirs):
    """What a mask leaves out is nobody's business; there may be keys that hold for no entry."""
    for key in {k for k in [*mine, *theirs] if not k.startswith("_")}:
        held = mine["_" + key]
        if not held.any() and key not in theirs:
            continue
        np.testing.assert_array_equal(held, theirs["_" + key], key)
        if key == "final_info":
            assert_info_equal(mine[key], theirs[key])
        elif key == "final_obs":
            for a, b in zip(mine[key][held], theirs[key][held], strict=True):
                assert_equal(a, b)
        else:
            assert_equal(mine[key], theirs[key], held)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["team", "designer"])
def test_equals_sync_vector_env(kind, game, mode):
    mine = make_view(kind, game, 4, mode)
    modes = {"same_step": "SameStep", "next_step": "NextStep", "disabled": "Disabled"}
    one = [lambda: Single(make_view(kind, game, 1, "disabled"))] * 4
    theirs = SyncVectorEnv(one, autoreset_mode=AutoresetMode(modes[mode]))
    assert mine.single_observation_space == theirs.single_observation_space
    assert mine.action_space == theirs.action_space
    assert mine.metadata == theirs.metadata
    assert_equal(mine.reset(seed=5)[0], theirs.reset(seed=5)[0])
    mine.action_space.seed(0)
    ended = 0
    for _ in range(12):
        actions = mine.action_space.sample()
        *results, info = mine.step(actions)
        *expected, wanted = theirs.step(actions)
        assert_equal(tuple(results), tuple(expected))
        assert_info_equal(info, wanted)
        assert mine.observation_space.contains(results[0])
        over = results[2] | results[3]
        ended += over.sum()
        if mode == "disabled" and over.any():
            obs, _ = mine.reset(options={"reset_mask": over})
            assert_equal(obs, theirs.reset(options={"reset_mask": over})[0])
    assert ended >= 4
    mine.close()
    assert mine.closed
    assert mine.env.closed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("game", GAMES)
def test_agents_are_those_of_the_copies(game, mode):
    """Observations, rewards, flags and info, by agent, are those of the environment stepped by hand."""
    env = fastenvs.make(game, 3, autoreset=mode, **GAMES[game])
    view, a = VectorAgents(fastenvs.make(game, 3, autoreset=mode, **GAMES[game])), env.n_agents
    assert view.num_envs == 3 * a
    obs, _ = env.reset(seed=[4, 5, 6])
    seen, _ = view.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(9):
        assert view.observation_space.contains(seen)
        for (_, mine), (_, whole) in zip(iter_leaves({"": seen}), iter_leaves({"": obs["agents"]}), strict=True):
            np.testing.assert_array_equal(mine, whole.reshape(mine.shape))
        actions = rng.integers(0, env.n_actions, (3, a))
        obs, rewards, terminated, truncated, info = env.step(actions)
        seen, mine, over, cut, infos = view.step(actions.ravel())
        np.testing.assert_array_equal(mine, rewards.ravel())
        np.testing.assert_array_equal(over, terminated.repeat(a))
        np.testing.assert_array_equal(cut, truncated.repeat(a))
        for name in env.agent_info:
            np.testing.assert_array_equal(infos[name], info[name].reshape(infos[name].shape))
        if mode == "same_step" and (over | cut).any():
            final = info["final_obs"]["agents"]
            for k in np.flatnonzero(over | cut):
                one = {name: x[k // a, k % a] for name, x in final.items()} if isinstance(final, dict) else None
                assert_equal(infos["final_obs"][k], final[k // a, k % a] if one is None else one)
        if mode == "disabled" and (over | cut).any():
            seen, _ = view.reset(options={"reset_mask": over | cut})
            obs, _ = env.reset(options={"reset_mask": terminated | truncated})


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["", "-designer"])
def test_gymnasiums_checker_on_single_environments(kind, game):
    options = {"policy": act} if kind else {}
    env = gymnasium.make(f"fastenvs/{PREFIX[game]}{kind}-v0", render_mode="rgb_array", **options, **GAMES[game])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(image|pixel|rendering|render|not within|spec).*")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["", "-agents", "-designer"])
def test_ids_make_vector_environments(kind, game):
    options = {"policy": act} if kind == "-designer" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec(f"fastenvs/{PREFIX[game]}{kind}-v0", num_envs=12, **options, **GAMES[game])
    assert env.num_envs == 12
    assert env.spec.id == f"fastenvs/{PREFIX[game]}{kind}-v0"
    again = gymnasium.make_vec(env.spec)
    assert_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])
    env.action_space.seed(1)
    actions = env.action_space.sample()
    assert_equal(env.step(actions)[:4], again.step(actions)[:4])


def test_a_number_of_agents_that_makes_no_whole_copies_is_refused():
    with pytest.raises(ValueError, match="a multiple of 3"):
        gymnasium.make_vec("fastenvs/EscapeRoom-agents-v0", num_envs=10, n_agents=3)


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["team", "agents", "designer"])
def test_record_episode_statistics(kind, game, mode):
    env, plain = wrappers.RecordEpisodeStatistics(make_view(kind, game, 4, mode)), make_view(kind, game, 4, mode)
    env.reset(seed=2)
    plain.reset(seed=2)
    env.action_space.seed(3)
    totals, lengths, was_over, seen = np.zeros(env.num_envs), np.zeros(env.num_envs, int), False, 0
    for _ in range(10):
        actions = env.action_space.sample()
        _, _, terminated, truncated, info = env.step(actions)
        rewards, playing = plain.step(actions)[1], ~(np.zeros(env.num_envs, bool) | was_over)
        over = terminated | truncated
        totals, lengths = totals * playing + rewards, lengths * playing + playing
        if mode == "same_step":
            playing = ~over
        if over.any():
            np.testing.assert_allclose(info["episode"]["r"][over], totals[over], rtol=1e-6)
            np.testing.assert_array_equal(info["episode"]["l"][over], lengths[over])
            seen += over.sum()
        if mode == "same_step":
            totals, lengths = totals * ~over, lengths * ~over
        was_over = over if mode == "next_step" else False
    assert seen == env.episode_count > 0


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["team", "agents", "designer"])
def test_other_wrappers(kind, game, mode):
    env = wrappers.ClipReward(make_view(kind, game, 4, mode), -2, 2)
    if mode == "next_step":  # Gymnasium's wrappers of observations refuse the other mode
        env = wrappers.FlattenObservation(env)
        env = wrappers.RescaleObservation(env, 0, 1) if np.isfinite(env.single_observation_space.high).all() else env
        env = wrappers.NormalizeObservation(wrappers.DtypeObservation(env, np.float32))
        env = wrappers.NormalizeReward(env)
    env = wrappers.DictInfoToList(wrappers.RecordEpisodeStatistics(env))
    _, infos = env.reset(seed=0)
    assert infos == [{}] * env.num_envs
    for _ in range(8):
        obs, rewards, *_, infos = env.step(env.action_space.sample())
        assert np.isfinite(rewards).all()
        assert len(infos) == env.num_envs
        if mode == "next_step":
            assert obs.shape[0] == env.num_envs
            assert np.isfinite(obs).all()


def test_to_torch():
    pytest.importorskip("array_api_compat", reason="Gymnasium's NumpyToTorch needs it")
    torch = pytest.importorskip("torch")
    env = wrappers.NumpyToTorch(make_view("agents", "gtb", 2, "next_step"))
    obs, _ = env.reset(seed=0)
    assert obs["mask"].dtype == torch.uint8
    obs, rewards, *_ = env.step(torch.zeros(8, dtype=torch.int64))
    assert rewards.shape == (8,)


def test_arrays_are_fresh_unless_asked_otherwise():
    for given in (True, False):
        env = VectorAgents(fastenvs.make("escape_room", 4, max_steps=1), copy=given)
        obs, _ = env.reset()
        first = env.step(np.zeros(8, int))
        kept = [obs.copy(), *(x.copy() for x in first[:4]), first[4]["final_obs"][3].copy()]
        env.step(np.full(8, 2))
        same = [np.array_equal(a, b) for a, b in zip([obs, *first[:4], first[4]["final_obs"][3]], kept, strict=True)]
        assert all(same) == given
        assert np.shares_memory(env.reset()[0], env.env.obs["agents"]) != given


@pytest.mark.parametrize("n_agents", [1, 7, 8, 9, 17])
def test_flags_of_a_copy_are_those_of_all_its_agents(n_agents):
    env = VectorAgents(fastenvs.make("escape_room", 40, seed=0, n_agents=n_agents, max_steps=2, randomize=True))
    bare = fastenvs.make("escape_room", 40, seed=0, n_agents=n_agents, max_steps=2, randomize=True)
    env.reset(), bare.reset()
    rng, met = np.random.default_rng(0), set()
    for _ in range(6):
        actions = rng.choice(3, (40, n_agents), p=[0.1, 0.8, 0.1])
        mine, theirs = env.step(actions.ravel())[2:4], bare.step(actions)[2:4]
        for flags, once in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(flags, once.repeat(n_agents))
        met |= set(zip(*(flags.tolist() for flags in theirs), strict=True))
    assert len(met) == (3 if n_agents > 1 else 2)  # one alone cannot escape


def test_arrays_are_fresh_where_the_environment_copies_too():
    env = VectorAgents(fastenvs.make("escape_room", 4, max_steps=2, copy=True))
    env.reset()
    first = env.step(np.zeros(8, int))
    kept = copy.deepcopy(first[:4])
    second = env.step(np.full(8, 2))
    assert_equal(first[:4], kept)
    assert not np.array_equal(second[3], first[3])


@pytest.mark.parametrize("kind", ["agents", "team", "designer"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_copy_of_a_view_goes_on_by_itself(kind, again):
    view = make_view(kind, "escape_room", 4, "next_step")
    view.reset(seed=0)
    view.action_space.seed(0)
    actions = [view.action_space.sample() for _ in range(8)]
    for action in actions[:4]:
        view.step(action)
    other = again(view)
    for mine, theirs in [(view.step(a), other.step(a)) for a in actions[4:]]:
        assert_equal(mine, theirs)


def test_last_observations_are_there_however_info_is_read():
    env = VectorTeam(fastenvs.make("escape_room", 2, max_steps=1))
    env.reset()

    def info():
        return env.step(np.zeros((2, 2), int))[4]

    ways = [
        lambda i: i["final_obs"], lambda i: i.get("final_obs"), lambda i: i.pop("final_obs"),
        lambda i: dict(i)["final_obs"], lambda i: {**i}["final_obs"], lambda i: i.copy()["final_obs"],
        lambda i: dict(i.items())["final_obs"], lambda i: list(i.values())[list(i).index("final_obs")],
        lambda i: copy.deepcopy(i)["final_obs"], lambda i: pickle.loads(pickle.dumps(i))["final_obs"],
    ]  # fmt: skip
    for way in ways:
        found = way(info())
        assert found.dtype == object
        assert found[1]["designer"].tolist() == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("game", GAMES)
def test_pictures(game):
    env = gymnasium.make_vec(f"fastenvs/{PREFIX[game]}-agents-v0", num_envs=12, render_mode="rgb_array", **GAMES[game])
    env.reset(seed=0)
    pictures = env.render()
    assert len(pictures) == 12
    assert pictures[0].dtype == np.uint8
    assert pictures[0].shape[2] == 3
    assert VectorTeam(fastenvs.make(game, 1)).render() is None
    with pytest.raises(ValueError, match="render_mode"):
        VectorTeam(fastenvs.make(game, 1), render_mode="human")


def test_spaces_of_an_agent_have_true_bounds():
    env = fastenvs.make("gtb", 2, n_agents=4)
    space = env.agent_observation_space
    assert space["mask"].high.max() == 1
    assert space["map"].high[0, 0].tolist() == [1, 1, 1, 1, 1, 1, 5, 5, 1]
    assert env.agent_action_space == gymnasium.spaces.Discrete(50)
    assert fastenvs.make("cleanup", 1, observation="planes").agent_observation_space.high.max() == 1
    assert fastenvs.make("escape_room", 1, n_agents=5).agent_observation_space.shape == (15,)


@pytest.mark.parametrize("mode", ["planner", "external"])
def test_a_decision_of_gtb_holds_for_a_period(mode):
    """The designer's view is the environment stepped by hand, with the entries of its tax mode."""
    options = {"steps": 20, "tax_period": 5, "tax_mode": mode, "seed": 0}
    view = make_designer("gtb", 3, policy=act, **options)
    env = fastenvs.make("gtb", 3, autoreset="disabled", **options)
    view.reset()
    obs, _ = env.reset()
    view.action_space.seed(0)
    for k in range(4):
        decision = view.action_space.sample()
        seen, rewards, _, truncated, _ = view.step(decision)
        (env.choose_rates if mode == "planner" else env.set_rates)(decision)
        total = 0.0
        for _ in range(5):
            obs, _, _, cut, info = env.step(act(obs, decision))
            total = total + info["designer_reward"]
        np.testing.assert_array_equal(rewards, total)
        np.testing.assert_array_equal(truncated, cut)
        assert cut.all() == (k == 3)
        if k < 3:
            assert_equal(seen, obs["designer"])


def test_payments_are_for_what_was_done_and_are_told():
    told = []
    env = fastenvs.make("escape_room", 2, n_agents=2, autoreset="disabled")
    view = VectorDesigner(
        env, lambda obs, decision: np.array([[0, 2], [1, 1]]), told=lambda r, *_: told.append(r.copy())
    )
    view.reset()
    offer = np.zeros((2, 2, 3))
    offer[0, 0, 0], offer[1, 1, 1], offer[1, 0, 2] = 2, 0.5, 3
    _, rewards, terminated, _, _ = view.step(offer)
    assert rewards.tolist() == [9 - 2, -0.5]
    assert told[0].tolist() == [[1, 10], [0, 0.5]]
    assert terminated.tolist() == [True, False]


def test_what_a_designer_cannot_have_is_refused():
    with pytest.raises(ValueError, match="disabled"):
        VectorDesigner(fastenvs.make("gtb", 1), act)
    with pytest.raises(ValueError, match="nothing to decide"):
        make_designer("gtb", 1, policy=act, tax_mode="saez")
    with pytest.raises(ValueError, match="tax period"):
        make_designer("gtb", 1, policy=act, per_decision=3)
    with pytest.raises(ValueError, match="autoreset"):
        make_designer("cleanup", 1, policy=act, autoreset="never")
    with pytest.raises(ValueError, match="single"):
        Single(make_team("gtb", 2))
    view = make_view("agents", "cleanup", 2, "disabled")
    view.reset()
    with pytest.raises(ValueError, match="same for all agents"):
        view.reset(options={"reset_mask": np.array([True, False, False, False])})


@pytest.mark.parametrize("make", [VectorAgents, VectorTeam, lambda env: VectorDesigner(env, lambda obs, mask: None)])
def test_what_is_no_environment_is_refused(make):
    with pytest.raises(TypeError, match=r"made by fastenvs\.make, got int"):
        make(3)
