"""The long form finds what it is for: crashes, hangs and wrong outcomes are counted with their inputs."""

import time
from collections import Counter

import hostile
import hostile_mechanisms
import pytest

fuzz = pytest.importorskip("torture.fuzz", reason="needs resource limits")
from torture import report  # noqa: E402

BAD = """
import os, time, hostile, hostile_mechanisms
hostile_mechanisms.MECHANISM_TRIES = {}
calls = []
def crash(game, rng):
    if rng.random() < 0.01: os.abort()
    return "refused"
def hang(game, rng):
    calls.append(0)
    if len(calls) == 120: time.sleep(1000)
    return "accepted"
def wrong(game, rng):
    raise hostile.Wrong("as expected")
hostile.GAME_TRIES = {"actions": crash, "draws": hang, "reset": wrong}
"""


def test_faults_are_counted_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "PRELUDE", BAD)
    monkeypatch.setattr(fuzz, "FIRST", 20)
    monkeypatch.setattr(fuzz, "HANG", 1)
    monkeypatch.setattr(hostile, "GAME_TRIES", dict.fromkeys(("actions", "draws", "reset")))
    monkeypatch.setattr(hostile_mechanisms, "MECHANISM_TRIES", {})
    for seconds in (9, 4):  # the second goes on where the first stopped
        before = fuzz.load(tmp_path)
        fuzz.run(time.monotonic() + seconds, tmp_path, 2)
    state = fuzz.load(tmp_path)
    assert state["next"] > before["next"] > 0
    counts = Counter()
    for name, n in state["counts"].items():
        counts[tuple(name.split("/")[1:])] += n
        counts[name.split("/")[2]] += n
    assert counts["actions", "crash"] > 0
    assert counts["draws", "hang"] > 0
    assert counts["draws", "accepted"] > counts["draws", "hang"]
    assert counts["reset", "wrong"] > 0
    assert not counts["reset", "accepted"]
    assert {f["input"].count("/") for f in state["faults"]} == {1}
    assert report.failed(Counter(state["counts"]))
    table = report.markdown(Counter(state["counts"]))
    assert "| all |" in table
    assert any("FAULT" in line for line in report.lines(Counter(state["counts"]), state["faults"]))
