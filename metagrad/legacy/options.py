"""Groups of options that belong to one game: Escape Room and Cleanup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Game:
    """Escape Room ER(n_agents, min_at_lever)."""

    n_agents: int = 5
    """Number of agents, N."""
    min_at_lever: int = 2
    """Agents that have to pull the lever, M."""
    max_steps: int = 5
    """Step limit of an episode."""
    randomize: bool = False
    """Start episodes at random places."""


@dataclass(frozen=True)
class Agents:
    """Selfish agents, one network each."""

    kind: Literal["pg", "ac"] = "pg"
    """Policy gradient with returns, or actor-critic with one-step advantages and a critic each."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers."""
    linear: bool = False
    """Linear softmax policies without bias, whose weights start normal with deviation 0.5, instead of hidden layers."""
    hidden_critic: tuple[int, ...] = (64,)
    """Widths of the hidden layers of a critic."""
    lr_critic: float = 1e-3
    """Adam's learning rate of the critics."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """How an agent takes its step."""
    lr: float = 9.56e-5
    """Learning rate."""
    gamma: float = 0.99
    """Discount."""
    entropy: float = 0.0166
    """Weight of the entropy bonus."""
    epsilon_start: float = 0.0
    """Share of uniform exploration in the first iteration."""
    epsilon_end: float = 0.0
    """Share of uniform exploration at the end of its linear decrease."""
    epsilon_div: int = 1000
    """Iterations over which exploration decreases."""
    adam_eps_mode: Literal["torch", "tf1"] = "torch"
    """Where Adam adds its epsilon."""
    stop_second_moment: bool = False
    """Leave Adam's second moment out of the meta-gradient, as published."""


@dataclass(frozen=True)
class Designer:
    """Meta-gradient designer: the incentive function and its two learning rates."""

    hidden: tuple[int, ...] = (64, 16)
    """Widths of the hidden layers."""
    output_type: Literal["action", "agent"] = "action"
    """One incentive for each action, or one for each agent."""
    scale: float = 2.0
    """Upper bound of an incentive."""
    gamma: float = 0.99
    """Discount of the designer's return and of the cost."""
    lr_incentive: float = 7.93e-4
    """Adam's learning rate for the meta-gradient."""
    lr_cost: float = 6.03e-5
    """Adam's learning rate for the cost, if that has an optimiser of its own."""
    beta2: float = 0.999
    """Adam's memory of squared meta-gradients, in iterations."""
    beta2_cost: float = 0.999
    """Adam's memory of squared cost gradients, in iterations. They shrink by orders of magnitude where the incentive
    saturates; a memory much longer than training then freezes it there."""
    cost: Literal["paid", "all_outputs"] = "paid"
    """Cost of incentives: those really paid, or all outputs before scaling (as published)."""
    cost_optimiser: Literal["separate", "combined"] = "separate"
    """Give the cost an Adam of its own, or add it to the designer's loss."""
    reg_coeff: float = 1.0
    """Weight of the cost in a combined loss."""
    baseline: Literal["none", "leave-one-out"] = "none"
    """Baseline of the designer's return, over the K episodes."""
    inner_steps: int = 1
    """Agents' steps to differentiate through, M."""
    pipeline: bool = True
    """Use the validation episodes as the agents' next training episodes."""
    replica_eta: Literal["stored", "current", "recompute"] = "stored"
    """Incentives in the differentiated step: those the agents learned from; those of the current η (as published); or
    make the agents themselves learn from recomputed ones."""
    mode: Literal["forward", "unrolled"] = "forward"
    """How to compute the meta-gradient; both give the same."""


@dataclass(frozen=True)
class DualRL:
    """Designer that is itself a REINFORCE agent."""

    hidden: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers."""
    levels: tuple[float, ...] = (0.0, 1.1)
    """Incentives to choose from, for each of the agents' actions (discrete)."""
    lr: float = 8.0e-3
    """Adam's learning rate."""
    gamma: float = 0.99
    """Discount."""
    entropy: float = 0.0289
    """Weight of the entropy bonus (discrete)."""


@dataclass(frozen=True)
class AMD:
    """Designer of Baumann et al.'s adaptive mechanism design."""

    hidden: tuple[int, ...] = (64, 16)
    """Widths of the hidden layers."""
    lr: float = 2.74e-5
    """Adam's learning rate."""
    cost_weight: float = 4.24e-4
    """Weight of the length of the vector of incentives."""
    grad_clip: float = 10.0
    """Longest gradient of a parameter."""
    scores_at: Literal["own", "planner"] = "own"
    """Where the agents' policies are differentiated: at what each agent saw, or at what the planner saw, as
    published: right for the first agent alone."""


@dataclass(frozen=True)
class Clones:
    """Surrogates of the agents, fitted to their behaviour, for a designer that cannot look into them."""

    lr: float = 1e-3
    """Adam's learning rate of behavioural cloning."""
    steps: int = 1
    """Cloning steps on a batch."""


@dataclass(frozen=True)
class CleanupGame:
    """Cleanup."""

    preset: Literal["paper_7x7", "authors_10x10", "large"] = "paper_7x7"
    """Map, number of agents, and rules."""
    steps: int = 50
    """Length of an episode."""


@dataclass(frozen=True)
class Cleaners:
    """Agents of Cleanup: one policy and one critic for all."""

    filters: int = 6
    """Filters of the convolution."""
    hidden: tuple[int, int] = (64, 64)
    """Widths of the two dense layers."""
    optimiser: Literal["sgd", "adam"] = "adam"
    """How the policy takes its step."""
    lr: float = 1e-3
    """Learning rate of the policy."""
    lr_critic: float = 2e-3
    """Adam's learning rate of the critic."""
    gamma: float = 0.9
    """Discount."""
    gae_lambda: float = 0.9
    """Decay of generalised advantages; 0 leaves the temporal difference of one step, as published."""
    entropy: float = 0.1
    """Weight of the entropy bonus."""
    epsilon_start: float = 0.0
    """Share of uniform exploration in the first iteration."""
    epsilon_end: float = 0.0
    """Share of uniform exploration at the end of its linear decrease."""
    epsilon_div: int = 100
    """Iterations over which exploration decreases."""
    normalise: bool = True
    """Normalise the advantages of a batch."""
    target_tau: float = 1.0
    """Share of the critic that its target takes over in a step; 1 for no target network."""


@dataclass(frozen=True)
class Payer:
    """Designer of incentives in Cleanup, for what agents do: clean, collect, or anything else."""

    filters: int = 6
    """Filters of the convolution."""
    hidden: tuple[int, int] = (64, 64)
    """Widths of the two dense layers."""
    scale: float = 2.0
    """Upper bound of an incentive."""
    lr: float = 1e-4
    """Adam's learning rate of the incentive function."""
    lr_critic: float = 2e-3
    """Adam's learning rate of the designer's critic."""
    gamma: float = 0.97
    """Discount of the designer's return."""
    gae_lambda: float = 0.95
    """Decay of its generalised advantages."""
    target_tau: float = 1.0
    """Share of the critic that its target takes over in a step; 1 for no target network."""
    mode: Literal["forward", "unrolled"] = "forward"
    """How to compute the meta-gradient; both give the same."""
