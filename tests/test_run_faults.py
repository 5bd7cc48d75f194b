"""What may happen to a run: kills, signals, full disks, deleted folders, damaged files, impossible options."""

import io
import json
import os
import re
import shutil
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from experiments import small
from rich.console import Console
from safetensors.torch import load_file, save
from test_runs import assert_same_run

from metagrad import optim
from metagrad.experiment import checkpoint, cli, run, size
from metagrad.experiment.config import ConfigError, dump, imported
from metagrad.experiment.folder import RunError, read_experiment, read_results, write_results
from metagrad.experiment.learners import Learners
from metagrad.experiment.metrics import LiveProgress, first_solved
from metagrad.experiment.registry import experiment, game
from metagrad.reports.tables import results_table
from metagrad.tasks import GAMES

QUIET = Console(quiet=True)


ROOM = small(experiment("escape-room", "er_2_1"), target=5.0)
CLEANUP = small(experiment("cleanup"), k=2, episodes=9, seeds=(5,), eval_period=3, checkpoint_period=3)
OWN = imported("own:experiment")
GTB = small(experiment("gtb"), k=2, episodes=9, seeds=(5,), eval_period=3, checkpoint_period=3)
DESIGNER = small(experiment("gtb", method="dual-rl"), k=2, episodes=9, seeds=(5,), eval_period=3, checkpoint_period=3)
EXAMPLES = {"room": ROOM, "cleanup": CLEANUP, "gtb": GTB, "planner": DESIGNER, "own": OWN}


