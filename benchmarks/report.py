"""Turn a benchmark run into the README's table, the long tables and the scaling plots.

pytest --benchmark-only --benchmark-json=benchmark.json
python benchmarks/report.py benchmark.json
"""

import argparse
import json
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
NAMES = {
    "er_5_2": "Escape Room ER(5,2)",
    "cleanup_paper_7x7": "Cleanup 7 x 7, 2 agents",
    "gtb_paper": "Gather-Trade-Build, 4 agents",
}


def load(path):
    """Benchmarks of a run as flat records: test, parameters, median seconds, and what they report."""
    records = []
    for b in json.loads(path.read_text())["benchmarks"]:
        test, _, parameters = b["name"].partition("[")
        record = {"test": test, "id": parameters.rstrip("]"), "seconds": b["stats"]["median"]}
        records.append({**record, **(b["params"] or {}), **b["extra_info"]})
    return records


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in lines)


def number(x):
    """Three digits, with M and k."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def headline(records):
    """The README's table."""
    rows = []
    for setting, name in NAMES.items():
        mine = {r["num_envs"]: r for r in records if r["test"] == "test_copies" and r.get("setting") == setting}
        cells = [number(mine[n]["env_steps_per_second"]) for n in (1, 1024, 4096)]
        rows.append(
            [name, *cells, f"{mine[4096]['bytes_per_env_step']:.0f}", f"{mine[4096]['fraction_of_memset']:.3f}"]
        )
    header = ["environment steps/s, one thread", "1 copy", "1,024", "4,096", "bytes a step", "of memset, 4,096"]
    return table(header, rows)


def stepping(records):
    """Every stepping benchmark."""
    rows = [
        [
            r["test"].removeprefix("test_"), r["id"], f"{r['num_envs']:,}", r["n_agents"], r["threads"],
            number(r["env_steps_per_second"]), number(r["agent_steps_per_second"]), f"{r['bytes_per_env_step']:.0f}",
            f"{r['fraction_of_memset']:.3f}",
        ]
        for r in records if "fraction_of_memset" in r
    ]  # fmt: skip
    header = ["table", "setting", "copies", "agents", "threads", "env steps/s", "agent steps/s", "bytes", "of memset"]
    return table(header, rows)


def others(records):
    """Kernels, learner, cold start."""
    rows = []
    for r in records:
        if "fraction_of_memset" in r:
            continue
        said = [f"{k.replace('_', ' ')} {number(v)}" for k, v in r.items() if isinstance(v, float) and k != "seconds"]
        rows.append([r["test"].removeprefix("test_"), r["id"], f"{r['seconds'] * 1e6:,.0f}", ", ".join(said)])
    return table(["benchmark", "setting", "median µs", "reports"], rows)


def insert(path, name, text):
    """Put ``text`` between the markers of block ``name``."""
    begin, end = f"<!-- {name}: made by benchmarks/report.py -->", f"<!-- end of {name} -->"
    old = path.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{path} has no block {name}")
    path.write_text(re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n{text}\n{end}", old, flags=re.S))


def plots(records, out):
    """Cost of an environment step against copies, agents, map size and threads."""
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    for axis, test, key, label in (
        (axes[0], "test_copies", "num_envs", "copies"),
        (axes[1], "test_agents_gtb", "n_agents", "agents (GTB, 40 x 40)"),
        (axes[2], "test_maps_gtb", "size", "side of the map (GTB)"),
        (axes[3], "test_threads", "threads", "threads (4,096 copies)"),
    ):
        chosen = [r for r in records if r["test"] == test]
        for setting in dict.fromkeys(r.get("setting", "gtb_paper") for r in chosen):
            mine = sorted(
                (r[key], 1e9 / r["env_steps_per_second"]) for r in chosen if r.get("setting", setting) == setting
            )
            axis.plot(*zip(*mine, strict=True), "o-", label=NAMES[setting])
        axis.set(xlabel=label, ylabel="ns a step and copy", yscale="log")
        if key != "threads":
            axis.set_xscale("log")
    axes[0].legend(fontsize=7)
    figure.savefig(out, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, help="what --benchmark-json wrote")
    path = parser.parse_args().json
    records = load(path)
    machine = json.loads(path.read_text())["machine_info"]["cpu"]
    where = f"*{machine.get('brand_raw', 'unknown processor')}, {machine.get('count', '?')} cores.*\n\n"
    insert(ROOT / "README.md", "speed", where + headline(records))
    performance = ROOT / "docs" / "performance.md"
    insert(performance, "steps", where + stepping(records))
    insert(performance, "others", others(records))
    plots(records, ROOT / "docs" / "images" / "scaling.png")


if __name__ == "__main__":
    main()
