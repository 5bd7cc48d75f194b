"""Taxes as an incentive: in the graph against the economy, and the designer's paths against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from economy import captured, designer, task, trainer

from fastenvs import metrics
from fastenvs import tax as simulator
from metagrad import optim
from metagrad.agents.base import Credit, grad_of
from metagrad.agents.critics import Critic, DesignerCritic, LinearCritic
from metagrad.metagradient import LastSteps, Response, Sensitivity
from metagrad.networks import MLP
from metagrad.optim import Adam
from metagrad.tasks.gtb import OwnedByRank
from metagrad.tasks.taxes import TaxSchedule, Welfare, tax_math
from metagrad.tasks.taxes.schedule import BASE, records
from metagrad.tasks.taxes.tax_math import RULES, Rules, TaxRecord, transfers, utility
from metagrad.trainer import Trainer

NETWORK = TaxSchedule(MLP((9,)), baseline=False)


def relative_error(got, want):
    one, other = (torch.cat([x[n].flatten() for n in want]) for x in (got, want))
    assert other.norm() > 0
    return float((one - other).norm() / other.norm())


def watched(made, note):
    """Play an episode of every copy, calling ``note(env, info)`` after each step."""
    record, game = made.task.record, made.task

    def noted(env, info):
        note(env, info)
        return record(env, info)

    object.__setattr__(game, "record", noted)
    batch = made.collect(made.state.agents)
    object.__delattr__(game, "record")
    return batch


# ---------------------------------------------------------------------- the graph and the economy


OWN = {
    "as in the paper": {},
    "own brackets": {"brackets": (0, 1.7, 4, 9), "skills": (0.4, 1, 2, 5), "start_coin": 3.0},
    "by need": {"brackets": (0, 5), "rebate": "need", "utility_eta": 1.0},
    "by rank": {"brackets": (0,), "rebate": "rank", "utility_eta": 0.6, "productivity_only_weight": 0.3},
    "inverse income": {"planner_objective": "inverse_income_coin", "build_skill_shape": 2.0},
}
RULES_OF = {name: Rules.of(task(**options)) for name, options in OWN.items()}


@pytest.mark.parametrize("name", OWN)
def test_taxes_and_utility_are_those_of_the_economy(name):
    """Replica reward = environment reward: with escrow, poor agents, negative incomes, taxes limited by coin."""
    made, negative = trainer(designer(NETWORK), game=OWN[name]), False
    made.state.designer.eta["b1"] += 2.0  # high rates
    for _ in range(5):
        seen, worth = [], []

        def note(env, info, seen=seen, worth=worth):
            worth.append([x.copy() for x in (env.state.clock.utility, env.state.events.labor)])
            if info["tax_day"][0]:
                seen.append([info[n].copy() for n in ("tax_paid", "tax_rebate")])

        batch = watched(made, note)
        (record,) = records(batch)
        moved = transfers(record.rates, record.income, record.coin, record.rules)
        rates = made.designer.incentive.rates(made.state.designer.eta, batch)
        torch.testing.assert_close(rates[0], record.rates, rtol=0, atol=1e-12)
        for p, (paid, rebate) in enumerate(seen):
            np.testing.assert_allclose(moved[p].numpy(), rebate.reshape(len(paid), -1) - paid, rtol=0, atol=1e-9)
            assert (record.wealth[record.day[p]] - (record.coin[p] + moved[p]) > -1e-9).all()
        # On every step, from coin and labor: what the agents earned is the change of their utility.
        after = utility(record.wealth, record.rules) - 0.21 * torch.from_numpy(np.stack([labor for _, labor in worth]))
        np.testing.assert_allclose(after.numpy(), np.stack([u for u, _ in worth]), rtol=0, atol=1e-9)
        first = utility(torch.full_like(after[:1], record.rules.start_coin), record.rules)
        torch.testing.assert_close(batch.rewards[0], after - torch.cat([first, after[:-1]]), rtol=0, atol=1e-6)
        negative |= bool((record.income < 0).any())
    assert negative


@pytest.mark.parametrize("rules", RULES_OF.values(), ids=list(RULES_OF))
def test_transfers_equal_the_library(rules):
    rng, b = np.random.default_rng(0), len(rules.cutoffs)
    income, coin, rates = rng.uniform(-20, 400, (6, 3, 4)), rng.uniform(0, 100, (6, 3, 4)), rng.random((6, 3, b))
    income[1, :, 2] = income[1, :, 0]  # the same income, the same share
    moved = transfers(*map(torch.from_numpy, (rates, income, coin)), rules)
    for p in range(6):
        want = simulator.collect_and_redistribute(income[p], coin[p], rates[p], rules.cutoffs, rules.rebate)
        np.testing.assert_allclose(moved[p].numpy(), want.coin - coin[p], atol=1e-9)
    leaf = torch.from_numpy(rates).requires_grad_()
    found = tax_math.transfer_derivatives(leaf.detach(), *map(torch.from_numpy, (income, coin)), rules)
    for i in range(4):
        moved = transfers(leaf, *map(torch.from_numpy, (income, coin)), rules)[..., i].sum()
        torch.testing.assert_close(torch.autograd.grad(moved, leaf)[0], found[..., i, :])


def test_equality_is_that_of_the_economy():
    x = torch.rand(5, 4, dtype=torch.float64) * 100
    np.testing.assert_allclose(tax_math.equality(x).numpy(), metrics.equality(x.numpy()), rtol=1e-12)
    np.testing.assert_allclose(tax_math.welfare(x, RULES).numpy(), metrics.welfare(x.numpy()), rtol=1e-12)


@pytest.mark.parametrize("name", OWN)
def test_rewards_of_the_designer_are_welfare_or_its_change(name):
    """The changes add up to welfare at the end less that at the beginning, and are the economy's own."""
    made = trainer(designer(), game=OWN[name])
    batch = made.collect(made.state.agents)
    change, level = Welfare("delta")(batch), Welfare("level")(batch)
    torch.testing.assert_close(change.sum(1), level[:, -1] - RULES_OF[name].start_coin)
    torch.testing.assert_close(change, batch.designer_rewards, rtol=0, atol=1e-9)


