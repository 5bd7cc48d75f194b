"""Learning on Cleanup: what agents are paid, scores, the central policy, surrogates, and going on where one stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metagrad import Critic, DesignerCritic, PolicyGradientAgents, Trainer
from metagrad.agents import Surrogate
from metagrad.agents.base import Credit
from metagrad.designers.dual_rl import DRAW
from metagrad.designers.incentives import Incentive
from metagrad.networks import MLP, ConvTrunk
from metagrad.optim import SGD, Adam, Linear
from metagrad.tasks.base import TaskError
from metagrad.tasks.cleanup import KINDS, METHODS, PRESETS, Cleanup
from metagrad.tasks.joint import JointAction

TINY = ConvTrunk(2, map_width=9, hidden=(8,), scale=1 / 255)


def tiny(method="metagrad", preset="cleanup", network=TINY, steps=12):
    """A preset with small networks and short episodes."""
    e = PRESETS[preset]()
    critic = replace(e.designer.critic, critic=replace(e.designer.critic.critic, network=network))
    incentive = replace(e.designer.incentive, network=network)
    agents = replace(e.agents, network=network, critic=replace(e.agents.critic, network=network))
    designer = replace(e.designer, incentive=incentive, critic=critic, optimiser=Adam(0.01))
    return METHODS[method](replace(e, task=replace(e.task, steps=steps), agents=agents, designer=designer))


def trainer_of(e, iterations=0, seeds=(1,), k=3, **options):
    trainer = Trainer(e.task, e.agents, e.designer, seeds=seeds, k=k, dtype=torch.float64, **options)
    trainer.train(iterations)
    return trainer


def with_designer(e, **options):
    return replace(e, designer=replace(e.designer, **options))


def with_agents(e, **options):
    return replace(e, agents=replace(e.agents, **options))


def watched(trainer):
    """The designer's state and what it learns from in the next iteration."""
    found, designer = [], trainer.designer

    def update(state, agents, transition, rng):
        found.append((state, transition))
        return type(designer).update(designer, state, agents, transition, rng)

    object.__setattr__(designer, "update", update)
    trainer.iterate()
    object.__delattr__(designer, "update")
    return found[0]


# ---------------------------------------------------------------------- payments and scores


def test_agents_are_paid_for_the_type_of_their_action():
    trainer = trainer_of(tiny(), 3)
    eta, incentive = trainer.state.designer.eta, trainer.designer.incentive
    batch = trainer.collect(trainer.state.agents)
    assert batch.payments.min() > 0
    assert batch.payments.max() < 2
    paid = incentive.payments({n: p.clone().requires_grad_() for n, p in eta.items()}, batch)
    torch.testing.assert_close(paid.detach(), batch.payments, rtol=1e-14, atol=1e-14)
    types, sigma = batch.extra["action_type"], incentive.outputs(eta, batch).sigma
    for s, t, k, i in np.ndindex(*types.shape):
        assert batch.payments[s, t, k, i] == 2 * sigma[s, t, k, int(types[s, t, k, i])]
    assert (types == 0).equal(batch.extra["cleaned"] > 0)


def test_a_beam_at_nothing_is_paid_as_doing_nothing():
    trainer = trainer_of(tiny(preset="cleanup_10x10"), 3)
    batch = trainer.collect(trainer.state.agents)
    sigma = trainer.designer.incentive.outputs(trainer.state.designer.eta, batch).sigma
    cleaned, waste = batch.extra["cleaned"] > 0, batch.extra["waste"]
    assert (cleaned & (waste == 0)).any()
    assert (waste > 0).any()
    for s, t, k, i in np.ndindex(*cleaned.shape):
        kind = 0 if waste[s, t, k, i] > 0 else 1 if batch.rewards[s, t, k, i] > 0 else 2
        assert batch.payments[s, t, k, i] == 2 * sigma[s, t, k, kind]


