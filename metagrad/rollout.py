"""Environment and policies -> a batch of whole episodes, K for each of S seeds, all seeds in one environment call.

Random numbers come from one counter-based stream a seed and purpose, so what a seed sees does not depend on which
others share the batch, and saving a stream means saving one counter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastenvs import rng
from fastenvs.jit import kernel, wrapping
from fastenvs.vecenv import VecEnv
from metagrad import nets
from metagrad.fitting import Axes
from metagrad.losses import probabilities
from metagrad.nets import Params

#: What a seed's random numbers are for; each purpose has streams of its own.
PURPOSES = (
    "parameters",
    *(f"{phase} {use}" for phase in ("train", "eval", "test") for use in ("environment", "actions", "designer")),
    "train shuffles",
    "surrogates",
    "designer critic",
)


def purpose_seeds(seeds: Sequence[int], purpose: str) -> list[int]:
    """One derived seed for each seed."""
    index = PURPOSES.index(purpose)
    return [int(np.random.SeedSequence(s, spawn_key=(index,)).generate_state(1, np.uint64)[0]) for s in seeds]


def purpose_streams(seeds: Sequence[int], purpose: str) -> rng.Streams:
    """One stream for each seed."""
    return rng.make_streams(purpose_seeds(seeds, purpose), len(seeds))


def uniforms(streams: rng.Streams, n: int) -> np.ndarray:
    """The next ``n`` uniforms of every stream, float64 ``[S, n]``."""
    out = np.empty((len(streams.key), n))
    with wrapping():
        rng.fill_uniform(streams, out)
    return out


@dataclass
class Batch:
    """K whole episodes of each of S seeds; R = T * K rows, time-major; floats of the run's dtype.

    Rows after the end of an episode are zero everywhere.
    """

    AXES: ClassVar[Axes] = {
        "alive": ("S R", None), "obs": ("S*A R D", None), "onehot": ("S*A R L", None),
        "designer_input": ("S R E", None), "rewards": ("S A R", None), "designer_rewards": ("S R", None),
        "incentives": ("S A R", None), "values": ("S A R", None),
    }  # fmt: skip

    k: int
    max_rows: int  # rows of the longest possible batch
    epsilon: float  # share of uniform exploration of the policy that acted
    obs: Tensor  # [S * A, R, D]
    onehot: Tensor  # [S * A, R, L], chosen actions
    designer_input: Tensor  # [S, R, E], designer's observation and the agents' actions, one-hot
    alive: Tensor  # [S, R], 1 until the episode is over
    rewards: Tensor  # [S, A, R], the agents', from the environment
    designer_rewards: Tensor  # [S, R], before incentives
    incentives: Tensor  # [S, A, R], paid to the agents
    values: Tensor  # [S, A, R], of the critics that are yet to learn from this batch; 0 for agents without

    @property
    def n_seeds(self) -> int:
        """Number of seeds, S."""
        return self.alive.shape[0]

    @property
    def steps(self) -> int:
        """Number of time steps, T."""
        return self.alive.shape[1] // self.k

    @property
    def actions(self) -> Tensor:
        """Chosen actions one-hot, ``[S, A, R, L]``."""
        return self.onehot.unflatten(0, (self.n_seeds, -1))

    @property
    def agents_alive(self) -> Tensor:
        """``alive`` for every network, ``[S * A, R]``."""
        n_agents = self.rewards.shape[1]
        return self.alive.repeat_interleave(n_agents, 0)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: getattr(self, name) for name in self.AXES}


@kernel
def _record_obs(agents, designer, over, t, k, obs, designer_input, alive):
    n_agents, width = agents.shape[1], agents.shape[2]
    for e in range(agents.shape[0]):
        if over[e]:
            continue
        s, row = e // k, t * k + e % k
        alive[s, row] = 1
        for d in range(designer.shape[1]):
            designer_input[s, row, d] = designer[e, d]
        for i in range(n_agents):
            for d in range(width):
                obs[s * n_agents + i, row, d] = agents[e, i, d]


@kernel
def _choose(probability, uniform, over, t, k, actions, onehot, designer_input):
    """Sample by inverse distribution function; finished episodes repeat an action that changes nothing."""
    n_agents, n_actions = actions.shape[1], probability.shape[2]
    offset = designer_input.shape[2] - n_agents * n_actions
    for e in range(actions.shape[0]):
        s, j = e // k, e % k
        for i in range(n_agents):
            g = s * n_agents + i
            u = uniform[s, (t * k + j) * n_agents + i]
            action = 0
            below = probability[g, j, 0]
            while action < n_actions - 1 and u >= below:
                action += 1
                below += probability[g, j, action]
            actions[e, i] = action
            if not over[e]:
                onehot[g, t * k + j, action] = 1
                designer_input[s, t * k + j, offset + i * n_actions + action] = 1


@kernel
def _record_rewards(rewards, designer_reward, over, t, k, out, designer_out):
    for e in range(rewards.shape[0]):
        if not over[e]:
            s, row = e // k, t * k + e % k
            designer_out[s, row] = designer_reward[e]
            for i in range(rewards.shape[1]):
                out[s, i, row] = rewards[e, i]


def _rows_to_keep(steps: int, max_steps: int, k: int) -> int:
    """Rows that hold ``steps`` steps, with trailing empty ones cut off where that changes no sum by a bit.

    How long the longest episode is depends on all seeds, and matrix kernels sum other numbers of rows in another order;
    but they do not tell multiples of 16 apart.
    """
    block = math.lcm(k, 16)
    return -(-steps * k // block) * block if max_steps * k % block == 0 else max_steps * k


def rollout(env: VecEnv, theta: Params, streams: rng.Streams, *, max_steps: int, epsilon: float) -> Batch:
    """Play one episode in every copy.

    Parameters
    ----------
    env : VecEnv
        S * K copies with ``autoreset="disabled"``; copy ``s * K + j`` is episode j of seed s.
    theta : dict
        The agents' networks, stacked ``[S * A, ...]``.
    streams : Streams
        One a seed, for the actions. Every call draws the same number of uniforms.
    max_steps : int
        Step limit of the game.
    epsilon : float
        Share of uniform exploration.

    Returns
    -------
    Batch
        With ``incentives`` and ``values`` zero: they do not change the course of the game, so the designer and the
        critics fill them in for all rows at once.
    """
    n_seeds = len(streams.key)
    n, n_agents, k = env.num_envs, env.n_agents, env.num_envs // n_seeds
    weight = theta["w0"]
    dtype = torch.empty(0, dtype=weight.dtype).numpy().dtype
    rows, width = max_steps * k, weight.shape[1]
    wide = env.obs["designer"].shape[1] + n_agents * env.n_actions
    obs = np.zeros((n_seeds * n_agents, rows, width), dtype)
    onehot = np.zeros((n_seeds * n_agents, rows, env.n_actions), dtype)
    designer_input = np.zeros((n_seeds, rows, wide), dtype)
    alive = np.zeros((n_seeds, rows), dtype)
    rewards = np.zeros((n_seeds, n_agents, rows), dtype)
    designer_rewards = np.zeros((n_seeds, rows), dtype)
    actions = np.zeros((n, n_agents), np.int64)
    uniform = uniforms(streams, rows * n_agents)

    env.reset()
    over = np.zeros(n, np.bool_)
    tensor_obs = torch.from_numpy(obs)
    t = 0
    while t < max_steps:
        _record_obs(env.obs["agents"], env.obs["designer"], over, t, k, obs, designer_input, alive)
        x = tensor_obs[:, t * k : (t + 1) * k].to(weight.device)
        p = probabilities(nets.forward(theta, x)[0], epsilon).mixed.cpu().numpy()
        _choose(p, uniform, over, t, k, actions, onehot, designer_input)
        _, reward, terminated, truncated, info = env.step(actions)
        _record_rewards(reward, info["designer_reward"], over, t, k, rewards, designer_rewards)
        np.logical_or(terminated, truncated, out=over)
        t += 1
        if over.all():
            break
    used = _rows_to_keep(t, max_steps, k)
    zeros = torch.zeros(n_seeds, n_agents, used, device=weight.device, dtype=weight.dtype)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(weight.device)

    return Batch(
        k,
        rows,
        epsilon,
        tensor(obs[:, :used]),
        tensor(onehot[:, :used]),
        tensor(designer_input[:, :used]),
        tensor(alive[:, :used]),
        tensor(rewards[:, :, :used]),
        tensor(designer_rewards[:, :used]),
        zeros,
        zeros.clone(),
    )
