"""The meta-gradient is exact: forward mode = the unrolled oracle = finite differences, for every combination.

Rows are (task, agents, designer); everything is in float64.
"""

from dataclasses import replace

import pytest
import torch
from games import Lights

from fastenvs.cleanup import PRESETS
from metagrad import (
    ByAction,
    ByActionType,
    ByAgent,
    Critic,
    DesignerCritic,
    IncentiveFunction,
    MetaGradient,
    MutualIncentive,
    PolicyGradientAgents,
    Surrogate,
    Trainer,
    VectorTask,
    optim,
)
from metagrad.metagradient import log_prob_objective, unrolled
from metagrad.networks import MLP, ConvTrunk, ModuleNetwork, RecurrentTrunk
from metagrad.optim import Linear
from metagrad.tasks.cleanup import Cleanup, OverviewAndCleaners
from metagrad.tasks.escape_room import EscapeRoom
from metagrad.tasks.gtb import GatherTradeBuild, TaxSchedule
from metagrad.tasks.taxes.schedule import BASE


class Lit(VectorTask):
    """Lights with the type of action recorded."""

    def record(self, env, info):
        return {"action_type": (info["bright"] > 1).astype("int64")}


def room():
    return EscapeRoom(3, 1, 5)


def lights():
    return Lit(Lights, 5)


def plain_lights():
    return Lit(lambda n, seed=None: Lights(n, seed, plain=True), 5)


def river():
    return Cleanup(steps=12)


def wide_river():
    return Cleanup(**{**PRESETS["authors_10x10"], "steps": 6})


def economy():
    return GatherTradeBuild(steps=10, tax_period=5)


def needy_economy():
    return GatherTradeBuild(
        steps=10, tax_period=5, brackets=(0, 1.5, 4), rebate="need", skills=(0.5, 1.2, 2, 4), utility_eta=0.5,
    )  # fmt: skip


def ranked_economy():
    return GatherTradeBuild(steps=10, tax_period=5, brackets=(0,), rebate="rank", productivity_only_weight=0.4)


def linear_payments(eta, batch):
    seen = next(iter(batch.designer_obs.values())).flatten(3)
    rate = (seen @ eta["w"][:, None] + eta["b"][:, None, None]).tanh() + 0.5
    return rate * (batch.actions > 0) * batch.alive[..., None]


def own_incentive(width):
    def init(n, generator):
        return {"w": 0.3 * torch.randn(n, width, 1, generator=generator), "b": torch.zeros(n, 1)}

    return IncentiveFunction(linear_payments, init)


SMALL = MLP((8,), output_bias=False)
CRITIC = Critic(MLP((6,)), optim.Adam(0.02))
AGENTS = {
    "sgd": PolicyGradientAgents((8,), optim.SGD(0.03), entropy=0.02),
    "adam": PolicyGradientAgents((8,), optim.Adam(0.02), entropy=0.02),
    "adam_tf1": PolicyGradientAgents((8,), optim.Adam(0.02, eps_mode="tf1"), entropy=0.0),
    "shared": PolicyGradientAgents((8,), optim.SGD(0.03), share_parameters=True),
    "shared_adam_normalised": PolicyGradientAgents((8,), optim.Adam(0.02), share_parameters=True, normalise=True),
    "normalised_rows": PolicyGradientAgents((8,), optim.SGD(0.03), normalise=True, reduction="rows"),
    "td_critic": PolicyGradientAgents((8,), optim.SGD(0.03), critic=CRITIC, gae_lambda=0.0),
    "gae_bootstrap": PolicyGradientAgents(
        (8,), optim.Adam(0.02), critic=CRITIC, gae_lambda=0.9, terminal="bootstrap", normalise=True, reduction="rows",
        share_parameters=True,
    ),
    "exploring": PolicyGradientAgents((8,), optim.SGD(0.03), exploration=Linear(0.4, 0.1, 10), entropy=0.03),
    "minibatches": PolicyGradientAgents(
        (8,), optim.Adam(0.05), minibatches=2, epochs=2, clip=0.05, reduction="rows", share_parameters=True,
    ),
}  # fmt: skip


