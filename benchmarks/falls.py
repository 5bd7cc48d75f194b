"""Where an economy falls under its designer, and who leaves which trade.

    python benchmarks/falls.py RUN_OR_METRICS [...] [--window 3]

For each seed of each run (or metrics.csv): welfare as a mean of ``window`` evaluations, its lowest share of the highest
before, and what rates, production, equality, incomes by skill rank and, of runs that have it, the entropy of the
agents' policies were at that height and at that depth.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metagrad.experiment.metrics import read_metrics


def fall(metrics: dict[str, np.ndarray], window: int) -> tuple[float, dict[str, float], dict[str, float]]:
    """Lowest share of the running maximum, and the means of all columns at that maximum and at that depth."""
    means = {
        name: np.convolve(column, np.full(window, 1 / window), "valid") for name, column in metrics.items()
    } | {"episode": metrics["episode"][window - 1 :]}  # fmt: skip
    welfare = means["welfare"]
    low = int(np.argmin(welfare / np.maximum.accumulate(welfare)))
    high = int(np.argmax(welfare[: low + 1]))
    top, bottom = ({name: float(column[i]) for name, column in means.items()} for i in (high, low))
    return bottom["welfare"] / top["welfare"], top, bottom


def rows(paths: list[Path], window: int) -> Iterator[str]:
    """Rows of the table in Markdown."""
    yield (
        "| run | seed | share | episodes | welfare | production | equality | rates 1 to 3 | builds less | trades | "
        "entropy |"
    )
    yield "|---" * 11 + "|"
    for path in paths:
        metrics = read_metrics(path / "metrics.csv" if path.is_dir() else path)
        if "build_income_rank_0" not in metrics:
            raise SystemExit(f"{path} has no metrics of a run on the economy")
        for seed in np.unique(metrics["seed"]):
            own = {name: column[metrics["seed"] == seed] for name, column in metrics.items()}
            if len(own["seed"]) < window:
                continue
            share, *ends = fall(own, window)
            ranks = [name for name in own if name.startswith("build_income_rank_")]
            who = min(ranks, key=lambda name: ends[1][name] - ends[0][name])
            trade = who.replace("build", "trade")

            def both(name: str, digits: int = 0, ends: list[dict[str, float]] = ends) -> str:
                return " to ".join(f"{end[name]:,.{digits}f}" for end in ends) if name in ends[0] else ""

            rates = " to ".join("{" + ", ".join(f"{end[f'rate_{i}']:.2f}" for i in range(3)) + "}" for end in ends)
            yield (
                f"| {path.stem if path.is_file() else path.name} | {int(seed)} | {share:.2f} | {both('episode')} | "
                f"{both('welfare', 1)} | {both('productivity')} | {both('equality', 2)} | {rates} | "
                f"rank {who[-1]}: {both(who)} | {both(trade)} | {both('policy_entropy', 2)} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN_OR_METRICS")
    parser.add_argument("--window", type=int, default=3, help="evaluations in a mean")
    options = parser.parse_args()
    for row in rows(options.paths, options.window):
        print(row)
