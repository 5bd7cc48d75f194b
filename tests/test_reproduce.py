"""The list of runs and figures, the command that makes them, and runs whose seeds lie in several folders."""

import fcntl
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiments import small
from rich.console import Console

from metagrad.experiment import cli, run
from metagrad.experiment.metrics import read_metrics
from metagrad.experiment.registry import experiment
from metagrad.reports import figures, pooling, tables
from metagrad.reproduce import course, listed, pages
from metagrad.reproduce.claims import Outcome, judge, sides
from metagrad.reproduce.listed import Claim

ROOT = Path(__file__).parent.parent
QUIET = Console(quiet=True)
FULL, QUICK = listed.read(), listed.read(quick=True)
RUNS = [one for runs in FULL.runs.values() for one in runs.values()]
#: Figures that are made end to end here: those of each game, one that starts with agents, and one of a single run.
MADE = ("figure-1c", "figure-6", "figure-8", "one-step-4")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs and the figures of the command."""
    root = tmp_path_factory.mktemp("reproduced")
    assert cli.main(["reproduce", *MADE, "--quick", "--runs", str(root)]) == 0
    return root


# ---------------------------------------------------------------------- the list


def test_every_run_is_an_experiment_of_its_own(tmp_path):
    folders = [part.folder for one in RUNS for part in course.parts(one, tmp_path)]
    assert len(set(folders)) == len(folders) > 100
    seen = {}
    for one in RUNS:
        e = one.experiment
        assert (one.game, e.run.init_from) == (e.game, "" if one.source else None)
        assert seen.setdefault((e, one.source, one.seeds, one.a_folder), one.name) == one.name, "a run is there twice"
        assert one.first_seed >= 12340 or one.first_seed + one.seeds <= 10_000, "neither to report nor to tune"


def test_agents_of_every_seed_are_there_to_start_with(tmp_path):
    for one in (one for known in (FULL, QUICK) for one in known.runs["gtb"].values() if one.source):
        source = (FULL if one in RUNS else QUICK).runs["gtb"][one.source]
        for part in course.parts(one, tmp_path):
            assert any(set(part.seeds) <= set(there.seeds) for there in course.parts(source, tmp_path)), one.name


def test_claims_are_of_runs_that_a_figure_has():
    for figure in FULL.figures.values():
        for claim in figure.claims:
            assert sum(map(bool, (claim.test, claim.look, claim.untestable))) == 1
            left, _, right = sides(claim.test) if claim.test else ("", "", "")
            assert {label for label in (left.rpartition(":")[0], right.rpartition(":")[0]) if label} <= set(figure.runs)


def test_the_numbers_that_were_published_are_all_there():
    numbers = [*(f"1{letter}" for letter in "abcd"), *map(str, range(2, 15))]
    assert {f"figure-{number}" for number in numbers} <= set(FULL.figures)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (["figure-99"], "no figure is called 'figure-99'; there are: figure-1a, figure-1b"),
        (["gtb/nothing"], "no run of gtb is called 'nothing'; there are: free"),
        ([], "name a figure, a game or all"),
    ],
)
def test_a_bad_name_is_refused(targets, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *targets]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- the command


def test_a_figure_by_one_command(made):
    for name in MADE:
        place = made / "figures" / name
        assert (place / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert (place / "figure.pdf").read_bytes().startswith(b"%PDF")
        page, figure = (place / "page.md").read_text("utf-8"), QUICK.figures[name]
        assert f"metagrad reproduce {name} --quick" in page
        assert pages.QUICK in page
        assert all(f"| {claim.says} " in page for claim in figure.claims)
        assert "issing" not in page
        assert "otherwise" not in page
        assert all(f"| {label} " in (place / "table.md").read_text("utf-8") for label in figure.runs)


def test_the_list_says_what_is_there(made, capsys):
    assert cli.main(["reproduce", "--list", "--quick", "--runs", str(made)]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "4 of 4 folders there, 0.0 h to go" in lines["figure-6"]
    assert "1 of 3 folders there" in lines["figure-1a"]
    assert set(FULL.figures) <= set(lines)


def test_what_is_kept_of_runs_draws_the_figures_again(made, tmp_path):
    kept = made / "figures"
    options = ["--quick", "--draw", "--runs", str(kept), "--out", str(tmp_path)]
    assert cli.main(["reproduce", *MADE, *options]) == 0
    for name in MADE:
        for file in ("figure.png", "table.md", "page.md"):
            assert (tmp_path / name / file).read_bytes() == (kept / name / file).read_bytes()


def test_what_is_missing_is_named_and_not_trained(made, tmp_path, capsys):
    shutil.copytree(made / "cleanup", tmp_path / "cleanup")
    shutil.rmtree(tmp_path / "cleanup" / "central")
    (tmp_path / "cleanup" / "dual" / "results.json").unlink()
    assert cli.main(["reproduce", "figure-6", "--quick", "--draw", "--runs", str(tmp_path)]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "figures" / "figure-6" / "page.md").read_text("utf-8")
    for name in ("central", "dual"):
        assert f"missing: {tmp_path / 'cleanup' / name}" in out.replace("\n", "")
        assert f"- cleanup/{name}\n" in page
    assert "not testable yet: no run of central" in page
    assert "dual-rl" not in (tmp_path / "figures" / "figure-6" / "table.md").read_text("utf-8")
    assert not (tmp_path / "cleanup" / "central").exists()


def test_an_interrupted_run_goes_on_and_a_finished_one_stays(made, tmp_path):
    one = QUICK.runs["cleanup"]["metagrad"]
    (part,) = course.parts(one, tmp_path)
    e = one.experiment
    run.train(replace(e, run=replace(e.run, seeds=part.seeds)), part.folder, QUIET, until=4)
    assert part.begun
    assert not part.finished
    assert course.train(QUICK, [one], tmp_path, QUIET) == []
    here, there = (read_metrics(root / "cleanup" / "metagrad" / "metrics.csv") for root in (tmp_path, made))
    np.testing.assert_array_equal(here["welfare"], there["welfare"])
    before = (part.folder / "results.json").stat().st_mtime_ns
    course.train(QUICK, [one], tmp_path, QUIET)
    assert (part.folder / "results.json").stat().st_mtime_ns == before


def test_what_another_process_trains_is_passed_over(tmp_path):
    folder = tmp_path / "gtb" / "free"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        passed = course.train(QUICK, QUICK.chosen(["gtb/p2_us"])[1], tmp_path, QUIET)
    finally:
        os.close(handle)
    waiting = tmp_path / "gtb" / "p2_us"
    assert passed == [f"another process is training {folder}", f"{waiting} waits for {folder}, which is not finished"]
    assert not waiting.exists()


def test_what_another_process_began_meanwhile_goes_on(tmp_path, monkeypatch):
    (one,) = [QUICK.runs["cleanup"]["metagrad"]]
    train = course.runs_of.train

    def late(made, folder, console):
        train(made, folder, console, until=4)
        return train(made, folder, console)

    monkeypatch.setattr(course.runs_of, "train", late)
    assert course.train(QUICK, [one], tmp_path, QUIET) == []
    assert all(part.finished for part in course.parts(one, tmp_path))


def test_a_run_that_was_trained_otherwise_is_told(made, tmp_path):
    shutil.copytree(made / "escape_room", tmp_path / "escape_room")
    path = tmp_path / "escape_room" / "dual_3" / "config.json"
    path.write_text(path.read_text().replace('"episodes": 8', '"episodes": 9'))
    pages.write(QUICK.figures["figure-1c"], tmp_path, tmp_path / "out")
    page = (tmp_path / "out" / "figure-1c" / "page.md").read_text("utf-8")
    assert "- `dual_3`: run.episodes 9 in place of 8\n" in page


# ---------------------------------------------------------------------- seeds in several folders


def test_seeds_lie_in_several_folders(tmp_path):
    one = FULL.runs["gtb"]["long_us"]
    first, second = (12340, 12341, 12342), (12343, 12344, 12345)
    place = tmp_path / "gtb"
    assert course.parts(one, tmp_path) == [(place / "long_us", first), (place / "long_us_b", second)]
    folder = place / "long_us_12344"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    alone = {(folder, (12344,)), *((place / f"long_us_{seed}", (seed,)) for seed in (12343, 12345))}
    assert set(course.parts(one, tmp_path)) == {(place / "long_us", first), *alone}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A run on three seeds, and the same in two folders."""
    place, e = tmp_path_factory.mktemp("split"), small(experiment("escape-room", "er_2_1"), seeds=(7, 8, 9))
    for name, seeds in (("whole", (7, 8, 9)), ("part_b", (9,)), ("part", (7, 8))):
        run.train(replace(e, run=replace(e.run, seeds=seeds)), place / name, QUIET)
    return place


