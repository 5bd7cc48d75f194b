"""The economy: invariants over long random play, its rules one by one, options and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.regrow import regrow

import fastenvs
from fastenvs import jit, metrics
from fastenvs.gtb import PAPER_ANNEAL, Options, observe
from fastenvs.gtb.env import channel_first
from fastenvs.gtb.state import AGENT, HOUSE, OWNER, SOURCE, WATER

NOTHING, BUILD = 0, 1
LEFT, RIGHT, UP, DOWN = 46, 47, 48, 49


def bid(good, price):
    return 2 + 22 * good + price


def ask(good, price):
    return 13 + 22 * good + price


COPIES = 3 if jit.PURE_PYTHON else 2000


# ---------------------------------------------------------------------- invariants


def legal_actions(rng, mask, share_illegal=0.05):
    """Random legal actions, and now and then any action at all."""
    actions = (mask * rng.random(mask.shape)).argmax(-1)
    wild = rng.random(actions.shape) < share_illegal
    return np.where(wild, rng.integers(0, mask.shape[-1], actions.shape), actions)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"map": "pure_mixed_25", "n_agents": 10, "fixed_four": False, "gather_skill": "lognormal",
         "tax_mode": "planner"},
        {"n_agents": 32, "fixed_four": False, "build_skill": "lognormal", "max_orders": 2, "order_life": 3,
         "tax_mode": "us_federal", "regen_prob": 0.2, "start_coin": 40.0},
    ],
    ids=["paper", "planner", "crowd"],
)  # fmt: skip
def test_invariants_over_random_play(options):
    n = COPIES if options == {} else max(2, COPIES // 10)
    env = fastenvs.make("gtb", n, seed=1, **options)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    a = env.n_agents
    state, agents = env.state, env.state.agents
    for t in range(3 if jit.PURE_PYTHON else 130):
        before = total_coin(agents)
        units = agents.units.sum(1) + agents.escrow_units.sum(1)
        if env.options.tax_mode == "external" and t % 10 == 0:
            env.set_rates(rng.random((n, 7)))
        if env.options.tax_mode == "planner":
            env.choose_rates(rng.integers(0, 22, (n, 7)))
        obs, rewards, terminated, truncated, info = env.step(legal_actions(rng, obs["agents"]["mask"]))
        live = ~truncated
        assert truncated.all() == ((t + 1) % 100 == 0) == truncated.any()
        assert not terminated.any()
        np.testing.assert_array_equal(rewards, info["reward"].astype(np.float32))
        if live.all():
            # Coin comes from building alone; goods from gathering, less what was built.
            made = (info["built"] * agents.pay).sum(1)
            np.testing.assert_allclose(total_coin(agents).sum(1), before.sum(1) + made, rtol=1e-12)
            change = info["gathered"].astype(int).sum(1) - info["built"].sum(1, dtype=int)[:, None]
            np.testing.assert_array_equal(agents.units.sum(1) + agents.escrow_units.sum(1), units + change)
        check_world(env)
        assert (agents.coin >= 0).all()
        assert (agents.units >= 0).all()
        check_books(state, n, a)
        day = info["tax_day"]
        np.testing.assert_allclose(info["tax_paid"][day].sum(1), info["tax_rebate"][day] * a, rtol=1e-12, atol=1e-12)
        x = info["coin"] + info["escrow_coin"]
        assert (info["tax_paid"][day] <= info["coin"][day]).all()
        assert (x[day] >= 0).all()
        if live.all():
            np.testing.assert_allclose(info["equality"], metrics.equality(total_coin(agents)), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(info["productivity"], total_coin(agents).sum(1), rtol=1e-12)
    assert jit.PURE_PYTHON or info["productivity"].std() > 0


def total_coin(agents):
    return agents.coin + agents.escrow_coin


def check_world(env):
    """Nobody shares a cell, the map and the agents' places agree, houses have one owner, sources stay."""
    cells, loc = env.state.world.cells, env.state.agents.loc.astype(int)
    n, a = loc.shape[:2]
    rows = np.arange(n)[:, None]
    assert ((cells[..., AGENT] > 0).sum((1, 2)) == a).all()
    np.testing.assert_array_equal(cells[rows, loc[..., 0], loc[..., 1], AGENT], np.tile(np.arange(a) + 2, (n, 1)))
    assert not cells[rows, loc[..., 0], loc[..., 1], WATER].any()
    np.testing.assert_array_equal(cells[..., HOUSE] > 0, cells[..., OWNER] > 0)
    source = cells[..., SOURCE : SOURCE + 2]
    assert not (cells[..., HOUSE] & source.max(-1)).any()
    assert not (cells[..., :2] & ~source).any()
    owners = [(cells[..., OWNER] == i + 2).sum((1, 2)) for i in range(a)]
    np.testing.assert_array_equal(np.stack(owners, 1), env.state.agents.houses)


