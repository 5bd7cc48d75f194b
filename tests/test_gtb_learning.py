"""Agents of the economy on the core: what they are paid, seeds, evaluation, resumption, phases, figures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from economy import agents, designer, task, trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metagrad import losses
from metagrad.agents.critics import Critic, LinearCritic
from metagrad.batch import flatten
from metagrad.designers import NoDesigner
from metagrad.experiment.cli import parse_train
from metagrad.experiment.metrics import row_of
from metagrad.metagradient import Sensitivity
from metagrad.networks import MLP, ConvTrunk, PlaneMLP, RecurrentTrunk
from metagrad.optim import Adam, Linear
from metagrad.playing.recorder import choose
from metagrad.tasks.base import TaskError
from metagrad.tasks.gtb import METHODS, PRESETS, GatherTradeBuild, OwnedByRank, TaxSchedule
from metagrad.tasks.gtb.presets import WINDOW
from metagrad.trainer import Evaluator, Trainer

SMALL = ConvTrunk(filters=2, kernel=5, convolutions=2, hidden=(6,))
PLANES = PlaneMLP(WINDOW, map_width=8, hidden=(8,))


def small(method, preset="gtb", **game):
    """An experiment of a preset with small networks and short episodes."""
    e = METHODS[method](PRESETS[preset]())
    critic = e.agents.critic
    if isinstance(critic.network, RecurrentTrunk):
        critic = replace(critic, network=RecurrentTrunk(replace(SMALL, hidden=(6, 5))))
    else:
        critic = replace(critic, network=MLP((6,), head_scale=0.1))
    network = PLANES if isinstance(e.agents.network, PlaneMLP) else SMALL
    d = e.designer
    if hasattr(d, "head"):
        d = replace(d, network=SMALL, critic=replace(d.critic, critic=replace(d.critic.critic, network=SMALL)))
    if getattr(getattr(d, "incentive", None), "network", None) is not None:
        d = replace(d, incentive=replace(d.incentive, network=SMALL))
        d = replace(d, critic=replace(d.critic, critic=replace(d.critic.critic, network=SMALL)))
    return replace(
        e, task=replace(e.task, steps=20, tax_period=5, **game), designer=d,
        agents=replace(e.agents, network=network, critic=critic),
    )  # fmt: skip


def train(e, seeds=(1,), k=4, iterations=0, **options):
    agents = replace(e.agents, minibatches=min(e.agents.minibatches, 4))
    made = Trainer(e.task, agents, e.designer, seeds=seeds, k=k, pipeline=e.run.pipeline, **options)
    made.train(iterations)
    return made


# ---------------------------------------------------------------------- what agents earn and do


def test_rewards_of_a_batch_are_those_of_the_economy():
    """Summed over an episode, an agent's rewards are the change of its utility; only legal actions are taken."""
    made = trainer(dtype=torch.float32)
    batch = made.collect(made.state.agents)
    utility, start = made.env.state.clock.utility, (10**0.77 - 1) / 0.77
    np.testing.assert_allclose(batch.rewards.sum(1)[0].numpy(), utility - start, rtol=1e-4, atol=1e-4)
    rows = made.agents.rows
    assert batch.obs["mask"].gather(-1, rows.of(batch.actions)[..., None]).all()
    assert not batch.payments.any()


