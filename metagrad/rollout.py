"""Environment + agents + designer -> a batch of whole episodes, K for each of S seeds, in one environment call a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastenvs.jit import kernel
from metagrad.agents.base import Agents, AgentState
from metagrad.batch import Batch
from metagrad.designers.base import Designer
from metagrad.networks.base import Forward, Obs, Where
from metagrad.streams import Streams


@kernel
def _choose(logits, mask, uniform, epsilon, actions, log_prob):
    """Sample from the masked softmax, mixed with a uniform choice among the legal actions, by inverse distribution.

    ``logits`` is ``[S, K, A, L]``, ``mask`` uint8 ``[S * K, A, L]`` or without rows, ``uniform`` ``[S, K * A]``; one
    uniform is used for every action whatever happens.
    """
    n_seeds, k, n_agents, n_actions = logits.shape
    masked = mask.shape[0] > 0
    for s in range(n_seeds):
        for j in range(k):
            e = s * k + j
            for i in range(n_agents):
                top, legal = -np.inf, 0
                for a in range(n_actions):
                    if not masked or mask[e, i, a]:
                        top, legal = max(top, np.float64(logits[s, j, i, a])), legal + 1
                total = 0.0
                for a in range(n_actions):
                    if not masked or mask[e, i, a]:
                        total += np.exp(np.float64(logits[s, j, i, a]) - top)
                left, chosen, probability = np.float64(uniform[s, j * n_agents + i]), 0, 1.0
                for a in range(n_actions):
                    if (not masked or mask[e, i, a]) and left >= 0:
                        p = (1.0 - epsilon) * np.exp(np.float64(logits[s, j, i, a]) - top) / total + epsilon / legal
                        left -= p
                        chosen, probability = a, p
                actions[s, j, i] = chosen
                log_prob[s, j, i] = np.log(probability)


class Recorder:
    """Arrays that a rollout fills, in the order in which networks read them.

    Parameters
    ----------
    n_seeds, k, steps : int
        S, K, and the step limit.
    where : Where
        Device and type of the batch.
    shared : bool
        Whether the agents of a seed share one network.
    """

    def __init__(self, n_seeds: int, k: int, steps: int, where: Where, shared: bool) -> None:
        self.n_seeds, self.k, self.steps, self.where, self.shared = n_seeds, k, steps, where, shared
        self.float = torch.empty(0, dtype=where.dtype).numpy().dtype
        self.obs: dict[str, np.ndarray] = {}
        self.plain: dict[str, np.ndarray] = {}

    def see(self, t: int, obs: dict[str, np.ndarray], hidden: np.ndarray | None, over: np.ndarray | None) -> Obs:
        """Write the agents' observations ``[N, A, ...]`` of step ``t``; returns them as rows of that step.

        Nothing is written of ``hidden`` copies, and all actions are legal in those that are ``over``.
        """
        seen: Obs = {}
        for name, x in obs.items():
            if name not in self.obs:
                self.obs[name] = self._rows_like(name, x)
            rows = self.obs[name][:, t] if self.shared else self.obs[name][:, :, t]
            by_copy = rows if self.shared else rows.swapaxes(1, 2)
            np.copyto(by_copy, x.reshape(by_copy.shape), casting="unsafe")
            blank = over if name == "mask" else hidden
            if blank is not None:
                by_copy[blank.reshape(self.n_seeds, self.k)] = name == "mask"
            seen[name] = torch.from_numpy(rows).flatten(*((1, 2) if self.shared else (0, 1))).to(self.where.device)
        return seen

    def see_designer(self, t: int, obs: dict[str, np.ndarray], hidden: np.ndarray | None) -> None:
        """Write the designer's observations ``[N, ...]`` of step ``t``."""
        for name, x in obs.items():
            self.put(f"designer/{name}", t, x, hidden, self.dtype_of(x, 1), after=1)

    def by_copy(self, logits: Tensor) -> np.ndarray:
        """Outputs of the networks for one step, ``[S, K, A, L]``."""
        x = logits.cpu().numpy()
        if self.shared:
            return x.reshape(self.n_seeds, self.k, -1, x.shape[-1])
        return x.reshape(self.n_seeds, -1, self.k, x.shape[-1]).swapaxes(1, 2)

    def _rows_like(self, name: str, x: np.ndarray) -> np.ndarray:
        """Room for an observation at all steps and after the last."""
        dtype = np.dtype(np.bool_) if name == "mask" else self.dtype_of(x, 2)
        s, t, k, a = self.n_seeds, self.steps + 1, self.k, x.shape[1]
        shape = (s, t, k, a) if self.shared else (s, a, t, k)
        return (np.ones if name == "mask" else np.zeros)((*shape, *x.shape[2:]), dtype)

    def dtype_of(self, x: np.ndarray, leading: int) -> np.dtype:
        """Pictures of bytes stay bytes, all other observations are floats of the run's type."""
        return x.dtype if x.dtype == np.uint8 and x.ndim > leading + 1 else self.float

    def put(self, name: str, t: int, x: np.ndarray, over: np.ndarray | None, dtype: Any, after: int = 0) -> None:
        """Write what is kept by copy ``[N, ...]`` at step ``t``; ``after`` steps beyond the last have room."""
        if name not in self.plain:
            shape = (self.n_seeds, self.steps + after, self.k, *x.shape[1:])
            self.plain[name] = np.zeros(shape, dtype)
        rows = self.plain[name][:, t]
        np.copyto(rows, x.reshape(rows.shape), casting="unsafe")
        if over is not None:
            rows[over.reshape(self.n_seeds, self.k)] = 0

    def tensor(self, name: str, used: int | None = None) -> Tensor:
        """What was written by :meth:`put`, ``[S, T, K, ...]``."""
        return torch.from_numpy(self.plain[name][:, :used]).to(self.where.device)

    def rows(self, name: str, first: int, end: int) -> Tensor:
        """The agents' observations of some steps, ``[G, R, ...]``."""
        x = torch.from_numpy(self.obs[name])
        x = x[:, first:end].flatten(1, 3) if self.shared else x[:, :, first:end].flatten(2, 3).flatten(0, 1)
        return x.to(self.where.device)


