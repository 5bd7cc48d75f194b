"""The tax designer: its differentiable taxes against the economy, and its gradients against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import relative_error

from fastenvs import metrics
from fastenvs import tax as simulator
from metagrad.legacy import optim, taxation
from metagrad.legacy.config import ConfigError, Economy, EconomyConfig, TaxDesigner, Workers
from metagrad.legacy.convnet import apply_trunk
from metagrad.legacy.economy import gradient, play, slope
from metagrad.legacy.judges import LinearJudge, features
from metagrad.legacy.response import Response
from metagrad.legacy.taxation import equality, reward_change, transfers, utility
from metagrad.legacy.taxes import TaxedWorkforce, TaxPlayer, designer_rates


def workforce(iterations=4, seed=1, k=3, **options):
    """A small one in float64, some steps on: the very first Adam step has no derivative."""
    agents = {"critic", "lr_critic", "gae_lambda"}  # the designer's own come as ``judge``
    designer = {k: options.pop(k) for k in list(options) if k in {*TaxDesigner.__dataclass_fields__} - agents}
    if "critic_of_designer" in options:
        designer["critic"] = options.pop("critic_of_designer")
    if options.pop("judge", False):
        designer |= {"critic": "network", "gae_lambda": 0.98, "lr_critic": 1e-2, "target_tau": 0.1}
    top = {name: options.pop(name) for name in ("method", "reward") if name in options}
    paper = {
        "policy": "network",
        "response": "step",
        "direct": 0.0,
        "baseline": False,
        "critic": "returns",
        "start": 0.5,
    }
    config = EconomyConfig(
        **{"method": "metagrad", **top}, seeds=(seed,), k=k, dtype="float64", game=Economy(steps=20, tax_period=5),
        agents=Workers(**{"hidden": (12,), "filters": 2, "lr": 0.03, **options}),
        designer=TaxDesigner(**{"hidden": (9,), "filters": 2, "lr": 0.01, "start": 0.5, **paper, **designer}),
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
            self.utilities.append(
                [a.copy() for a in (env.state.clock.utility, info["tax_paid"], info["tax_rebate"], info["labor"])]
            )


def test_taxes_and_utility_are_those_of_the_economy():
    """Replica reward = environment reward: with escrow, poor agents, negative incomes, taxes limited by coin."""
    workers = workforce(0)
    workers.eta["f1_bias"] += 2.0  # high rates
    for _ in range(5):
        witness = Witness(workers.eta, workers.config)
        play(workers, workers.env, workers.streams, 0.0, [witness])
        record = witness.record()
        moved = transfers(record.rates, record.income, record.coin, workers.rules.cutoffs)
        torch.testing.assert_close(designer_rates(workers.eta, record), record.rates, rtol=0, atol=1e-12)
        for p, (want, paid, rebate, labor) in enumerate(witness.utilities):
            np.testing.assert_allclose(moved[p].numpy(), rebate[:, None] - paid, rtol=0, atol=1e-9)
            escrow = record.wealth[record.day[p]] - (record.coin[p] + moved[p])
            assert (escrow > -1e-9).all()
            worth = utility(record.wealth[record.day[p]], torch.from_numpy(labor), 0.23, 0.21)
            np.testing.assert_allclose(worth.numpy(), want, rtol=0, atol=1e-9)
    assert (record.income < 0).any()


def test_transfers_equal_the_library():
    rng = np.random.default_rng(0)
    workers = workforce(0)
    income, coin, rates = rng.uniform(-20, 400, (6, 3, 4)), rng.uniform(0, 100, (6, 3, 4)), rng.random((6, 3, 7))
    cutoffs = workers.rules.cutoffs
    moved = transfers(*map(torch.from_numpy, (rates, income, coin)), cutoffs)
    for p in range(6):
        want = simulator.collect_and_redistribute(income[p], coin[p], rates[p], workers.env.options.cutoffs)
        np.testing.assert_allclose(moved[p].numpy(), want.coin - coin[p], atol=1e-9)
    leaf = torch.from_numpy(rates).requires_grad_()
    slopes = taxation.transfer_slopes(leaf.detach(), *map(torch.from_numpy, (income, coin)), cutoffs)
    for i in range(4):
        moved = transfers(leaf, *map(torch.from_numpy, (income, coin)), cutoffs)[..., i].sum()
        torch.testing.assert_close(torch.autograd.grad(moved, leaf)[0], slopes[..., i, :])


def _any_record(workers):
    player = TaxPlayer(workers.eta, workers.config)
    play(workers, workers.env, workers.streams, 0.0, [player])
    return player.record()


def test_equality_is_that_of_the_economy():
    x = torch.rand(5, 4, dtype=torch.float64) * 100
    np.testing.assert_allclose(equality(x).numpy(), metrics.equality(x.numpy()), rtol=1e-12)
    np.testing.assert_allclose(taxation.welfare(x).numpy(), metrics.welfare(x.numpy()), rtol=1e-12)


def test_designer_rewards_telescope():
    """The changes of welfare add up to welfare at the end less that at the beginning."""
    wealth = torch.rand(7, 3, 4, dtype=torch.float64) * 100
    got = taxation.designer_rewards(wealth, 10.0, "delta").sum(0)
    torch.testing.assert_close(got, taxation.designer_rewards(wealth, 10.0, "level")[-1] - 10.0)


def captured(workers):
    """Arguments of the designer's gradient in one more iteration."""
    calls = []
    original = workers.designer_gradient
    workers.designer_gradient = lambda *args: calls.append(args) or original(*args)
    workers.iterate()
    del workers.designer_gradient
    return calls[-1]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"normalise": False}, {"entropy": 0.0, "entropy_end": 0.0}, {"epsilon_start": 0.3, "epsilon_end": 0.2},
        {"carry": True}, {"policy": "schedule"}, {"minibatches": 2, "k": 4, "epochs": 1}, {"critic": "lstm"},
    ],
    ids=str,
)  # fmt: skip
def test_forward_equals_unrolled_equals_finite_differences(options):
    workers = workforce(**options)
    eta = dict(workers.eta)
    step, record, (validation, outcome), after, _ = captured(workers)
    workers.eta, workers.iteration = eta, workers.iteration - 1  # as it was: the entropy bonus decays
    objective = workers.objective(validation, outcome)
    forward = workers.chain_gradient(step, record, after.vjp(slope(objective, after.out)))
    unrolled = workers.unrolled_gradient(step, record, validation, outcome)
    assert all(p.abs().max() > 0 for p in unrolled.values())
    assert relative_error(forward, unrolled) < 1e-9
    base = designer_rates(eta, record)

    def value(moved):
        weights, batch = step.pick(workers.taxed_weights(moved, step.batch, record, base)), step.batch
        grads = gradient(
            lambda p: workers.policy_loss(apply_trunk(p, batch.maps, batch.flat), batch, weights), step.policy
        )
        policy = workers.policy_adam.step(step.policy, grads, step.state)[0]
        return float(objective(apply_trunk(policy, validation.maps, validation.flat)))

    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
        want = sum(float((unrolled[n] * direction[n]).sum()) for n in eta)
        h = 1e-6
        up, down = (value(optim.add(eta, direction, s * h)) for s in (1, -1))
        assert (up - down) / (2 * h) == pytest.approx(want, rel=1e-5)


