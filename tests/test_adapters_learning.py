"""TorchRL's PPO learns Escape Room through every adapter that it can read: its own, PettingZoo's and Gymnasium's."""

import pytest
import torch
from torch import nn

import fastenvs

pytest.importorskip("torchrl", reason="extra 'torchrl' is not installed")
pytest.importorskip("pettingzoo", reason="extra 'pettingzoo' is not installed")
from tensordict.nn import InteractionType, TensorDictModule
from torchrl.envs import GymWrapper, PettingZooWrapper
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from fastenvs.adapters.gymnasium import VectorAgents
from fastenvs.adapters.pettingzoo import parallel_env
from fastenvs.adapters.torchrl import TorchRLEnv

ROOM = {"n_agents": 2, "min_at_lever": 1}


def agents_of_torchrl():
    return TorchRLEnv(fastenvs.make("escape_room", 64, seed=0, autoreset="disabled", **ROOM)), ("agents",)


def agents_of_gymnasium():
    view = VectorAgents(fastenvs.make("escape_room", 64, seed=0, autoreset="disabled", **ROOM))
    return GymWrapper(view, categorical_action_encoding=True), ()


def agents_of_pettingzoo():
    return PettingZooWrapper(parallel_env("escape_room", **ROOM), categorical_actions=True), ("agent",)


@pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL is tested")
@pytest.mark.parametrize(
    ("make", "steps", "updates"),
    [(agents_of_torchrl, 10, 60), (agents_of_gymnasium, 10, 60), (agents_of_pettingzoo, 200, 25)],
)
def test_it_learns_to_wait(make, steps, updates):
    """Nobody gains by pulling the lever: agents come to stay where they are, and get nothing."""
    torch.manual_seed(0)
    env, group = make()
    pulled, rewards = train(env, group, steps, updates)
    assert pulled[0] > 0.2
    assert pulled[-1] < 0.05
    assert abs(rewards[-1]) < 0.15


class Layers(nn.Sequential):
    """A small perceptron of observations of any type."""

    def __init__(self, n_out):
        super().__init__(nn.LazyLinear(32), nn.Tanh(), nn.Linear(32, n_out))

    def forward(self, obs):
        return super().forward(obs.float())


def train(env, group, steps, updates):
    """Train agents that share a policy by PPO; by update, the share of them that pull the lever, and mean rewards."""

    def key(name):
        return (*group, name) if group else name

    obs = key("observation")
    body = TensorDictModule(Layers(3), [obs], [key("logits")])
    actor = ProbabilisticActor(
        body, in_keys={"logits": key("logits")}, out_keys=[key("action")],
        distribution_class=torch.distributions.Categorical, default_interaction_type=InteractionType.RANDOM,
        return_log_prob=True, log_prob_key=key("log_p"),
    )  # fmt: skip
    critic = ValueOperator(Layers(1), in_keys=[obs], out_keys=[key("state_value")])
    critic(actor(env.reset()))
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    gae = GAE(gamma=0.9, lmbda=0.95, value_network=critic, average_gae=True)
    flags = {name: key(name) for name in ("reward", "done", "terminated")}
    loss_of.set_keys(action=key("action"), sample_log_prob=key("log_p"), value=key("state_value"), **flags)
    gae.set_keys(value=key("state_value"), **flags)
    optimiser, pulled, rewards = torch.optim.Adam(loss_of.parameters(), 3e-3), [], []
    for _ in range(updates):
        with torch.no_grad():
            batch = env.rollout(steps, actor, break_when_any_done=False)
            got = batch["next", key("reward")]
            for name in ("done", "terminated"):  # those of a copy are those of all its agents
                flag = batch["next", name]
                batch["next", key(name)] = flag.unsqueeze(-1).expand(got.shape) if group else flag
            pulled.append((batch[key("action")] == 0).float().mean().item())
            rewards.append(got.mean().item())
            rows = gae(batch).reshape(-1)
        for chosen in (part for _ in range(6) for part in torch.randperm(len(rows)).split(160)):
            losses = loss_of(rows[chosen])
            optimiser.zero_grad()
            sum(loss for name, loss in losses.items() if name.startswith("loss_")).backward()
            optimiser.step()
    return pulled, rewards