def check_books(state, n, a):
    books, agents = state.books, state.agents
    np.testing.assert_array_equal(books.own_depth.sum(1, dtype=int), books.depth)
    np.testing.assert_array_equal(books.own_depth.sum((2, 4), dtype=int).swapaxes(1, 2), books.n_open)
    np.testing.assert_array_equal(books.own_depth[:, :, 0].sum(-1, dtype=int), agents.escrow_units)
    prices = np.arange(books.depth.shape[-1])
    np.testing.assert_array_equal((books.own_depth[:, :, 1] * prices).sum((2, 3)), agents.escrow_coin)
    np.testing.assert_array_equal(books.n_keys.sum((1, 2)), books.depth.sum((1, 2, 3)))


def test_masks_say_what_has_an_effect():
    """One agent acts at a time: a masked-out action changes nothing, an allowed one does."""
    env = fastenvs.make("gtb", 50 if not jit.PURE_PYTHON else 2, seed=2, regen_prob=0.0, max_orders=2, order_life=200)
    env.reset()
    env.state.agents.units[:, 0] = 3
    obs, *_ = env.step(np.zeros((env.num_envs, 4), int))
    rng = np.random.default_rng(1)
    n, seen = env.num_envs, np.zeros((2, 50), int)
    for t in range(95 if not jit.PURE_PYTHON else 4):
        mask = obs["agents"]["mask"].copy()
        actions = np.zeros((n, 4), int)
        who = t % 4
        actions[:, who] = rng.integers(0, 50, n) if t % 3 else (mask * rng.random(mask.shape)).argmax(-1)[:, who]
        before = {k: v.copy() for k, v in env.state.agents._asdict().items()}
        orders = env.state.books.own_depth.sum((1, 2, 3, 4))
        obs, *_, info = env.step(actions)
        moved = (env.state.agents.loc != before["loc"]).any((1, 2))
        ordered = (info["n_trades"] > 0) | (env.state.books.own_depth.sum((1, 2, 3, 4)) > orders)
        did = moved | ordered | info["built"].any(1)
        chosen = actions[:, who]
        legal = mask[np.arange(n), who, chosen].astype(bool)
        np.testing.assert_array_equal(did, legal & (chosen != NOTHING))
        np.add.at(seen, (legal.astype(int), chosen), 1)
    if not jit.PURE_PYTHON:
        assert (seen[1, [BUILD, LEFT, RIGHT, UP, DOWN, bid(0, 5), ask(1, 5)]] > 0).all()
        assert seen[0].sum() > 100


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_regrowth_against_the_naive_reference(seed, share):
    rng = np.random.default_rng(seed)
    text = "\n".join("".join(rng.choice(list(" WS@"), 6)) for _ in range(5)) + "\n      "
    env = fastenvs.make("gtb", 1, seed=seed, map=text, fixed_four=False, n_agents=2, steps=50)
    env.reset()
    cells = env.state.world.cells[0]
    for _ in range(5):
        cells[..., :2] &= rng.random((6, 6, 2)) < 0.5
        here = {tuple(loc) for loc in env.state.agents.loc[0].tolist()}
        for r, c in here:
            cells[r, c, :2] = 0  # so that nothing is collected in this step
        success = (rng.random((1, 2, 6, 6)) < share).astype(np.uint8)
        want = [regrow(cells[..., g].tolist(), cells[..., SOURCE + g].tolist(), success[0, g].tolist()) for g in (0, 1)]
        env.step(np.zeros((1, 2), int), draws={"regrow": success})
        for g in (0, 1):
            np.testing.assert_array_equal(cells[..., g], want[g])


@pytest.mark.skipif(jit.PURE_PYTHON, reason="thousands of copies are slow in plain Python")
@pytest.mark.parametrize("probability", [0.0, 0.01, 0.3, 1.0])
def test_native_regrowth_has_the_right_rate(probability):
    n, steps = 4000, 20
    env = fastenvs.make("gtb", n, seed=3, regen_prob=probability, fixed_four=False, n_agents=2)
    env.reset()
    cells = env.state.world.cells
    sources = int(cells[0, ..., SOURCE : SOURCE + 2].sum())
    counts = np.zeros((15, 15, 2))
    for _ in range(steps):
        cells[..., :2] = 0
        env.step(np.zeros((n, 2), int))
        counts += cells[..., :2].sum(0)
    rate = counts / (n * steps)
    where = cells[0, ..., SOURCE : SOURCE + 2] > 0
    assert not rate[~where].any()
    spread = 6 * np.sqrt(probability * (1 - probability) / (n * steps))
    assert np.abs(rate[where] - probability).max() <= spread
    assert where.sum() == sources


# ---------------------------------------------------------------------- the rules, one by one

ROOM = "    ;    ;    ;    "


