"""Imports: what is loaded, and what is not."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastenvs


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_version_stands_in_one_place():
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert "\nversion:" not in (root / "docs" / "CITATION.cff").read_text()


def test_fastenvs_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; sys.modules['metagrad'] = None; "
    run(blocked + "import fastenvs, fastenvs.tax\nfor name in fastenvs.games():\n    fastenvs.make(name, 2).reset()")


def test_importing_fastenvs_loads_nothing_heavy():
    loaded = run("import fastenvs, sys; print(' '.join(sys.modules))").split()
    assert not {"numba", "gymnasium", "torch", "numpy"} & set(loaded)


@pytest.mark.parametrize("option", ["--help", "-h", "--version", ""])
def test_help_and_version_load_nothing_heavy(option):
    code = f"import sys; from metagrad.experiment.cli import main; main('{option}'.split()); print(*sys.modules)"
    loaded = run(code).split()
    assert not {"torch", "numpy", "numba", "rich", "tyro"} & set(loaded)


def test_public_names_are_imported_when_they_are_used():
    """The names of the static block, ``__all__`` and what is found are the same."""
    import metagrad

    (block,) = (n for n in ast.parse(Path(metagrad.__file__).read_text()).body if isinstance(n, ast.If))
    homes = {a.name: i.module for i in block.body if isinstance(i, ast.ImportFrom) for a in i.names}
    assert sorted(homes) == sorted(metagrad.__all__)
    assert set(homes) <= set(dir(metagrad))
    for name, home in homes.items():
        assert getattr(metagrad, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metagrad.nothing
    shown = run("import os, metagrad, sys; print(os.environ['MKL_CBWR'], 'torch' in sys.modules)")
    assert shown.split() == ["AUTO", "False"]


def test_the_usage_names_every_game():
    from metagrad.experiment.cli import USAGE
    from metagrad.tasks import GAMES

    assert all(name in USAGE for name in GAMES)


def test_unknown_game():
    with pytest.raises(ValueError, match="escape_room"):
        fastenvs.make("chess")


def test_types_of_games_and_steps_are_known():
    """Mypy knows what ``make`` returns by the name of the game, and what ``reset`` and ``step`` return."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    code = """
import fastenvs
import numpy as np
from numpy.typing import NDArray
from typing import Any, assert_type
env = fastenvs.make("gtb", 2)
env.set_rates([0.1] * 7)
assert_type(env.reset(), tuple[dict[str, Any], dict[str, Any]])
assert_type(env.step(np.zeros((2, 4), int))[1], NDArray[np.float32])
fastenvs.make("cleanup").locations
fastenvs.make("escape_room").render()
fastenvs.make(str("gtb")).set_rates([])
"""
    out, errors, _ = api.run(["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "-c", code])
    assert out.startswith('<string>:12: error: "VecEnv" has no attribute "set_rates"'), out + errors
    assert "Found 1 error" in out


@pytest.mark.parametrize("name", ["gymnasium", "pettingzoo"])
def test_adapters_without_networks_need_no_torch(name):
    pytest.importorskip(name, reason=f"extra {name!r} is not installed")
    run(f"import sys; sys.modules['torch'] = None; import fastenvs.adapters.{name}")