def test_an_agent_is_hired_for_the_state_of_the_river():
    """Paid is its price times the growth, which falls with the waste in the river; the others are paid nothing."""
    trainer = trainer_of(tiny(preset="cleanup_10x10_hired", steps=30), 3)
    eta, incentive = trainer.state.designer.eta, trainer.designer.incentive
    batch = trainer.collect(trainer.state.agents)
    growth, sigma = batch.extra["growth"], incentive.outputs(eta, batch).sigma
    assert growth.unique().numel() > 2
    assert 0 <= growth.min() < growth.max() <= 1
    assert torch.equal(batch.payments[..., 0], 2 * (sigma[..., 0] * growth))
    assert not batch.payments[..., 1:].any()
    credit = Credit(batch.rewards, torch.rand_like(batch.rewards), 0.9)
    for name, mine in incentive.vjp(eta, batch, credit).items():
        torch.testing.assert_close(mine, Incentive.vjp(incentive, eta, batch, credit)[name])
    with pytest.raises(ValueError, match="hired must be from 0 to 2, got 3"):
        trainer_of(with_designer(tiny(preset="cleanup_10x10_hired"), incentive=replace(incentive, hired=3)))


@pytest.mark.parametrize("preset", ["cleanup_10x10", "cleanup_10x10_hired", "cleanup_large"])
def test_on_larger_maps_agents_see_what_is_in_a_cell(preset):
    e = PRESETS[preset]()
    trainer = trainer_of(replace(e, task=replace(e.task, steps=4)))
    batch = trainer.collect(trainer.state.agents)
    for picture in (batch.obs["obs"], batch.designer_obs["obs"]):
        assert picture.shape[-1] == e.task.channels == 6 + e.task.n_agents + 4
        assert set(picture.unique().tolist()) == {0, 1}
    for network in (e.agents.network, e.designer.incentive.network):
        assert [channel for channel, _, _ in network.planes] == list(range(e.task.channels))


def test_payments_start_where_they_are_told_to():
    e = tiny(preset="cleanup_10x10")
    batch = trainer_of(e).collect(trainer_of(e).state.agents)
    incentive = e.designer.incentive
    zero = {n: torch.zeros_like(p) for n, p in trainer_of(e).state.designer.eta.items()}
    paid = incentive.payments(zero, batch)
    assert paid[batch.extra["waste"] > 0].numpy() == pytest.approx(incentive.start[0], rel=1e-12)
    assert paid[batch.extra["waste"] == 0].numpy() == pytest.approx(incentive.start[2], rel=1e-12)
    with pytest.raises(ValueError, match=r"ByEffect.start must be below the scale of 2.0, got \(0.3, 2.0, 0.1\)"):
        replace(incentive, start=(0.3, 2.0, 0.1))
    with pytest.raises(ValueError, match=r"ByEffect.start must have 3 payments, got \(0.3, 0.1\)"):
        trainer_of(replace(e, designer=replace(e.designer, incentive=replace(incentive, start=(0.3, 0.1)))))


def test_the_designer_sees_the_whole_map_and_who_cleans():
    trainer = trainer_of(tiny())
    batch = trainer.collect(trainer.state.agents)
    view = trainer.designer.incentive.view
    seen = view.rows(batch)
    assert {n: tuple(x.shape[2:]) for n, x in seen.items()} == view.shapes(trainer.task.interface)
    flags = seen["cleaners"].view(1, 12, 3, 2, 2)
    assert flags[..., 0].equal(batch.extra["cleaned"].double())
    assert (flags.sum(-1) == 1).all()
    assert seen["overview"].dtype == torch.uint8
    assert seen["overview"].shape == (1, 36, 9, 9, 3)


@pytest.mark.parametrize("preset", ["cleanup_10x10", "cleanup_large"])
def test_larger_maps_are_seen_whole(preset):
    trainer = trainer_of(tiny(preset=preset, steps=4), 1, k=2)
    side, _, _ = trainer.task.interface.designer["obs"]
    assert side >= max(trainer.env.options.symbols.shape)
    assert trainer.state.pending.payments.shape == (1, 4, 2, trainer.env.n_agents)


