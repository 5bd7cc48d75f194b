"""Sweeps: study files, Optuna's journal, stops and kills; tests/sweeps.py has the long form."""

import json
import random
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import sweeps
from experiments import shrunk
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from metagrad.experiment import run
from metagrad.experiment.config import ConfigError, dump
from metagrad.experiment.registry import experiment
from metagrad.sweeps.engine import Work, train
from metagrad.sweeps.journal import Trials
from metagrad.sweeps.study import Halving, Range, Seeds, Study, read_study, score_of

QUIET = Console(quiet=True)
GOOD = """
game = "escape-room"
preset = "er_2_1"
sampler = "grid"
search_seeds = {first = 1000, count = 2}
report_seeds = {first = 12340, count = 2}

[options]
episodes = 320
eval_period = 32

[space]
agents.optimiser.lr = [1e-3, 3e-3]
"designer.optimiser.lr" = [1e-3, 1e-2]

[halving]
first = 80
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("first = 12340", "first = 1001", "report_seeds and search_seeds must differ, and 1001 is one of both"),
        ("preset", "presett", "unknown option 'presett'"),
        ("er_2_1", "er_0", "no preset of escape-room is called 'er_0'"),
        ("count = 2", "n = 2", "unknown option 'search_seeds.n'"),
        (", count = 2", "", "search_seeds.count is missing"),
        ("episodes = 320", "episode = 320", "Unrecognized options: --episode"),
        ("episodes = 320", 'episodes = "x"', "--episodes"),
        ("1e-3, 3e-3", "1e-3, -3.0", "space.agents.optimiser.lr: --agents.optimiser.lr must be a number of at least 0"),
        ("agents.optimiser", "agents.optimizer", "space.agents.optimizer.lr: Unrecognized options"),
        ("[1e-3, 3e-3]", "{low = 1.0, high = 0.1}", "space.agents.optimiser.lr: low must be below high"),
        ("[1e-3, 3e-3]", "{low = 0.1, high = 1.0}", "space.agents.optimiser.lr must be a list of choices for a grid"),
        ("[1e-3, 3e-3]", "[]", "space.agents.optimiser.lr must be a list of choices or a table"),
        ('"grid"', '"tpe"', "trials must be given for sampler tpe"),
        ('"grid"', '"grid"\ntrials = 5', "trials must be left out of a grid, or be its 4 points, got 5"),
        ('"grid"', '"best"', "sampler must be one of"),
        ("first = 80", "first = 8", "halving.first must be at least eval_period"),
        ("first = 80", "first = 80\nfactor = 1", "halving.factor must be a number of at least 2"),
        ("[halving]", "halving", "at line"),
    ],
)
def test_a_bad_file_is_refused_by_name(old, new, reason, tmp_path):
    path = tmp_path / "study.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        read_study(path)
    assert str(path) in str(refused.value)
    assert reason in str(refused.value)


def test_a_good_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(GOOD)
    study = read_study(path)
    assert study.space == {"agents.optimiser.lr": (1e-3, 3e-3), "designer.optimiser.lr": (1e-3, 1e-2)}
    assert study.n_trials == 4
    assert study.rungs(320) == [80, 160]
    made = study.experiment({"designer.optimiser.lr": 0.5}, study.report_seeds)
    assert (made.run.seeds, made.run.episodes, made.designer.optimiser.lr) == ((12340, 12341), 320, 0.5)
    assert score_of(study) == "r_id"
    with pytest.raises(ConfigError, match=r"score must be one of r_id, .*'luck'"):
        score_of(replace(study, score="luck"))


@pytest.mark.parametrize("path", sorted((sweeps.ROOT / "benchmarks" / "studies").glob("*.toml")), ids=lambda p: p.stem)
def test_the_study_files_of_the_repository(path):
    study = read_study(path)
    assert study.rungs(study.experiment({}, study.search_seeds).run.episodes)


def test_a_setting_that_cannot_be_trained_gives_its_reason(tmp_path):
    made = experiment("escape-room", "er_2_1")
    made = replace(made, designer=replace(made.designer, direct=1.0))
    reason = train(Work(str(tmp_path / "run"), dump(made), None, "r_id"))
    assert reason == "ByAction has no direct path: MetaGradient.direct must be 0"
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """The head was killed."""


def search(study, folder, draws, kills):
    """What the head does, with scores that follow from settings, in any order; dies ``kills`` times."""
    left = draws.randrange(30)

    def append(self, logs, append=JournalFileBackend.append_logs):
        nonlocal left, kills
        if kills and not left:
            left, kills = draws.randrange(30), kills - 1
            raise Killed
        left -= 1
        append(self, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", append)
        while True:
            try:
                return _search(study, folder, draws)
            except Killed:
                continue


def _search(study, folder, draws):
    trials, scores = Trials(study, study.rungs(320), folder), {}
    while True:
        trials.settle(scores)
        for _ in trials.proceed():
            pass
        if trials.told == study.n_trials:
            known = trials.optuna.get_trials()
            return [(t.number, t.params, t.intermediate_values, t.state, t.value) for t in known]
        keys = [(t.number, t.next(trials.rungs)) for t in trials.each if t.state == "running"]
        key = draws.choice([k for k in keys if k not in scores])
        setting = trials.each[key[0]].setting
        scores[key] = -((np.log10(setting["a"]) + 2) ** 2) + setting["b"] / (key[1] or 320)
        if key[0] == 5:
            scores[key] = "this setting cannot be trained"


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_a_search_depends_neither_on_order_nor_on_deaths(sampler, tmp_path):
    a = tuple(10.0 ** np.linspace(-4, -1, 9)) if sampler == "grid" else Range(1e-4, 1e-1, log=True)
    study = Study(
        "escape-room", Seeds(0, 1), Seeds(1, 1), {"a": a, "b": (1, 20)}, sampler=sampler,
        trials=None if sampler == "grid" else 18, ahead=4 if sampler == "tpe" else None, halving=Halving(80),
    )  # fmt: skip
    found = []
    for i, kills in enumerate([0, 0, 5, 5]):
        (tmp_path / str(i)).mkdir()
        found.append(search(study, tmp_path / str(i), random.Random(i), kills))
    assert found[1:] == found[:1] * 3
    assert len(found[0]) == 18
    states = [state.name for *_, state, _ in found[0]]
    assert states[5] == "FAIL"
    assert {"COMPLETE", "PRUNED"} < set(states)
    if sampler == "grid":
        assert len({(p["a"], p["b"]) for _, p, *_ in found[0]}) == 18


def test_a_run_that_stops_on_its_way_ends_as_one_that_did_not(tmp_path):
    made = shrunk(experiment("escape-room", "er_2_1"))
    made = replace(made, run=replace(made.run, episodes=96, k=8, seeds=(1, 2), eval_period=16, test_episodes=5))
    whole = run.train(made, tmp_path / "whole", QUIET)
    assert run.train(made, tmp_path / "parts", QUIET, until=30) == {}
    assert run.resume(tmp_path / "parts", QUIET, until=64) == {}
    assert not (tmp_path / "parts" / "results.json").exists()
    parts = run.resume(tmp_path / "parts", QUIET)
    assert parts | {"wall_time": 0} == whole | {"wall_time": 0}


def write(place, **changed):
    """A study of seconds."""
    values = {"sampler": "random", "trials": 4, "episodes": 256, "first": 64} | changed
    path = place / "study.toml"
    path.write_text(sweeps.STUDY.format(**values))
    return path


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A study that nobody disturbed."""
    place = tmp_path_factory.mktemp("calm")
    sweeps.disturbed(write(place), place / "calm", kills=0)
    return place


