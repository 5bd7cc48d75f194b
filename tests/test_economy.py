"""The economy's agents: their policy, advantages, learning step, and runs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from metagrad.legacy import cli
from metagrad.legacy.accounts import EconomyEvaluator
from metagrad.legacy.config import Economy, EconomyConfig, Workers
from metagrad.legacy.convnet import apply_trunk
from metagrad.legacy.economy import (
    Workforce,
    _choose,
    advantages,
    masked_log_softmax,
    play,
)
from metagrad.legacy.games import kit
from metagrad.legacy.presets import ECONOMY_PRESETS, preset

SMALL = Economy(steps=20, tax_period=5)


def small(**options):
    agents = {k.removeprefix("agents_"): options.pop(k) for k in list(options) if k.startswith("agents_")}
    return EconomyConfig(
        **{"seeds": (1,), "k": 3, "game": SMALL, "agents": Workers(**{"hidden": (16,), **agents}), **options}
    )


def learner_of(config):
    return kit(config).learner(config)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_masked_policy(epsilon):
    """Sampling follows the masked, mixed softmax; illegal actions are never chosen; its logarithm is the learner's."""
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.normal(size=(1, 6)), 60_000, 0).astype(np.float32)
    mask = np.repeat(np.array([[1, 0, 1, 1, 0, 1]], np.uint8), 60_000, 0)
    actions, log_prob = np.empty(60_000, np.int64), np.empty(60_000)
    _choose(logits, mask, rng.random(60_000), epsilon, actions, log_prob)
    log_p = masked_log_softmax(torch.from_numpy(logits[:1]), torch.from_numpy(mask[:1]).bool(), epsilon)[0]
    share = np.bincount(actions, minlength=6) / 60_000
    assert share[[1, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(share, log_p.exp().numpy(), atol=0.01)
    np.testing.assert_allclose(log_prob, log_p.numpy()[actions], rtol=1e-4, atol=1e-5)
    if epsilon:
        assert (share[[0, 2, 3, 5]] >= 0.3 / 4 - 0.01).all()


def test_the_last_action_is_chosen_where_rounding_leaves_nothing():
    actions, log_prob = np.empty(1, np.int64), np.empty(1)
    _choose(
        np.zeros((1, 3), np.float32), np.array([[1, 1, 0]], np.uint8), np.array([1 - 1e-17]), 0.0, actions, log_prob
    )
    assert actions[0] == 1


def test_generalised_advantages():
    generator = torch.Generator().manual_seed(0)
    r, v = torch.randn(7, 3, generator=generator), torch.randn(8, 3, generator=generator)
    got = advantages(r, v, 0.9, 0.8)
    for t in range(7):
        want = sum((0.9 * 0.8) ** (k - t) * (r[k] + 0.9 * v[k + 1] - v[k]) for k in range(t, 7))
        torch.testing.assert_close(got[t], want)


def test_first_proximal_step_is_the_plain_policy_gradient():
    """At the policy that acted the ratio is 1 and nothing is clipped."""
    workers = Workforce(small(dtype="float64", agents_normalise=False, agents_entropy=0.0, agents_entropy_end=0.0), 1)
    batch = play(workers, workers.env, workers.streams, 0.0)
    weight = advantages(batch.rewards, batch.values, 0.99, 0.98).flatten()
    taken = {}

    class Recorder(type(workers.policy_adam)):
        def step(self, params, grads, state):
            taken.update(grads)
            return super().step(params, grads, state)

    workers.policy_adam = Recorder(0.01)
    policy = dict(workers.policy)
    workers.learn_from(batch)

    leaves = {name: p.detach().requires_grad_() for name, p in policy.items()}
    log_p = masked_log_softmax(apply_trunk(leaves, batch.maps, batch.flat), batch.mask, 0.0)
    loss = -(log_p.gather(1, batch.actions[:, None])[:, 0] * weight).mean()
    for (name, want), leaf in zip(leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
        torch.testing.assert_close(taken[name], leaf, rtol=1e-9, atol=1e-12)
        assert want is not None


def test_rewards_of_a_batch_are_those_of_the_economy():
    """Summed over an episode, an agent's rewards are the change of its utility."""
    workers = Workforce(small(), 1)
    batch = play(workers, workers.env, workers.streams, 0.0)
    utility = workers.env.state.clock.utility
    start = (10**0.77 - 1) / 0.77
    np.testing.assert_allclose(batch.rewards.sum(0).view(3, 4).numpy(), utility - start, rtol=1e-4, atol=1e-4)
    chosen = batch.mask.gather(1, batch.actions[:, None])
    assert chosen.all()


@pytest.mark.parametrize(
    "options",
    [
        {}, {"agents_critic": "trunk", "agents_epochs": 2, "agents_minibatches": 3}, {"agents_critic": "lstm"},
        {"method": "dual-rl"}, {"method": "metagrad"},
    ],
    ids=str,
)  # fmt: skip
def test_a_seed_alone_equals_that_seed_among_others(options):
    together, alone = learner_of(small(seeds=(1, 2), **options)), learner_of(small(seeds=(2,), **options))
    for _ in range(3):
        together.iterate()
        alone.iterate()
    a, b = together.workforces[1], alone.workforces[0]
    for mine, theirs in ((a.policy, b.policy), (a.critic, b.critic)):
        for name, p in mine.items():
            assert torch.equal(p, theirs[name]), name
    assert not together.diverged().any()


@pytest.mark.parametrize("method", ["free-market", "us-federal", "saez", "fixed"])
def test_evaluation_does_not_disturb_training(method):
    config = small(method=method, game=replace(SMALL, anneal=method == "us-federal"))
    quiet, watched = learner_of(config), learner_of(config)
    evaluator = EconomyEvaluator(config, "eval", 5)
    for _ in range(3):
        quiet.iterate()
        watched.iterate()
        scores = evaluator(watched)
    for name, p in quiet.workforces[0].policy.items():
        assert torch.equal(p, watched.workforces[0].policy[name])
    assert (scores.by_rank["tax"] > 0).any() == (method != "free-market")
    assert (scores.rates > 0).any() == (method != "free-market")
    np.testing.assert_allclose(scores.by_rank["net_tax"].sum(), 0, atol=1e-9)
    np.testing.assert_allclose(scores.by_rank["trade_income"].sum(), 0, atol=1e-9)
    np.testing.assert_allclose(scores.by_rank["coin"].sum(), scores.productivity[0])
    assert scores.welfare[0] == pytest.approx(scores.row(0)["welfare"])
    if method == "us-federal":  # the cap of training: 9 episodes so far
        cap = evaluator.envs[0].state.rates.cap
        assert cap == pytest.approx(np.full(5, 0.1 + 9 * 0.9 / 8000), rel=1e-9)


def test_schedules_decay_as_configured():
    learner = learner_of(
        small(agents_entropy=0.5, agents_entropy_end=0.1, agents_entropy_episodes=12, agents_epsilon_start=0.4,
              agents_epsilon_div=2)
    )  # fmt: skip
    seen = []
    for _ in range(6):
        seen.append((learner.workforces[0].entropy, learner.workforces[0].epsilon))
        learner.iterate()
    np.testing.assert_allclose(seen, [(0.5, 0.4), (0.4, 0.2), (0.3, 0), (0.2, 0), (0.1, 0), (0.1, 0)])


RUN = [
    "--episodes", "36", "--k", "4", "--eval-period", "8", "--eval-episodes", "3", "--checkpoint-period", "12",
    "--test-episodes", "4", "--game.steps", "20", "--game.tax-period", "5", "--agents.hidden", "16", "--seeds", "2",
]  # fmt: skip


@pytest.mark.parametrize(
    "method", ["free-market", "us-federal", "saez", "fixed", "metagrad", "metagrad-no-cv", "dual-rl"]
)
def test_runs_resume_bit_for_bit(method, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extra = ["--agents.minibatches", "2"] if method in ("saez", "metagrad") else ["--agents.minibatches", "1"]
    extra += ["--agents.epochs", "2"] if method == "saez" else []
    extra += ["--game.anneal"] if method in ("us-federal", "dual-rl") else []
    extra += ["--designer.policy", "network", "--designer.response", "step"] if method == "metagrad-no-cv" else []
    assert cli.main(["train", "gtb", *RUN, "--method", method, "--out", str(whole), *extra]) == 0
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
    assert (whole / "figure.png").exists()
    assert cli.main(["evaluate", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert all(f"{v:.3f}" in shown for v in one["welfare"])
    assert cli.main(["compare", str(whole), str(cut)]) == 0
    assert cli.main(["plot", str(whole), str(cut), "--out", str(tmp_path / "both.png")]) == 0


def test_the_second_phase_starts_with_the_agents_of_the_first(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(["train", "gtb", *RUN, "--agents.minibatches", "1", "--out", str(one)]) == 0
    options = ["--agents.minibatches", "1", "--init-from", str(one), "--method", "metagrad", "--episodes", "4"]
    assert cli.main(["train", "gtb", *RUN, *options, "--agents.lr", "1e-9", "--out", str(two)]) == 0
    a, b = (load_file(sorted((f / "checkpoints").iterdir())[-1] / "state.safetensors") for f in (one, two))
    for name in a:
        if "/policy/" in name:
            np.testing.assert_allclose(a[name], b[name], atol=1e-6)
    steps = [
        [seed["optimiser_steps"]["policy_state"] for seed in json.loads(path.read_text())["seeds"]]
        for path in (sorted((f / "checkpoints").iterdir())[-1] / "state.json" for f in (one, two))
    ]
    assert steps == [[9, 9], [10, 10]]  # the optimisers went on, one step
    assert cli.main(["train", "gtb", *RUN, *options, "--first-seed", "77", "--out", str(tmp_path / "three")]) == 2
    assert "no agents of seed 77" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()
    assert cli.main(["train", "gtb", *RUN, *options, "--agents.hidden", "9", "--out", str(tmp_path / "four")]) == 2
    assert "another policy" in capsys.readouterr().err
    assert cli.main(["replay", str(two), "--out", str(tmp_path / "episode.gif")]) == 0
    with Image.open(tmp_path / "episode.gif") as gif:
        assert gif.n_frames == 20
    assert cli.main(["replay", str(two), "--seed", "3"]) == 2


def test_wrong_schedules_are_refused(tmp_path, capsys):
    assert (
        cli.main(
            [
                "train",
                "gtb",
                *RUN,
                "--agents.minibatches",
                "1",
                "--method",
                "fixed",
                "--game.rates",
                "2",
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 2
    )
    assert "fixed_rates" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_agents_learn():
    """A free market with the preset's agents, 480 episodes: welfare grows, and agents build."""
    config = replace(preset("gtb", ECONOMY_PRESETS), seeds=(3,), episodes=480)
    learner = learner_of(config)
    first = EconomyEvaluator(config, "eval", 20)(learner)
    while learner.episode < config.episodes:
        learner.iterate()
    last = EconomyEvaluator(config, "eval", 20)(learner)
    assert last.welfare[0] > 1.15 * first.welfare[0]
    assert last.houses[0] > 1.5 * first.houses[0]
