"""The tax designer: its differentiable taxes against the economy, and its gradients against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import relative_error

from fastenvs import metrics
from fastenvs import tax as simulator
from metagrad import optim
from metagrad.config import Economy, EconomyConfig, TaxDesigner, Workers
from metagrad.economy import gradient, play
from metagrad.taxes import (
    TaxedWorkforce,
    TaxPlayer,
    designer_advantages,
    designer_rates,
    designer_rewards,
    direct_objective,
    equality,
    reward_change,
    transfers,
    utility,
)


def workforce(iterations=4, seed=1, **options):
    """A small one in float64, some steps on: the very first Adam step has no derivative."""
    designer = {k: options.pop(k) for k in list(options) if k in TaxDesigner.__dataclass_fields__}
    config = EconomyConfig(
        method="metagrad", seeds=(seed,), k=3, dtype="float64", game=Economy(steps=20, tax_period=5),
        agents=Workers(**{"hidden": (12,), "filters": 2, **options}),
        designer=TaxDesigner(**{"hidden": (9,), "filters": 2, "lr": 0.01, **designer}),
    )  # fmt: skip
    workers = TaxedWorkforce(config, seed)
    for _ in range(iterations):
        workers.iterate()
    return workers


class Witness(TaxPlayer):
    """Notes utilities as they are in the economy."""

    def __init__(self, *args):
        super().__init__(*args)
        self.utilities = []

    def after_step(self, env, info):
        super().after_step(env, info)
        if info["tax_day"][0]:
            self.utilities.append((env.state.clock.utility.copy(), info["tax_paid"].copy(), info["tax_rebate"].copy()))


def test_taxes_and_utility_are_those_of_the_economy():
    """Replica reward = environment reward: with escrow, poor agents, negative incomes, taxes limited by coin."""
    workers = workforce(0)
    workers.eta["f1_bias"] += 2.0  # high rates
    for _ in range(5):
        witness = Witness(workers.eta, workers.config)
        play(workers, workers.env, workers.streams, 0.0, witness)
        record = witness.record()
        moved = transfers(designer_rates(workers.eta, record), record, workers.cutoffs)
        torch.testing.assert_close(designer_rates(workers.eta, record), record.rates, rtol=0, atol=1e-12)
        for p, (want, paid, rebate) in enumerate(witness.utilities):
            np.testing.assert_allclose(moved[p].numpy(), rebate[:, None] - paid, rtol=0, atol=1e-9)
            worth = utility(record.coin[p] + record.escrow[p] + moved[p], record.labor[p], 0.23, 0.21)
            np.testing.assert_allclose(worth.numpy(), want, rtol=0, atol=1e-9)
    assert (record.income < 0).any()


def test_transfers_equal_the_library():
    rng = np.random.default_rng(0)
    workers = workforce(0)
    income, coin, rates = rng.uniform(-20, 400, (6, 3, 4)), rng.uniform(0, 100, (6, 3, 4)), rng.random((6, 3, 7))
    record = replace(_any_record(workers), income=torch.from_numpy(income), coin=torch.from_numpy(coin))
    moved = transfers(torch.from_numpy(rates), record, workers.cutoffs)
    for p in range(6):
        want = simulator.collect_and_redistribute(income[p], coin[p], rates[p], workers.env.options.cutoffs)
        np.testing.assert_allclose(moved[p].numpy(), want.coin - coin[p], atol=1e-9)


def _any_record(workers):
    player = TaxPlayer(workers.eta, workers.config)
    play(workers, workers.env, workers.streams, 0.0, player)
    return player.record()


def test_equality_is_that_of_the_economy():
    x = torch.rand(5, 4, dtype=torch.float64) * 100
    np.testing.assert_allclose(equality(x).numpy(), metrics.equality(x.numpy()), rtol=1e-12)
    np.testing.assert_allclose(designer_rewards(x, 0.01).numpy(), 0.04 * metrics.welfare(x.numpy()), rtol=1e-12)


def captured(workers):
    """Arguments of the designer's gradient in one more iteration."""
    calls = []
    original = workers.designer_gradient
    workers.designer_gradient = lambda *args: calls.append(args) or original(*args)
    workers.iterate()
    del workers.designer_gradient
    return calls[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"normalise": False}, {"entropy": 0.0, "entropy_end": 0.0}, {"epsilon_start": 0.3, "epsilon_end": 0.2}],
    ids=str,
)  # fmt: skip
def test_forward_equals_unrolled_equals_finite_differences(options):
    workers = workforce(**options)
    eta = dict(workers.eta)
    before, state, batch, record, grads, validation, outcome = captured(workers)
    workers.eta, workers.iteration = eta, workers.iteration - 1  # as it was: the entropy bonus decays
    forward = workers.chain_gradient(before, state, batch, record, grads, validation, outcome)
    unrolled = workers.unrolled_gradient(before, state, batch, record, validation, outcome)
    assert all(p.abs().max() > 0 for p in unrolled.values())
    assert relative_error(forward, unrolled) < 1e-9
    base, objective = designer_rates(eta, record), workers.objective(validation, outcome)

    def value(moved):
        weights = workers.taxed_weights(moved, batch, record, base)
        moved_grads = gradient(lambda p: workers.policy_loss(p, batch, weights, slice(None)), before)
        return float(objective(workers.policy_adam.step(before, moved_grads, state)[0]))

    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
        slope = sum(float((unrolled[n] * direction[n]).sum()) for n in eta)
        h = 1e-6
        up, down = (value(optim.add(eta, direction, s * h)) for s in (1, -1))
        assert (up - down) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_the_gradient_is_supported_by_taxed_income():
    """The rewards of a period depend on its rates if and only if somebody has positive income and coin to pay from."""
    workers = workforce(0)
    record = _any_record(workers)
    record.income[1] = -record.income[1].abs()  # nobody owes anything in the second period
    record.income[2, 0] = torch.tensor([5.0, 1.0, -3.0, 0.0])
    record.coin[2, 0] = 20.0
    rates = record.rates.clone().requires_grad_()
    change = reward_change(rates, record.rates, record, workers.cutoffs, 0.23, 0.01)
    weights = torch.linspace(1, 2, change.numel(), dtype=change.dtype).view_as(change)
    (slope,) = torch.autograd.grad((change * weights).sum(), rates)
    assert not slope[1].any()
    assert slope[2, 0, 0] != 0
    assert not slope[2, 0, 1:].any()  # all incomes lie in the first bracket