def test_runs_that_differ_in_seeds_alone_are_one(split, capsys):
    (pooled,) = tables.pooled(tables.read_finished([split / "part", split / "part_b"]))
    (whole,) = tables.read_finished([split / "whole"])
    assert pooled.name == "part + part_b"
    assert pooled.experiment == whole.experiment
    assert pooled.summary | {"wall_time": 0} == whole.summary | {"wall_time": 0}
    ((e, label, metrics),) = figures.read_runs([split / "part_b", split / "part"])
    assert label.endswith(" on er_2_1")
    assert set(e.run.seeds) == {7, 8, 9}
    other = read_metrics(split / "whole" / "metrics.csv")
    for name in ("episode", "r_id"):
        mine, theirs = ([x[name][x["seed"] == seed] for seed in (7, 8, 9)] for x in (metrics, other))
        np.testing.assert_array_equal(mine, theirs)
    assert cli.main(["compare", str(split / "part"), str(split / "part_b")]) == 0
    assert "| 7..9 " in capsys.readouterr().out


def test_other_runs_stay_apart(split, tmp_path):
    e = small(experiment("escape-room", "er_2_1"), seeds=(7,))
    other = replace(e, run=replace(e.run, seeds=(8,)))
    assert pooling.groups([e, other]) == [[0, 1]]
    assert pooling.groups([e, e]) == [[0], [1]]  # a seed in common
    assert pooling.groups([e, replace(other, run=replace(other.run, k=8))]) == [[0], [1]]
    starts = [replace(e, run=replace(e.run, init_from=str(split / "part")))]
    starts += [replace(other, run=replace(other.run, init_from=name)) for name in (str(split / "part_b"), "gone")]
    assert pooling.groups(starts[:2]) == [[0, 1]]
    assert pooling.groups([starts[0], starts[2]]) == [[0, 1]]  # they may have been the same agents
    assert pooling.groups([starts[0], other]) == [[0], [1]]
    run.train(replace(e, run=replace(e.run, k=2)), tmp_path / "k2", QUIET)
    assert pooling.groups([starts[1], replace(e, run=replace(e.run, init_from=str(tmp_path / "k2")))]) == [[0], [1]]