def test_proximal_epochs():
    """The second epoch: its gradient is that of the clipped objective at the step the agents would take now."""
    workers = workforce(epochs=3, clip=1e-3)
    step, record, fresh, after, epoch = captured(workers)
    assert epoch == 2
    workers.iteration -= 1  # as it was
    got = workers.designer_gradient(step, record, fresh, after, 1)

    def loss(eta):
        weight = workers.taxed_weights(eta, step.batch, record, record.rates)
        leaves = {n: p.detach().requires_grad_() for n, p in step.policy.items()}
        out = workers.policy_loss(apply_trunk(leaves, step.batch.maps, step.batch.flat), step.batch, weight)
        grads = dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), create_graph=True), strict=True))
        policy = workers.policy_adam.step(leaves, grads, step.state)[0]
        return workers.proximal_objective(*fresh, after)(apply_trunk(policy, fresh[0].maps, fresh[0].flat))

    assert relative_error(got, gradient(loss, workers.eta)) < 1e-9
    # Where the ratio has left its range, the gradient differs from that of the plain objective.
    assert relative_error(got, workers.designer_gradient(step, record, fresh, after, 0)) > 1e-6


def test_the_baseline_is_unbiased():
    """Frozen agents, one schedule: with the baseline the mean of the gradient stays what it is."""
    workers = workforce(6, k=8, policy="schedule", normalise=False)
    step, _, fresh, after, _ = captured(workers)
    adjoint = after.vjp(slope(workers.objective(*fresh), after.out))
    plain, better = [], []
    for _ in range(40):
        batch, record = workers.collect()
        weight = workers.weights(batch, batch.rewards)
        mine = replace(step, batch=batch, weight=weight, evaluation=workers.evaluate(batch), policy=workers.policy)
        for results, on in ((plain, False), (better, True)):
            workers.config = replace(workers.config, designer=replace(workers.config.designer, baseline=on))
            results.append(workers.chain_gradient(mine, record, adjoint)["logits"][:2].numpy())
    plain, better = np.array(plain), np.array(better)
    error = (plain - better).std(0, ddof=1) / len(plain) ** 0.5
    assert (np.abs((plain - better).mean(0)) < 4 * error).all()
    assert (plain != better).any()