def test_what_is_recorded_of_a_step():
    made, seen = trainer(designer()), []

    def note(env, info):
        agents = env.state.agents
        present = agents.coin + agents.escrow_coin - env.state.taxes.last_coin
        seen.append((present, agents.coin.copy(), agents.units + agents.escrow_units, agents.pay.copy()))

    (record,) = records(watched(made, note))
    for t, (income, coin, goods, _) in enumerate(seen[:-1]):  # what was so after a step is so before the next
        for got, want in zip((record.present_income, record.present_coin, record.goods), (income, coin, goods),
                             strict=True):  # fmt: skip
            np.testing.assert_array_equal(got[t + 1].numpy(), want)
    assert not record.present_income[0].any()
    assert (record.present_coin[0] == 10).all()
    assert record.day.tolist() == [4, 9, 14, 19]
    pay = seen[0][3]
    np.testing.assert_array_equal(np.take_along_axis(pay, record.rank.argsort(1).numpy(), 1), np.sort(pay, 1))


# ---------------------------------------------------------------------- derivatives


def record_of(made):
    return records(made.collect(made.state.agents))[0]


def test_derivatives_of_rewards():
    record = record_of(trainer(designer()))
    rates = record.rates.clone().requires_grad_()
    change = tax_math.reward_change(rates, record.rates, record, 0.01)[record.day]
    found = tax_math.reward_derivatives(record, 0.01)
    for i in range(4):
        (got,) = torch.autograd.grad(change[..., i].sum(), rates, retain_graph=True)
        torch.testing.assert_close(got, found[..., i, :])


def test_the_gradient_is_supported_by_taxed_income():
    """The rewards of a period depend on its rates if and only if somebody has positive income and coin to pay from."""
    record = record_of(trainer(designer()))
    record.income[1] = -record.income[1].abs()  # nobody owes anything in the second period
    record.income[2, 0] = torch.tensor([5.0, 1.0, -3.0, 0.0])
    record.coin[2, 0] = 20.0
    rates = record.rates.clone().requires_grad_()
    change = tax_math.reward_change(rates, record.rates, record, 0.01)
    weights = torch.linspace(1, 2, change.numel(), dtype=change.dtype).view_as(change)
    (got,) = torch.autograd.grad((change * weights).sum(), rates)
    assert not got[1].any()
    assert got[2, 0, 0] != 0
    assert not got[2, 0, 1:].any()  # all incomes lie in the first bracket


