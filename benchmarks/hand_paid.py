"""Cleanup on the 10 x 10 map with payments made by hand: how far can the agents of a preset get?

    python benchmarks/hand_paid.py {unit,growth,apples} [--pay 1] [--seed 1001] [--episodes 6400] [--preset NAME]

``unit`` pays agent 0 for each unit of waste that it clears; ``growth`` pays it, whatever it does, for the share of full
growth that the river allows; ``apples`` pays every agent for what the others collect. Printed every 800 episodes:
welfare of 30 evaluation episodes, and how often each agent cleaned in them.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from metagrad.batch import Batch
from metagrad.designers import NoDesigner
from metagrad.streams import Streams
from metagrad.tasks.cleanup import PRESETS
from metagrad.trainer import Evaluator, Trainer


@dataclass(frozen=True)
class Hand(NoDesigner):
    """Pays by one rule, whatever comes of it."""

    rule: str = "unit"
    times: float = 1.0

    def pay(self, state: Any, batch: Batch, rng: Streams) -> Batch:
        """Fill in the payments."""
        paid = batch.payments.clone()
        if self.rule == "unit":
            paid[..., 0] = batch.extra["waste"][..., 0].to(paid.dtype)
        elif self.rule == "growth":
            paid[..., 0] = batch.extra["growth"].to(paid.dtype)
        else:
            paid = batch.rewards.sum(-1, keepdim=True) - batch.rewards
        return batch.replace(payments=self.times * paid * batch.alive[..., None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", choices=("unit", "growth", "apples"))
    parser.add_argument("--pay", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--episodes", type=int, default=6_400)
    parser.add_argument("--preset", choices=("cleanup_10x10", "cleanup_10x10_hired"), default="cleanup_10x10")
    options = parser.parse_args()
    preset = PRESETS[options.preset]()
    designer = Hand(rule=options.rule, times=options.pay)
    trainer = Trainer(preset.task, preset.agents, designer, seeds=(options.seed,), k=preset.run.k)
    evaluate = Evaluator(trainer, "eval", 30)
    while trainer.state.episodes < options.episodes:
        trainer.train(max(1, 800 // trainer.k))
        scores = evaluate()
        cleaned = " ".join(f"{n:4.0f}" for n in scores["n_cleaned"][0])
        print(f"{trainer.state.episodes:6}: welfare {scores['welfare'][0]:5.1f}, cleaning {cleaned}", flush=True)


if __name__ == "__main__":
    main()
