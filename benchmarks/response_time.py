"""How long agents take to respond to new taxes, as a designer with a measured response time sees it.

    python benchmarks/response_time.py RUN [--rate 0.2] [--lr 4e-4] [--episodes 1600]

The agents of RUN, all its seeds, go on learning with every rate at RATE, and the designer looks on. Printed after every
320 episodes: the response time by seed, and that of the mean quotient.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from learned import economy_of, with_agents
from torch import Tensor

from metagrad import Experiment
from metagrad.experiment.registry import experiment
from metagrad.metagradient import Response, Sensitivity
from metagrad.trainer import Trainer


def under(theirs: Experiment, rate: float, lr: float | None) -> Experiment:
    """The agents of a run, all brackets at one rate, and a designer that could move it."""
    designer = experiment("gtb", "gtb").designer
    designer = replace(
        designer, incentive=replace(designer.incentive, start=rate), path=Sensitivity("measured"), pooled=False
    )
    agents, run = theirs.agents, replace(theirs.run, pipeline=True)
    agents = agents if lr is None else replace(agents, optimiser=replace(agents.optimiser, lr=lr))
    task = replace(theirs.task, tax_mode="external", fixed_rates=None)
    return replace(theirs, method="metagrad", task=task, agents=agents, designer=designer, run=run)


def learn(trainer: Trainer, response: Response) -> Response:
    """One iteration of the agents alone, and what the designer's path makes of it."""
    batch = trainer.collect(trainer.state.agents)
    after, steps = trainer.agents.update(trainer.state.agents, batch, trainer.rng)
    designer = trainer.designer
    response = designer.path.advance(
        response, designer.eta(trainer.state.designer), trainer.agents, designer.incentive, steps
    )
    trainer.state = trainer.state._replace(agents=after, iteration=trainer.state.iteration + 1)
    return response


def times(trainer: Trainer, response: Response) -> Tensor:
    """Response time by network in episodes, and last that of the mean."""
    assert response.fading is not None
    by_network = response.fading[0] / response.fading[1] * trainer.agents.minibatches * trainer.agents.epochs
    return trainer.k / by_network.new_tensor([*by_network.tolist(), by_network.mean()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--lr", type=float, help="the agents' learning rate, by default that of RUN")
    parser.add_argument("--episodes", type=int, default=1_600)
    options = parser.parse_args()
    trainer = with_agents(under(economy_of(options.run), options.rate, options.lr), options.run).trainers[0]
    response = trainer.designer.path.init(trainer.state.agents, trainer.designer.incentive, trainer.task.interface)
    for episode in range(trainer.k, options.episodes + 1, trainer.k):
        response = learn(trainer, response)
        if episode % 320 < trainer.k or episode == options.episodes:
            *each, mean = times(trainer, response).tolist()
            print(f"{episode:6}: {' '.join(f'{time:5.0f}' for time in each)}, mean {mean:5.0f} episodes", flush=True)


if __name__ == "__main__":
    main()