def test_credit_of_the_baseline_is_that_of_common_rates():
    """Summed over periods and episodes it is the derivative that common rates lose."""
    workers = workforce(0)
    record, generator = _any_record(workers), torch.Generator().manual_seed(0)
    score = torch.randn(20, 3, 4, generator=generator, dtype=torch.float64)
    weight = taxation.delays(record, 0.9)[0]
    ahead = torch.einsum("tp,pkib->tkib", weight, taxation.reward_slopes(record, workers.rules))
    left = taxation.advantage_slopes(record, workers.rules, 0.9, True)
    credit = taxation.baseline_credit(score, record, workers.rules, 0.9)
    want = torch.einsum("tki,tkib->b", score, ahead - left)
    torch.testing.assert_close(credit.sum((0, 1)), want)


def test_slopes_of_rewards_are_derivatives():
    workers = workforce(0)
    record = _any_record(workers)
    rates = record.rates.clone().requires_grad_()
    change = reward_change(rates, record.rates, record, workers.rules)[record.day]
    slopes = taxation.reward_slopes(record, workers.rules)
    for i in range(4):
        (got,) = torch.autograd.grad(change[..., i].sum(), rates, retain_graph=True)
        torch.testing.assert_close(got, slopes[..., i, :])


def test_the_response_is_the_derivative_of_adams_steps():
    """Without forgetting, and with gradients that do not depend on the parameters: against finite differences."""
    adam, generator = optim.Adam(0.1), torch.Generator().manual_seed(0)
    theta = {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64)}
    slopes = torch.randn(5, 2, 3, 2, generator=generator, dtype=torch.float64)  # step, bracket
    second = [{"w": torch.rand(3, 2, generator=generator, dtype=torch.float64) + 1} for _ in range(5)]
    adjoint = {"w": torch.randn(3, 2, generator=generator, dtype=torch.float64)}

    def end(rates):
        params, m = theta, {"w": torch.zeros(3, 2, dtype=torch.float64)}
        for t in range(5):
            grads = {"w": (rates[:, None, None] * slopes[t]).sum(0)}
            state = optim.AdamState(m, second[t], t)
            v = {"w": adam.beta2 * second[t]["w"]}  # the second moment is held: as if the gradient added nothing
            m = {"w": torch.lerp(m["w"], grads["w"], 1 - adam.beta1)}
            scale, root = adam._corrections(state.t + 1)
            params = {"w": params["w"] - scale * m["w"] / (root * v["w"].sqrt() + adam.eps)}
        return float((params["w"] * adjoint["w"]).sum())

    response = Response.start(theta, 2)
    zero = {"w": torch.zeros(3, 2, dtype=torch.float64)}
    for t in range(5):
        state = optim.AdamState(zero, second[t], t)
        response = response.advance(adam, zero, state, {"w": slopes[t]}, 1.0)
    got, h = response.along(adjoint), 1e-6
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
    got = adam.pushforward(grads, state, p, m, g, 4)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_the_response_of_one_step_is_the_chain_of_one_step():
    """From no response, one step of all episodes gives the chain's gradient; a second moment held fixed apart."""
    workers = workforce(8, k=4, policy="schedule", baseline=True, normalise=False)
    step, record, fresh, after, _ = captured(workers)
    adjoint = after.vjp(slope(workers.objective(*fresh), after.out))
    workers.policy_adam = replace(workers.policy_adam, stop_second_moment=True)
    want = workers.chain_gradient(step, record, adjoint)
    designer = replace(workers.config.designer, response="trace", trace_stride=1)
    workers.config = replace(workers.config, designer=designer)
    workers.response = Response.start(workers.policy, 7)
    workers._advance_response(step.batch, record, [step])
    got = workers._through_rates(workers.response.along(adjoint), record)
    assert relative_error(got, want) < 1e-9