def test_seeds_in_words():
    assert pooling.ranges((5, 3, 4, 9, 11, 12)) == "3..5, 9, 11..12"


# ---------------------------------------------------------------------- claims


def scored(**columns):
    """A finished run with scores by seed."""
    n = len(next(iter(columns.values())))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    summary = {"seeds": list(range(n)), "test": rows, "solved": [True] * n, "diverged": [False] * n}
    return tables.Finished("run", None, summary)


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("a:x > b:x", "reproduced"),
        ("b:x < a:x", "reproduced"),
        ("a:x < b:x", "not reproduced: the other way"),
        ("a:x > a:y", "not reproduced: undecided"),
        ("a:x > 2.5", "reproduced"),
        ("a:x < 2.5", "not reproduced: the other way"),
        ("a:solved > 0.5", "reproduced"),
        ("a:diverged > 0.5", "not reproduced: the other way"),
        ("a:x > c:x", "not testable yet: no run of c"),
        ("one:x > b:x", "not testable yet: fewer than two seeds in common"),
    ],
)
def test_a_claim_is_judged_by_the_interval_of_the_difference(test, verdict):
    runs = {"a": scored(x=[3.0, 4.0, 5.0], y=[4.0, 4.0, 4.0]), "b": scored(x=[1.0, 2.0, 2.5]), "one": scored(x=[9.0])}
    assert judge(Claim("so it is", test), runs).verdict == verdict


def test_the_page_of_claims_is_of_the_results_in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    kept = Path("docs/results")
    assert pages.overview(FULL.chosen(["paper"])[0], kept) == (kept / "claims.md").read_text("utf-8")


def test_a_claim_without_a_test():
    assert judge(Claim("so it is", look="welfare"), {}) == Outcome("look at the figure (welfare)")
    assert judge(Claim("so it is", untestable="it is dark"), {}).verdict == "not testable: it is dark"


def test_the_measure_of_a_claim_is_that_of_compare():
    a, b = scored(x=[3.0, 5.0, 9.0]), scored(x=[1.0, 2.0, 2.5])
    measured = judge(Claim("so it is", "a:x > b:x"), {"a": a, "b": b}).measured
    assert measured == f"{tables.mean_and_interval(np.array([2.0, 3.0, 6.5]))}, 0..2"
