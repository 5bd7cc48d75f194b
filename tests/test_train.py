"""Training: seeds side by side, baselines, and that the designer learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import relative_error, tiny_config

from metagrad.legacy.baselines import level_table
from metagrad.legacy.config import Agents, Designer, Game
from metagrad.legacy.evaluate import Evaluator, bounds
from metagrad.legacy.presets import PRESETS, preset
from metagrad.legacy.train import Learner


@pytest.fixture(autouse=True)
def one_thread():
    """Bit for bit equality is promised for one thread inside an operation, the default of a run."""
    torch.set_num_threads(1)


METHODS = ["metagrad", "metagrad-no-cv", "lio", "dual-rl-discrete", "dual-rl-continuous", "amd", "none"]


def tensors_of(learner):
    return learner.state()[0]


def real_config(name, **options):
    """A preset's networks and rates, float32."""
    return replace(preset(name), **{"seeds": (3, 4, 5), **options})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["er_5_2", "er_5_2_paper", "er_10_5"])
def test_a_seed_alone_equals_that_seed_among_others(name, method):
    """Bit for bit: parameters, random streams and scores."""
    config = real_config(name, method=method)
    iterations = 25
    together = Learner(config)
    for _ in range(iterations):
        together.iterate()
    scores = Evaluator(config, "eval", 10)(together)
    for s, seed in enumerate(config.seeds):
        alone = Learner(replace(config, seeds=(seed,)))
        for _ in range(iterations):
            alone.iterate()
        for params, mine in ((together.theta, alone.theta), (together.eta, alone.eta)):
            for key, p in mine.items():
                np.testing.assert_array_equal(params[key].chunk(3)[s].numpy(), p.numpy(), err_msg=key)
        single = Evaluator(alone.config, "eval", 10)(alone)
        np.testing.assert_array_equal(single.counts[0], scores.counts[s])
        assert single.r_id[0] == scores.r_id[s]


@pytest.mark.parametrize("k", [2, 5, 6, 7, 8, 9, 10, 32])
def test_seeds_do_not_mix_for_any_k(k):
    """Bit for bit, although the longest episode depends on all seeds."""
    config = real_config("er_5_2", k=k)
    together, alone = Learner(config), Learner(replace(config, seeds=(4,)))
    for _ in range(60):
        together.iterate()
        alone.iterate()
    for params, mine in ((together.theta, alone.theta), (together.eta, alone.eta)):
        for key, p in mine.items():
            assert torch.equal(params[key].chunk(3)[1], p), key


@pytest.mark.parametrize("method", METHODS)
def test_same_seeds_same_run_on_any_thread_count(method):
    config = real_config("er_5_2", method=method)
    runs = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        learner = Learner(config)
        for _ in range(10):
            learner.iterate()
        runs.append(tensors_of(learner))
    torch.set_num_threads(1)
    for other in runs[1:]:
        for name, t in runs[0].items():
            assert torch.equal(t, other[name]), name


def test_episodes_are_counted_as_in_the_paper():
    for options, per_iteration, first in (
        ({}, 3, 3),
        ({"pipeline": False}, 6, 0),
        ({"method": "none"}, 3, 0),
        ({"inner_steps": 2}, 6, 3),
    ):
        learner = Learner(tiny_config(**options))
        for i in range(1, 4):
            learner.iterate()
            assert learner.episode == i * per_iteration + first, options


def test_exploration_decreases_linearly():
    learner = Learner(tiny_config(agents_epsilon_start=0.5, agents_epsilon_end=0.1, agents_epsilon_div=4))
    seen = []
    for _ in range(6):
        seen.append(learner.epsilon)
        learner.iterate()
    np.testing.assert_allclose(seen, [0.5, 0.4, 0.3, 0.2, 0.1, 0.1])


def test_level_codes_are_little_endian():
    table = level_table([0.0, 1.1], 3)
    assert table.shape == (8, 3)
    assert table[1].tolist() == [1.1, 0, 0]  # x = 1 pays for the lever alone
    assert table[4].tolist() == [0, 0, 1.1]