@pytest.mark.parametrize("options", [{"minibatches": 2, "k": 4}, {"policy": "network"}, {"epochs": 1}])
def test_the_trace_trains(options):
    workers = workforce(
        3, **{"response": "trace", "direct": 1.0, "policy": "schedule", "response_time": 15.0, **options}
    )
    assert all(p.isfinite().all() for p in workers.eta.values())
    assert workers.diagnostics["chain_norm"] > 0
    assert workers.response.params["map"][0].abs().max() > 0


def test_the_trace_bears_an_economy_without_income():
    workers = workforce(1, response="trace", response_time=15.0)
    batch, record = workers.collect()
    idle = replace(record, income=0 * record.income, present_income=0 * record.present_income)
    steps = workers.learn_from(batch)
    workers._advance_response(batch, idle, steps)
    assert all(torch.isfinite(t).all() for t in workers.response.tensors().values())


def test_without_cross_validation_the_data_are_the_old_agents():
    workers = workforce(2, method="metagrad-no-cv")
    assert workers.tau is None
    assert workers.episodes == 2 * 2 * 3
    policy = dict(workers.policy)
    _, _, (validation, _), after, _ = captured(workers)
    acted = workers.evaluate(validation)
    assert relative_error(after.params, workers.policy) == 0
    assert relative_error(policy, workers.policy) > 0
    from metagrad.legacy.economy import log_prob

    old = replace_policy(workers, policy).evaluate(validation)
    torch.testing.assert_close(log_prob(old.out, validation), validation.log_prob, rtol=1e-9, atol=1e-9)
    assert (log_prob(acted.out, validation) - validation.log_prob).abs().max() > 1e-6


def replace_policy(workers, policy):
    workers.policy = policy
    return workers


def test_the_gradient_is_supported_by_taxed_income():
    """The rewards of a period depend on its rates if and only if somebody has positive income and coin to pay from."""
    workers = workforce(0)
    record = _any_record(workers)
    record.income[1] = -record.income[1].abs()  # nobody owes anything in the second period
    record.income[2, 0] = torch.tensor([5.0, 1.0, -3.0, 0.0])
    record.coin[2, 0] = 20.0
    rates = record.rates.clone().requires_grad_()
    change = reward_change(rates, record.rates, record, workers.rules)
    weights = torch.linspace(1, 2, change.numel(), dtype=change.dtype).view_as(change)
    (got,) = torch.autograd.grad((change * weights).sum(), rates)
    assert not got[1].any()
    assert got[2, 0, 0] != 0
    assert not got[2, 0, 1:].any()  # all incomes lie in the first bracket


