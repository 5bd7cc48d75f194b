"""The examples of the documentation run, and their designers reach the optimum that each of them states."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metagrad import AMD, LastSteps, NoDesigner, PolicyGradientAgents, Surrogate, Trainer, optim

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture(autouse=True)
def _as_in_their_folder(monkeypatch):
    """Examples import each other; small networks run fastest, and the same everywhere, on one thread."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def example(name):
    """The module of an example."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def test_own_game():
    game = example("own_game")
    results = game.main()
    assert (results["NoDesigner"]["welfare"] < 1).all()
    assert (results["MetaGradient"]["welfare"] > 0.98 * game.OPTIMUM).all()
    assert (results["MetaGradient"]["payments"] < 1).all()  # they end, and agents stay


@pytest.mark.parametrize("name", ["prisoner's dilemma", "stag hunt", "chicken"])
def test_matrix_games(name):
    game = example("matrix_games")
    results = game.main({name: game.GAMES[name]}, iterations=200, seeds=(1, 2))
    best = game.optimum(game.GAMES[name])
    assert (results[name, "NoDesigner"] < 0.85 * best).all()
    assert (results[name, "MetaGradient"] > 0.96 * best).all()


def test_matrix_games_take_any_matrix():
    game = example("matrix_games")
    payoff = [[2.0, 0.0], [0.0, 3.0]]
    results = game.main({"battle of the sexes": payoff}, iterations=100, seeds=(1,))
    assert (results["battle of the sexes", "MetaGradient"] > 0.9 * game.optimum(payoff)).all()


@pytest.mark.parametrize(("name", "least"), [("own_incentive", 72), ("pettingzoo_game", 6.8)])
def test_own_incentive_and_pettingzoo(name, least):
    module = example(name)
    results = module.main(iterations=300 if name == "own_incentive" else 80, seeds=(1, 2))
    assert (results["NoDesigner"] < 0.7 * module.OPTIMUM).all()
    assert (results["MetaGradient"] > least).all()
    assert least >= 0.9 * module.OPTIMUM


def test_own_network():
    assert (example("own_network").main(iterations=300, seeds=(1, 2)) > 72).all()  # of 80


def test_own_agents():
    assert (example("own_agents").main(iterations=150, seeds=(1, 2)) > 38).all()  # of 40


def test_surrogates_of_own_agents_that_have_no_gradient():
    """Agents that can do no more than act and learn are paid as well as if one could look into them."""
    games, mine = example("matrix_games"), example("own_agents")

    class Closed(mine.TabularAgents):
        score_vjp = backward = replay = None

        def update(self, state, batch, rng):
            return super().update(state, batch, rng)[0], []

    learners = PolicyGradientAgents((8,), optim.SGD(0.1), normalise=True)
    task, cloning = games.task_of(games.GAMES["stag hunt"]), Surrogate(optim.Adam(0.02), 2, learners)
    designer = replace(games.designer_of(), agent_model="surrogate", surrogate=cloning)
    trainer = Trainer(task, Closed(), designer, seeds=(1,), k=16)
    trainer.train(100)
    assert (trainer.evaluate(100)["welfare"] > 38).all()  # of 40, and 20 without a designer
    shared = replace(designer, surrogate=replace(cloning, agents=replace(learners, share_parameters=True)))
    for refused, message in (
        (replace(designer, surrogate=Surrogate()), "as which PolicyGradientAgents Closed learn"),
        (shared, "share_parameters = False"),
        (replace(designer, agent_model="observed", epochs=2), "a method log_prob, which Closed have not"),
        (AMD(), "a method score_norms, which Closed have not"),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(task, Closed(), refused, seeds=(1,), k=4)


@pytest.mark.parametrize("agent_batches", [1, 3])
def test_gradient_through_own_agents_is_that_of_finite_differences(agent_batches):
    games, mine = example("matrix_games"), example("own_agents")
    agents, designer = mine.TabularAgents(lr=0.3, fading=0.1), games.designer_of()
    trainer = Trainer(games.task_of(games.GAMES["chicken"]), agents, designer, seeds=(1, 2), k=8, dtype=torch.float64)
    trainer.train(2)
    before, eta, batches, steps = trainer.state.agents, trainer.state.designer.eta, [], []
    after = before
    for _ in range(agent_batches):
        batches.append(trainer.collect(after))
        after, more = agents.update(after, batches[-1], trainer.rng)
        steps += more
    fresh = trainer.collect(after)
    weights = designer.weights(trainer.state.designer, fresh)

    def objective(changed):
        paid = [designer.incentive.repay(changed, batch) for batch in batches]
        table = agents.replay(before, steps, paid)[0]
        log_p = agents.act(table, fresh.obs).out.log_softmax(-1)
        acted = log_p.gather(-1, agents._rows(fresh.actions)[..., None])[..., 0]
        return (agents._rows(weights) * acted).sum().item()

    adjoint = agents.score_vjp(after, fresh, weights)
    found = LastSteps().gradient({}, eta, agents, designer.incentive, steps, adjoint, fresh)
    generator, h = torch.Generator().manual_seed(0), 1e-6  # small enough to meet no kink
    for _ in range(5):
        along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
        up, down = ({n: p + sign * h * along[n] for n, p in eta.items()} for sign in (1, -1))
        want = (objective(up) - objective(down)) / (2 * h)
        assert abs(want) > 1e-6
        np.testing.assert_allclose(sum((found[n] * along[n]).sum().item() for n in eta), want, rtol=1e-6)


def test_own_agents_train_without_a_designer_and_resume():
    games, mine = example("matrix_games"), example("own_agents")
    whole, part = (
        Trainer(games.task_of(games.GAMES["chicken"]), mine.TabularAgents(), NoDesigner(), seeds=(1, 2), k=4)
        for _ in range(2)
    )
    whole.train(2)
    saved = {name: x.clone() for name, x in whole.tensors().items()}
    whole.train(2)
    part.load(saved)
    part.train(2)
    for name, x in whole.tensors().items():
        assert torch.equal(x, part.tensors()[name]), name
