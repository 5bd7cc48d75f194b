"""A tax designer that is a reinforcement learning agent (the "AI Economist"): what it chooses, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metagrad import losses
from metagrad.agents.base import Interface
from metagrad.batch import Batch
from metagrad.designers.dual_rl import Choices
from metagrad.streams import Streams


@dataclass(frozen=True)
class PerBracketCategorical(Choices):
    """Once a period, for every bracket: one of the levels 0, 0.05, ..., 1, or the present rate.

    Outputs are ``[B, 1 + levels]`` logits, masked by what the economy allows.
    """

    acts = True

    def n_outputs(self, game: Interface) -> int:
        """One for each choice of each bracket."""
        return int(np.prod(game.designer["mask"]))

    def decides(self, env: Any) -> bool:
        """On the first day of a period."""
        return env.state.taxes.position[0] == 1

    def act(self, outputs: Tensor, env: Any, obs: Any, rng: Streams) -> np.ndarray:
        """Choose rates for the period, ``[N, B]``."""
        mask = obs["mask"].view(np.bool_)
        logits = outputs.reshape(mask.shape)
        p = losses.probabilities(logits, 0.0, torch.from_numpy(mask.copy()).to(logits.device)).p
        below = p.double().cumsum(-1).cpu().numpy()[..., :-1]
        uniform = rng.by_episode("designer", 1, len(mask) // len(rng.seeds), mask.shape[1]).reshape(mask.shape[:2])
        # A uniform above the sum of rounded probabilities would land on the last choice, allowed or not.
        last = mask.shape[-1] - 1 - mask[..., ::-1].argmax(-1)
        choices = np.minimum((uniform[..., None] >= below).sum(-1), last)
        env.choose_rates(choices)
        return choices

    def logits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Bracket by bracket."""
        mask = batch.designer_obs["mask"].bool()
        return outputs.unflatten(-1, mask.shape[-2:]), mask
