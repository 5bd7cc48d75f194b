"""Turn a benchmark run into the README's tables, those of docs/performance.md and the scaling plots.

pytest --benchmark-only --benchmark-json=benchmark.json
python benchmarks/report.py benchmark.json

``--print`` shows the tables and changes nothing. Every figure is the middle of the blocks of its row; the least and the
most stand after it.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from blocks import middle_and_range

ROOT = Path(__file__).parent.parent
NAMES = {
    "er_5_2": "Escape Room ER(5,2)",
    "cleanup_paper_7x7": "Cleanup 7 x 7, 2 agents",
    "gtb_paper": "Gather-Trade-Build, 4 agents",
}
#: The README's learners, in the same order: preset, and its method without a designer.
LEARNERS = {"er_5_2": "none", "cleanup": "none", "gtb": "free-market"}


def load(path):
    """Rows of all tables, and the benchmarks that have none, as flat records."""
    rows, single = [], []
    for b in json.loads(path.read_text())["benchmarks"]:
        said = b["extra_info"]
        if "rows" in said:
            rows += [{"table": said["table"], **row} for row in said["rows"]]
        else:
            test, _, parameters = b["name"].partition("[")
            single.append({"test": test, "id": parameters.rstrip("]"), "stats": b["stats"], "said": said})
    return rows, single


def markdown(header, rows):
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def number(x):
    """Three digits, with M and k."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def spread(values, shown=number):
    """Middle, least and most."""
    middle, least, most = map(shown, middle_and_range(values))
    return f"{middle} ({least} to {most})"


def within(values):
    """Middle, and half of the range in percent of it."""
    middle, least, most = middle_and_range(values)
    return f"{number(middle)} ± {50 * (most - least) / middle:.0f} %"


def rates(row):
    """Units a second, block by block."""
    return [row["units"] / s for s in row["seconds"]]


def share(values):
    """Middle of shares; none where all that could be counted is done by kernels of our own."""
    middle = statistics.median(values)
    return f"{middle:.2g}" if middle else "-"


def of(rows, *tables):
    return [r for r in rows if r["table"] in tables]


def headline(rows):
    """The README's tables."""
    steps = []
    for setting, name in NAMES.items():
        mine = {r["num_envs"]: r for r in of(rows, "copies") if r["setting"] == setting}
        cells = [within(rates(mine[n])) for n in (1, 1024, 4096)]
        steps.append([name, *cells, f"{mine[4096]['bytes_per_env_step']:.0f}", share(mine[4096]["memset"])])
    header = ["environment steps/s, one thread", "1 copy", "1,024", "4,096", "bytes a step", "of memset, 4,096"]
    learn = []
    for (setting, without), name in zip(LEARNERS.items(), NAMES.values(), strict=True):
        mine = {r["method"]: r for r in of(rows, "learner") if r["setting"] == setting}
        both = [mine[without], mine["metagrad"]]
        cells = [within(rates(r)) for r in both]
        learn.append([f"{name}, {both[0]['seeds']} x {both[0]['k']}", *cells, share(both[1]["matrix_products"])])
    columns = ["episodes/s while learning, seeds x K, one thread", "no designer", "MetaGrad", "of matrix products"]
    return f"{markdown(header, steps)}\n\n{markdown(columns, learn)}"


def stepping(rows):
    """Every table of steps."""
    header = [
        "table", "setting", "copies", "agents", "threads", "that ran", "env steps/s", "agent steps/s", "bytes",
        "of memset",
    ]  # fmt: skip
    return markdown(
        header,
        [
            [
                r["table"], r["setting"], f"{r['num_envs']:,}", r["n_agents"], r["threads"],
                round(statistics.median(r["ran"])), spread(rates(r)),
                number(r["n_agents"] * statistics.median(rates(r))), f"{r['bytes_per_env_step']:.0f}",
                share(r["memset"]),
            ]
            for r in rows if "memset" in r
        ],
    )  # fmt: skip


def learner(rows):
    """Iterations, meta-gradients and convolutions."""
    iterations = [
        [
            f"{r['game']}, {r['setting']}", r["method"], r["seeds"], r["k"], spread(rates(r)),
            share(r["matrix_products"]), share(r["simulator"]),
        ]
        for r in of(rows, "learner")
    ]  # fmt: skip
    header = ["game, preset", "method", "seeds", "K", "episodes/s", "of matrix products", "simulator's share"]
    gradients = ways(rows, "metagradient", "forward", "unrolled")
    return "\n\n".join((markdown(header, iterations), gradients, ways(rows, "convolution", "entries", "library")))


def ways(rows, table, one, other):
    """Two ways to the same: milliseconds, and the ratio block by block."""
    found = {}
    for r in of(rows, table):
        found.setdefault(r["setting"], {})[r["mode"]] = [1e3 * s for s in r["seconds"]]
    lines = [
        [setting, spread(f[one]), spread(f[other]), spread([b / a for a, b in zip(f[one], f[other], strict=True)])]
        for setting, f in found.items()
    ]
    return markdown([table, f"{one}, ms", f"{other}, ms", f"{other} over {one}"], lines)


