"""How much of the tax designer's gradient is signal: cosines between independent batches, agents frozen.

    python benchmarks/tax_signal.py RUN [--seed N] [--k 32] [--batches 6] [--before 3] [--rate 0.5]

RUN is a finished run on the economy, whose agents and Adam moments are taken. All brackets have one rate.
Printed for each path: mean cosine over all pairs of batches, mean norm, and the mean gradient by bracket (of the
logits; positive means that lower rates are better).
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from gradients import transition_of
from learned import arguments, learned_experiment, with_agents

from metagrad.agents.base import grad_of
from metagrad.experiment.registry import experiment
from metagrad.metagradient import LastSteps
from metagrad.tasks.gtb import TaxSchedule, Welfare
from metagrad.trainer import Trainer


def frozen_gradients(trainer: Trainer, batches: int, before: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of the paths on independent pairs of batches, always of the same agents.

    The linear critic has learned from ``before`` batches before the first of them.
    """
    agents: Any = trainer.agents
    designer: Any = trainer.designer
    state = trainer.state.designer
    judges = {"chain": replace(designer, advantages="returns", critic=None), "chain, linear critic": designer}
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for i in range(-before, batches):
        t = transition_of(trainer)  # the trainer's own agents stay as they are
        rewards = designer.incentive.reward(t.batches[0])
        state = state._replace(critic=designer.critic.update(state.critic, t.batches[0], rewards, designer.gamma))
        if i < 0:
            continue
        for name, judge in judges.items():
            weights = judge.weights(state, t.fresh) * -judge._scale(t.fresh)
            adjoint = agents.score_vjp(t.after, t.fresh, weights)
            for baseline in (False, True):
                incentive = replace(designer.incentive, baseline=baseline)
                gradient = designer.path.gradient(None, state.eta, agents, incentive, t.steps, adjoint, t.fresh)
                found[f"{name}, baseline" if baseline else name].append(gradient["logits"][0])
        found["direct"].append(_direct(designer, state.eta, t.fresh))
    return found


def _direct(designer: Any, eta: Any, fresh: Any) -> torch.Tensor:
    return grad_of(lambda p: -designer.incentive.direct(p, fresh, designer.gamma).sum(), eta)["logits"][0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--before", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.5)
    options = parser.parse_args()
    theirs = learned_experiment(options)
    preset = experiment("gtb", "gtb")
    agents = replace(theirs.agents, minibatches=1, epochs=1)
    run = replace(theirs.run, k=options.k, pipeline=True)
    for kind, gamma in (("delta", 1.0), ("level", 0.99)):
        taxes = TaxSchedule(start=options.rate, reward=Welfare(kind))
        designer = replace(preset.designer, incentive=taxes, gamma=gamma, path=LastSteps(1))
        task = replace(theirs.task, tax_mode="external")
        e = replace(theirs, method="metagrad", task=task, agents=agents, designer=designer, run=run)
        trainer = with_agents(e, options.run).trainers[0]
        for name, gradients in frozen_gradients(trainer, options.batches, options.before).items():
            g = torch.stack(gradients)
            unit = g / g.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(g), len(g), 1))]
            mean = " ".join(f"{x:+.3f}" for x in g.mean(0))
            norm, error = g.norm(dim=1).mean(), cosines.std() / len(g) ** 0.5  # pairs share batches
            print(f"reward {kind}, {name}: cosine {cosines.mean():.3f} ± {error:.3f}, norm {norm:.3g}, mean {mean}")


if __name__ == "__main__":
    main()