@pytest.mark.parametrize("carry", [False, True])
def test_a_batch_that_is_paid_anew(carry):
    """Payments are the change of the rewards against the rates that were in force, and count from there."""
    made = trainer(designer(TaxSchedule(baseline=False, carry=carry)))
    incentive, eta = made.designer.incentive, made.state.designer.eta
    batch = made.collect(made.state.agents)
    assert not incentive.payments(eta, batch).any()
    other = {"logits": eta["logits"] + 1.0}
    assert not incentive.payments(other, batch).any()
    assert not incentive.repay(eta, batch).payments.any()
    paid = incentive.repay(other, batch)
    want = tax_math.reward_change(
        incentive.rates(other, batch)[0], records(batch)[0].rates, records(batch)[0], 0.01, carry
    )  # fmt: skip
    assert want.abs().max() > 0.01
    torch.testing.assert_close(paid.payments[0], want)
    torch.testing.assert_close(incentive.payments(other, paid), paid.payments)
    assert not incentive.payments(eta, paid).any()
    days = batch.extra["tax_day"][0, :, 0].bool()
    assert bool(paid.payments[:, ~days].any()) == carry


def test_proximal_epochs():
    """The second epoch: its gradient is that of the clipped objective at the step the agents would take now."""
    made = trainer(designer(epochs=3, clip=1e-3), 3)
    state, t = captured(made)
    incentive, agents, scale = made.designer.incentive, made.agents, 1 / 3
    moved = {"logits": state.eta["logits"] + 0.1}
    got = made.designer._terms(state._replace(eta=moved), agents, t, made.designer._model(state, agents, t, None)[1], 1)
    weights = made.designer.weights(state, t.fresh)
    (step,) = t.steps
    acted = agents.log_prob(t.after, t.fresh)

    def loss(eta):
        rewards = step.batch.rewards + incentive.payments(eta, incentive.repay(moved, step.batch))
        leaves = {n: p.detach().requires_grad_() for n, p in step.forward.params.items()}
        out = agents.loss(leaves, step.batch, agents.advantages(step.batch, rewards), step.entropy)
        grads = dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), create_graph=True), strict=True))
        policy = agents.optimiser.step(leaves, grads, step.opt)[0]
        log_p = torch.log_softmax(
            agents.policy(policy, t.fresh.obs).masked_fill(~t.fresh.obs["mask"], -1e300), -1
        )  # fmt: skip
        chosen = log_p.gather(-1, agents.rows.of(t.fresh.actions)[..., None])[..., 0]
        ratio = (agents.rows.back(chosen, t.fresh.actions) - acted).sum(-1).exp()
        gain = torch.minimum(ratio * weights[..., 0], ratio.clamp(1 - 1e-3, 1 + 1e-3) * weights[..., 0])
        return -gain.sum() * scale

    assert relative_error(got["chain"], grad_of(loss, moved)) < 1e-9
    plain = made.designer._terms(state, agents, t, made.designer._model(state, agents, t, None)[1], 0)
    assert relative_error(got["chain"], plain["chain"]) > 1e-6


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_baseline_is_unbiased(minibatches):
    """Frozen agents, one schedule: with the baseline the mean of the gradient stays what it is."""
    made = trainer(designer(), 6, k=8, normalise=False, minibatches=minibatches)
    state, t = captured(made)
    agents, plain, better = made.agents, [], []
    weights = made.designer.weights(state, t.fresh) / -8
    adjoint = agents.score_vjp(t.after, t.fresh, weights)
    for _ in range(40):
        batch = made.collect(t.after)
        _, steps = agents.update(t.after, batch, made.rng)
        for found, baseline in ((plain, False), (better, True)):
            incentive = replace(made.designer.incentive, baseline=baseline)
            # Any rows of the episodes: as if all were learned from with the adjoint at hand.
            step = steps[0]._replace(grads=t.steps[-1].grads, opt=t.steps[-1].opt)
            part = LastSteps(1).gradient(None, state.eta, agents, incentive, [step], adjoint, t.fresh)
            found.append(part["logits"][0, :2].numpy())
    plain, better = np.array(plain), np.array(better)
    error = (plain - better).std(0, ddof=1) / len(plain) ** 0.5
    assert (np.abs((plain - better).mean(0)) < 4 * error).all()
    assert (plain != better).any()


def test_credit_of_the_baseline_is_that_of_common_rates():
    """Summed over periods and episodes it is the derivative that common rates lose."""
    record, generator = record_of(trainer(designer())), torch.Generator().manual_seed(0)
    score = torch.randn(20, 3, 4, generator=generator, dtype=torch.float64)
    weight = tax_math.delays(record, 0.9)[0]
    ahead = torch.einsum("tp,pkib->tkib", weight, tax_math.reward_derivatives(record, 0.01))
    left = tax_math.advantage_derivatives(record, 0.9, 0.01, True)
    credit = tax_math.baseline_credit(score, record, 0.9, 0.01)
    torch.testing.assert_close(credit.sum((0, 1)), torch.einsum("tki,tkib->b", score, ahead - left))


