"""Several processes train as one would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from parallel import CASES, main
from safetensors.torch import load_file

from metagrad.experiment.cli import main as main_of_the_command
from metagrad.experiment.metrics import read_metrics

HERE = Path(__file__).parent
ITERATIONS = 20
#: Cases that always run, each of another kind; the others with ``pytest -m long``.
MOST = [
    "room_metagrad", "room_three_steps", "room_ppo", "room_few_rows", "room_dual-rl-discrete", "room_amd", "room_lio",
    "river_metagrad", "river_cloned", "economy_metagrad", "economy_dual-rl", "economy_saez", "own",
]  # fmt: skip


def kept(n, case):
    return n == 2 and case in MOST


def together(n, out, iterations, cases, start="-"):
    """Train cases with n processes; returns what each has learned."""
    out.mkdir(exist_ok=True)
    if n == 1:
        main(out, iterations, cases, None if start == "-" else start)
    else:
        _spawn(n, [str(out), str(iterations), str(start), *cases])
    return {case: dict(np.load(out / f"{case}.npz")) for case in cases}


def _spawn(n, args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "parallel.py"), *args]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(n)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
        codes = [process.returncode for process in processes]
        assert codes == [0] * n, "\n".join(errors)
    finally:
        for process in processes:
            process.kill()


def same(case, found, wanted, tolerance=1e-9):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        y = found[name]
        # A copy whose episode is over is stepped until all are that one process plays, and shows what it may.
        if case.startswith(("room", "own")) and name.startswith(("state/env/state", "state/env/buffers")):
            continue
        if x.dtype.kind == "f" and not name.startswith("state/env/"):
            scale = max(np.abs(x).max(initial=0.0), 1e-3)
            np.testing.assert_allclose(y, x, rtol=0, atol=tolerance * scale, err_msg=name)
        else:
            np.testing.assert_allclose(y, x, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What n processes have learned, all cases at once for the sake of their start."""
    found = {}

    def by(n, case, short):
        if (n, case) not in found:
            cases = MOST if short else [c for c in CASES if n != 2 or c not in MOST]
            for name, learned in together(n, tmp_path_factory.mktemp(f"by_{n}"), ITERATIONS, cases).items():
                found[n, name] = learned
        return found[n, case]

    return by


@pytest.mark.parametrize(
    ("n", "case"),
    [pytest.param(n, case, marks=() if kept(n, case) else pytest.mark.long) for n in (2, 4) for case in CASES],
)
def test_processes_train_as_one_would(trained, n, case):
    """Parameters, optimisers, pending episodes, environments and scores, in double precision."""
    short = kept(n, case)
    same(case, trained(n, case, short), trained(1, case, short))


def test_a_checkpoint_does_not_depend_on_the_number_of_processes(tmp_path):
    """What two have begun goes on with one and with four, as if it had been one all along."""
    cases = ["room_metagrad", "economy_metagrad", "economy_saez", "river_metagrad"]
    together(2, tmp_path / "two", 3, cases)
    wanted = together(1, tmp_path / "one", 6, cases)
    for n in (1, 4):
        found = together(n, tmp_path / f"on_{n}", 3, cases, tmp_path / "two")
        for case in cases:
            same(case, found[case], wanted[case])


# ---------------------------------------------------------------------- the command line

SHORT = ["escape-room", "--preset", "er_2_1", "--seeds", "2", "--dtype", "float64", "--eval-period", "64",
         "--checkpoint-period", "32"]  # fmt: skip


def command(*args):
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "metagrad", "train", *map(str, args)], env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process, status=0):
    out, error = process.communicate(timeout=300)
    assert process.returncode == status, error
    return out, error