def scene(places, *, text=ROOM, units=None, coin=10.0, draws=None, **options):
    """An economy with agents at given places, tax period 100 unless given."""
    options = {"tax_period": 100, "regen_prob": 0.0, **options}
    env = fastenvs.make(
        "gtb", 1, seed=0, map=text, n_agents=len(places), fixed_four=False, autoreset="disabled",
        start_coin=coin, **options,
    )  # fmt: skip
    env.reset(options={"draws": {"location": [places], **(draws or {})}})
    if units is not None:
        env.state.agents.units[0] = units
    return env


def act(env, *actions, order=None):
    draws = {} if order is None else {"gather_order": [order]}
    return env.step([actions], draws=draws)


def places(env):
    return [tuple(p) for p in env.state.agents.loc[0].tolist()]


@pytest.mark.parametrize(
    ("start", "actions", "order", "end"),
    [
        ([(0, 0), (3, 3)], (RIGHT, LEFT), [0, 1], [(0, 1), (3, 2)]),
        ([(0, 0), (3, 3)], (LEFT, DOWN), [0, 1], [(0, 0), (3, 3)]),  # the edge of the world
        ([(0, 0), (0, 1)], (RIGHT, LEFT), [0, 1], [(0, 0), (0, 1)]),  # no swap
        ([(0, 0), (0, 1)], (RIGHT, RIGHT), [0, 1], [(0, 0), (0, 2)]),  # still occupied
        ([(0, 0), (0, 1)], (RIGHT, RIGHT), [1, 0], [(0, 1), (0, 2)]),  # left a moment ago
        ([(0, 0), (0, 2)], (RIGHT, LEFT), [1, 0], [(0, 0), (0, 1)]),  # the first comes first
        ([(1, 1), (3, 3)], (UP, UP), [0, 1], [(0, 1), (2, 3)]),
    ],
)
def test_moves(start, actions, order, end):
    env = scene(start)
    act(env, *actions, order=order)
    assert places(env) == end
    moved = [a != b for a, b in zip(start, end, strict=True)]
    assert env.state.agents.labor[0].tolist() == [float(m) for m in moved]


def test_water_and_foreign_houses_block_own_houses_do_not():
    env = scene([(0, 0), (1, 1)], text="  @ ;    ;    ", units=[[1, 1], [0, 0]])
    act(env, BUILD, NOTHING)
    act(env, RIGHT, NOTHING)
    act(env, RIGHT, LEFT)  # water to the right of agent 0
    assert places(env) == [(0, 1), (1, 0)]
    act(env, NOTHING, UP)  # the house of agent 0
    assert places(env)[1] == (1, 0)
    act(env, LEFT, NOTHING)
    assert places(env)[0] == (0, 0)
    assert env.obs["agents"]["mask"][0, 0, BUILD] == 0


def test_building():
    env = scene([(0, 0), (3, 3)], units=[[2, 1], [1, 0]], build_skill="none", build_pay=7.0)
    _, _, _, _, info = act(env, BUILD, BUILD)
    agents = env.state.agents
    assert info["built"][0].tolist() == [1, 0]
    assert agents.units[0].tolist() == [[1, 0], [1, 0]]
    assert agents.coin[0].tolist() == [17.0, 10.0]
    assert agents.labor[0].tolist() == [10.0, 0.0]
    assert env.state.world.cells[0, 0, 0, [HOUSE, OWNER]].tolist() == [1, 2]


@pytest.mark.parametrize("symbol", ["W", "S"])
def test_no_house_on_a_source_even_an_empty_one(symbol):
    env = scene([(0, 0), (1, 1)], text=f"{symbol}  ;   ", units=[[3, 3], [0, 0]])
    env.state.world.cells[0, 0, 0, :2] = 0
    assert not act(env, BUILD, NOTHING)[4]["built"].any()


def test_units_in_escrow_do_not_build():
    env = scene([(0, 0), (1, 1)], units=[[1, 1], [0, 0]])
    act(env, ask(0, 9), NOTHING)
    assert not act(env, BUILD, NOTHING)[4]["built"].any()


def test_what_is_bought_can_be_built_with_in_the_next_step():
    env = scene([(0, 0), (1, 1)], units=[[0, 1], [1, 0]])
    act(env, bid(0, 5), ask(0, 5))
    assert act(env, BUILD, NOTHING)[4]["built"][0, 0] == 1