# ---------------------------------------------------------------------- the direct path


@pytest.mark.parametrize(("kind", "gamma"), [("level", 0.99), ("delta", 1.0)])
@pytest.mark.parametrize("name", OWN)
def test_the_direct_path_against_the_simulator(name, kind, gamma):
    """The same actions and draws under slightly changed rates: the designer's own return moves as predicted."""
    game, rules, rng = task(**OWN[name]), RULES_OF[name], np.random.default_rng(0)
    env = game.make(3, [5])
    env.reset(seed=5)
    rates = rng.uniform(0.2, 0.7, (4, 3, len(rules.cutoffs)))
    saved, obs, actions = env.snapshot(), env.obs, []
    for _ in range(20):
        mask = obs["agents"]["mask"]
        chosen = (mask * rng.random(mask.shape)).argmax(-1)
        actions.append(np.where(mask[..., 1] > 0, 1, chosen))
        obs, *_ = env.step(actions[-1])

    def episode(schedule):
        env.restore(saved)
        kept = {}
        for t, chosen in enumerate(actions):
            if t % 5 == 0:
                env.set_rates(schedule[t // 5])
            for name, x in game.record(env, env.step(chosen)[4]).items():
                kept.setdefault(name, np.zeros((20, *x.shape), x.dtype))[t] = x
        return TaxRecord.of({name: torch.from_numpy(x) for name, x in kept.items()}, rules)

    record = episode(rates)
    assert (record.income > 1).any()
    leaf = torch.from_numpy(rates).requires_grad_()
    (want,) = torch.autograd.grad(tax_math.welfare_return(leaf, record, kind, gamma), leaf)

    def value(schedule):
        r = tax_math.welfare_rewards(episode(schedule).wealth, kind, rules)
        return float((r * gamma ** torch.arange(20)[:, None]).sum(0).mean())

    direction, h = rng.normal(size=rates.shape), 1e-6
    got = (value(rates + h * direction) - value(rates - h * direction)) / (2 * h)
    assert got != 0
    assert got == pytest.approx(float((want.numpy() * direction).sum()), rel=1e-6)


def test_the_direct_path_learns_to_tax():
    """Directly, more redistribution is more equality: rates rise."""
    made = trainer(designer(chain=0.0, direct=1.0), 40)
    assert made.state.designer.eta["logits"][0, 0].sigmoid() > 0.24


# ---------------------------------------------------------------------- the response, carried along


def test_the_response_is_the_derivative_of_adams_steps():
    """Without forgetting, and with gradients that do not depend on the parameters: against finite differences."""
    adam, generator = optim.Adam(0.1), torch.Generator().manual_seed(0)
    theta = {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64)}
    slopes = torch.randn(5, 2, 3, 2, generator=generator, dtype=torch.float64)  # step, lever
    second = [{"w": torch.rand(3, 2, generator=generator, dtype=torch.float64) + 1} for _ in range(5)]
    adjoint = {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64)}

    def end(levers):
        params, m = theta, {"w": torch.zeros(3, 2, dtype=torch.float64)}
        for t in range(5):
            grads = {"w": (levers[:, None, None] * slopes[t]).sum(0)}
            state = optim.AdamState(m, second[t], t)
            v = {"w": adam.beta2 * second[t]["w"]}  # the second moment is held: as if the gradient added nothing
            m = {"w": torch.lerp(m["w"], grads["w"], 1 - adam.beta1)}
            scale, root = adam._corrections(state.t + 1)
            params = {"w": params["w"] - scale * m["w"] / (root * v["w"].sqrt() + adam.eps)}
        return float((params["w"] * adjoint["w"]).sum())

    zero = {"w": torch.zeros(3, 2, dtype=torch.float64)}
    d_params, moment = ({"w": torch.zeros(2, 3, 2, dtype=torch.float64)} for _ in range(2))
    for t in range(5):
        state = optim.AdamState(zero, second[t], t)
        d_params, moment = adam.pushforward(zero, state, d_params, moment, {"w": slopes[t]})
    got, h = torch.einsum("bij,ij->b", d_params["w"], adjoint["w"]), 1e-6
    for b in range(2):
        e = torch.eye(2, dtype=torch.float64)[b]
        assert float(got[b]) == pytest.approx((end(h * e) - end(-h * e)) / (2 * h), rel=1e-6)


