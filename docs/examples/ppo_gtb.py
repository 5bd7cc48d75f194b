"""Agents of Gather-Trade-Build learn to work in a free market: PPO in one file, on fastenvs, numpy and torch alone.

One network acts for all agents. An agent that does nothing earns a utility of 0 an episode; one that acts at random
loses 12. Run it as ``python ppo_gtb.py --iterations 200 --plot ppo_gtb.png``.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

import fastenvs

COPIES, STEPS, EPOCHS, MINIBATCHES = 32, 50, 3, 4
GAMMA, LAMBDA, CLIP, VALUE, ENTROPY, RATE, REWARD_SCALE = 0.99, 0.95, 0.2, 0.5, 0.02, 5e-4, 0.1


class Network(nn.Module):
    """Logits of the actions, and the value, of what one agent sees."""

    def __init__(self, space, n_actions):
        super().__init__()
        side, _, channels = space["map"].shape
        self.map = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()
        )
        width = 16 * ((side - 1) // 2 - 2) ** 2 + space["flat"].shape[0]
        self.trunk = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.logits, self.value = nn.Linear(128, n_actions), nn.Linear(128, 1)
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, obs):
        seen = self.map(obs["map"].permute(0, 3, 1, 2).float())
        hidden = self.trunk(torch.cat([seen, obs["flat"]], 1))
        logits = self.logits(hidden).masked_fill(obs["mask"] == 0, -1e9)
        return torch.distributions.Categorical(logits=logits), self.value(hidden)[:, 0]


def batch_of(obs):
    """Observations of all agents of all copies as rows of fresh tensors: the next step overwrites the arrays."""
    return {name: torch.from_numpy(array.reshape(-1, *array.shape[2:]).copy()) for name, array in obs["agents"].items()}


def collect(env, network, obs):
    """Play STEPS steps: what was seen, done and earned, ``[T, N * A, ...]``, and the returns of finished episodes."""
    kept, finished = [], []
    shape = (env.num_envs, env.n_agents)
    for _ in range(STEPS):
        seen = batch_of(obs)
        with torch.no_grad():
            policy, value = network(seen)
        action = policy.sample()
        obs, reward, terminated, truncated, _ = env.step(action.numpy().reshape(shape))
        over = terminated | truncated
        env.totals += reward
        finished += env.totals[over].ravel().tolist()
        env.totals[over] = 0
        kept.append({
            **seen, "action": action, "log_p": policy.log_prob(action), "value": value,
            "reward": torch.from_numpy(reward.flatten()) * REWARD_SCALE,
            "over": torch.from_numpy(over.repeat(env.n_agents)).float(),
        })  # fmt: skip
    with torch.no_grad():
        last = network(batch_of(obs))[1]
    return {name: torch.stack([step[name] for step in kept]) for name in kept[0]}, last, obs, finished


def advantages(batch, last):
    """Generalised advantage estimates. Time is observed, so that the end of the episode is an end like any other."""
    out, running = torch.zeros_like(batch["reward"]), torch.zeros_like(last)
    for t in reversed(range(STEPS)):
        after = batch["value"][t + 1] if t + 1 < STEPS else last
        alive = 1 - batch["over"][t]
        running = batch["reward"][t] + GAMMA * after * alive - batch["value"][t] + GAMMA * LAMBDA * alive * running
        out[t] = running
    return out


def update(network, optimiser, batch, last):
    """Several epochs of the clipped objective on minibatches."""
    batch["advantage"] = advantages(batch, last)
    batch["return"] = batch["advantage"] + batch["value"]
    rows = {name: x.flatten(0, 1) for name, x in batch.items()}
    n = len(rows["action"])
    for _ in range(EPOCHS):
        for chosen in torch.randperm(n).split(n // MINIBATCHES):
            b = {name: x[chosen] for name, x in rows.items()}
            policy, value = network(b)
            gain = (b["advantage"] - b["advantage"].mean()) / (b["advantage"].std() + 1e-8)
            ratio = (policy.log_prob(b["action"]) - b["log_p"]).exp()
            surrogate = torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            fit = (value - b["return"]).square().mean()
            loss = -surrogate + VALUE * fit - ENTROPY * policy.entropy().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimiser.step()


def train(iterations, seed=0, copies=COPIES, report=print, **options):
    """Train; return the agents' mean utility an episode, one an iteration (NaN where no episode ended)."""
    torch.manual_seed(seed)
    env = fastenvs.make("gtb", copies, seed=seed, tax_mode="none", **options)
    network = Network(env.agent_observation_space, env.n_actions)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    env.totals = np.zeros((copies, env.n_agents))
    obs, _ = env.reset()
    curve, start = [], time.perf_counter()
    for k in range(iterations):
        batch, last, obs, finished = collect(env, network, obs)
        update(network, optimiser, batch, last)
        curve.append(float(np.mean(finished)) if finished else float("nan"))
        if finished:
            report(f"iteration {k + 1:4d}  utility {curve[-1]:8.2f}  {time.perf_counter() - start:6.1f} s")
    return curve


def plot(curve, copies, path):
    """Draw the learning curve."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    steps = copies * STEPS * np.arange(1, len(curve) + 1)
    ended = np.isfinite(curve)
    axis.plot(steps[ended], np.array(curve)[ended])
    axis.axhline(0, color="grey", lw=0.8, ls="--", label="doing nothing")
    axis.set(xlabel="steps of the environment", ylabel="utility of an agent in an episode")
    axis.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--copies", type=int, default=COPIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", help="where to write the learning curve, as a picture")
    given = parser.parse_args()
    found = train(given.iterations, given.seed, given.copies)
    if given.plot:
        plot(found, given.copies, given.plot)
