"""The one-step economy for the learner: its taxes, its agents, and that its methods train."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from economy import captured
from games import Lights

from fastenvs import metrics
from fastenvs.one_step import best_response, best_schedule
from metagrad import MetaGradient, NoDesigner, PolicyGradientAgents, Trainer, VectorTask, optim
from metagrad.experiment.config import from_dict
from metagrad.experiment.registry import experiment
from metagrad.metagradient import Sensitivity, _bent
from metagrad.networks import MLP, Levels
from metagrad.tasks.one_step import BEST, FOUR, METHODS, PRESETS, OneStepEconomy
from metagrad.tasks.taxes import TaxSchedule, tax_math

SMALL = OneStepEconomy(labor_levels=41, brackets=(0, 40, 80))
AGENTS = PolicyGradientAgents(network=Levels(41, MLP(()), 0.1), optimiser=optim.SGD(1e-3), entropy=0.0, normalise=True)


FALLING = optim.Linear(1e-3, 0.0, 3)


def trainer(path, task=SMALL, k=16, agents=AGENTS, **options):
    designer = MetaGradient(TaxSchedule(start=0.3), optim.Adam(0.01), gamma=1.0, path=path, chain=1.0, direct=1.0)
    return Trainer(task, agents, designer, seeds=(3, 5), k=k, dtype=torch.float64, **options)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_preset_and_method_takes_a_step(name, method):
    e = experiment("one-step-economy", name, method)
    t = Trainer(e.task, e.agents, e.designer, seeds=(1000,), k=4)
    t.train(2)
    assert not t.diverged().any()
    scores = t.evaluate(2)
    assert all(np.isfinite(scores[field]).all() for field in e.task.fields)
    assert scores["rate"].shape == (1, len(e.task.cutoffs))


@pytest.mark.parametrize("agents", [4, 31])
def test_the_designer_is_paid_what_the_taxes_are_differentiated_for(agents):
    task = replace(SMALL, n_agents=agents)
    t = trainer(Sensitivity(stride=1), task)
    batch = t.collect(t.state.agents)
    level = t.designer.incentive.reward(batch)
    torch.testing.assert_close(level, batch.designer_rewards.to(level.dtype), rtol=1e-6, atol=1e-6)
    wealth = batch.extra["wealth"][0, 0]
    np.testing.assert_allclose(tax_math.equality(wealth), metrics.equality(wealth.numpy()), rtol=1e-9)


def test_the_direct_path_is_the_derivative_of_welfare_at_fixed_labour():
    """Against the game itself: the same hours under rates that are a little other."""
    t = trainer(Sensitivity(stride=1))
    batch, env = t.collect(t.state.agents), SMALL.make(32, [0, 1])
    eta = t.designer.eta(t.state.designer)
    found = t.designer.direct_grad(eta, batch)["logits"]

    def welfare(logits):
        env.reset()
        env.set_rates(torch.sigmoid(logits).repeat_interleave(16, 0).numpy())
        *_, info = env.step(batch.actions[:, 0].reshape(32, 4).numpy())
        return info["welfare"].reshape(2, 16).mean(1)

    for b in range(3):
        step = torch.zeros(2, 3, dtype=torch.float64)
        step[:, b] = 1e-4
        slope = (welfare(eta["logits"] + step) - welfare(eta["logits"] - step)) / 2e-4
        np.testing.assert_allclose(found[:, b], -slope, rtol=1e-4, atol=1e-6)


def test_the_curvature_is_that_of_the_expected_loss():
    """Against automatic differentiation of the loss with the probability ratio, for logits linear in the mean."""
    t = trainer(Sensitivity(stride=1), agents=replace(AGENTS, network=MLP(())))
    batch = t.collect(t.state.agents)
    _, (step,) = t.agents.update(t.state.agents, batch, t.rng)
    moved = {name: torch.randn(2, *p.shape, dtype=p.dtype) for name, p in step.forward.params.items()}
    found, acted = _bent(t.agents, step, moved), t.agents.rows.of(batch.actions)
    weights = t.agents.rows.of(step.advantages)

    def loss(policy):
        log_p = t.agents.policy(policy, batch.obs).log_softmax(-1).gather(-1, acted[..., None])[..., 0]
        return -((log_p - log_p.detach()).exp() * weights).sum() / batch.k

    for j in range(2):
        _, want = torch.func.jvp(
            torch.func.grad(loss), (step.forward.params,), ({name: x[j] for name, x in moved.items()},)
        )
        for name, x in want.items():
            torch.testing.assert_close(found[name][j], x, rtol=1e-8, atol=1e-10)


def test_the_curvature_heeds_masks_and_the_entropy_bonus():
    agents = PolicyGradientAgents(network=MLP(()), optimiser=optim.SGD(0.1), normalise=True, entropy=0.2)
    t = Trainer(VectorTask(Lights, 5), agents, NoDesigner(), seeds=(1,), k=8, dtype=torch.float64)
    batch = t.collect(t.state.agents)
    assert not batch.obs["mask"].all()
    _, (step,) = agents.update(t.state.agents, batch, t.rng)
    moved = {name: torch.randn(1, *p.shape, dtype=p.dtype) for name, p in step.forward.params.items()}
    ratio = replace(agents, epochs=2)  # so that the loss has the probability ratio, which is 1
    grad = torch.func.grad(lambda policy: ratio.loss(policy, batch, step.advantages, 0.2))
    _, want = torch.func.jvp(grad, (step.forward.params,), ({name: x[0] for name, x in moved.items()},))
    for name, found in _bent(agents, step, moved).items():
        torch.testing.assert_close(found[0], want[name], rtol=1e-8, atol=1e-10)


def advanced(agents, path, agent_batches=1):
    """The path's state and the steps of a trainer's third iteration, and how paths go on from there."""
    t = trainer(path, agents=agents, agent_batches=agent_batches)
    state, transition = captured(t, 3)

    def advance(path, before, steps):
        return path.advance(before, state.eta, agents, t.designer.incentive, steps)

    return state.path, transition.steps, advance


@pytest.mark.parametrize("path", [Sensitivity(), Sensitivity("measured"), Sensitivity(curvature=True)], ids=str)
def test_every_batch_of_an_iteration_counts(path):
    before, steps, advance = advanced(AGENTS, path, agent_batches=2)
    assert len(steps) == 2
    at_once = advance(path, before, steps)
    in_turn = advance(path, advance(path, before, steps[:1]), steps[1:])
    assert at_once.steps == before.steps + 2
    for name, p in in_turn.params.items():
        assert at_once.params[name].equal(p)


@pytest.mark.parametrize("reduction", ["episode", "rows"])
def test_a_stride_above_the_length_of_an_episode(reduction):
    before, steps, advance = advanced(replace(AGENTS, reduction=reduction), Sensitivity(stride=1))
    for name, p in advance(Sensitivity(stride=1), before, steps).params.items():
        assert p.any()
        assert advance(Sensitivity(stride=8), before, steps).params[name].equal(p)


@pytest.mark.parametrize("optimiser", [optim.SGD(FALLING), optim.Adam(FALLING)], ids=str)
def test_a_measured_response_time_once_the_agents_learn_no_more(optimiser):
    t = trainer(Sensitivity("measured"), agents=replace(AGENTS, optimiser=optimiser))
    t.train(3)
    fading = t.state.designer.path.fading
    t.train(2)
    assert fading.isfinite().all()
    assert t.state.designer.path.fading.equal(fading)
    assert not t.diverged().any()


def test_agents_come_to_their_best_response():
    task = replace(SMALL, tax_mode="fixed", fixed_rates=(0.3, 0.3, 0.3))
    e = experiment("one-step-economy", "one_step_4", "fixed")
    agents = replace(e.agents, network=replace(e.agents.network, levels=41, width=0.05))
    t = Trainer(task, agents, e.designer, seeds=(1000, 1001), k=64)
    t.train(250)
    hours = t.evaluate(200)["labor"]
    np.testing.assert_allclose(hours, np.repeat(best_response(task, [0.3] * 3).hours, 2, 0), atol=2.5)


def test_what_is_known():
    """The best schedules that presets are measured by are not below what a short search finds."""
    for economy, rates in BEST.items():
        best = float(best_response(economy, rates).welfare[0])
        task = OneStepEconomy(**{f: getattr(economy, f) for f in type(economy).__dataclass_fields__})
        assert task.bounds()["best schedule"] == best > task.bounds()["no tax"]
    assert best_response(FOUR, BEST[FOUR]).welfare[0] >= best_schedule(FOUR, starts=4).welfare
    assert replace(task, labor_cost=2e-4).bounds() == {}


def test_levels_bend_as_any_network_does(monkeypatch):
    """All levels hang on their mean, so that the curvature is taken once for all levers."""
    t = trainer(Sensitivity(stride=1))
    batch = t.collect(t.state.agents)
    _, (step,) = t.agents.update(t.state.agents, batch, t.rng)
    moved = {name: torch.randn(3, *p.shape, dtype=p.dtype) for name, p in step.forward.params.items()}
    found = _bent(t.agents, step, moved)
    monkeypatch.setattr("metagrad.metagradient.LevelsForward", tuple)
    for name, want in _bent(t.agents, step, moved).items():
        torch.testing.assert_close(found[name], want, rtol=1e-10, atol=1e-12)


def test_runs_of_before_find_the_taxes_where_they_are_now():
    old = {"type": "metagrad.tasks.gtb.taxes:TaxSchedule", "start": 0.3}
    assert from_dict(old) == TaxSchedule(start=0.3)


def test_the_designer_comes_close_to_the_best_schedule():
    """On a coarser game, from half of the best schedule's gain to more than nine tenths of it."""
    e = experiment("one-step-economy", "one_step_4", "metagrad")
    task = replace(e.task, labor_levels=101)
    best = best_response(task, [BEST[FOUR], (0.0, 0.0, 0.0), (0.3, 0.3, 0.3)]).welfare
    agents = replace(e.agents, network=replace(e.agents.network, levels=101))
    t = Trainer(task, agents, e.designer, seeds=(1000, 1001), k=64)
    t.train(200)
    share = (t.evaluate(10)["schedule_welfare"] - best[1]) / (best[0] - best[1])
    assert (best[2] - best[1]) / (best[0] - best[1]) < 0.5
    assert (share > 0.9).all()


def test_levels_need_as_many_outputs_as_actions():
    with pytest.raises(ValueError, match="must be the number of actions, 41, got 40"):
        Trainer(SMALL, replace(AGENTS, network=Levels(40)), experiment("one-step-economy", None, "fixed").designer)
