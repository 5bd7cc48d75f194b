"""The whole economy beside the naive reference, over random play with draws handed in."""

from collections import Counter

import numpy as np
import pytest
from golden import used_draws
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from naive.economy import NaiveEconomy, rank_cells

import fastenvs
from fastenvs import jit
from fastenvs.grid import GTB_MAPS
from fastenvs.gtb.state import FIRST_AGENT, HOUSE, OWNER
from fastenvs.market import ASK, BID, decode

EXAMPLES, STEPS = (4, 15) if jit.PURE_PYTHON else (8, 30)  # for each tax mode
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SINGLE = {"rtol": 1e-6, "atol": 1e-6}  # single precision


# ---------------------------------------------------------------------- draws and play


def random_map(rng, height, width, land=()):
    """Text of a map with much on it, and ``land`` free of water."""
    symbols = rng.choice(list(" WS@"), (height, width), p=[0.4, 0.25, 0.25, 0.1])
    for cell in land:
        symbols[cell] = " "
    return ";".join("".join(row) for row in symbols)


def start_draws(rng, reference, copies):
    """Draws of a reset, a row for each copy."""
    o, n = reference.o, reference.n
    land = np.argwhere(np.array(reference.water) == 0)
    draws = {
        "location": np.stack([rng.permutation(land)[:n] for _ in range(copies)]),
        "build_skill": np.ones((copies, n)) if o.build_skill == "none" else rng.pareto(2, (copies, n)),
        "bonus": np.zeros((copies, n)) if o.gather_skill == "none" else rng.random((copies, n)),
    }
    if o.fixed_four:
        draws["agent_order"] = np.stack([rng.permutation(n) for _ in range(copies)])
    return draws


def step_draws(rng, reference, copies):
    """Draws of a step; a unit may come up off a source or on a full one, where it is lost."""
    share = rng.choice([0.02, 0.3])
    return {
        "gather_order": np.stack([rng.permutation(reference.n) for _ in range(copies)]),
        "collect": rng.random((copies, reference.n)),
        "regrow": (rng.random((copies, 2, reference.height, reference.width)) < share).astype(np.uint8),
    }


def play(rng, mask, n_prices):
    """Random actions, legal for the most part; builds and moves come as often as orders."""
    taste = np.concatenate([[0.5, 8.0], np.full(4 * n_prices, 4 / n_prices), np.full(4, 2.0)])
    actions = (mask * taste * rng.exponential(size=mask.shape)).argmax(-1)
    return np.where(rng.random(actions.shape) < 0.1, rng.integers(0, mask.shape[-1], actions.shape), actions)


def row(draws, e):
    return {name: values[e].tolist() for name, values in draws.items()}


def tell_rates(rng, env, references):
    """Now and then new external rates; the planner's choices for the next step, by copy."""
    copies, b = len(references), len(references[0].cutoffs)
    choices = [None] * copies
    if env.options.tax_mode == "external" and rng.random() < 0.3:
        rates = rng.random((copies, b)) * rng.integers(0, 2, (copies, 1))
        env.set_rates(rates)
        for reference, new in zip(references, rates.tolist(), strict=True):
            reference.external = new
    if env.options.tax_mode == "planner" and rng.random() < 0.7:
        choices = rng.integers(0, 1 + len(references[0].choices), (copies, b))
        env.choose_rates(choices)
    return choices


