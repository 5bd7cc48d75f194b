"""How much of the tax designer's gradient is signal: cosines between independent batches, agents frozen.

    python benchmarks/tax_signal.py RUN [--seed N] [--k 32] [--batches 6] [--before 3] [--rate 0.5]

RUN is a finished run on the economy, whose agents and Adam moments are taken. All brackets have one rate.
Printed for each path: mean cosine over all pairs of batches, mean norm, and the mean gradient by bracket (of the
logits; positive means that lower rates are better).
"""

from collections import defaultdict
from dataclasses import replace

import torch
from learned import arguments, learned_config, with_agents
from metagrad.legacy.config import DesignerReward, EconomyConfig, TaxDesigner
from metagrad.legacy.economy import slope
from metagrad.legacy.taxes import TaxedWorkforce


def frozen_gradients(workers: TaxedWorkforce, batches: int, before: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of the paths on independent pairs of batches, always of the same agents.

    The linear critic has learned from ``before`` batches before the first of them.
    """
    policy, state, config, linear = workers.policy, workers.policy_state, workers.config, workers.judge
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    for i in range(-before, batches):
        workers.policy, workers.policy_state = policy, state
        batch, record = workers.collect()
        linear.learn(record, workers._rewards(record))
        if i < 0:
            continue
        step = workers.learn_from(batch)[-1]
        fresh = workers.collect()
        after = workers.evaluate(fresh[0])
        for judge, name in ((None, "chain"), (linear, "chain, linear critic")):
            workers.judge = judge
            adjoint = after.vjp(slope(workers.objective(*fresh), after.out))
            for baseline in (False, True):
                workers.config = replace(config, designer=replace(config.designer, baseline=baseline))
                label = f"{name}, baseline" if baseline else name
                found[label].append(workers.chain_gradient(step, record, adjoint)["logits"])
        found["direct"].append(workers.direct_gradient(fresh[1])["logits"])
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--before", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.5)
    options = parser.parse_args()
    theirs = learned_config(options)
    agents = replace(theirs.agents, minibatches=1, epochs=1)
    designer = TaxDesigner(response="step", policy="schedule", start=options.rate)
    for kind, gamma in (("delta", 1.0), ("level", 0.99)):
        config = EconomyConfig(
            method="metagrad", seeds=theirs.seeds, k=options.k, agents=agents, game=theirs.game,
            reward=DesignerReward(kind, gamma), designer=designer,
        )  # fmt: skip
        workers = with_agents(config, options.run).workforces[0]
        for name, gradients in frozen_gradients(workers, options.batches, options.before).items():
            g = torch.stack(gradients)
            unit = g / g.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(g), len(g), 1))]
            mean = " ".join(f"{x:+.3f}" for x in g.mean(0))
            norm, error = g.norm(dim=1).mean(), cosines.std() / len(g) ** 0.5  # pairs share batches
            print(f"reward {kind}, {name}: cosine {cosines.mean():.3f} ± {error:.3f}, norm {norm:.3g}, mean {mean}")


if __name__ == "__main__":
    main()
