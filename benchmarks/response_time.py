"""How long agents take to respond to new taxes.

    python benchmarks/response_time.py RUN [--seed N] [--rate 0.5] [--episodes 1600]

The agents of RUN, which learned in a free market, go on learning under one rate for all. Production at rate 0.5 falls
from what they made before they had noticed to what they make then; an exponential fitted to it gives the time.
"""

from dataclasses import replace

import numpy as np
from learned import arguments, learned_experiment, with_agents
from scipy.optimize import curve_fit

from metagrad.experiment.learners import Learners
from metagrad.tasks.gtb import METHODS


def response(learners: Learners, test_episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Episodes, and production after so many of them."""
    evaluate = learners.evaluators("eval", test_episodes)
    rows = []
    while learners.episode < learners.experiment.run.episodes:
        rows.append((learners.episode, float(evaluate()["productivity"][0])))
        for _ in range(5):
            learners.iterate(diagnose=False)
    episodes, production = np.array(rows).T
    return episodes, production


def fit_time(episodes: np.ndarray, production: np.ndarray) -> tuple[float, float]:
    """Time of ``end + change * exp(-episodes / time)`` and its standard error."""
    start = (production[-1], production[0] - production[-1], episodes[-1] / 4)
    bounds = ([0, -np.inf, 1], [np.inf, np.inf, 10 * episodes[-1]])
    found, covariance = curve_fit(
        lambda x, end, change, time: end + change * np.exp(-x / time), episodes, production, start, bounds=bounds
    )
    return float(found[2]), float(covariance[2, 2] ** 0.5)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--episodes", type=int, default=1600)
    parser.add_argument("--test-episodes", type=int, default=40)
    options = parser.parse_args()
    fixed = METHODS["fixed"](learned_experiment(options))
    task = replace(fixed.task, rates=(options.rate,) * 7)
    e = replace(fixed, method="fixed", task=task, run=replace(fixed.run, episodes=options.episodes))
    episodes, production = response(with_agents(e, options.run), options.test_episodes)
    for episode, made in zip(episodes, production, strict=True):
        print(f"{episode:6.0f} {made:8.1f}")
    time, error = fit_time(episodes, production)
    print(f"response time {time:.0f} ± {error:.0f} episodes")


if __name__ == "__main__":
    main()
