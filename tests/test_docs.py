"""What the documentation shows works: blocks of Python run, command lines are understood, links lead somewhere."""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from metagrad.experiment.cli import parse_train, reproduce_parser, split_course, sweep_parser
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
    """Tables that name runs: their headers, and cells of their rows by column."""
    for block in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.M):
        header, _, *rows = ([cell.strip(" *") for cell in line.strip("|\n").split("|")] for line in block.splitlines())
        if "run" in header:
            yield header, [dict(zip(header, row, strict=True)) for row in rows]


def kept(target):
    """The finished run that is called GAME/RUN, of what the repository keeps."""
    game, name = target.strip("`").split("/")
    folders = [part.folder for part in course.parts(listed.read().runs[game][name], DOCS / "results") if part.finished]
    (found,) = tables.pooled(tables.read_finished(folders))
    return found


def says(cell, *values):
    """Whether a cell says some numbers, to the digits that it gives."""
    numbers = re.findall(r"[+-]?\d[\d,]*(?:\.\d+)?", cell)
    digits = [len(number.partition(".")[2]) for number in numbers]
    given = [float(number.replace(",", "")) for number in numbers]
    return given == [round(float(value), n) for value, n in zip(values, digits, strict=True)]


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5


@pytest.mark.parametrize(("header", "rows"), [*tables_of_runs(DOCS / "results.md")])
def test_numbers_of_a_table_follow_from_its_runs(header, rows):
    first, checked = kept(rows[0]["run"]), 0
    for row in rows:
        run = kept(row["run"])
        summary, options = run.summary, run.experiment.run
        scores = {name: np.array(summary[name]) for name in summary["fields"]}
        cells = {
            "score": "r_id", "welfare": "welfare", "environment return": "environment_return", "paid": "incentives_paid"
        }  # fmt: skip
        for column, name in cells.items():
            if column in row:
                values = scores[name]
                assert says(row[column], *(mean_and_error(values) if "±" in row[column] else [values.mean()])), row
                checked += 1
        if "seeds solved" in row:
            assert row["seeds solved"] == f"{sum(summary['solved'])} of {len(summary['seeds'])}", row
        if "episodes" in row:
            assert says(row["episodes"], options.episodes), row
            assert row["episodes an update"].split(",")[0] == str(options.k), row
        if row.get("seeds above"):
            theirs = run.score
            values = np.array([mine - theirs[seed] for seed, mine in first.score.items() if seed in theirs])
            less = next(name for name in header if name.endswith(" less that"))
            assert says(row[less], *mean_and_error(values)), row
            interval = row["interquartile mean [95 %]"]
            assert says(interval, tables.interquartile_mean(values), *tables.interval(values)), row
            assert row["seeds above"] == f"{(values > 0).sum()} of {len(values)}", row
    assert checked >= len(rows)
