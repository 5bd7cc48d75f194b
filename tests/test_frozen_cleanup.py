"""Cleanup on the core computes what the learner before it did: parameters after five iterations, in float64."""

import numpy as np
import pytest
import torch
from frozen import reference

from metagrad.agents import Critic, DesignerCritic, PolicyGradientAgents, Surrogate
from metagrad.designers import ByActionType, DualRL, MetaGradient, NoDesigner, SquashedGaussian
from metagrad.networks import ConvTrunk
from metagrad.optim import SGD, Adam, Linear
from metagrad.tasks.cleanup import Cleanup, OverviewAndCleaners
from metagrad.tasks.joint import JointAction
from metagrad.trainer import Trainer

ITERATIONS = 5
NAMES = [n for n in reference.names() if n.startswith("cleanup/")]


def network_of(options):
    first, *hidden = options["hidden"]
    return ConvTrunk(options["filters"], map_width=first, hidden=tuple(hidden), scale=1 / 255)


def critic_of(options):
    return Critic(network_of(options), Adam(options["lr_critic"]), options["target_tau"])


def agents_of(config):
    a = config["agents"]
    return PolicyGradientAgents(
        network=network_of(a), optimiser=(SGD if a["optimiser"] == "sgd" else Adam)(a["lr"]), critic=critic_of(a),
        gamma=a["gamma"], gae_lambda=a["gae_lambda"], entropy=a["entropy"], normalise=a["normalise"],
        exploration=Linear(a["epsilon_start"], a["epsilon_end"], a["epsilon_div"]), share_parameters=True,
        terminal="bootstrap", reduction="rows",
    )  # fmt: skip


def designer_of(config):
    d, method = config["designer"], config["method"]
    if method in ("none", "central"):
        return NoDesigner()
    critic, view = DesignerCritic(critic_of(d)), OverviewAndCleaners()
    if method == "dual-rl-continuous":
        return DualRL(
            SquashedGaussian(d["scale"], types=3), network_of(d), Adam(d["lr"]), d["gamma"], d["gae_lambda"],
            critic=critic, reward_less_payments=False, reduction="rows", view=view,
        )  # fmt: skip
    cloned = config["agent_access"] == "cloned"
    return MetaGradient(
        ByActionType(network_of(d), d["scale"], view=view), Adam(d["lr"]), gamma=d["gamma"], advantages="gae",
        critic=critic, gae_lambda=d["gae_lambda"], chain=1.0, reduction="rows",
        agent_model="surrogate" if cloned else "observed",
        surrogate=Surrogate(Adam(config["clones"]["lr"]), config["clones"]["steps"]),
    )  # fmt: skip


def trainer_of(config, seed):
    game = Cleanup(**Cleanup.upgraded(config["game"]))
    task = JointAction(game) if config["method"] == "central" else game
    return Trainer(task, agents_of(config), designer_of(config), seeds=(seed,), k=config["k"], dtype=torch.float64)


def parts(arrays, kind, s):
    """Networks of one seed by name, with an axis of one network."""
    kind += "/"
    return {
        n.removeprefix(kind): torch.from_numpy(x[s : s + 1].copy()) for n, x in arrays.items() if n.startswith(kind)
    }


def with_critic(critic, arrays, kind, s):
    params = parts(arrays, kind, s)
    return critic._replace(params=params, target=parts(arrays, f"{kind}_target", s) or params)


def start(trainer, initial, s):
    """Hand in the initial parameters."""
    agents, designer = trainer.state.agents, trainer.state.designer
    agents = agents._replace(
        policy=parts(initial, "policy", s), critic=with_critic(agents.critic, initial, "critic", s)
    )
    if designer:
        designer = designer._replace(
            eta=parts(initial, "eta", s), critic=with_critic(designer.critic, initial, "judge", s)
        )
    if getattr(designer, "surrogate", None) is not None:
        own = designer.surrogate.agents._replace(
            policy=parts(initial, "surrogate", s),
            critic=with_critic(designer.surrogate.agents.critic, initial, "surrogate_critic", s),
        )
        designer = designer._replace(surrogate=designer.surrogate._replace(agents=own))
    trainer.state = trainer.state._replace(agents=agents, designer=designer)


def learned(trainer):
    agents, designer = trainer.state.agents, trainer.state.designer
    found = {"policy": agents.policy, "critic": agents.critic.params, "critic_target": agents.critic.target}
    if designer:
        found |= {"eta": designer.eta, "judge": designer.critic.params, "judge_target": designer.critic.target}
    if getattr(designer, "surrogate", None) is not None:
        own = designer.surrogate.agents
        found |= {
            "surrogate": own.policy,
            "surrogate_critic": own.critic.params,
            "surrogate_critic_target": own.critic.target,
        }
    return {f"{kind}/{name}": p.numpy() for kind, params in found.items() for name, p in params.items()}


def trained(ref, s):
    """A trainer of one seed after the iterations, and the batches that were played."""
    trainer = trainer_of(ref.config, ref.config["seeds"][s])
    start(trainer, ref.initial, s)
    played = reference.train(trainer, ITERATIONS)
    return trainer, played


def error_of(x, batches, name, n, s):
    """Deviation of ``x [1, ...]`` from what is kept of a batch; arrays that were 0 throughout are not."""
    if f"{name}_sketch" in batches:
        return reference.error(reference.sketch(x[0].numpy()), batches[f"{name}_sketch"][n, s])
    if name in batches:
        want = batches[name][n, s]
        return reference.error(x[0].numpy().astype(want.dtype), want)
    return float(x.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_five_iterations_are_as_before(name):
    ref = reference.read(name)
    found = []
    for s in range(len(ref.config["seeds"])):
        trainer, played = trained(ref, s)
        assert len(played) == len(ref.batches["actions"])
        for n, batch in enumerate(played):
            np.testing.assert_array_equal(batch.actions[0].numpy(), ref.batches["actions"][n, s], f"batch {n}")
            rewards = batch.extra.get("agent_rewards", batch.rewards)
            assert error_of(rewards, ref.batches, "rewards", n, s) == 0
            assert error_of(batch.payments, ref.batches, "payments", n, s) < 1e-9
            if n < ITERATIONS:
                assert error_of(batch.values, ref.batches, "learned_values", n, s) < 1e-9
        found.append(learned(trainer))
    got = {n: np.concatenate([one[n] for one in found]) for n in found[0]}
    assert ref.final.keys() <= got.keys()
    errors = {n: reference.error(reference.stored(got[n]), want) for n, want in ref.final.items()}
    assert not {n: e for n, e in errors.items() if e > 1e-9}
