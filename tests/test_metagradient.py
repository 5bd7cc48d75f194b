"""The meta-gradient: forward = unrolled = finite differences, and what must hold around it."""

from dataclasses import replace

import pytest
import torch
from learning import captured_metagradient, relative_error, tiny_config, with_designer

from metagrad.legacy import optim
from metagrad.legacy.metagradient import InnerStep, forward_metagradient, unrolled_metagradient
from metagrad.legacy.train import Learner

VARIANTS = [
    {},
    {"agents_entropy": 0.0},
    {"agents_entropy": 0.3, "agents_epsilon_start": 0.2, "agents_epsilon_end": 0.1},
    {"agents_optimiser": "adam"},
    {"agents_optimiser": "adam", "agents_adam_eps_mode": "tf1", "agents_stop_second_moment": True},
    {"output_type": "agent"},
    {"cost_optimiser": "combined", "cost": "all_outputs"},
    {"baseline": "leave-one-out"},
    {"k": 1},
    {"method": "metagrad-no-cv"},
    {"pipeline": False},
    {"inner_steps": 3},
    {"inner_steps": 3, "agents_optimiser": "adam", "agents_epsilon_start": 0.2},
    {"agents_kind": "ac"},
    {"agents_kind": "ac", "agents_optimiser": "adam", "agents_linear": True, "output_type": "agent"},
    {"agents_kind": "ac", "inner_steps": 3},
    {"agent_access": "cloned"},
    {"agent_access": "cloned", "agents_optimiser": "adam", "agents_epsilon_start": 0.2},
    {"method": "lio"},
    {"method": "lio", "agents_optimiser": "adam", "agent_access": "cloned", "cost": "all_outputs"},
    {"method": "lio", "baseline": "leave-one-out", "inner_steps": 3},
]


@pytest.mark.parametrize("replica", ["stored", "current", "recompute"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_forward_equals_unrolled(variant, replica):
    learner, args = captured_metagradient(tiny_config(replica_eta=replica, **variant))
    forward = learner.metagradient(*args)
    unrolled = with_designer(learner, mode="unrolled").metagradient(*args)
    assert all(p.abs().max() > 0 for p in unrolled.values())
    assert relative_error(forward, unrolled) < 1e-9


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.get("agents_stop_second_moment")], ids=str)
def test_unrolled_equals_finite_differences(variant):
    learner, (outputs, steps, validation) = captured_metagradient(tiny_config(replica_eta="current", **variant))
    gradient = with_designer(learner, mode="unrolled").metagradient(outputs, steps, validation)
    batches = [step.evaluation.batch for step in steps]

    def value(eta, objective):
        theta, state = steps[0].evaluation.theta, steps[0].state
        for batch in batches:
            loss = learner._agents_loss(batch)
            grads = torch.func.grad(lambda p, loss=loss: loss(eta, p))(theta)
            theta, state = learner.agents.optimiser.step(theta, grads, state)
        return float(objective(theta))

    generator = torch.Generator().manual_seed(0)
    everyone = learner.designer_weights(validation.batch)
    for giver, weights in [*enumerate(everyone)] * (3 // len(everyone)):
        objective = learner._objective(validation.batch, weights)
        direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in learner.eta.items()}
        if len(everyone) > 1:  # each giver moves its own parameters only
            for d in direction.values():
                d *= torch.arange(len(d))[:, None, None] % len(everyone) == giver
        h = 1e-5
        up, down = (value(optim.add(learner.eta, direction, s * h), objective) for s in (1, -1))
        slope = sum(float((gradient[n] * direction[n]).sum()) for n in gradient)
        assert (up - down) / (2 * h) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("optimiser", [optim.SGD(0.1), optim.Adam(0.05)], ids=["sgd", "adam"])
@pytest.mark.parametrize("m", [1, 3])
def test_shared_parameters_and_generalised_advantages(optimiser, m):
    """A chain unlike Escape Room's: one policy for all agents, GAE with fixed critic values, a smooth reward."""
    generator = torch.Generator().manual_seed(3)
    agents, steps, gamma, lam = 2, 6, 0.97, 0.9

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    theta, eta = {"w": randn(4, 3)}, {"v": randn(4)}
    state = optimiser.init(theta)
    for _ in range(3):  # Adam's first steps have hardly any derivative
        theta, state = optimiser.step(theta, {"w": randn(4, 3)}, state)
    data = [
        (
            randn(agents, steps, 4),
            torch.randint(0, 3, (agents, steps), generator=generator),
            randn(agents, steps + 1),
        )
        for _ in range(m)
    ]
    powers = torch.tensor([[(gamma * lam) ** (k - t) if k >= t else 0 for k in range(steps)] for t in range(steps)])

    def log_prob(p, obs, action):
        return (obs @ p["w"]).log_softmax(-1).gather(-1, action[..., None])[..., 0]

    def weights(e, obs, values):
        delta = torch.tanh(obs @ e["v"]) ** 2 + gamma * values[:, 1:] - values[:, :-1]
        return delta @ powers.double().T / (agents * steps)

    def loss(e, p, obs, action, values):
        logp = (obs @ p["w"]).log_softmax(-1)
        return -(weights(e, obs, values) * log_prob(p, obs, action)).sum() + 0.1 * (logp.exp() * logp).sum()

    target = randn(4, 3)

    def objective(p):
        return (torch.tanh(p["w"]) * target).sum()

    inner, p, s = [], theta, state
    for obs, action, values in data:

        def fixed(q, obs=obs, action=action, values=values):
            return loss(eta, q, obs, action, values)

        grads = torch.func.grad(fixed)(p)
        inner.append(
            InnerStep(
                grads,
                s,
                lambda u, p=p, obs=obs, a=action: torch.func.jvp(lambda q: log_prob(q, obs, a), (p,), (u,))[1],
                lambda d, obs=obs, v=values: torch.func.grad(lambda e: (d * weights(e, obs, v)).sum())(eta),
                lambda u, f=fixed, p=p: torch.func.jvp(torch.func.grad(f), (p,), (u,))[1],
            )
        )
        p, s = optimiser.step(p, grads, s)
    forward = forward_metagradient(inner, optimiser, torch.func.grad(objective)(p))
    unrolled = unrolled_metagradient(
        [lambda e, q, d=d: loss(e, q, *d) for d in data], optimiser, theta, state, objective, eta
    )
    assert relative_error(forward, unrolled) < 1e-9