def test_scores_are_those_of_the_economy():
    """Against the economy's own metrics of each episode."""
    made = Trainer(task(tax_mode="us_federal"), agents(), NoDesigner(), seeds=(1,), k=5, dtype=torch.float64)
    batch = made.collect(made.state.agents)
    scores, own = made.task.scores(batch), [made.env.metrics(e) for e in range(5)]
    mean = {name: np.mean([m[name] for m in own]) for name in own[0]}
    for name, theirs in (("welfare", "social_welfare/coin_eq_times_productivity"), ("equality", "social/equality"),
                         ("productivity", "social/productivity"), ("houses", "Build/total_builds"),
                         ("trades", "Trade/n_trades")):  # fmt: skip
        assert scores[name][0] == pytest.approx(mean[theirs], rel=1e-12), name
    order = made.env.state.agents.pay.argsort(1, kind="stable")
    coin = np.array([[m[f"endow/{i}/Coin"] for i in range(4)] for m in own])
    np.testing.assert_allclose(scores["coin_rank"][0], np.take_along_axis(coin, order, 1).mean(0))
    built = made.env.state.agents.houses * made.env.state.agents.pay
    np.testing.assert_allclose(scores["build_income_rank"][0], np.take_along_axis(built, order, 1).mean(0))
    assert scores["tax_rank"].sum() * 5 == pytest.approx(sum(m["PeriodicTax/total_collected_taxes"] for m in own))
    np.testing.assert_allclose(scores["rate"][0], made.env.options.cutoffs * 0 + made.env.state.taxes.live[0])
    gathered = batch.extra["gathered"].sum((1, 4))[0].numpy()
    np.testing.assert_allclose(scores["gathered_rank"][0], np.take_along_axis(gathered, order, 1).mean(0))


def test_an_episode_without_a_tax_day():
    """Nobody is taxed, and the accounts say so."""
    made = trainer(iterations=1, game={"tax_mode": "us_federal", "steps": 9, "tax_period": 10})
    scores = made.evaluate(3)
    assert not scores["rate"].any()
    assert not scores["tax_rank"].any()
    assert scores["welfare"][0] > 0


@pytest.mark.parametrize("method", ["free-market", "us-federal", "saez", "fixed"])
def test_evaluation_does_not_disturb_training(method):
    e = small(method, anneal="paper" if method == "us-federal" else None)
    quiet, watching = (train(e, k=3, dtype=torch.float64) for _ in range(2))
    evaluator = Evaluator(watching, "eval", 5)
    for _ in range(3):
        quiet.iterate()
        watching.iterate()
        scores = evaluator()
    for name, p in quiet.state.agents.policy.items():
        assert torch.equal(p, watching.state.agents.policy[name])
    assert (scores["tax_rank"] > 0).any() == (method != "free-market")
    assert (scores["rate"] > 0).any() == (method != "free-market")
    np.testing.assert_allclose(scores["net_tax_rank"].sum(), 0, atol=1e-9)
    np.testing.assert_allclose(scores["trade_income_rank"].sum(), 0, atol=1e-9)
    np.testing.assert_allclose(scores["coin_rank"].sum(), scores["productivity"][0])
    if method == "us-federal":  # the cap of training: 9 episodes so far
        assert evaluator.env.state.rates.cap == pytest.approx(np.full(5, 0.1 + 9 * 0.9 / 8000), rel=1e-9)


def test_schedules_decay_as_configured():
    made = trainer(entropy=Linear(0.5, 0.1, 12), exploration=Linear(0.4, 0.0, 2))
    seen = []
    for _ in range(6):
        batch = made.collect(made.state.agents)
        seen.append((made.agents.entropy_weight(made.state.agents, batch), batch.epsilon))
        made.iterate()
    np.testing.assert_allclose(seen, [(0.5, 0.4), (0.4, 0.2), (0.3, 0), (0.2, 0), (0.1, 0), (0.1, 0)])


def test_wrong_games_are_refused():
    for rates in ((2.0,) * 7, (0.5,) * 3, None):
        with pytest.raises(TaskError, match=r"GatherTradeBuild\.fixed_rates"):
            GatherTradeBuild(tax_mode="fixed", fixed_rates=rates)
    with pytest.raises(TaskError, match="map"):
        GatherTradeBuild(map="no such map\nat all!")


# ---------------------------------------------------------------------- presets and methods