def test_collecting_needs_no_move_and_costs_labor_once():
    """A standing agent collects what lies under it, whatever it does; the bonus unit is free."""
    env = scene([(0, 0), (1, 1)], text="W  ;   ", gather_skill="pareto", draws={"bonus": [[0.5, 0.5]]})
    env.step([[NOTHING, NOTHING]], draws={"collect": [[0.49, np.nan]]})
    assert env.state.agents.units[0].tolist() == [[0, 2], [0, 0]]
    assert env.state.agents.labor[0].tolist() == [1.0, 0.0]
    env.step([[NOTHING, NOTHING]], draws={"regrow": np.ones((1, 2, 2, 3))})
    assert env.state.agents.units[0].tolist() == [[0, 2], [0, 0]]
    assert env.obs["agents"]["map"][0, 0, 5, 5, 1] == 1  # regrown in this step, and seen
    env.step([[bid(0, 1), NOTHING]], draws={"collect": [[0.5, np.nan]]})
    assert env.state.agents.units[0].tolist() == [[0, 3], [0, 0]]
    assert env.state.agents.labor[0].tolist() == [2.25, 0.0]


def test_a_unit_can_regrow_in_the_step_in_which_it_is_taken():
    env = scene([(0, 0), (1, 1)], text="S  ;   ")
    env.step([[NOTHING, NOTHING]], draws={"regrow": np.ones((1, 2, 2, 3))})
    assert env.state.agents.units[0, 0].tolist() == [1, 0]
    assert env.state.world.cells[0, 0, 0, 0] == 1


def test_bids_shield_coin_from_the_tax_and_income_counts_escrow():
    env = scene([(0, 0), (3, 3)], units=[[1, 1], [0, 0]], build_skill="none", tax_period=2)
    env.set_rates(np.full(7, 1.0))
    act(env, BUILD, NOTHING)  # income 10
    env.state.agents.coin[0, 0] = 10.0
    env.state.agents.escrow_coin[0, 0] = 0.0
    env.state.taxes.last_coin[0] = [0.0, 10.0]
    _, _, _, _, info = act(env, bid(0, 8), NOTHING)
    assert info["tax_day"][0]
    assert info["tax_income"][0].tolist() == [10.0, 0.0]
    assert info["tax_paid"][0].tolist() == [2.0, 0.0]  # 8 of the 10 coins are behind a bid
    assert info["tax_rebate"][0] == 1.0
    assert info["coin"][0].tolist() == [2.0, 10.0]
    assert info["escrow_coin"][0].tolist() == [8.0, 0.0]
    assert info["units"][0].tolist() == [[0, 0], [0, 0]]
    assert env.state.taxes.last_coin[0].tolist() == [9.0, 11.0]  # so the rebate is no income


def test_sales_of_the_tax_day_are_income():
    env = scene([(0, 0), (3, 3)], units=[[1, 0], [0, 0]], tax_period=1)
    info = act(env, ask(0, 4), bid(0, 4))[4]
    assert info["tax_income"][0].tolist() == [4.0, -4.0]
    assert info["tax_rate"][0, 1] == 0


def test_a_change_in_mid_period_acts_at_once_but_is_shown_later():
    env = scene([(0, 0), (3, 3)], tax_period=3)
    env.set_rates(np.full(7, 0.2))
    act(env, NOTHING, NOTHING)
    env.set_rates(np.full(7, 0.6))
    obs = act(env, NOTHING, NOTHING)[0]
    at = 4 + 10 * 11 + 1
    assert np.allclose(obs["agents"]["flat"][0, 0, at : at + 7], 0.2)
    assert obs["agents"]["flat"][0, 0, at + 7 + 2 + 2] == np.float32(0.6)  # the marginal rate
    act(env, NOTHING, NOTHING)
    obs = act(env, NOTHING, NOTHING)[0]
    assert np.allclose(obs["agents"]["flat"][0, 0, at : at + 7], 0.6)


def test_external_rates_survive_a_reset():
    env = scene([(0, 0), (3, 3)])
    env.set_rates(np.linspace(0, 0.6, 7))
    env.reset()
    np.testing.assert_allclose(env.state.taxes.shown[0], np.linspace(0, 0.6, 7))


def test_planner_choices_count_on_the_first_day_alone():
    env = scene([(0, 0), (3, 3)], tax_mode="planner", tax_period=3)
    mask = env.obs["designer"]["mask"]
    assert mask.shape == (1, 7, 22)
    assert mask.all()
    env.choose_rates(np.full((1, 7), 4))
    act(env, NOTHING, NOTHING)
    np.testing.assert_array_equal(env.state.taxes.live[0], 3 * 0.05)
    assert mask[0, :, 0].all()
    assert not mask[0, :, 1:].any()
    env.choose_rates(np.full((1, 7), 9))
    act(env, NOTHING, NOTHING)
    np.testing.assert_array_equal(env.state.taxes.live[0], 3 * 0.05)
    act(env, NOTHING, NOTHING)
    act(env, NOTHING, NOTHING)  # first day, nothing chosen: kept
    np.testing.assert_array_equal(env.state.taxes.live[0], 3 * 0.05)