def with_run(made, **options):
    return replace(made, run=replace(made.run, **options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed runs by experiment."""
    made = {}

    def get(config):
        if (text := dump(config)) not in made:
            made[text] = tmp_path_factory.mktemp("whole") / "run"
            run.train(config, made[text], QUIET)
        return made[text]

    return get


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def assert_same(left, right):
    assert_same_run(left, right)
    assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}


# ---------------------------------------------------------------------- kills and full disks


class Killed(BaseException):
    """Nothing handles it, as nothing handles SIGKILL."""


@pytest.mark.parametrize("error", [Killed(), OSError(28, "No space left on device")], ids=["kill", "full"])
@pytest.mark.parametrize("periods", [(16, 40, 40), (4, 100, 3), (7, 1, 5)])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_runs_go_on_whichever_write_was_the_last(number, periods, error, whole, tmp_path, monkeypatch):
    k, checkpoints, evaluations = periods
    config = with_run(ROOM, k=k, episodes=90, checkpoint_period=checkpoints, eval_period=evaluations)
    folder, written, write = tmp_path / "run", [], checkpoint._write

    def failing(path, data):
        written.append(path)
        write(path, data[:10] if len(written) == number else data)
        if len(written) == number:
            raise error

    monkeypatch.setattr(checkpoint, "_write", failing)
    with pytest.raises((Killed, RunError)):
        run.train(config, folder, QUIET)
    monkeypatch.undo()
    if (folder / "config.json").exists():
        run.resume(folder, QUIET)
    else:
        run.train(config, folder, QUIET)
    assert_same(whole(config), folder)
    assert not list((folder / "checkpoints").glob(".*"))


def test_metrics_without_a_checkpoint_are_not_thrown_away(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    (folder / "results.json").unlink()
    for state in (folder / "checkpoints").iterdir():
        shutil.rmtree(state)
    before = contents(folder)
    with pytest.raises(RunError, match="no checkpoint in"):
        run.resume(folder, QUIET)
    assert before == contents(folder)


# ---------------------------------------------------------------------- signals


def at_iteration(monkeypatch, number, action):
    """Do something at the start of an iteration."""
    iterate = Learners.iterate

    def disturbed(self, diagnose):
        if self.iteration == number:
            action()
        iterate(self, diagnose)

    monkeypatch.setattr(Learners, "iterate", disturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(number, whole, tmp_path, monkeypatch, capsys):
    folder, before = tmp_path / "a run's folder", signal.getsignal(number)
    folder.mkdir()
    shutil.copy(whole(ROOM) / "config.json", folder)
    at_iteration(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    assert cli.main(["train", "--resume", str(folder)]) == 128 + number
    monkeypatch.undo()
    shown = capsys.readouterr().err.strip()
    command = shown.split("`")[1].split(" ", 3)
    assert command[:3] == ["metagrad", "train", "--resume"]
    assert command[3] == "'" + str(folder).replace("'", "'\"'\"'") + "'"
    assert int(checkpoint.saved(folder / "checkpoints")[-1].name) == 28  # after six iterations and a first batch
    assert signal.getsignal(number) is before
    run.resume(folder, QUIET)
    assert_same(whole(ROOM), folder)


def test_a_second_signal_stops_at_once(whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal did nothing")

    at_iteration(monkeypatch, 7, twice)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGINT; go on with"):
        run.train(ROOM, folder, QUIET)
    monkeypatch.undo()
    assert int(checkpoint.saved(folder / "checkpoints")[-1].name) < 32
    run.resume(folder, QUIET)
    assert_same(whole(ROOM), folder)


def test_ignored_signals_stay_ignored_and_threads_can_train(whole, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_iteration(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        run.train(ROOM, tmp_path / "one", QUIET)
        thread = threading.Thread(target=run.train, args=(ROOM, tmp_path / "two", QUIET))
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, before)
    for name in ("one", "two"):
        assert_same(whole(ROOM), tmp_path / name)


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "metrics"])
def test_a_folder_that_goes_stops_the_run(how, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"

    def go():
        if how == "metrics":
            (folder / "metrics.csv").unlink()
            return
        shutil.move(folder, tmp_path / "moved") if how == "moved" else shutil.rmtree(folder)
        if how == "replaced":
            folder.mkdir()
            (folder / "config.json").write_text("another run")

    at_iteration(monkeypatch, 4, go)
    with pytest.raises(RunError, match=r"was deleted, moved or replaced while the run was trained") as error:
        run.train(ROOM, folder, QUIET)
    assert str(folder) in str(error.value)
    left = {"replaced": {"config.json"}, "metrics": {"config.json", "checkpoints"}}.get(how)
    assert ({p.name for p in folder.iterdir()} if folder.exists() else None) == left


# ---------------------------------------------------------------------- finished runs, files, terminals


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES)
def test_a_finished_run_stays_as_it_is(config, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole(config), folder)
    (folder / "figure.png").write_bytes(b"a figure")
    before = contents(folder)
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert before == contents(folder)
    assert "mean" in capsys.readouterr().out
    (folder / "results.json").unlink()  # killed before it was there
    (folder / "figure.png").unlink()
    run.resume(folder, QUIET)
    assert_same(whole(config), folder)


@pytest.mark.parametrize("method", game("gtb").METHODS)
def test_episodes_without_a_tax_day(method, tmp_path):
    made = small(experiment("gtb", method=method), k=2, episodes=4, seeds=(5,), eval_period=2)
    config = replace(made, task=replace(made.task, steps=7, tax_period=8))
    if method.startswith("metagrad"):
        with pytest.raises(ValueError, match="needs a tax day: tax_period is 8, an episode 7 steps"):
            run.train(config, tmp_path / "run", QUIET)
        assert not (tmp_path / "run").exists()
        return
    summary = run.train(config, tmp_path / "run", QUIET)
    (row,) = summary["test"]
    accounts = [row[name] for name in row if name.startswith(("rate_", "tax_", "net_tax_", "income_"))]
    assert len(accounts) == 7 + 3 * 4
    assert not any(accounts)
    assert np.isfinite(summary["welfare"]).all()
    assert not any(summary["diverged"])
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0


def test_json_without_nan(tmp_path):
    folder = tmp_path / "run"
    config = replace(with_run(ROOM, episodes=16), agents=replace(ROOM.agents, optimiser=optim.SGD(1e30)))
    run.train(config, folder, QUIET)

    def refuse(text):
        raise AssertionError(text)

    for path in (folder / "results.json", *(folder / "checkpoints").glob("*/state.json")):
        json.loads(path.read_text(), parse_constant=refuse)
    plain = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**plain, "r_id": [None, 1.5]}))
    found = read_results(folder)
    assert np.isnan(found["r_id"][0])
    assert found["r_id"][1] == 1.5
    write_results(folder, found)
    assert json.loads((folder / "results.json").read_text(), parse_constant=refuse)["r_id"] == [None, 1.5]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [1]}, {"solved": 3}, {"solved": [True]}, {"first_solved_episode": ["x", "y"]}, {"fields": []},
        {"fields": 5}, {"fields": ["nothing"]}, {"r_id": ["a", "b"]}, {"r_id": None}, {"wall_time": "long"},
        {"test": [1]}, {"diverged": {}},
    ],
)  # fmt: skip
def test_results_that_are_none(change, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    values = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**values, **change}))
    assert cli.main(["compare", str(folder)]) == 2
    shown = capsys.readouterr().err
    assert "does not hold the results of a run" in shown
    assert shown.count("\n") == 1


def test_line_ends(whole):
    data = (whole(ROOM) / "metrics.csv").read_bytes()
    assert b"\r" not in data


def test_an_ascii_terminal(whole, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["compare", str(whole(ROOM))]) == 0
    assert cli.main(["evaluate", str(whole(ROOM))]) == 0
    print_error = stream.errors
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert " +- " in shown
    assert "|" in shown
    assert print_error == "strict"


@pytest.mark.parametrize("name", ["[red]", "[/]", "a[/nothing]b", "[link=x]", ":smile:", "a|b", "ρ…\n"])
def test_markup_in_names(name, whole, tmp_path, capsys):
    folder = tmp_path / f"{name.strip()} run"
    summary = run.train(replace(with_run(ROOM, episodes=16), preset=name), folder, QUIET)
    assert name.strip() in table_of(summary)
    for command in ("evaluate", "compare"):
        assert cli.main([command, str(folder)]) == 0
        shown = capsys.readouterr().out
        escaped = name.strip().replace("|", "\\|") if command == "compare" else name.strip()
        assert escaped in shown.replace("\n", "")


# ---------------------------------------------------------------------- checkpoints that do not fit


def rewrite(folder, change):
    """Change the newest checkpoint and give it a valid checksum."""
    newest = checkpoint.saved(folder / "checkpoints")[-1]
    tensors = load_file(newest / "state.safetensors")
    values = json.loads((newest / "state.json").read_text())
    change(tensors, values)
    data = save(checkpoint._apart(tensors))
    values["sha256"] = checkpoint._digest(data, values)
    (newest / "state.safetensors").write_bytes(data)
    (newest / "state.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_tensor_is_compared(name, whole):
    learners = Learners(EXAMPLES[name])
    evaluators = learners.evaluators("eval", 2)
    tensors, _ = checkpoint.load(whole(EXAMPLES[name]) / "checkpoints")
    for prefix, part in (("training/", learners), ("eval/", evaluators)):
        own_ones = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        before = {n: t.clone() for n, t in part.tensors().items()}
        names = list(own_ones)
        if EXAMPLES[name].game == "gtb":  # where each look takes an episode
            names = [*names[::11], *(n for n in names if n.startswith("0/designer/critic/m"))]
        for n in names:
            t = own_ones[n]
            # Floating point numbers never stand for integers, nor the other way round.
            for other in (None, t[None], t.double() if t.dtype.itemsize < 8 else t.float()):
                changed = {m: v for m, v in own_ones.items() if m != n} | ({} if other is None else {n: other})
                with pytest.raises(ValueError, match=re.escape(n.split("/")[1])):
                    part.load(changed)
        with pytest.raises(ValueError, match=r"more|unknown"):
            part.load(own_ones | {"0/more": t})
        with pytest.raises(ValueError, match="more"):
            part.load(own_ones | {"7/more": t})
        assert part.tensors().keys() == before.keys()
        assert all(t.equal(before[n]) for n, t in part.tensors().items())
        part.load(own_ones, dry=True)
        assert all(t.equal(before[n]) for n, t in part.tensors().items())
        part.load(own_ones)
        assert all(t.equal(own_ones[n]) for n, t in part.tensors().items())


W0 = "training/0/agents/policy/w0"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, values: tensors.update({W0: tensors[W0][:, :1].contiguous()}),
        lambda tensors, values: [tensors.pop(n) for n in list(tensors) if n.startswith("eval/")],
        lambda tensors, values: tensors.pop("eval/0/streams/actions"),
        lambda tensors, values: tensors.pop(next(n for n in tensors if n.startswith("training/0/env/"))),
        lambda tensors, values: tensors.pop(next(n for n in tensors if n.startswith("eval/0/env/"))),
        lambda tensors, values: tensors.update({"training/0/streams/actions": -tensors["eval/0/streams/actions"]}),
        lambda tensors, values: tensors["training/0/pending/actions"].fill_(9),
        lambda tensors, values: tensors["training/0/pending/epsilon"].fill_(float("nan")),
        lambda tensors, values: tensors["training/0/episodes"].sub_(1),
        lambda tensors, values: tensors["training/0/iteration"].zero_(),
        lambda tensors, values: tensors.update({"other/0": tensors[W0]}),
        lambda tensors, values: values.update(wall_time="61"),
        lambda tensors, values: values.update(metrics_size=-1),
        lambda tensors, values: values.update(metrics_size=True),
        lambda tensors, values: values.update(wall_time=None),
        lambda tensors, values: values.update(metrics_size=values["metrics_size"] - 1),
        lambda tensors, values: values.pop("config"),
        lambda tensors, values: values["config"].update(colour="red"),
    ],
)
def test_misfits_are_refused_in_a_line(change, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    rewrite(folder, change)
    before = contents(folder)
    assert cli.main(["train", "--resume", str(folder)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("metagrad: ")
    assert shown.count("\n") == 1
    assert before == contents(folder)


# ---------------------------------------------------------------------- configurations


DEEP = f'{{"type": {"[" * 100_000}{"]" * 100_000}}}'


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("type",), ["Experiment"], "the configuration must be an object with a type"),
        (("type",), "Chess", "the configuration is of an unknown type 'Chess'"),
        (("type",), "MLP", "unknown option"),
        (("game",), ["escape-room"], "game must be of type str"),
        (("preset",), None, "preset must be of type str"),
        (("task",), 3, "task must be of type VectorTask, got 3"),
        (("task",), {"type": "MLP"}, "task must be of type VectorTask"),
        (("task", "n_agents"), 2.5, "task.n_agents must be an integer, got 2.5"),
        (("task", "randomize"), "no", "task.randomize must be True or False"),
        (("agents",), "selfish", "agents must be of type Agents, got 'selfish'"),
        (("agents",), {"type": "NoDesigner"}, "agents must be of type Agents"),
        (("agents", "type"), "os:path", "agents is of an unknown type 'os:path'"),
        (("agents", "type"), "nowhere:Agents", "'nowhere:Agents' cannot be imported"),
        (("agents", "optimiser"), 5, "agents.optimiser must be of type SGD, got 5"),
        (("agents", "optimiser", "lr"), "fast", "agents.optimiser.lr must be of type float, got 'fast'"),
        (("agents", "optimiser", "lr"), 10**400, "agents.optimiser.lr is too large"),
        (("agents", "optimiser", "lr"), None, "agents.optimiser.lr must be of type float, got None"),
        (("agents", "hidden"), 8, "agents.hidden must be a sequence, got 8"),
        (("agents", "hidden"), [8] * 101, "agents.hidden must have at most 100 entries, got 101"),
        (("agents", "hidden"), [8, "8"], "agents.hidden[1] must be of type int, got '8'"),
        (("agents", "network"), {"type": "SGD", "lr": 0.1}, "agents.network must be of type Network"),
        (("agents", "critic"), {}, "agents.critic must be an object with a type"),
        (("designer",), None, "designer must be of type Designer, got None"),
        (("designer", "incentive"), [1], "designer.incentive must be of type Incentive, got (1,)"),
        (("designer", "incentive", "view"), 0, "designer.incentive.view must be of type View, got 0"),
        (("designer", "path"), False, "designer.path must be of type Path, got False"),
        (("designer", "optimiser", "eps_mode"), [1], "designer.optimiser.eps_mode must be one of"),
        (("run",), [], "run must be of type RunOptions, got ()"),
        (("run", "k"), [4], "run.k must be of type int"),
        (("run", "k"), None, "run.k must be of type int, got None"),
        (("run", "k"), True, "run.k must be of type int, got True"),
        (("run", "k"), 10**400, "run.k must be a number of at least 1"),
        (("run", "seeds"), 5, "run.seeds must be a sequence"),
        (("run", "seeds"), [], "seeds must be distinct, and at least one"),
        (("run", "seeds"), [2**53], "run.seeds[0] must be a number"),
        (("run", "seeds"), list(range(10_001)), "run.seeds must have at most 10,000 entries, got 10,001"),
        (("run", "threads"), 10**9, "run.threads must be a number of at least 1 and at most 1,024"),
        (("run", "target"), "high", "run.target must be of type float"),
        (("run", "target"), float("nan"), "NaN is no number of JSON"),
        (("run", "dtype"), "int8", "run.dtype must be one of"),
        (("run", "import"), "own:task", "run must name one import"),
        (("colour",), "red", "unknown option 'colour'"),
    ],
)  # fmt: skip
def test_values_of_wrong_types(place, value, message, tmp_path, capsys):
    values = json.loads(dump(ROOM))
    node = values
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    refused(json.dumps(values), message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Experiment", "type": "Experiment"}', "option 'type' is there twice"),
        (dump(ROOM).replace('"k": 4', '"k": 4, "k": 5'), "option 'k' is there twice"),
        (dump(ROOM).replace('"k": 4', f'"k": 1{"0" * 5000}'), "not valid JSON"),
        (DEEP, "not valid JSON"),
        (f"{'[' * 900}{']' * 900}", "config.json"),
        ("[1]", "is not the configuration of a run"),
        ("7", "is not the configuration of a run"),
        ("", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        ('{"type": "MLP"}', "is not the configuration of a run"),
        ('{"import": "own:number"}', "is not the configuration of a run"),
        ('{"game_name": "escape-room", "k": 16}', "was written by metagrad 0.1; that version reads it"),
    ],
)
def test_configurations_that_are_none(text, message, tmp_path, capsys):
    refused(text, message, tmp_path, capsys)


def refused(text, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert len(shown) < 600
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "options",
    [
        "escape-room --k 100000000 --episodes 100000000", "escape-room --eval-episodes 10000000000",
        "escape-room --eval-episodes 2000000000", "escape-room --test-episodes 2000000000",
        "escape-room --agents.hidden 1000000 1000000",
        "escape-room --designer.incentive.network.hidden 1000000 1000000",
        "escape-room --task.n-agents 1000000", "escape-room --task.max-steps 10000000000",
        "escape-room --task.max-steps 2000000000", "escape-room --seeds 1000000000", "escape-room --threads 1000000000",
        "escape-room --method dual-rl-discrete --designer.network.hidden 1000000 1000000",
        "escape-room --agent-batches 2000000000",
        "cleanup --k 100000000 --episodes 100000000", "cleanup --agents.network.hidden 1000000 1000000",
        "cleanup --agents.network.filters 100000000", "cleanup --task.steps 1000000000",
        "cleanup --designer.critic.critic.network.hidden 1000000 1000000",
        "gtb --k 100000000 --episodes 100000000", "gtb --eval-episodes 2000000000",
        "gtb --agents.network.hidden 1000000 1000000", "gtb --agents.network.map-width 1000000000",
        "gtb --task.steps 1000000000", "gtb --method dual-rl --designer.network.hidden 1000000 1000000",
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(size, "memory", lambda: 64e9)
    assert cli.main(["train", *options.split(), "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "too large for the memory" in shown or "must be" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", GAMES)
def test_presets_fit(name):
    for preset in game(name).PRESETS:
        assert sum(size.needed(experiment(name, preset)).values()) < 4e9, preset


# ---------------------------------------------------------------------- targets and phases


def table_of(summary, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(results_table(summary))
    return console.file.getvalue()


def test_one_definition_of_solved(whole, tmp_path, capsys):
    summary = run.train(with_run(ROOM, target=-1e6), tmp_path / "low", QUIET)
    assert summary["solved"] == [True, True]
    assert all(isinstance(first, int) for first in summary["first_solved_episode"])
    assert "never" not in table_of(summary)
    short = run.train(with_run(ROOM, target=-1e6, eval_period=1000), tmp_path / "few", QUIET)
    assert short["first_solved_episode"] == [64, 64]  # no ten evaluations: the test is the first look
    high = run.train(with_run(ROOM, target=1e6), tmp_path / "high", QUIET)
    shown = table_of(high)
    assert "0 solved" in shown
    assert shown.count("never") == 2
    assert "solved: mean r id of the test at the end above 1e+06" in " ".join(shown.split())
    assert cli.main(["compare", str(tmp_path / "few")]) == 0
    assert "2 of 2 above -1e+06 | 64 to 64" in capsys.readouterr().out


def test_no_target_no_column(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole(imported("own:endless")), folder)
    assert read_results(folder)["solved"] == [None, None]
    for command in ("compare", "evaluate"):
        assert cli.main([command, str(folder)]) == 0
        shown = capsys.readouterr().out
        assert "solved" not in shown
        assert "above" not in shown


def test_first_solved_by_evaluations_or_else_the_test():
    metrics = {"seed": np.zeros(12), "episode": np.arange(1.0, 13.0), "x": np.arange(12.0)}
    assert first_solved(metrics, "x", 0, 5.0, 12) == 11
    assert first_solved(metrics, "x", 0, 50.0, 12) == 12
    assert np.isnan(first_solved(metrics, "x", 0, 50.0, float("nan")))
    assert first_solved({}, "x", 0, 0.0, 7) == 7


def test_a_phase_needs_its_agents(tmp_path, capsys):
    command = ["train", "gtb", "--preset", "gtb_phase_2", "--out", str(tmp_path / "two"), "--task.anneal", "paper"]
    assert cli.main([*command, "--first-seed", "7", "--task.steps", "20"]) == 2
    shown = capsys.readouterr().err
    made = shown.split("`")[1]
    wanted = "gtb --method free-market --seeds 1 --first-seed 7 --task.steps 20 --task.anneal -888.88"
    assert made.startswith(f"metagrad train {wanted}")
    assert "--init-from" in shown
    assert not (tmp_path / "two").exists()
    _, config = cli.parse_train(made.split()[2:])
    first = experiment("gtb", "gtb", "free-market")
    assert config == replace(with_run(first, seeds=(7,)), task=replace(first.task, steps=20, anneal="paper"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_agents_from_elsewhere(name, whole, tmp_path):
    one, folder = whole(EXAMPLES[name]), tmp_path / "run"
    mine = with_run(EXAMPLES[name], init_from=str(one))
    before = contents(one)
    run.train(mine, folder, QUIET)
    assert read_experiment(folder).run.init_from == str(one)
    assert before == contents(one)
    learners = Learners(mine)
    run._adopt(learners)
    theirs = run.load_learners(one)
    for a, b in zip(learners.trainers, theirs.trainers, strict=True):
        assert all(t.equal(b.state.agents.policy[n]) for n, t in a.state.agents.policy.items())
        assert a.state.agents.batches == 0


def test_agents_that_do_not_fit(whole, tmp_path):
    one = whole(ROOM)
    part, shapes, other = tmp_path / "part", tmp_path / "shapes", tmp_path / "other"
    shutil.copytree(one, part)
    shutil.rmtree(checkpoint.saved(part / "checkpoints")[-1])
    shutil.copytree(one, shapes)
    rewrite(shapes, lambda tensors, values: tensors.update({W0: tensors[W0][:, :1].contiguous()}))
    run.train(replace(ROOM, agents=replace(ROOM.agents, optimiser=optim.Adam(0.1))), other, QUIET)
    for source, message in (
        (whole(OWN), "is a run of own:experiment, not of escape-room"),
        (tmp_path / "nowhere", "is not a run"),
        (part, "episodes; finish it with `metagrad train --resume"),
        (shapes, "agents/policy/w0 is"),
        (other, "agents/policy_opt/.* is unknown"),
    ):
        with pytest.raises(ConfigError, match="init_from") as error:
            run.train(with_run(ROOM, init_from=str(source)), tmp_path / "run", QUIET)
        assert re.search(message, str(error.value)), str(error.value)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"no agents of seed 7, but of seeds \[5, 6\]"):
        run.train(with_run(ROOM, init_from=str(one), seeds=(7,)), tmp_path / "run", QUIET)


def test_agents_of_some_seeds(whole, tmp_path):
    mine = Learners(with_run(ROOM, init_from=str(whole(ROOM)), seeds=(6,)))
    run._adopt(mine)
    theirs = run.load_learners(whole(ROOM)).trainers[0].state.agents.policy
    for name, t in mine.trainers[0].state.agents.policy.items():
        assert t.equal(theirs[name].unflatten(0, (2, -1))[1])


# ---------------------------------------------------------------------- the terminal


class Gone(io.StringIO):
    """A terminal after a hang-up."""

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_is_gone(terminal, whole, tmp_path):
    run.train(ROOM, tmp_path / "run", Console(file=Gone(), force_terminal=terminal))
    assert_same(whole(ROOM), tmp_path / "run")
    run.resume(tmp_path / "run", Console(file=Gone(), force_terminal=terminal))


def test_progress_fits_a_terminal():
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, force_interactive=True, legacy_windows=False)
    big = with_run(experiment("escape-room"), episodes=10**8)
    with LiveProgress(big, 0, console) as progress:
        progress.update(99_999_984, 123_456.0, "welfare -1234.56  incentives paid 1234.56")
        progress._progress.refresh()
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").split("\n"):
        assert len(line) <= 80, line
    assert "123,456/s" in file.getvalue()