def test_scores():
    trainer = trainer_of(tiny(), 2)
    batch = trainer.collect(trainer.state.agents)
    found = trainer.task.scores(batch)
    assert list(found)[: len(Cleanup.fields)] == list(Cleanup.fields)
    assert found["welfare"][0] == pytest.approx(float(batch.rewards.sum()) / 3)
    assert found["incentives_paid"][0] == pytest.approx(float(batch.payments.sum()) / 3)
    assert found["waste"].sum() == found["waste_cleared"][0] == float(batch.extra["waste"].sum()) / 3
    assert found["reward"].sum() == pytest.approx(found["welfare"][0])
    assert sum(found[f"n_{kind}"].sum() for kind in KINDS) == pytest.approx(12 * 2)
    assert sum(found[f"received_{kind}"].sum() for kind in KINDS) == pytest.approx(found["incentives_paid"][0])
    assert found["n_cleaned"][0, 1] == float(batch.extra["cleaned"][..., 1].sum()) / 3


def test_stored_log_probabilities_are_the_policys():
    trainer = trainer_of(with_agents(tiny(), exploration=Linear(0.5, 0.3, 100)), 2)
    batch = trainer.collect(trainer.state.agents)
    assert batch.epsilon == pytest.approx(0.496)
    got = trainer.agents.log_prob(trainer.state.agents, batch.replace(memo={}))
    torch.testing.assert_close(got, batch.log_prob, rtol=1e-9, atol=1e-9)


def test_the_designers_draws_have_unit_deviation():
    trainer = trainer_of(tiny("dual-rl-continuous"), 1)
    batch = trainer.collect(trainer.state.agents)
    noise = batch.extra[DRAW] - trainer.designer._outputs(trainer.state.designer, batch)
    assert noise.std() == pytest.approx(1, abs=0.15)
    assert ((batch.payments > 0) & (batch.payments < 2)).all()


# ---------------------------------------------------------------------- the central policy


