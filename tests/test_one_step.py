"""The one-step economy: its rules against the naive reference, and its answer."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import one_step as naive

import fastenvs
from fastenvs import saez, tax
from fastenvs.one_step import Options, best_response, best_schedule, saez_schedule

NAME = "one_step_economy"
OBJECTIVES = ("equality_x_productivity", "inverse_income_coin", "inverse_income_utility")


@st.composite
def plays(draw):
    agents = draw(st.sampled_from([2, 3, 5, 31]))
    steps = draw(st.lists(st.floats(0.5, 200), max_size=5))
    options = {
        "n_agents": agents, "brackets": tuple(np.cumsum([0.0, *steps])), "announce": draw(st.booleans()),
        "draw_skills": draw(st.booleans()), "labor_levels": draw(st.integers(2, 12)), "agent_ids": draw(st.booleans()),
        "utility_eta": draw(st.sampled_from([0.0, 0.23, 0.9])), "planner_objective": draw(st.sampled_from(OBJECTIVES)),
        "labor_exponent": draw(st.sampled_from([1.0, 2.0, 3.5])),
    }  # fmt: skip
    return options, draw(st.integers(1, 4)), draw(st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=60)
@given(plays())
def test_matches_the_naive_reference(play):
    options, copies, seed = play
    rng = np.random.default_rng(seed)
    env = fastenvs.make(NAME, copies, seed=seed, **options)
    o, a, b = env.options, env.n_agents, len(env.options.brackets)
    obs, _ = env.reset()
    for _ in range(3):
        rates, skills = rng.random((copies, b)), env.state.skill.copy()
        env.set_rates(rates)
        if o.announce:
            assert obs["agents"]["mask"].sum() == copies * a
            obs, rewards, over, cut, info = env.step(rng.integers(0, env.n_actions, (copies, a)))
            for quiet in (rewards, info["designer_reward"], over, cut, info["tax_day"]):
                assert not quiet.any()
            assert obs["agents"]["mask"].all()
            np.testing.assert_array_equal(obs["designer"]["flat"][:, :b], rates.astype(np.float32))
            flat = obs["agents"]["flat"]
            np.testing.assert_array_equal(flat[..., 1 : 1 + b], np.repeat(rates[:, None], a, 1).astype(np.float32))
            np.testing.assert_allclose(flat[..., 0], np.log10(skills), rtol=1e-6, atol=1e-7)
        assert not o.agent_ids or (obs["agents"]["flat"][..., -a:] == np.eye(a)).all()
        assert obs["agents"]["flat"].shape[-1] == 1 + b * o.announce + a * o.agent_ids
        actions = rng.integers(0, env.n_actions, (copies, a))
        obs, rewards, over, cut, info = env.step(actions)
        assert over.all()
        assert not cut.any()
        assert info["tax_day"].all()
        nothing = naive.isoelastic(0.0, o.utility_eta)
        for e in range(copies):
            want = naive.outcome(o, skills[e].tolist(), rates[e].tolist(), actions[e].tolist())
            for mine, theirs in (("tax_income", "income"), ("tax_paid", "paid"), ("tax_rebate", "share"),
                                 ("utility", "utility"), ("welfare", "welfare")):  # fmt: skip
                np.testing.assert_allclose(info[mine][e], want[theirs], rtol=1e-9, atol=1e-9, err_msg=mine)
            np.testing.assert_allclose(rewards[e], np.array(want["utility"]) - nothing, rtol=1e-5, atol=1e-5)
            before = nothing if o.planner_objective == "inverse_income_utility" else 0.0
            assert info["designer_reward"][e] == pytest.approx(want["welfare"] - before, rel=1e-9, abs=1e-9)
            metrics = env.metrics(e)
            assert metrics["util/p"] == info["welfare"][e]
            assert metrics["social/productivity"] == pytest.approx(sum(want["coin"]), rel=1e-9)
            assert [metrics[f"endow/{i}/Coin"] for i in range(a)] == pytest.approx(want["coin"], rel=1e-9)
        last = info["final_obs"]["designer"]["flat"]
        np.testing.assert_allclose(last[:, b:], info["tax_income"] / 100, rtol=1e-6)
        assert not obs["designer"]["flat"][:, b:].any()
        np.testing.assert_allclose(info["tax_paid"].sum(1), a * info["tax_rebate"], rtol=1e-9, atol=1e-9)


def test_skills():
    """Those of quantiles, those that are given, and drawn ones, of the same distribution."""
    usual = Options(n_agents=4).usual_skills
    np.testing.assert_allclose(usual, [(1 - q) ** (-1 / 1.5) for q in (0.125, 0.375, 0.625, 0.875)])
    env = fastenvs.make(NAME, 1, n_agents=2, skills=(3, 1.5))
    env.reset()
    assert env.state.skill.tolist() == [[3, 1.5]]
    env = fastenvs.make(NAME, 4000, seed=0, n_agents=5, draw_skills=True)
    env.reset()
    drawn, many = np.sort(env.state.skill.ravel()), Options(n_agents=1000).usual_skills
    np.testing.assert_allclose(np.quantile(drawn, (0.1, 0.5, 0.9)), np.quantile(many, (0.1, 0.5, 0.9)), rtol=0.03)
    assert drawn[-1] == 10
    env.reset(options={"draws": {"skill": np.full((4000, 5), 2.5)}})
    assert (env.state.skill == 2.5).all()


def test_a_designer_that_chooses_among_rates():
    env = fastenvs.make(NAME, 2, tax_mode="planner", brackets=(0, 50), announce=True, autoreset="disabled")
    obs, _ = env.reset()
    assert obs["designer"]["mask"].shape == (2, 2, 22)
    np.testing.assert_allclose(env.options.rate_choices, np.arange(21) / 20)
    env.choose_rates([[5, 0], [21, 1]])
    obs, *_ = env.step(np.zeros((2, 4), int))
    np.testing.assert_allclose(obs["agents"]["flat"][:, 0, 1:], [[0.2, 0], [1, 0]], rtol=1e-6)
    *_, info = env.step(np.full((2, 4), 50))
    np.testing.assert_allclose(info["tax_paid"][:, 0], np.minimum(info["tax_income"][:, 0], 50) * [0.2, 1])


@pytest.mark.parametrize(("mode", "rates"), [("us_federal", tax.US_FEDERAL_RATES), ("none", (0,) * 7)])
def test_fixed_schedules(mode, rates):
    env, other = (
        fastenvs.make(NAME, 3, tax_mode=m, fixed_rates=r) for m, r in ((mode, None), ("fixed", rates))
    )  # fmt: skip
    env.reset()
    other.reset()
    actions = np.random.default_rng(0).integers(0, 101, (3, 4))
    np.testing.assert_array_equal(env.step(actions)[4]["tax_paid"], other.step(actions)[4]["tax_paid"])


def test_saez_learns_from_incomes():
    """Random rates until the memory is full, then the formula's."""
    env = fastenvs.make(NAME, 2, seed=0, tax_mode="saez", n_agents=100)
    env.reset()
    actions = np.full((2, 100), 40)
    paid = [env.step(actions)[4]["tax_paid"].sum(1) for _ in range(6)]
    assert (env.state.saez.appended == 600).all()
    assert len(np.unique(paid[:5])) == 10
    assert (env.state.saez.elasticity != saez.FIRST_ELASTICITY).all()
    assert (env.state.saez.running_mean > 0).any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"brackets": (10, 50)}, "brackets must rise strictly from 0"),
        ({"brackets": (0, 50, 50)}, "brackets must rise strictly from 0"),
        ({"skills": (1, 2, 3)}, "skills must be 4 positive numbers"),
        ({"skills": (1, 2, 3, -1)}, "skills must be 4 positive numbers"),
        ({"skills": (1, 2, 3, 4), "draw_skills": True}, "draw_skills"),
        ({"tax_mode": "us_federal", "brackets": (0, 50)}, "needs 7 brackets"),
        ({"tax_mode": "fixed"}, "fixed_rates go with"),
        ({"tax_mode": "fixed", "fixed_rates": (0.5,)}, "fixed_rates must be 7 numbers"),
        ({"labor_exponent": 0.5}, "labor_exponent"),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        fastenvs.make(NAME, 2, **options)