def compare_play(options, *, copies=2, steps=STEPS, seed=0, autoreset="disabled", early=0.0):
    """Play ``copies`` of an economy and as many references; ``early`` is how often one is reset before its end.

    Returns totals of what happened.
    """
    rng, total = np.random.default_rng(seed), Counter()
    env = fastenvs.make("gtb", copies, seed=0, autoreset=autoreset, **options)
    text = options.get("map", GTB_MAPS["pure_mixed_15"].strip("\n").replace("\n", ";"))
    references = [NaiveEconomy(env.options, text) for _ in range(copies)]
    first = references[0]
    same(env.options.cutoffs, first.cutoffs, "cutoffs", "options")
    same(env.options.rate_choices, first.choices, "rate choices", "options")
    over, again = np.zeros(copies, bool), np.ones(copies, bool)
    for t in range(steps):
        where = f"step {t}"
        if again.any():
            starts = start_draws(rng, first, copies)
            obs, _ = env.reset(options={"reset_mask": again, "draws": used_draws(env, starts)})
            for e in np.flatnonzero(again):
                references[e].reset(**row(starts, e))
            over &= ~again
            compare_copies(env, obs, references, f"reset before {where}")
        choices = tell_rates(rng, env, references)
        actions = play(rng, obs["agents"]["mask"], first.n_prices)
        draws, starts = step_draws(rng, first, copies), start_draws(rng, first, copies)
        given_draws = draws if autoreset == "disabled" else draws | starts
        obs, rewards, terminated, truncated, info = env.step(actions, draws=used_draws(env, given_draws))
        assert not terminated.any()
        for e, reference in enumerate(references):
            if over[e]:  # "next_step": this call resets, and takes no action
                reference.reset(**row(starts, e))
                assert not rewards[e].any()
                assert not truncated[e]
                continue
            reference.step(actions[e].tolist(), **row(draws, e), planner_actions=choices[e])
            rewarded = np.any([*info["reward"][e], *reference.reward])
            if rewarded and abs(np.mean(reference.reward)) < 1e-9:  # zero but for rounding, which may count or not
                reference.positive_steps = int(env.state.clock.positive_steps[e])
            assert truncated[e] == reference.done, where
            same(rewards[e], reference.reward, "float32 rewards", where, SINGLE)
            compare_events(info, reference, e, where)
            total["episodes"] += reference.done
            total["built"] += sum(reference.built)
            total["gathered"] += sum(map(sum, reference.gathered))
            total["trades"] += len(reference.trades)
            total["paid"] += sum(reference.tax_paid) if reference.tax_day else 0
            if truncated[e] and autoreset == "same_step":
                compare_observations(info["final_obs"], reference, e, f"final, {where}")
                reference.reset(**row(starts, e))
        over = truncated & (autoreset != "same_step")
        compare_copies(env, obs, references, where)
        again = (~over & (rng.random(copies) < early)) | (over & (autoreset == "disabled"))
    return total


# ---------------------------------------------------------------------- comparisons


def compare_copies(env, obs, references, where):
    for e, reference in enumerate(references):
        compare_state(env, reference, e, where)
        compare_observations(obs, reference, e, where)


def same(got, want, name, where, close=CLOSE):
    """Integers exactly, others closely; numpy's own comparison is slow and only for the message."""
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype.kind in "iub" and want.dtype.kind in "iub":
        close = {"rtol": 0, "atol": 0}
    difference = np.abs(got.astype(np.float64) - want) if got.shape == want.shape else np.inf
    if not np.all(difference <= close["atol"] + close["rtol"] * np.abs(want)):
        np.testing.assert_allclose(got, want, **close, err_msg=f"{name}, {where}")
        raise AssertionError(f"{name}, {where}")