class Pixels(torch.nn.Module):
    """A module on pictures of bytes."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(243, 7), torch.nn.Linear(7, 6)

    def forward(self, picture):
        return self.outer(torch.tanh(self.inner(picture.flatten(1) / 255)))


TRUNK = ConvTrunk(2, map_width=9, hidden=(8,), scale=1 / 255)
CLEANERS = PolicyGradientAgents(
    network=TRUNK, optimiser=optim.Adam(0.03), share_parameters=True, gamma=0.9, gae_lambda=0.9, entropy=0.1,
    critic=Critic(TRUNK, optim.Adam(0.02)), terminal="bootstrap", normalise=True, reduction="rows",
)  # fmt: skip
PICTURES = {
    "pictures": CLEANERS,
    "pictures_plain": replace(CLEANERS, normalise=False, entropy=0.0),
    "pictures_sgd": replace(CLEANERS, optimiser=optim.SGD(0.1)),
    "pictures_td": replace(CLEANERS, gae_lambda=0.0, critic=replace(CLEANERS.critic, target_tau=0.1)),
    "pictures_exploring": replace(CLEANERS, exploration=Linear(0.4, 0.2, 100)),
    "module": replace(
        CLEANERS, critic=None, gae_lambda=1.0, share_parameters=False,
        network=ModuleNetwork(Pixels),
    ),
}  # fmt: skip
# Small first logits: large ones of one action drown all others, and nobody has an income.
WORKERS = PolicyGradientAgents(
    network=MLP((8,), head_scale=0.1), optimiser=optim.Adam(0.03), share_parameters=True, gae_lambda=0.98, entropy=0.1,
    critic=Critic(MLP((6,), head_scale=0.1), optim.Adam(0.02), reads=("flat",)), terminal="bootstrap", normalise=True,
    reduction="rows",
)  # fmt: skip
ECONOMY = {
    "workers": WORKERS,
    "workers_plain": replace(WORKERS, normalise=False, entropy=0.0),
    "workers_exploring": replace(WORKERS, exploration=Linear(0.4, 0.2, 100)),
    "workers_minibatches": replace(WORKERS, minibatches=3),
    "workers_convolutions": replace(
        WORKERS, network=ConvTrunk(2, 5, 2, hidden=(8,)),
        critic=Critic(RecurrentTrunk(ConvTrunk(2, 5, 2, hidden=(6, 5))), optim.Adam(0.02)),
    ),
    "workers_apart": replace(WORKERS, share_parameters=False, critic=None, optimiser=optim.SGD(0.1)),
}  # fmt: skip
TAXES = TaxSchedule(baseline=False)
OVERVIEW = ByActionType(TRUNK, view=OverviewAndCleaners())
ROWS = [
    *((room, a, ByAction(SMALL), 1) for a in AGENTS),
    *((lights, a, ByAction(SMALL), 1) for a in AGENTS),
    *((room, a, ByAction(SMALL), 3) for a in ("sgd", "adam", "adam_tf1", "shared", "td_critic", "exploring")),
    *((lights, a, ByAction(SMALL), 3) for a in ("sgd", "adam", "shared_adam_normalised", "gae_bootstrap")),
    (room, "sgd", ByAgent(SMALL), 1),
    (lights, "adam", ByAgent(SMALL), 2),
    (lights, "sgd", ByActionType(SMALL, types=2), 1),
    (room, "sgd", MutualIncentive(3, SMALL), 1),
    (plain_lights, "adam", MutualIncentive(2, SMALL), 2),
    (lights, "shared", MutualIncentive(2, SMALL), 1),
    (lights, "adam", own_incentive(2), 1),
    (plain_lights, "gae_bootstrap", own_incentive(2), 2),
    *((river, a, OVERVIEW, 1) for a in PICTURES),
    (river, "pictures", OVERVIEW, 3),
    (river, "pictures_sgd", ByAction(TRUNK, view=OverviewAndCleaners()), 2),
    (wide_river, "pictures", OVERVIEW, 1),
    *((economy, a, TAXES, 1) for a in ECONOMY),
    *((make, "workers", TAXES, 1) for make in (needy_economy, ranked_economy)),
    # Further steps meet kinks: a tax that is just the coin at hand.
    (economy, "workers", TAXES, 2),
    (economy, "workers_convolutions", TAXES, 2),
    (economy, "workers", TaxSchedule(baseline=False, carry=True), 1),
    (economy, "workers", TaxSchedule(MLP((6,), head_scale=0.1), baseline=False), 1),
    (economy, "workers_plain", TaxSchedule(ConvTrunk(2, 5, 2, hidden=(6,)), baseline=False), 1),
]
ALL = AGENTS | PICTURES | ECONOMY


def label(row):
    task, agents, incentive, m = row
    network = getattr(incentive, "network", None) if incentive.in_rewards else None
    carry = "Carry" * getattr(incentive, "carry", False)
    kind = f"{type(incentive).__name__}{type(network).__name__ if network else ''}{carry}"
    return f"{task.__name__}-{agents}-{kind}-M{m}"


def watched(task, agents, designer, m, iterations=3):
    """A trainer after some iterations, and the designer's inputs and gradients of the last."""
    stacks = agents.policy.stacks and (getattr(designer.incentive, "network", None) or agents.policy).stacks
    seeds, k = (3, 8) if stacks else (3,), 4 if isinstance(task, GatherTradeBuild) else 8
    trainer = Trainer(task, agents, designer, seeds=seeds, k=k, agent_batches=m, dtype=torch.float64)
    seen = {}

    def update(state, agents, transition, rng):
        seen.update(state=state, transition=transition)
        return type(designer).update(designer, state, agents, transition, rng)

    object.__setattr__(designer, "update", update)
    for _ in range(iterations):
        trainer.iterate()
    object.__delattr__(designer, "update")
    return seen["state"], seen["transition"]