def test_the_central_policy_acts_for_all():
    trainer = trainer_of(tiny("central"), 2)
    assert trainer.task.n_agents == 1
    assert trainer.task.n_actions == 36
    batch = trainer.collect(trainer.state.agents)
    assert batch.actions.shape == (1, 12, 3, 1)
    torch.testing.assert_close(batch.rewards[..., 0], batch.extra["agent_rewards"].sum(-1).double())
    digits = torch.stack([batch.actions[..., 0] % 6, batch.actions[..., 0] // 6], -1)
    assert (digits == 5).equal(batch.extra["cleaned"] > 0)  # the last action cleans
    found = trainer.task.scores(batch)
    assert found["reward"].shape == (1, 2)
    assert found["welfare"][0] == pytest.approx(float(batch.rewards.sum()) / 3)


def test_too_many_joint_actions_are_refused():
    with pytest.raises(TaskError, match="joint actions"):
        JointAction(Cleanup(n_agents=5, map="large_25x18", actions="all"))


# ---------------------------------------------------------------------- surrogates


def cloned(lr=0.02, steps=2):
    return with_designer(tiny(), agent_model="surrogate", surrogate=Surrogate(Adam(lr), steps))


def test_surrogates_come_to_do_what_agents_do():
    """Agents that stay as they are, watched for 40 batches."""
    trainer = trainer_of(with_agents(cloned(steps=4), optimiser=SGD(0.0)), k=16)
    policy = {name: 3 * p for name, p in trainer.state.agents.policy.items()}  # something to be learned
    trainer.state = trainer.state._replace(agents=trainer.state.agents._replace(policy=policy))
    batch = trainer.collect(trainer.state.agents)

    def distance():
        own = trainer.state.designer.surrogate.agents
        p, q = (trainer.agents.policy(x, batch.obs).softmax(-1) for x in (policy, own.policy))
        return float((p - q).abs().sum(-1).mean())

    first = distance()
    trainer.train(40)
    assert first > 0.3
    assert distance() < first / 3


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_designer_with_surrogates_looks_into_no_agent(epochs):
    """Whatever the agents' networks and optimisers are, on the same episodes the designer does the same."""
    trainer = trainer_of(with_designer(cloned(), epochs=epochs), 2)
    state, t = watched(trainer)
    nothing = {name: torch.full_like(p, float("nan")) for name, p in t.before.policy.items()}
    strange = t.before._replace(policy=nothing, critic=t.before.critic._replace(params=nothing, target=nothing))

    def unknown(batch):
        return batch.replace(values=batch.values * float("nan"), log_prob=batch.log_prob * float("nan"), memo={})

    hidden = t._replace(
        before=strange, after=strange, steps=[], batches=[unknown(b) for b in t.batches], fresh=unknown(t.fresh)
    )
    one, other = (trainer.designer.update(state, trainer.agents, x, trainer.rng)[0] for x in (t, hidden))
    for name, p in one.eta.items():
        assert not p.equal(state.eta[name])
        assert p.equal(other.eta[name])


# ---------------------------------------------------------------------- going on


RUNS = {
    **{method: (tiny(method), {}) for method in METHODS},
    "paper": (tiny("none", "cleanup_paper"), {}),
    "paper_metagrad": (tiny("metagrad", "cleanup_paper"), {"k": 1}),
    "cloned": (cloned(), {}),
    "cloned_no_cv": (with_designer(cloned(), validation="before"), {}),
    "three_batches": (tiny(), {"agent_batches": 3}),
    "replayed": (with_designer(tiny(), agent_model="replayed"), {}),
    "cost": (with_designer(tiny(), cost=0.1), {}),
    "no_pipeline": (tiny("metagrad-no-cv"), {"pipeline": False}),
    "ppo": (with_agents(tiny(), minibatches=2, epochs=2), {}),
    "ppo_whole_batches": (with_agents(tiny(), epochs=2), {}),
    "ppo_replayed": (with_designer(with_agents(tiny(), epochs=2), agent_model="replayed"), {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_loaded_goes_on_bit_for_bit(name):
    e, options = RUNS[name]
    whole = trainer_of(e, 4, **options)
    cut = trainer_of(e, 2, **options)
    saved = {n: t.clone() for n, t in cut.tensors().items()}
    cut.train(1)
    cut.load(saved)
    fresh = trainer_of(e, **options)
    fresh.load(saved)
    for trainer in (cut, fresh):
        trainer.train(2)
        a, b = whole.tensors(), trainer.tensors()
        assert a.keys() == b.keys()
        assert not [n for n in a if not a[n].equal(b[n])]
    first = trainer_of(e, **options).tensors()
    assert [n for n in first if n.startswith("agents/policy/") and not first[n].equal(a[n])]
    assert all(t.isfinite().all() for n, t in a.items() if n.startswith(("agents/", "designer/")))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("replayed", "metagrad"), ("cost", "metagrad"), ("cloned", "metagrad"), ("three_batches", "metagrad"),
        ("no_pipeline", "metagrad-no-cv"),
    ],
)  # fmt: skip
def test_options_change_what_the_designer_learns(name, plain):
    a, b = (trainer_of(RUNS[n][0], 3, **RUNS[n][1]).state.designer.eta for n in (name, plain))
    assert any(not p.equal(b[n]) for n, p in a.items())


def test_evaluation_does_not_disturb_training():
    quiet, watched_one = (trainer_of(tiny("dual-rl-continuous")) for _ in range(2))
    for _ in range(3):
        quiet.iterate()
        watched_one.iterate()
        one, other = watched_one.evaluate(5), watched_one.evaluate(5)
        assert all((one[n] == other[n]).all() for n in one)
    a, b = quiet.tensors(), watched_one.tensors()
    assert not [n for n in a if not a[n].equal(b[n])]


def test_seeds_do_not_depend_on_each_other():
    """With networks that are stacked: bit for bit the same alone."""
    e = tiny(network=MLP((8,)))
    e = with_designer(with_agents(e, optimiser=Adam(0.01)), agent_model="surrogate")
    both, alone = trainer_of(e, 3, (5, 8), k=16), trainer_of(e, 3, (8,), k=16)
    for kind in ("agents", "designer"):
        state, own = (trainer.tensors() for trainer in (both, alone))
        for n, t in own.items():
            if n.startswith(f"{kind}/") and t.dim():
                assert state[n][len(t) :].equal(t), n


def test_agents_of_pictures_are_one_network():
    agents = PolicyGradientAgents(network=TINY, critic=Critic(TINY))
    with pytest.raises(ValueError, match="share_parameters"):
        Trainer(Cleanup(), agents, METHODS["none"](tiny()).designer)
    assert isinstance(tiny().designer.critic, DesignerCritic)
