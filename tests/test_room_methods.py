"""Escape Room's methods: what each pays, what each learns, and that presets train and learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metagrad import (
    AMD,
    ByAction,
    Categorical,
    DualRL,
    MetaGradient,
    PolicyGradientAgents,
    SquashedGaussian,
    losses,
    optim,
)
from metagrad.designers import MutualIncentive
from metagrad.designers.dual_rl import DRAW
from metagrad.experiment.registry import experiment
from metagrad.networks import MLP, ModuleNetwork
from metagrad.tasks.escape_room import METHODS, PRESETS, EscapeRoom
from metagrad.trainer import Trainer

AGENTS = PolicyGradientAgents((8,), optim.SGD(0.02), entropy=0.02)
SMALL = MLP((8,), output_bias=False)


def room(designer, agents=AGENTS, seeds=(3, 5), k=4, n=3, **options):
    return Trainer(EscapeRoom(n, 1), agents, designer, seeds=seeds, k=k, dtype=torch.float64, **options)


def of(e, seeds=None, **options):
    run = e.run
    return Trainer(
        e.task, e.agents, e.designer, seeds=seeds or run.seeds, k=options.pop("k", run.k), pipeline=run.pipeline,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_and_method_takes_a_step(name):
    for method in METHODS:
        e = experiment("escape-room", name, method)
        if e.task.n_agents > 10 and method in ("lio", "amd"):
            continue
        trainer = of(e, seeds=(1, 2))
        trainer.train(2)
        assert not trainer.diverged().any()
        assert np.isfinite(trainer.evaluate(3)["r_id"]).all()


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9, 16])
@pytest.mark.parametrize("method", METHODS)
def test_a_seed_alone_equals_that_seed_among_others(method, k):
    e = experiment("escape-room", "er_5_2", method)
    together, alone = of(e, seeds=(1, 2, 3), k=k), of(e, seeds=(2,), k=k)
    for t in (together, alone):
        t.train(3)
    for n, p in alone.state.agents.policy.items():
        assert torch.equal(together.state.agents.policy[n].unflatten(0, (3, -1))[1], p), n
    for n, p in alone.designer.eta(alone.state.designer).items():
        assert torch.equal(together.designer.eta(together.state.designer)[n].unflatten(0, (3, -1))[1], p), n


def test_a_diverged_seed_leaves_the_others_alone():
    sick, well = room(MetaGradient(ByAction(SMALL))), room(MetaGradient(ByAction(SMALL)), seeds=(5,))
    for n, p in sick.state.agents.policy.items():
        p[:3] = float("nan")
        assert n
    for t in (sick, well):
        t.train(3)
    assert sick.diverged().tolist() == [True, False]
    for n, p in well.state.agents.policy.items():
        assert torch.equal(sick.state.agents.policy[n][3:], p)


def test_payments_stay_in_bounds():
    for designer in (MetaGradient(ByAction(SMALL)), DualRL(SquashedGaussian()), AMD()):
        batch = room(designer).collect(room(designer).state.agents)
        assert (batch.payments >= 0).all()
        assert (batch.payments <= 2).all()
        assert batch.payments.any()


# ---------------------------------------------------------------------- dual RL


def test_level_codes_are_little_endian():
    table = Categorical((0.0, 1.0)).table(3)
    assert table[1].tolist() == [1, 0, 0]
    assert table[4].tolist() == [0, 0, 1]


def test_discrete_payments_follow_the_chosen_levels():
    trainer = room(DualRL(Categorical((0.0, 0.5, 1.0))))
    batch = trainer.collect(trainer.state.agents)
    table = torch.tensor(Categorical((0.0, 0.5, 1.0)).table(3))
    want = table[batch.extra[DRAW]].gather(-1, batch.actions) * batch.alive[..., None]
    torch.testing.assert_close(batch.payments, want)


@pytest.mark.parametrize("head", [Categorical((0.0, 1.1)), SquashedGaussian()], ids=lambda h: type(h).__name__)
def test_dual_rl_gradient(head):
    """The gradient in closed form against automatic differentiation of the REINFORCE loss."""
    designer = DualRL(head, MLP((8,)), optim.SGD(1.0), entropy=0.1)
    trainer = room(designer)
    batch = trainer.collect(trainer.state.agents)
    state = trainer.state.designer
    rewards = batch.designer_rewards - batch.payments.sum(-1)
    weights = torch.zeros_like(rewards)
    for t in range(rewards.shape[1]):
        for j in range(t, rewards.shape[1]):
            weights[:, t] += 0.99 ** (j - t) * rewards[:, j]
    rows = designer.view.rows(batch)

    def loss(eta):
        out = designer.network(eta, rows).unflatten(1, batch.alive.shape[1:])
        if isinstance(head, Categorical):
            log_p = out.log_softmax(-1)
            chosen = log_p.gather(-1, batch.extra[DRAW][..., None])[..., 0]
            bonus = -(log_p.exp() * log_p).sum(-1) * batch.alive
            return -(weights * batch.alive * chosen + 0.1 * bonus).sum() / batch.k
        drawn = batch.extra[DRAW]
        return (weights * batch.alive * ((drawn - out) ** 2 / 2).sum(-1)).sum() / batch.k

    want = torch.func.grad(loss)(state.eta)
    new = designer._learn(state, batch)
    for n, p in state.eta.items():
        torch.testing.assert_close(p - new.eta[n], want[n])


# ---------------------------------------------------------------------- agents who pay each other


def test_gifts_go_to_the_others_alone():
    incentive = MutualIncentive(3, SMALL)
    trainer = room(MetaGradient(incentive))
    batch = trainer.collect(trainer.state.agents)
    sigma = incentive.outputs(trainer.state.designer.eta, batch).sigma.unflatten(0, (2, 3))
    want = torch.zeros_like(batch.rewards)
    for giver in range(3):
        for taker in range(3):
            if giver != taker:
                want[..., taker] += 2 * sigma[:, giver, ..., taker] * batch.alive
    torch.testing.assert_close(batch.payments, want)


def test_a_giver_is_after_its_own_reward_for_what_others_do():
    trainer = room(MetaGradient(MutualIncentive(3, SMALL), advantages="returns"))
    batch = trainer.collect(trainer.state.agents)
    weights = trainer.designer.weights(trainer.state.designer, batch, 1)
    assert not weights[..., 1].any()
    torch.testing.assert_close(weights[..., 0], weights[..., 2])
    torch.testing.assert_close(weights[:, -1, :, 0], batch.rewards[:, -1, :, 1] * batch.alive[:, -1])


# ---------------------------------------------------------------------- adaptive mechanism design


@pytest.mark.parametrize("scores_at", ["own", "designer"])
def test_score_norms(scores_at):
    trainer = room(AMD(scores_at=scores_at), seeds=(3,))
    batch, agents = trainer.collect(trainer.state.agents), trainer.agents
    obs = AMD._designer_view(batch) if scores_at == "designer" else batch.obs
    norms = agents.score_norms(trainer.state.agents, batch, obs if scores_at == "designer" else None)
    policy = trainer.state.agents.policy
    for t, j, i in ((0, 0, 0), (0, 1, 2), (1, 3, 1)):
        row, action = obs["obs"][i, t * 4 + j], batch.actions[0, t, j, i]

        def log_prob(p, i=i, row=row, action=action):
            x = {"obs": row[None, None]}
            return agents.policy({n: w[i : i + 1] for n, w in p.items()}, x)[0, 0].log_softmax(-1)[action]

        grads = torch.func.grad(log_prob)(policy)
        want = sum((g**2).sum() for g in grads.values())
        torch.testing.assert_close(norms[0, t, j, i], want)


def test_the_designer_learns_at_every_step_from_that_step():
    designer = AMD(SMALL, optim.Adam(0.02), agents_lr=0.5, cost_weight=0.1)
    trainer = room(designer, seeds=(3,), k=8)
    batch = trainer.collect(trainer.state.agents)
    state, paid = designer.settle(trainer.state.designer, trainer.agents, trainer.state.agents, batch)
    first = designer.pay(trainer.state.designer, batch, None)
    torch.testing.assert_close(paid.payments[:, 0], first.payments[:, 0])
    assert not torch.allclose(paid.payments[:, 1], first.payments[:, 1])
    assert state.opt.t == trainer.state.designer.opt.t + 5


# ---------------------------------------------------------------------- surrogates


def test_cloning_makes_what_was_done_more_likely():
    trainer = room(MetaGradient(ByAction(SMALL), agent_model="surrogate"), seeds=(3,), k=16)
    designer, state = trainer.designer, trainer.state.designer.surrogate
    batch = trainer.collect(trainer.state.agents)
    before = trainer.agents.log_prob(state.agents, batch)
    for _ in range(20):
        state = designer.surrogate.fit(state, trainer.agents, batch)
    after = trainer.agents.log_prob(state.agents, batch)
    assert (after * batch.agents_alive).sum() > (before * batch.agents_alive).sum() + 1


def test_a_designer_with_surrogates_does_not_look_into_the_agents():
    """Whatever the agents' networks are, the same episodes make it learn the same."""
    ends = []
    for shift in (0.0, 0.3):
        trainer = room(MetaGradient(ByAction(SMALL), agent_model="surrogate"))
        batch, fresh = (trainer.collect(trainer.state.agents) for _ in range(2))
        agents = trainer.state.agents
        moved = agents._replace(policy={n: p + shift for n, p in agents.policy.items()})
        after, steps = trainer.agents.update(moved, batch, trainer.rng)
        from metagrad.designers import Transition

        t = Transition(moved, steps, after, [batch], fresh)
        state, _ = trainer.designer.update(trainer.state.designer, trainer.agents, t, trainer.rng)
        ends.append(state.eta)
    for n, p in ends[0].items():
        assert torch.equal(p, ends[1][n]), n