def designer_of(name, incentive):
    if name not in PICTURES:
        return MetaGradient(incentive, optim.Adam(0.01 if name in ECONOMY else 0.05))
    # Few apples are eaten in a short episode: values tell the actions apart.
    return MetaGradient(
        incentive, optim.Adam(0.05), advantages="gae", critic=DesignerCritic(CLEANERS.critic), gae_lambda=0.95,
        reduction="rows",
    )  # fmt: skip


def gradients(agents, designer, state, t, giver):
    """By forward mode and by unrolling."""
    weights = designer.weights(state, t.fresh, giver) * -designer._scale(t.fresh)
    adjoint = agents.score_vjp(t.after, t.fresh, weights)
    forward = designer.path.gradient(
        None, state.eta, agents, designer.incentive, t.steps, adjoint, t.fresh, giver
    )  # fmt: skip
    objective = log_prob_objective(agents, t.fresh, -weights)
    return forward, unrolled(agents, designer.incentive, state.eta, t.steps, objective, giver), objective


def relative(a, b):
    one, other = (torch.cat([p.flatten() for p in (x[n] for n in sorted(x))]) for x in (a, b))
    assert other.norm() > 1e-12, "the gradient is 0: nothing is tested"
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_forward_mode_is_the_unrolled_gradient(row):
    make, name, incentive, m = row
    agents, designer = ALL[name], designer_of(name, incentive)
    state, t = watched(make(), agents, designer, m)
    for giver in range(incentive.givers):
        forward, oracle, _ = gradients(agents, designer, state, t, giver)
        assert relative(forward, oracle) < 1e-9


def stepped(agents, incentive, eta, t):
    """The agents' parameters after their steps, had they been paid under another η."""
    params, opt = t.steps[0].forward.params, t.steps[0].opt
    for step in t.steps:
        batch = pinned(incentive, t.eta, step.batch)
        change = incentive.payments(eta, batch) - incentive.payments(t.eta, batch)
        rewards = step.batch.total_rewards + change
        loss = lambda p, s=step, r=rewards: agents.loss(  # noqa: E731
            p, s.batch, agents.advantages(s.batch, r), s.entropy, s.rows
        )
        params, opt = agents.optimiser.step(params, torch.func.grad(loss)(params), opt)
    return params


def pinned(incentive, eta, batch):
    """The batch with payments that count from this η, where they are changes of what was paid."""
    if not incentive.in_rewards:
        return batch
    base = torch.zeros_like(batch.extra["rates"])
    base[:, batch.extra["tax_day"][0, :, 0]] = incentive.rates(eta, batch)
    return batch.replace(extra={**batch.extra, BASE: base})


