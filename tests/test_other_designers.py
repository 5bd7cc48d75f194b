"""Actor-critic agents, cloned surrogates, LIO and adaptive mechanism design: gradients, equivalences, runs."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from learning import relative_error, tiny_config, with_designer
from safetensors.torch import load_file
from test_cleanup_learning import config as cleanup_config

from metagrad import cli, nets, optim
from metagrad.actor_critic import apply_picture
from metagrad.cloning import CloningCrew, CloningLearner
from metagrad.config import ConfigError
from metagrad.economy import gradient
from metagrad.games import kit
from metagrad.lio import MutualLearner
from metagrad.options import Mechanism, Surrogates
from metagrad.presets import preset
from metagrad.train import Learner

CLONED = {"agent_access": "cloned", "surrogates": Surrogates(lr=0.02, steps=2)}


def learner_of(config):
    return kit(config).learner(config)


def captured(config, iterations=6):
    """Arguments of the last ``metagradient`` of some iterations, with the learner as it was then."""
    learner = learner_of(config)
    calls = []
    original = learner.metagradient
    learner.metagradient = lambda *args: calls.append((dict(learner.eta), args)) or original(*args)
    for _ in range(iterations):
        learner.iterate()
    del learner.metagradient
    learner.eta, args = calls[-1]
    return learner, args


def directional(learner, steps, validation, eta, direction, h):
    """Change of the designer's loss as η moves and the agents' steps are taken anew, by central differences."""

    def value(moved):
        theta, state = steps[0].evaluation.theta, steps[0].state
        for step in steps:
            batch = step.evaluation.batch
            paid, at = (learner.designer.incentives(learner.designer.outputs(e, batch), batch) for e in (moved, eta))
            evaluation = learner.agents.evaluate(theta, batch)
            theta, state, _ = learner.agents.learn(evaluation, batch.incentives + paid - at, state)
        return float(learner._objective(validation.batch)(theta))

    up, down = (value(optim.add(eta, direction, s * h)) for s in (1, -1))
    return (up - down) / (2 * h)


VARIANTS = [
    {"agents_rule": "actor-critic"},
    {"agents_rule": "actor-critic", "agents_hidden": (), "output_type": "agent", "agents_optimiser": "adam"},
    {"agents_rule": "actor-critic", "inner_steps": 2, "agents_epsilon_start": 0.3, "agents_epsilon_end": 0.2},
    CLONED,
    {**CLONED, "agents_rule": "actor-critic", "agents_optimiser": "adam", "inner_steps": 2},
    {"method": "lio"},
    {"method": "lio", "agents_rule": "actor-critic", "baseline": "leave-one-out"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_forward_equals_unrolled_equals_finite_differences(options):
    learner, (outputs, steps, validation) = captured(tiny_config(**options))
    forward = learner.metagradient(outputs, steps, validation)
    unrolled = with_designer(learner, mode="unrolled").metagradient(outputs, steps, validation)
    assert all(p.abs().max() > 0 for p in unrolled.values())
    assert relative_error(forward, unrolled) < 1e-9
    eta, generator = dict(learner.eta), torch.Generator().manual_seed(0)
    givers = range(3) if isinstance(learner, MutualLearner) else [None]
    for giver in givers:
        direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
        if giver is not None:  # its own loss, moved by its own function alone
            learner.giver = giver
            own = torch.arange(len(direction["w0"])) % 3 == giver
            direction = {n: d * own[:, None, None] for n, d in direction.items()}
        want = sum(float((unrolled[n] * direction[n]).sum()) for n in eta)
        assert directional(learner, steps, validation, eta, direction, 1e-6) == pytest.approx(want, rel=1e-5)


def test_a_critic_learns_temporal_differences():
    learner = Learner(tiny_config(agents_rule="actor-critic"))
    batch = learner._paid(learner.collect(learner.theta))
    learner.agents.value(learner.critic, batch)
    values, weights = batch.values.unflatten(0, (2, 3)), learner.agents.weights(batch, batch.incentives)
    for s in range(2):
        for i in range(3):
            for row in range(batch.alive.shape[1]):
                later = values[s, i, row + batch.k] if row + batch.k < batch.alive.shape[1] else 0.0
                reward = batch.rewards[s, i, row] + batch.incentives[s, i, row]
                want = (reward + 0.99 * later - values[s, i, row]) * batch.alive[s, row]
                torch.testing.assert_close(weights.unflatten(0, (2, 3))[s, i, row], want)
    target = learner.agents._targets(batch, batch.incentives)

    def loss(critic):
        error = (nets.forward(critic, batch.obs)[0][..., 0] - target) ** 2 * batch.agents_alive
        return (error.sum(1) / batch.agents_alive.sum(1)).sum()

    got = learner.agents.critic_gradient(learner.critic, batch)
    assert relative_error(got, gradient(loss, learner.critic)) < 1e-12


def test_row_norms_are_those_of_single_rows():
    learner = Learner(tiny_config())
    evaluation = learner.agents.evaluate(learner.theta, learner.collect(learner.theta))
    got = nets.squared_row_norms(learner.theta, evaluation.inputs, evaluation.score)
    for row in (0, 4):
        only = torch.zeros_like(evaluation.score)
        only[:, row] = evaluation.score[:, row]
        grads = nets.vjp(learner.theta, evaluation.inputs, only)
        torch.testing.assert_close(got[:, row], sum((g**2).sum((1, 2)) for g in grads.values()))


@pytest.mark.parametrize("observation", ["own", "planner"])
def test_the_planners_gradient_is_that_of_its_loss(observation):
    mechanism = Mechanism(hidden=(7,), observation=observation, max_norm=1e9, cost=0.1)
    learner = Learner(tiny_config(method="amd", mechanism=mechanism))
    designer, batch = learner.designer, learner.collect(learner.theta)
    evaluation = learner.agents.evaluate(learner.theta, batch)
    norms = designer.score_norms(evaluation)
    places = batch.designer_input[..., :9].repeat_interleave(3, 0)
    assert batch.obs.unflatten(0, (2, 3))[:, 0].equal(places.unflatten(0, (2, 3))[:, 0])  # right for agent 0 alone
    if observation == "planner":
        other = replace(designer, config=replace(mechanism, observation="own")).score_norms(evaluation)
        torch.testing.assert_close(norms[..., 0], other[..., 0])
        assert not torch.allclose(norms[..., 1:], other[..., 1:])
    taken = []
    designer.learn(learner.eta, evaluation, Recorder(taken), learner.eta_state)

    def loss(eta):
        paid = 2 * nets.sigmoid(nets.forward(eta, designer._input(batch))[0]) * batch.alive[..., None]
        value = (0.01 * norms * paid * batch.designer_rewards[..., None]).sum(-1)
        live = batch.alive > 0
        return -(value.sum() - 0.1 * paid[live].norm(dim=-1).sum()) / batch.k

    assert relative_error(taken[0], gradient(loss, learner.eta)) < 1e-9


class Recorder(optim.Adam):
    """Adam that notes the gradients it is given."""

    def __init__(self, taken):
        super().__init__(0.01)
        object.__setattr__(self, "taken", taken)

    def step(self, params, grads, state):
        self.taken.append(grads)
        return super().step(params, grads, state)


def test_learning_after_every_step_equals_learning_once_where_an_episode_has_one_step():
    game = replace(tiny_config().game, max_steps=1)
    both = [
        Learner(tiny_config(method="amd", game=game, mechanism=Mechanism(hidden=(7,), per_step=per_step)))
        for per_step in (False, True)
    ]
    for learner in both:
        for _ in range(3):
            learner.iterate()
    for name, p in both[0].eta.items():
        assert p.equal(both[1].eta[name])


def test_receivers_are_paid_by_all_others():
    learner = MutualLearner(tiny_config(method="lio"))
    batch = learner._paid(learner.collect(learner.theta))
    sigma = learner.designer.outputs(learner.eta, batch).sigma.unflatten(0, (2, 3))
    for j in range(3):
        want = 2 * sum(sigma[:, i, :, j] for i in range(3) if i != j) * batch.alive
        torch.testing.assert_close(batch.incentives[:, j], want)
    # Nobody's function sees its own action: with that alone changed, what it gives stays.
    other = replace(batch, onehot=batch.onehot.clone())
    mine = other.onehot.unflatten(0, (2, 3))[:, 0]
    mine.copy_(mine.roll(1, -1))
    again = learner.designer.outputs(learner.eta, other).sigma.unflatten(0, (2, 3))
    assert again[:, 0].equal(sigma[:, 0])
    assert not again[:, 1].equal(sigma[:, 1])


def test_surrogates_come_to_do_what_agents_do():
    learner = CloningLearner(tiny_config(agent_access="cloned", k=64, agents_lr=0.0, surrogates=Surrogates(0.01, 4)))
    batch = learner.collect(learner.theta)

    def distance():
        p, q = (learner.agents.evaluate(x, batch).policy.p for x in (learner.theta, learner.phi))
        return float(((p - q).abs().sum(-1) * batch.agents_alive).sum() / batch.agents_alive.sum())

    first = distance()
    for _ in range(60):
        learner.iterate()
    assert distance() < first / 3


@pytest.mark.parametrize("options", [{}, {"gae_lambda": 0.0, "target_tau": 0.1}], ids=str)
def test_the_chain_through_a_cloned_crew(options):
    config = replace(cleanup_config(lr=0.03, **options), **CLONED)
    crew = CloningCrew(config, 1)
    steps = []
    original = crew.metagradient
    crew.metagradient = lambda *args: steps.append((dict(crew.eta), args)) or original(*args)
    for _ in range(4):
        crew.iterate()
    crew.eta, (step, fresh) = steps[-1]
    forward = original(step, fresh)
    crew.config = replace(config, designer=replace(config.designer, mode="unrolled"))
    unrolled = original(step, fresh)
    assert relative_error(forward, unrolled) < 1e-9
    stored, credit, eta = crew.pay(crew.eta, step.batch), crew.judged(fresh), dict(crew.eta)

    def value(moved):
        rewards = step.batch.rewards + step.batch.incentives + crew.pay(moved, step.batch) - stored
        weight = crew.weights(step, rewards.flatten(1))
        grads = gradient(lambda p: crew.policy_loss(p, step.batch, weight), step.policy)
        after = crew.adam.step(step.policy, grads, step.state)[0]
        return float(crew.designer_loss(apply_picture(after, fresh.seen), fresh, credit))

    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
    want = sum(float((unrolled[n] * direction[n]).sum()) for n in eta)
    up, down = (value(optim.add(eta, direction, s * 1e-6)) for s in (1, -1))
    assert (up - down) / 2e-6 == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("options", [{"method": "lio"}, {"method": "amd"}, CLONED], ids=str)
def test_a_seed_alone_equals_that_seed_among_others(options):
    shared = {**options, "agents_rule": "actor-critic", "mechanism": Mechanism(per_step=True)}
    together, alone = learner_of(tiny_config(**shared)), learner_of(tiny_config(**shared, seeds=(2,)))
    for _ in range(4):
        together.iterate()
        alone.iterate()
    for network in together.NETWORKS:
        for name, p in getattr(alone, network).items():
            assert p.equal(getattr(together, network)[name][len(p) :]), (network, name)


RUN = [
    "--episodes", "36", "--k", "4", "--eval-period", "8", "--eval-episodes", "3", "--checkpoint-period", "12",
    "--test-episodes", "4", "--seeds", "2",
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["escape-room", "--method", "lio", "--preset", "er_2_1"],
        ["escape-room", "--method", "amd", "--preset", "er_2_1_amd"],
        ["escape-room", "--agent-access", "cloned", "--agents.rule", "actor-critic"],
        ["cleanup", "--agent-access", "cloned", "--game.steps", "12"],
    ],
    ids=lambda o: " ".join(o[:3]),
)
def test_runs_resume_bit_for_bit(options, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(["train", *options, *RUN, "--out", str(whole)]) == 0
    shutil.copytree(whole, cut)
    (cut / "results.json").unlink()
    shutil.rmtree(sorted((cut / "checkpoints").iterdir())[-1])
    assert cli.main(["train", "--resume", str(cut)]) == 0
    a, b = (load_file(sorted((f / "checkpoints").iterdir())[-1] / "state.safetensors") for f in (whole, cut))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name
    one, two = (json.loads((f / "results.json").read_text()) for f in (whole, cut))
    assert {**one, "wall_time": 0} == {**two, "wall_time": 0}
    assert cli.main(["plot", str(whole)]) == 0


def test_impossible_combinations_are_refused():
    with pytest.raises(ConfigError, match="agent_access cloned goes with method metagrad"):
        replace(preset("er_5_2"), agent_access="cloned", method="amd")
    with pytest.raises(ConfigError, match="agent_access cloned goes with method metagrad"):
        replace(cleanup_config("none"), agent_access="cloned")
