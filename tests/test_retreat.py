"""Designers that go back to their best η when their return has fallen."""

from dataclasses import replace

import pytest
import torch

from metagrad import Retreat, Trainer
from metagrad.experiment.registry import experiment


def walked(rule, returns, steps, speed=1.0):
    """η by seed, and the state, after steps of ``speed`` that earn ``returns(η) [S]``, one episode each."""
    eta = {"x": torch.zeros(2, 3)}
    state, path = rule.init(eta), []
    for _ in range(steps):
        moved = {"x": eta["x"] + speed}
        eta, state = rule.after(state, eta, moved, returns(eta["x"][:, 0]), 1)
        path.append(eta["x"][:, 0].clone())
    return torch.stack(path), state


def test_a_return_that_falls_leads_back_with_smaller_steps():
    """The first seed's return falls beyond 8, the second's nowhere, whose path is as without the rule."""
    rule = Retreat(share=0.9, over=4, slower=0.5)
    path, state = walked(rule, lambda x: torch.stack([10 - (x[0] - 8).abs(), x[1]]), 60)
    torch.testing.assert_close(path[:, 1], torch.arange(1.0, 61.0))
    first = int((path[1:, 0] < path[:-1, 0]).nonzero()[0])
    assert path[first, 0] > 10
    assert ((path[first + 1 :, 0] - 8).abs() < 3).all()
    assert state.speed[0] <= 0.25
    assert state.speed[1] == 1
    assert state.best[0] > 9
    torch.testing.assert_close(path[first + 2, 0] - path[first + 1, 0], torch.tensor(0.5))


def test_what_a_designer_goes_back_to_is_the_mean_of_what_earned_most():
    rule = Retreat(share=0.9, over=3, slower=0.5)
    eta, state = {"x": torch.zeros(1, 2)}, rule.init({"x": torch.zeros(1, 2)})
    for earned in (1.0, 2.0, 3.0, 0.0, 0.0):
        eta, state = rule.after(state, eta, {"x": eta["x"] + 1}, torch.tensor([earned]), 1)
    # The mean of three returns is 2, at the mean 1 of η = 0, 1, 2; two zeros take it below 1.8.
    assert state.best == 2
    assert state.speed == 0.5
    torch.testing.assert_close(state.kept["x"], torch.ones(1, 2))


@pytest.mark.parametrize("best", [-10.0, 0.0])
def test_a_return_below_zero_falls_too(best):
    rule = Retreat(share=0.5, over=1, slower=0.5)
    eta, state = {"x": torch.zeros(1, 1)}, rule.init({"x": torch.zeros(1, 1)})
    for earned, speed in ((best, 1.0), (best - 4, 1.0 if best else 0.5), (best - 6, 0.5 if best else 0.25)):
        eta, state = rule.after(state, eta, eta, torch.tensor([earned]), 1)
        assert state.speed == speed


def test_pooled_populations_go_back_together():
    made = experiment("escape-room", "er_2_1")
    designer = replace(made.designer, retreat=Retreat(0.95, over=8), pooled=True)
    trainer = Trainer(made.task, made.agents, designer, seeds=(1, 2), k=4)
    trainer.train(4)
    seen = trainer.state.designer.retreat
    assert seen.mean[0] == seen.mean[1]
    assert seen.mean.isfinite().all()
    with pytest.raises(ValueError, match=r"MetaGradient\.retreat\.share must be None where agents pay each other"):
        replace(experiment("escape-room", "er_2_1", "lio").designer, retreat=Retreat(0.95))
