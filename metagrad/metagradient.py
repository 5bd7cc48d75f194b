"""The designer's gradient through the agents' learning steps.

:class:`LastSteps` goes backward through the steps as they were taken, :class:`Sensitivity` carries the derivative of
the agents' parameters forward through all steps, and :func:`unrolled` is the oracle, automatic differentiation through
the updates.

The first two are exact, without a second-order graph, where η enters the agents' loss through the weights of the score
function, with critics' values held fixed: policy gradients, actor-critics, the first step of PPO. A clipped or reused
sample enters with its probability ratio, and not at all where it is clipped. (:class:`Sensitivity` is exact but for the
curvature of the agents' objective, for which its response time stands.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from metagrad import losses, optim
from metagrad.agents.base import Adjoint, AgentState, Interface, Step
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.batch import Batch
from metagrad.checks import Checked, Count, CountOrNone, NonNegative, Positive
from metagrad.networks.levels import LevelsForward
from metagrad.optim import Params
from metagrad.parallel import group

#: Episodes of which a response time is measured.
_SEEN = 1_600


class Path(Protocol):
    """How far the designer follows the agents' learning."""

    def init(self, agents: AgentState, incentive: Any, game: Interface) -> Any:
        """The state to begin with."""

    def advance(self, state: Any, eta: Params, agents: Any, incentive: Any, steps: Sequence[Step]) -> Any:
        """Take in the agents' steps of an iteration."""

    def gradient(
        self, state: Any, eta: Params, agents: Any, incentive: Any, steps: Sequence[Step], adjoint: Params,
        fresh: Batch, giver: int = 0,
    ) -> Params:  # fmt: skip
        """``∇_η J`` of an objective whose derivative by the agents' parameters is ``adjoint``."""


@dataclass(frozen=True)
class LastSteps(Checked):
    """Backward through the agents' last M steps.

    Parameters
    ----------
    m : int
        How many steps to follow; 1 is the published method, 0 stands for all steps of an iteration.
    """

    m: CountOrNone = 0

    def init(self, agents: AgentState, incentive: Any, game: Interface) -> None:
        """No state."""

    def advance(self, state: Any, eta: Params, agents: Any, incentive: Any, steps: Sequence[Step]) -> Any:
        """Nothing to take in."""
        return state

    def gradient(
        self, state: Any, eta: Params, agents: Any, incentive: Any, steps: Sequence[Step], adjoint: Params,
        fresh: Batch, giver: int = 0,
    ) -> Params:  # fmt: skip
        """``∇_η J`` through these steps; exact."""
        followed, back, total = list(steps[-self.m :]), Adjoint(adjoint), None
        for j, step in reversed(list(enumerate(followed))):
            credit, back = agents.backward(step, back._replace(last=j == 0))
            part = group.means(incentive.vjp(eta, step.batch, credit, giver))
            total = part if total is None else optim.add(total, part)
        if total is None:
            raise ValueError("a meta-gradient needs at least one step of the agents")
        return total


class Response(NamedTuple):
    """Derivatives of the agents' parameters and of Adam's first moment by the mechanism's levers, ``[B, G, ...]``."""

    params: Params
    moment: Params
    steps: int  # taken in so far
    fading: Tensor | None = None  # [2, G], how much of it the agents take back in a step: running sums of the quotient