def compare_state(env, reference, e, where):
    world, agents, books, taxes, rates, _, clock, _ = env.state
    r, market, cells = reference, reference.market, world.cells[e]
    owner = np.full((r.height, r.width), -1)
    for cell, i in r.owner.items():
        owner[cell] = i
    pairs = {
        "units on cells": (np.moveaxis(cells[..., :2], -1, 0), r.lying),
        "houses": (cells[..., HOUSE], (owner >= 0).astype(int)),
        "owners": (cells[..., OWNER], np.where(owner < 0, 0, owner + FIRST_AGENT)),
        "location": (agents.loc[e], r.location),
        "coin": (agents.coin[e], r.coin),
        "units": (agents.units[e], r.units),
        "escrow_coin": (agents.escrow_coin[e], market.escrow_coin),
        "escrow_units": (agents.escrow_units[e], market.escrow_units),
        "labor": (agents.labor[e], r.labor),
        "pay": (agents.pay[e], r.pay),
        "skill": (agents.skill[e], r.skill),
        "bonus": (agents.bonus[e], r.bonus),
        "houses of agents": (agents.houses[e], [list(r.owner.values()).count(i) for i in range(r.n)]),
        "open orders": (books.n_open[e], [[market.count(g, i) for i in range(r.n)] for g in (0, 1)]),
        "price history": (books.history[e], [r.history(g) for g in (0, 1)]),
        "position": (taxes.position[e], r.position),
        "live rates": (taxes.live[e], r.live_rates()),
        "shown rates": (taxes.shown[e], r.shown),
        "rate indices": (taxes.choice[e], r.rate_index),
        "last coin": (taxes.last_coin[e], r.last_coin),
        "last income": (taxes.last_income[e], r.last_income),
        "last marginal rate": (taxes.last_marginal[e], r.last_marginal),
        "external rates": (rates.external[e], r.external),
        "cap": (rates.cap[e], r.cap),
        "time": (clock.time[e], r.time),
        "completed": (clock.completed[e], r.completed),
        "positive steps": (clock.positive_steps[e], r.positive_steps),
        "utility": (clock.utility[e], r.utility),
        "welfare": (clock.welfare[e], r.welfare),
        "productivity": (clock.productivity[e], r.productivity),
        "equality": (clock.equality[e], r.equality),
    }
    for name, (got, want) in pairs.items():
        same(got, want, name, where)
    for good in (0, 1):
        for side, orders in ((BID, market.bids[good]), (ASK, market.asks[good])):
            assert decode(books, e, good, side) == [tuple(order) for order in orders], where


def compare_events(info, reference, e, where):
    r = reference
    pairs = {
        "reward": r.reward,
        "designer_reward": r.planner_reward,
        "welfare": r.welfare,
        "productivity": r.productivity,
        "equality": r.equality,
        "built": r.built,
        "gathered": r.gathered,
        "n_trades": len(r.trades),
        "labor": r.labor,
        "units": r.units,
        "escrow_units": r.market.escrow_units,
        "tax_day": r.tax_day,
    }
    if r.tax_day:
        pairs |= {
            "tax_income": r.last_income,
            "tax_paid": r.tax_paid,
            "tax_rate": r.last_marginal,
            "tax_rebate": r.rebate,
            "coin": r.untaxed[0],
            "escrow_coin": r.untaxed[1],
        }
    for name, want in pairs.items():
        same(info[name][e], want, name, where)
    assert info["trades"][e, : len(r.trades)].tolist() == [list(trade) for trade in r.trades], where


def compare_observations(obs, reference, e, where):
    agents, designer, want = obs["agents"], obs["designer"], reference.obs
    same(agents["map"][e], want["map"], "map", where)
    same(agents["mask"][e], want["mask"], "mask", where)
    same(agents["flat"][e], want["flat"], "flat", where, SINGLE)
    same(designer["flat"][e], want["designer_flat"], "designer's flat", where, SINGLE)
    same(designer["agents"][e], want["designer_agents"], "designer's agents", where, SINGLE)
    same(designer["mask"][e], want["designer_mask"], "designer's mask", where)
    assert ("map" in designer) == (want["designer_map"] is not None)
    if "map" in designer:
        same(designer["map"][e], want["designer_map"], "designer's map", where)


# ---------------------------------------------------------------------- tests