def test_presets_and_methods_are_what_they_were():
    assert list(PRESETS) == ["gtb", "gtb_steady", "gtb_phase_2", "gtb_phase_2_steady", "gtb_paper"]
    assert set(METHODS) == {
        "free-market", "us-federal", "saez", "fixed", "metagrad", "metagrad-no-cv", "dual-rl",
    }  # fmt: skip
    for name, make in PRESETS.items():
        e = make()
        assert (e.game, e.preset, e.method) == ("gtb", name, "metagrad")
        assert METHODS["metagrad-no-cv"](e).designer.validation == "before"
        assert not METHODS["metagrad-no-cv"](e).run.pipeline
    slow = PRESETS["gtb_phase_2"]()
    assert slow.designer.path.response_time == pytest.approx(160.0)
    assert {name: make().task.rate_max for name, make in PRESETS.items()} == {
        "gtb": 1, "gtb_steady": 0.6, "gtb_phase_2": 1, "gtb_phase_2_steady": 0.6, "gtb_paper": 1,
    }  # fmt: skip
    assert PRESETS["gtb_paper"]().agents.network == ConvTrunk(6, 5, 2, None, (128, 128))


def test_steady_steps_shrink_with_the_run():
    def parsed(*args):
        e = parse_train(["gtb", "--preset", "gtb_steady", *args])[1]
        return e.designer.optimiser.lr, e.agents.optimiser.lr

    assert parsed() == (Linear(0.015, 0.0, 1875), Linear(1e-3, 1e-4, 20_000))
    short = ("--episodes", "3200")
    assert parsed(*short, "--k", "8") == (Linear(0.015, 0.0, 400), Linear(1e-3, 1e-4, 12_800 / 3))
    halves = parsed(*short, "--agent-batches", "2", "--agents.minibatches", "3", "--agents.epochs", "2")
    assert halves == (Linear(0.015, 0.0, 100), Linear(1e-3, 1e-4, 800))
    designer, agents = parsed(*short, "--designer.optimiser.lr.over", "50")
    assert (designer.over, agents.over) == (50, pytest.approx(6_400 / 3))
    designer, agents = parsed(*short, "--agents.optimiser.lr.over", "50")
    assert (designer.over, agents.over) == (200, 50)
    us = parse_train(["gtb", "--preset", "gtb_steady", "--method", "us-federal", *short])[1]
    assert us.agents.optimiser.lr.over == pytest.approx(6_400 / 3)


def test_steady_steps_of_a_second_phase_are_counted_on():
    def parsed(*args):
        words = ["gtb", "--preset", "gtb_phase_2_steady", "--init-from", "somewhere", *args]
        e = parse_train(words)[1]
        return e.designer.optimiser.lr, e.agents.optimiser.lr

    designer, agents = parsed()
    assert designer == Linear(0.015, 0.0, 937.5)
    assert agents == Linear(4e-4, 4e-5, 15_000, after=10_000)
    assert agents(0) == agents(10_000) == 4e-4  # as well where agents have learned for less
    reported = Linear(6.4e-4, 4e-5, 25_000)  # the line of the runs in docs/results
    assert [agents(t) for t in (10_000, 17_000, 25_000, 30_000)] == pytest.approx(
        [reported(t) for t in (10_000, 17_000, 25_000, 30_000)]
    )
    for length in (7_500, 30_000):
        designer, agents = parsed("--episodes", str(length))
        assert designer == Linear(0.015, 0.0, length / 16)
        assert agents(10_000) == pytest.approx(4e-4)
        assert agents(10_000 + length) == pytest.approx(4e-5)
        assert agents(10_000 + length / 2) == pytest.approx(2.2e-4)
    assert parsed("--episodes", "30000", "--agents.optimiser.lr.over", "7")[1].over == 7
    assert parsed("--episodes", "30000", "--agents.optimiser.lr.start", "0.1")[1].start == 0.1


