"""Gather-Trade-Build on the core computes what the learner before it did: five iterations, in float64."""

import numpy as np
import pytest
import torch
from frozen import reference

from metagrad.agents.critics import Critic, DesignerCritic, LinearCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.designers import DualRL, MetaGradient, NoDesigner, StateOnly
from metagrad.designers.dual_rl import ACTED, DRAW
from metagrad.metagradient import LastSteps, Sensitivity
from metagrad.networks import MLP, ConvTrunk, RecurrentTrunk
from metagrad.optim import Adam, Linear
from metagrad.tasks.gtb import GatherTradeBuild, OwnedByRank, PerBracketCategorical, TaxSchedule, Welfare
from metagrad.trainer import Trainer

ITERATIONS = 5
NAMES = [n for n in reference.names() if n.startswith("gtb/")]
TAX_MODES = {
    "free-market": "none", "us-federal": "us_federal", "saez": "saez", "fixed": "fixed", "metagrad": "external",
    "metagrad-no-cv": "external", "dual-rl": "planner",
}  # fmt: skip


def trunk(net):
    return ConvTrunk(filters=net["filters"], kernel=5, convolutions=2, hidden=tuple(net["hidden"]))


def agents_of(config):
    a = config["agents"]
    network = {
        "flat": MLP(tuple(a["hidden"]), head_scale=0.1),
        "trunk": trunk(a),
        "lstm": RecurrentTrunk(trunk(a)),
    }[a["critic"]]
    reads = ("flat",) if a["critic"] == "flat" else ()
    return PolicyGradientAgents(
        network=trunk(a), optimiser=Adam(a["lr"]), share_parameters=True, gamma=a["gamma"], gae_lambda=a["gae_lambda"],
        entropy=Linear(a["entropy"], a["entropy_end"], a["entropy_episodes"]),
        exploration=Linear(a["epsilon_start"], a["epsilon_end"], a["epsilon_div"]),
        critic=Critic(network, Adam(a["lr_critic"]), reads=reads), terminal="bootstrap", normalise=a["normalise"],
        reduction="rows", epochs=a["epochs"], minibatches=a["minibatches"], clip=a["clip"],
    )  # fmt: skip


def designer_of(config):
    d, p, r, method = config["designer"], config["planner"], config["reward"], config["method"]
    welfare = Welfare(r["reward"])
    if method == "dual-rl":
        return DualRL(
            PerBracketCategorical(), trunk(p), Adam(p["lr"]), r["gamma"], p["gae_lambda"], p["entropy"],
            DesignerCritic(Critic(trunk(p), Adam(p["lr_critic"])), p["gae_lambda"]), reward_less_payments=False,
            reduction="rows", view=StateOnly(), rewards=welfare, normalise=p["normalise"], epochs=p["epochs"],
            clip=p["clip"],
        )  # fmt: skip
    if not method.startswith("metagrad"):
        return NoDesigner()
    network = trunk(d) if d["policy"] == "network" else None
    critics = {
        "returns": None,
        "linear": LinearCritic(OwnedByRank()),
        "network": DesignerCritic(Critic(trunk(d), Adam(d["lr_critic"]), target_tau=d["target_tau"]), d["gae_lambda"]),
    }
    stepwise = d["response"] == "step"
    start = 0.5 if network else d["start"]  # where the frozen network's outputs were 0
    return MetaGradient(
        TaxSchedule(network, start, welfare, d["baseline"], d["carry"], d["coin_floor"]), Adam(d["lr"]),
        gamma=r["gamma"], advantages="leave_one_out" if d["critic"] == "returns" else "gae",
        critic=critics[d["critic"]], gae_lambda=d["gae_lambda"],
        path=LastSteps(1) if stepwise else Sensitivity(d["response_time"], d["trace_stride"]), chain=d["chain"],
        direct=d["direct"], epochs=d["epochs"], clip=d["clip"],
        validation="before" if method == "metagrad-no-cv" else "after", discount_scores=True, compare_halves=True,
    )  # fmt: skip


def trainer_of(config, seeds=None):
    g, method = config["game"], config["method"]
    saved = {name: g[name] for name in ("map", "n_agents", "fixed_four", "steps", "tax_period", "anneal", "rates")}
    task = GatherTradeBuild(**GatherTradeBuild.upgraded({"tax_mode": TAX_MODES[method], **saved}))
    return Trainer(
        task, agents_of(config), designer_of(config), seeds=seeds or config["seeds"], k=config["k"],
        pipeline=method != "metagrad-no-cv", dtype=torch.float64,
    )  # fmt: skip


def of_seed(params, s):
    return {n: torch.from_numpy(x[s : s + 1].copy()) for n, x in params.items()}


def below(arrays, prefix):
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def dense(params):
    """Layers ``f0 [S, out, in]`` as ``w0 [S, in, out]``, and biases, as a multilayer perceptron has them."""
    out = {}
    for name, x in params.items():
        layer = name[1:].removesuffix("_bias")
        out |= {f"b{layer}": x[:, None]} if name.endswith("_bias") else {f"w{layer}": x.swapaxes(1, 2)}
    return out


def undense(params):
    out = {}
    for name, x in params.items():
        key = f"f{name[1:]}"
        out |= {f"{key}_bias": x[:, 0]} if name[0] == "b" else {key: x.swapaxes(1, 2)}
    return out


