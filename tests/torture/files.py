"""Numba's cache as it may be found: cold with many processes at once, damaged, on a full disk."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[2]
PLAY = """
import hashlib, numpy as np, fastenvs
env = fastenvs.make("escape_room", 4, seed=0, n_agents=3, randomize=True)
env.reset()
for t in range(8):
    env.step(np.random.default_rng(t).integers(0, 3, (4, 3)))
print(hashlib.sha256(b"".join(a.tobytes() for a in env.snapshot().values())).hexdigest())
"""


def start(cache, limit=None):
    """A process that plays, with its cache in a folder, where files may grow to ``limit`` bytes."""

    def restrict():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-c", PLAY], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=restrict,
    )  # fmt: skip


def judge(process, want, what, counts):
    """Count a process as right, crashed, hung, or playing otherwise."""
    try:
        said = process.communicate(timeout=600)[0].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        counts[f"{what}/hang"] += 1
        return
    if process.returncode != 0:
        counts[f"{what}/crash" if process.returncode < 0 else f"{what}/failed"] += 1
    else:
        counts[f"{what}/right" if said == want else f"{what}/differing"] += 1


def expected(folder):
    """What an undisturbed process says; leaves a whole cache in ``whole``."""
    whole = folder / "cache"
    shutil.rmtree(whole, ignore_errors=True)
    return whole, start(whole).communicate()[0].strip()


def cold_cache(deadline, counts, folder, processes=8):
    """N processes on one cold cache, then one more on what they left, again and again."""
    whole, want = expected(folder)
    while monotonic() < deadline:
        shutil.rmtree(whole, ignore_errors=True)
        for process in [start(whole) for _ in range(processes)]:
            judge(process, want, f"{processes} processes on one cold cache", counts)
        judge(start(whole), want, "one more on the cache that they left", counts)


def damage(deadline, counts, folder):
    """Files of the cache cut short, emptied or with flipped bits, and files that cannot grow."""
    whole, want = expected(folder)
    torn = folder / "torn"
    rng = random.Random(sum(counts.values()))
    while monotonic() < deadline:
        shutil.rmtree(torn, ignore_errors=True)
        if rng.random() < 0.25:
            judge(start(torn, rng.randrange(200_000)), want, "cache on a full disk", counts)
            continue
        shutil.copytree(whole, torn)
        paths = sorted(p for p in torn.rglob("*") if p.suffix in (".nbi", ".nbc"))
        for path in rng.sample(paths, rng.randint(1, 3)):
            content = bytearray(path.read_bytes())
            if rng.random() < 0.5:
                del content[rng.randrange(len(content)) :]
            else:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        judge(start(torn), want, "damaged cache", counts)
    shutil.rmtree(torn, ignore_errors=True)
