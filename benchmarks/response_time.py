"""Which response time predicts best how agents respond to new taxes.

    python benchmarks/response_time.py RUN [--rate 0.2] [--change 0.1] [--times 40 80 ...] [--after 320 640 ...]

The agents of RUN, all its seeds, go on learning twice with the same random numbers: with every rate at RATE, and with
every rate higher by CHANGE. The designer's :class:`~metagrad.metagradient.Sensitivity` follows the former with several
response times at once and so predicts the parameters of the latter. Realised and predicted agents, the rates back at
RATE, play the same held-out episodes; what is compared is the change of every skill rank's coin at the end.

The response time to use is that with the least squared error over populations and ranks. The smallest of them stand
for the published chain of one step, the largest for a designer that forgets nothing.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from learned import with_agents

from metagrad import Experiment
from metagrad.experiment.folder import read_experiment
from metagrad.experiment.registry import experiment
from metagrad.metagradient import Response, Sensitivity
from metagrad.optim import Params, value_at
from metagrad.trainer import Evaluator, Trainer


def under(theirs: Experiment, rate: float, lr: float | None) -> Experiment:
    """The agents of a run, all brackets at one rate that a designer could move."""
    designer = experiment(theirs.game, "gtb").designer
    designer = replace(designer, incentive=replace(designer.incentive, start=rate))
    agents = replace(theirs.agents, entropy=value_at(theirs.agents.entropy, theirs.run.episodes))
    if lr is not None:
        agents = replace(agents, optimiser=replace(agents.optimiser, lr=lr))
    run = replace(theirs.run, threads=1, init_from=None, pipeline=True)
    task = replace(theirs.task, tax_mode="external", fixed_rates=None)
    return replace(theirs, method="metagrad", task=task, agents=agents, designer=designer, run=run)


def learn(trainer: Trainer, paths: Sequence[Sensitivity], states: list[Response]) -> list[Response]:
    """One iteration of the agents alone, and what the paths make of it."""
    batch = trainer.collect(trainer.state.agents)
    after, steps = trainer.agents.update(trainer.state.agents, batch, trainer.rng)
    eta, incentive = trainer.designer.eta(trainer.state.designer), trainer.designer.incentive
    states = [path.advance(s, eta, trainer.agents, incentive, steps) for path, s in zip(paths, states, strict=True)]
    trainer.state = trainer.state._replace(agents=after, iteration=trainer.state.iteration + 1)
    return states


def coin(trainer: Trainer, policy: Params, episodes: int) -> np.ndarray:
    """Coin at the end by seed and skill rank, of agents with this policy, on the same episodes whenever asked."""
    kept = trainer.state
    trainer.state = kept._replace(agents=kept.agents._replace(policy=policy))
    scores = Evaluator(trainer, "test", episodes)()
    trainer.state = kept
    return scores["coin_rank"]


def moved(policy: Params, response: Response, change: float) -> Params:
    """The policy moved as the response to a change of all rates says."""
    return {name: p + change * response.params[name].sum(0) for name, p in policy.items()}


def predicted(trainer: Trainer, response: Response, change: float, episodes: int) -> np.ndarray:
    """The change of coin to first order: half of the way up less half of the way down."""
    up, down = (coin(trainer, moved(trainer.state.agents.policy, response, half), episodes)
                for half in (change / 2, -change / 2))  # fmt: skip
    return up - down


def best(errors: np.ndarray, times: Sequence[float]) -> tuple[float, float, float]:
    """Time of the least error, and the range of those without one population each; errors ``[T, S]``."""
    without = [times[int(np.delete(errors, s, 1).sum(1).argmin())] for s in range(errors.shape[1])]
    return times[int(errors.sum(1).argmin())], min(without), max(without)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--change", type=float, default=0.1)
    parser.add_argument("--lr", type=float, help="the agents' learning rate, by default that of RUN")
    parser.add_argument("--times", type=float, nargs="+", default=[16, 40, 80, 160, 320, 640, 1280])
    parser.add_argument("--after", type=int, nargs="+", default=[320, 640, 1280], help="episodes")
    parser.add_argument("--test-episodes", type=int, default=200)
    options = parser.parse_args()
    theirs = read_experiment(options.run)
    base, changed = (
        with_agents(under(theirs, rate, options.lr), options.run).trainers[0]
        for rate in (options.rate, options.rate + options.change)
    )
    paths = [Sensitivity(response_time=time) for time in options.times]
    states = [path.init(base.state.agents, base.designer.incentive, base.task.interface) for path in paths]
    for episode in range(base.k, max(options.after) + 1, base.k):
        states = learn(base, paths, states)
        learn(changed, (), [])
        if episode not in options.after:
            continue
        now = coin(base, base.state.agents.policy, options.test_episodes)
        real = coin(base, changed.state.agents.policy, options.test_episodes) - now
        told = [predicted(base, s, options.change, options.test_episodes) for s in states]
        errors = np.array([((one - real) ** 2).sum(1) for one in told])
        print(f"after {episode} episodes, of {now.mean(0).round(1)} coin by rank {real.mean(0).round(1)} "
              f"± {(real.std(0, ddof=1) / len(real) ** 0.5).round(1)}", flush=True)  # fmt: skip
        print(f"  {'no response':>12}: error {(real**2).sum(1).mean():8.1f}")
        for time, one, error in zip(options.times, told, errors, strict=True):
            print(f"  {time:12g}: error {error.mean():8.1f}, predicted {one.mean(0).round(1)}")
        print("  response time {:g} ({:g} to {:g} without one population)".format(*best(errors, options.times)))


if __name__ == "__main__":
    main()