def designer_columns(params, n_agents, back=False):
    """The designer's network: its vector now begins with the numbers about agents, which were last."""
    if "f0" not in params:
        return params
    first, about = params["f0"], 8 * n_agents
    vector = params["map"].shape[1]  # the dense layer on the map is as wide as the vector
    order = np.r_[vector + vector - about : 2 * vector, vector : 2 * vector - about]
    order = np.r_[:vector, order]
    return {**params, "f0": first[:, :, np.argsort(order) if back else order]}


def start(trainer, ref, s):
    """Hand in the initial parameters of one seed."""
    n, critic_kind = ref.config["game"]["n_agents"], ref.config["agents"]["critic"]
    state = trainer.state
    critic = of_seed(
        dense(below(ref.initial, "critic/")) if critic_kind == "flat" else below(ref.initial, "critic/"), s
    )
    agents = state.agents._replace(
        policy=of_seed(below(ref.initial, "policy/"), s),
        critic=state.agents.critic._replace(params=critic, target=critic),
    )
    designer = state.designer
    prefix, judge = ("planner/", "judge/") if ref.config["method"] == "dual-rl" else ("eta/", "judge/params/")
    eta = of_seed(designer_columns(below(ref.initial, prefix), n), s)
    if eta and hasattr(designer, "eta"):
        designer = designer._replace(eta=eta)
        values = of_seed(designer_columns(below(ref.initial, judge), n), s)
        if values:
            designer = designer._replace(critic=designer.critic._replace(params=values, target=values))
    trainer.state = state._replace(agents=agents, designer=designer)


def learned(trainer, config):
    """Everything that was learned, by the names of the references, ``[1, ...]`` each."""
    state, n = trainer.state, config["game"]["n_agents"]
    arrays = lambda params: {name: p.numpy() for name, p in params.items()}  # noqa: E731
    critic = arrays(state.agents.critic.params)
    kinds = {
        "policy": arrays(state.agents.policy),
        "critic": undense(critic) if config["agents"]["critic"] == "flat" else critic,
    }
    d = state.designer
    if config["method"] == "dual-rl":
        kinds |= {"planner": designer_columns(arrays(d.eta), n, True)}
        kinds |= {"judge": designer_columns(arrays(d.critic.params), n, True)}
    elif config["method"].startswith("metagrad"):
        kinds |= {"eta": designer_columns(arrays(d.eta), n, True)}
        if config["designer"]["critic"] == "network":
            for kind in ("params", "target"):
                kinds[f"judge/{kind}"] = designer_columns(arrays(getattr(d.critic, kind)), n, True)
        elif config["designer"]["critic"] == "linear":
            kinds["judge"] = arrays(d.critic) | {"weight": d.critic["weight"].numpy().reshape(1)}
        if config["designer"]["response"] == "trace":
            kinds["response/params"] = {name: p.transpose(0, 1).numpy() for name, p in d.path.params.items()}
    carried = trainer.env.state
    found = {f"{kind}/{name}": x for kind, params in kinds.items() for name, x in params.items()}
    return found | {"carried/cap": carried.rates.cap[None], "carried/live": carried.taxes.live[None]}


def played_rates(batch):
    days = batch.extra["tax_day"][0, :, 0].bool()
    return batch.extra["rates"][0, days].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_five_iterations_are_as_before(name):
    ref = reference.read(name)
    ends = []
    for s, seed in enumerate(ref.config["seeds"]):
        trainer = trainer_of(ref.config, (seed,))
        start(trainer, ref, s)
        if ref.adopted is not None:
            adopt_from(trainer, ref, seed)
        played = reference.train(trainer, ITERATIONS, diagnosed=2)
        check_batches(ref, s, played)
        ends.append(learned(trainer, ref.config))
    got = {n: np.concatenate([end[n] for end in ends]) for n in ends[0]}
    assert got.keys() >= ref.final.keys()
    errors = {n: reference.error(reference.stored(got[n]), want) for n, want in ref.final.items()}
    assert max(errors.values()) < 1e-9, errors


def adopt_from(trainer, ref, seed):
    """Agents as another run left them."""
    source = trainer_of(ref.adopted, (seed,))
    start(source, ref, 0)  # both runs drew the same networks: they are of the same seed
    for _ in range(ITERATIONS):
        source.iterate()
    trainer.adopt(source.tensors())


def sketched(found, name, want):
    """An array of one batch and seed as the references keep it."""
    if name.endswith("_sketch"):
        return reference.sketch(found)
    return found.reshape(want.shape)


def check_batches(ref, s, played):
    getters = {
        "actions": lambda b: b.actions[0].numpy(),
        "rewards": lambda b: b.rewards[0].numpy(),
        "values": lambda b: b.values[0].numpy(),
        "epsilon": lambda b: np.array(b.epsilon),
        "rates": played_rates,
        "designer_choice": lambda b: b.extra[DRAW][0, b.extra[ACTED][0, :, 0].bool()].numpy(),
    }
    seen = set()
    for name, want in ref.batches.items():
        kind = name.removesuffix("_sketch")
        if kind not in getters:
            continue
        seen.add(kind)
        assert len(want) == len(played)
        for n, batch in enumerate(played):
            got = sketched(getters[kind](batch), name, want[n, s])
            assert reference.error(got, want[n, s]) < 1e-9, (name, n)
    assert {"actions", "rewards", "values"} <= seen
