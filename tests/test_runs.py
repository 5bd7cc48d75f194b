"""Runs as folders: the command line, resuming, and what goes wrong."""

import csv
import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from metagrad.experiment import checkpoint, cli, run
from metagrad.experiment.config import ConfigError, dump, load, to_dict
from metagrad.experiment.folder import Busy, Held, RunError, Taken, read_experiment, read_results
from metagrad.experiment.learners import Learners
from metagrad.experiment.metrics import read_metrics
from metagrad.experiment.registry import experiment, game
from metagrad.tasks import GAMES
from metagrad.trainer import Trainer

SMALL = [
    "--preset", "er_2_1", "--seeds", "2", "--episodes", "320", "--eval-period", "32", "--eval-episodes", "4",
    "--checkpoint-period", "80", "--test-episodes", "20",
]  # fmt: skip


def train(out, *options):
    return cli.main(["train", "escape-room", *SMALL, "--out", str(out), *options])


def rows(folder):
    with open(folder / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k != "wall_time"} for row in csv.DictReader(file)]


def final_tensors(folder):
    return load_file(sorted((folder / "checkpoints").iterdir())[-1] / "state.safetensors")


def assert_same_run(left, right):
    a, b = final_tensors(left), final_tensors(right)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name
    assert rows(left) == rows(right)
    one, two = (json.loads((f / "results.json").read_text()) for f in (left, right))
    assert {**one, "wall_time": 0} == {**two, "wall_time": 0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train(folder) == 0
    return folder


def test_a_finished_run_holds_everything(finished, capsys):
    assert {p.name for p in finished.iterdir()} == {
        "config.json", "metrics.csv", "checkpoints", "results.json", "figure.png",
    }  # fmt: skip
    table = rows(finished)
    assert len(table) == 2 * 10
    for column in ("seed", "episode", "r_id", "environment_return", "incentives_paid"):
        assert all(float(row[column]) == float(row[column]) for row in table)
    for row in table:
        net = float(row["environment_return"]) - float(row["incentives_paid"])
        assert float(row["r_id"]) == pytest.approx(net, abs=1e-4)
    assert len(list((finished / "checkpoints").iterdir())) == checkpoint.KEEP
    assert read_experiment(finished).run.seeds == (12340, 12341)


def test_evaluate_repeats_the_test(finished, capsys):
    assert cli.main(["evaluate", str(finished)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((finished / "results.json").read_text())
    for value in result["r_id"]:
        assert f"{value:.3f}" in shown
    assert cli.main(["evaluate", str(finished), "--episodes", "7"]) == 0


def test_plots(finished, tmp_path):
    assert cli.main(["plot", str(finished), str(finished), "--out", str(tmp_path / "two.png")]) == 0
    assert cli.main(["plot", str(finished), "--out", str(tmp_path / "one.png")]) == 0
    for name in ("one.png", "two.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_compare(finished, capsys):
    assert cli.main(["compare", str(finished), str(finished)]) == 0
    table, meaning, differences = capsys.readouterr().out.split("\n\n")
    result = json.loads((finished / "results.json").read_text())
    shown = table.splitlines()
    assert len(shown) == 4
    assert "standard error" in meaning
    assert "| 0 of 2" in differences.splitlines()[2]
    assert f"| {sum(result['r_id']) / 2:.2f} ±" in shown[2]


@pytest.mark.parametrize(
    "options",
    [
        *("dual-rl-discrete", "dual-rl-continuous", "none", "metagrad-no-cv", "lio", "amd"),
        "metagrad --preset er_2_1_ac --k 16",
        "metagrad --designer.agent-model surrogate --designer.repay",
        "metagrad --agent-batches 2 --designer.path.m 1 --no-pipeline",
    ],
)
def test_every_method_trains_and_resumes(options, tmp_path):
    trains_and_resumes(["--method", *options.split()], tmp_path)


def test_resume_with_random_starts_and_exploration(tmp_path):
    options = ["--task.randomize", "--agents.exploration.over", "9", "--agents.epochs", "2"]
    trains_and_resumes([*options, "--preset", "er_2_1_amd_paper", "--k", "8"], tmp_path)


def trains_and_resumes(options, tmp_path):
    """Without figures, which take longer than the training."""
    whole, cut, quiet = tmp_path / "whole", tmp_path / "cut", Console(quiet=True)
    _, made = cli.parse_train(["escape-room", *SMALL, *options])
    run.train(made, whole, quiet)
    shutil.copytree(whole, cut)
    (cut / "results.json").unlink()
    shutil.rmtree(sorted((cut / "checkpoints").iterdir())[-1])
    run.resume(cut, quiet)
    assert_same_run(whole, cut)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """SIGKILL at random moments, several times, until the run gets through."""
    options = [*SMALL, "--episodes", "1600", "--checkpoint-period", "160", "--k", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.main(["train", "escape-room", *options, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "metagrad.experiment.cli", "train"]
    arguments = ["escape-room", *options, "--out", str(killed)]
    kills, dice = 0, random.Random(0)
    while not (killed / "results.json").exists():
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        deadline = time.monotonic() + 60
        while not (killed / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if kills < 2:
            done = len(list((killed / "checkpoints").glob("[0-9]*"))) if kills else 0
            while not done and not list((killed / "checkpoints").glob("[0-9]*")) and process.poll() is None:
                time.sleep(0.005)
            try:
                process.wait(dice.uniform(0.0, 0.3) + (1.0 if kills else 0.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        assert process.wait(120) in (0, -signal.SIGKILL)
        arguments = ["--resume", str(killed)]
    assert kills
    assert_same_run(whole, killed)


def test_existing_folder_is_not_touched(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert train(finished) == 2
    assert "exists already" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task.n-agents", "2", "--task.min-at-lever", "3"], "never open"),
        (["--task.n-agents", "0"], "--task.n-agents must be an integer of at least 1"),
        (["--k", "0"], "--k must be a number of at least 1"),
        (["--seeds", "0"], "--seeds"),
        (["--agents.gamma", "1.5"], "--agents.gamma must be a number of at least 0 and at most 1, got 1.5"),
        (["--agents.optimiser.lr", "nan"], "--agents.optimiser.lr must be finite"),
        (["--agents.optimiser.lr", "inf"], "--agents.optimiser.lr must be finite"),
        (["--target", "nan"], "--target must be finite"),
        (["--agents.hidden", "0"], "--agents.hidden[0] must be a number of at least 1"),
        (["--agents.hidden", *["4"] * 101], "--agents.hidden must have at most 100 entries"),
        (["--designer.optimiser.beta2", "1.0"], "--designer.optimiser.beta2 must be a number"),
        (["--device", "meta"], "device 'meta'"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--method", "dual-rl-discrete", "--designer.head.levels", "nan", "1"], "--designer.head.levels[0] must be"),
        (["--k", "100000000", "--episodes", "1000000000"], "too large for the memory"),
        (["--designer.advantages", "gae"], "--designer: MetaGradient needs a critic"),
        (["--designer.direct", "1"], "ByAction has no direct path: MetaGradient.direct must be 0"),
        (["--episodes", "3"], "at least k"),
        (["--threads", "1025"], "--threads must be a number of at least 1 and at most 1,024"),
        (["--seeds", "10001"], "--seeds must be 1 to 10,000"),
        (["--first-seed", "-1"], "--first-seed"),
        (["--first-seed", str(2**53)], "seeds[0] must be a number"),
        (["--preset", "er_9_9"], "no preset of escape-room is called 'er_9_9'"),
        (["--method", "magic"], "no method of escape-room is called 'magic'"),
    ],
)
def test_impossible_options(options, message, tmp_path, capsys):
    assert train(tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_agents_that_a_designer_cannot_follow_are_refused(tmp_path, capsys):
    options = ["--seeds", "1", "--k", "4", "--agents.minibatches", "2", "--out", str(tmp_path / "run")]
    assert cli.main(["train", "one-step-economy", *options]) == 2
    assert "curvature must be false unless the agents' epochs and minibatches are 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_threads_are_those_of_the_run(tmp_path, monkeypatch):
    used, iterate = [], Trainer.iterate
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(
        Trainer, "iterate", lambda self, *a, **o: used.append(torch.get_num_threads()) or iterate(self, *a, **o)
    )
    before, folder = torch.get_num_threads(), tmp_path / "run"
    try:
        assert train(folder, "--threads", "2", "--episodes", "64") == 0
        assert set(used) == {2}
        used.clear()
        assert cli.main(["train", "--resume", str(folder), "--episodes", "96", "--threads", "3"]) == 0
        assert set(used) == {3}
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("option", ["--lr-incentiv", "--designer.path", "--run.seeds", "--method"])
def test_unknown_options(option, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "escape-room", *(["magic", "1"] if option == "--method" else []), option])
    assert error.value.code == 2
    assert option in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "chess"], "no game is called 'chess'"),
        (["train", "--resume", "nowhere"], "is not a run"),
        (["evaluate", "nowhere"], "is not a run"),
        (["plot", "nowhere"], "is not a run"),
        (["fly"], "usage"),
        ([], "usage"),
    ],
)
def test_wrong_commands(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def damage(folder, how):
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    state, sidecar = newest / "state.safetensors", newest / "state.json"
    if how == "bit":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(bytes(data))
    elif how == "cut":
        state.write_bytes(state.read_bytes()[:100])
    elif how == "sidecar":
        sidecar.write_text("{")
    elif how == "number":
        values = json.loads(sidecar.read_text())
        values["wall_time"] += 1
        sidecar.write_text(json.dumps(values))
    elif how == "foreign":
        sidecar.write_text(json.dumps({"format": "other"}))
    elif how == "gone":
        shutil.rmtree(folder / "checkpoints")
    elif how == "config":
        config = json.loads((folder / "config.json").read_text())
        config["run"]["k"] = 8
        (folder / "config.json").write_text(json.dumps(config))
    elif how == "option":
        config = json.loads((folder / "config.json").read_text())
        config["agents"]["colour"] = "red"
        (folder / "config.json").write_text(json.dumps(config))


def test_a_finished_run_goes_on_longer(finished, tmp_path, capsys):
    assert train(tmp_path / "run", "--episodes", "160") == 0
    resume = ["train", "--resume", str(tmp_path / "run")]
    assert cli.main([*resume, "--episodes", "320", "--threads", "2"]) == 0
    assert_same_run(finished, tmp_path / "run")
    assert read_experiment(tmp_path / "run").run.threads == 2
    before = (tmp_path / "run" / "config.json").read_bytes()
    capsys.readouterr()
    for option, message in (
        (["--episodes", "160"], "--episodes must be at least 320"),
        (["--threads", "0"], "threads must be"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used"),
    ):
        assert cli.main([*resume, *option]) == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("bit", "damaged"),
        ("cut", "damaged"),
        ("sidecar", "cannot be read"),
        ("number", "damaged"),
        ("foreign", "not a checkpoint of this program"),
        ("gone", "no checkpoint"),
        ("config", "another configuration: run.k"),
        ("option", "unknown option 'agents.colour'"),
    ],
)
def test_damaged_and_foreign_checkpoints(how, message, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damage(folder, how)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for command in (["evaluate", str(folder)], ["train", "--resume", str(folder)]):
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_run_that_cannot_go_on_longer_keeps_its_results(how, finished, tmp_path, capsys):
    shutil.copytree(finished, folder := tmp_path / "run")
    damage(folder, how)
    before = {name: (folder / name).read_bytes() for name in ("config.json", "results.json", "metrics.csv")}
    assert cli.main(["train", "--resume", str(folder), "--episodes", "640"]) == 2
    assert "checkpoint" in capsys.readouterr().err
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_options_that_are_newer_than_a_run_are_as_by_default(finished, tmp_path):
    """What an earlier version wrote, which did not know an option, is read as it was meant."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config["designer"].pop("pooled") is False
    path.write_text(json.dumps(config))
    for newest in checkpoint.saved(folder / "checkpoints"):
        data, sidecar = (newest / "state.safetensors").read_bytes(), json.loads((newest / "state.json").read_text())
        del sidecar["config"]["designer"]["pooled"]
        sidecar["sha256"] = checkpoint._digest(data, sidecar)
        (newest / "state.json").write_text(json.dumps(sidecar))
    assert cli.main(["evaluate", str(folder)]) == 0
    assert cli.main(["train", "--resume", str(folder)]) == 0


def test_a_full_disk_loses_nothing(finished, tmp_path, capsys, monkeypatch):
    """The write of the third checkpoint fails; afterwards the run resumes and ends as it would have."""
    folder, original, calls = tmp_path / "run", checkpoint._write, []

    def write(path: Path, data: bytes) -> None:
        calls.append(path)
        if path.name == "state.safetensors" and len([p for p in calls if p.name == path.name]) == 3:
            original(path, data[:50])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, data)

    monkeypatch.setattr(checkpoint, "_write", write)
    assert train(folder) == 2
    message = capsys.readouterr().err
    assert "disk is full" in message
    assert "--resume" in message
    assert not list((folder / "checkpoints").glob(".*"))
    monkeypatch.undo()
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert_same_run(finished, folder)


def test_a_run_without_evaluations_ends_well(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, "--eval-period", "10000") == 0
    assert json.loads((folder / "results.json").read_text())["first_solved_episode"] == [None, None]
    assert cli.main(["evaluate", str(folder)]) == 0
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert cli.main(["plot", str(folder)]) == 2
    assert "no evaluation yet" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert_same_run(finished, folder)


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_metrics_are_noticed_before_anything_changes(how, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(sorted((folder / "checkpoints").iterdir())[-1])
    metrics = folder / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes()[:300]) if how == "cut" else metrics.unlink()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert cli.main(["train", "--resume", str(folder)]) == 2
    assert "metrics.csv is damaged" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_disk_that_is_full_from_the_start(tmp_path, capsys, monkeypatch):
    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "run"
    monkeypatch.setattr(checkpoint, "_write", write)
    assert train(folder) == 2
    assert "start again" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(folder) == 0


def test_another_room_has_a_name_and_target_of_its_own(tmp_path):
    folder = tmp_path / "run"
    assert train(folder, "--task.n-agents", "3") == 0
    result = json.loads((folder / "results.json").read_text())
    assert result["preset"] == "ER(3,1) from er_2_1"
    assert result["target"] == pytest.approx(0.95 * 18)
    assert result["bounds"] == {"no pay": 19.0, "threshold pay": 18.0}


def test_a_figure_without_a_folder(finished, tmp_path, capsys):
    assert cli.main(["plot", str(finished), "--out", str(tmp_path / "nowhere" / "x.png")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("name", GAMES)
def test_config_round_trip(name):
    for preset in game(name).PRESETS:
        for method in game(name).METHODS:
            try:
                made = experiment(name, preset, method)
            except ValueError:  # a method that this preset has not
                continue
            assert load(dump(made), "here") == made
            assert json.loads(dump(made))["run"]["seeds"] == list(made.run.seeds)


def test_options_that_are_missing_have_their_defaults_and_unknown_ones_are_refused():
    made = experiment("escape-room")
    values = json.loads(dump(made))
    del values["run"]["threads"], values["agents"]["clip"]
    assert load(json.dumps(values), "here") == made
    values["colour"] = 1
    with pytest.raises(ConfigError, match="here: unknown option 'colour'"):
        load(json.dumps(values), "here")
    with pytest.raises(ValueError, match="seeds must be distinct"):
        replace(made.run, seeds=(1, 1))


def test_resume_before_the_first_checkpoint_starts_again(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "config.json", folder)
    run.resume(folder, Console(quiet=True))
    shutil.copy(finished / "figure.png", folder)
    assert_same_run(finished, folder)


def test_a_run_goes_on_with_the_columns_that_it_began_with(finished, tmp_path, monkeypatch):
    """A revision that writes more columns, or others, finishes what an earlier one began; so trackers are told."""
    folder, quiet, told = tmp_path / "run", Console(quiet=True), []
    _, made = cli.parse_train(["escape-room", *SMALL])
    run.train(made, folder, quiet, until=160)
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    added = lines[0].index("policy_entropy")
    earlier = "".join(",".join(cells[:added] + cells[added + 1 :]) + "\n" for cells in lines)
    (folder / "metrics.csv").write_text(earlier)
    at = sorted((folder / "checkpoints").iterdir())[-1]
    tensors, values = checkpoint.load(folder / "checkpoints")
    shutil.rmtree(at)
    checkpoint.save(
        folder / "checkpoints", int(at.name), tensors, {**values, "metrics_size": len(earlier)}, to_dict(made)
    )
    monkeypatch.setattr(run.Trackers, "write", lambda self, more: told.extend(more))
    run.resume(folder, quiet)
    wanted = [{name: cell for name, cell in row.items() if name != "policy_entropy"} for row in rows(finished)]
    assert rows(folder) == wanted
    assert [set(row) - {"wall_time"} for row in told] == [set(row) for row in wanted[len(lines) - 1 :]]


def test_a_torn_last_line_of_metrics_does_not_count(finished, tmp_path):
    path = tmp_path / "metrics.csv"
    text = (finished / "metrics.csv").read_text()
    path.write_text(text + "12340,99,1.")
    whole, torn = read_metrics(finished / "metrics.csv"), read_metrics(path)
    assert all((whole[name] == torn[name]).all() for name in whole)
    path.write_text(text.replace("\n", "\nx", 1))
    with pytest.raises(ValueError, match=r"metrics.csv is damaged in line 2"):
        read_metrics(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not the metrics of a run"):
        read_metrics(path)


def test_of_two_that_start_in_one_folder_one_trains(tmp_path, monkeypatch):
    folder, trial, quiet = tmp_path / "run", Learners.trial, Console(quiet=True)
    slow = experiment("escape-room", "er_2_1")
    slow = replace(slow, run=replace(slow.run, seeds=(1,), episodes=32, eval_period=16, test_episodes=4))
    quick = replace(slow, run=replace(slow.run, seeds=(2,)))

    def and_another_starts(self):
        monkeypatch.setattr(Learners, "trial", trial)
        run.train(quick, folder, quiet)
        return trial(self)

    monkeypatch.setattr(Learners, "trial", and_another_starts)
    with pytest.raises(Taken, match="exists already"):
        run.train(slow, folder, quiet)
    assert read_experiment(folder) == quick
    assert read_results(folder)["seeds"] == [2]
    with Held(folder) as held:
        held.rewrite(dump(slow))
        held.check()
        with pytest.raises(Busy):
            Held(folder)
    assert read_experiment(folder) == slow


def test_two_processes_do_not_train_one_run(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "config.json", folder)
    with open(folder / "config.json") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            run.resume(folder, Console(quiet=True))