@dataclass(frozen=True)
class Sensitivity(Checked):
    """Forward through all steps so far (real-time recurrent learning), for mechanisms with few levers, as tax rates.

    One step of the agents answers a change of a lever only a little: Adam lets a tenth of a gradient act at once, and
    behaviour takes tens of steps to follow an incentive. The derivative of the agents' parameters with respect to
    levers common to all periods is carried through every step; what earlier levers did fades by a constant factor,
    which stands for the curvature of the agents' objective. A sum over many batches, it has little noise.

    Parameters
    ----------
    response_time : float or "measured"
        Episodes in which the agents respond to a new lever, or to measure it in training, network by network, as what
        the agents' own objective takes back of the response: its second derivative along the response, in the metric of
        their optimiser, a mean over some hundred steps.
    stride : int
        Every so many-th step of the episodes gives the derivative that is carried along: rows of neighbouring steps
        are much alike. One above the number of steps is as one step of an episode at a time.
    growth : float
        What the response time gains in an episode of training: it is ``max(response_time, growth * episodes)``. Agents
        who have settled come back to what they have left more slowly than learners do.
    curvature : bool
        Follow the curvature of each agent's own objective, as its batches show it, instead of the response time: for
        agents that take one step on a batch. Exact on average, and noisier.
    """

    response_time: Positive | Literal["measured"] = 64.0
    stride: Count = 8
    growth: NonNegative = 0.0
    curvature: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response_time == "measured" and (self.growth or self.curvature):
            raise ValueError("Sensitivity.response_time must be a number beside growth or curvature, got 'measured'")

    def init(self, agents: AgentState, incentive: Any, game: Interface) -> Response:
        """No response yet."""
        n = incentive.levers(game)
        if not n:
            raise ValueError(f"{type(incentive).__name__} has no levers; the path Sensitivity needs some")
        params, moment = ({name: p.new_zeros(n, *p.shape) for name, p in agents.policy.items()} for _ in range(2))
        some = next(iter(agents.policy.values()))
        return Response(params, moment, 0, some.new_zeros(2, len(some)) if self.response_time == "measured" else None)

    def advance(
        self, state: Response, eta: Params, agents: PolicyGradientAgents, incentive: Any, steps: Sequence[Step]
    ) -> Response:
        """Add what the present levers did to the agents' steps, batch by batch."""
        for _, taken in itertools.groupby(steps, lambda step: id(step.batch)):
            state = self._further(state, agents, incentive, list(taken))
        return state

    def _further(
        self, state: Response, agents: PolicyGradientAgents, incentive: Any, steps: Sequence[Step]
    ) -> Response:
        """The same for the steps on one batch."""
        first, last, batch = steps[0], steps[-1], steps[-1].batch
        slopes = incentive.advantage_slopes(batch, agents.decay) / agents.advantage_std(batch)[..., None].double()
        weights = agents.rows.of(slopes).to(batch.rewards.dtype)  # [G, R, B]
        stride = min(self.stride, batch.horizon)  # not as long as the longest episode, which is another seed's
        rows = torch.arange(weights.shape[1], device=weights.device).view(batch.actions.shape[1], -1)
        rows = rows[state.steps % stride :: stride].flatten()
        weights = weights[:, rows] if stride > 1 else weights
        touched = group.mean(weights.any(1).to(weights.dtype)) > 0  # [G, B]
        reached = touched.any(0)  # levers that touch anybody; the derivative by the others is 0
        weights = weights[..., reached] * -agents.row_scale(batch, rows, stride)
        d_grads = {name: torch.zeros_like(p) for name, p in state.params.items()}
        found = agents.score_vjps(first.forward.params, batch, weights, rows if stride > 1 else None)
        for name, column in found.items():
            d_grads[name][reached] = column
        k, taken = batch.k * group.size(), len(steps)
        carried, memory, fading = state.params, 1.0, None
        if self.response_time == "measured":
            fading = _faded(state, agents, first, last, rows, stride, touched, k)
            kept = (1 - taken * fading[0] / fading[1].clamp_min(torch.finfo(fading.dtype).tiny)).clamp(0, 1)
            carried = {name: p * kept.view(-1, *[1] * (p.dim() - 2)) for name, p in carried.items()}
        elif self.curvature:
            if taken > 1:
                raise ValueError("Sensitivity.curvature must be false unless the agents' epochs and minibatches are 1")
            d_grads = optim.add(d_grads, group.means(_bent(agents, last, carried)))
        else:
            memory = max(0.0, 1 - k / max(self.response_time, self.growth * k * state.steps))
        moved = agents.optimiser.pushforward(last.grads, last.opt, carried, state.moment, d_grads, taken, memory)
        return Response(*moved, state.steps + 1, fading)

    def gradient(
        self, state: Response, eta: Params, agents: Any, incentive: Any, steps: Sequence[Step], adjoint: Params,
        fresh: Batch, giver: int = 0,
    ) -> Params:  # fmt: skip
        """``∇_η J`` through the response carried so far."""
        by_network = sum(_products(state.params[name], v) for name, v in adjoint.items())
        by_seed = sum(by_network.unflatten(0, (len(fresh.alive), -1)).unbind(1))  # type: ignore[union-attr]
        return group.means(incentive.levers_vjp(eta, fresh, by_seed))