def as_dict(obs: Any) -> dict[str, np.ndarray]:
    """Observations by name; a single array is called ``obs``."""
    return obs if isinstance(obs, dict) else {"obs": obs}


def steps_to_keep(used: int, steps: int, k: int) -> int:
    """Steps of a batch, with trailing empty ones cut off where that changes no sum by a bit.

    How long the longest episode is depends on all seeds, and matrix kernels sum other numbers of rows in another order;
    but they do not tell multiples of 16 apart.
    """
    block = math.lcm(k, 16) // k
    return -(-used // block) * block if steps % block == 0 else steps


@torch.no_grad()
def rollout(
    env: Any,
    task: Any,
    agents: Agents,
    agent_state: AgentState,
    designer: Designer,
    designer_state: Any,
    rng: Streams,
    *,
    epsilon: float,
    where: Where,
    keep: bool = False,
) -> Batch:
    """Play one episode in every copy.

    Parameters
    ----------
    env : environment
        S * K copies, see :class:`metagrad.VectorTask`; copy ``s * K + j`` is episode j of seed s.
    task : Task
        Says how long an episode is, and what to record of it.
    agents, agent_state
        Who acts.
    designer, designer_state
        Who may act before every step.
    rng : Streams
        As many uniforms are drawn whatever happens.
    epsilon : float
        Share of uniform exploration.
    where : Where
        Device and type of the batch.
    keep : bool
        Keep the passes of the acting policy with the batch, where the network can put them together.

    Returns
    -------
    Batch
        With payments of zero, which the designer fills in, and the values of the agents' critics.
    """
    n_seeds, n_agents, horizon = len(rng.seeds), env.n_agents, task.horizon
    k = env.num_envs // n_seeds
    record = Recorder(n_seeds, k, horizon, where, agents.share_parameters)
    actions, log_prob = np.zeros((n_seeds, k, n_agents), np.int64), np.zeros((n_seeds, k, n_agents))
    acted = actions.reshape(-1, n_agents)
    uniform = rng.uniforms("actions", horizon * k * n_agents).reshape(n_seeds, horizon, -1)
    none = np.empty((0, n_agents, env.n_actions), np.uint8)
    over = np.zeros(env.num_envs, np.bool_)
    hidden: np.ndarray | None = None  # copies that show nothing any more
    passes: list[Forward] = []
    obs, _ = env.reset()
    designer.begin(designer_state, env, rng)
    for t in range(horizon):
        any_over = over if hidden is not None else None
        seen = as_dict(obs["agents"])
        forward = agents.act(agent_state, record.see(t, seen, hidden, any_over))
        if keep:
            passes.append(forward)
        mask = _bytes(seen["mask"]) if "mask" in seen else none
        _choose(record.by_copy(forward.out), mask, uniform[:, t], epsilon, actions, log_prob)
        record.see_designer(t, as_dict(obs["designer"]), hidden)
        extra = designer.act(designer_state, env, obs, t, rng)
        obs, rewards, terminated, truncated, info = env.step(acted)
        for name, x in {**extra, **task.record(env, info)}.items():
            record.put(f"extra/{name}", t, x, any_over, x.dtype)
        cut = truncated & ~terminated & ~over if t + 1 < horizon else ~(terminated | over)
        record.put("actions", t, acted, any_over, np.int64)
        record.put("log_prob", t, log_prob.reshape(acted.shape), any_over, record.float)
        record.put("rewards", t, rewards, any_over, record.float)
        record.put("designer_rewards", t, info["designer_reward"], any_over, record.float)
        record.put("alive", t, ~over, None, record.float)
        record.put("cut", t, cut, None, record.float)
        if "final_obs" in info:
            obs = _with_final(obs, info["final_obs"], info["_final_obs"])
        over = over | terminated | truncated
        if over.any():  # what a copy shows once it was cut off stands for what would have followed
            hidden = over & ~cut
        if over.all():
            break
    record.see(t + 1, as_dict(obs["agents"]), hidden, over)
    record.see_designer(t + 1, as_dict(obs["designer"]), hidden)
    steps = steps_to_keep(t + 1, horizon, k)
    batch = _assemble(record, env, steps, epsilon, horizon)
    if keep:
        joined = agents.policy.join(passes, batch.obs)  # type: ignore[attr-defined]
        if joined is not None:
            batch.remember("acted", agent_state.policy, lambda: joined)
    return batch.replace(values=agents.values(agent_state, batch))


def _bytes(mask: np.ndarray) -> np.ndarray:
    """Legal actions as bytes; no copy where they are bytes or booleans already."""
    if mask.dtype.itemsize != 1:
        mask = mask.astype(np.bool_)
    return np.ascontiguousarray(mask).view(np.uint8)


def _with_final(obs: dict[str, Any], final: dict[str, Any], which: np.ndarray) -> dict[str, Any]:
    """Observations with the last ones of episodes that ended in a copy that has started anew."""
    if not which.any():
        return obs

    def merge(now: Any, last: Any) -> Any:
        if isinstance(now, dict):
            return {name: merge(x, last[name]) for name, x in now.items()}
        out = now.copy()
        out[which] = last[which]
        return out

    return merge(obs, final)


def _assemble(record: Recorder, env: Any, steps: int, epsilon: float, horizon: int) -> Batch:
    rewards = record.tensor("rewards", steps)
    designer = [name for name in record.plain if name.startswith("designer/")]
    extra = [name for name in record.plain if name.startswith("extra/")]
    return Batch(
        obs={name: record.rows(name, 0, steps) for name in record.obs},
        actions=record.tensor("actions", steps),
        log_prob=record.tensor("log_prob", steps),
        rewards=rewards,
        payments=torch.zeros_like(rewards),
        alive=record.tensor("alive", steps),
        designer_obs={name.removeprefix("designer/"): record.tensor(name, steps) for name in designer},
        designer_rewards=record.tensor("designer_rewards", steps),
        values=None,
        epsilon=epsilon,
        shared=record.shared,
        n_actions=env.n_actions,
        horizon=horizon,
        last_obs={name: record.rows(name, steps, steps + 1) for name in record.obs},
        last_designer_obs={
            name.removeprefix("designer/"): torch.from_numpy(record.plain[name][:, steps]).to(record.where.device)
            for name in designer
        },
        cut=record.tensor("cut", steps),
        extra={name.removeprefix("extra/"): record.tensor(name, steps) for name in extra},
    )
