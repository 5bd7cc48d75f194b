"""Environment + agents + designer -> a batch of whole episodes, K for each of S seeds, one environment call a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from metagrad.agents.base import Agents, AgentState
from metagrad.batch import PRESENT, Batch, as_dict
from metagrad.designers.base import Designer
from metagrad.networks.base import Where
from metagrad.playing.recorder import Recorder, as_bytes, choose, steps_to_keep
from metagrad.streams import Streams


@torch.no_grad()
def rollout(
    env: Any, task: Any, agents: Agents, agent_state: AgentState, designer: Designer, designer_state: Any, rng: Streams,
    *, epsilon: float, where: Where, keep: bool = False,
) -> Batch:  # fmt: skip
    """Play one episode in every copy, without payments but with the values of the agents' critics.

    ``env`` has S * K copies, ``s * K + j`` is episode j of seed s; as many uniforms of ``rng`` are drawn whatever
    happens. ``epsilon`` is the share of uniform exploration; ``keep`` leaves the acting pass with the batch that
    it may serve.
    """
    n_seeds, n_agents, horizon = len(rng.seeds), env.n_agents, task.horizon
    k, acting = env.num_envs // n_seeds, None
    record = Recorder(n_seeds, k, n_agents, horizon, where, agents.share_parameters)
    actions, log_prob = np.zeros((n_seeds, k, n_agents), np.int64), np.zeros((n_seeds, k, n_agents))
    uniform = rng.by_episode("actions", horizon, k, n_agents).reshape(n_seeds, horizon, -1)
    unmasked, room = np.empty((0, n_agents, env.n_actions), np.uint8), np.empty(env.n_actions)
    obs, _ = env.reset()
    designer.begin(designer_state, env, rng)
    for t in range(horizon):
        seen = as_dict(obs["agents"])
        rows = record.see(t, seen)
        if t == 0 and hasattr(agents, "begin"):
            acting = agents.begin(agent_state, rows, horizon)
        logits = agents.act(agent_state, rows).out if acting is None else acting.add(rows)
        mask = as_bytes(seen["mask"]) if "mask" in seen else unmasked
        choose(record.by_copy(logits), mask, uniform[:, t], epsilon, room, actions, log_prob)
        record.see_designer(t, as_dict(obs["designer"]))
        noted = designer.act(designer_state, env, obs, t, rng)
        result = env.step(actions.reshape(-1, n_agents))
        obs, info = result[0], result[4]
        present = {PRESENT: np.asarray(info[PRESENT])} if PRESENT in info else {}
        record.note(t, {**noted, **task.record(env, info), **present})
        if "final_obs" in info:
            obs = _with_final(obs, info["final_obs"], info["_final_obs"])
        if record.keep(t, result, actions, log_prob):
            break
    record.see(t + 1, as_dict(obs["agents"]))
    record.see_designer(t + 1, as_dict(obs["designer"]))
    steps = steps_to_keep(t + 1, horizon, k, rng.parts)
    batch = record.batch(steps, epsilon, env.n_actions, task.interface.options)
    if keep and acting is not None and hasattr(agents, "keeps") and agents.keeps(acting):
        for blank in range(t + 1, steps):
            acting.add(record.rows(blank))
        batch.remember("acted", agent_state.policy, acting.finish)
    values = agents.values(agent_state, batch)
    return batch if values is None else batch.replace(values=values)


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
