"""What may happen to a run: kills, signals, full disks, deleted folders, damaged files, impossible options."""

import io
import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save
from test_runs import assert_same_run

from metagrad import checkpoint, cli, run, size
from metagrad.config import CleanupConfig, Config, ConfigError, EconomyConfig, from_dict, load, to_dict
from metagrad.fitting import MisfitError
from metagrad.games import kit
from metagrad.log import first_solved, read_metrics, results_table
from metagrad.presets import ECONOMY_PRESETS, preset
from metagrad.train import Learner

ROOM = from_dict({
    "preset": "er_2_1", "k": 4, "episodes": 61, "seeds": [5, 6], "eval_episodes": 2, "test_episodes": 3,
    "eval_period": 7, "checkpoint_period": 9, "target": 5.0, "game": {"n_agents": 2, "min_at_lever": 1},
})  # fmt: skip
ECONOMY = from_dict({
    "method": "metagrad", "k": 2, "episodes": 9, "seeds": [5], "eval_episodes": 2, "test_episodes": 2,
    "eval_period": 3, "checkpoint_period": 3, "game": {"steps": 12, "tax_period": 5}, "agents": {"hidden": [8, 8]},
}, EconomyConfig)  # fmt: skip
CLEANUP = from_dict({
    "k": 2, "episodes": 9, "seeds": [5], "eval_episodes": 2, "test_episodes": 2, "eval_period": 3,
    "checkpoint_period": 3, "game": {"steps": 6}, "agents": {"hidden": [8, 8]}, "designer": {"hidden": [8, 8]},
}, CleanupConfig)  # fmt: skip
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed runs by configuration."""
    made = {}

    def get(config):
        if config not in made:
            made[config] = tmp_path_factory.mktemp("whole") / "run"
            run.start(config, made[config], QUIET)
        return made[config]

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
    config = replace(ROOM, k=k, episodes=90, checkpoint_period=checkpoints, eval_period=evaluations)
    folder, written, write = tmp_path / "run", [], checkpoint._write

    def failing(path, data):
        written.append(path)
        write(path, data[:10] if len(written) == number else data)
        if len(written) == number:
            raise error

    monkeypatch.setattr(checkpoint, "_write", failing)
    with pytest.raises((Killed, run.RunError)):
        run.start(config, folder, QUIET)
    monkeypatch.undo()
    if (folder / "config.json").exists():
        run.resume(folder, QUIET)
    else:
        run.start(config, folder, QUIET)
    assert_same(whole(config), folder)
    assert not list((folder / "checkpoints").glob(".*"))


def test_metrics_without_a_checkpoint_are_not_thrown_away(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    (folder / "results.json").unlink()
    for state in (folder / "checkpoints").iterdir():
        shutil.rmtree(state)
    before = contents(folder)
    with pytest.raises(run.RunError, match="no checkpoint in"):
        run.resume(folder, QUIET)
    assert before == contents(folder)


@pytest.mark.parametrize(("evaluations", "lost"), [(1, False), (2, False), (3, True)])
def test_folders_of_older_programs_without_a_checkpoint(evaluations, lost, whole, tmp_path):
    """They wrote metrics before the first checkpoint, at 12 episodes; evaluations are at 8, 16, 24."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole(ROOM) / "config.json", folder)
    lines = (whole(ROOM) / "metrics.csv").read_text().split("\n")[: 1 + 2 * evaluations]
    (folder / "metrics.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    if lost:
        with pytest.raises(run.RunError, match="though this run had one"):
            run.resume(folder, QUIET)
    else:
        run.resume(folder, QUIET)
        assert_same(whole(ROOM), folder)


# ---------------------------------------------------------------------- signals


def at_iteration(monkeypatch, number, action):
    """Do something at the start of an iteration."""
    iterate = Learner.iterate

    def disturbed(self):
        if self.iteration == number:
            action()
        iterate(self)

    monkeypatch.setattr(Learner, "iterate", disturbed)


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
        run.start(ROOM, folder, QUIET)
    monkeypatch.undo()
    assert int(checkpoint.saved(folder / "checkpoints")[-1].name) < 32
    run.resume(folder, QUIET)
    assert_same(whole(ROOM), folder)


def test_ignored_signals_stay_ignored_and_threads_can_train(whole, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_iteration(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGHUP))
        run.start(ROOM, tmp_path / "one", QUIET)
        thread = threading.Thread(target=run.start, args=(ROOM, tmp_path / "two", QUIET))
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
    with pytest.raises(run.RunError, match=r"was deleted, moved or replaced while the run was trained") as error:
        run.start(ROOM, folder, QUIET)
    assert str(folder) in str(error.value)
    left = {"replaced": {"config.json"}, "metrics": {"config.json", "checkpoints"}}.get(how)
    assert ({p.name for p in folder.iterdir()} if folder.exists() else None) == left


# ---------------------------------------------------------------------- finished runs, files, terminals


@pytest.mark.parametrize("config", [ROOM, ECONOMY, CLEANUP, replace(ECONOMY, method="metagrad-no-cv", k=4)])
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


@pytest.mark.parametrize("anneal", [False, True])
def test_an_evaluation_does_not_depend_on_the_last_one(anneal, whole, tmp_path):
    designer = replace(ECONOMY.designer, policy="network", hidden=(8, 8), lr=0.1)
    config = replace(ECONOMY, designer=designer, game=replace(ECONOMY.game, anneal=anneal), eval_period=1)
    folder = tmp_path / "run"
    shutil.copytree(whole(config), folder)
    shutil.rmtree(checkpoint.saved(folder / "checkpoints")[-1])
    run.resume(folder, QUIET)
    assert_same(whole(config), folder)


@pytest.mark.parametrize(
    "method", ["free-market", "us-federal", "saez", "fixed", "metagrad", "metagrad-no-cv", "dual-rl"]
)
def test_episodes_without_a_tax_day(method, tmp_path):
    config = replace(ECONOMY, method=method, k=2 if method != "dual-rl" else 1, game=replace(ECONOMY.game, steps=9,
                     tax_period=10), episodes=4)  # fmt: skip
    summary = run.start(config, tmp_path / "run", QUIET)
    (row,) = summary["test"]
    accounts = [row[name] for name in row if name.startswith(("rate_", "tax_", "net_tax_", "income_"))]
    assert len(accounts) == 7 + 3 * 4
    assert not any(accounts)
    assert np.isfinite(summary["welfare"]).all()
    assert not any(summary["diverged"])
    if method != "metagrad":
        return  # what follows takes long
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert cli.main(["plot", str(tmp_path / "run")]) == 0
    assert cli.main(["replay", str(tmp_path / "run")]) == 0


def test_json_without_nan(tmp_path):
    folder, config = tmp_path / "run", replace(ROOM, agents=replace(ROOM.agents, lr=1e30), episodes=16)
    run.start(config, folder, QUIET)

    def refuse(text):
        raise AssertionError(text)

    for path in (folder / "results.json", *(folder / "checkpoints").glob("*/state.json")):
        json.loads(path.read_text(), parse_constant=refuse)
    plain = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**plain, "r_id": [None, 1.5]}))
    found = run.read_results(folder)
    assert np.isnan(found["r_id"][0])
    assert found["r_id"][1] == 1.5
    run.write_results(folder, found)
    assert json.loads((folder / "results.json").read_text(), parse_constant=refuse)["r_id"] == [None, 1.5]


