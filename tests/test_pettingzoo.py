"""The adapter on games of PettingZoo itself and of MPE2, as a user takes them."""

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
rps_v2 = pytest.importorskip("pettingzoo.classic.rps_v2")
mpe2 = pytest.importorskip("mpe2")
from gymnasium.spaces import Discrete, MultiBinary  # noqa: E402
from mpe2 import simple_reference_v3, simple_spread_v3, simple_tag_v3  # noqa: E402
from pettingzoo import ParallelEnv  # noqa: E402
from pettingzoo.utils.conversions import aec_to_parallel  # noqa: E402

from metagrad import MLP, ByAction, MetaGradient, PolicyGradientAgents, TaskError, Trainer, optim  # noqa: E402
from metagrad.tasks.pettingzoo import ParallelCopies, parallel_task  # noqa: E402

GAMES = {
    "spread": (lambda: simple_spread_v3.parallel_env(N=3, max_cycles=6), 6, 3, 5),
    "reference": (lambda: simple_reference_v3.parallel_env(max_cycles=6), 6, 2, 50),
    "rps": (lambda: rps_v2.parallel_env(max_cycles=6), 6, 2, 3),
    "rps that ends before the horizon": (lambda: rps_v2.parallel_env(max_cycles=4), 6, 2, 3),
}


@pytest.mark.parametrize("game", GAMES)
def test_a_designer_trains_on_it_and_resumes(game):
    make, horizon, n_agents, n_actions = GAMES[game]
    task = parallel_task(make, horizon)
    assert (task.n_agents, task.n_actions) == (n_agents, n_actions)

    def trainer():
        agents = PolicyGradientAgents(hidden=(8,), optimiser=optim.SGD(0.01))
        designer = MetaGradient(ByAction(MLP((8,))), optim.Adam(0.01), cost=0.01)
        return Trainer(task, agents, designer, seeds=(1, 2), k=3)

    whole, part = trainer(), trainer()
    whole.train(2)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    whole.train(2)
    part.load(saved)
    part.train(2)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, part.tensors()[name]), name
    scores = whole.evaluate(3)
    assert np.isfinite(scores["welfare"]).all()
    assert scores["steps"].tolist() == [4.0 if "before" in game else 6.0] * 2


def test_what_it_sees_is_what_the_game_shows():
    """Observations, rewards and the state are those of the game stepped by hand with the same seed."""
    make = GAMES["spread"][0]
    game = make()
    env = ParallelCopies([make(), make()], list(game.possible_agents), lambda r: sum(r.values()), None)
    seen, _ = game.reset(seed=3)
    obs, _ = env.reset(seed=3)
    for step in range(6):
        np.testing.assert_array_equal(obs["agents"]["obs"][0], np.stack([seen[a] for a in game.possible_agents]))
        np.testing.assert_array_equal(obs["designer"][0], game.state())
        actions = (np.arange(6).reshape(2, 3) + step) % 5
        seen, earned, _, cut, _ = game.step(dict(zip(game.possible_agents, actions[0].tolist(), strict=True)))
        obs, rewards, terminated, truncated, info = env.step(actions)
        np.testing.assert_array_equal(rewards[0], [earned[a] for a in earned])
        assert info["designer_reward"][0] == sum(earned.values())
        assert (truncated[0], terminated[0]) == (all(cut.values()), False)


def test_one_of_n_things_is_one_hot_and_no_state_is_replaced_by_all_observations():
    obs, _ = parallel_task(GAMES["rps"][0], 6).make(2, [0]).reset()
    assert obs["agents"]["obs"].shape == (2, 2, 4)
    np.testing.assert_array_equal(obs["agents"]["obs"].sum(-1), 1)
    np.testing.assert_array_equal(obs["designer"], obs["agents"]["obs"].reshape(2, -1))


def test_actions_that_do_not_count_from_nothing():
    """Those of ``Discrete(3, start=1)`` are 1, 2 and 3."""

    class FromOne(ParallelEnv):
        metadata, possible_agents, given = {"name": "from one"}, ["a", "b"], set()

        def action_space(self, agent):
            return Discrete(3, start=1)

        def observation_space(self, agent):
            return Discrete(2, start=5)

        def reset(self, seed=None, options=None):
            self.agents = list(self.possible_agents)
            return dict.fromkeys(self.agents, 6), {}

        def step(self, actions):
            self.given.update(actions.values())
            return dict.fromkeys("ab", 5), dict.fromkeys("ab", 0.0), *[dict.fromkeys("ab", False)] * 2, {}

    env = parallel_task(FromOne, 3).make(2, [0])
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs["agents"]["obs"][0], [[0, 1], [0, 1]])
    env.step(np.array([[0, 1], [2, 0]]))
    assert FromOne.given == {1, 2, 3}


def test_what_cannot_be_done_is_said_at_construction():
    class Switches(rps_v2.raw_env):
        def action_space(self, agent):
            return MultiBinary(4)

    with pytest.raises(TaskError, match=r"MultiBinary\(4\): take one of n"):
        parallel_task(lambda: aec_to_parallel(Switches()), 5)
    with pytest.raises(TaskError, match="continuous"):
        parallel_task(lambda: simple_spread_v3.parallel_env(continuous_actions=True), 5)
    with pytest.raises(TaskError, match="same shapes"):
        parallel_task(lambda: simple_tag_v3.parallel_env(), 5)
