"""Steps per second of other people's simulators and of ours in alternating blocks, each on one core.

Games and maps are the nearest there are, not the same. A peer is skipped whose interpreter is not named by ``--peer``.
"""

import sys
from pathlib import Path

import pytest
from blocks import Worker, WorkerError, alternate

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from simulators import PEERS  # noqa: E402


def worker(python, *paths):
    """A process that measures one simulator."""
    return Worker([python, str(HERE / "simulators.py")], {"PYTHONPATH": ":".join(map(str, (HERE.parent, *paths)))})


@pytest.mark.parametrize("peer", PEERS)
def test_peer(benchmark, request, peer):
    _, interpreter, copies, nearest = PEERS[peer]
    named = dict(option.split("=", 1) for option in request.config.getoption("--peer"))
    if interpreter not in named:
        pytest.skip(f"no interpreter with it is named: --peer {interpreter}=PYTHON")
    rounds = request.config.getoption("--blocks")

    def both():
        rows = []
        for n in copies:
            with worker(named[interpreter]) as theirs, worker(sys.executable, HERE.parent.parent) as ours:
                cases = {"theirs": (theirs, f"{peer}/{n}"), "ours": (ours, f"{nearest}/{n}")}
                rows.append((n, alternate({k: lambda w=w, c=c: w.ask(c) for k, (w, c) in cases.items()}, rounds)))
        return rows

    try:
        found = benchmark.pedantic(both, rounds=1)
    except WorkerError as error:
        if "ModuleNotFoundError" in str(error):
            pytest.skip(str(error))
        raise
    rows = [
        {
            "setting": peer, "unit": "env steps", "units": n, "n_agents": f["theirs"][0]["agents"],
            "seconds": [a["seconds"] / a["steps"] for a in f["theirs"]], "ours": nearest, "ours_units": n,
            "ours_agents": f["ours"][0]["agents"], "ours_seconds": [a["seconds"] for a in f["ours"]],
        }
        for n, f in found
    ]  # fmt: skip
    benchmark.extra_info.update(table="peers", rows=rows)