def test_amd_with_any_module_leaves_seeds_apart():
    """Gradients of whatever shape are cut to the longest length, each seed's by its own."""
    designer = AMD(ModuleNetwork(lambda: torch.nn.Linear(8, 2)), optim.Adam(0.02), grad_clip=1e-3)
    grads = {"weight": torch.stack([torch.full((2, 8), 10.0), torch.full((2, 8), 1e-5)]), "bias": torch.eye(2)}
    clipped = designer._clipped(grads)
    assert torch.equal(clipped["weight"][1], grads["weight"][1])
    for name in grads:
        torch.testing.assert_close(clipped[name][0].norm(), torch.tensor(1e-3))
    Trainer(EscapeRoom(2, 1), PolicyGradientAgents((4,)), designer, seeds=(1, 2, 3), k=2).train(2)


def test_a_cost_of_0_is_none_and_a_small_one_small():
    def moved(cost):
        designer = MetaGradient(ByAction(SMALL), optim.SGD(0.0), cost=cost, cost_optimiser=optim.SGD(0.1))
        trainer = room(designer)
        before = trainer.state.designer.eta["w0"]
        trainer.train(1)
        return trainer.state.designer.eta["w0"] - before

    assert not moved(0.0).any()
    assert moved(1.0).any()
    torch.testing.assert_close(moved(0.25) * 4, moved(1.0))


