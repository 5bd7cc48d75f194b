"""Hostile inputs in worker processes; each is noted before it is tried, so that a crash or a hang is counted."""

import json
import mmap
import os
import resource
import selectors
import struct
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

#: Inputs of a block; a worker reports block by block.
BLOCK = 400
#: Seconds without a new input after which a worker counts as hung; the first inputs wait for the compiler.
HANG, FIRST = 60, 900
#: How often a kind comes round, by its cost.
OFTEN = {"actions": 3, "draws": 3, "reset": 3, "restore": 3, "designer": 2, "constructor": 2, "copies": 1}
OFTEN_ALONE = {"market": 4, "tax": 8, "metrics": 3, "map": 6}
#: Cheap games are tried more often.
BY_GAME = {"escape_room": 4, "cleanup": 2, "gtb": 1, "one_step_economy": 2}
MEMORY = 8 << 30
TESTS = Path(__file__).resolve().parents[1]
#: What a worker runs first; for tests.
PRELUDE = ""


def tasks():
    """Pairs of game (or none) and kind, as often as they come round, in a fixed order that mixes them."""
    import numpy as np
    from hostile import GAME_TRIES
    from hostile_mechanisms import MECHANISM_TRIES

    import fastenvs

    out = [
        (game, kind)
        for game in fastenvs.games()
        for kind in GAME_TRIES
        for _ in range(BY_GAME.get(game, 1) * OFTEN[kind])
    ]
    out += [("", kind) for kind in MECHANISM_TRIES for _ in range(OFTEN_ALONE[kind])]
    return [out[i] for i in np.random.default_rng(0).permutation(len(out))]


def attempt(task, block, number):
    """Outcome of one input."""
    import numpy as np
    from hostile import GAME_TRIES
    from hostile_mechanisms import MECHANISM_TRIES

    game, kind = task
    rng = np.random.default_rng([block, number])
    return GAME_TRIES[kind](game, rng) if game else MECHANISM_TRIES[kind](rng)


def again(block, number):
    """Repeat one input in this process, and say what came of it."""
    every = tasks()
    task = every[(block * BLOCK + number) % len(every)]
    print(f"{task[0] or 'alone'}, {task[1]}")
    return attempt(task, block, number)


def work(mark_path):
    """Try the blocks whose numbers come on the standard input; answer each with a line of counts and faults."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    every = tasks()
    with open(mark_path, "r+b") as file:
        mark = mmap.mmap(file.fileno(), 16)
    for line in sys.stdin:
        block, first = map(int, line.split())
        counts, faults = Counter(), []
        for number in range(first, BLOCK):
            mark[:16] = struct.pack("qq", block, number)
            task = every[(block * BLOCK + number) % len(every)]
            name = f"{task[0] or 'alone'}/{task[1]}"
            try:
                counts[f"{name}/{attempt(task, block, number)}"] += 1
            except Exception:  # whatever else comes out is a fault of what is tried
                counts[f"{name}/wrong"] += 1
                faults.append({"what": name, "input": f"{block}/{number}", "error": traceback.format_exc()[-2000:]})
        print(json.dumps({"counts": counts, "faults": faults}), flush=True)


class Worker:
    """A process, the block that it is at, and when it last began an input."""

    def __init__(self, mark_path):
        self.mark_path = mark_path
        self.block = None
        self.start()

    def start(self):
        self.mark_path.write_bytes(struct.pack("qq", -1, -1))
        command = [sys.executable, "-c", f"{PRELUDE}\nfrom torture import fuzz; fuzz.work({str(self.mark_path)!r})"]
        path = os.pathsep.join(str(folder) for folder in (TESTS, TESTS.parent))
        self.process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.seen, self.since, self.limit = b"", time.monotonic(), FIRST

    def give(self, block, first=0):
        self.block = block
        self.process.stdin.write(f"{block} {first}\n".encode())
        self.process.stdin.flush()
        self.since = time.monotonic()

    def hangs(self):
        now = self.mark_path.read_bytes()
        if now != self.seen:
            self.limit = HANG if self.seen and struct.unpack("qq", now)[1] > 200 else self.limit
            self.seen, self.since = now, time.monotonic()
        return time.monotonic() - self.since > self.limit

    def at(self):
        """Block and number of the input that was begun last."""
        return struct.unpack("qq", self.mark_path.read_bytes())

    def end(self):
        self.process.kill()
        self.process.wait()


def load(folder):
    """What was reached so far."""
    path = folder / "fuzz.json"
    return json.loads(path.read_text()) if path.exists() else {"next": 0, "counts": {}, "faults": []}


def write(path, content):
    """Replace a file as a whole."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1))
    os.replace(new, path)


def run(deadline, folder, jobs):
    """Try block after block until the deadline; blocks that are not finished by then are tried again next time."""
    state = load(folder)
    counts, every = Counter(state["counts"]), tasks()
    workers = [Worker(folder / f"worker{i}.mark") for i in range(jobs)]
    selector = selectors.DefaultSelector()

    def hand_out(worker):
        worker.give(state["next"])
        state["next"] += 1

    def watch(worker):
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def lost(worker, what):
        """Count the input that a worker died or hung at, and go on behind it."""
        selector.unregister(worker.process.stdout)
        block, number = worker.at()
        worker.end()
        if block < 0:
            raise RuntimeError(f"a worker's {what} before its first input")
        task = every[(block * BLOCK + number) % len(every)]
        name = f"{task[0] or 'alone'}/{task[1]}"
        counts[f"{name}/{what}"] += 1
        state["faults"].append({"what": name, "input": f"{block}/{number}", "error": what})
        worker.start()
        watch(worker)
        if number + 1 < BLOCK:
            worker.give(block, number + 1)
        else:
            hand_out(worker)

    said = time.monotonic()
    try:
        for worker in workers:
            watch(worker)
            hand_out(worker)
        while time.monotonic() < deadline:
            for key, _ in selector.select(timeout=1):
                worker, line = key.data, key.fileobj.readline()
                if not line:
                    lost(worker, "crash")
                    continue
                result = json.loads(line)
                counts.update(result["counts"])
                state["faults"] += result["faults"]
                hand_out(worker)
            for worker in workers:
                if worker.hangs():
                    lost(worker, "hang")
            state["counts"] = dict(counts)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                write(folder / "fuzz.json", state)
                print(f"{sum(counts.values()):,} inputs", flush=True)
    finally:
        for worker in workers:
            worker.end()
            worker.mark_path.unlink(missing_ok=True)
        state["counts"] = dict(counts)
        write(folder / "fuzz.json", state)