FINITE = [row for row in ROWS if row[2] is not None and row[1] != "minibatches" and row[3] in (1, 3)]
SOME = [
    row for i, row in enumerate(FINITE)
    if (i % max(1, len(FINITE) // 14) == 0 and row[1] not in ECONOMY) or row[1] in PICTURES or row[2] is TAXES
]  # fmt: skip


@pytest.mark.parametrize("row", SOME, ids=label)
def test_forward_mode_is_the_finite_difference(row):
    make, name, incentive, m = row
    if incentive.givers > 1:
        pytest.skip("the givers' objectives are several")
    agents, designer = ALL[name], designer_of(name, incentive)
    state, t = watched(make(), agents, designer, m)
    forward, _, objective = gradients(agents, designer, state, t, 0)
    generator = torch.Generator().manual_seed(1)
    along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in state.eta.items()}

    class At:
        steps, eta = t.steps, state.eta

    h, values = 1e-5, []
    for sign in (1, -1):
        eta = {n: p + sign * h * along[n] for n, p in state.eta.items()}
        values.append(float(objective(stepped(agents, incentive, eta, At))))
    want = (values[0] - values[1]) / (2 * h)
    got = float(sum((forward[n] * along[n]).sum() for n in along))
    assert abs(got - want) < 1e-5 * max(abs(want), 1e-3)


@pytest.mark.parametrize("row", {(type(row[2]), row[0]): row for row in ROWS}.values(), ids=label)
def test_hand_written_incentives_are_their_payments(row):
    """``vjp`` and ``cost_grad`` by hand against automatic differentiation of ``payments`` and ``cost``."""
    from metagrad.agents.base import Credit, grad_of

    make, name, incentive, _ = row
    designer = designer_of(name, incentive)
    state, t = watched(make(), ALL[name], designer, 1)
    batch = t.batches[0]
    credit = Credit(torch.randn_like(batch.rewards), torch.randn_like(batch.rewards), 0.9)
    for giver in range(incentive.givers):
        want = grad_of(lambda p, g=giver: (credit.rewards * incentive.payments_by(p, batch, g)).sum(), state.eta)
        assert relative(incentive.vjp(state.eta, batch, credit, giver), want) < 1e-12
    want = grad_of(lambda p: incentive.cost(p, batch, 0.9).sum(), state.eta)
    if incentive.givers == 1 and not incentive.in_rewards:
        assert relative(incentive.cost_grad(state.eta, batch, 0.9), want) < 1e-12


@pytest.mark.parametrize(
    ("make", "name"),
    [*((make, n) for make in (room, lights) for n in AGENTS if n != "minibatches"), *((river, n) for n in PICTURES)],
)
def test_the_agents_step_descends_their_loss(make, name):
    """The gradient in closed form against automatic differentiation of the loss."""
    agents = ALL[name]
    _, t = watched(make(), agents, designer_of(name, OVERVIEW if name in PICTURES else ByAction(SMALL)), 1)
    step = t.steps[0]
    want = torch.func.grad(lambda p: agents.loss(p, step.batch, step.advantages, step.entropy))(step.forward.params)
    assert relative(step.grads, want) < 1e-10


def test_replayed_steps_under_the_paying_eta_are_the_observed_ones():
    agents = AGENTS["adam"]
    designer = MetaGradient(ByAction(SMALL), optim.SGD(0.0), agent_model="replayed")
    state, t = watched(lights(), agents, designer, 2)
    _, model = designer._model(state, agents, t, None)
    assert relative(model.after.policy, t.after.policy) < 1e-12
    assert relative(replace(designer, agent_model="observed")._model(state, agents, t, None)[1].after.policy,
                    t.after.policy) < 1e-12  # fmt: skip


@pytest.mark.parametrize(
    ("make", "name", "incentive"),
    [
        (river, "pictures", OVERVIEW), (river, "pictures_td", OVERVIEW), (room, "sgd", ByAction(SMALL)),
        (lights, "gae_bootstrap", ByAction(SMALL)),
    ],
)  # fmt: skip
def test_forward_mode_through_surrogates_is_the_unrolled_gradient(make, name, incentive):
    agents = ALL[name]
    surrogate = Surrogate(optim.Adam(0.02), 2)
    designer = replace(designer_of(name, incentive), agent_model="surrogate", surrogate=surrogate)
    state, t = watched(make(), agents, designer, 2)
    _, model = designer._model(state, agents, t, None)
    assert len(model.steps) == 2
    forward, oracle, _ = gradients(agents, designer, state, t._replace(steps=model.steps, after=model.after), 0)
    assert relative(forward, oracle) < 1e-9
    observed, _, _ = gradients(agents, designer, state, t, 0)
    assert relative(observed, oracle) > 1e-3