def test_inner_steps_need_a_hessian():
    step = InnerStep({"w": torch.ones(1)}, None, lambda u: u["w"], lambda d: {"v": d})
    with pytest.raises(ValueError, match="Hessian"):
        forward_metagradient([step, step], optim.SGD(0.1), {"w": torch.ones(1)})
    with pytest.raises(ValueError, match="at least one"):
        forward_metagradient([], optim.SGD(0.1), {})


def test_the_replica_takes_the_agents_own_step():
    """With η unchanged since the rollout, replica rewards and step equal the real ones."""
    learner = Learner(tiny_config(agents_optimiser="adam"))
    batch = learner._paid(learner.collect(learner.theta))
    again = learner.designer.incentives(learner.designer.outputs(learner.eta, batch), batch)
    torch.testing.assert_close(again, batch.incentives, rtol=0, atol=0)
    evaluation = learner.agents.evaluate(learner.theta, batch)
    theta, _, step = learner.agents.learn(evaluation, batch.incentives, learner.theta_state)
    weights = learner.agents.weights(batch, again)
    torch.testing.assert_close(weights, step.weights, rtol=0, atol=0)
    grads = torch.func.grad(lambda p: learner.agents.loss(p, batch, weights))(learner.theta)
    replica, _ = learner.agents.optimiser.step(learner.theta, grads, learner.theta_state)
    for name in theta:
        torch.testing.assert_close(replica[name], theta[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cost", ["paid", "all_outputs"])
@pytest.mark.parametrize("output_type", ["action", "agent"])
def test_cost_gradient(cost, output_type):
    learner = Learner(tiny_config(cost=cost, output_type=output_type))
    batch = learner._paid(learner.collect(learner.theta))
    outputs = learner.designer.outputs(learner.eta, batch)
    got = learner.cost_gradient([outputs], [batch])
    want = torch.func.grad(lambda eta: learner.designer.total_cost(learner.designer.outputs(eta, batch), batch).sum())(
        learner.eta
    )
    assert relative_error(got, want) < 1e-12
    # By hand: the first seed's cost, summed over its episodes and steps.
    sigma = outputs.sigma[0].view(batch.steps, batch.k, -1)
    alive = batch.alive[0].view(batch.steps, batch.k)
    total = 0.0
    for t in range(batch.steps):
        for j in range(batch.k):
            if alive[t, j]:
                row = t * batch.k + j
                paid = batch.incentives[0, :, row].sum() if cost == "paid" else sigma[t, j].sum()
                total += 0.99**t * float(paid) / batch.k
    assert float(learner.designer.total_cost(outputs, batch)[0]) == pytest.approx(total, rel=1e-12)


def test_gradient_over_k_is_the_mean_of_single_episodes():
    learner = Learner(tiny_config(k=4))
    batch = learner._paid(learner.collect(learner.theta))
    whole = learner.agents.learn(learner.agents.evaluate(learner.theta, batch), batch.incentives, None)[2].grads
    parts = []
    for j in range(4):
        rows = slice(j, None, 4)
        single = replace(
            batch,
            k=1,
            obs=batch.obs[:, rows],
            onehot=batch.onehot[:, rows],
            designer_input=batch.designer_input[:, rows],
            alive=batch.alive[:, rows],
            rewards=batch.rewards[:, :, rows],
            designer_rewards=batch.designer_rewards[:, rows],
            incentives=batch.incentives[:, :, rows],
        )
        evaluation = learner.agents.evaluate(learner.theta, single)
        parts.append(learner.agents.learn(evaluation, single.incentives, None)[2].grads)
    mean = {name: sum(p[name] for p in parts) / 4 for name in whole}
    assert relative_error(whole, mean) < 1e-12


def test_batches_do_not_alias_the_environment():
    learner = Learner(tiny_config())
    batch = learner._paid(learner.collect(learner.theta))
    kept = {name: t.clone() for name, t in batch.tensors().items()}
    for _ in range(3):
        learner.collect(learner.theta)
    for array in (learner.env.obs["agents"], learner.env.buffers.rewards, learner.env.buffers.actions):
        array[:] = 7
    for name, t in batch.tensors().items():
        torch.testing.assert_close(t, kept[name], rtol=0, atol=0)
