"""What policy-gradient agents are: their options, networks and passes over a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metagrad import estimators, losses, optim
from metagrad.agents.base import AgentState, Interface
from metagrad.agents.critics import Critic
from metagrad.batch import Batch, Rows
from metagrad.checks import Checked, Count, NonNegative, PositiveShare, Share, Widths
from metagrad.networks.base import Forward, Growing, Network, Obs, Where, inputs_of
from metagrad.networks.mlp import MLP
from metagrad.optim import Linear, Params, value_at
from metagrad.parallel import group
from metagrad.streams import Streams


class Pass(NamedTuple):
    """A policy on the rows of a batch."""

    forward: Forward
    acting: losses.Acting


@dataclass(frozen=True)
class Policies(Checked):
    """Options and networks; :class:`metagrad.PolicyGradientAgents` says what each option means."""

    hidden: Widths = (64, 32)
    optimiser: optim.Optimiser = field(default_factory=lambda: optim.SGD(0.05))
    network: Network | None = None
    share_parameters: bool = False
    gamma: Share = 0.99
    gae_lambda: Share = 1.0
    entropy: NonNegative | Linear = 0.01
    exploration: Share | Linear = 0.0
    critic: Critic | None = None
    terminal: Literal["zero", "bootstrap"] = "zero"
    normalise: bool = False
    reduction: Literal["episode", "rows"] = "episode"
    epochs: Count = 1
    minibatches: Count = 1
    clip: PositiveShare = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.exploration, Linear) and max(self.exploration.start, self.exploration.end) > 1:
            raise ValueError(f"{type(self).__name__}.exploration must be at most 1, got {self.exploration}")
        if self.policy.sequential:
            raise ValueError(
                "a network with a memory cannot be a policy, which is asked step by step: use it as a critic"
            )

    @cached_property
    def policy(self) -> Network:
        """The network of a policy."""
        return MLP(self.hidden) if self.network is None else self.network

    @cached_property
    def rows(self) -> Rows:
        """How networks read what is kept by agent."""
        return Rows(self.share_parameters)

    @property
    def decay(self) -> float:
        """What an advantage loses of a reward for every step in between."""
        return self.gamma * self.gae_lambda

    @property
    def one_step(self) -> bool:
        """Whether a batch is learned from in one step, where every probability ratio is 1."""
        return self.epochs * self.minibatches == 1

    def keeps(self, acting: Growing) -> bool:
        """Whether a pass of the acting policy may serve its batch.

        They may where the agents themselves learn from mixed rows, or rows do not depend on one another: a run that is
        resumed computes the passes of pending episodes anew, all rows at once, and its last bits must not differ.
        """
        return self.minibatches > 1 or acting.independent

    # ------------------------------------------------------------------ acting

    def init(self, game: Interface, rng: Streams, where: Where, purpose: str = "parameters") -> AgentState:
        """Draw networks for every seed."""
        generators, n = rng.generators(purpose), 1 if self.share_parameters else game.n_agents
        shapes = {name: shape for name, shape in game.agents.items() if name != "mask"}
        policy = self.policy.init(generators, n, shapes, game.n_actions, where)
        critic = None if self.critic is None else self.critic.init(generators, n, shapes, where)
        return AgentState(policy, self.optimiser.init(policy), critic)

    def epsilon(self, iteration: int) -> float:
        """Share of uniform exploration in this iteration."""
        return value_at(self.exploration, iteration)

    def act(self, state: AgentState, obs: Obs) -> Forward:
        """Logits for one step of all copies."""
        return self.policy.forward(state.policy, obs)

    def begin(self, state: AgentState, obs: Obs, steps: int) -> Growing | None:
        """A pass over so many steps, of which ``obs`` is the first, for networks that can go on with one."""
        begin = getattr(self.policy, "begin", None)
        return None if begin is None else begin(state.policy, obs, steps * next(iter(obs.values())).shape[1])

    # ------------------------------------------------------------------ passes over a batch

    def _pass(self, policy: Params, batch: Batch, rows: Tensor | None = None) -> Pass:
        """A policy on a batch, or on some of its rows."""
        forward = self._forward(policy, batch, rows)

        def acting() -> losses.Acting:
            mask = None if "mask" not in batch.obs else self._pick(batch.obs["mask"], rows)
            actions = self._pick(self._taken(batch), rows)
            return losses.acting(forward.out, mask, actions, batch.epsilon, bool(self.entropy))

        return Pass(forward, acting() if rows is not None else batch.remember("acting", forward, acting))

    def _taken(self, batch: Batch) -> Tensor:
        return batch.remember("taken", batch.actions, lambda: self.rows.of(batch.actions))

    def _forward(self, policy: Params, batch: Batch, rows: Tensor | None) -> Forward:
        """Its network's pass, kept with the batch if on all rows."""
        acted = batch.memo.get("acted")
        if rows is None and acted is not None and acted[0] is policy:
            return acted[1]
        seen = batch.remember("seen", batch.obs, lambda: self._seen(batch))
        if rows is None:
            return batch.remember("policy", policy, lambda: self.policy.forward(policy, seen, batch.actions.shape[1]))
        return self.policy.forward(policy, {name: self._pick(x, rows) for name, x in seen.items()})

    def _seen(self, batch: Batch) -> Obs:
        """What the policies read of a batch, laid out for their passes if they ask for it."""
        acted = batch.memo.get("acted")
        if acted is not None:
            return acted[1].seen
        read, seen = getattr(self.policy, "read", None), inputs_of(batch.obs)
        return seen if read is None else read(seen, batch.rewards.dtype)

    @staticmethod
    def _pick(x: Tensor, rows: Tensor | None) -> Tensor:
        """Some rows ``[m]`` of every network, or ``[G, m]`` of each."""
        if rows is None:
            return x
        if rows.dim() == 1 or len(rows) == 1:
            return x.index_select(1, rows.flatten().clamp_min(0))
        return torch.stack([one.index_select(0, mine.clamp_min(0)) for one, mine in zip(x, rows, strict=True)])

    def _counted(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """The same of numbers ``[G, R]``, with 0 where a seed has no row."""
        some = self._pick(x, rows)
        return some if rows is None else some * (rows >= 0)

    def _alive(self, batch: Batch, rows: Tensor | None) -> Tensor:
        alive = batch.remember("alive", batch.alive, lambda: self.rows.of(batch.agents_alive))
        return self._counted(alive, rows)

    def _count(self, batch: Batch, alive: Tensor) -> Tensor:
        """What the loss divides its sum over the rows at hand by, ``[G, 1]``."""
        if self.reduction == "episode":
            return alive.new_full((len(alive), 1), batch.k)
        return alive.sum(1, keepdim=True)

    def _scale(self, batch: Batch, alive: Tensor) -> Tensor | float:
        """What the loss multiplies its sum over rows by."""
        if self.reduction == "episode":
            return 1.0 / batch.k
        count = estimators.sum_over_seed(alive).clamp_min(1 / group.size())  # of a seed that has none, no row counts
        return (1.0 / count)[:, None, None]
