"""The scripts behind the results pages: every command that they give is one that the command line takes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from metagrad.experiment.cli import parse_train

STUDIES = ["escape_room_study", "cleanup_study", "gtb_study", "one_step_study"]
# Stands for the command: writes its arguments down, and makes the files that a run leaves.
STUB = """#!/usr/bin/env bash
{ printf '%s\\n' "$@"; echo --end--; } >>"$LOG"
[ "$1" = train ] || exit 0
while [ "$1" != --out ]; do shift; done
mkdir -p "$2"
touch "$2"/{config.json,results.json,metrics.csv}
"""


def commands(study, folder):
    """What a study calls ``metagrad`` with."""
    for path, text in (("ci/setup", "#!/bin/sh\n"), (".venv/bin/metagrad", STUB)):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
        (folder / path).chmod(0o755)
    (folder / "benchmarks").mkdir()
    script = Path(__file__).parent.parent / "benchmarks" / study
    shutil.copy(script, folder / "benchmarks")
    environment = {"PATH": "/usr/bin:/bin", "LOG": str(folder / "log")}
    subprocess.run(["bash", folder / "benchmarks" / study], env=environment, check=True, capture_output=True)
    return [c.splitlines() for c in (folder / "log").read_text().split("--end--\n") if c]


@pytest.mark.skipif(shutil.which("bash") is None, reason="the studies are scripts of bash")
@pytest.mark.parametrize("study", STUDIES)
def test_every_command_of_a_study_is_understood(study, tmp_path):
    called = commands(study, tmp_path)
    runs = {}
    for command in (c for c in called if c[0] == "train"):
        folder, e = parse_train(command[1:])
        assert folder.name not in runs, "two runs with one folder"
        runs[folder.name] = e
        if e.run.init_from is not None:
            assert set(e.run.seeds) <= set(runs[Path(e.run.init_from).name].run.seeds)
    assert len(runs) > 5
    shown = {Path(a).name for c in called if c[0] in ("compare", "plot") for a in _until_option(c[1:])}
    assert shown <= set(runs)
    assert {"compare", "plot"} <= {c[0] for c in called}
    assert shown, "nothing is shown"


def _until_option(arguments):
    return arguments[: arguments.index("--out")] if "--out" in arguments else arguments