def others(single):
    """Kernels, memory, cold start."""
    lines = []
    for r in single:
        said = [f"{k.replace('_', ' ')} {number(v)}" for k, v in r["said"].items() if isinstance(v, float)]
        mean, deviation = (f"{1e6 * r['stats'][k]:,.0f}" for k in ("mean", "stddev"))
        lines.append([r["test"].removeprefix("test_"), r["id"], mean, deviation, ", ".join(said)])
    return markdown(["benchmark", "setting", "mean µs", "deviation", "reports"], lines)


def peers(rows):
    """Other people's simulators beside ours."""
    lines = [
        [
            r["setting"], f"{r['units']:,}", r["n_agents"], spread(rates(r)), r["ours"],
            spread([r["ours_units"] / s for s in r["ours_seconds"]]), spread(ratios(r)),
        ]
        for r in of(rows, "peers")
    ]  # fmt: skip
    header = [
        "simulator",
        "copies",
        "agents",
        "env steps/s",
        "ours, nearest",
        "env steps/s",
        "agent steps/s: ours over it",
    ]
    return markdown(header, lines)


def ratios(row):
    """Agent steps/s of ours over another's, block by block."""
    agents = row["ours_agents"] * row["ours_units"] / (row["n_agents"] * row["units"])
    return [agents * theirs / ours for theirs, ours in zip(row["seconds"], row["ours_seconds"], strict=True)]


def processor(machine):
    """Name of the processor, as far as the machine gives one, with the numbers that tell its generation."""
    name, flags = machine.get("brand_raw", "unknown processor"), machine.get("flags", [])
    known = [f"family {machine['family']}, model {machine['model']}"] if "model" in machine else []
    known += [word for flag, word in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag in flags]
    return f"*{name} ({', '.join(known)}), {machine.get('count', '?')} cores.*"


def insert(path, name, text):
    """Put ``text`` between the markers of block ``name``."""
    begin, end = f"<!-- {name}: made by benchmarks/report.py -->", f"<!-- end of {name} -->"
    old = path.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{path} has no block {name}")
    block = f"{begin}\n{text}\n{end}"
    path.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, old, flags=re.S))


def plots(rows, out):
    """Cost of an environment step against copies, agents, map size and threads."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    for axis, table, key, label in (
        (axes[0], "copies", "num_envs", "copies"),
        (axes[1], "agents", "n_agents", "agents (64 economies, 40 x 40; 1,024 rooms)"),
        (axes[2], "maps", "size", "side of the map (GTB, 256 copies)"),
        (axes[3], "threads", "ran", "threads that ran"),
    ):
        lines = {}
        for r in of(rows, table):
            x = round(statistics.median(r["ran"])) if key == "ran" else r[key]
            times = [1e9 * s / r["units"] for s in r["seconds"]]
            lines.setdefault(r.get("series", r["setting"]), []).append((x, *middle_and_range(times)))
        for series, points in lines.items():
            x, middle, least, most = zip(*sorted(points), strict=True)
            bars = [
                [m - b for m, b in zip(middle, least, strict=True)],
                [b - m for m, b in zip(middle, most, strict=True)],
            ]
            axis.errorbar(x, middle, yerr=bars, fmt="o-", capsize=2, label=NAMES.get(series, series))
        axis.set(xlabel=label, ylabel="ns a step and copy", yscale="log")
        if key == "ran":
            axis.set_xticks(sorted({x for points in lines.values() for x, *_ in points}))
        else:
            axis.set_xscale("log")
        axis.legend(fontsize=7)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--print", action="store_true", help="show the tables, change nothing")
    options = parser.parse_args()
    rows, single = load(options.json)
    where = processor(json.loads(options.json.read_text())["machine_info"]["cpu"]) + "\n\n"
    performance = ROOT / "docs" / "performance.md"
    blocks = []
    if of(rows, "copies") and of(rows, "learner"):
        blocks.append((ROOT / "README.md", "speed", where + headline(rows)))
    if of(rows, "copies"):
        blocks.append((performance, "steps", where + stepping(rows)))
    if of(rows, "learner"):
        blocks.append((performance, "learner", where + learner(rows)))
    if single:
        blocks.append((performance, "others", others(single)))
    if of(rows, "peers"):
        blocks.append((performance, "peers", where + peers(rows)))
    for path, name, text in blocks:
        if options.print:
            print(f"{path.name}, {name}\n\n{text}\n")
        else:
            insert(path, name, text)
    if of(rows, "copies") and not options.print:
        plots(rows, ROOT / "docs" / "images" / "scaling.png")
    busy = [r for r in rows if "cores" in r and statistics.median(r["cores"]) < 0.95]
    if busy:
        print(f"the machine was not idle: {len(busy)} of {len(rows)} rows had less than a core", file=sys.stderr)


if __name__ == "__main__":
    main()