def _faded(
    state: Response, agents: PolicyGradientAgents, first: Step, last: Step, rows: Tensor, stride: int, touched: Tensor,
    k: int,
) -> Tensor:  # fmt: skip
    """The running sums with those of another batch, of ``touched [G, B]`` one lever of each network after the other.

    A batch from which the agents take no step leaves them as they are.
    """
    sums = state.fading
    assert sums is not None
    if not state.steps:
        return sums
    turn = state.steps % touched.sum(1).clamp_min(1)  # the first lever where none is touched
    lever = (touched.cumsum(1) > turn[:, None]).to(torch.uint8).argmax(1)
    one = {name: p[lever, torch.arange(len(lever), device=p.device)] for name, p in state.params.items()}
    length = agents.optimiser.squared_length(last.grads, last.opt, one)
    new = torch.where(length.isfinite(), torch.stack([agents.stiffness(first, one, rows, stride), length]), sums)
    return torch.lerp(sums, new, 1 / min(state.steps, max(1, _SEEN // k)))


def _products(moved: Tensor, v: Tensor) -> Tensor:
    """``[G, B]`` from ``[B, G, ...]`` and ``[G, ...]``; one by one, as of all at once the bits would depend on G."""
    return torch.stack([moved[:, g].flatten(1).clone() @ v[g].flatten().clone() for g in range(len(v))])


def _bent(agents: PolicyGradientAgents, step: Step, moved: Params) -> Params:
    """Change of the loss's expected gradient when parameters move along each of ``[B, G, ...]``.

    With the policy move both the score of an action and how often it is taken; second derivatives of the logits are
    left out.
    """
    batch, forward, logits = step.batch, step.forward, agents.legal(step.forward.out, step.batch)
    p, scale = losses.softmax(logits), -agents.row_scale(batch, torch.arange(logits.shape[1]), 1)
    weights = agents.rows.of(step.advantages)[..., None] * scale
    bonus = agents.rows.of(batch.agents_alive)[..., None] * (step.entropy * scale)

    def bend(along: Tensor) -> Tensor:
        """The gradient's change when the logits move so; what it is given is overwritten."""
        more = losses.entropy_bend(losses.some_log(logits), along).mul_(bonus) if step.entropy else 0.0
        return losses.bend(p, step.score, along).mul_(weights).add_(more)

    each = [{name: x[j] for name, x in moved.items()} for j in range(len(next(iter(moved.values()))))]
    if isinstance(forward, LevelsForward):  # all logits hang on one number, so that they bend once for all
        stiffness = torch.linalg.vecdot(bend(forward.slope.clone()), forward.slope)[..., None]
        changes = [forward.inner.vjp(stiffness * forward.inner.jvp(one)) for one in each]
    else:
        changes = [forward.vjp(bend(forward.jvp(one))) for one in each]
    return {name: torch.stack([change[name] for change in changes]) for name in moved}


# ---------------------------------------------------------------------- the oracle


def unrolled(
    agents: PolicyGradientAgents,
    incentive: Any,
    eta: Params,
    steps: Sequence[Step],
    objective: Callable[[Params], Tensor],
    giver: int = 0,
) -> Params:
    """``∇_η J`` by automatic differentiation through the agents' steps.

    Parameters
    ----------
    agents : PolicyGradientAgents
    incentive : Incentive
    eta : dict
        The designer's parameters.
    steps : sequence of Step
        The agents' steps as they were taken.
    objective : callable
        From the agents' parameters after the last step to the objective.
    giver : int
        Whose η is differentiated, where agents pay each other.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in eta.items()}
    params = {name: p.detach().requires_grad_() for name, p in steps[0].forward.params.items()}
    state = steps[0].opt
    for step in steps:
        loss = agents.loss(params, step.batch, paid_advantages(agents, incentive, leaves, step.batch, giver),
                           step.entropy, step.rows)  # fmt: skip
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params, state = agents.optimiser.step(params, dict(zip(params, grads, strict=True)), state)
    value = objective(params)
    result = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, result, strict=True))


def paid_advantages(agents: PolicyGradientAgents, incentive: Any, eta: Params, batch: Batch, giver: int = 0) -> Tensor:
    """The agents' advantages as a function of η: their value is that of the stored payments."""
    paid = incentive.payments(eta, batch) if incentive.givers == 1 else incentive.payments_by(eta, batch, giver)
    return agents.advantages(batch, batch.total_rewards + (paid - paid.detach()))


def log_prob_objective(agents: PolicyGradientAgents, batch: Batch, weights: Tensor) -> Callable[[Params], Tensor]:
    """``-Σ weights · log π(a|o)`` as a function of the agents' parameters, weights ``[S, T, K, A]``."""

    def objective(policy: Params) -> Tensor:
        logits = agents.policy(policy, batch.obs, batch.actions.shape[1])
        log_p = losses.log_probabilities(logits, batch.epsilon, batch.obs.get("mask"))
        return -(agents.rows.of(weights) * losses.chosen(log_p, agents.rows.of(batch.actions))).sum()

    return objective
