"""Games, incentives and agents of a user's own: everything works for them, and what does not is said."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from games import Lights

import fastenvs
from metagrad import (
    AMD,
    ByAction,
    ByActionType,
    Categorical,
    Critic,
    DesignerCritic,
    DualRL,
    IncentiveFunction,
    JointAction,
    MetaGradient,
    ModuleNetwork,
    MutualIncentive,
    NoDesigner,
    PolicyGradientAgents,
    SquashedGaussian,
    TaskError,
    Trainer,
    VectorTask,
    optim,
)
from metagrad.experiment.registry import OwnGame
from metagrad.metagradient import Sensitivity
from metagrad.networks import MLP
from metagrad.networks.base import Where
from metagrad.optim import Linear
from metagrad.tasks.escape_room import EscapeRoom

SMALL = MLP((8,), output_bias=False)
CRITIC = Critic(MLP((6,)), optim.Adam(0.02), target_tau=0.1)


def lights(**options):
    return VectorTask(lambda n, seed=None: Lights(n, seed, **options), 5, "lights")


def gtb():
    return VectorTask(
        lambda n, seed: fastenvs.make("gtb", n, seed=seed, steps=8, tax_period=3, designer_obs="always"), 8, "economy"
    )


PLAIN = PolicyGradientAgents((8,), optim.SGD(0.05))
RICH = PolicyGradientAgents(
    (8,), optim.Adam(0.02), share_parameters=True, critic=CRITIC, gae_lambda=0.9, terminal="bootstrap", normalise=True,
    reduction="rows", minibatches=3, epochs=2, exploration=Linear(0.3, 0.0, 5), entropy=Linear(0.1, 0.0, 40),
)  # fmt: skip
PAID = ByAction(SMALL)
CASES = {
    "metagrad": (lights, PLAIN, MetaGradient(PAID), {}),
    "metagrad rich": (lights, RICH, MetaGradient(PAID, cost=0.1), {}),
    "metagrad M=3": (
        lights,
        PLAIN,
        MetaGradient(PAID, cost=0.1, cost_optimiser=optim.Adam(0.01)),
        {"agent_batches": 3},
    ),
    "no cv": (lights, PLAIN, MetaGradient(PAID, validation="before"), {"pipeline": False}),
    "critic": (lights, PLAIN, MetaGradient(PAID, advantages="gae", critic=DesignerCritic(CRITIC), gae_lambda=0.9), {}),
    "replayed": (lights, RICH, MetaGradient(PAID, agent_model="replayed", epochs=2), {}),
    "cloned": (lights, RICH, MetaGradient(PAID, agent_model="surrogate", repay=True), {}),
    "lio": (lambda: lights(plain=True), PLAIN, MetaGradient(MutualIncentive(2, SMALL)), {}),
    "dual discrete": (lights, PLAIN, DualRL(Categorical((0.0, 1.0)), entropy=0.1), {}),
    "dual continuous": (lights, RICH, DualRL(SquashedGaussian(), critic=DesignerCritic(CRITIC)), {}),
    "amd": (lambda: lights(plain=True), PLAIN, AMD(agents_lr=0.05), {}),
    "none": (lights, RICH, NoDesigner(), {}),
    "room": (lambda: EscapeRoom(3, 1), PLAIN, MetaGradient(PAID), {}),
    "economy": (gtb, replace(RICH, network=MLP((8,))), MetaGradient(PAID), {}),
    "central": (lambda: JointAction(lights(plain=True)), PLAIN, NoDesigner(), {}),
}


def trainer(name, seeds=(3, 7), k=4):
    make, agents, designer, options = CASES[name]
    return Trainer(make(), agents, designer, seeds=seeds, k=k, **options)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("name", CASES)
def test_everything_trains_and_resumes_bit_for_bit(name):
    whole, part = trainer(name), trainer(name)
    whole.train(2)
    saved = {n: t.clone() for n, t in whole.tensors().items()}
    whole.train(2)
    part.load(saved)
    part.train(2)
    same(whole.tensors(), part.tensors())
    for key, values in whole.evaluate(6).items():
        np.testing.assert_array_equal(values, part.evaluate(6)[key])
    assert not whole.diverged().any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("k", [3, 16])
def test_a_seed_does_not_see_the_others(name, k):
    if name == "economy" and k == 16:
        pytest.skip("k = 3 is enough of the large game")
    together, alone = trainer(name, (3, 7, 11), k), trainer(name, (7,), k)
    for t in (together, alone):
        t.train(3)
    mine, all_ = alone.tensors(), together.tensors()
    for kind in ("agents/policy/", "designer/eta/", "agents/critic/params/"):
        for n in (n for n in mine if n.startswith(kind)):
            want = all_[n].reshape(3, -1)[1] if all_[n].dim() else all_[n]
            assert torch.equal(want, mine[n].flatten()), n


def test_evaluation_does_not_disturb_training():
    one, other = trainer("metagrad"), trainer("metagrad")
    one.train(3)
    for _ in range(3):
        other.train(1)
        other.evaluate(5)
    same(one.tensors(), other.tensors())


def test_a_saved_state_that_does_not_fit_changes_nothing():
    t = trainer("metagrad")
    t.train(1)
    good = {n: x.clone() for n, x in t.tensors().items()}
    for change in (
        lambda d: d.pop("agents/policy/w0"),
        lambda d: d.update({"agents/policy/w0": torch.zeros(3)}),
        lambda d: d.update({"agents/policy/strange": torch.zeros(3)}),
        lambda d: d.update({"pending/actions": torch.zeros(2, 5, 3, 2, dtype=torch.int64)}),
        lambda d: d.pop("pending/rewards"),
    ):
        bad = dict(good)
        change(bad)
        with pytest.raises(ValueError, match=r"missing|shape|needed|unknown|incomplete"):
            t.load(bad)
        same(t.tensors(), good)


def test_illegal_actions_are_never_taken_and_rows_after_the_end_are_empty():
    t = trainer("metagrad", k=8)  # the game asserts that actions are legal
    batch = t.collect(t.state.agents)
    over = batch.alive == 0
    assert over.any()
    for name in ("rewards", "payments", "log_prob"):
        assert not getattr(batch, name)[over].any(), name
    assert not batch.designer_rewards[over].any()
    assert not batch.onehot_actions()[over].any()


def test_values_stand_for_what_follows_a_cut_and_not_for_what_follows_an_end():
    agents = replace(RICH, epochs=1, minibatches=1)
    t = Trainer(lights(), agents, NoDesigner(), seeds=(1,), k=32)
    batch = t.collect(t.state.agents)
    ended = (batch.cut.sum(1) == 0)[0]
    assert ended.any()
    assert not ended.all()
    last = batch.alive.sum(1).long()[0]
    for j in range(32):
        after = batch.values[0, last[j], j]
        assert (after == 0).all() if ended[j] else (after != 0).all()


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_autoreset_of_an_environment_does_not_matter(mode):
    task = VectorTask(
        lambda n, seed: fastenvs.make("escape_room", n, seed=seed, n_agents=3, min_at_lever=1, autoreset=mode), 5
    )
    want = Trainer(EscapeRoom(3, 1), PLAIN, MetaGradient(PAID), seeds=(3, 4), k=4)
    got = Trainer(task, PLAIN, MetaGradient(PAID), seeds=(3, 4), k=4)
    for t in (want, got):
        t.train(3)
    for kind in ("policy", "policy_opt"):
        assert kind
    for n, p in want.state.agents.policy.items():
        assert torch.equal(p, got.state.agents.policy[n])


def test_a_game_may_keep_the_actions_that_it_was_given():
    class Remembers(Lights):
        same = True

        def step(self, actions):
            kept = getattr(self, "last", None)
            type(self).same &= kept is None or bool((kept == actions).all())
            self.last = actions
            return super().step(actions)

    Trainer(VectorTask(Remembers, 5), PLAIN, NoDesigner(), seeds=(1, 2), k=16).train(1)
    assert not Remembers.same


class Leaving(Lights):
    """Lights that the second agent leaves after two steps, which the game says."""

    def step(self, actions):
        present = np.ones((self.num_envs, 2), bool)
        present[:, 1] = self.t < 2
        obs, rewards, terminated, truncated, info = super().step(actions)
        return obs, rewards * present, terminated, truncated, {**info, "present": present}


@pytest.mark.parametrize("name", ["metagrad", "lio", "dual discrete", "dual continuous", "amd"])
@pytest.mark.parametrize("critic", [None, CRITIC])
def test_an_agent_that_has_left_is_not_paid_and_learns_nothing_more(name, critic):
    agents, designer = replace(PLAIN, normalise=True, entropy=0.1, critic=critic), CASES[name][2]
    t = Trainer(VectorTask(lambda n, seed: Leaving(n, seed, plain=True), 5), agents, designer, seeds=(3, 7), k=8)
    batch = t.collect(t.state.agents)
    left = batch.agents_alive.bool() ^ batch.alive[..., None].bool()
    assert left.any()
    assert not batch.payments[left].any()
    assert batch.payments[batch.agents_alive > 0].any()
    other = batch.replace(actions=torch.where(left, (batch.actions + 1) % 3, batch.actions), memo={})
    one, two = (agents.update(t.state.agents, x, t.rng)[0] for x in (batch, other))
    same(one.policy, two.policy)
    if critic is not None:
        same(one.critic.params, two.critic.params)
        assert not batch.values[:, :-1][left].any()
    t.train(2)
    assert not t.diverged().any()


def test_a_game_that_agents_leave_may_have_one_mind_and_says_so_in_every_step():
    def leaving(n, seed, fault=None):
        made = Leaving(n, seed, plain=True)
        if fault is not None:
            step = made.step
            made.step = lambda actions: fault(made, step(actions))
        return made

    Trainer(JointAction(VectorTask(leaving, 5)), PLAIN, NoDesigner(), seeds=(1, 2), k=4).train(2)

    def sometimes(env, result):
        return result if env.t < 3 else (*result[:4], {k: x for k, x in result[4].items() if k != "present"})

    def numbers(env, result):
        return (*result[:4], {**result[4], "present": 2 * result[4]["present"].astype(int)})

    with pytest.raises(TaskError, match="in every step, or in none"):
        Trainer(VectorTask(partial(leaving, fault=sometimes), 5), PLAIN, NoDesigner(), seeds=(1,), k=4).train(1)
    with pytest.raises(TaskError, match=r"booleans \[N, A\] = \[\d, 2\]: who was in the game, got int64"):
        VectorTask(partial(leaving, fault=numbers), 5)


def test_scores_under_one_mind_see_what_each_agent_did():
    """The scores of Escape Room count who pulls the lever, agent by agent."""
    t = Trainer(JointAction(EscapeRoom(3, 2)), PLAIN, NoDesigner(), seeds=(1,), k=64)
    batch = t.collect(t.state.agents)
    each = torch.stack([batch.actions[..., 0] // 3**a % 3 for a in range(3)], -1)
    pulled = ((each == 0) * batch.alive[..., None]).sum(1).mean(1)
    np.testing.assert_allclose(t.task.scores(batch)["n_lever"], pulled, rtol=1e-6)


# ---------------------------------------------------------------------- what cannot be done is said


class Broken(Lights):
    """Lights with one thing wrong."""

    fault = ""

    def __getattribute__(self, name):
        fault = object.__getattribute__(self, "fault")
        if name == fault.removeprefix("no ") and fault.startswith("no "):
            raise AttributeError(name)
        if name == "n_actions" and fault in ("lists", "continuous"):
            return [3, 2] if fault == "lists" else 0.5
        return object.__getattribute__(self, name)

    def _obs(self):
        obs = super()._obs()
        if self.fault == "designer":
            del obs["designer"]
        elif self.fault == "text":
            obs["agents"] = np.full((self.num_envs, 2, 1), "x")
        elif self.fault == "axes":
            obs["agents"] = np.zeros((self.num_envs, 4))
        elif self.fault == "mask":
            obs["agents"]["mask"] = np.ones((self.num_envs, 2, 5), bool)
        return obs

    def step(self, actions):
        obs, rewards, terminated, truncated, info = super().step(actions)
        if self.fault == "rewards":
            rewards = rewards.sum(1)
        elif self.fault == "flags":
            terminated = terminated.astype(float)
        elif self.fault == "welfare":
            info = {}
        elif self.fault == "four":
            return obs, rewards, terminated, info
        return obs, rewards, terminated, truncated, info


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no n_agents", "n_agents"), ("no reset", "reset"), ("lists", "same number of actions for every agent"),
        ("continuous", "continuous"), ("designer", "'designer'"), ("text", "numbers"), ("axes", "shape"),
        ("mask", "mask"), ("rewards", "rewards"), ("flags", "booleans"), ("welfare", "designer_reward"),
        ("four", "terminated, truncated"),
    ],
)  # fmt: skip
def test_a_game_that_does_not_fit_is_refused_at_construction(fault, message):
    made = type("Made", (Broken,), {"fault": fault})
    with pytest.raises(TaskError, match=message):
        VectorTask(made, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: Lights(1), r"make\(2\) gives an environment with num_envs = 1"),
        (Lights(4), "make must be a function"),
        (lambda n, seed: Dark(n, seed, 0), "the agents see nothing"),
        (lambda n, seed: Blocked(n, seed, 0), "no legal action"),
    ],
)
def test_an_environment_of_other_copies_or_without_a_view_is_refused(make, message):
    with pytest.raises(TaskError, match=message):
        VectorTask(make, 5)


class Late(Lights):
    """Lights that go wrong after some steps."""

    def __init__(self, num_envs, seed=None, after=3):
        super().__init__(num_envs, seed)
        self.after = after

    def _obs(self):
        obs = super()._obs()
        if self.t >= self.after:
            self.spoil(obs)
        return obs

    def reset(self, seed=None):
        self.t = 0
        return super().reset(seed)


class Dark(Late):
    def spoil(self, obs):
        obs["agents"] = {"own": np.zeros((self.num_envs, 2, 0)), "mask": obs["agents"]["mask"]}


class Blocked(Late):
    def spoil(self, obs):
        obs["agents"]["mask"] = np.zeros((self.num_envs, 2, 3), np.uint8)


class Blind(Late):
    def spoil(self, obs):
        del obs["designer"]


class Endless(Late):
    def spoil(self, obs):
        self.level = self.level * np.nan


@pytest.mark.parametrize(
    ("made", "message"),
    [(Dark, r"at construction.* now is"), (Blocked, "no legal action"), (Blind, "'designer'"), (Endless, "not finite")],
)
def test_a_game_that_goes_wrong_on_its_way_is_refused(made, message):
    t = Trainer(VectorTask(made, 5), PLAIN, NoDesigner(), seeds=(1, 2), k=4)
    with np.errstate(invalid="ignore"), pytest.raises(TaskError, match=message):
        t.train(1)


def test_what_a_copy_does_after_its_end_is_ignored():
    class Over(Lights):
        def step(self, actions):
            obs, rewards, terminated, truncated, info = super().step(
                np.where(self.level.sum(1, keepdims=True) >= 5, 0, actions)
            )
            obs["agents"]["mask"][terminated] = False
            return obs, rewards, terminated, truncated, info

    Trainer(VectorTask(Over, 5), PLAIN, NoDesigner(), seeds=(1, 2), k=16).train(2)


def test_an_incentive_or_a_module_that_does_not_go_with_the_game_is_refused():
    with pytest.raises(ValueError, match="the task records no 'action_type'"):
        Trainer(lights(), PLAIN, MetaGradient(ByActionType()), seeds=(1,), k=2).train(1)
    odd = PolicyGradientAgents(network=ModuleNetwork(lambda: torch.nn.Linear(2, 3)))
    with pytest.raises(ValueError, match=r"Linear cannot be called with the observations 'own' \[2, 2\], 'picture'"):
        Trainer(lights(), odd, NoDesigner())
    with pytest.raises(ValueError, match="ByAction has no levers; the path Sensitivity needs some"):
        Trainer(lights(), PLAIN, MetaGradient(ByAction(), path=Sensitivity()))
    with pytest.raises(ValueError, match="an MLP needs something to read"):
        MLP((4,)).init([np.random.default_rng(1)], 1, {"mask": (2,)}, 2, Where())


class Turning(Lights):
    """Sees what is given, at the beginning and after a step."""

    def __init__(self, num_envs, first, then, designer=None):
        super().__init__(num_envs, plain=True)
        self.first, self.then, self.designer = first, then, designer

    def _obs(self):
        seen = self.first if self.t == 0 else self.then
        agents = {name: np.full((self.num_envs, 2, 2, 2), x) for name, x in seen.items()}
        view = super()._obs()["designer"] if self.designer is None else self.designer
        return {"agents": agents, "designer": view}

    def reset(self, seed=None):
        self.t = 0
        return super().reset(seed)


class Recording(VectorTask):
    def record(self, env, info):
        return self.recorded.pop(0)(env.num_envs)


def test_numbers_that_turn_to_another_type_are_refused():
    made = VectorTask(lambda n: Turning(n, {"x": np.uint8(0)}, {"x": np.float32(0.7)}), 5)
    with pytest.raises(ValueError, match="'x' was uint8 at first, and turned to float32 in an episode"):
        Trainer(made, PLAIN, NoDesigner(), k=2).train(1)
    task = Recording(lambda n: Lights(n), 5, "recording")
    task.recorded = [lambda n: {"x": np.zeros(n, int)}, lambda n: {"x": np.full(n, 0.7)}]
    with pytest.raises(ValueError, match="'x' was int64 at first, and turned to float64 in an episode"):
        Trainer(task, PLAIN, NoDesigner(), k=2).train(1)


def test_names_with_a_slash_are_refused():
    seen = {"me/seen": np.float32(0.5)}
    with pytest.raises(ValueError, match="cannot be called 'me/seen', with a slash"):
        Trainer(VectorTask(lambda n: Turning(n, seen, seen), 5), PLAIN, NoDesigner(), k=2).train(1)
    task = Recording(lambda n: Lights(n), 5, "recording")
    task.recorded = [lambda n: {"a/b": np.zeros(n)}]
    with pytest.raises(ValueError, match="cannot be called 'a/b', with a slash"):
        Trainer(task, PLAIN, NoDesigner(), k=2).train(1)


def test_a_designer_that_sees_nothing_goes_on():
    seen = {"x": np.float32(0.5)}
    task = VectorTask(lambda n: Turning(n, seen, seen, designer={}), 5)
    whole, other = (Trainer(task, PLAIN, MetaGradient(PAID), seeds=(1, 2), k=2) for _ in range(2))
    whole.train(2)
    other.load(whole.tensors())
    assert other.state.pending.designer_obs == {}
    whole.train(1)
    other.train(1)
    assert all(t.equal(other.tensors()[name]) for name, t in whole.tensors().items())


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True, "5", None])
def test_an_impossible_horizon_is_refused(horizon):
    with pytest.raises(TaskError, match="horizon"):
        VectorTask(Lights, horizon)


def test_an_incentive_of_the_wrong_shape_is_refused():
    for payments in (lambda eta, batch: eta["w"], lambda eta, batch: 3.0):
        incentive = IncentiveFunction(payments, init=lambda n: {"w": torch.zeros(n, 1)})
        with pytest.raises(ValueError, match=r"payments must be a tensor \[S, T, K, A\]"):
            Trainer(lights(), PLAIN, MetaGradient(incentive), seeds=(1,), k=2).train(1)
    for init in (lambda n: {"w": torch.zeros(3, 1)}, lambda n: torch.zeros(n), lambda n: {}):
        with pytest.raises(ValueError, match="init"):
            Trainer(lights(), PLAIN, MetaGradient(IncentiveFunction(lambda e, b: b.rewards, init)), seeds=(1, 2), k=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PolicyGradientAgents(gamma=1.5), lambda: PolicyGradientAgents(hidden=(0,)),
        lambda: PolicyGradientAgents(hidden="64"), lambda: PolicyGradientAgents(terminal="end"),
        lambda: PolicyGradientAgents(epochs=True), lambda: optim.Adam(-1.0), lambda: optim.SGD(float("nan")),
        lambda: optim.Adam(0.1, beta2=1.0), lambda: MetaGradient(PAID, chain=-1.0), lambda: ByAction(scale=0.0),
        lambda: MetaGradient(PAID, advantages="gae"), lambda: Linear(1.0, 0.0, 0.0), lambda: MLP((2.5,)),
        lambda: Trainer(lights(), PLAIN, NoDesigner(), seeds=()), lambda: Trainer(lights(), PLAIN, NoDesigner(), k=0),
        lambda: Trainer(lights(), PLAIN, NoDesigner(), seeds=(1, 1)), lambda: EscapeRoom(2, 3),
        lambda: MutualIncentive(1),
        lambda: MetaGradient(MutualIncentive(2, SMALL), advantages="gae", critic=DesignerCritic(CRITIC)),
        lambda: JointAction(gtb()),
        lambda: PolicyGradientAgents(exploration=Linear(1.8, 0.0, 100)),
        lambda: PolicyGradientAgents(exploration=Linear(0.0, 1.1, 100)),
        lambda: Trainer(lights(), PLAIN, NoDesigner(), seeds=(1.2, 1.7)),
        lambda: Trainer(lights(), PLAIN, NoDesigner(), seeds=(True, 2)),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(make):
    with pytest.raises(ValueError, match=r"\w+"):
        make()


def test_agents_of_the_command_line_learn_alike_whatever_the_size_of_rewards():
    """Else a step on large rewards makes agents sure of whatever they did, and no payment reaches them any more."""

    class Rich(Lights):
        def step(self, actions):
            obs, rewards, *rest, info = super().step(actions)
            return obs, rewards * 1000, *rest, {**info, "designer_reward": info["designer_reward"] * 1000}

    default = OwnGame("own:task").PRESETS["own"]().agents
    learned = {}
    for made in (default, replace(default, normalise=False)):
        for game in (Lights, Rich):
            t = Trainer(VectorTask(game, 5), made, NoDesigner(), seeds=(1, 2), k=4)
            t.train(3)
            learned[made.normalise, game] = t.state.agents.policy["w0"]
    torch.testing.assert_close(learned[True, Rich], learned[True, Lights], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(learned[False, Rich], learned[False, Lights], rtol=1e-3, atol=1e-4)