def test_annealing_follows_completed_episodes_with_a_lag_in_the_reset_observation():
    env = fastenvs.make(
        "gtb", 1, seed=0, tax_mode="us_federal", anneal=(-1.0, 0.1), steps=2, tax_period=2, autoreset="disabled"
    )
    rates = np.array([0.1, 0.12, 0.22, 0.24, 0.32, 0.35, 0.37])
    for episode in range(4):
        env.reset()
        lagging = 0.1 * max(1, episode)
        np.testing.assert_allclose(env.state.taxes.shown[0], np.minimum(rates, lagging))
        np.testing.assert_allclose(env.state.rates.cap[0], 0.1 * (episode + 1))
        env.step(np.zeros((1, 4), int))
        np.testing.assert_allclose(env.state.taxes.shown[0], np.minimum(rates, 0.1 * (episode + 1)))
        env.step(np.zeros((1, 4), int))
    env.reset_completed()
    assert env.state.clock.completed[0] == 0
    np.testing.assert_allclose(env.state.rates.cap[0], 0.1)


def test_the_paper_anneals_from_a_tenth_to_one_in_8000_episodes():
    warmup, slope = PAPER_ANNEAL
    assert slope * (0 - warmup) == pytest.approx(0.1)
    assert slope * (8000 - warmup) == pytest.approx(1.0)


def test_a_masked_choice_is_a_plain_comparison():
    """With a limit of exactly 0.15 the choice 0.15000000000000002 is masked out."""
    env = fastenvs.make("gtb", 1, seed=0, tax_mode="planner", anneal=(0.0, 0.15))
    env.reset_completed(1)
    env.reset()
    assert env.obs["designer"]["mask"][0, 0].sum() == 1 + 3


def test_reward_is_the_change_of_utility_and_welfare():
    env = scene([(0, 0), (3, 3)], units=[[1, 1], [0, 0]], build_skill="none")

    def utility(coin, labor):
        return (coin**0.77 - 1) / 0.77 - 0.21 * labor

    _, rewards, _, _, info = act(env, BUILD, RIGHT)
    want = [utility(20, 10) - utility(10, 0), 0.0]
    np.testing.assert_allclose(info["reward"][0], want, rtol=1e-12)
    np.testing.assert_array_equal(rewards[0], np.float32(want))
    # Two agents: equality is 1 - |20 - 10| / 30.
    assert info["designer_reward"][0] == pytest.approx((1 - 10 / 30) * 15 - 10, abs=1e-9)


def test_gini_changes_its_formula_at_thirty_agents():
    rich = np.zeros((1, 29))
    rich[0, 3] = 5.0
    assert metrics.equality(rich)[0] == pytest.approx(0, abs=1e-9)
    assert metrics.equality(np.pad(rich, ((0, 0), (0, 1))))[0] == pytest.approx(2 / 31)
    assert metrics.equality(np.zeros((1, 29)))[0] == 1
    assert metrics.equality(np.zeros((1, 30)))[0] == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), max_size=80))
def test_sort(values):
    x = np.array(values)
    metrics.sort(x)
    assert x.tolist() == sorted(values)


@pytest.mark.parametrize("objective", ["equality_x_productivity", "inverse_income_coin", "inverse_income_utility"])
def test_planner_objectives(objective):
    env = fastenvs.make("gtb", 5, seed=0, planner_objective=objective, productivity_only_weight=0.25)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(30):
        obs, *_, info = env.step(legal_actions(rng, obs["agents"]["mask"]))
    x, u = total_coin(env.state.agents), env.state.clock.utility
    weights = 1 / np.maximum(x, 1)
    weights /= weights.sum(1, keepdims=True)
    eq = metrics.equality(x)
    want = {
        "equality_x_productivity": (0.75 * eq + 0.25) * x.mean(1),
        "inverse_income_coin": (weights * x).sum(1),
        "inverse_income_utility": (weights * u).sum(1),
    }[objective]
    np.testing.assert_allclose(info["welfare"], want, rtol=1e-10)


def test_energy_warmup_by_positive_steps():
    env = scene([(0, 0), (3, 3)], units=[[1, 1], [0, 0]], energy_warmup=2.0, energy_warmup_by="positive_steps")
    act(env, BUILD, NOTHING)
    assert env.state.clock.energy_weight[0] == 0
    assert env.state.clock.positive_steps[0] == 1
    act(env, NOTHING, NOTHING)
    assert env.state.clock.energy_weight[0] == pytest.approx(1 - np.exp(-0.5))
    env.reset()
    assert env.state.clock.positive_steps[0] == 1


# ---------------------------------------------------------------------- starts, skills, views