def test_the_direct_path_against_the_simulator():
    """The same actions and draws under slightly changed rates: the designer's own return moves as predicted."""
    workers = workforce(0)
    env, config = workers.env, workers.config
    env.reset(seed=5)
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.2, 0.7, (4, 3, 7))
    saved = env.snapshot()
    obs, actions = env.obs, []
    for _ in range(20):
        mask = obs["agents"]["mask"]
        chosen = (mask * rng.random(mask.shape)).argmax(-1)
        chosen = np.where(mask[..., 1] > 0, 1, chosen)
        actions.append(chosen)
        obs, *_ = env.step(chosen)

    class Fixed(TaxPlayer):
        def before_step(self, env):
            if env.state.taxes.position[0] == 1:
                super().before_step(env)
                env.set_rates(self.schedule[len(self._views) - 1])

    def episode(schedule):
        env.restore(saved)
        player = Fixed(workers.eta, config)
        player.schedule = schedule
        for chosen in actions:
            player.before_step(env)
            info = env.step(chosen)[4]
            player.after_step(env, info)
        return player.record()

    record = episode(rates)
    assert (record.income > 1).any()
    leaf = torch.from_numpy(rates).requires_grad_()
    (slope,) = torch.autograd.grad(direct_objective(leaf, record, workers.cutoffs, config.designer), leaf)

    def value(schedule):
        r = designer_rewards(episode(schedule).wealth, config.designer.scale)
        return float((r * config.designer.gamma ** torch.arange(20)[:, None]).sum(0).mean())

    direction, h = rng.normal(size=rates.shape), 1e-6
    got = (value(rates + h * direction) - value(rates - h * direction)) / (2 * h)
    assert got != 0
    assert got == pytest.approx(float((slope.numpy() * direction).sum()), rel=1e-5)


def test_the_designers_advantages_leave_one_out():
    workers = workforce(0)
    record = _any_record(workers)
    got = designer_advantages(record, workers.config.designer)
    assert got.shape == record.wealth.shape[:2]
    np.testing.assert_allclose(got.sum(1).numpy(), 0, atol=1e-9)


def test_paths_add_up_with_their_weights():
    chain, direct = workforce(chain=1.0), workforce(chain=0.0, direct=1.0)
    args = captured(chain)
    direct.eta, chain.eta = dict(chain.eta), dict(chain.eta)
    both = workforce(0, chain=2.0, direct=3.0)
    both.eta, both.policy, both.iteration = chain.eta, chain.policy, chain.iteration
    direct.policy, direct.iteration = chain.policy, chain.iteration
    total = both.designer_gradient(*args)
    one, two = chain.designer_gradient(*args), direct.designer_gradient(*args)
    want = optim.add(optim.add({n: 0 * p for n, p in one.items()}, one, 2.0), two, 3.0)
    assert relative_error(total, want) < 1e-12
    assert both.diagnostics["direct"] > 0


def test_the_direct_path_learns_to_tax():
    """Directly, more redistribution is more equality: rates rise from one half."""
    workers = workforce(40, chain=0.0, direct=1.0)
    record = workers.tau[1]
    assert record.rates[..., 0].mean() > 0.55
