"""One game through three doors: the PPO of the documentation, that of sb3-contrib, and that of TorchRL learn."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_single_file():
    """In a few iterations agents stop wasting labor; the picture in the documentation shows how it goes on."""
    module = example("ppo_gtb")
    assert len((EXAMPLES / "ppo_gtb.py").read_text().splitlines()) < 200
    curve = np.array(module.train(8, copies=16, report=lambda line: None))
    ended = curve[np.isfinite(curve)]
    assert len(ended) == 4
    assert ended[-1] > ended[0] + 1


def test_sb3():
    pytest.importorskip("sb3_contrib", reason="extra 'sb3' is not installed")
    model = example("ppo_gtb_sb3").train(16 * 100, copies=16, verbose=0)
    assert np.isfinite([episode["r"] for episode in model.ep_info_buffer]).all()


def test_torchrl():
    pytest.importorskip("torchrl", reason="extra 'torchrl' is not installed")
    torch.manual_seed(0)
    curve = example("ppo_gtb_torchrl").train(4, copies=16, report=lambda line: None)
    assert curve[-1] > curve[0] + 1
