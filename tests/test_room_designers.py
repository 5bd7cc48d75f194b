"""Escape Room beyond policy gradients and oracle access: actor-critic agents, LIO, mechanism design, surrogates."""

from dataclasses import replace

import pytest
import torch
from learning import relative_error, tiny_config

from metagrad.legacy import losses, nets, optim
from metagrad.legacy.config import AMD, Clones, ConfigError
from metagrad.legacy.evaluate import Evaluator
from metagrad.legacy.presets import preset
from metagrad.legacy.train import Learner


class Recorder(optim.Adam):
    """Adam that remembers the gradients it was given."""

    def __init__(self, lr=0.01):
        super().__init__(lr)
        object.__setattr__(self, "seen", [])

    def step(self, params, grads, state):
        self.seen.append(grads)
        return super().step(params, grads, state)


def steps_of(learner, batch):
    """(seed, row, next row or None) of every step that was played."""
    for s in range(batch.n_seeds):
        for row in range(batch.alive.shape[1]):
            if batch.alive[s, row]:
                later = row + batch.k
                goes_on = later < batch.alive.shape[1] and batch.alive[s, later] > 0
                yield s, row, later if goes_on else None


# ---------------------------------------------------------------------- actor-critic agents


def test_one_step_advantages():
    learner = Learner(tiny_config(agents_kind="ac", agents_gamma=0.9))
    batch = learner._paid(learner.collect(learner.theta))
    got = learner.agents.weights(batch, batch.incentives).unflatten(0, (2, 3))
    value = nets.forward(learner.critic, batch.obs)[0][..., 0].unflatten(0, (2, 3))
    for s, row, later in steps_of(learner, batch):
        for i in range(3):
            reward = batch.rewards[s, i, row] + batch.incentives[s, i, row]
            want = reward + (0.9 * value[s, i, later] if later else 0) - value[s, i, row]
            assert float(got[s, i, row]) == pytest.approx(float(want), rel=1e-12)
    assert (got * (1 - batch.alive[:, None]) == 0).all()


def test_critics_take_an_adam_step_on_the_mean_squared_advantage():
    learner = Learner(tiny_config(agents_kind="ac"))
    batch = learner._paid(learner.collect(learner.theta))
    target = (learner.agents.weights(batch, batch.incentives) + batch.values.flatten(0, 1)).detach()

    def loss(critic):
        error = (nets.forward(critic, batch.obs)[0][..., 0] - target) ** 2 * batch.agents_alive
        return (error.sum(1) / batch.agents_alive.sum(1)).sum()

    adam, before = Recorder(), dict(learner.critic)
    after, _ = learner.agents.learn_critic(before, batch, adam, adam.init(before))
    assert relative_error(adam.seen[0], torch.func.grad(loss)(before)) < 1e-12
    assert loss(after) < loss(before)


def test_the_advantages_of_a_step_come_from_the_critic_before_it():
    """The next batch is valued by the critic that has learned, the present one by the critic that had not."""
    learner = Learner(tiny_config(agents_kind="ac", agents_optimiser="adam"))
    before = None
    for _ in range(3):
        learner.iterate()
        torch.testing.assert_close(learner.agents.values(learner.critic, learner.tau), learner.tau.values)
        assert before is None or any(not torch.equal(p, before[n]) for n, p in learner.critic.items())
        before = dict(learner.critic)


@pytest.mark.parametrize("kind", ["pg", "ac"])
def test_agents_descend_their_loss(kind):
    learner = Learner(tiny_config(agents_kind=kind, agents_linear=True, agents_entropy=0.1))
    assert set(learner.theta) == {"w0"}
    batch = learner._paid(learner.collect(learner.theta))
    evaluation = learner.agents.evaluate(learner.theta, batch)
    *_, step = learner.agents.learn(evaluation, batch.incentives, None)
    weights = learner.agents.weights(batch, batch.incentives)
    want = torch.func.grad(lambda p: learner.agents.loss(p, batch, weights))(learner.theta)
    assert relative_error(step.grads, want) < 1e-12