@pytest.mark.parametrize(("kind", "gamma"), [("level", 0.99), ("delta", 1.0)])
def test_the_direct_path_against_the_simulator(kind, gamma):
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
    objective = taxation.direct_objective(leaf, record.rates, record, workers.rules, 10.0, kind, gamma)
    (want,) = torch.autograd.grad(objective, leaf)

    def value(schedule):
        r = taxation.designer_rewards(episode(schedule).wealth, 10.0, kind)
        return float((r * gamma ** torch.arange(20)[:, None]).sum(0).mean())

    direction, h = rng.normal(size=rates.shape), 1e-6
    got = (value(rates + h * direction) - value(rates - h * direction)) / (2 * h)
    assert got != 0
    assert got == pytest.approx(float((want.numpy() * direction).sum()), rel=1e-6)


def test_the_designers_advantages_leave_one_out():
    rewards = torch.randn(6, 3, dtype=torch.float64)
    got = taxation.designer_advantages(rewards, 0.9)
    np.testing.assert_allclose(got.sum(1).numpy(), 0, atol=1e-9)
    returns = taxation.discounted(rewards, 0.9)
    for t in range(6):
        torch.testing.assert_close(returns[t], sum(0.9 ** (j - t) * rewards[j] for j in range(t, 6)))
        want = 0.9**t * (returns[t, 0] - (returns[t, 1] + returns[t, 2]) / 2)
        torch.testing.assert_close(got[t, 0], want)


def test_paths_add_up_with_their_weights():
    workers = workforce(3, chain=2.0, direct=3.0, baseline=True)
    args = captured(workers)
    total = workers.designer_gradient(*args)
    parts = []
    for chain, direct in ((1.0, 0.0), (0.0, 1.0)):
        designer = replace(workers.config.designer, chain=chain, direct=direct)
        workers.config = replace(workers.config, designer=designer)
        parts.append(workers.designer_gradient(*args))
    want = optim.add(optim.add({n: 0 * p for n, p in total.items()}, parts[0], 2.0), parts[1], 3.0)
    assert relative_error(total, want) < 1e-12
    assert workers.diagnostics["direct_norm"] > 0


def test_rates_are_capped_in_graph_and_economy_alike():
    config = workforce(0).config
    config = replace(config, game=replace(config.game, anneal=True))
    workers = TaxedWorkforce(config, 1)
    workers.iterate()
    record = workers.tau[1]
    assert record.cap.max() < 0.2
    torch.testing.assert_close(record.rates, record.cap * record.rates / record.cap)
    _, before = workers.collect()
    torch.testing.assert_close(designer_rates(workers.eta, before), before.rates)


def test_the_direct_path_learns_to_tax():
    """Directly, more redistribution is more equality: rates rise from one half."""
    workers = workforce(40, chain=0.0, direct=1.0)
    record = workers.tau[1]
    assert record.rates[..., 0].mean() > 0.55


def test_a_schedule_starts_with_its_rate():
    workers = workforce(0, policy="schedule", start=0.2)
    _, record = workers.collect()
    torch.testing.assert_close(record.rates, torch.full_like(record.rates, 0.2))