# ---------------------------------------------------------------------- the answer

SMALL = Options(brackets=(0, 40, 80), labor_levels=41)


@st.composite
def economies(draw):
    agents = draw(st.integers(2, 5))
    skills = tuple(draw(st.lists(st.floats(0.5, 8), min_size=agents, max_size=agents)))
    options = Options(
        n_agents=agents, skills=skills, brackets=(0, 20, 60, 150), labor_levels=draw(st.integers(3, 30)),
        utility_eta=draw(st.sampled_from([0.0, 0.23, 0.8])), planner_objective=draw(st.sampled_from(OBJECTIVES)),
    )  # fmt: skip
    return options, [draw(st.floats(0, 1)) for _ in range(4)]


@settings(deadline=None, max_examples=60)
@given(economies())
def test_nobody_gains_by_other_hours(economy):
    """Brute force in the game itself: every agent tries every level, the others as they are."""
    o, rates = economy
    found = best_response(o, rates)
    levels = np.abs(o.hours - found.hours[0][:, None]).argmin(1)
    n_levels = o.labor_levels
    tries = np.tile(levels, (o.n_agents, n_levels, 1))
    for i in range(o.n_agents):
        tries[i, :, i] = np.arange(n_levels)
    env = fastenvs.make(NAME, o.n_agents * n_levels, **dataclasses.asdict(o))
    env.reset()
    env.set_rates(rates)
    *_, info = env.step(tries.reshape(-1, o.n_agents))
    utility = info["utility"].reshape(o.n_agents, n_levels, o.n_agents)
    for i in range(o.n_agents):
        assert utility[i, levels[i], i] >= utility[i, :, i].max() - 1e-9
        assert found.utility[0, i] == pytest.approx(utility[i, levels[i], i], abs=1e-9)
    row = info["welfare"].reshape(o.n_agents, n_levels)[0, levels[0]]
    assert found.welfare[0] == pytest.approx(row, abs=1e-9)


