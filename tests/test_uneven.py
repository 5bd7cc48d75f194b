"""Episodes that end at different times: how long those of other seeds go on changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from games import Until

from metagrad import (
    ByAction,
    Categorical,
    Critic,
    DualRL,
    IncentiveFunction,
    LinearCritic,
    MetaGradient,
    NoDesigner,
    PolicyGradientAgents,
    Trainer,
    VectorTask,
    estimators,
    losses,
    optim,
)
from metagrad.agents.policy_gradient import mixed_rows
from metagrad.metagradient import Sensitivity
from metagrad.networks import MLP

TASK = VectorTask(Until, 40)
PLAIN = PolicyGradientAgents((8,), optim.SGD(0.1), normalise=True)
LEARNING = MetaGradient(ByAction(MLP((8,), output_bias=False)), optim.SGD(0.5), cost=0.02)
SUBSIDY = IncentiveFunction(
    lambda eta, batch: eta["x"][:, None, None, None] * torch.ones_like(batch.rewards),
    init=lambda n: {"x": torch.ones(n)},
)
LINEAR = LinearCritic(lambda batch: batch.designer_obs["obs"].double())
CASES = {
    "plain": (PLAIN, LEARNING),
    "mean over the agents' rows": (
        replace(PLAIN, critic=Critic(MLP((4,))), gae_lambda=0.9, reduction="rows"), LEARNING,
    ),
    "minibatches": (replace(PLAIN, minibatches=2), NoDesigner()),
    "minibatches and a critic": (replace(PLAIN, minibatches=2, epochs=2, critic=Critic(MLP((4,)))), NoDesigner()),
    "mean over the designer's rows": (PLAIN, replace(LEARNING, reduction="rows")),
    "dual RL": (PLAIN, DualRL(Categorical(), optimiser=optim.SGD(0.5), reduction="rows")),
    "linear critic": (PLAIN, replace(LEARNING, advantages="gae", critic=LINEAR)),
    "payments that do not end": (PLAIN, replace(LEARNING, incentive=SUBSIDY)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_seed_does_not_see_how_long_the_others_play(name):
    """Three seeds beside one another are as each alone, with batches of other lengths."""
    together, *alone = (Trainer(TASK, *CASES[name], seeds=seeds, k=4) for seeds in ((1, 2, 3), (1,), (2,), (3,)))
    for t in (together, *alone):
        t.train(4)
    every = together.tensors()
    for s, t in enumerate(alone):
        for n, mine in t.tensors().items():
            if n.startswith(("agents/policy/", "agents/critic/params/", "designer/eta/")):
                assert torch.equal(every[n].reshape(3, -1)[s], mine.flatten()), n


def test_minibatches_share_out_the_steps_that_were_played():
    t = Trainer(TASK, replace(PLAIN, share_parameters=True), NoDesigner(), seeds=(1, 2), k=4)
    batch = t.collect(t.state.agents)
    alive = t.agents.rows.of(batch.agents_alive)
    parts = list(mixed_rows(batch, 3, False, t.rng))
    for s, mine in enumerate(alive):
        rows = [part[s][part[s] >= 0] for part in parts]
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        assert sorted(torch.cat(rows).tolist()) == mine.nonzero()[:, 0].tolist()


class Levers(IncentiveFunction):
    """A bonus for each of two actions in every living step, by numbers that are common to all."""

    def __init__(self):
        super().__init__(
            lambda eta, batch: (batch.onehot_actions()[..., :2] * eta["x"][:, None, None, None]).sum(-1),
            init=lambda n: {"x": torch.tensor([0.3, 0.1]).repeat(n, 1)},
        )

    def levers(self, game):
        return 2

    def advantage_slopes(self, batch, decay):
        given = batch.onehot_actions()[..., :2].double().unbind(-1)
        return torch.stack([estimators.discounted_sums(one, decay) for one in given], -1)

    def levers_vjp(self, eta, batch, d_levers):
        return {"x": d_levers.to(eta["x"].dtype)}


@pytest.mark.parametrize("stride", [1, 8, 24, 100])
@pytest.mark.parametrize("reduction", ["episode", "rows"])
@pytest.mark.parametrize("response_time", [64.0, "measured"])
def test_a_carried_response_does_not_see_how_long_the_others_play(reduction, stride, response_time):
    """Though some steps of an episode stand for all, and none may be left where they begin."""
    agents = replace(PLAIN, reduction=reduction, share_parameters=True)
    made = MetaGradient(Levers(), optim.SGD(0.5), path=Sensitivity(response_time, stride))
    together, *alone = (Trainer(TASK, agents, made, seeds=seeds, k=8) for seeds in ((1, 2, 3), (1,), (2,), (3,)))
    for t in (together, *alone):
        t.train(6)
    eta = together.state.designer.eta["x"]
    assert not torch.equal(eta[0], eta[1])
    for s, t in enumerate(alone):  # longer sums differ in their last bits
        torch.testing.assert_close(eta[s], t.state.designer.eta["x"][0], rtol=1e-5, atol=1e-5)


def test_steps_that_stand_for_all_come_to_the_same_on_average():
    agents = replace(PLAIN, share_parameters=True)
    t = Trainer(TASK, agents, NoDesigner(), seeds=(1,), k=8)
    batch = t.collect(t.state.agents)
    weights = t.agents.rows.of(batch.rewards * torch.arange(batch.alive.shape[1])[:, None, None])
    by_step = torch.arange(weights.shape[1]).view(batch.alive.shape[1], -1)
    places = [by_step[first::7].flatten() for first in range(7)]
    found = [(weights[:, rows] * agents.row_scale(batch, rows, 7)).sum() for rows in places]
    torch.testing.assert_close(sum(found) / 7, weights.sum() / batch.k)


def test_nobody_is_paid_after_the_end():
    t = Trainer(TASK, PLAIN, MetaGradient(SUBSIDY), seeds=(1, 2), k=4)
    batch = t.collect(t.state.agents)
    assert (batch.alive == 0).any()
    assert torch.equal(batch.payments, batch.agents_alive)


def test_a_linear_critic_learns_from_the_steps_that_were_played():
    """As from each step's episodes that go on alone, and it is worth nothing to have ended."""
    t = Trainer(TASK, PLAIN, replace(LEARNING, advantages="gae", critic=LINEAR), seeds=(1,), k=16)
    batch = t.collect(t.state.agents)
    features = torch.rand(*batch.alive.shape, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    critic = LinearCritic(lambda batch: features)
    state = critic.update({}, batch, batch.designer_rewards, 0.9)
    returns = estimators.discounted_sums(batch.designer_rewards.double(), 0.9)
    values, alive = critic.values(state, batch), batch.alive.bool()
    assert not values[:, :-1][~alive].any()
    assert not values[:, -1].any()
    played = [t for t in range(alive.shape[1]) if alive[0, t].any()]
    assert 0 < len(played) <= 40
    x, y = (
        torch.cat([z[0, t][alive[0, t]] - z[0, t][alive[0, t]].mean() for t in played])
        for z in (features[..., 0], returns)
    )
    want = torch.cat([returns[0, t][alive[0, t]].mean().expand(int(alive[0, t].sum())) for t in played])
    torch.testing.assert_close(values[:, :-1][alive], want + x * (x @ y) / (x @ x) / 1.001)


def test_the_entropy_that_is_noted_is_that_of_the_policies():
    """By the actions that were drawn, over living steps alone, and within what chance allows of the exact one."""
    t = Trainer(TASK, replace(PLAIN, exploration=0.1), NoDesigner(), seeds=(1, 2), k=500)
    t.train(20)
    batch = t.collect(t.state.agents)
    logits = t.agents.act(t.state.agents, batch.obs).out
    policy = losses.probabilities(logits, batch.epsilon, batch.obs.get("mask")).mixed
    exact = -(policy * policy.log()).nan_to_num().sum(-1)
    alive = t.agents.rows.of(batch.agents_alive)
    for s, mine in enumerate(batch.policy_entropy):
        where = alive.reshape(2, -1)[s] > 0
        wanted, spread = exact.reshape(2, -1)[s][where].mean(), policy.log().std() / where.sum() ** 0.5
        assert abs(mine - wanted) < 4 * spread
        assert mine < 0.97 * np.log(batch.n_actions)
    assert torch.equal(t.iterate(diagnose=True)["policy_entropy"].isfinite(), torch.ones(2, dtype=torch.bool))
