"""A sweep whose workers and head are killed at random; ``python tests/sweeps.py`` is the long form of test_sweep."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
STUDY = """
game = "escape-room"
preset = "er_2_1"
sampler = "{sampler}"
trials = {trials}
search_seeds = {{first = 1000, count = 1}}
report_seeds = {{first = 12340, count = 1}}

[options]
episodes = {episodes}
eval_period = 32
eval_episodes = 2
test_episodes = 5
checkpoint_period = 64

[space]
agents.optimiser.lr = {{low = 1e-4, high = 1e-2, log = true}}
designer.optimiser.lr = [1e-3, 1e-2]

[halving]
first = {first}
factor = 2
"""


def command(*args, engine="processes"):
    """A sweep as a process of a session of its own, which a terminal's signals would not reach."""
    return subprocess.Popen(
        [sys.executable, "-m", "metagrad", "sweep", *map(str, args), "--workers", "2", "--engine", engine],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def workers(pid):
    """Processes that a head has spawned to train."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def disturbed(study, folder, kills, seed=0, pause=(0.0, 8.0), heads=0.5):
    """Run a study to its end, killing a worker or the head so many times; returns how often each was."""
    draws, killed = random.Random(seed), {"head": 0, "worker": 0}
    head = command(study, "--out", folder)
    while sum(killed.values()) < kills and head.poll() is None:
        if not (folder / "trials").exists():
            time.sleep(0.1)
            continue
        time.sleep(draws.uniform(*pause))
        who, found = "head" if draws.random() < heads else "worker", workers(head.pid) if head.poll() is None else []
        if who == "worker" and found:
            os.kill(draws.choice(found), signal.SIGKILL)
            killed["worker"] += 1
        elif who == "head" and head.poll() is None:
            head.kill()
            head.wait()
            killed["head"] += 1
            head = command("--resume", folder)
    out, _ = head.communicate(timeout=1800)
    assert head.returncode == 0, out
    return killed


def check(folder, calm):
    """Assert that a study has ended as an undisturbed one did, with no trial twice and none lost."""
    assert (folder / "table.md").read_text() == (calm / "table.md").read_text()
    asked = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    created = sum(entry["op_code"] == 4 for entry in asked)
    runs = sorted(p.name for p in (folder / "trials").iterdir())
    assert runs == sorted(p.name for p in (calm / "trials").iterdir())
    assert created == len(runs)
    for name in [*(f"trials/{run}" for run in runs), "report"]:
        mine, other = (np.genfromtxt(f / name / "metrics.csv", delimiter=",", names=True) for f in (folder, calm))
        names = [n for n in mine.dtype.names if n != "wall_time"]
        np.testing.assert_array_equal(mine[names], other[names])
        ended = (folder / name / "results.json").exists()
        assert ended == (calm / name / "results.json").exists()
        if ended:
            results = [json.loads((f / name / "results.json").read_text()) for f in (folder, calm)]
            assert results[0] | {"wall_time": 0} == results[1] | {"wall_time": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("trials", 32), ("kills", 10), ("episodes", 1_280), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sampler", default="tpe")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        text = STUDY.format(sampler=options.sampler, trials=options.trials, episodes=options.episodes,
                            first=options.episodes // 4)  # fmt: skip
        (place / "study.toml").write_text(text)
        began = time.monotonic()
        killed = {"head": 0, "worker": 0} | disturbed(place / "study.toml", place / "calm", kills=0)
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        pause = (0.0, 2 * (time.monotonic() - began) / max(1, options.kills))
        killed = disturbed(place / "study.toml", place / "disturbed", options.kills, options.seed, pause)
        check(place / "disturbed", place / "calm")
        print(f"killed {killed}, and the same in {time.monotonic() - began:.0f} s altogether")
        print((place / "disturbed" / "table.md").read_text())


if __name__ == "__main__":
    main()
