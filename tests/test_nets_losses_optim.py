"""Hand-written derivatives against automatic differentiation, float64."""

import numpy as np
import pytest
import torch
from learning import relative_error, tiny_config

from metagrad.legacy import losses, nets, optim
from metagrad.legacy.train import Learner

torch.set_default_dtype(torch.float32)


def make_net(output_bias=True, g=4):
    generators = [np.random.default_rng(i) for i in range(2)]
    params = nets.init_mlp(generators, g // 2, (5, 7, 6, 3), output_bias=output_bias, init="torch", dtype=torch.float64)
    x = torch.randn(g, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return params, x


@pytest.mark.parametrize("output_bias", [True, False])
def test_vjp_and_jvp(output_bias):
    params, x = make_net(output_bias)
    out, inputs = nets.forward(params, x)
    d_out = torch.randn_like(out)
    _, pull = torch.func.vjp(lambda p: nets.forward(p, x)[0], params)
    assert relative_error(nets.vjp(params, inputs, d_out), pull(d_out)[0]) < 1e-13
    tangent = {name: torch.randn_like(p) for name, p in params.items()}
    want = torch.func.jvp(lambda p: nets.forward(p, x)[0], (params,), (tangent,))[1]
    torch.testing.assert_close(nets.jvp(params, inputs, tangent), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output_bias", [True, False])
def test_squared_norms_of_single_rows(output_bias):
    params, x = make_net(output_bias)
    d_out = torch.randn_like(nets.forward(params, x)[0])
    got = nets.squared_norms(params, nets.forward(params, x)[1], d_out)
    for row in range(x.shape[1]):
        one = slice(row, row + 1)
        grads = nets.vjp(params, nets.forward(params, x[:, one])[1], d_out[:, one])
        torch.testing.assert_close(got[:, row], sum((g**2).sum((1, 2)) for g in grads.values()))


def test_initial_parameters_of_a_seed_do_not_depend_on_the_others():
    def draw(seeds):
        return nets.init_mlp([np.random.default_rng(s) for s in seeds], 3, (4, 8, 2))

    many, one = draw([1, 2, 3]), draw([2])
    for name, p in one.items():
        torch.testing.assert_close(many[name][3:6], p, rtol=0, atol=0)
    assert (many["b0"] == 0).all()
    assert many["w0"].abs().max() <= (6 / 12) ** 0.5


def test_sigmoid_keeps_a_slope_where_it_saturates():
    x = torch.tensor([-90.0, -30.0, 0.0, 3.0, 30.0, 60.0])
    value = nets.sigmoid(x)
    torch.testing.assert_close(value, torch.sigmoid(x))
    slope = nets.sigmoid_slope(x, value)
    want = torch.exp(-x[1:].abs()) / (1 + torch.exp(-x[1:].abs())) ** 2
    torch.testing.assert_close(slope[1:], want)
    assert (slope[1:] > 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_scores_and_entropy_at_the_logits(epsilon):
    logits = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    onehot = torch.nn.functional.one_hot(torch.randint(0, 4, (2, 5)), 4).double()
    policy = losses.probabilities(logits, epsilon)
    log = policy.mixed.log()
    (score,) = torch.autograd.grad((onehot * log).sum(), logits, retain_graph=True)
    (entropy,) = torch.autograd.grad(-(policy.mixed * log).sum(), logits)
    with torch.no_grad():
        policy = losses.probabilities(logits, epsilon)
        torch.testing.assert_close(losses.score(policy, onehot, epsilon), score)
        torch.testing.assert_close(losses.entropy_gradient(policy, epsilon), entropy)


def test_returns_and_their_transpose():
    r = torch.randn(2, 3, 12, dtype=torch.float64)  # T = 4, K = 3
    g = losses.discounted_returns(r, 0.9, 3)
    want = torch.zeros(2, 3, 4, 3, dtype=torch.float64)
    steps = r.view(2, 3, 4, 3)
    for t in range(4):
        for j in range(t, 4):
            want[:, :, t] += 0.9 ** (j - t) * steps[:, :, j]
    torch.testing.assert_close(g.view_as(want), want)
    d = torch.randn_like(r)
    inner = (losses.returns_transposed(d, 0.9, 3) * r).sum()
    torch.testing.assert_close(inner, (d * g).sum())


def test_leave_one_out_baseline():
    g = torch.arange(6.0).view(1, 6)  # T = 2, K = 3
    torch.testing.assert_close(losses.leave_one_out(g, 3), torch.tensor([[-1.5, 0, 1.5, -1.5, 0, 1.5]]))
    assert losses.leave_one_out(g, 1) is g


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_the_agents_gradient_is_that_of_their_loss(epsilon):
    learner = Learner(tiny_config(agents_epsilon_start=epsilon, agents_entropy=0.1))
    batch = learner._paid(learner.collect(learner.theta))
    evaluation = learner.agents.evaluate(learner.theta, batch)
    theta, _, step = learner.agents.learn(evaluation, batch.incentives, None)
    want = torch.func.grad(lambda p: learner.agents.loss(p, batch, step.weights))(learner.theta)
    assert relative_error(step.grads, want) < 1e-12
    for name, p in learner.theta.items():
        torch.testing.assert_close(theta[name], p - 0.01 * want[name])


def adam_data(steps=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(3, 4, dtype=torch.float64, generator=g)} for _ in range(steps + 1)]


def test_adam_equals_torch():
    params, *grads = adam_data()
    mine = {"w": params["w"].clone()}
    theirs = params["w"].clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.02)
    adam = optim.Adam(0.02)
    state = adam.init(mine)
    for grad in grads:
        mine, state = adam.step(mine, grad, state)
        theirs.grad = grad["w"].clone()
        reference.step()
        torch.testing.assert_close(mine["w"], theirs.detach(), rtol=1e-13, atol=1e-13)


def test_adam_tf1_places_epsilon_before_the_correction():
    params, *grads = adam_data()
    adam = optim.Adam(0.02, eps=1e-3, eps_mode="tf1")
    state, mine = adam.init(params), params
    m = v = torch.zeros_like(params["w"])
    want = params["w"]
    for t, grad in enumerate(grads, 1):
        mine, state = adam.step(mine, grad, state)
        m = 0.9 * m + 0.1 * grad["w"]
        v = 0.999 * v + 0.001 * grad["w"] ** 2
        rate = 0.02 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
        want = want - rate * m / (v.sqrt() + 1e-3)
        torch.testing.assert_close(mine["w"], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("eps_mode", ["torch", "tf1"])
def test_adam_pullback(stop, eps_mode):
    """Against automatic differentiation, and against the closed forms of the specification, 7.4."""
    params, *grads = adam_data()
    adam = optim.Adam(0.02, eps_mode=eps_mode, stop_second_moment=stop)
    state = adam.init(params)
    for grad in grads[:-1]:
        params, state = adam.step(params, grad, state)
    g = grads[-1]["w"].clone().requires_grad_()
    m, v = state.m["w"].clone().requires_grad_(), state.v["w"].clone().requires_grad_()
    new, after = adam.step(params, {"w": g}, optim.AdamState({"w": m}, {"w": v}, state.t))
    out, out_m, out_v = (torch.randn_like(g) for _ in range(3))
    total = (new["w"] * out).sum() + (after.m["w"] * out_m).sum() + (after.v["w"] * out_v).sum()
    want_g, want_m, want_v = torch.autograd.grad(total, (g, m, v))
    u, back = adam.pullback(grads[-1], state, {"w": out}, optim.AdamAdjoint({"w": out_m}, {"w": out_v}))
    torch.testing.assert_close(-u["w"], want_g)
    torch.testing.assert_close(back.m["w"], want_m)
    torch.testing.assert_close(back.v["w"], want_v)
    u, _ = adam.pullback(grads[-1], state, {"w": out}, None)
    t = state.t + 1
    m1, v1 = after.m["w"].detach(), after.v["w"].detach()
    rate = 0.02 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
    eps = 1e-8 if eps_mode == "tf1" else 1e-8 * (1 - 0.999**t) ** 0.5
    d = 0.1 / (v1.sqrt() + eps)
    if not stop:
        d = d - m1 * 0.001 * g.detach() / (v1.sqrt() * (v1.sqrt() + eps) ** 2)
    torch.testing.assert_close(u["w"], rate * d * out)


def test_the_first_adam_step_has_no_derivative():
    params, grad = adam_data(1)
    adam = optim.Adam(0.02)
    u, _ = adam.pullback(grad, adam.init(params), {"w": torch.ones_like(params["w"])}, None)
    assert u["w"].abs().max() < 1e-6
