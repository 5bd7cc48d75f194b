"""Learning on Cleanup: incentives in graph and game, the meta-gradient, and runs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import relative_error
from PIL import Image
from safetensors.torch import load_file

from metagrad.legacy import cli, optim
from metagrad.legacy.actor_critic import apply_picture, chosen, log_policy
from metagrad.legacy.cleaning import CleanupEvaluator, summary
from metagrad.legacy.cleanup import CentralCrew, DualRLCrew, MetaGradCrew, paid_for
from metagrad.legacy.cleanup_cloning import CloningCrew
from metagrad.legacy.config import Cleaners, CleanupConfig, CleanupGame, Clones, ConfigError, Payer
from metagrad.legacy.economy import gradient
from metagrad.legacy.games import kit


def config(method="metagrad", **options):
    designer = {k.removeprefix("designer_"): options.pop(k) for k in list(options) if k.startswith("designer_")}
    return CleanupConfig(
        method=method, seeds=(1,), k=3, dtype="float64", game=CleanupGame(steps=12),
        agents=Cleaners(**{"filters": 2, "hidden": (9, 8), **options}),
        designer=Payer(**{"filters": 2, "hidden": (9, 8), "lr": 0.01, **designer}),
    )  # fmt: skip


def crew_of(kind=MetaGradCrew, iterations=4, **options):
    crew = kind(config(**options), 1)
    for _ in range(iterations):
        crew.iterate()
    return crew


def test_incentives_in_the_graph_are_those_that_agents_learn_from():
    crew = crew_of()
    batch = crew.tau
    eta = dict(crew.eta)
    torch.testing.assert_close(crew.collect().incentives.max() <= 2, torch.tensor(True))
    fresh = crew.collect()
    torch.testing.assert_close(crew.pay(eta, fresh), fresh.incentives, rtol=0, atol=0)
    types = torch.rand(12, 3, 3, dtype=torch.float64)
    got = paid_for(types, batch.kinds)
    for t, k, i in np.ndindex(*got.shape):
        assert got[t, k, i] == types[t, k, batch.kinds[t, k, i]]
    assert (batch.kinds == 0).equal(batch.cleaned > 0)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"normalise": False}, {"optimiser": "sgd", "lr": 0.1}, {"gae_lambda": 0.0, "target_tau": 0.1},
        {"epsilon_start": 0.4, "epsilon_end": 0.2}, {"entropy": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_forward_equals_unrolled_equals_finite_differences(options):
    crew = crew_of(iterations=3, **{"lr": 0.03, **options})
    eta, batch = dict(crew.eta), crew.tau
    step = crew.learn_from(batch)
    fresh = crew.collect()
    forward = crew.metagradient(step, fresh)
    crew.config = replace(crew.config, designer=replace(crew.config.designer, mode="unrolled"))
    unrolled = crew.metagradient(step, fresh)
    assert all(p.abs().max() > 0 for p in unrolled.values())
    assert relative_error(forward, unrolled) < 1e-9
    stored, credit = crew.pay(eta, batch), crew.judged(fresh)

    def value(moved):
        rewards = batch.rewards + batch.incentives + crew.pay(moved, batch) - stored
        weight = crew.weights(step, rewards.flatten(1))
        grads = gradient(lambda p: crew.policy_loss(p, batch, weight), step.policy)
        after = crew.adam.step(step.policy, grads, step.state)[0]
        return float(crew.designer_loss(apply_picture(after, fresh.seen), fresh, credit))

    generator = torch.Generator().manual_seed(0)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in eta.items()}
    want = sum(float((unrolled[n] * direction[n]).sum()) for n in eta)
    h = 1e-6
    up, down = (value(optim.add(eta, direction, s * h)) for s in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(want, rel=1e-5)


def test_the_designers_draws_have_unit_deviation_and_its_score_is_that_of_a_gaussian():
    crew = crew_of(DualRLCrew, 1, method="dual-rl-continuous")
    batch = crew.collect()
    assert batch.noise.std() == pytest.approx(1, abs=0.15)
    assert ((batch.incentives > 0) & (batch.incentives < 2)).all()


def test_the_central_policy_acts_for_all():
    crew = crew_of(CentralCrew, 2, method="central")
    assert crew.n_actions == crew.env.n_actions**2
    joint = np.arange(crew.n_actions)
    digits = crew.agent_actions(joint, crew.env)
    np.testing.assert_array_equal(digits[:, 0] + crew.env.n_actions * digits[:, 1], joint)
    batch = crew.collect()
    assert batch.actions.numel() == 12 * 3
    torch.testing.assert_close(crew.actor_rewards(batch.rewards), batch.rewards.sum(-1))


def test_stored_log_probabilities_are_the_policys():
    crew = crew_of(epsilon_start=0.5, epsilon_end=0.3)
    batch = crew.collect()
    torch.testing.assert_close(chosen(log_policy(crew.policy, batch), batch), batch.log_prob, rtol=1e-9, atol=1e-9)


def test_accounts():
    crew = crew_of()
    batch = crew.collect()
    found = summary(batch)
    assert found["count"].sum() == pytest.approx(12 * 2)
    assert found["incentives_paid"] == pytest.approx(float(batch.incentives.sum()) / 3)
    assert found["welfare"] == pytest.approx(float(batch.rewards.sum()) / 3)
    assert found["waste"].sum() == pytest.approx(found["waste_cleared"])


RUN = [
    "--episodes", "36", "--k", "4", "--eval-period", "8", "--eval-episodes", "3", "--checkpoint-period", "12",
    "--test-episodes", "4", "--game.steps", "12", "--seeds", "2",
]  # fmt: skip


@pytest.mark.parametrize("method", ["metagrad", "dual-rl-continuous", "central", "none", "cloned"])
def test_runs_resume_bit_for_bit(method, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    extra = ["--preset", "cleanup_paper"] if method == "none" else []
    if method == "cloned":
        method, extra = "metagrad", ["--agent-access", "cloned"]
    assert cli.main(["train", "cleanup", *extra, *RUN, "--method", method, "--out", str(whole)]) == 0
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
    assert all(f"{v:.3f}" in capsys.readouterr().out for v in one["welfare"][:1])
    assert cli.main(["plot", str(whole), str(cut), "--out", str(tmp_path / "both.png")]) == 0
    assert cli.main(["replay", str(whole)]) == 0
    with Image.open(whole / "episode.gif") as gif:
        assert gif.n_frames > 1


def test_evaluation_does_not_disturb_training():
    options = config("dual-rl-continuous")
    quiet, watched = (kit(options).learner(options) for _ in range(2))
    evaluator = CleanupEvaluator(options, "eval", 5)
    for _ in range(3):
        quiet.iterate()
        watched.iterate()
        evaluator(watched)
    for name, p in quiet.workforces[0].policy.items():
        assert torch.equal(p, watched.workforces[0].policy[name])


CLONED = {"agent_access": "cloned", "clones": Clones(lr=0.02, steps=2)}


@pytest.mark.parametrize("options", [{}, {"gae_lambda": 0.0, "target_tau": 0.1}], ids=str)
def test_the_chain_through_a_cloned_crew(options):
    options = replace(config(lr=0.03, **options), **CLONED)
    crew = CloningCrew(options, 1)
    steps = []
    original = crew.metagradient
    crew.metagradient = lambda *args: steps.append((dict(crew.eta), args)) or original(*args)
    for _ in range(4):
        crew.iterate()
    crew.eta, (step, fresh) = steps[-1]
    forward = original(step, fresh)
    crew.config = replace(options, designer=replace(options.designer, mode="unrolled"))
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


def test_surrogates_come_to_do_what_agents_do():
    """Agents that stay as they are, watched for 40 batches."""
    options = replace(config(lr=0.0), k=16, agent_access="cloned", clones=Clones(lr=0.02, steps=4))
    crew = CloningCrew(options, 1)
    crew.policy = {name: 3 * p for name, p in crew.policy.items()}  # something to be learned
    batch = crew.collect()

    def distance():
        p, q = (log_policy(x, batch).exp() for x in (crew.policy, crew.surrogate.policy))
        return float((p - q).abs().sum(1).mean())

    first = distance()
    for _ in range(40):
        crew.iterate()
    assert first > 0.3
    assert distance() < first / 3


def test_a_cloning_designer_looks_into_no_agent():
    """Whatever the agents' networks and optimisers are, on the same episodes the designer does the same."""
    crews = [CloningCrew(replace(config(), **CLONED), 1) for _ in range(2)]
    for crew in crews:
        crew.iterate()
    one, two = crews
    batch, step = two.tau, two.learn_from(two.tau)
    strange = {name: torch.full_like(p, float("nan")) for name, p in step.policy.items()}
    step = replace(
        step, policy=strange, grads=strange, after=strange, values=step.values * float("nan"), evaluation=None
    )
    two.policy = two.critic.params = strange
    two.tau = one.tau = one.collect()
    totals = [one.designer_gradient(one.learn_from(batch)), two.designer_gradient(step)]
    for name, p in totals[0].items():
        assert p.equal(totals[1][name])