@pytest.mark.parametrize("agents", [4, 100])
def test_what_is_computed_is_what_the_game_gives(agents):
    o = Options(n_agents=agents)
    schedules = np.random.default_rng(0).random((5, 7))
    found = best_response(o, schedules)
    env = fastenvs.make(NAME, 5, n_agents=agents)
    env.reset()
    env.set_rates(schedules)
    *_, info = env.step(np.rint(found.hours / o.hours[1]).astype(int))
    for mine, theirs in (("tax_income", "income"), ("utility", "utility"), ("welfare", "welfare"),
                         ("equality", "equality"), ("productivity", "productivity")):  # fmt: skip
        np.testing.assert_allclose(info[mine], getattr(found, theirs), rtol=1e-12)


def test_a_case_solved_by_hand():
    """Two agents, utility of coin linear, cost of labour quadratic, one rate t.

    An hour's work is worth ``s (1 - t / 2)``, since half of the tax comes back: hours are ``s (1 - t / 2) / (2 c)``,
    and incomes keep the ratio ``1 : 4`` of squared skills. With ``D = 3 / 5`` their difference over their sum, equality
    is ``1 - D (1 - t)``, so welfare goes with ``(1 - D + D t) (1 - t / 2)``, highest at ``t = 3 / 2 - 1 / (2 D)``.
    """
    o = Options(
        n_agents=2, skills=(1, 2), brackets=(0,), utility_eta=0, labor_exponent=2, labor_cost=0.02, labor_levels=5001
    )
    hours = best_response(o, [[0.0], [0.5]]).hours
    np.testing.assert_allclose(hours, [[25, 50], [18.75, 37.5]], atol=0.02)
    best = best_schedule(o, starts=2)
    assert best.rates[0] == pytest.approx(2 / 3, abs=0.005)
    by_hand = (1 - 0.6 + 0.4) * (1 - 1 / 3) * 125 / 2
    assert best.welfare == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_other_schedule_is_better(objective):
    o = Options(brackets=(0, 40, 80), labor_levels=41, planner_objective=objective)
    best, rng = best_schedule(o), np.random.default_rng(1)
    near = np.clip(best.rates + rng.normal(0, 0.05, (2000, 3)), 0, 1)
    others = np.concatenate([rng.random((3000, 3)), near])
    assert best_response(o, others).welfare.max() <= best.welfare + 1e-9
    assert best.welfare == best_response(o, best.rates).welfare[0]


def test_the_search_against_all_schedules_of_two_rates():
    o = Options(brackets=(0, 60), labor_levels=41)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 201)] * 2), -1).reshape(-1, 2)
    assert best_schedule(o).welfare >= best_response(o, grid).welfare.max()


def test_brackets_that_nobody_reaches():
    best = best_schedule(Options(brackets=(0, 60, 1000, 2000), labor_levels=21), starts=2)
    assert best.rates[1] == best.rates[2] == best.rates[3]


def test_saez_is_between_no_tax_and_the_best():
    free, found = best_response(SMALL, np.zeros(3)).welfare[0], saez_schedule(SMALL)
    assert free < found.welfare < best_schedule(SMALL).welfare
    assert ((found.rates >= 0) & (found.rates <= 1)).all()
    given = Options(brackets=(0, 40, 80), labor_levels=41, saez_elasticity=100.0)
    assert saez_schedule(given).rates.max() < found.rates.max()


def test_wrong_questions_are_refused():
    with pytest.raises(ValueError, match="rates"):
        best_response(SMALL, [0.5, 0.5])
    with pytest.raises(ValueError, match="must be in"):
        best_response(SMALL, [0.5, 0.5, 1.5])
    with pytest.raises(ValueError, match="draw_skills"):
        best_response(Options(draw_skills=True), np.zeros(7))
    with pytest.raises(ValueError, match="starts"):
        best_schedule(SMALL, starts=0)