@pytest.mark.parametrize("method", ["dual-rl-discrete", "dual-rl-continuous"])
def test_dual_rl_gradient(method):
    """The step descends -Σ log p G - c ΣH, differentiated automatically."""
    from metagrad.legacy import losses, nets, optim
    from metagrad.legacy.baselines import dual_rl_step

    learner = Learner(tiny_config(method=method))
    batch = learner.collect(learner.theta)
    choice = learner.designer.pay(learner.eta, batch, learner.streams["designer"])
    weights = losses.discounted_returns(batch.designer_rewards - batch.incentives.sum(1), 0.99, batch.k)

    def loss(eta):
        out, _ = nets.forward(eta, batch.designer_input)
        if method == "dual-rl-continuous":
            value = choice.score + out.detach()
            log_p = torch.distributions.Normal(out, 1.0).log_prob(value).sum(-1)
            entropy = torch.zeros_like(log_p)
        else:
            log = out.log_softmax(-1)
            chosen = choice.score.argmax(-1)  # 1 - p where chosen, -p elsewhere
            log_p = log.gather(-1, chosen[..., None])[..., 0]
            entropy = -(log.exp() * log).sum(-1) * batch.alive
        return -(log_p * weights + learner.config.dual.entropy * entropy).sum() / batch.k

    want = torch.func.grad(loss)(learner.eta)
    taken = {}

    class Recorder(optim.Adam):
        def step(self, params, grads, state):
            taken.update(grads)
            return super().step(params, grads, state)

    dual_rl_step(learner.designer, learner.eta, batch, choice, Recorder(0.01), learner.eta_state)
    assert relative_error(taken, want) < 1e-9


def test_discrete_incentives_follow_the_chosen_levels():
    config = tiny_config(method="dual-rl-discrete")
    learner = Learner(config)
    batch = learner.collect(learner.theta)
    choice = learner.designer.pay(learner.eta, batch, learner.streams["designer"])
    chosen = choice.score.argmax(-1)
    actions = batch.actions.argmax(-1)
    for s in range(2):
        for row in range(batch.alive.shape[1]):
            for i in range(3):
                x, a = int(chosen[s, row]), int(actions[s, i, row])
                want = config.dual.levels[(x // 2**a) % 2] if batch.alive[s, row] else 0.0
                assert float(batch.incentives[s, i, row]) == pytest.approx(want)


def test_none_pays_nothing_and_the_others_stay_in_bounds():
    for method in METHODS:
        learner = Learner(tiny_config(method=method))
        scores = Evaluator(learner.config, "eval", 20)(learner)
        if method == "none":
            assert not scores.incentives_paid.any()
        else:
            per_choice = scores.received.sum() / scores.counts.sum()
            assert 0 < per_choice < (4 if method == "lio" else 2)  # two givers, or one


def test_a_diverged_seed_leaves_the_others_alone():
    config = tiny_config(seeds=(1, 2))
    sick, well = Learner(config), Learner(config)
    for learner in (sick, well):
        learner.iterate()
    sick.theta["w0"][:3] = float("nan")
    for learner in (sick, well):
        for _ in range(3):
            learner.iterate()
    assert sick.diverged().tolist() == [True, False]
    for name, p in well.theta.items():
        assert torch.equal(p[3:], sick.theta[name][3:])


def test_bounds():
    assert bounds(Game(n_agents=5, min_at_lever=2)) == {"no pay": 28.0, "threshold pay": 26.0}


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_takes_a_step(name):
    config = preset(name)
    if config.game.n_agents > 20:
        config = replace(config, k=2)
    learner = Learner(replace(config, seeds=(1,)))
    learner.iterate()
    assert not learner.diverged().any()


@pytest.mark.parametrize("name", ["er_2_1", "er_5_2"])
def test_the_designer_learns(name):
    """Our presets, 4 seeds: the designer passes the target on fresh episodes, net of what it pays."""
    config = replace(preset(name), seeds=(0, 1, 2, 3))
    learner = Learner(config)
    while learner.episode < config.episodes:
        learner.iterate()
    assert (Evaluator(config, "test", 100)(learner).r_id > config.target).all()


def test_selfish_agents_do_not_leave():
    config = replace(preset("er_5_2"), seeds=(0, 1, 2, 3), method="none", episodes=16_000)
    learner = Learner(config)
    while learner.episode < config.episodes:
        learner.iterate()
    assert (Evaluator(config, "test", 100)(learner).r_id < 5).all()


def test_networks_of_other_shapes():
    """More layers, an Adam agent and an output an agent run too."""
    config = replace(
        tiny_config(output_type="agent"),
        agents=Agents(hidden=(4,), optimiser="adam", lr=0.01),
        designer=Designer(hidden=(4, 4, 4), output_type="agent"),
    )
    learner = Learner(config)
    for _ in range(3):
        learner.iterate()
    assert not learner.diverged().any()