def test_fixed_four_pays_and_corners():
    options = Options()
    np.testing.assert_allclose(
        options.rank_pay, [11.331640623590097, 13.267112338979295, 16.472372947006132, 22.249614304395735], rtol=1e-12
    )
    env = fastenvs.make("gtb", 300 if not jit.PURE_PYTHON else 5, seed=0)
    env.reset()
    corners = {(0, 14): 0, (14, 0): 1, (0, 0): 2, (14, 14): 3}
    pay, loc = env.state.agents.pay, env.state.agents.loc
    for e in range(env.num_envs):
        ranks = [corners[tuple(p)] for p in loc[e].tolist()]
        assert sorted(ranks) == [0, 1, 2, 3]
        np.testing.assert_array_equal(pay[e], options.rank_pay[ranks])
    if not jit.PURE_PYTHON:
        assert len({tuple(p) for p in pay.tolist()}) == 24
    assert len(np.unique(env.state.agents.skill)) == env.num_envs * 4  # the raw draws are kept


def test_quartile_groups():
    options = Options(n_agents=10, map="pure_mixed_25")
    want = [(0, 24), (0, 23), (0, 22), (24, 0), (24, 1), (0, 0), (0, 1), (0, 2), (24, 24), (24, 23)]
    assert [tuple(p) for p in options.rank_location.tolist()] == want
    assert (np.diff(options.rank_pay) > 0).all()
    env = fastenvs.make("gtb", 2, n_agents=10, map="pure_mixed_25", seed=0)
    env.reset()
    check_world(env)


@pytest.mark.skipif(jit.PURE_PYTHON, reason="thousands of copies are slow in plain Python")
def test_skill_distributions():
    env = fastenvs.make("gtb", 4000, seed=0, fixed_four=False, gather_skill="lognormal")
    env.reset()
    s = env.state.agents.skill.ravel()
    assert np.mean(s) == pytest.approx(1 / 3, rel=0.05)  # Lomax(4)
    assert np.quantile(s, 0.5) == pytest.approx(2**0.25 - 1, rel=0.05)
    np.testing.assert_allclose(env.state.agents.pay.ravel(), np.minimum(3, 2 * s + 1) * 10)
    x = 2 * env.state.agents.bonus.ravel()
    assert np.quantile(x, 0.5) == pytest.approx(np.exp(-2.022), rel=0.05)
    assert np.quantile(x, 0.841) == pytest.approx(np.exp(-2.022 + 0.938), rel=0.07)
    places = env.state.agents.loc.reshape(-1, 2)
    count = np.zeros((15, 15), int)
    np.add.at(count, tuple(places.T), 1)
    assert not count[env.options.cells == "@"].any()
    assert count[env.options.cells != "@"].min() > 20


def test_maps():
    counts = {"pure_mixed_15": (23, 12, 21), "pure_mixed_25": (43, 45, 37), "pure_mixed_40": (27, 36, 0)}
    for name, (wood, stone, water) in counts.items():
        cells = Options(map=name).cells
        assert [(cells == s).sum() for s in "WS@"] == [wood, stone, water]


def test_maps_from_text_and_file(tmp_path):
    text = "W S;@  ;"
    (tmp_path / "room.txt").write_text(text)
    for source in (text, tmp_path / "room.txt", str(tmp_path / "room.txt"), "W S\n@  \n", "W S\r\n@  ", "W S;\n@  ;\n"):
        assert Options(map=source, n_agents=2, fixed_four=False).cells.tolist() == [["W", " ", "S"], ["@", " ", " "]]


def test_own_entries_read_one_and_others_are_numbered():
    env = scene([(0, 0), (0, 1)], units=[[1, 1], [1, 1]], view_radius=2)
    act(env, BUILD, BUILD)
    act(env, DOWN, NOTHING)
    view = env.obs["agents"]["map"][0]
    assert view.shape == (2, 5, 5, 9)
    assert view[0, 2, 2, AGENT] == 1
    assert view[0, 1, 3, AGENT] == 3
    assert view[0, 1, 2, OWNER] == 1
    assert view[0, 1, 3, OWNER] == 3
    assert view[1, 2, 2, [AGENT, OWNER]].tolist() == [1, 1]
    assert view[1, 2, 1, OWNER] == 2
    assert not view[0, 0].any()  # beyond the edge
    assert view[0, 1:, 2:, 8].all()
    assert channel_first(view).shape == (2, 9, 5, 5)
    designer = env.obs["designer"]["map"][0]
    assert designer[0, 0, OWNER] == 2
    assert designer[1, 0, AGENT] == 2


def test_full_view_and_blind_planner():
    env = scene([(0, 0), (0, 1)], units=[[1, 1], [0, 0]], full_view=True)
    act(env, BUILD, NOTHING)
    view = env.obs["agents"]["map"][0]
    assert view.shape == (2, 4, 4, 8)
    assert view[0, 0, 0].tolist() == [0, 0, 1, 0, 0, 0, 1, 1]
    assert view[1, 0, 0].tolist() == [0, 0, 1, 0, 0, 0, 2, 2]
    assert env.obs["agents"]["flat"].shape == (1, 2, 10 * 11 + 7 + 2 + 13)
    assert env.obs["designer"]["agents"].shape == (1, 2, 3)
    blind = scene([(0, 0), (0, 1)], planner_sees_map=False)
    assert "map" not in blind.obs["designer"]
    assert blind.obs["designer"]["agents"].shape == (1, 2, 6)