def test_line_ends(whole, tmp_path):
    data = (whole(ROOM) / "metrics.csv").read_bytes()
    assert b"\r" not in data
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    shutil.rmtree(checkpoint.saved(folder / "checkpoints")[-1])
    old = data.replace(b"\n", b"\r\n")
    (folder / "metrics.csv").write_bytes(old)  # as an older program wrote it, whose checkpoint knew another size
    kept = checkpoint.saved(folder / "checkpoints")[-1]
    lines = data[: json.loads((kept / "state.json").read_text())["metrics_size"]].count(b"\n")
    rewrite(folder, lambda tensors, values: values.update(metrics_size=len(b"".join(old.splitlines(True)[:lines]))))
    run.resume(folder, QUIET)
    assert (folder / "metrics.csv").read_bytes().count(b"\r\n") == old.count(b"\n")
    assert all((a == b).all() for name, a in read_metrics(folder / "metrics.csv").items() if name != "wall_time"
               for b in [read_metrics(whole(ROOM) / "metrics.csv")[name]])  # fmt: skip


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
    run.start(replace(ROOM, preset=name, episodes=16), folder, Console(force_terminal=True, width=200))
    assert name.strip() in capsys.readouterr().out
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


@pytest.mark.parametrize("config", [ROOM, ECONOMY, CLEANUP, replace(ECONOMY, method="dual-rl")])
def test_every_tensor_is_compared(config, whole):
    tensors, values = checkpoint.load(whole(config) / "checkpoints")
    learner = kit(config).learner(config)
    before = learner.state()[0]
    for name, t in tensors.items():
        for other in (None, t[None], t.double() if t.dtype.itemsize < 8 else t.int()):
            changed = {n: v for n, v in tensors.items() if n != name} | ({} if other is None else {name: other})
            with pytest.raises(MisfitError, match=name.removeprefix("5/")):
                learner.load_state(changed, values)
    with pytest.raises(MisfitError, match="more"):
        learner.load_state(tensors | {"more": t}, values)
    assert all(t.equal(before[name]) for name, t in learner.state()[0].items())
    learner.load_state(tensors, values)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, values: tensors.update({"theta/w0": tensors["theta/w0"][:, :1].contiguous()}),
        lambda tensors, values: values.pop("eval_streams"),
        lambda tensors, values: values.update(episode="61"),
        lambda tensors, values: values.update(optimiser_steps={}),
        lambda tensors, values: values.update(metrics_size=-1),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"game_name": ["gtb"]}', "game_name must be one of"),
        ('{"game_name": "escape-room", "k": [4]}', "k must be of type int"),
        ('{"game_name": "escape-room", "k": null}', "k must be of type int"),
        ('{"game_name": "escape-room", "k": true}', "k must be of type int"),
        ('{"game_name": "escape-room", "k": {"a": 1}}', "k must be of type int"),
        ('{"game_name": "escape-room", "k": 4, "k": 5}', "option k is there twice"),
        ('{"game_name": "escape-room", "game": 3}', "game must be an object"),
        ('{"game_name": "escape-room", "method": [1]}', "method must be one of"),
        ('{"game_name": "escape-room", "seeds": 5}', "seeds must be a list of int"),
        ('{"game_name": "escape-room", "agents": {"lr": "fast"}}', "agents.lr must be of type float"),
        (f'{{"game_name": "escape-room", "agents": {{"lr": 1{"0" * 400}}}}}', "agents.lr is out of range"),
        (f'{{"game_name": "escape-room", "dual": {{"levels": [1{"0" * 400}]}}}}', "dual.levels must be finite"),
        (f'{{"game_name": "escape-room", "k": 1{"0" * 400}}}', "k must be below 2**53"),
        (f'{{"game_name": "escape-room", "k": 1{"0" * 5000}}}', "not valid JSON"),
        (f'{{"game_name": {"[" * 100_000}{"]" * 100_000}}}', "not valid JSON"),
        ('{"game_name": "cleanup", "agents": {"hidden": [8]}}', "agents.hidden must have 2 entries"),
        ('{"game_name": "escape-room", "threads": 1000000000}', "threads must be at most"),
        ('{"game_name": "escape-room", "target": "high"}', "target must be of type float"),
        ("[1]", "game_name must be one of"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_configurations_of_wrong_types(text, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert len(shown) < 400
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "options",
    [
        "escape-room --k 100000000 --episodes 100000000", "escape-room --eval-episodes 10000000000",
        "escape-room --test-episodes 10000000000", "escape-room --agents.hidden 1000000 1000000",
        "escape-room --game.n-agents 1000000", "escape-room --game.max-steps 10000000000",
        "escape-room --seeds 1000000000", "escape-room --threads 1000000000",
        "escape-room --method dual-rl-discrete --dual.hidden 1000000 1000000",
        "cleanup --k 10000000 --episodes 10000000", "cleanup --agents.hidden 1000000 1000000",
        "cleanup --game.steps 1000000000", "gtb --k 10000000 --episodes 10000000", "gtb --eval-episodes 1000000000",
        "gtb --agents.hidden 1000000 1000000", "gtb --agents.filters 100000000", "gtb --game.steps 1000000000",
        "gtb --method dual-rl --planner.hidden 1000000 1000000",
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(size, "memory", lambda: 64e9)
    assert cli.main(["train", *options.split(), "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert "too large for the memory" in shown or "must be" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_presets_fit():
    for configs in (ECONOMY_PRESETS, kit(Config()).presets, kit(CleanupConfig()).presets):
        for name in configs:
            config = configs[name]()
            assert sum(size.needed(config).values()) < 4e9, name


# ---------------------------------------------------------------------- targets and phases


def table_of(summary, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(results_table(summary))
    return console.file.getvalue()


def test_one_definition_of_solved(whole, tmp_path, capsys):
    summary = run.start(replace(ROOM, target=-1e6), tmp_path / "low", QUIET)
    assert summary["solved"] == [True, True]
    assert all(isinstance(first, int) for first in summary["first_solved_episode"])
    assert "never" not in table_of(summary)
    short = run.start(replace(ROOM, target=-1e6, eval_period=1000), tmp_path / "few", QUIET)
    assert short["first_solved_episode"] == [64, 64]  # no ten evaluations: the test is the first look
    high = run.start(replace(ROOM, target=1e6), tmp_path / "high", QUIET)
    shown = table_of(high)
    assert "0 solved" in shown
    assert shown.count("never") == 2
    assert "solved: mean r id of the test at the end above 1e+06" in " ".join(shown.split())
    assert cli.main(["compare", str(tmp_path / "few")]) == 0
    assert "2 of 2 above -1e+06 | 64 to 64" in capsys.readouterr().out


def test_older_results_agree_as_well(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole(ROOM), folder)
    old = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(
        json.dumps(old | {"solved": [True, False], "first_solved_episode": [None] * 2})
    )
    assert run.read_results(folder)["first_solved_episode"] == [ROOM.episodes, None]


def test_no_target_no_column(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole(ECONOMY), folder)
    for command in ("compare", "evaluate"):
        assert cli.main([command, str(folder)]) == 0
        shown = capsys.readouterr().out
        assert "solved" not in shown
        assert "above" not in shown
    values = json.loads((folder / "config.json").read_text()) | {"target": 0.0}  # as older programs wrote it
    (folder / "config.json").write_text(json.dumps(values))
    rewrite(folder, lambda tensors, values: values["config"].update(target=0.0))
    old = json.loads((folder / "results.json").read_text()) | {"target": 0.0, "solved": [True]}
    (folder / "results.json").write_text(json.dumps(old))
    assert load(folder / "config.json").target is None
    for command in ("compare", "evaluate"):
        assert cli.main([command, str(folder)]) == 0
        assert "solved" not in capsys.readouterr().out
    before = contents(folder)
    assert run.resume(folder, QUIET)["target"] is None
    assert before == contents(folder)


def test_first_solved_by_evaluations_or_else_the_test():
    metrics = {"seed": np.zeros(12), "episode": np.arange(1.0, 13.0), "x": np.arange(12.0)}
    assert first_solved(metrics, "x", 0, 5.0, 12) == 11
    assert first_solved(metrics, "x", 0, 50.0, 12) == 12
    assert np.isnan(first_solved(metrics, "x", 0, 50.0))
    assert first_solved({}, "x", 0, 0.0, 7) == 7


def test_a_phase_needs_its_agents(tmp_path, capsys):
    command = ["train", "gtb", "--preset", "gtb_phase_2", "--out", str(tmp_path / "two"), "--game.anneal"]
    assert cli.main([*command, "--first-seed", "7"]) == 2
    shown = capsys.readouterr().err
    made = shown.split("`")[1]
    assert made.startswith("metagrad train gtb --preset gtb --seeds 1 --first-seed 7 --game.anneal --out ")
    assert "--init-from" in shown
    assert not (tmp_path / "two").exists()
    _, config = cli._parse_train(made.split()[2:])
    assert config == replace(preset("gtb", ECONOMY_PRESETS), seeds=(7,), game=replace(config.game, anneal=True))


def test_agents_from_elsewhere(whole, tmp_path, capsys):
    one = whole(replace(ECONOMY, method="free-market"))
    part = tmp_path / "part"
    shutil.copytree(one, part)
    shutil.rmtree(checkpoint.saved(part / "checkpoints")[-1])
    shapes = tmp_path / "shapes"
    shutil.copytree(one, shapes)
    rewrite(shapes, lambda tensors, values: tensors.update({"5/policy_state/m/c0": tensors["5/policy/map"]}))
    for source, message in (
        (whole(ROOM), "is a run of escape-room, not of gtb"),
        (tmp_path / "nowhere", "is not a run"),
        (part, "it has trained 6 of 9 episodes; finish it with `metagrad train --resume"),
        (shapes, "another policy: policy_state/m/c0 differs"),
    ):
        with pytest.raises(ConfigError, match="init_from") as error:
            run.start(replace(ECONOMY, init_from=str(source)), tmp_path / "run", QUIET)
        assert message in str(error.value)
        assert not (tmp_path / "run").exists()
    run.start(replace(ECONOMY, init_from=str(one)), tmp_path / "run", QUIET)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert to_dict(load(tmp_path / "run" / "config.json"))["init_from"] == str(one)
