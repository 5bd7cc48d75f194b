"""What the paper reports, against the scores of runs: reproduced, not reproduced, or not testable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metagrad.reports import pooling
from metagrad.reports.tables import Finished, interval, mean_and_interval
from metagrad.reproduce.listed import Claim


class Outcome(NamedTuple):
    """What became of a claim, and the number that says so."""

    verdict: str
    measured: str = ""


def sides(test: str) -> tuple[str, str, str]:
    """Left side, ``<`` or ``>``, and right side of a test."""
    left, sign, right = re.split(r" ([<>]) ", test)
    return left, sign, right


def judge(claim: Claim, runs: Mapping[str, Finished]) -> Outcome:
    """The outcome of a claim on finished runs by their labels.

    The difference of the two sides is taken seed by seed. What is claimed is reproduced if the interval of their
    interquartile mean, that of ``metagrad compare``, lies on the claimed side of 0, and not reproduced otherwise.
    """
    if claim.test is None:
        reason = claim.untestable or f"look at the figure ({claim.look})"
        return Outcome(f"not testable: {reason}" if claim.untestable else reason)
    left, sign, right = sides(claim.test)
    missing = [label for label in (left.rpartition(":")[0], right.rpartition(":")[0]) if label and label not in runs]
    if missing:
        return Outcome(f"not testable yet: no run of {' and of '.join(missing)}")
    mine = _scores(left, runs)
    theirs = _scores(right, runs) if ":" in right else dict.fromkeys(mine, float(right))
    seeds = sorted(mine.keys() & theirs.keys())
    values = np.array([mine[seed] - theirs[seed] for seed in seeds])
    if len(seeds) < 2:
        measured = "".join(f"{value:+.2f} on seed {seed}" for seed, value in zip(seeds, values, strict=True))
        return Outcome("not testable yet: fewer than two seeds in common", measured)
    low, high = interval(values)
    if sign == "<":
        low, high = -high, -low
    verdict = "reproduced" if low > 0 else "not reproduced: the other way" if high < 0 else "not reproduced: undecided"
    return Outcome(verdict, f"{mean_and_interval(values)}, {pooling.ranges(seeds)}")


def _scores(side: str, runs: Mapping[str, Finished]) -> dict[int, float]:
    """A score of the test at the end by seed, from LABEL:SCORE; ``solved`` and ``diverged`` are 0 or 1."""
    label, _, score = side.rpartition(":")
    summary = runs[label].summary
    columns = {name: [row.get(name) for row in summary["test"]] for name in summary["test"][0]}
    values = {**columns, "solved": summary["solved"], "diverged": summary["diverged"]}[score]
    return {seed: float(value) for seed, value in zip(summary["seeds"], values, strict=True)}