def test_designer_observations_on_decision_steps_only():
    both = [fastenvs.make("gtb", 3, seed=0, designer_obs=mode) for mode in ("always", "decision")]
    rng = np.random.default_rng(0)
    observations = [env.reset()[0] for env in both]
    for t in range(120):
        if both[0].state.taxes.position[0] == 1:
            for name in ("map", "flat", "agents", "mask"):
                np.testing.assert_array_equal(observations[0]["designer"][name], observations[1]["designer"][name])
        actions = legal_actions(rng, observations[0]["agents"]["mask"])
        observations = [env.step(actions)[0] for env in both]
        assert t % 10 != 4 or (both[0].obs["designer"]["flat"] != both[1].obs["designer"]["flat"]).any()


def test_the_designers_map_is_read_only():
    env = fastenvs.make("gtb", 1)
    env.reset()
    with pytest.raises(ValueError, match="read-only"):
        env.obs["designer"]["map"][0, 0, 0, 0] = 1


def test_unscaled_observations():
    raw, scaled = (fastenvs.make("gtb", 1, seed=0, scale_obs=s) for s in (False, True))
    for env in (raw, scaled):
        env.reset()
        env.step(np.zeros((1, 4), int))
    a, b = raw.obs["agents"]["flat"][0, 0], scaled.obs["agents"]["flat"][0, 0]
    assert a[130] == 1
    assert b[130] == np.float32(0.01)
    assert a[131] == 10
    assert b[131] == np.float32(0.1)


def test_upstream_preset_runs():
    env = fastenvs.make("gtb", 2, preset="upstream", n_agents=5, seed=0)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(60 if not jit.PURE_PYTHON else 3):
        obs, *_ = env.step(legal_actions(rng, obs["agents"]["mask"]))
    assert env.options.orders_each == 50
    check_world(env)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"colour": 1}, TypeError, "unknown GTB option: colour"),
        ({"preset": "mine"}, ValueError, "no GTB preset"),
        ({"map": "nowhere"}, ValueError, "no map is called"),
        ({"map": "W;WW"}, ValueError, "rectangle"),
        ({"map": "@@;@ ", "fixed_four": False}, ValueError, "do not fit"),
        ({"map": "@  ;   ;   "}, ValueError, "water"),
        ({"n_agents": 1}, ValueError, "n_agents"),
        ({"n_agents": 300, "map": "pure_mixed_40", "fixed_four": False}, ValueError, "at most 253"),
        ({"build_skill": "none"}, ValueError, "fixed_four"),
        ({"map": "  ;  ;  ;  "}, ValueError, "square"),
        ({"tax_mode": "magic"}, ValueError, "tax_mode"),
        ({"tax_mode": "fixed"}, ValueError, "fixed_rates"),
        ({"tax_mode": "fixed", "fixed_rates": (0.5,)}, ValueError, "fixed_rates"),
        ({"fixed_rates": (0.5,) * 7}, ValueError, "fixed_rates"),
        ({"tax_mode": "us_federal", "brackets": "log"}, ValueError, "us_federal"),
        ({"regen_prob": 1.5}, ValueError, "regen_prob"),
        ({"start_coin": float("nan")}, ValueError, "start_coin"),
        ({"steps": 0}, ValueError, "steps"),
        ({"max_orders": 70_000, "steps": 70_000}, ValueError, "open orders"),
        ({"anneal": (1.0,)}, ValueError, "anneal"),
        ({"rate_min": 0.5, "rate_max": 0.2}, ValueError, "rates"),
        ({"build_skill_cap": float("nan")}, ValueError, "build_skill_cap"),
        ({"order_labor": float("inf")}, ValueError, "order_labor"),
        ({"utility_eta": 1.5}, ValueError, "utility_eta"),
        ({"rate_step": float("nan")}, ValueError, "rate_step"),
        ({"saez_elasticity": -1.0}, ValueError, "saez_elasticity"),
        ({"usd_scale": float("nan")}, ValueError, "usd_scale"),
        ({"full_view": "no"}, TypeError, "full_view"),
        ({"energy_cost": "x"}, ValueError, "energy_cost"),
        ({"anneal": "ab"}, ValueError, "anneal"),
        ({"map": None}, TypeError, "map"),
    ],
)
def test_impossible_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        fastenvs.make("gtb", 2, **options)


