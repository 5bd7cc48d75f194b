"""Selfish agents: how they act, learn, and pass a designer's gradient back through their learning."""

from metagrad.agents.base import Adjoint, Agents, AgentState, Credit, Interface, Step
from metagrad.agents.critics import Critic, DesignerCritic, LinearCritic
from metagrad.agents.policy_gradient import PolicyGradientAgents
from metagrad.agents.surrogates import Surrogate

__all__ = [
    "Adjoint", "AgentState", "Agents", "Credit", "Critic", "DesignerCritic", "Interface", "LinearCritic",
    "PolicyGradientAgents", "Step", "Surrogate",
]  # fmt: skip
