"""Figures of runs: the panels of their game, on one sheet or each by itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from metagrad.experiment.checkpoint import replaced
from metagrad.experiment.folder import read_experiment
from metagrad.experiment.metrics import read_metrics
from metagrad.experiment.registry import label_of
from metagrad.reports import pooling
from metagrad.tasks.figures import Metrics, Panels, Runs, bars, line, said

#: How figures look in print: small type, and text that stays text in PDF and SVG.
STYLE: dict[str, Any] = {
    "font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.frameon": False, "legend.handlelength": 2.6, "axes.spines.top": False, "axes.spines.right": False,
    "hatch.linewidth": 0.4, "hatch.color": "white", "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip
#: Size of a panel in inches, letters that fit above and beside it, panels of a row at most, and resolution of pixels.
PANEL, WIDTH, HEIGHT, COLUMNS, DPI = (3.3, 2.5), 60, 34, 4, 160


def read_runs(folders: Sequence[Path]) -> Runs:
    """Runs as figures take them: experiment, label, columns of metrics.csv.

    Runs that differ in their seeds alone are one.
    """
    experiments, metrics = [read_experiment(f) for f in folders], [read_metrics(f / "metrics.csv") for f in folders]
    for folder, columns in zip(folders, metrics, strict=True):
        if not columns:
            raise ValueError(f"{folder} has no evaluation yet")
    if len({experiment.game for experiment in experiments}) > 1:
        raise ValueError("runs on different games do not fit into one figure")
    groups = pooling.groups(experiments)
    pooled = [pooling.joined([experiments[i] for i in group]) for group in groups]
    labels = [label_of(experiment) for experiment in pooled]
    if len(pooled) == 1 or len({experiment.preset for experiment in pooled}) > 1:
        labels = [f"{label} on {e.preset}" for label, e in zip(labels, pooled, strict=True)]
    if len(set(labels)) < len(labels):
        names = (folders[group[0]].resolve().name for group in groups)
        labels = [f"{label}, {name}" for label, name in zip(labels, names, strict=True)]
    stacked = [_stacked([metrics[i] for i in group]) for group in groups]
    return list(zip(pooled, labels, stacked, strict=True))


def _stacked(parts: Sequence[Metrics]) -> Metrics:
    """The rows of several; columns that all have."""
    return {n: np.concatenate([part[n] for part in parts]) for n in parts[0] if all(n in part for part in parts)}


def plot_runs(folders: Sequence[Path], out: Path, names: Sequence[str] = ()) -> Path:
    """Draw one run, or several of a game, into one figure; returns the file.

    Parameters
    ----------
    folders : sequence of Path
        Folders of the runs.
    out : Path
        The file, whose suffix says what it is: png, pdf, svg.
    names : sequence of str
        The panels to draw, all by default.

    Raises
    ------
    ValueError
        If a run has no evaluation yet, the runs do not go together, or a panel or the kind of file is unknown.
    """
    return write(read_runs(folders), out, names)


def write(runs: Runs, out: Path, names: Sequence[str] = ()) -> Path:
    """Draw runs as :func:`plot_runs` does, once they are read."""
    panels = runs[0][0].task.panels(runs)
    unknown = [name for name in names if name not in panels]
    if unknown:
        raise ValueError(f"there is no panel {unknown[0]!r}; there are: {', '.join(panels)}")
    with replaced(out) as temporary:
        draw({name: panels[name] for name in names or panels}, runs, temporary, out.suffix.removeprefix(".") or "png")
    return out


def draw(panels: Panels, runs: Runs, out: Path | IO[bytes], kind: str) -> None:
    """Draw panels on one sheet, with a legend of the runs above and what bands and bars are below."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-len(panels) // COLUMNS)
    columns = -(-len(panels) // rows)
    style: Any = {**STYLE, "svg.hashsalt": runs[0][0].game}
    with mpl.rc_context(style):
        figure = Figure((PANEL[0] * columns, PANEL[1] * rows + 0.4), layout="constrained")
        if kind not in (kinds := figure.canvas.get_supported_filetypes()):
            raise ValueError(f"there are no figures of kind {kind!r}; there are: {', '.join(sorted(kinds))}")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, panel in zip(axes, panels.values(), strict=False):
            panel(axis)
            axis.set_ylabel(textwrap.fill(axis.get_ylabel(), HEIGHT))
            if names := axis.get_legend_handles_labels()[1]:
                fit = max(1, WIDTH // (max(map(len, names)) + 9))
                axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=min(len(names), fit))
        for axis in axes[len(panels) :]:
            axis.remove()
        solid = any(axis.containers for axis in axes[: len(panels)])
        _legend(figure, [label for _, label, _ in runs], columns, solid)
        figure.supxlabel(textwrap.fill(said(runs), 60 * columns), fontsize=6, color="0.3")
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        figure.savefig(out, dpi=DPI, format=kind, metadata=metadata)


def _legend(figure: Any, labels: Sequence[str], columns: int, solid: bool) -> None:
    """The runs of the figure, above it: their lines, and their bars where there are any."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    lines = [Line2D([], [], **line(i)) for i in range(len(labels))]
    handles = [(Patch(**bars(i)), one) for i, one in enumerate(lines)] if solid else lines
    texts = [textwrap.fill(label, 56) for label in labels]
    both = {tuple: HandlerTuple(ndivide=None)}
    figure.legend(handles, texts, loc="outside upper left", ncols=min(columns, len(labels)), handler_map=both)
