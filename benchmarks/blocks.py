"""Blocks of calls, alternated: every setting of a comparison runs in turn, within one sitting.

A machine that changes its speed within minutes does so to all settings alike then. Nothing but the standard library is
imported, and nothing newer than Python 3.8 used, since other people's simulators run this in interpreters of their own.
"""

import json
import math
import os
import resource
import select
import statistics
import subprocess
import sys
import time


def processor_time():
    """Seconds that this process and its children have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


#: What blocks are timed with: wall time, or processor time where the variable says so.
CLOCK_VARIABLE = "BENCHMARK_CLOCK"
clock = processor_time if os.environ.get(CLOCK_VARIABLE) == "processor" else time.perf_counter


def timed(call, calls):
    """Seconds of a number of calls."""
    start = clock()
    for _ in range(calls):
        call()
    return clock() - start


class Block:
    """Calls that are timed together, so that slow ones count as often as they come.

    Parameters
    ----------
    call : callable
    multiple : int
        Blocks are whole multiples of so many calls: the steps of an episode, whose reset then counts.
    seconds : float
        Length of a block at least; 0 for a single multiple.
    """

    def __init__(self, call, multiple=1, seconds=0.1):
        self.call, self.multiple, self.at_least = call, multiple, seconds
        self.calls = None

    def __call__(self):
        """Mean seconds of a call over one block; the first time after calls that warm up."""
        if self.calls is None:
            self.call()  # compiles
            once = timed(self.call, self.multiple) if self.at_least else 1
            self.calls = self.multiple * max(1, math.ceil(self.at_least / max(once, 1e-6)))
        return timed(self.call, self.calls) / self.calls


def alternate(blocks, rounds):
    """What each of ``blocks``, a dict of callables, gives in every round; a round runs all, each second one backwards.

    A round before them warms up and does not count.
    """
    found = {name: [] for name in blocks}
    for i in range(rounds + 1):
        for name in list(blocks)[:: 1 if i % 2 else -1]:
            value = blocks[name]()
            if i:
                found[name].append(value)
    return found


def middle_and_range(values):
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def serve(prepare):
    """Measure blocks for a :class:`Worker`: ``prepare(case)`` gives a :class:`Block` and what there is to say of it.

    The last case is let go before the next is prepared.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    held, block, facts = None, None, {}
    for line in sys.stdin:
        case = line.strip()
        try:
            if case != held:
                block = None
                held, (block, facts) = case, prepare(case)
            answer = dict(facts, seconds=block())
        except (Exception, SystemExit) as error:
            held, answer = None, {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class WorkerError(RuntimeError):
    """A worker that died, hangs, or cannot do what is asked."""


class Worker:
    """A process that measures blocks, on one thread, while nothing else of ours runs.

    Parameters
    ----------
    command : list of str
        Runs :func:`serve`.
    environment : dict
        Variables besides those of this process.
    timeout : float
        Seconds that a block may take, compilation included.
    """

    def __init__(self, command, environment, timeout=600):
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        self.timeout = timeout
        self._process = subprocess.Popen(
            command, env={**os.environ, **one, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, case):
        """One block of a case: its mean ``seconds`` a call, and what there is to say of the case."""
        process = self._process
        try:
            process.stdin.write(case + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError("the process has ended") from None
        if not select.select([process.stdout], [], [], self.timeout)[0]:
            self.close()
            raise WorkerError(f"no answer in {self.timeout} s")
        line = process.stdout.readline()
        if not line:
            raise WorkerError("the process has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