def test_several_steps_with_one_tangent():
    adam, generator = optim.Adam(0.1), torch.Generator().manual_seed(0)
    p, m, g = ({"w": torch.randn(2, 3, generator=generator, dtype=torch.float64)} for _ in range(3))
    state = optim.AdamState(m, {"w": torch.rand(3, generator=generator, dtype=torch.float64)}, 10**6)
    grads = {"w": torch.zeros(3, dtype=torch.float64)}
    want = (p, m)
    for _ in range(4):
        want = adam.pushforward(grads, state, *want, g)
    for a, b in zip(adam.pushforward(grads, state, p, m, g, 4), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("seeds", [(1,), (1, 5)])
def test_the_response_of_one_step_is_the_chain_of_one_step(seeds):
    """From no response, one step of all episodes gives the chain's gradient; a second moment held fixed apart."""
    incentive = TaxSchedule(baseline=True)
    made = trainer(designer(incentive), 8, k=4, normalise=False, seeds=seeds)
    state, t = captured(made)
    agents = replace(made.agents, optimiser=replace(made.agents.optimiser, stop_second_moment=True))
    adjoint = agents.score_vjp(t.after, t.fresh, made.designer.weights(state, t.fresh) / -4)
    want = LastSteps(1).gradient(None, state.eta, agents, incentive, t.steps, adjoint, t.fresh)
    path = Sensitivity(stride=1)
    response = path.advance(path.init(t.before, incentive, made.task.interface), state.eta, agents, incentive, t.steps)
    got = path.gradient(response, state.eta, agents, incentive, t.steps, adjoint, t.fresh)
    assert relative_error(got, want) < 1e-9


def test_the_response_time_grows_with_the_episodes():
    made = trainer(designer(TaxSchedule(), path=Sensitivity(15.0)), 3, k=4)
    state, t = captured(made)

    def moved(path, steps):
        carried = state.path._replace(steps=steps)
        return path.advance(carried, state.eta, made.agents, made.designer.incentive, t.steps).params["w0"]

    growing = Sensitivity(15.0, growth=0.5)
    assert moved(growing, 16).equal(moved(Sensitivity(32.0), 16))
    assert moved(growing, 6).equal(moved(Sensitivity(15.0), 6))
    assert not moved(growing, 16).equal(moved(Sensitivity(15.0), 16))


def test_a_measured_response_time_is_what_the_curvature_says():
    """One more step with the measured time is that with this number; a network's time is its own."""
    made = trainer(designer(TaxSchedule(), path=Sensitivity("measured", stride=1)), 3, k=4, seeds=(1, 2))
    state, t = captured(made)
    first, step = state.path, t.steps[-1]
    assert first.steps == 3
    touched = made.designer.incentive.advantage_slopes(step.batch, made.agents.decay).flatten(1, -2).any(1)  # [S, B]

    def after(path, seed):
        found = path.advance(first, state.eta, made.agents, made.designer.incentive, t.steps)
        return found, {name: p[:, seed] for name, p in found.params.items()}

    measured, _ = after(made.designer.path, 0)
    levers = [int(one.nonzero()[3 % int(one.sum()), 0]) for one in touched]
    lever = {name: torch.stack([p[j, g] for g, j in enumerate(levers)]) for name, p in first.params.items()}
    bend = made.agents.stiffness(step, lever, torch.arange(20 * 4 * 4))
    length = made.agents.optimiser.squared_length(step.grads, step.opt, lever)
    torch.testing.assert_close(measured.fading, torch.lerp(first.fading, torch.stack([bend, length]), 1 / 3))
    for seed, fade in enumerate(measured.fading[0] / measured.fading[1]):
        want = after(Sensitivity(float(4 / fade.clamp(1e-12, 1)), stride=1), seed)[1]
        for name, p in after(made.designer.path, seed)[1].items():
            torch.testing.assert_close(p, want[name])


def test_a_measured_response_time_does_not_depend_on_other_seeds():
    """Though other populations may have incomes in other brackets."""
    both, alone = (trainer(designer(TaxSchedule(), path=Sensitivity("measured"), direct=1.0), 6, k=2, seeds=seeds,
                           game={"steps": 30}) for seeds in ((1, 2, 3), (3,)))  # fmt: skip
    assert both.state.designer.path.fading[:, 2:].equal(alone.state.designer.path.fading)
    assert both.state.designer.eta["logits"][2:].equal(alone.state.designer.eta["logits"])


@pytest.mark.parametrize("entropy", [0.0, 0.2])
def test_stiffness_is_the_second_derivative_of_the_expected_loss(entropy):
    """Against automatic differentiation of the loss with the probability ratio; logits are linear without layers."""
    made = trainer(
        designer(TaxSchedule(), path=Sensitivity()), 1, k=4, network=MLP((), head_scale=0.1), entropy=entropy
    )
    _, t = captured(made)
    agents, step, batch = made.agents, t.steps[-1], t.steps[-1].batch
    moved = {name: torch.randn_like(p) for name, p in step.forward.params.items()}
    ratio = replace(agents, epochs=2)  # so that the loss has the probability ratio, which is 1

    def along(x):
        return ratio.loss(
            {n: p + x * moved[n] for n, p in step.forward.params.items()}, batch, step.advantages, entropy
        )

    zero = torch.zeros((), dtype=torch.float64)
    want = torch.func.grad(torch.func.grad(along))(zero)
    got = agents.stiffness(step, moved, torch.arange(20 * 4 * 4))
    torch.testing.assert_close(got.sum(), want)


@pytest.mark.parametrize("options", [{"minibatches": 2}, {"incentive": TaxSchedule(MLP((9,)))}, {}], ids=str)
def test_the_carried_response_trains(options):
    options = dict(options)
    incentive = options.pop("incentive", TaxSchedule())
    before = designer(incentive, path=Sensitivity(15.0), direct=1.0)
    made = trainer(before, 3, k=4, **options)
    assert all(p.isfinite().all() for p in made.state.designer.eta.values())
    assert made.iterate(diagnose=True)["chain_norm"] > 0
    assert made.state.designer.path.params["w0"][0].abs().max() > 0


def test_the_carried_response_bears_an_economy_without_income():
    made = trainer(designer(TaxSchedule(), path=Sensitivity(15.0)), 1)
    state, batch = made.state.designer, made.collect(made.state.agents)
    idle = {n: x * 0 if "income" in n else x for n, x in batch.extra.items()}
    idle["wealth"] = batch.extra["wealth"].clone()
    _, steps = made.agents.update(made.state.agents, batch.replace(extra=idle), made.rng)
    path = made.designer.path.advance(state.path, state.eta, made.agents, made.designer.incentive, steps)
    assert isinstance(path, Response)
    assert all(torch.isfinite(p).all() for p in (*path.params.values(), *path.moment.values()))


# ---------------------------------------------------------------------- the designer


def test_without_cross_validation_the_data_are_the_old_agents():
    made = trainer(designer(validation="before"), 2, pipeline=False)
    assert made.state.pending is None
    assert made.state.episodes == 2 * 2 * 3
    _, t = captured(made)
    torch.testing.assert_close(made.agents.log_prob(t.before, t.fresh), t.fresh.log_prob, rtol=1e-9, atol=1e-9)
    assert (made.agents.log_prob(t.after, t.fresh.replace(memo={})) - t.fresh.log_prob).abs().max() > 1e-6


def test_paths_add_up_with_their_weights():
    made = trainer(designer(TaxSchedule(), chain=2.0, direct=3.0, optimiser=optim.SGD(1.0)), 3)
    state, t = captured(made)
    model = made.designer._model(state, made.agents, t, None)[1]
    terms = made.designer._terms(state, made.agents, t, model, 0)
    want = state.eta["logits"] - 2 * terms["chain"]["logits"] - 3 * terms["direct"]["logits"]
    torch.testing.assert_close(made.state.designer.eta["logits"], want)
    assert terms["direct"]["logits"].abs().max() > 0


def test_rates_are_capped_in_graph_and_economy_alike():
    made = trainer(designer(), 1, game={"anneal": "paper"})
    batch = made.collect(made.state.agents)
    (record,) = records(batch)
    assert record.cap.max() < 0.2
    torch.testing.assert_close(made.designer.incentive.rates(made.state.designer.eta, batch)[0], record.rates)
    assert record.rates.max() <= record.cap.max()


def test_a_schedule_starts_with_its_rate_by_bracket():
    made = trainer(designer(TaxSchedule(start=(0.1, 0.6))), game={"brackets": (0, 5)})
    (record,) = records(made.collect(made.state.agents))
    torch.testing.assert_close(record.rates, torch.tensor([0.1, 0.6], dtype=torch.float64).expand(4, 3, 2))


def test_a_schedule_starts_with_its_rate():
    (record,) = records(trainer(designer(TaxSchedule(start=0.3))).collect(trainer(designer()).state.agents))
    torch.testing.assert_close(record.rates, torch.full_like(record.rates, 0.3))


def test_a_network_starts_around_its_rate_by_bracket():
    network = MLP((9,), head_scale=1e-9)
    made = trainer(designer(TaxSchedule(network, start=(0.1, 0.6), baseline=False)), game={"brackets": (0, 5)})
    (record,) = records(made.collect(made.state.agents))
    torch.testing.assert_close(record.rates, torch.tensor([0.1, 0.6], dtype=torch.float64).expand(4, 3, 2))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TaxSchedule(start=0.0), "start"), (lambda: TaxSchedule(start=1.0), "start"),
        (lambda: trainer(designer(TaxSchedule(start=(0.2, 0.3)))), "start must be one rate"),
        (lambda: trainer(designer(TaxSchedule(MLP((9,)), start=(0.2, 0.3)))), "start must be one rate"),
        (lambda: trainer(designer(), game={"planner_objective": "inverse_income_utility"}), "planner_objective"),
        (lambda: TaxSchedule(coin_floor=-1.0), "coin_floor"), (lambda: Sensitivity(response_time=0.0), "response_time"),
        (lambda: Sensitivity(stride=0), "stride"), (lambda: Sensitivity(growth=-1.0), "growth"),
        (lambda: Welfare("profit"), "kind"),
        (lambda: trainer(designer(), 1, game={"tax_mode": "us_federal"}), "external"),
        (lambda: trainer(designer(), 1, game={"tax_period": 30}), "tax day"),
        (lambda: trainer(designer(TaxSchedule()), 2, k=1), "baseline"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_designers_are_refused(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_agreement_of_halves_is_noted_and_changes_nothing():
    settings = {"direct": 1.0, "compare_halves": True}
    plain, noting = (trainer(designer(**settings), k=4) for _ in range(2))
    for _ in range(3):
        assert plain.iterate() == {}
        notes = noting.iterate(diagnose=True)
    for path in ("chain", "direct"):
        assert -1 <= notes[f"{path}_cosine"] <= 1
        assert notes[f"{path}_cosine"] != 0
        assert notes[f"{path}_norm"] > 0
    assert torch.equal(plain.state.designer.eta["logits"], noting.state.designer.eta["logits"])


def test_the_designers_critic_judges_the_chain():
    critic = DesignerCritic(Critic(MLP((9,)), Adam(0.01), target_tau=0.1), learn_lambda=0.98)
    made = trainer(designer(advantages="gae", critic=critic, gae_lambda=0.98), 3, k=1)
    state, t = captured(made)
    moved = made.designer._critic_update(state.critic, t.batches)
    values = critic.values(moved, t.fresh)[0, :, 0]
    rewards, want, gain = Welfare()(t.fresh)[0, :, 0], [], 0.0
    for step in reversed(range(20)):
        gain = rewards[step] + values[step + 1] - values[step] + 0.98 * gain
        want.append(gain)
    got = made.designer.weights(state._replace(critic=moved), t.fresh)
    torch.testing.assert_close(got[0, :, 0, 0], torch.stack(want[::-1]))
    assert made.state.designer.critic.opt.t == 4


def test_linear_values_are_a_regression_on_what_agents_own():
    """Returns linear in wealth and stone, apart from a mean by step: found again on other episodes."""
    made, critic = trainer(designer(), 2, k=12), LinearCritic(OwnedByRank())
    steps, state = torch.arange(20, dtype=torch.float64)[:, None], {}

    def returns(batch):
        x, (record,) = OwnedByRank()(batch)[0], records(batch)
        stone = record.goods[..., 0].gather(-1, record.rank.argsort(1).expand_as(record.wealth))
        torch.testing.assert_close(x[..., 8:12], stone)
        return 0.3 * x[..., 3] - 2 * stone[..., 1] + (steps - 7) ** 2

    for _ in range(12):
        batch = made.collect(made.state.agents)
        given = returns(batch)
        state = critic.update(state, batch, (given - torch.cat([given[1:], torch.zeros_like(given[:1])]))[None], 1.0)
    batch = made.collect(made.state.agents)
    values, want = critic.values(state, batch)[0], returns(batch)
    assert not values[-1].any()
    apart = [(x - x.mean(1, keepdim=True)).flatten() for x in (values[:-1], want)]
    assert float(torch.corrcoef(torch.stack(apart))[0, 1]) > 0.99
    assert (values[:-1].mean(1) - want.mean(1)).abs().max() < 2


@pytest.mark.parametrize(
    "options",
    [{"agent_model": "surrogate"}, {"agent_model": "replayed"}, {"repay": True}, {"epochs": 2}, {"cost": 1.0}],
    ids=str,
)  # fmt: skip
def test_what_other_games_have(options):
    """Surrogates, replayed steps, payment by the current rates, proximal epochs: all move the rates."""
    made = trainer(designer(TaxSchedule(), **options), 4, k=4)
    logits = made.state.designer.eta["logits"]
    assert logits.isfinite().all()
    assert (logits != logits[0, -1]).any()


def test_taxes_cost_nothing():
    """What is collected is given back."""
    made = trainer(designer())
    batch = made.collect(made.state.agents)
    assert not made.designer.incentive.cost(made.state.designer.eta, batch, 1.0).any()
    (record,) = records(batch)
    moved = transfers(record.rates, record.income, record.coin, record.rules)
    torch.testing.assert_close(moved.sum(-1), torch.zeros(4, 3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_several_steps_of_the_agents():
    """M = 2, shared networks: with and without the baseline."""
    for baseline in (False, True):
        made = Trainer(
            task(), trainer().agents, designer(TaxSchedule(baseline=baseline), path=LastSteps(0)), seeds=(1,), k=3,
            agent_batches=2, dtype=torch.float64,
        )  # fmt: skip
        made.train(3)
        assert (made.state.designer.eta["logits"][0] != made.state.designer.eta["logits"][0, -1]).any()


def test_credit_is_carried_to_the_schedule():
    """A credit on one agent's reward of a tax day moves the rates by what they do to it."""
    made = trainer(designer())
    batch, eta, incentive = made.collect(made.state.agents), made.state.designer.eta, made.designer.incentive
    credit = torch.zeros_like(batch.rewards)
    credit[0, 4, 1, 2] = 1.0
    got = incentive.vjp(eta, batch, Credit(credit, credit, 0.9))["logits"][0]
    share = torch.sigmoid(eta["logits"][0])
    want = tax_math.reward_derivatives(records(batch)[0], 0.01)[0, 1, 2] * share * (1 - share)
    torch.testing.assert_close(got, want)
    assert want.abs().max() > 0
    base = torch.zeros_like(batch.extra["rates"])
    base[:, batch.extra["tax_day"][0, :, 0]] = incentive.rates(eta, batch)
    pinned = batch.replace(extra={**batch.extra, BASE: base})
    torch.testing.assert_close(incentive.vjp(eta, pinned, Credit(credit, credit, 0.9))["logits"][0], want)


# ---------------------------------------------------------------------- schedules that nobody learns


def test_saez_in_evaluations_is_that_of_training():
    """Every evaluation sees the memory of training, seed by seed, and training does not see evaluations."""
    game = task(tax_mode="saez", steps=60)
    source, own = game.make(4, [1, 2]), game.make(6, [3, 4])
    rng = np.random.default_rng(0)
    for env in (source, own):
        env.reset()
    source.state.saez.pairs[:] = rng.random(source.state.saez.pairs.shape)
    source.state.saez.running_mean[:] = rng.random((4, 7))
    before = [x.copy() for x in source.state.saez]
    game.prepare(own, 100, source, 2)
    np.testing.assert_array_equal(own.state.saez.running_mean, source.state.saez.running_mean[[0, 1, 0, 2, 3, 2]])
    np.testing.assert_array_equal(own.state.saez.pairs, source.state.saez.pairs[[0, 1, 0, 2, 3, 2]])
    assert (own.state.clock.completed == 100).all()
    for mine, was in zip(source.state.saez, before, strict=True):
        np.testing.assert_array_equal(mine, was)


# ---------------------------------------------------------------------- one designer for several populations


def test_a_pooled_designer_is_one_for_all_populations():
    """Populations differ, their taxes do not, and follow the mean of the gradients."""
    pooled = trainer(replace(designer(), pooled=True), 0, seeds=(1, 2), k=4)
    apart = trainer(designer(), 0, seeds=(1, 2), k=4)
    for made in (pooled, apart):
        made.iterate(diagnose=True)
    eta, own = (made.state.designer.eta["logits"] for made in (pooled, apart))
    assert (eta[0] == eta[1]).all()
    assert (own[0] != own[1]).any()
    policy = pooled.state.agents.policy
    assert any((p[0] != p[1]).any() for p in policy.values())
    moments = pooled.state.designer.opt.m["logits"], apart.state.designer.opt.m["logits"]
    torch.testing.assert_close(moments[0][0], moments[1].mean(0))
