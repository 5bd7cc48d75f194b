"""What the documentation shows works: blocks of Python run, command lines are understood, links lead somewhere."""

import argparse
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from metagrad.experiment.cli import parse_train, reproduce_parser, split_course, sweep_parser
from metagrad.experiment.metrics import read_metrics
from metagrad.reports import tables
from metagrad.reproduce import course, listed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("spec/*.md"), *DOCS.glob("api/*.md")])
COMMANDS = ("train", "sweep", "evaluate", "plot", "compare", "report", "export", "replay", "reproduce")


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """Fenced blocks of a page, each with the number of its first line."""
    text = page.read_text()
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
        yield text.count("\n", 0, found.start(1)) + 1, found.group(1)


def command_lines():
    """Every line of a shell block that calls the command line, with the folder that the block has changed to."""
    for page in PAGES:
        for first, block in blocks(page, "sh"):
            folder = ROOT
            for i, line in enumerate(block.replace("\\\n", " ").splitlines()):
                words = shlex.split(line, comments=True)
                if words[:1] == ["cd"]:
                    folder = folder / words[1]
                elif words[:1] == ["metagrad"]:
                    yield pytest.param(words[1:], folder, id=f"{name(page)}:{first + i}: {' '.join(words[1:4])}")


@pytest.mark.parametrize("page", [p for p in PAGES if list(blocks(p, "python"))], ids=name)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")
    threads, namespace = torch.get_num_threads(), {"__name__": "page"}
    torch.set_num_threads(1)
    try:
        for line, block in blocks(page, "python"):
            exec(compile("\n" * (line - 1) + block, name(page), "exec"), namespace)
        if page.name == "README.md":  # the ten lines train a designer, close to the optimum of 28
            assert (namespace["trainer"].evaluate(episodes=100)["welfare"] > 26.5).all()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("words", "folder"), list(command_lines()))
def test_a_command_line_is_understood(words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    command, *rest = words
    if command == "--version":
        return
    assert command in COMMANDS
    if command == "train" and "--help" not in rest and "--resume" not in rest:
        parse_train(split_course(rest)[0])
    elif command == "sweep":
        options = sweep_parser().parse_args(rest)
        assert options.resume or options.study.is_file()
    elif command == "reproduce":
        listed.read().chosen(reproduce_parser().parse_args(rest).targets)
    elif command != "train":
        parser = argparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("runs", nargs="+" if command in ("plot", "compare", "report") else 1)
        known = {
            "evaluate": ("--episodes",), "plot": ("--out", "--panels"), "compare": (), "report": ("--out",),
            "replay": ("--seed", "--out"), "export": ("--episodes", "--seed", "--out", "--format"),
        }  # fmt: skip
        for flag in known[command]:
            parser.add_argument(flag, nargs="+" if flag == "--panels" else None)
        parser.parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img[^>]*src="([^"]+)"', text)
    for target in targets:
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = Path(os.path.normpath(page.parent / path)) if path else page
        assert linked.exists(), f"{name(page)} links to {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{name(page)} links to {target}"


# ---------------------------------------------------------------------- tables of results


def tables_of_runs(page):
    """Tables of runs that are called GAME/RUN: their headers, and cells of their rows by column."""
    for block in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.M):
        header, _, *rows = ([cell.strip(" *") for cell in line.strip("|\n").split("|")] for line in block.splitlines())
        found = [dict(zip(header, row, strict=True)) for row in rows]
        if any("/" in row.get("run", "") for row in found):
            yield header, found


def kept(target):
    """The finished run that is called GAME/RUN, of what the repository keeps, and its folders."""
    game, name = target.strip("`").split("/")
    folders = [part.folder for part in course.parts(listed.read().runs[game][name], DOCS / "results") if part.finished]
    (found,) = tables.pooled(tables.read_finished(folders))
    return found, folders


#: The lowest share of the highest before, of welfare as means of so many evaluations, and where it is.
fall = runpy.run_path(str(ROOT / "benchmarks" / "falls.py"))["fall"]


def lowest_shares(folders):
    """By seed the lowest share of the highest welfare before, as means of three evaluations."""
    for metrics in (read_metrics(folder / "metrics.csv") for folder in folders):
        for seed in np.unique(metrics["seed"]):
            own = {name: column[metrics["seed"] == seed] for name, column in metrics.items()}
            yield f"{fall(own, 3)[0]:.2f}"


#: What columns are called by `metagrad compare`, where the page has other words.
COMPARED = {"score": "r id", "paid": "incentives paid", "episodes an update": "K"}


TABLES = [table for page in sorted(DOCS.glob("*results.md")) for table in tables_of_runs(page)]


@pytest.mark.parametrize(("header", "rows"), [table for table in TABLES if "seed" not in table[0]])
def test_a_table_says_what_compare_says_of_its_runs(header, rows):
    first, _ = kept(rows[0]["run"])
    for row in rows:
        run, folders = kept(row["run"])
        names, (cells,) = tables.comparison([run])
        compared = dict(zip(names, cells, strict=True))
        said = {COMPARED.get(column, column): cell for column, cell in row.items()}
        shared = said.keys() & compared.keys() - {"run", "method"}
        assert len(shared) > 0
        for column in shared:
            assert said[column].split(", as")[0] == compared[column], row
        if "seeds solved" in row:
            assert compared["solved"].startswith(f"{row['seeds solved']} above"), row
        if row.get("seeds above"):
            less = next((column for column in header if column.endswith(" less that")), None)
            ((*_, difference, interval, above, _),) = tables.differences([run, first] if less else [first, run]).rows
            shown = row[less or "above US federal"].lstrip("+")
            assert [shown, row[f"{'interquartile mean ' if less else ''}[95 %]"]] == [difference, interval], row
            assert row["seeds above"] == above, row
        if "lowest share by seed" in row:
            assert row["lowest share by seed"].split() == list(lowest_shares(folders)), row


def course_of_a_seed(target, seed, header):
    """By column of a table: welfare after so many episodes, a mean of five evaluations, and at the end of the run."""
    run, folders = kept(target)
    every = [read_metrics(folder / "metrics.csv") for folder in folders]
    own = {name: np.concatenate([m[name][m["seed"] == seed] for m in every]) for name in every[0]}
    for column in header:
        if re.fullmatch(r"[\d,]+", column):
            yield column, f"{own['welfare'][own['episode'] <= int(column.replace(',', ''))][-5:].mean():.1f}"
    yield "lowest share", f"{fall(own, 3)[0]:.2f}"
    yield "rates 1 to 3", "{" + ", ".join(f"{own[f'rate_{i}'][-1]:.2f}" for i in range(3)) + "}"
    yield "test", f"{run.score[seed]:.1f}"


@pytest.mark.parametrize(("header", "rows"), [table for table in TABLES if "seed" in table[0]])
def test_a_table_of_seeds_says_what_their_metrics_say(header, rows):
    for row in rows:
        found = dict(course_of_a_seed(row["run"], int(row["seed"]), header))
        assert {column: row[column] for column in found} == found