def test_the_planes_show_what_the_window_holds():
    """Ten planes, of the channels that the economy has; the agent itself is on none."""
    assert len(WINDOW) == 10
    made = trainer(network=PLANES)
    picture = made.collect(made.state.agents).obs["map"]
    assert picture.shape[2:] == (11, 11, 9)
    assert {c for c, _, _ in WINDOW} == set(range(9))
    assert not any(channel == 7 and least <= 1 for channel, least, _ in WINDOW)


@pytest.mark.parametrize("preset", ["gtb", "gtb_paper"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_checkpoint_goes_on_bit_for_bit(preset, method):
    """A trainer that was saved and loaded ends as one that was not."""
    e = small(method, preset, anneal="paper" if method in ("us-federal", "dual-rl") else None)
    k = 2 if preset == "gtb_paper" else 4
    whole, other = (train(e, k=k) for _ in range(2))
    for made in (whole, other):
        made.evaluator = Evaluator(made, "eval", 2)
    whole.train(2)
    whole.evaluator()
    other.load({n: t.clone() for n, t in whole.tensors().items()})
    other.evaluator.load({n: t.clone() for n, t in whole.evaluator.tensors().items()})
    for made in (whole, other):
        made.train(2)
    one, two = whole.tensors(), other.tensors()
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    first, second = whole.evaluator(), other.evaluator()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("method", ["free-market", "saez", "metagrad", "metagrad-no-cv"])
def test_a_seed_alone_equals_that_seed_among_others(method):
    e = small(method)
    together, alone = train(e, (1, 2), iterations=4), train(e, (2,), iterations=4)
    for kind in ("policy", "critic"):
        mine = flatten({kind: getattr(together.state.agents, kind)})
        for name, p in flatten({kind: getattr(alone.state.agents, kind)}).items():
            if p.dim():
                assert torch.equal(mine[name][1:], p), name
    for name, p in alone.designer.eta(alone.state.designer).items():
        assert torch.equal(together.designer.eta(together.state.designer)[name][1:], p)
    one, two = together.evaluate(3), alone.evaluate(3)
    for name in two:
        np.testing.assert_array_equal(one[name][1:], two[name])
    assert not together.diverged().any()


@pytest.mark.parametrize(
    "options",
    [{"network": SMALL}, {"critic": Critic(SMALL, Adam(0.01)), "epochs": 2, "minibatches": 3},
     {"critic": Critic(RecurrentTrunk(replace(SMALL, hidden=(6, 5))), Adam(0.01)), "minibatches": 2}],
    ids=("trunk", "trunk critic", "recurrent critic"),
)  # fmt: skip
def test_published_networks_learn(options):
    made = trainer(iterations=2, **options)
    assert all(p.isfinite().all() for p in made.state.agents.policy.values())
    assert not made.diverged().any()


def test_a_seed_whose_schedule_has_diverged_leaves_the_others_alone():
    one, other = (train(small("metagrad"), (1, 2), iterations=1) for _ in range(2))
    one.state.designer.eta["logits"][0] = float("nan")
    for t in (one, other):
        t.train(2)
    assert one.diverged().tolist() == [True, False]
    for name, p in other.state.agents.policy.items():
        assert torch.equal(one.state.agents.policy[name][1], p[1])
    assert torch.equal(one.state.designer.eta["logits"][1], other.state.designer.eta["logits"][1])


# ---------------------------------------------------------------------- learning and figures


def test_agents_learn():
    """A free market with the preset's agents, 960 episodes: welfare grows, and agents build."""
    e = METHODS["free-market"](PRESETS["gtb"]())
    made = Trainer(e.task, e.agents, e.designer, seeds=(3,), k=16)
    first = Evaluator(made, "eval", 20)()
    made.train(60)
    last = Evaluator(made, "eval", 20)()
    assert last["welfare"][0] > 1.3 * first["welfare"][0]
    assert last["houses"][0] > 1.5 * first["houses"][0]


def columns():
    """As a run writes them: two seeds, three evaluations."""
    made = trainer(
        designer(TaxSchedule(), path=Sensitivity(15.0), advantages="gae", critic=LinearCritic(OwnedByRank())),
        seeds=(1, 2),
    )
    rows = []
    for _ in range(3):
        made.iterate()
        scores = made.evaluate(2)
        rows += [{"seed": seed, "episode": made.state.episodes, **row_of(scores, s)} for s, seed in enumerate((1, 2))]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_figures_of_runs():
    metrics, made = columns(), SimpleNamespace(task=task())
    panels = task().panels([(made, "metagrad", metrics), (made, "the same", metrics)])
    assert len(panels) == 17
    axes = {name: Figure().subplots() for name in panels}
    for name, panel in panels.items():
        panel(axes[name])
    np.testing.assert_allclose(axes["welfare"].lines[0].get_ydata(), metrics["welfare"].reshape(3, 2).mean(1))
    assert len(axes["rates"].lines) == 2
    np.testing.assert_allclose(
        [bar.get_height() for bar in axes["coin"].patches[:4]],
        [metrics[f"coin_rank_{i}"].reshape(3, 2)[-1].mean() for i in range(4)],
    )


def test_frames_of_an_episode(monkeypatch):
    env = task(tax_mode="us_federal").make(2, [1])
    env.reset()
    frames, camera = [], task().camera(env, 1)
    for _ in range(3):
        env.step(np.full((2, 4), 47))
        frames.append(camera())
    assert frames[0].dtype == np.uint8
    assert frames[0].shape == frames[2].shape
    assert (frames[0] != frames[2]).any()
    assert (task().camera(env, 0)() != frames[2]).any()  # another copy
    np.testing.assert_array_equal(task().camera(env, 1)(), frames[2])  # one that begins here sees the same
    draws, draw = [], FigureCanvasAgg.draw
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda canvas: draws.append(draw(canvas)))
    camera()
    assert not draws  # what stays is not drawn again
    env.state.agents.coin[1] = [45, 3, 0, 30]  # more than the axis has room for
    grown = camera()
    assert len(draws) == 1
    assert (grown != frames[2]).any()
    np.testing.assert_array_equal(camera(), grown)
    np.testing.assert_array_equal(task().camera(env, 1)(), grown)


# ---------------------------------------------------------------------- the draw of actions


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_masked_policy(epsilon):
    """Sampling follows the masked, mixed softmax; illegal actions are never chosen; its logarithm is the learner's."""
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.normal(size=(1, 1, 1, 6)), 60_000, 1).astype(np.float32)
    mask = np.repeat(np.array([[[1, 0, 1, 1, 0, 1]]], np.uint8), 60_000, 0)
    actions, log_prob = np.empty((1, 60_000, 1), np.int64), np.empty((1, 60_000, 1))
    choose(logits, mask, rng.random((1, 60_000)), epsilon, np.empty(logits.shape[-1]), actions, log_prob)
    legal = torch.from_numpy(mask[:1, 0]).bool()
    log_p = losses.log_probabilities(torch.from_numpy(logits[0, :1, 0]), epsilon, legal)[0]
    share = np.bincount(actions.ravel(), minlength=6) / 60_000
    assert share[[1, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(share, log_p.exp().numpy(), atol=0.01)
    np.testing.assert_allclose(log_prob, log_p.numpy()[actions], rtol=1e-4, atol=1e-5)
    if epsilon:
        assert (share[[0, 2, 3, 5]] >= 0.3 / 4 - 0.01).all()


def test_the_last_legal_action_is_chosen_where_rounding_leaves_nothing():
    actions, log_prob = np.empty((1, 1, 1), np.int64), np.empty((1, 1, 1))
    mask = np.array([[[1, 1, 0]]], np.uint8)
    choose(np.zeros((1, 1, 1, 3), np.float32), mask, np.array([[1 - 1e-17]]), 0.0, np.empty(3), actions, log_prob)
    assert actions.item() == 1