#: What small, busy economies may be like. Coins and cutoffs are odd, so that rounding does not decide on which side of
#: a price or cutoff an amount lies.
RANGES = {
    "steps": range(3, 41),
    "start_coin": (0.0, 5.37219, 30.11713),
    "view_radius": range(5),
    "full_view": (False, True),
    "planner_sees_map": (True, False),
    "scale_obs": (True, False),
    "build_pay": (10.03172, 3.31417, 40.77193),
    "build_skill_cap": (3.0, 1.0),
    "build_labor": (10.0, 1.3),
    "max_price": range(1, 11),
    "order_labor": (0.25, -1.0),
    "order_life": range(9),
    "max_orders": (5, None, 1, 2),
    "move_labor": (1.0, 0.7),
    "collect_labor": (1.0, 0.3),
    "gather_skill": ("none", "pareto"),
    "utility_eta": (0.23, 0.0, 1.0),
    "energy_cost": (0.21, 0.02),
    "energy_warmup": (0.0, 7.0),
    "energy_warmup_by": ("episodes", "positive_steps"),
    "planner_objective": ("equality_x_productivity", "inverse_income_coin", "inverse_income_utility"),
    "productivity_only_weight": (0.0, 0.4),
    "tax_period": range(1, 8),
    "usd_scale": (1000.0, 7777.0),
    "n_brackets": range(2, 7),
    "top_cutoff": (31.70113, 97.31),
    "rate_max": (1.0, 0.6),
    "rate_step": (0.05, 0.3),
    "anneal": ((-1.0, 0.17), (0.0, 0.15), None),
    "rebate": ("equal", "need", "rank"),
    "build_skill_shape": (4.0, 1.7),
}


@st.composite
def economies(draw, tax_mode):
    o = {"tax_mode": tax_mode, **{name: draw(st.sampled_from(values)) for name, values in RANGES.items()}}
    n = o["n_agents"] = draw(st.integers(2, 6))
    o["brackets"] = (
        "us"
        if tax_mode == "us_federal"
        else draw(st.sampled_from(["us", "linear", "log", (0.0,), (0.0, 1.70311, 13.77791)]))
    )
    if tax_mode == "fixed":
        b = 7 if o["brackets"] == "us" else o["n_brackets"] if isinstance(o["brackets"], str) else len(o["brackets"])
        rates = st.lists(st.floats(0, 1), min_size=b, max_size=b).map(tuple)
        o["fixed_rates"] = draw(rates | st.lists(rates, min_size=1, max_size=4).map(tuple))
    height, width = draw(st.integers(4, 7)), draw(st.integers(4, 7))
    o["fixed_four"] = draw(st.booleans())
    if o["fixed_four"]:
        width = height
        land = rank_cells(n, height, width)
    else:
        o["build_skill"] = draw(st.sampled_from(["none", "pareto", "lognormal"]))
        land = [(k // 3, k % 3) for k in range(n)]
    if draw(st.booleans()):
        o["skills"] = tuple(draw(st.lists(st.sampled_from([0.0, 0.31, 1.07, 2.9]), min_size=n, max_size=n)))
    if draw(st.booleans()):
        o["places"] = tuple(reversed(land))
    o["map"] = random_map(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), height, width, land)
    return o


@pytest.mark.parametrize("tax_mode", ["external", "planner", "us_federal", "fixed", "none"])
@settings(
    deadline=None,
    max_examples=EXAMPLES,
    phases=[Phase.reuse, Phase.generate],  # to shrink an economy takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_economies(tax_mode, data):
    options = data.draw(economies(tax_mode))
    autoreset = data.draw(st.sampled_from(["disabled", "same_step", "next_step"]))
    compare_play(options, seed=data.draw(st.integers(0, 2**32 - 1)), autoreset=autoreset, early=0.03)


@pytest.mark.parametrize("tax_mode", ["external", "planner", "us_federal", "none"])
def test_the_papers_economy(tax_mode):
    total = compare_play({"tax_mode": tax_mode}, copies=1, steps=4 if jit.PURE_PYTHON else 105)
    if not jit.PURE_PYTHON:
        assert total["episodes"] == 1
        assert min(total["built"], total["gathered"], total["trades"]) > 0
        assert (total["paid"] > 0) == (tax_mode != "none")


@pytest.mark.parametrize("n_agents", [10, 31])
def test_a_crowd(n_agents):
    """From 30 agents on the Gini coefficient has another formula."""
    options = {
        "map": random_map(np.random.default_rng(0), 9, 12), "n_agents": n_agents, "fixed_four": False, "view_radius": 2,
        "start_coin": 20.3, "gather_skill": "lognormal", "tax_mode": "us_federal", "tax_period": 3,
    }  # fmt: skip
    compare_play(options, copies=1, steps=2 if jit.PURE_PYTHON else 20)
