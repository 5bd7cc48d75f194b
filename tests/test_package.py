"""Imports: what is loaded, and what is not."""

import subprocess
import sys

import pytest

import fastenvs


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_fastenvs_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; sys.modules['metagrad'] = None; "
    run(blocked + "import fastenvs, fastenvs.tax\nfor name in fastenvs.games():\n    fastenvs.make(name, 2).reset()")


def test_importing_fastenvs_loads_nothing_heavy():
    loaded = run("import fastenvs, sys; print(' '.join(sys.modules))").split()
    assert not {"numba", "gymnasium", "torch", "numpy"} & set(loaded)


def test_unknown_game():
    with pytest.raises(ValueError, match="escape_room"):
        fastenvs.make("chess")
