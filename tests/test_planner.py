"""The tax planner: what it may choose, what it is paid, and its learning step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metagrad.legacy.config import DesignerReward, Economy, EconomyConfig, Planner, Workers
from metagrad.legacy.economy import gradient
from metagrad.legacy.planner import PlannedWorkforce, period_rewards
from metagrad.legacy.taxation import designer_rewards


def workforce(**options):
    config = EconomyConfig(
        method="dual-rl", seeds=(1,), k=3, dtype="float64", game=Economy(steps=20, tax_period=5),
        agents=Workers(hidden=(12,), filters=2), planner=Planner(**{"hidden": (9,), "filters": 2, **options}),
    )  # fmt: skip
    return PlannedWorkforce(config, 1)


def played(workers):
    player = workers.observer(workers.choices)
    workers.play_training(player)
    return player.decisions()


def test_choices_are_allowed_and_come_into_force():
    workers = workforce()
    decisions = played(workers)
    assert decisions.day.tolist() == [0, 5, 10, 15]
    assert decisions.mask.shape == (12, 7, 22)
    assert decisions.mask.gather(2, decisions.choices[..., None]).all()
    last = decisions.choices.view(4, 3, 7)[-1].numpy()
    live, chosen = workers.env.state.taxes.live, last > 0
    np.testing.assert_allclose(live[chosen], (last[chosen] - 1) * 0.05)
    assert np.unique(last).size > 5


def test_annealing_caps_the_choices():
    workers = workforce()
    config = replace(workers.config, game=replace(workers.config.game, anneal=True))
    decisions = played(PlannedWorkforce(config, 1))
    assert decisions.choices.max() <= 3  # rates up to 0.1


def test_rewards_of_periods():
    rewards = torch.arange(10, dtype=torch.float64)[:, None]
    got = period_rewards(rewards, torch.tensor([0, 4]), 0.5)
    want = [sum(0.5**i * i for i in range(4)), sum(0.5**i * (4 + i) for i in range(6))]
    np.testing.assert_allclose(got[:, 0], want)


def test_undiscounted_changes_of_welfare_add_up():
    workers = workforce()
    decisions = played(workers)
    rewards = period_rewards(designer_rewards(decisions.wealth, 10.0, "delta"), decisions.day, 1.0)
    events = workers.env.state.events
    want = events.equality * events.productivity / 4 - 10
    np.testing.assert_allclose(rewards.sum(0).numpy(), want, atol=1e-9)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_first_step_is_the_policy_gradient(epochs):
    workers = workforce(epochs=epochs, normalise=False, entropy=0.0, gae_lambda=1.0)
    workers.config = replace(workers.config, reward=DesignerReward("level", 1.0))
    decisions, before = played(workers), dict(workers.planner)
    taken = []
    adam = workers.planner_adam
    workers.planner_adam = type("Recorder", (), {"step": lambda _, *args: taken.append(args[1]) or adam.step(*args)})()
    with torch.no_grad():
        rewards = period_rewards(designer_rewards(decisions.wealth, 10.0, "level"), decisions.day, 1.0)
        from metagrad.legacy.convnet import apply_trunk

        values = apply_trunk(workers.judge, decisions.maps, decisions.vectors).view_as(rewards)
        weight = (rewards.flip(0).cumsum(0).flip(0) - values).flatten()
    workers.plan_from(decisions)
    assert len(taken) == epochs
    want = gradient(lambda p: -(workers._log_prob(p, decisions)[0] * weight).mean(), before)
    for name, p in want.items():
        torch.testing.assert_close(taken[0][name], p)
