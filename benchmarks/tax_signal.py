"""How much of the tax designer's gradient is signal: cosines between independent batches, agents frozen.

    python benchmarks/tax_signal.py RUN [--seed N] [--k 32] [--batches 6]

RUN is a finished run on the economy, whose agents and Adam moments are taken. Rates are one half in all brackets.
Printed for each path: mean cosine over all pairs of batches, mean norm, and the mean gradient by bracket (of the
logits; positive means that lower rates are better).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from metagrad import checkpoint
from metagrad.config import DesignerReward, EconomyConfig, TaxDesigner
from metagrad.config import load as load_config
from metagrad.economy import slope
from metagrad.run import RunError
from metagrad.taxes import TaxedWorkforce
from metagrad.train import load_optimiser_state


def frozen_gradients(workers: TaxedWorkforce, batches: int) -> dict[str, list[torch.Tensor]]:
    """Gradients of the paths on independent pairs of batches, always of the same agents."""
    policy, state, config = workers.policy, workers.policy_state, workers.config
    found: dict[str, list[torch.Tensor]] = {"chain": [], "chain with baseline": [], "direct": []}
    for _ in range(batches):
        workers.policy, workers.policy_state = policy, state
        batch, record = workers.collect()
        step = workers.learn_from(batch)[-1]
        fresh = workers.collect()
        after = workers.evaluate(fresh[0])
        adjoint = after.vjp(slope(workers.objective(*fresh), after.out))
        for name, baseline in (("chain", False), ("chain with baseline", True)):
            workers.config = replace(config, designer=replace(config.designer, baseline=baseline))
            found[name].append(workers.chain_gradient(step, record, adjoint)["logits"])
        found["direct"].append(workers.direct_gradient(fresh[1])["logits"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs = load_config(options.run / "config.json")
    if not isinstance(theirs, EconomyConfig):
        raise RunError(f"{options.run} is not a run on the economy")
    seed = theirs.seeds[0] if options.seed is None else options.seed
    tensors, values = checkpoint.load(options.run / "checkpoints")
    mine = {name.removeprefix(f"{seed}/"): t for name, t in tensors.items() if name.startswith(f"{seed}/")}
    steps = values["seeds"][theirs.seeds.index(seed)]["optimiser_steps"]["policy_state"]
    agents = replace(theirs.agents, minibatches=1, epochs=1, entropy=theirs.agents.entropy_end)
    for kind, gamma in (("delta", 1.0), ("level", 0.99)):
        config = EconomyConfig(
            method="metagrad", seeds=(seed,), k=options.k, threads=options.threads, agents=agents, game=theirs.game,
            reward=DesignerReward(kind, gamma), designer=TaxDesigner(response="step", policy="schedule"),
        )  # fmt: skip
        workers = TaxedWorkforce(config, seed)
        workers.adopt(mine)
        workers.policy_state = load_optimiser_state(mine, "policy_state", list(workers.policy), steps)
        for name, gradients in frozen_gradients(workers, options.batches).items():
            g = torch.stack(gradients)
            unit = g / g.norm(dim=1, keepdim=True)
            cosines = (unit @ unit.T)[tuple(torch.triu_indices(len(g), len(g), 1))]
            mean = " ".join(f"{x:+.3f}" for x in g.mean(0))
            norm = g.norm(dim=1).mean()
            print(f"reward {kind}, {name}: cosine {cosines.mean():.3f}, norm {norm:.3g}, mean {mean}")


if __name__ == "__main__":
    main()