def test_a_study_leaves_a_table_figures_and_a_report(calm):
    folder = calm / "calm"
    table = (folder / "table.md").read_text()
    assert table.count("\n| ") == 5
    assert "episodes of each of 1 seeds" in table
    assert json.loads((folder / "report" / "results.json").read_text())["seeds"] == [12340]
    assert (folder / "study.toml").read_text() == (calm / "study.toml").read_text()
    assert (folder / "parallel.png").exists() or "pruned" in table
    again = sweeps.command(calm / "study.toml", "--out", folder)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 2
    assert f"{folder} exists already" in out


def test_workers_and_the_head_are_killed(calm, tmp_path):
    sweeps.disturbed(calm / "study.toml", tmp_path / "killed", kills=2, seed=2, pause=(0.0, 2.0))
    sweeps.check(tmp_path / "killed", calm / "calm")


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install 'fastenvs[ray]'")
def test_ray_finds_the_same(calm, tmp_path):
    head = sweeps.command(calm / "study.toml", "--out", tmp_path / "ray", engine="ray")
    out, _ = head.communicate(timeout=600)
    assert head.returncode == 0, out
    sweeps.check(tmp_path / "ray", calm / "calm")


def test_a_folder_that_is_no_study(tmp_path):
    head = sweeps.command("--resume", tmp_path)
    out, _ = head.communicate(timeout=300)
    assert (head.returncode, "is not a study: it has no study.toml" in out) == (2, True), out