def results_of(folder):
    found = json.loads((folder / "results.json").read_text())
    return {name: found[name] for name in found["fields"]}


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_command_writes_what_one_process_writes(tmp_path, seeds):
    """Two processes share two seeds, which changes no bit, and of three seeds the episodes."""
    options = [*SHORT, "--seeds", seeds, "--episodes", 160]
    finished(command(*options, "--out", tmp_path / "one"))
    out, _ = finished(command(*options, "--processes", 2, "--out", tmp_path / "two"))
    assert out.count("run: ") == 1
    one, two = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one.keys() - {"wall_time"}:
        if seeds == 2:
            np.testing.assert_array_equal(two[name], one[name], err_msg=name)
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-7, err_msg=name)
    for name, wanted in results_of(tmp_path / "one").items():
        assert results_of(tmp_path / "two")[name] == pytest.approx(wanted)


def tensors_of(folder):
    return load_file(max((folder / "checkpoints").glob("0*")) / "state.safetensors")


@pytest.mark.parametrize(
    ("game", "options"),
    [
        ("gtb", ["--task.steps", "20", "--task.tax-period", "5"]),
        pytest.param("escape-room", ["--preset", "er_2_1_ac", "--method", "amd"], marks=pytest.mark.long),
        pytest.param(
            "gtb", ["--preset", "gtb_paper", "--task.steps", "10", "--task.tax-period", "5"], marks=pytest.mark.long
        ),
    ],
    ids=str,
)
def test_processes_share_seeds_bit_for_bit(tmp_path, game, options):
    """Checkpoints too, and the run goes on with another number of processes."""
    common = [game, *options, "--seeds", 2, "--k", 2, "--eval-period", 4, "--eval-episodes", 2, "--test-episodes", 2,
              "--checkpoint-period", 4]  # fmt: skip
    finished(command(*common, "--episodes", 12, "--out", tmp_path / "one"))
    finished(command(*common, "--episodes", 8, "--processes", 2, "--out", tmp_path / "two"))
    finished(command("--resume", tmp_path / "two", "--episodes", 12))
    one, two = (tensors_of(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, t in one.items():
        assert t.equal(two[name]), name
    assert results_of(tmp_path / "one") == results_of(tmp_path / "two")


def test_processes_whose_episodes_end_at_different_steps_share_seeds(tmp_path):
    """Their batches are of different lengths, which a checkpoint brings to one."""
    options = [*SHORT, "--episodes", 320, "--checkpoint-period", 160]
    finished(command(*options, "--out", tmp_path / "one"))
    finished(command(*options, "--processes", 2, "--out", tmp_path / "two"))
    one, two = (tensors_of(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, t in one.items():
        if "/env/" not in name:  # a copy whose episode is over is stepped until all are that one process plays
            assert t.equal(two[name]), name


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def begun(process, folder):
    """Wait for a second checkpoint."""
    for _ in range(1200):
        if len(list((folder / "checkpoints").glob("0*"))) > 1:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies_ends_the_run_with_one_message(tmp_path, dies):
    """The last checkpoint is intact."""
    folder = tmp_path / "run"
    process = command(*SHORT, "--episodes", 100_000, "--processes", 2, "--out", folder)
    begun(process, folder)
    os.kill(sorted(children(process))[dies], signal.SIGKILL)
    _, error = finished(process, 128 + signal.SIGKILL)
    assert len(said := [line for line in error.splitlines() if line.startswith("metagrad: ")]) == 1, error
    assert f"process {dies} of the run was ended by SIGKILL" in said[0]
    assert main_of_the_command(["evaluate", str(folder), "--episodes", "2"]) == 0


def test_a_signal_stops_all_of_them_after_the_same_iteration(tmp_path):
    folder = tmp_path / "run"
    process = command(*SHORT, "--episodes", 100_000, "--processes", 2, "--out", folder)
    begun(process, folder)
    process.send_signal(signal.SIGTERM)
    _, error = finished(process, 128 + signal.SIGTERM)
    assert error.count("go on with") == 1


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--seeds", "1", "--k", "15"], "2 processes cannot share k = 15 episodes evenly"),
        (["--agents.gamma", "3"], "gamma"),
    ],
)
def test_what_cannot_work_is_said_once(tmp_path, args, reason):
    _, error = finished(command(*SHORT, *args, "--processes", 2, "--out", tmp_path / "run"), 2)
    assert error.count(reason) == 1
    assert not (tmp_path / "run").exists()
