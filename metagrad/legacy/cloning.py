"""Behavioural cloning: surrogates of agents that can only be watched (metagrad specification, 3.6)."""

from __future__ import annotations

from typing import Any

from metagrad.legacy import losses, nets, optim
from metagrad.legacy.nets import Params
from metagrad.legacy.rollout import Batch


def clone(phi: Params, batch: Batch, adam: optim.Adam, state: Any, steps: int) -> tuple[Params, Any]:
    """Fit stacked policies to the actions seen in a batch by maximum likelihood.

    Parameters
    ----------
    phi : dict
        Surrogates, stacked like the agents' networks, ``[S * A, ...]``.
    batch : Batch
        Episodes of the agents; exploration is known and taken out by the mixed likelihood.
    adam, state
        The optimiser of the fit and its state.
    steps : int
        Full-batch steps.
    """
    scale = -1.0 / batch.agents_alive.sum(1)[:, None, None]
    for _ in range(steps):
        logits, inputs = nets.forward(phi, batch.obs)
        score = losses.score(losses.probabilities(logits, batch.epsilon), batch.onehot, batch.epsilon)
        score = score * batch.agents_alive[..., None]
        phi, state = adam.step(phi, nets.vjp(phi, inputs, score * scale), state)
    return phi, state
