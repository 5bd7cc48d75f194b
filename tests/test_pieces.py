"""Losses, estimators and optimisers: each against automatic differentiation, a library, or its own definition."""

import pytest
import torch

from metagrad import estimators, losses, optim


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("actions", [3, 12])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_scores_and_entropy_at_the_logits(epsilon, actions, masked):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, actions, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 5, actions) < 0.6 if masked else None
    if masked:
        mask[..., 0] = True
    chosen = torch.zeros(2, 5, dtype=torch.int64)
    log = losses.log_probabilities(logits, epsilon, mask)
    (score,) = torch.autograd.grad(losses.chosen(log, chosen).sum(), logits, retain_graph=True)
    (entropy,) = torch.autograd.grad(losses.entropy(log, mask).sum(), logits)
    with torch.no_grad():
        policy = losses.probabilities(logits, epsilon, mask)
        torch.testing.assert_close(policy.mixed.sum(-1), torch.ones(2, 5, dtype=torch.float64))
        torch.testing.assert_close(losses.score(policy, chosen, epsilon), score)
        torch.testing.assert_close(losses.entropy_gradient(policy, epsilon), entropy)
        if masked:
            assert not policy.mixed[~mask].any()


def test_the_softmax_of_few_actions_is_that_of_the_library():
    x = 30 * torch.randn(4, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(losses.softmax(x), x.softmax(-1))
    torch.testing.assert_close(losses.softmax(x - 1e6), x.softmax(-1), rtol=1e-6, atol=1e-6)


def test_the_clipped_surrogate_and_its_gradient():
    torch.manual_seed(1)
    ratio = torch.rand(200, dtype=torch.float64).mul(2).requires_grad_()
    advantage = torch.randn(200, dtype=torch.float64)
    (want,) = torch.autograd.grad(losses.clipped_gain(ratio, advantage, 0.2).sum(), ratio)
    got = losses.active_ratio(ratio.detach(), advantage, 0.2) / ratio.detach() * advantage
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 1.0])
def test_discounted_sums_and_their_transpose(factor):
    x, d = torch.randn(2, 4, 3, 2, dtype=torch.float64), torch.randn(2, 4, 3, 2, dtype=torch.float64)
    want = torch.zeros_like(x)
    for t in range(4):
        for j in range(t, 4):
            want[:, t] += factor ** (j - t) * x[:, j]
    got = estimators.discounted_sums(x, factor)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close((estimators.discounted_sums_transposed(d, factor) * x).sum(), (d * got).sum())


def test_generalised_advantages_are_what_their_names_say():
    r, v = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    on = torch.ones_like(r)
    torch.testing.assert_close(estimators.gae(r, v, 0.9, 0.0, on), r + 0.9 * v[:, 1:] - v[:, :-1])
    torch.testing.assert_close(estimators.gae(r, None, 0.9, 1.0, on), estimators.discounted_sums(r, 0.9))
    whole = estimators.gae(r, v, 0.9, 1.0, on) + v[:, :-1]
    torch.testing.assert_close(whole[:, 0], estimators.discounted_sums(r, 0.9)[:, 0] + 0.9**4 * v[:, -1])


def test_what_follows_a_cut_reaches_back_to_it_however_long_others_go_on():
    """An episode that is cut off after two of four steps has the advantages that it has alone."""
    torch.manual_seed(1)
    r, v = torch.randn(1, 4, 1, dtype=torch.float64), torch.randn(1, 5, 1, dtype=torch.float64)
    r[:, 2:], v[:, 3:] = 0.0, 0.0
    on = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).view(1, 4, 1)
    alone = estimators.gae(r[:, :2], v[:, :3], 0.9, 0.95, on[:, :2])
    torch.testing.assert_close(estimators.gae(r, v, 0.9, 0.95, on)[:, :2], alone)


def test_leave_one_out_baseline():
    g = torch.arange(6.0).view(1, 2, 3)
    torch.testing.assert_close(estimators.leave_one_out(g), torch.tensor([[[-1.5, 0, 1.5], [-1.5, 0, 1.5]]]))
    assert estimators.leave_one_out(g[:, :, :1]) is not None
    torch.testing.assert_close(estimators.leave_one_out(g[:, :, :1]), g[:, :, :1])


def test_normalising_and_its_transpose():
    torch.manual_seed(2)
    alive = (torch.rand(2, 4, 3, 2) < 0.7).double()
    x = (torch.randn(2, 4, 3, 2, dtype=torch.float64) * alive).requires_grad_()
    d = torch.randn_like(x)

    def normalised(x):
        return estimators.normalise(x, alive, estimators.moments(x, alive))

    rows = alive > 0
    for s in range(2):
        kept = x[s][rows[s]]
        want = (kept - kept.mean()) / (kept.std() + estimators.GUARD)
        torch.testing.assert_close(normalised(x)[s][rows[s]], want)
    (want,) = torch.autograd.grad((d * normalised(x)).sum(), x)
    by = estimators.moments(x.detach(), alive)
    got = estimators.normalise_transposed(d, x.detach(), alive, by)
    torch.testing.assert_close(got * alive, want * alive)


FALLING = optim.Linear(0.3, 0.1, 400)  # half way down after the steps of the test


@pytest.mark.parametrize("optimiser", [optim.SGD(0.1), optim.Adam(0.05), optim.SGD(FALLING), optim.Adam(FALLING)])
def test_pushforward_is_the_derivative_of_steps(optimiser):
    """One step, along a change of the gradient and of the parameters; Adam's second moment is held fixed."""
    torch.manual_seed(3)
    params, grads, along, more = ({"w": torch.randn(3, 4, dtype=torch.float64)} for _ in range(4))
    state = optimiser.init(params)
    for _ in range(200):
        params, state = optimiser.step(params, {"w": torch.randn(3, 4, dtype=torch.float64)}, state)
    zero = {"w": torch.zeros(3, 4, dtype=torch.float64)}
    got, _ = optimiser.pushforward(grads, state, along, zero, more)
    h, ends = 1e-6, []
    for sign in (1, -1):
        moved = {"w": params["w"] + sign * h * along["w"]}
        ends.append(optimiser.step(moved, {"w": grads["w"] + sign * h * more["w"]}, state)[0]["w"])
    want = (ends[0] - ends[1]) / (2 * h)
    torch.testing.assert_close(got["w"], want, rtol=0.02, atol=1e-3)


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


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_a_learning_rate_by_schedule(kind):
    """Each step is that of an optimiser whose constant rate is the schedule's, and so is its pullback."""
    schedule, (params, *grads) = optim.Linear(0.1, 0.02, 3), adam_data()
    falling = kind(schedule)
    state = falling.init(params)
    for done, grad in enumerate(grads):
        constant = kind(max(0.02, 0.1 - done * 0.08 / 3))
        before = None if kind is optim.SGD else state
        adjoints = (falling.pullback(grad, state, params, None)[0], constant.pullback(grad, before, params, None)[0])
        torch.testing.assert_close(*adjoints)
        want, _ = constant.step(params, grad, before)
        params, state = falling.step(params, grad, state)
        torch.testing.assert_close(params, want)


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
    """Against automatic differentiation, and against the closed forms."""
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
