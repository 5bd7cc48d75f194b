"""``python -m torture``: goes on where it stopped until the minutes are over, and prints a table."""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path

from torture import files, fuzz, report

PARTS = ("fuzz", "kills", "files", "cold-cache")


def main():
    parser = argparse.ArgumentParser(prog="ci/torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long to go on (default: 30)")
    parser.add_argument("--folder", type=Path, default=Path("runs/torture"), help="where counts and faults are kept")
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="parts to run (default: all, one after the other)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that fuzz (default: one a core)")
    parser.add_argument("--again", metavar="BLOCK/NUMBER", help="only repeat this one input, in this process")
    args = parser.parse_args()
    if args.again:
        print(fuzz.again(*map(int, args.again.split("/"))))
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    parts = args.only or list(PARTS)
    start, whole = time.monotonic(), 60 * args.minutes
    for number, part in enumerate(parts):
        # Inputs are tried in the time that the other parts leave; each of those has its share of it.
        deadline = start + whole * (number + 1) / len(parts)
        print(
            f"== {part}: until {time.strftime('%H:%M:%S', time.localtime(time.time() + deadline - time.monotonic()))}"
        )
        run_part(part, deadline, args)
    counts, faults = load_all(args.folder)
    print("\n".join(report.lines(counts, faults)))
    (args.folder / "table.md").write_text(report.markdown(counts), encoding="utf-8")
    print(f"the same for docs/reliability.md: {args.folder / 'table.md'}")
    return 1 if report.failed(counts) else 0


def run_part(part, deadline, args):
    """One part, with counts that are kept in a file of its own."""
    if part == "fuzz":
        fuzz.run(deadline, args.folder, args.jobs)
        return
    path = args.folder / f"{part}-counts.json"
    counts = Counter(json.loads(path.read_text())) if path.exists() else Counter()
    try:
        if part == "kills":
            try:
                from torture import kills
            except ImportError as error:
                print(f"left out: {error}")
                return
            kills.run(deadline, counts, args.folder / "kills")
        elif part == "files":
            files.damage(deadline, counts, args.folder)
        else:
            files.cold_cache(deadline, counts, args.folder)
    finally:
        fuzz.write(path, dict(counts))


def load_all(folder):
    """All counts so far, and the inputs that were at fault."""
    state = fuzz.load(folder)
    counts = Counter(state["counts"])
    for part in PARTS[1:]:
        path = folder / f"{part}-counts.json"
        if path.exists():
            counts.update({f"{part}: {name}": n for name, n in json.loads(path.read_text()).items()})
    return counts, state["faults"]


if __name__ == "__main__":
    raise SystemExit(main())
