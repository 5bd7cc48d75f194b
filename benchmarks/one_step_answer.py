"""The best schedules of the one-step economy, by search: ``python benchmarks/one_step_answer.py [--starts 40 8]``."""

import argparse

from fastenvs.one_step import best_response, best_schedule, saez_schedule
from metagrad.experiment.registry import experiment

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--starts", type=int, nargs=2, default=[40, 8], help="of the search, for 4 and for 100 agents")
starts = parser.parse_args().starts

print("| agents | schedule | rates | welfare | share of the gain |\n|---|---|---|---|---|")
for n, each in zip((4, 100), starts, strict=True):
    economy = experiment("one-step-economy", f"one_step_{n}").task
    none = best_response(economy, [[0.0] * len(economy.brackets)])
    best = best_schedule(economy, starts=each)
    saez = saez_schedule(economy)
    free = float(none.welfare[0])
    for name, rates, welfare in (
        ("no tax", [0.0] * len(economy.brackets), free),
        ("Saez's formula", saez.rates, float(saez.welfare)),
        ("best", best.rates, float(best.welfare)),
    ):
        shown = ", ".join(f"{rate:.3f}" for rate in rates)
        print(f"| {n} | {name} | {shown} | {welfare:.2f} | {(welfare - free) / (float(best.welfare) - free):.3f} |")
