"""How much of the tax designer's gradient is signal: cosines between independent batches, agents frozen.

    python benchmarks/tax_signal.py RUN [--seed N] [--k 32] [--batches 6] [--before 3] [--rate 0.5]

RUN is a finished run on the economy, whose agents and Adam moments are taken. All brackets have one rate.
Printed for each path: mean cosine over all pairs of batches, mean norm, and the mean gradient by bracket (of the
logits; positive means that lower rates are better).
"""

from collections import defaultdict
from dataclasses import replace

import torch
from learned import arguments, learned, with_agents

from metagrad.agents.critics import LinearCritic
from metagrad.designers import MetaGradient
from metagrad.metagradient import LastSteps
from metagrad.tasks.gtb import OwnedByRank, TaxSchedule, Welfare
from metagrad.trainer import Trainer


def frozen_gradients(trainer: Trainer, batches: int, before: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of the paths on independent pairs of batches, always of the same agents.

    The linear critic has learned from ``before`` batches before the first of them.
    """
    agents, state, designer = trainer.agents, trainer.state.agents, trainer.designer
    eta, learning, found = trainer.state.designer.eta, trainer.state.designer, defaultdict(list)
    returns = replace(designer, advantages="leave_one_out", critic=None)
    for i in range(-before, batches):
        batch = trainer.collect(state)
        learning = learning._replace(critic=designer._critic_update(learning.critic, [batch]))
        if i < 0:
            continue
        after, steps = agents.update(state, batch, trainer.rng)
        fresh = trainer.collect(after)
        for judging, name in ((returns, "chain"), (designer, "chain, linear critic")):
            adjoint = agents.score_vjp(after, fresh, judging.weights(learning, fresh) / -fresh.k)
            for baseline in (False, True):
                incentive = replace(designer.incentive, baseline=baseline)
                part = designer.path.gradient(None, eta, agents, incentive, steps, adjoint, fresh)
                found[f"{name}, baseline" if baseline else name].append(part["logits"][0])
        found["direct"].append(designer.direct_grad(eta, fresh)["logits"][0])
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--before", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.5)
    options = parser.parse_args()
    theirs = learned(options)
    agents = replace(theirs.agents, minibatches=1, epochs=1)
    for kind, gamma in (("delta", 1.0), ("level", 0.99)):
        designer = MetaGradient(
            TaxSchedule(start=options.rate, reward=Welfare(kind)), gamma=gamma, advantages="gae",
            critic=LinearCritic(OwnedByRank()), path=LastSteps(1), discount_scores=True,
        )  # fmt: skip
        task, run = replace(theirs.task, tax_mode="external"), replace(theirs.run, k=options.k)
        trainer = with_agents(replace(theirs, task=task, agents=agents, designer=designer, run=run), options.run)
        for name, gradients in frozen_gradients(trainer, options.batches, options.before).items():
            g = torch.stack(gradients)
            unit = g / g.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(g), len(g), 1))]
            mean = " ".join(f"{x:+.3f}" for x in g.mean(0))
            norm, error = g.norm(dim=1).mean(), cosines.std() / len(g) ** 0.5  # pairs share batches
            print(f"reward {kind}, {name}: cosine {cosines.mean():.3f} ± {error:.3f}, norm {norm:.3g}, mean {mean}")


if __name__ == "__main__":
    main()
