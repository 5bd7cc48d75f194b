"""Utility, welfare, rewards and the end of an episode (``docs/spec/gtb.md``, sections 11 and 14)."""

from typing import NamedTuple

import numpy as np

from fastenvs.blocks import copy_run
from fastenvs.gtb.state import MOST_COUNTED
from fastenvs.jit import inline, kernel, part
from fastenvs.metrics import gini, inverse_income_mean, isoelastic

OBJECTIVES = ("equality_x_productivity", "inverse_income_coin", "inverse_income_utility")


class RewardConfig(NamedTuple):
    """Options that the rewards depend on."""

    eta: float
    energy_cost: float
    energy_warmup: float
    warmup_by_steps: bool
    objective: int
    productivity_only: float
    steps: int


@inline
def evaluate(config, agents, clock, e):
    """Utilities and welfare of copy ``e`` as it stands."""
    n_agents = agents.coin.shape[1]
    weight = 1.0
    if config.energy_warmup > 0:
        progress = clock.positive_steps[e] if config.warmup_by_steps else clock.completed[e]
        weight = 1.0 - np.exp(-progress / config.energy_warmup)
    clock.energy_weight[e] = weight
    moved = False
    for i in range(n_agents):
        coin = agents.coin[e, i] + agents.escrow_coin[e, i]
        if coin != clock.coin_seen[e, i]:
            clock.coin_seen[e, i] = coin
            clock.coin_utility[e, i] = isoelastic(coin, config.eta)
            moved = True
        clock.utility[e, i] = clock.coin_utility[e, i] - config.energy_cost * weight * agents.labor[e, i]
    if moved:
        total = 0.0
        for i in range(n_agents):
            total += clock.coin_seen[e, i]
        clock.productivity[e] = total
        clock.equality[e] = 1.0 - gini(clock.coin_seen[e], clock.scratch[e])
    if config.objective == 0:
        share = config.productivity_only
        clock.welfare[e] = ((1.0 - share) * clock.equality[e] + share) * (clock.productivity[e] / n_agents)
    elif config.objective == 1:
        clock.welfare[e] = inverse_income_mean(clock.coin_seen[e], clock.coin_seen[e])
    else:
        clock.welfare[e] = inverse_income_mean(clock.coin_seen[e], clock.utility[e])


@part
def begin(config, agents, clock, mask, lo, hi):
    """Baseline of the first reward of an episode."""
    for e in range(lo, hi):
        if mask[e]:
            evaluate(config, agents, clock, e)


@inline
def record(agents, clock, events, e):
    """Write how copy ``e`` stands to the records of the step."""
    n_agents = agents.coin.shape[1]
    n_bytes = 8 * n_agents  # a float64, or 32 bits for each of two goods
    copy_run(events.labor, e * n_bytes, agents.labor, e * n_bytes, n_bytes)
    copy_run(events.units, e * n_bytes, agents.units, e * n_bytes, n_bytes)
    copy_run(events.escrow_units, e * n_bytes, agents.escrow_units, e * n_bytes, n_bytes)
    events.welfare[e] = clock.welfare[e]
    events.productivity[e] = clock.productivity[e]
    events.equality[e] = clock.equality[e]


@kernel
def restate(agents, clock, events, mask, lo, hi):
    """Records of a step, for copies that begin an episode in a call in which they do not step."""
    for e in range(lo, hi):
        if mask[e]:
            record(agents, clock, events, e)


@part
def reward(config, agents, clock, events, trades, n_trades, buffers, lo, hi):
    """Rewards as changes of utility and welfare, the end of an episode, and records of the step."""
    n_agents = agents.coin.shape[1]
    reward = events.reward
    for e in range(lo, hi):
        if not buffers.active[e]:
            buffers.designer_reward[e] = 0.0
            for i in range(n_agents):
                reward[e, i] = 0.0
                buffers.rewards[e, i] = 0.0
            continue
        welfare, total = clock.welfare[e], 0.0
        for i in range(n_agents):
            reward[e, i] = clock.utility[e, i]
        evaluate(config, agents, clock, e)
        for i in range(n_agents):
            reward[e, i] = clock.utility[e, i] - reward[e, i]
            buffers.rewards[e, i] = reward[e, i]
            total += reward[e, i]
        buffers.designer_reward[e] = clock.welfare[e] - welfare
        record(agents, clock, events, e)
        clock.positive_steps[e] = min(clock.positive_steps[e] + (total > 0), MOST_COUNTED)
        for k in range(n_trades[e]):
            good, buyer, seller, price = trades[e, k, 0], trades[e, k, 1], trades[e, k, 2], trades[e, k, 5]
            events.n_trades[e, seller, 0, good] += 1
            events.n_trades[e, buyer, 1, good] += 1
            events.trade_value[e, seller, 0, good] += price
            events.trade_value[e, buyer, 1, good] += price
        buffers.terminated[e] = False
        over = clock.time[e] >= config.steps
        buffers.truncated[e] = over
        clock.completed[e] = min(clock.completed[e] + over, MOST_COUNTED)
