"""What is made of runs: intervals and differences over seeds, figures for print, and pages that can be mailed."""

import itertools
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from experiments import small
from matplotlib.figure import Figure
from rich.console import Console

from metagrad.experiment import cli, run
from metagrad.experiment.config import imported
from metagrad.experiment.registry import experiment
from metagrad.reports import figures as sheet
from metagrad.reports import report, tables
from metagrad.reports.figures import read_runs
from metagrad.tasks import figures

QUIET = Console(quiet=True)
SHORT = {"k": 2, "episodes": 12, "seeds": (5, 6), "eval_period": 4, "checkpoint_period": 12, "test_episodes": 3}
MADE = {
    "room": small(experiment("escape-room", "er_2_1")),
    "silent": small(experiment("escape-room", "er_2_1", "none")),
    "cleanup": small(experiment("cleanup"), **SHORT),
    "gtb": small(experiment("gtb"), **SHORT),
    "us": small(experiment("gtb", method="us-federal"), **SHORT),
    "own": imported("own:experiment"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Finished runs by name."""
    place = tmp_path_factory.mktemp("runs")

    def get(name):
        if not (place / name).exists():
            run.train(MADE[name], place / name, QUIET)
        return place / name

    return get


def finished(name, scores):
    """A finished run with scores by seed."""
    made = replace(MADE["room"], run=replace(MADE["room"].run, seeds=tuple(scores), target=None))
    n = len(scores)
    summary = {
        "fields": ["r_id"], "seeds": list(scores), "r_id": list(scores.values()), "diverged": [False] * n,
        "target": None, "wall_time": 1.0, "solved": [None] * n, "first_solved_episode": [None] * n,
    }  # fmt: skip
    return tables.Finished(name, made, summary)


# ---------------------------------------------------------------------- numbers over seeds


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert tables.interquartile_mean(np.array([9, 1, 2, 3, 4, -50, 60, 5.0])) == (2 + 3 + 4 + 5) / 4
    assert tables.interquartile_mean(np.array([1, 5, 30.0])) == 12  # too few to leave any out


def test_the_interval_is_that_of_resampled_seeds():
    values = np.random.default_rng(3).gamma(2.0, size=8)
    low, high = tables.interval(values)
    rng = np.random.default_rng(5)
    means = [np.sort(rng.choice(values, 8))[2:6].mean() for _ in range(20_000)]
    np.testing.assert_allclose((low, high), np.quantile(means, [0.025, 0.975]), atol=0.06)
    assert (low, high) == tables.interval(values)  # the same at every call
    assert tables.interval(np.full(4, 2.5)) == (2.5, 2.5)


def test_differences_go_by_seed():
    a = finished("a", {1: 1.0, 2: 10.0, 3: 5.0})
    b = finished("b", {3: 5.5, 2: 9.0, 1: 3.0, 4: 100.0})  # in another order, and one seed more
    c, d = finished("c", {7: 1.0}), finished("d", {7: 4.0})  # on other seeds
    header, rows = tables.differences([a, b, c, d])
    assert header[0] == "run"
    assert [row[:2] for row in rows] == [["b", "a"], ["d", "c"]]
    assert rows[0][-2:] == ["2 of 3", "+0.50, -1.00, +2.00"]
    assert rows[0][2] == "0.50 ± 0.87"
    assert rows[1][2:] == ["3.00", "", "1 of 1", "+3.00"]
    assert tables.differences([a, c]).rows == []


def test_compare_prints_two_tables(folder, capsys):
    assert cli.main(["compare", str(folder("silent")), str(folder("room"))]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    first, second = lines[0], lines[5]
    assert "| r id [95 %] |" in re.sub(" +", " ", first)
    assert lines[4] == f"{tables.MEANING}."
    assert "seeds above" in second
    (low, high), mean = tables.interval(scores := column(folder("room"))), tables.interquartile_mean(scores)
    assert f"| {mean:.2f} [{low:.2f}, {high:.2f}] |" in re.sub(" +", " ", lines[3])
    change = column(folder("room")) - column(folder("silent"))
    assert ", ".join(f"{v:+.2f}" for v in change) in lines[7]


def column(path):
    (one,) = tables.read_finished([path])
    return np.array(list(one.score.values()))


def test_runs_of_one_name_are_told_apart(folder, tmp_path):
    shutil.copytree(folder("room"), tmp_path / "room")
    names = [one.name for one in tables.read_finished([folder("room"), tmp_path / "room"])]
    assert names == [str(folder("room")), str(tmp_path / "room")]


# ---------------------------------------------------------------------- figures


@pytest.mark.parametrize("names", [["room"], ["room", "silent"], ["cleanup"], ["gtb", "us"], ["own"]])
def test_every_panel_names_its_axes(names, folder):
    runs = read_runs([folder(name) for name in names])
    panels = runs[0][0].task.panels(runs)
    for name, panel in panels.items():
        axis = Figure().subplots()
        panel(axis)
        assert axis.has_data(), name
        assert axis.get_xlabel(), name
        assert axis.get_ylabel(), name
        labels = axis.get_legend_handles_labels()[1]
        assert len(set(labels)) == len(labels), name


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_what_their_suffix_says(suffix, start, folder, tmp_path):
    out, again = tmp_path / f"x.{suffix}", tmp_path / f"y.{suffix}"
    for path in (out, again):
        assert cli.main(["plot", str(folder("gtb")), "--panels", "rates", "coin", "--out", str(path)]) == 0
    data = out.read_bytes()
    assert data.startswith(start)
    assert data == again.read_bytes()
    if suffix == "svg":  # text is text, and says what bands and bars are
        assert ">marginal tax rate</text>" in data.decode()
        assert "2 seeds (thin lines); bands and error bars: mean ± standard error" in data.decode()
    if suffix == "pdf":
        assert b"/Subtype /Type3" not in data  # outlines that printers refuse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--panels", "nothing"], "there is no panel 'nothing'; there are: r_id, environment_return"),
        (["--out", "x.doc"], "there are no figures of kind 'doc'; there are: "),
    ],
)
def test_figures_that_cannot_be(options, message, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", str(folder("room")), *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["room", "silent"], ["cleanup"], ["gtb"], ["gtb", "us"], ["own"]])
def test_panels_do_not_run_into_each_other(names, folder, tmp_path, monkeypatch):
    sheets, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: sheets.append(self) or save(self, *a, **k))
    long = [(made, f"a designer of many options, the {i}th of all that were tried" * 3, m)
            for i, (made, _, m) in enumerate(read_runs([folder(name) for name in names]))]  # fmt: skip
    sheet.write(long, tmp_path / "x.png")
    (drawn,) = sheets
    boxes = [axis.get_tightbbox().shrunk(0.98, 0.98) for axis in drawn.axes]
    boxes += [one.get_window_extent().shrunk(0.98, 0.98) for one in drawn.legends]
    assert [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)] == []


def test_bars_are_in_the_legend_as_they_are_drawn(folder, tmp_path, monkeypatch):
    legends, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: legends.extend(self.legends) or save(self, *a, **k))
    runs = read_runs([folder("gtb"), folder("us")])
    for name, solid in (("coin", 2), ("welfare", 0)):
        sheet.write(runs, tmp_path / "x.png", [name])
        assert [patch.get_hatch() for patch in legends.pop().get_patches()] == ["", "////"][:solid]


@pytest.mark.parametrize(("n", "named"), [(1, "1"), (7, "1 2 3 4 5 6 7"), (20, "2 4 6 8 10 12 14 16 18 20")])
def test_numbered_ticks(n, named):
    axis = Figure().subplots()
    axis.bar(np.arange(n), np.ones(n))
    figures.number_ticks(axis, n)
    assert [tick.get_text() for tick in axis.get_xticklabels()] == named.split()
    assert [tick + 1 for tick in axis.get_xticks()] == [int(number) for number in named.split()]


def test_a_curve_is_mean_and_standard_error():
    axis, values = Figure().subplots(), np.random.default_rng(0).normal(size=(3, 1000)).cumsum(1)
    figures.band(axis, np.arange(1000.0), values, 0)
    x, y = axis.lines[0].get_data()
    assert len(x) == figures.POINTS
    mean = values.reshape(3, figures.POINTS, -1).mean(2)
    np.testing.assert_allclose(y, mean.mean(0))
    edge = axis.collections[0].get_paths()[0].vertices
    error = mean.std(0, ddof=1) / 3**0.5
    assert edge[:, 1].max() == pytest.approx((mean.mean(0) + error).max())


def test_rates_are_steps_over_income(folder):
    runs = read_runs([folder("us")])
    axis = Figure().subplots()
    runs[0][0].task.panels(runs)["rates"](axis)
    (line,) = axis.lines
    income, rate = line.get_data()
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(income[:4], [0, 9.7, 39.475, 84.2])
    np.testing.assert_allclose(rate[:4], [0.1, 0.12, 0.22, 0.24])


def test_runs_look_different_in_grey():
    looks = [(str(figures.line(i)["linestyle"]), figures.colour(i)) for i in range(14)]
    assert len(set(looks)) == 14
    assert len({style for style, _ in looks[:5]}) == 5


# ---------------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a page refers to, and its names."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.open = Counter(), Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value] += 1
            if name in ("src", "href", "xlink:href", "data"):
                self.links.append(value)


@pytest.mark.parametrize("names", [["room"], ["own"], ["silent", "room", "cleanup", "gtb", "us"]])
def test_a_report_stands_alone(names, folder, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert cli.main(["report", *(str(folder(name)) for name in names), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    text = out.read_text("utf-8")
    page = Page(text)
    assert len(text) < 2_000_000
    assert not page.tags["script"]
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert max(page.ids.values()) == 1
    assert page.tags["svg"] == len({MADE[name].game for name in names})
    for one in tables.read_finished([folder(name) for name in names]):
        assert f"<h3>{one.name}</h3>" in text
        assert all(f"<td>{score:.3f}</td>" in text for score in one.score.values())
    assert f"metagrad report {folder(names[0])}" in text


def test_a_report_shows_in_a_browser(folder, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no browser")
    out = report.write_report([folder("room"), folder("silent"), folder("gtb")], tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [browser, *options, f"--screenshot={tmp_path / 'page.png'}", out.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_names_are_text(folder, tmp_path):
    path = tmp_path / "<b>&"
    made = replace(MADE["room"], preset="<script>alert(1)</script>")
    run.train(made, path, QUIET)
    text = report.write_report([path], tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_without_evaluations_there_is_no_figure(tmp_path):
    made = replace(MADE["room"], run=replace(MADE["room"].run, eval_period=1000))
    run.train(made, tmp_path / "run", QUIET)
    text = report.write_report([tmp_path / "run"], tmp_path / "report.html").read_text("utf-8")
    assert "There is no figure" in text


def test_an_unfinished_run_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder("room"), tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    assert cli.main(["report", str(folder("room")), str(tmp_path / "run"), "--out", str(tmp_path / "x.html")]) == 2
    assert "has no results yet" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        "escape-room --preset er_2_1 --seeds 3", "escape-room --task.n-agents 7 --task.randomize --k 4",
        "gtb --method fixed --task.fixed-rates 0.1 0.2 0.3 0.4 0.4 0.4 0.4 --agents.optimiser.lr 0.01 --first-seed 7",
        "cleanup --no-pipeline --designer.incentive.scale 3 --target None --task.steps 7",
        "gtb --agents.optimiser.lr 0.001:0.0001:20000 --agents.entropy.over 7",
    ],
)  # fmt: skip
def test_the_command_line_of_a_run_makes_it_again(options):
    _, made = cli.parse_train(options.split())
    command = report.command_of(made)
    if "n-agents" in options:  # its preset is a name that was made up
        assert command is None
        return
    assert cli.parse_train(command.split()[2:])[1] == made


def test_what_python_alone_makes_has_no_command_line():
    made = MADE["room"]
    assert report.command_of(replace(made, run=replace(made.run, seeds=(5, 9)))) is None
    assert report.command_of(replace(made, designer=MADE["silent"].designer)) is None


def test_what_differs_is_told_part_by_part(folder):
    runs = tables.read_finished([folder("room"), folder("silent")])
    rows = {row[0]: row[1:] for row in report.changes(runs).rows}
    assert rows == {"method": ["metagrad", "none"], "designer": ["MetaGradient", "NoDesigner"]}
    rows = {row[0]: row[1:] for row in report.changes(runs[:1]).rows}
    assert rows["run.seeds"][1] == "5 6"
    assert "designer" not in rows
