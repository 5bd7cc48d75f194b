"""Tasks and experiments of a user's own on the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_runs import assert_same_run

import metagrad
from metagrad.experiment import checkpoint, cli
from metagrad.experiment.config import place
from metagrad.experiment.folder import read_experiment

SMALL = [
    "--episodes", "40", "--k", "4", "--seeds", "2", "--eval-period", "8", "--eval-episodes", "2",
    "--test-episodes", "3", "--checkpoint-period", "12",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "whole"
    assert cli.main(["train", "own:task", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_a_task_trains_and_its_run_is_like_any_other(finished, capsys):
    assert {p.name for p in finished.iterdir()} == {
        "config.json", "metrics.csv", "checkpoints", "results.json", "figure.png",
    }  # fmt: skip
    assert read_experiment(finished).game == "own:task"
    for command in ("evaluate", "compare"):
        assert cli.main([command, str(finished)]) == 0
        assert "welfare" in capsys.readouterr().out
    assert cli.main(["plot", str(finished), "--out", str(finished.parent / "x.png")]) == 0


def test_it_resumes_in_a_fresh_process(finished, tmp_path, monkeypatch, capsys):
    folder, here = tmp_path / "cut", str(Path(__file__).parent)
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    shutil.rmtree(checkpoint.saved(folder / "checkpoints")[-1])
    others = [p for p in sys.path if p and p != here]
    done = subprocess.run(
        [sys.executable, "-m", "metagrad.experiment.cli", "train", "--resume", str(folder)],
        cwd=here, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(others)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same_run(finished, folder)
    # In a folder that does not hold the module it is said which one is missing.
    monkeypatch.setattr(sys, "path", others)
    monkeypatch.delitem(sys.modules, "own")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume", str(folder)]) == 2
    assert "'own:task' cannot be imported: ModuleNotFoundError: No module named 'own'" in capsys.readouterr().err


def test_an_experiment_with_its_options(tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["train", "own:experiment", "--agents.hidden", "6", "--k", "2", "--out", str(folder)]) == 0
    held = read_experiment(folder)
    assert (held.game, held.preset, held.agents.hidden, held.run.k) == ("own:experiment", "mine", (6,), 2)
    assert held.run.seeds == (3, 4)
    assert "0.5" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["metagrad-no-cv", "dual-rl", "none"])
def test_methods_of_a_task(method, tmp_path):
    assert cli.main(["train", "own:task", *SMALL, "--method", method, "--out", str(tmp_path / "run")]) == 0


def test_methods_that_an_experiment_has_no_designer_for():
    for method in ("metagrad", "metagrad-no-cv"):
        with pytest.raises(ValueError, match="own:alone has no designer, which method metagrad needs"):
            cli.parse_train(["own:alone", "--method", method])
    with pytest.raises(ValueError, match="DualRL of own:learner has no option validation, which method metagrad-no-cv"):
        cli.parse_train(["own:learner", "--method", "metagrad-no-cv"])
    assert cli.parse_train(["own:alone"])[1].method == "none"


def test_seeds_of_an_experiment_stay_unless_others_are_named():
    def seeds(*options):
        return cli.parse_train(["own:scattered", *options])[1].run.seeds

    assert seeds("--k", "2") == (3, 7, 42)
    assert seeds("--first-seed", "5") == (5, 6, 7)
    assert seeds("--seeds", "2") == (3, 4)


def test_functions_of_an_experiment_are_saved_by_name(tmp_path):
    folder = tmp_path / "run"
    assert cli.main(["train", "own:functions", "--out", str(folder)]) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere:task", "'nowhere:task' cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("own:nothing", "'own:nothing' cannot be imported: AttributeError"),
        ("own:", "'own:' cannot be imported"),
        (":task", "':task' cannot be imported"),
        ("own:number", "own:number is a int, not a VectorTask or an Experiment"),
        ("own:lights", "own:lights is a function, not a VectorTask or an Experiment"),
        ("own:VectorTask", "own:VectorTask is a type, not a VectorTask or an Experiment"),
        ("failing:task", "'failing:task' cannot be imported: ZeroDivisionError: division by zero (" ),
        ("leaving:task", "'leaving:task' cannot be imported: SystemExit: 3"),
        ("wrong:task", "'wrong:task' cannot be imported: TaskError: horizon must be"),
    ],
)  # fmt: skip
def test_what_is_no_task(source, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "failing.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "wrong.py").write_text("from metagrad import VectorTask\ntask = VectorTask(print, 0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["train", source, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_replayed(finished, capsys):
    assert cli.main(["replay", str(finished)]) == 2
    assert "lights cannot be replayed: its environments have no method render(copy)" in capsys.readouterr().err
    assert not (finished / "episode.gif").exists()
    assert cli.main(["replay", str(finished), "--seed", "7"]) == 2
    assert "--seed must be one of" in capsys.readouterr().err


def test_central_needs_agents_without_masks(tmp_path, capsys):
    assert cli.main(["train", "own:task", *SMALL, "--method", "central", "--out", str(tmp_path / "run")]) == 2
    assert "masks" in capsys.readouterr().err
    plain = ["train", "own:plain", *SMALL, "--method", "central", "--out", str(tmp_path / "run")]
    assert cli.main(plain) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("[1, 2]", "scores of lights must be a dict of arrays by name, got list"),
        ("{}", "scores of lights must be a dict"),
        ("{'episode': x}", "a score of lights cannot be called 'episode'"),
        ("{'a,b': x}", "a score of lights cannot be called 'a,b'"),
        ("{'score': 3.0}", "score 'score' of lights must be numbers with a first axis of 1"),
        ("{'score': x[:0]}", "score 'score' of lights must be numbers with a first axis of 1"),
        ("{'score': x.astype(str)}", "score 'score' of lights must be numbers"),
        ("{'each': x[:, None]}", "the scores that lights shows, [], must be one number for each seed"),
        ("{'x': x[:, None], 'x_0': x}", "two scores of lights would both be the column 'x_0'"),
        ("{'score': batch.nothing}", "lights gives no scores: AttributeError"),
    ],
)
def test_scores_that_cannot_be_written_are_refused(scores, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "scored.py").write_text(f"""
import own
from metagrad import VectorTask
class Scored(VectorTask):
    def scores(self, batch):
        x = super().scores(batch)["welfare"]
        return {scores}
