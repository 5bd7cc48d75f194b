"""Figures of the list: drawn, with their tables, beside what the paper claims."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from metagrad.experiment.config import dump, to_dict
from metagrad.experiment.folder import read_experiment
from metagrad.experiment.metrics import read_metrics
from metagrad.reports import figures, tables
from metagrad.reports.report import differing
from metagrad.reports.tables import Cells, Finished
from metagrad.reproduce.claims import judge, sides
from metagrad.reproduce.course import Part, parts
from metagrad.reproduce.listed import Claim, Figure, Run

#: What heads a small version, and how claims are judged.
QUICK = "**A small version of some episodes: it shows that the command works, and nothing else.**"
JUDGED = (
    "The scores of the test at the end are subtracted seed by seed. A claim is reproduced if the 95 % interval of the "
    "interquartile mean of these differences lies on the claimed side of 0, and not reproduced otherwise: undecided if "
    "the interval holds 0. With three seeds the interval is their range, and holds the true value in 74 % of studies. "
    "Claims about the course of training are left to the eye. Agents go by rank from 0, the least skilled, brackets "
    "from 0, the lowest."
)


def write(figure: Figure, root: Path, out: Path, quick: bool = False) -> list[Path]:
    """Draw a figure of the runs that are there, into a folder of ``out`` by its name.

    Returns the folders that are missing or not finished. Beside the figure there are the tables of ``metagrad compare``
    and a page with the claims and their outcomes; configuration, metrics and results of the runs go to the game's
    folder in ``out``, where ``--runs`` finds them.
    """
    place = out / figure.name
    place.mkdir(parents=True, exist_ok=True)
    pieces = {label: parts(run, root) for label, run in figure.runs.items()}
    drawn = [run for label, found in pieces.items() for run in _labelled(label, found)]
    for kind in ("png", "pdf") if drawn else ():
        figures.write(drawn, place / f"figure.{kind}", figure.panels)
    finished = _finished(pieces)
    if finished:
        (place / "table.md").write_text(tables.compared(finished) + "\n", "utf-8")
    missing = [part.folder for found in pieces.values() for part in found if not part.finished]
    notes = [note for label, run in figure.runs.items() for part in pieces[label] for note in _otherwise(run, part)]
    named = [str(folder.relative_to(root)) for folder in missing]
    (place / "page.md").write_text(_page(figure, finished, bool(drawn), named, notes, quick), "utf-8")
    for label, run in figure.runs.items():
        for part in (part for part in pieces[label] if part.begun):
            _keep(part, out / run.folder)
    return missing


def overview(listed: Sequence[Figure], root: Path, quick: bool = False) -> str:
    """A page, in Markdown, of all claims of some figures with their outcomes."""
    rows = []
    for figure in listed:
        finished = _finished({label: parts(run, root) for label, run in figure.runs.items()})
        rows += [[f"[{figure.name}]({figure.name}/page.md)", *row] for row in _outcomes(figure.claims, finished)]
    table = tables.markdown(Cells(["figure", *_HEADER], rows))
    return "\n\n".join(["# What the paper claims, and what came out", *[QUICK] * quick, JUDGED, table]) + "\n"


# ---------------------------------------------------------------------- runs that are there


def _labelled(label: str, found: Sequence[Part]) -> figures.Runs:
    """What of a run there is to draw, by its label: finished folders, or those that were begun if none is.

    Folders that were trained otherwise stay apart.
    """
    begun = [part.folder for part in found if part.begun and read_metrics(part.folder / "metrics.csv")]
    finished = [part.folder for part in found if part.finished]
    runs = figures.read_runs([f for f in begun if f in finished] or begun) if begun else []
    return [(experiment, _numbered(label, i), metrics) for i, (experiment, _, metrics) in enumerate(runs)]


def _finished(pieces: dict[str, list[Part]]) -> list[Finished]:
    """Finished runs, named by their labels."""
    there = {label: [part.folder for part in found if part.finished] for label, found in pieces.items()}
    pooled = {label: tables.pooled(tables.read_finished(folders)) for label, folders in there.items()}
    return [run._replace(name=_numbered(label, i)) for label, runs in pooled.items() for i, run in enumerate(runs)]


def _numbered(label: str, i: int) -> str:
    return f"{label} ({i + 1})" if i else label


def _otherwise(run: Run, part: Part) -> list[str]:
    """What of a folder is other than in the list."""
    if not part.begun:
        return []
    found, expected = read_experiment(part.folder), run.experiment
    expected = replace(expected, run=replace(expected.run, seeds=found.run.seeds, init_from=found.run.init_from))
    rows = differing([to_dict(found), to_dict(expected)])
    return [f"`{part.folder.name}`: {name} {mine} in place of {theirs}" for name, mine, theirs in rows]


def _keep(part: Part, place: Path) -> None:
    """Copy what outlives a run; the agents that it started with are named by their copies."""
    target = place / part.folder.name
    if target.resolve() == part.folder.resolve():
        return
    target.mkdir(parents=True, exist_ok=True)
    made = read_experiment(part.folder)
    if made.run.init_from:
        source = place / Path(made.run.init_from).name
        made = replace(made, run=replace(made.run, init_from=str(source)))
    (target / "config.json").write_text(dump(made), "utf-8")
    for name in ("results.json", "metrics.csv"):
        if (part.folder / name).is_file():
            shutil.copyfile(part.folder / name, target / name)


# ---------------------------------------------------------------------- the page

_HEADER = ["the paper", "outcome", "what is compared", "difference [95 %], seeds"]


def _outcomes(claims: Sequence[Claim], finished: Sequence[Finished]) -> list[list[str]]:
    """Rows on claims."""
    runs = {run.name: run for run in finished}
    rows = []
    for claim in claims:
        outcome, (left, sign, right) = judge(claim, runs), sides(claim.test) if claim.test else ("", "", "")
        rows.append([claim.says, outcome.verdict, f"{left} {sign} {right}".strip(), outcome.measured])
    return rows


def _page(
    figure: Figure, finished: Sequence[Finished], drawn: bool, missing: Sequence[str], notes: Sequence[str], quick: bool
) -> str:
    """The page of a figure, in Markdown."""
    command = f"metagrad reproduce {figure.name}{' --quick' * quick}"
    text = [f"# {figure.title}", f"Made by `{command}`.", *[QUICK] * quick]
    if figure.claims:
        text.append(tables.markdown(Cells(_HEADER, _outcomes(figure.claims, finished))))
    if drawn:
        text.append(f"![{figure.title}](figure.png)")
    if finished:
        text.append("[Scores and differences](table.md), with the meaning of the intervals.")
    for title, lines in (("Missing or not finished", missing), ("Trained otherwise than the list says", notes)):
        if lines:
            text.append("\n".join([f"{title}:", "", *(f"- {line}" for line in lines)]))
    return "\n\n".join(text) + "\n"
