"""Compare the speed of this tree with that of another checkout of the repository, built, on one thread.

python benchmarks/compare.py ../old
python benchmarks/compare.py ../old --only gtb --blocks 9 --bar 1 --bar gtb-step-256=1.5

Both are measured in alternating blocks by processes of their own, so that a machine that changes its speed changes it
for both. A ratio is this tree's speed over the other's in a pair of neighbouring blocks; the table gives the median
and the range. The exit status is 1 if a median is under its bar or a case could not be measured.
"""

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

from blocks import CLOCK_VARIABLE, Worker, WorkerError, alternate, middle_and_range
from tree import CASES

HERE = Path(__file__).resolve().parent


def worker(tree, clock):
    """A process that measures a tree."""
    return Worker([sys.executable, str(HERE / "tree.py")], {"PYTHONPATH": str(tree), CLOCK_VARIABLE: clock})


def pairs(old, new, case, blocks):
    """Answers of both trees, block by block."""
    found = alternate({"old": lambda: old.ask(case), "new": lambda: new.ask(case)}, blocks)
    return list(zip(found["old"], found["new"], strict=True))


def speed(answers):
    """Middle of the speeds of some blocks, in words."""
    rate = middle_and_range([a["units"] / a["seconds"] for a in answers])[0]
    unit = answers[0]["unit"]
    return f"{1 / rate:.2f} s" if unit == "processes" else f"{rate:,.0f} {unit}/s"


def ratios(found):
    """This tree's speed over the other's, pair by pair."""
    return [(n["units"] / n["seconds"]) / (o["units"] / o["seconds"]) for o, n in found]


def bar_of(text):
    """``RATIO`` or ``PATTERN=RATIO``."""
    pattern, _, ratio = text.rpartition("=")
    return pattern or "*", float(ratio)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="cases with this in their name, or that match (repeatable)"
    )
    parser.add_argument("--blocks", type=int, default=7, help="pairs of blocks of a case (default: %(default)s)")
    parser.add_argument(
        "--bar", action="append", type=bar_of, default=[], metavar="[PATTERN=]RATIO",
        help="the least ratio allowed, of all cases or of those that match; the last that matches counts (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall",
        help="processor time leaves out the time that others had the processor: for a machine that is not idle",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser


def chosen(patterns):
    """Cases that ``--only`` asks for."""
    return [c for c in CASES if not patterns or any(p in c or fnmatch(c, p) for p in patterns)]


def main(argv=None):
    parser = arguments()
    options = parser.parse_args(argv)
    cases = chosen(options.only)
    if options.list:
        print("\n".join(cases))
        return 0
    trees = [options.other.resolve(), HERE.parent]
    for tree in trees:
        if not list(tree.glob("fastenvs/_market*.so")):
            parser.error(f"{tree} is not a built checkout: python setup.py build_ext --inplace makes it one")
    if not cases or options.blocks < 1:
        parser.error(f"there is nothing to measure; the cases are {', '.join(CASES)}")
    print("| case | other tree | this tree | ratio | range | bar |\n" + "| --- " * 6 + "|", flush=True)
    short = 0
    for case in cases:
        bar = next((ratio for pattern, ratio in reversed(options.bar) if fnmatch(case, pattern)), None)
        try:
            with worker(trees[0], options.clock) as old, worker(trees[1], options.clock) as new:
                found = pairs(old, new, case, options.blocks)
        except WorkerError as error:
            short += 1
            print(f"| {case} | could not be measured: {error} | | | | |", flush=True)
            continue
        middle, least, most = middle_and_range(ratios(found))
        under = bar is not None and middle < bar
        short += under
        verdict = "" if bar is None else f"{bar:g}{': under it' if under else ''}"
        speeds = [speed([pair[side] for pair in found]) for side in (0, 1)]
        print(
            f"| {case} | {speeds[0]} | {speeds[1]} | {middle:.2f} | {least:.2f} to {most:.2f} | {verdict} |", flush=True
        )
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(main())