def test_bad_rates_and_choices_are_refused():
    env = fastenvs.make("gtb", 2, seed=0)
    env.reset()
    rates = np.full((2, 7), 0.5)
    env.set_rates(rates)
    rates[1, 3] = 1.5
    with pytest.raises(ValueError, match=r"rates at \(1, 3\) is 1.5"):
        env.set_rates(rates)
    with pytest.raises(ValueError, match="shape"):
        env.set_rates(np.zeros(6))
    with pytest.raises(ValueError, match="planner"):
        env.choose_rates(np.zeros((2, 7), int))
    assert (env.state.taxes.live == 0.5).all()
    planner = fastenvs.make("gtb", 2, seed=0, tax_mode="planner")
    planner.reset()
    with pytest.raises(ValueError, match="external"):
        planner.set_rates(np.zeros(7))
    with pytest.raises(ValueError, match="choice 22 for bracket 0 in environment 0"):
        planner.choose_rates(np.full((2, 7), 22))
    with pytest.raises(ValueError, match="permutation"):
        planner.step(np.zeros((2, 4), int), draws={"gather_order": np.zeros((2, 4))})
    with pytest.raises(ValueError, match="water"):
        planner.reset(options={"draws": {"location": np.full((2, 4, 2), 7)}})
    with pytest.raises(ValueError, match="one cell"):
        planner.reset(options={"draws": {"location": np.zeros((2, 4, 2), int)}})
    for count in (-5, 2.7, 2**40):
        with pytest.raises(ValueError, match="episodes"):
            planner.reset_completed(count)


def test_the_order_limit_is_that_of_the_options_in_short_episodes_too():
    """An agent that has ordered in every step of three may still order, being below its five."""
    env = scene([(0, 0), (3, 3)], steps=3, max_orders=5)
    for _ in range(3):
        obs = act(env, bid(0, 1), NOTHING)[0]
    assert obs["agents"]["mask"][0, 0, bid(0, 1)] == 1
    env = scene([(0, 0), (3, 3)], steps=3, max_orders=2)
    for _ in range(3):
        obs = act(env, bid(0, 1), NOTHING)[0]
    assert obs["agents"]["mask"][0, 0, bid(0, 1)] == 0


def test_order_masks_table():
    table = observe.order_masks(3)
    assert table[2 * 2 + 1].tolist() == [1, 1, 0, 1, 1, 1]
    assert not table[0].any()


# ---------------------------------------------------------------------- found in review


def test_planner_rates_have_the_published_spacing():
    options = {"tax_mode": "planner", "rate_max": 1.0, "rate_step": 0.05}
    assert len(Options(**options).rate_choices) == 21
    assert Options(**options).rate_choices[3] == 0.15000000000000002
    assert len(Options(**{**options, "rate_min": 0.1}).rate_choices) == 18


def test_brackets_with_equal_integer_parts_share_a_metric():
    env = fastenvs.make(
        "gtb", 1, seed=0, brackets="log", n_brackets=8, top_cutoff=50.0, tax_period=1, steps=20, autoreset="disabled"
    )
    env.reset()
    env.set_rates(np.linspace(0.1, 0.8, 8))
    for _ in range(5):
        env.step(np.zeros((1, 4), int))
    metrics_now = env.metrics(0)
    assert metrics_now["PeriodicTax/avg_bracket_rate/000"] == pytest.approx(0.15)  # 0 and 0.78
    assert metrics_now["PeriodicTax/bracket_occupancy/000"] == 1


def test_long_lives_and_many_orders():
    env = fastenvs.make("gtb", 1, seed=0, max_orders=None, order_life=1000, steps=400, start_coin=0.0)
    obs, _ = env.reset()
    for _ in range(300):
        obs, *_ = env.step(np.full((1, 4), bid(0, 0)))
    assert env.state.books.n_open[0, 0].tolist() == [300] * 4
    assert obs["agents"]["flat"][0, 0, 2 + 22] == 900  # others' bids for stone at price 0
    check_books(env.state, 1, 4)
    none = fastenvs.make("gtb", 1, seed=0, max_orders=None, order_life=0)
    none.reset()
    none.step(np.full((1, 4), bid(0, 0)))
    assert not none.state.books.n_open.any()


def test_a_snapshot_holds_the_planners_choice():
    env = fastenvs.make("gtb", 1, seed=0, tax_mode="planner")
    env.reset()
    env.choose_rates(np.full((1, 7), 21))
    saved = env.snapshot()
    env.step(np.zeros((1, 4), int))
    env.restore(saved)
    env.step(np.zeros((1, 4), int))
    assert (env.state.taxes.live == 1).all()


def test_the_designers_last_observation_is_complete():
    both = [fastenvs.make("gtb", 2, seed=0, steps=7, designer_obs=mode) for mode in ("always", "decision")]
    for env in both:
        env.reset()
        for _ in range(7):
            info = env.step(np.zeros((2, 4), int))[4]
        assert info["_final_obs"].all()
    for name in ("flat", "agents", "map"):
        np.testing.assert_array_equal(*(env._final_obs["designer"][name] for env in both))
