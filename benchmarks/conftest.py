import ctypes
import time

import numpy as np
import pytest


def best_time(call, repeats=200):
    """Shortest wall time of ``call`` in seconds; the shortest is what the machine can do."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture
def memset_seconds():
    """Time to fill as many bytes with zeros, in this run, on this machine."""

    def measure(n_bytes):
        buffer = np.zeros(n_bytes, np.uint8)
        return best_time(lambda: ctypes.memset(buffer.ctypes.data, 0, n_bytes))

    return measure