def test_every_giver_is_clipped(monkeypatch):
    """The first one too, who does not answer for the first agent's actions."""
    clipped, found = losses.active_ratio, []
    monkeypatch.setattr(losses, "active_ratio", lambda *given: found.append(clipped(*given)) or found[-1])
    designer = MetaGradient(MutualIncentive(3), optim.SGD(5.0), epochs=2, clip=1e-6)
    Trainer(EscapeRoom(3, 2), PolicyGradientAgents((8,), optim.SGD(0.3)), designer, seeds=(1,), k=16).iterate()
    assert len(found) == 3
    assert all((ratio == 0).any() for ratio in found)


def test_perfect_surrogates_have_the_gradient_through_the_agents():
    designer = MetaGradient(ByAction(SMALL), optim.SGD(1.0), agent_model="surrogate", chain=1.0)
    designer = replace(designer, surrogate=replace(designer.surrogate, optimiser=optim.SGD(0.0)))
    trainer = room(designer)
    agents = trainer.state.agents
    surrogate = trainer.state.designer.surrogate
    state = trainer.state.designer._replace(surrogate=surrogate._replace(agents=agents))
    batch = trainer.collect(agents)
    after, steps = trainer.agents.update(agents, batch, trainer.rng)
    fresh = trainer.collect(after)
    from metagrad.designers import Transition

    t = Transition(agents, steps, after, [batch], fresh)
    cloned, _ = designer.update(state, trainer.agents, t, trainer.rng)
    seen, _ = replace(designer, agent_model="observed").update(state, trainer.agents, t, trainer.rng)
    for n, p in seen.eta.items():
        torch.testing.assert_close(cloned.eta[n], p)


# ---------------------------------------------------------------------- learning


def test_episodes_are_counted_with_validation():
    trainer = room(MetaGradient(ByAction(SMALL)), k=4)
    trainer.train(3)
    assert trainer.state.episodes == 4 * 4
    without = room(MetaGradient(ByAction(SMALL)), k=4, pipeline=False)
    without.train(3)
    assert without.state.episodes == 2 * 3 * 4


def test_selfish_agents_do_not_leave():
    e = experiment("escape-room", "er_5_2", "none")
    trainer = of(e)
    trainer.train(700)
    assert trainer.evaluate(50)["environment_return"].max() < 5


@pytest.mark.parametrize("name", ["er_2_1", "er_5_2"])
def test_the_designer_learns(name):
    e = experiment("escape-room", name)
    trainer = of(e)
    trainer.train(900)
    scores = trainer.evaluate(50)
    assert (scores["environment_return"] > 0.8 * e.task.bounds()["no pay"]).sum() >= 6, scores["environment_return"]


def test_in_large_rooms_the_designer_finds_the_lever_before_agents_settle():
    """All actions are paid alike at first; later the lever is paid, and the agents still try everything."""
    trainer = of(experiment("escape-room", "er_20_10"), seeds=(1, 2))
    paid, chosen = _by_action(trainer.collect(trainer.state.agents))
    assert (paid - 1).abs().max() < 0.2
    trainer.train(120)
    paid, chosen = _by_action(trainer.state.pending)
    assert paid[:, 0].min() > 1.8, paid
    assert paid[:, 1:].max() < 0.2, paid
    assert chosen.min() > 0.1, chosen


def _by_action(batch):
    """Mean payment for each action, and the share of each in the first step, ``[S, 3]``."""
    acts = batch.onehot_actions() * batch.alive[..., None, None]
    count = acts.sum((1, 2, 3))
    return (acts * batch.payments[..., None]).sum((1, 2, 3)) / count, acts[:, 0].mean((1, 2))