def test_cloning_without_a_gradient_is_refused():
    with pytest.raises(ConfigError, match="agent_access cloned goes with method metagrad, not with none"):
        replace(config("none"), agent_access="cloned")


@pytest.mark.parametrize("name", ["authors_10x10", "large"])
def test_larger_maps(name):
    """The designer sees the whole map, and the gradient is that of the chain there too."""
    options = replace(config(), game=CleanupGame(preset=name, steps=6), k=2)
    crew = MetaGradCrew(options, 1)
    side = crew.env.obs["designer"].shape[1]
    assert side >= max(crew.env.options.symbols.shape)
    for _ in range(3):
        crew.iterate()
    assert crew.tau.incentives.shape == (6, 2, crew.env.n_agents)
    step = crew.learn_from(crew.tau)
    fresh = crew.collect()
    forward = crew.metagradient(step, fresh)
    crew.config = replace(options, designer=replace(options.designer, mode="unrolled"))
    assert relative_error(forward, crew.metagradient(step, fresh)) < 1e-9


def test_a_central_policy_with_too_many_joint_actions_is_refused(tmp_path, capsys):
    run = ["train", "cleanup", "--method", "central", "--game.preset", "large", "--out", str(tmp_path / "run")]
    assert cli.main(run) == 2
    assert "joint actions" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