task = Scored(own.lights, 5)
""")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "scored", raising=False)
    assert cli.main(["train", "scored:task", *SMALL, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "calls", "message"),
    [
        ("{}['apples']", 0, "KeyError: 'apples'"),  # as the task is made
        ("{}['apples']", 6, "KeyError: 'apples'"),  # in the trial
        ("{}['apples']", 40, "KeyError: 'apples'"),  # in training
        ("np.zeros(3) + np.zeros(99)", 40, "operands could not be broadcast together"),
        ("open('nowhere.csv')", 40, "No such file or directory: 'nowhere.csv'"),
    ],
)
def test_an_error_in_a_game_is_said_with_its_place(line, calls, message, tmp_path, capsys, monkeypatch):
    path = tmp_path / "broken.py"
    path.write_text(f"""
import numpy as np
from games import Lights
from metagrad import VectorTask
class Broken(Lights):
    calls = 0
    def step(self, actions):
        Broken.calls += 1
        if Broken.calls > {calls}:
            {line}
        return super().step(actions)
task = VectorTask(Broken, 5)
""")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert cli.main(["train", "broken:task", *SMALL, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert message in shown
    assert shown.endswith(f"({path}, line 10)")


def test_a_module_beside_the_package_is_ones_own():
    """Its path begins as the package's does."""
    path = f"{Path(metagrad.__file__).parent}_mine.py"
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile("1 / 0", path, "exec"))
    assert place(raised.value) == f" ({path}, line 1)"