@pytest.mark.parametrize(
    ("designer", "named"),
    [
        ({"start": 0.0}, "start"), ({"start": 1.0}, "start"), ({"trace_stride": 0}, "trace_stride"),
        ({"trace_stride": 101}, "trace_stride"), ({"response_time": 1.0}, "response_time"),
        ({"epochs": 2}, "designer.epochs"), ({"carry": True}, "carry"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_designers_are_refused(designer, named):
    with pytest.raises(ConfigError, match=named):
        EconomyConfig(method="metagrad", designer=TaxDesigner(**designer))


def test_agreement_of_halves_is_noted_and_changes_nothing():
    plain, noting = (workforce(0, chain=1.0, direct=1.0, policy="schedule", k=4) for _ in range(2))
    noting.config = replace(noting.config, eval_period=4)
    for _ in range(3):
        plain.iterate()
        noting.iterate()
    assert np.isnan(plain.diagnostics["chain_cosine"])
    for path in ("chain", "direct"):
        assert -1 <= noting.diagnostics[f"{path}_cosine"] <= 1
        assert noting.diagnostics[f"{path}_cosine"] != 0
    assert torch.equal(plain.eta["logits"], noting.eta["logits"])


def test_the_designers_critic_judges_the_chain():
    workers = workforce(3, k=1, judge=True)
    step, record, (validation, outcome), after, *_ = captured(workers)
    steps = len(outcome.wealth)
    assert outcome.all_maps.shape[0] == outcome.all_vectors.shape[0] == steps + 1
    # What it sees on the first day of a period is what the rates are set on.
    first = [0, *(outcome.day[:-1] + 1).tolist()]
    assert torch.equal(outcome.all_maps[first], outcome.maps)
    torch.testing.assert_close(outcome.all_vectors[first], outcome.vectors)
    values = workers.judge.values(outcome)[:, 0]
    rewards = taxation.designer_rewards(outcome.wealth, 10.0, "delta")[:, 0]
    want, gain = [], 0.0
    for t in reversed(range(steps)):
        gain = rewards[t] + values[t + 1] - values[t] + 0.98 * gain
        want.append(gain)
    torch.testing.assert_close(workers._designer_weights(outcome)[:, 0], torch.stack(want[::-1]))
    workers.iteration -= 1  # the entropy bonus was that of the step
    unrolled = workers.unrolled_gradient(step, record, validation, outcome)
    adjoint = after.vjp(slope(workers.objective(validation, outcome), after.out))
    assert relative_error(workers.chain_gradient(step, record, adjoint), unrolled) < 1e-9
    assert workers.judge.critic.state.t == 4


def test_the_designers_critic_survives_a_resumption():
    one, other = (workforce(n, k=2, judge=True) for n in (2, 0))
    other.load(*one.tensors())
    one.iterate()
    other.iterate()
    for name, tensor in one.tensors()[0].items():
        assert torch.equal(tensor, other.tensors()[0][name]), name


def test_linear_values_are_a_regression_on_what_agents_own():
    """Returns linear in wealth and stone, apart from a mean by step: found again on other episodes."""
    workers = workforce(2, k=12)
    critic = LinearJudge(workers.env.options.start_coin, 1.0)
    steps = torch.arange(20, dtype=torch.float64)[:, None]

    def returns(record):
        x = features(record, 10.0)
        rank = record.rank.argsort(1)
        stone = record.goods[..., 0].gather(-1, rank.expand_as(record.wealth))
        torch.testing.assert_close(x[..., 8:12], stone)
        return 0.3 * x[..., 3] - 2 * stone[..., 1] + (steps - 7) ** 2

    for _ in range(12):
        _, record = workers.collect()
        given = returns(record)
        critic.learn(record, given - torch.cat([given[1:], torch.zeros_like(given[:1])]))
    _, record = workers.collect()
    values, want = critic.values(record), returns(record)
    assert not values[-1].any()
    apart = [(x - x.mean(1, keepdim=True)).flatten() for x in (values[:-1], want)]
    assert float(torch.corrcoef(torch.stack(apart))[0, 1]) > 0.99
    assert (values[:-1].mean(1) - want.mean(1)).abs().max() < 2


def test_the_linear_critic_judges_earlier_data_and_is_kept():
    workers = workforce(3, critic_of_designer="linear")
    tensors, values = workers.tensors()
    other = workforce(0, critic_of_designer="linear")
    other.load(tensors, values)
    assert set(other.judge.state) == {"mean", "products", "weight"}
    for _ in range(2):
        workers.iterate()
        other.iterate()
    for name, p in workers.eta.items():
        assert torch.equal(p, other.eta[name])