@pytest.mark.parametrize("kind", ["pg", "ac"])
def test_credit_is_the_transpose_of_the_weights(kind):
    learner = Learner(tiny_config(agents_kind=kind))
    batch = learner._paid(learner.collect(learner.theta))
    d = torch.randn(batch.agents_alive.shape, dtype=torch.float64) * batch.agents_alive
    want = torch.func.grad(lambda r: (learner.agents.weights(batch, r) * d).sum())(batch.incentives)
    torch.testing.assert_close(learner.agents.credit(d, batch), want, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- decentralised incentives


def test_gifts():
    """Every agent gets what the others' functions give it, from their own observation and the others' actions."""
    learner = Learner(tiny_config(method="lio"))
    batch = learner._paid(learner.collect(learner.theta))
    for s, row, _ in steps_of(learner, batch):
        for receiver in range(3):
            total = 0.0
            for giver in range(3):
                if giver != receiver:
                    others = [batch.actions[s, j, row] for j in range(3) if j != giver]
                    x = torch.cat([batch.obs[3 * s + giver, row], *others])[None, None]
                    own = {name: p[3 * s + giver][None] for name, p in learner.eta.items()}
                    total += 2 * torch.sigmoid(nets.forward(own, x)[0][0, 0, receiver])
            assert float(batch.incentives[s, receiver, row]) == pytest.approx(float(total), rel=1e-12)


def test_a_giver_is_judged_by_its_own_reward_for_what_others_do():
    learner = Learner(tiny_config(method="lio"))
    batch = learner._paid(learner.collect(learner.theta))
    for giver, judged in enumerate(learner.designer.judged_by(batch)):
        for agent in range(3):
            want = torch.zeros_like(batch.alive) if agent == giver else batch.rewards[:, giver]
            assert torch.equal(judged[:, agent], want)


@pytest.mark.parametrize("cost", ["paid", "all_outputs"])
def test_cost_of_gifts(cost):
    learner = Learner(tiny_config(method="lio", cost=cost))
    batch = learner._paid(learner.collect(learner.theta))
    outputs = learner.designer.outputs(learner.eta, batch)
    want = torch.func.grad(lambda eta: learner.designer.total_cost(learner.designer.outputs(eta, batch), batch).sum())(
        learner.eta
    )
    assert relative_error(learner.cost_gradient([outputs], [batch]), want) < 1e-12
    powers = torch.tensor([0.99**t for t in range(batch.steps) for _ in range(3)], dtype=torch.float64)
    total = (batch.incentives.sum(1) * powers).sum(1) / 3 / (1 if cost == "paid" else 2)
    torch.testing.assert_close(learner.designer.total_cost(outputs, batch), total)


# ---------------------------------------------------------------------- adaptive mechanism design


def row_norms(theta, network, obs, action, epsilon):
    """Squared length of the gradient of one log-probability, by automatic differentiation."""

    def log_p(own):
        logits = nets.forward(own, obs[None, None])[0][0, 0]
        return losses.probabilities(logits, epsilon).mixed.log()[action]

    own = {name: p[network][None] for name, p in theta.items()}
    return sum(float((g**2).sum()) for g in torch.func.grad(log_p)(own).values())


@pytest.mark.parametrize("scores_at", ["own", "planner"])
@pytest.mark.parametrize("linear", [True, False])
def test_score_norms(scores_at, linear):
    config = tiny_config(method="amd", amd=AMD(scores_at=scores_at), agents_linear=linear, agents_epsilon_start=0.2)
    learner = Learner(config)
    batch = learner.collect(learner.theta)
    got = learner.designer.score_norms(learner.agents.evaluate(learner.theta, batch))
    for s, row, _ in steps_of(learner, batch):
        for i in range(3):
            own = batch.obs[3 * s + i, row]
            seen = own if scores_at == "own" else batch.designer_input[s, row, :9]
            want = row_norms(learner.theta, 3 * s + i, seen, int(batch.actions[s, i, row].argmax()), batch.epsilon)
            assert float(got[s, i, row]) == pytest.approx(want, rel=1e-9)


def test_published_scores_are_right_for_the_first_agent_alone():
    learner = Learner(replace(tiny_config(method="amd"), game=replace(tiny_config().game, randomize=True)))
    evaluation = learner.agents.evaluate(learner.theta, learner.collect(learner.theta))
    own = learner.designer.score_norms(evaluation)
    learner.designer.config = AMD(scores_at="planner")
    published = learner.designer.score_norms(evaluation)
    torch.testing.assert_close(own[:, 0], published[:, 0], rtol=1e-12, atol=0)
    assert (own[:, 1:] - published[:, 1:]).abs().max() > 1e-3


def test_the_planner_learns_at_every_step_from_that_step():
    learner = Learner(tiny_config(method="amd", amd=AMD(lr=0.05, cost_weight=0.3), agents_lr=0.2))
    designer, adam = learner.designer, Recorder(0.05)
    evaluation = learner.agents.evaluate(learner.theta, learner.collect(learner.theta))
    batch, norms = evaluation.batch, designer.score_norms(evaluation)
    inputs, eta, state = designer._inputs(batch), learner.eta, adam.init(learner.eta)
    after, _ = designer.learn(eta, evaluation, adam, state)
    for t, taken in enumerate(list(adam.seen)):
        rows = slice(t * 3, t * 3 + 3)

        def loss(p, rows=rows):
            paid = 2 * torch.sigmoid(nets.forward(p, inputs[:, rows])[0])
            gain = 0.2 * norms[:, :, rows].transpose(1, 2) * batch.designer_rewards[:, rows, None] * paid
            alive = batch.alive[:, rows]
            return -(gain.sum(-1) * alive).sum() / 3 + 0.3 * (paid.norm(dim=-1) * alive).sum() / 3

        assert relative_error(taken, torch.func.grad(loss)(eta)) < 1e-9
        paid = 2 * torch.sigmoid(nets.forward(eta, inputs[:, rows])[0]) * batch.alive[:, rows, None]
        torch.testing.assert_close(batch.incentives[:, :, rows], paid.transpose(1, 2))
        eta, state = optim.Adam(0.05).step(eta, taken, state)
        if batch.alive[:, rows].sum(1).min() == 0:
            return  # a seed that is over stays as it is from here on
    assert relative_error(after, eta) < 1e-12


def test_what_the_planner_sees():
    learner = Learner(tiny_config(method="amd"))
    batch = learner.collect(learner.theta)
    seen = learner.designer._inputs(batch)
    torch.testing.assert_close(seen[..., :9], batch.designer_input[..., :9], rtol=0, atol=0)
    assert torch.equal(seen[..., 9:].transpose(1, 2), batch.actions.argmax(-1).double())


def test_long_gradients_are_cut_seed_by_seed():
    learner = Learner(tiny_config(method="amd", amd=AMD(grad_clip=0.5)))
    grads = {"w0": torch.stack([torch.full((2, 2), 3.0), torch.full((2, 2), 0.1)])}
    cut = learner.designer._clipped(grads)["w0"]
    torch.testing.assert_close(cut[0], torch.full((2, 2), 0.25))
    torch.testing.assert_close(cut[1], grads["w0"][1])


# ---------------------------------------------------------------------- surrogates


def test_cloning_descends_the_negative_log_likelihood():
    learner = Learner(tiny_config(agent_access="cloned", agents_epsilon_start=0.2))
    batch = learner.collect(learner.theta)
    from metagrad.legacy.cloning import clone

    def loss(phi):
        log_p = losses.probabilities(nets.forward(phi, batch.obs)[0], batch.epsilon).mixed.log()
        chosen = (log_p * batch.onehot).sum((1, 2))
        return -(chosen / batch.agents_alive.sum(1)).sum()

    adam = Recorder()
    phi, _ = clone(learner.phi, batch, adam, adam.init(learner.phi), 40)
    assert relative_error(adam.seen[0], torch.func.grad(loss)(learner.phi)) < 1e-9
    assert len(adam.seen) == 40
    assert loss(phi) < loss(learner.phi)


def test_surrogates_come_to_act_like_the_agents():
    """Agents that do not learn are imitated more and more closely."""
    config = tiny_config(
        agent_access="cloned", agents_lr=0.0, agents_linear=True, clones=Clones(lr=0.02, steps=5), k=32
    )
    learner = Learner(config)

    def distance():
        batch = learner.collect(learner.theta)
        p, q = (losses.probabilities(nets.forward(t, batch.obs)[0], 0.0).p for t in (learner.theta, learner.phi))
        return float(((p - q).abs().sum(-1) * batch.agents_alive).sum() / batch.agents_alive.sum())

    before = distance()
    for _ in range(150):
        learner.iterate()
    assert distance() < 0.15 < 0.4 < before


def test_a_designer_with_surrogates_does_not_look_into_the_agents():
    """Its gradient depends on what they did alone: with other networks behind the same episodes it is the same."""
    taken = []
    for poison in (False, True):
        learner = Learner(tiny_config(agent_access="cloned"))
        learner.iterate()
        batch, validation = learner.tau, learner._paid(learner.collect(learner.theta))
        if poison:
            learner.theta = {name: torch.full_like(p, float("nan")) for name, p in learner.theta.items()}
        steps, evaluation = learner._surrogate_steps([batch], validation)
        outputs = [learner.designer.outputs(learner.eta, batch)]
        taken.append(learner.metagradient(outputs, steps, evaluation))
    for name, p in taken[0].items():
        assert torch.equal(p, taken[1][name])
        assert p.abs().max() > 0


def test_perfect_surrogates_have_the_oracles_gradient():
    learner = Learner(tiny_config(agent_access="cloned", clones=Clones(lr=0.0)))
    learner.iterate()
    before, batch = dict(learner.theta), learner.tau
    learner.phi = before
    theta, _, steps = learner.agents.learn_through(
        learner.agents.evaluate(before, batch), [batch], [batch.incentives], None
    )
    validation = learner._paid(learner.collect(theta))
    outputs = [learner.designer.outputs(learner.eta, batch)]
    oracle = learner.metagradient(outputs, steps, learner.agents.evaluate(theta, validation))
    assert relative_error(learner.metagradient(outputs, *learner._surrogate_steps([batch], validation)), oracle) == 0


# ---------------------------------------------------------------------- configuration and learning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent_access": "cloned", "method": "none"}, "not for method none"),
        ({"agent_access": "cloned", "agents_kind": "ac"}, "agents.kind pg"),
        ({"amd": AMD(grad_clip=0.0)}, "amd.grad_clip is out of range"),
        ({"agents_hidden_critic": (0,)}, "agents.hidden_critic must be positive"),
        ({"clones": Clones(steps=0)}, "clones.steps must be at least 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**options)


@pytest.mark.parametrize("options", [{"method": "lio"}, {"agent_access": "cloned"}], ids=str)
def test_they_learn_to_leave_the_room(options):
    """ER(2,1), our preset, 2 seeds."""
    config = replace(preset("er_2_1"), seeds=(1, 2), episodes=19_200, **options)
    learner = Learner(config)
    while learner.episode < config.episodes:
        learner.iterate()
    assert (Evaluator(config, "test", 100)(learner).r_id > config.target).all()
