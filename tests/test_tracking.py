"""Metrics for other programs: what they are told, and what they must not change."""

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


def test_tensorboard_is_told_what_metrics_hold(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.train(ROOM, tmp_path / "run", QUIET, ["tensorboard"])
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    for seed in ROOM.run.seeds:
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / f"seed_{seed}"))
        events.Reload()
        mine = metrics["seed"] == seed
        assert set(events.Tags()["scalars"]) == metrics.keys() - {"seed", "episode"}
        for name in events.Tags()["scalars"]:
            told = events.Scalars(name)
            assert [e.step for e in told] == metrics["episode"][mine].tolist()
            assert [e.value for e in told] == pytest.approx(metrics[name][mine].tolist(), rel=1e-6)


def test_weights_and_biases_stays_on_the_machine(tmp_path, monkeypatch):
    told, opened = [], {}

    class Run:
        def log(self, values, step):
            told.append((step, values))

        def finish(self):
            opened["finished"] = True

    def init(**options):
        opened.update(options)
        return Run()

    fake = types.SimpleNamespace(init=init, Settings=lambda **options: options)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run.train(ROOM, tmp_path / "run", QUIET, ["wandb"])
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert opened["mode"] == "offline"
    assert opened["finished"]
    assert [step for step, _ in told] == sorted(set(metrics["episode"].tolist()))
    assert {f"seed_{seed}/env_steps" for seed in ROOM.run.seeds} <= told[0][1].keys()


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
