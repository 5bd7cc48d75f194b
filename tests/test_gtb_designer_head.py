"""The tax designer: what it may choose, what it is paid, and its learning step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from economy import agents, captured, task

from metagrad import estimators, losses
from metagrad.agents.base import grad_of
from metagrad.agents.critics import Critic, DesignerCritic
from metagrad.designers import DualRL, StateOnly
from metagrad.designers.dual_rl import ACTED, DRAW
from metagrad.networks import MLP, ConvTrunk
from metagrad.optim import Adam
from metagrad.tasks.gtb import PerBracketCategorical, Welfare
from metagrad.trainer import Trainer

TRUNK = ConvTrunk(filters=2, kernel=5, convolutions=2, hidden=(9,))


def designer(**options):
    critic = DesignerCritic(Critic(MLP((7,)), Adam(2e-3)), learn_lambda=options.get("gae_lambda", 0.98))
    settings = {
        "network": TRUNK, "optimiser": Adam(1e-3), "gamma": 1.0, "gae_lambda": 0.98, "entropy": 0.01, "critic": critic,
        "reward_less_payments": False, "reduction": "rows", "view": StateOnly(), "rewards": Welfare(),
        "normalise": True,
    }  # fmt: skip
    return DualRL(PerBracketCategorical(), **{**settings, **options})


def trainer(game=None, **options):
    where = task(tax_mode="planner", **(game or {}))
    return Trainer(where, agents(), designer(**options), seeds=(1,), k=3, dtype=torch.float64)


def played(made):
    batch = made.collect(made.state.agents)
    return batch, batch.extra[ACTED][0, :, 0].nonzero()[:, 0].tolist()


def test_choices_are_allowed_and_come_into_force():
    made = trainer()
    batch, steps = played(made)
    assert steps == [0, 5, 10, 15]
    mask, choices = batch.designer_obs["mask"][0, steps].bool(), batch.extra[DRAW][0, steps]
    assert mask.shape == (4, 3, 7, 22)
    assert mask.gather(3, choices[..., None]).all()
    live, chosen = made.env.state.taxes.live, choices[-1].numpy() > 0
    np.testing.assert_allclose(live[chosen], (choices[-1].numpy()[chosen] - 1) * 0.05)
    assert choices.unique().numel() > 5


def test_annealing_caps_the_choices():
    batch, steps = played(trainer({"anneal": "paper"}))
    assert batch.extra[DRAW][0, steps].max() <= 3  # rates up to 0.1


def test_a_last_period_without_a_tax_day_has_a_decision():
    assert played(trainer({"steps": 18}))[1] == [0, 5, 10, 15]


def test_rewards_between_decisions():
    rewards = torch.arange(10, dtype=torch.float64)[None, :, None]
    got = estimators.between(rewards, [0, 4], 0.5)[0, :, 0]
    want = [sum(0.5**i * i for i in range(4)), sum(0.5**i * (4 + i) for i in range(6))]
    np.testing.assert_allclose(got, want)


def test_undiscounted_changes_of_welfare_add_up():
    made = trainer()
    batch, _ = played(made)
    seen, rewards, gamma = made.designer._decisions(batch)
    events = made.env.state.events
    assert gamma == 1.0
    assert rewards.shape == seen.alive.shape == (1, 4, 3)
    np.testing.assert_allclose(rewards.sum(1)[0].numpy(), events.equality * events.productivity / 4 - 10, atol=1e-9)


def test_discounts_go_by_steps():
    made = trainer(gamma=0.9)
    batch, steps = played(made)
    _, rewards, gamma = made.designer._decisions(batch)
    assert gamma == pytest.approx(0.9**5)
    want = estimators.between(Welfare()(batch), steps, 0.9)
    torch.testing.assert_close(rewards, want)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_first_step_is_the_policy_gradient(epochs):
    made = trainer(epochs=epochs, normalise=False, entropy=0.0, gae_lambda=1.0, rewards=Welfare("level"))
    batch, steps = played(made)
    state, designer, taken = made.state.designer, made.designer, []
    rewards = estimators.between(Welfare("level")(batch), steps, 1.0)
    seen = batch.at(torch.tensor(steps))
    values = designer.critic.values(state.critic, seen)[:, :-1]
    weights = rewards.flip(1).cumsum(1).flip(1) - values
    adam = designer.optimiser

    class Watching(Adam):
        def step(self, params, grads, opt):
            taken.append(grads)
            return adam.step(params, grads, opt)

    replace(designer, optimiser=Watching(1e-3))._learn(state, batch)
    assert len(taken) == epochs

    def loss(p):
        logits = designer.network(p, StateOnly().rows(seen)).unflatten(1, (4, 3)).unflatten(-1, (7, 22))
        log_p = losses.log_probabilities(logits, 0.0, seen.designer_obs["mask"].bool())
        return -(losses.chosen(log_p, seen.extra[DRAW]).sum(-1) * weights).mean()

    for name, p in grad_of(loss, state.eta).items():
        torch.testing.assert_close(taken[0][name], p)


def test_further_epochs_go_down_the_clipped_surrogate():
    """The second step's gradient is that of the clipped loss with the entropy of all brackets."""
    made = trainer(epochs=2, clip=0.01, entropy=0.3, optimiser=Adam(0.03))
    state, t = captured(made, 2)
    (batch,), designer, taken = t.batches, made.designer, []
    seen, rewards, gamma = designer._decisions(batch)
    weights, _ = designer._judged(state, seen, rewards, gamma)
    adam = designer.optimiser

    class Watching(Adam):
        def step(self, params, grads, opt):
            taken.append((params, grads))
            return adam.step(params, grads, opt)

    replace(designer, optimiser=Watching(0.03))._learn(state, batch)
    mask, draw, rows = seen.designer_obs["mask"].bool(), seen.extra[DRAW], StateOnly().rows(seen)

    def policy(p):
        logits = designer.network(p, rows).unflatten(1, (4, 3)).unflatten(-1, (7, 22))
        log_p = losses.log_probabilities(logits, 0.0, mask)
        return losses.chosen(log_p, draw).sum(-1), losses.entropy(log_p, mask).sum(-1)

    acted = policy(taken[0][0])[0].detach()

    def loss(p):
        log_p, entropy = policy(p)
        return -(losses.clipped_gain((log_p - acted).exp(), weights, 0.01) + 0.3 * entropy).mean()

    ratio = (policy(taken[1][0])[0] - acted).exp()
    assert ((ratio - 1).abs() > 0.01).any()  # some are clipped
    for name, p in grad_of(loss, taken[1][0]).items():
        torch.testing.assert_close(taken[1][1][name], p)


def test_it_learns_only_from_decisions():
    """What was observed in between does not matter."""
    made = trainer()
    batch, steps = played(made)
    other = {name: x.clone() for name, x in batch.designer_obs.items()}
    between = [t for t in range(20) if t not in steps]
    for x in other.values():
        x[:, between] = 0
    one = made.designer._learn(made.state.designer, batch)
    two = made.designer._learn(made.state.designer, batch.replace(designer_obs=other, memo={}))
    for name, p in one.eta.items():
        assert torch.equal(p, two.eta[name])
        assert not torch.equal(p, made.state.designer.eta[name])
    for name, p in one.critic.params.items():
        assert torch.equal(p, two.critic.params[name])


def test_decisions_must_be_equally_far_apart():
    made = trainer()
    batch, _ = played(made)
    acted = batch.extra[ACTED].clone()
    acted[:, 3] = 1
    with pytest.raises(ValueError, match="equally far apart"):
        made.designer._decisions(batch.replace(extra={**batch.extra, ACTED: acted}))
