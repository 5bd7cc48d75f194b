"""``compare.py`` on this tree and itself: short, and only that it works; it runs with the tests."""

from pathlib import Path

import compare
import pytest
from blocks import Block, alternate, middle_and_range

from fastenvs import jit

ROOT = Path(__file__).parent.parent

compiled = pytest.mark.skipif(
    jit.PURE_PYTHON or not list(ROOT.glob("fastenvs/_market*.so")), reason="nothing is compiled here"
)


@compiled
def test_tree_with_itself(capsys):
    bars = ["--bar", "0", "--bar", "er*=1000"]
    assert compare.main([str(ROOT), "--only", "er-step-1", "--blocks", "1", "--clock", "processor", *bars[:2]]) == 0
    row = capsys.readouterr().out.splitlines()[-2]
    assert row.startswith("| er-step-1 |")
    assert float(row.split("|")[4]) > 0
    assert compare.main([str(ROOT), "--only", "er-step-1", "--blocks", "1", *bars]) == 1
    assert "under it" in capsys.readouterr().out


def test_a_folder_without_a_tree(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path)])
    assert "is not a built checkout" in capsys.readouterr().err


def test_ratio_is_of_neighbouring_blocks():
    old = {"seconds": 2.0, "units": 3}
    assert compare.ratios([(old, {"seconds": 1.0, "units": 3}), (old, {"seconds": 4.0, "units": 12})]) == [2, 2]


def test_every_case_can_be_chosen():
    assert compare.chosen(None) == list(compare.CASES)
    assert compare.chosen(["gtb-step-?"]) == ["gtb-step-1"]
    assert "gtb-learner" in compare.chosen(["learner"])


def test_blocks_are_whole_episodes_and_alternate():
    calls, order = [], []
    block = Block(lambda: calls.append(0), multiple=5, seconds=0)
    block()
    before = len(calls)
    block()
    assert len(calls) - before == block.calls == 5
    found = alternate({n: lambda n=n: order.append(n) or len(order) for n in "ab"}, 2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [len(values) for values in found.values()] == [2, 2]
    assert middle_and_range([3, 1, 2]) == (2, 1, 3)
