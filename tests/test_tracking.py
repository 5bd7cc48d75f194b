"""Metrics for other programs: what they are told, and what they must not change."""

import signal
import subprocess
import sys
import types

import pytest
from experiments import small
from rich.console import Console

from metagrad.experiment import run
from metagrad.experiment.metrics import read_metrics
from metagrad.experiment.registry import experiment

QUIET = Console(quiet=True)
ROOM = small(experiment("escape-room", "er_2_1", "metagrad"))


#: A command line that is killed once it has written six evaluations.
KILLED = """
import os, signal, sys
from metagrad.experiment import cli, metrics
left, write = iter(range(5)), metrics.Metrics.write

def killing(self, rows):
    written = write(self, rows)
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return written

metrics.Metrics.write = killing
cli.main(sys.argv[1:])
"""


def assert_told(folder):
    """TensorBoard shows what metrics.csv holds, every evaluation once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = read_metrics(folder / "metrics.csv")
    for seed in ROOM.run.seeds:
        events = EventAccumulator(str(folder / "tensorboard" / f"seed_{seed}"))
        events.Reload()
        mine = metrics["seed"] == seed
        assert set(events.Tags()["scalars"]) == metrics.keys() - {"seed", "episode"}
        for name in events.Tags()["scalars"]:
            told = events.Scalars(name)
            assert [e.step for e in told] == metrics["episode"][mine].tolist()
            assert [e.value for e in told] == pytest.approx(metrics[name][mine].tolist(), rel=1e-6)


def test_tensorboard_is_told_what_metrics_hold(tmp_path):
    pytest.importorskip("tensorboard")
    run.train(ROOM, tmp_path / "run", QUIET, ["tensorboard"])
    assert_told(tmp_path / "run")


@pytest.mark.parametrize("before", [[], ["tensorboard"]], ids=["not followed before", "followed before"])
def test_a_resumed_run_is_told_from_its_first_evaluation_on(before, tmp_path):
    pytest.importorskip("tensorboard")
    run.train(ROOM, tmp_path / "run", QUIET, before, until=30)
    run.resume(tmp_path / "run", QUIET, ["tensorboard"])
    assert_told(tmp_path / "run")


def test_events_of_an_earlier_sitting_go_in_whatever_order_they_would_be_read(tmp_path):
    pytest.importorskip("tensorboard")
    run.train(ROOM, tmp_path / "run", QUIET, ["tensorboard"], until=30)
    for events in list((tmp_path / "run").glob("tensorboard/*/events.*")):
        events.rename(events.with_name("events.out.tfevents.9999999999.later"))
    run.resume(tmp_path / "run", QUIET, ["tensorboard"])
    assert_told(tmp_path / "run")


def test_a_killed_run_is_told_each_evaluation_once(tmp_path):
    """What it had told may not be on disk yet, and what it told after its last checkpoint comes again."""
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    run.train(ROOM, folder, QUIET, until=1)
    command = ["train", "--resume", str(folder), "--track", "tensorboard"]
    assert subprocess.run([sys.executable, "-c", KILLED, *command]).returncode == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    run.resume(folder, QUIET, ["tensorboard"])
    assert_told(folder)


def test_a_resumed_run_is_a_new_one_of_weights_and_biases_with_all_evaluations(tmp_path, monkeypatch):
    sittings = wandb_that_tells(monkeypatch)
    run.train(ROOM, tmp_path / "run", QUIET, ["wandb"], until=30)
    run.resume(tmp_path / "run", QUIET, ["wandb"])
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    first, second = ([step for step, _ in sitting["told"]] for sitting in sittings)
    assert second == sorted(set(metrics["episode"].tolist()))
    assert first == second[: len(first)]
    assert [sitting["name"] for sitting in sittings] == ["run", "run"]
    for seed, steps in zip(ROOM.run.seeds, metrics["env_steps"], strict=False):
        assert sittings[1]["told"][0][1][f"seed_{seed}/env_steps"] == steps


def wandb_that_tells(monkeypatch):
    """A Weights & Biases that keeps what it is given: a dict a sitting."""
    sittings = []

    def init(**options):
        sittings.append(mine := {**options, "told": [], "finished": False})
        return types.SimpleNamespace(
            log=lambda values, step: mine["told"].append((step, values)), finish=lambda: mine.update(finished=True)
        )

    fake = types.SimpleNamespace(init=init, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return sittings


def test_weights_and_biases_stays_on_the_machine(tmp_path, monkeypatch):
    sittings = wandb_that_tells(monkeypatch)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run.train(ROOM, tmp_path / "run", QUIET, ["wandb"])
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    [sitting] = sittings
    assert sitting["mode"] == "offline"
    assert sitting["finished"]
    assert [step for step, _ in sitting["told"]] == sorted(set(metrics["episode"].tolist()))
    assert {f"seed_{seed}/env_steps" for seed in ROOM.run.seeds} <= sitting["told"][0][1].keys()


def test_tracking_changes_no_number(tmp_path, monkeypatch):
    class Deaf:
        def __init__(self, *run):
            pass

        def write(self, rows):
            pass

        close = lambda self: None  # noqa: E731

    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    monkeypatch.setattr("metagrad.experiment.metrics._TRACKERS", {"wandb": Deaf})
    run.train(ROOM, tmp_path / "alone", QUIET)
    run.train(ROOM, tmp_path / "tracked", QUIET, ["wandb"])
    one, other = (read_metrics(tmp_path / name / "metrics.csv") for name in ("alone", "tracked"))
    assert all((one[name] == other[name]).all() for name in one.keys() - {"wall_time"})


@pytest.mark.parametrize(
    ("module", "extra"), [("tensorboard", "tensorboard"), ("torch", "metagrad"), ("safetensors", "metagrad")]
)
def test_a_missing_extra_is_named_before_anything_is_written(module, extra, tmp_path):
    code = (
        f"import sys; sys.modules[{module!r}] = None; from metagrad.experiment.cli import main\n"
        f"sys.exit(main(['train', 'escape-room', '--track', 'tensorboard', '--out', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"metagrad: {module} is not installed: pip install 'fastenvs[{extra}]'\n"
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_named_to_those_who_import():
    code = "import sys; sys.modules['torch'] = None; from metagrad import Trainer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith("ModuleNotFoundError: torch is not installed: pip install 'fastenvs[metagrad]'\n")
