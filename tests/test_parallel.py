"""Several processes train as one would."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parallel import CASES, main

HERE = Path(__file__).parent
ITERATIONS = 20


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
        for process in processes:
            _, error = process.communicate(timeout=600)
            assert process.returncode == 0, error
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
def alone(tmp_path_factory):
    return together(1, tmp_path_factory.mktemp("alone"), ITERATIONS, list(CASES))


@pytest.fixture(scope="module", params=[2, 4])
def shared(request, tmp_path_factory):
    return together(request.param, tmp_path_factory.mktemp("shared"), ITERATIONS, list(CASES))


@pytest.mark.parametrize("case", CASES)
def test_processes_train_as_one_would(alone, shared, case):
    """Parameters, optimisers, pending episodes, environments and scores, in double precision."""
    same(case, shared[case], alone[case])
