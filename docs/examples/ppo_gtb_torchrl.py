"""The game of ``ppo_gtb.py``, learned by TorchRL's PPO (``pip install '.[torchrl]'``)."""

import torch
from tensordict.nn import InteractionType, TensorDictModule
from torchrl.modules import MLP, MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import fastenvs
from fastenvs.adapters.torchrl import TorchRLEnv

MAP, FLAT = ("agents", "observation", "map"), ("agents", "observation", "flat")
MASK, LOGITS, ACTION, LOG_P, VALUE, REWARD, DONE, TERMINATED = (
    ("agents", name)
    for name in ("action_mask", "logits", "action", "log_p", "state_value", "reward", "done", "terminated")
)


class Perceptron(MLP):
    """A perceptron of a map and a vector."""

    def forward(self, cells, flat):
        return super().forward(cells.flatten(-3).float(), flat)


def train(iterations=100, copies=32, report=print):
    """Train; return the agents' mean utility an episode, one an iteration."""
    env = TorchRLEnv(fastenvs.make("gtb", copies, seed=0, autoreset="disabled", tax_mode="none"))
    body = TensorDictModule(Perceptron(out_features=env.env.n_actions, num_cells=[128, 128]), [MAP, FLAT], [LOGITS])
    actor = ProbabilisticActor(
        body, in_keys={"logits": LOGITS, "mask": MASK}, out_keys=[ACTION], distribution_class=MaskedCategorical,
        default_interaction_type=InteractionType.RANDOM, return_log_prob=True, log_prob_key=LOG_P,
    )  # fmt: skip
    critic = ValueOperator(Perceptron(out_features=1, num_cells=[128, 128]), in_keys=[MAP, FLAT], out_keys=[VALUE])
    critic(actor(env.reset()))
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.02)
    gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=True)
    keys = {"reward": REWARD, "value": VALUE, "done": DONE, "terminated": TERMINATED}
    loss_of.set_keys(action=ACTION, sample_log_prob=LOG_P, **keys)
    gae.set_keys(**keys)
    optimiser, curve = torch.optim.Adam(loss_of.parameters(), 5e-4), []
    for k in range(iterations):
        with torch.no_grad():
            batch = env.rollout(100, actor, break_when_any_done=False)
            curve.append(batch["next", *REWARD].sum(1).mean().item())
            over = batch["next", "done"][..., None, :].expand(batch["next", *REWARD].shape)  # for all agents at once
            batch["next", *DONE] = batch["next", *TERMINATED] = over  # time is observed, so the step limit is an end
            batch["next", *REWARD] *= 0.1
            rows = gae(batch).reshape(-1)
        for chosen in (part for _ in range(3) for part in torch.randperm(len(rows)).split(len(rows) // 8)):
            losses = loss_of(rows[chosen])
            optimiser.zero_grad()
            sum(loss for name, loss in losses.items() if name.startswith("loss_")).backward()
            torch.nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
            optimiser.step()
        report(f"iteration {k + 1:4d}  utility {curve[-1]:8.2f}")
    return curve


if __name__ == "__main__":
    train()
