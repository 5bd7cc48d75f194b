"""Gather-Trade-Build on the command line: runs, phases, tables and pictures."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from metagrad.experiment import cli

RUN = [
    "--episodes", "36", "--k", "4", "--eval-period", "8", "--eval-episodes", "3", "--checkpoint-period", "12",
    "--test-episodes", "4", "--task.steps", "20", "--task.tax-period", "5", "--agents.minibatches", "2",
]  # fmt: skip
SMALL = ["--agents.network.map-width", "8", "--agents.network.hidden", "8"]
CONV = ["--agents.network.filters", "2", "--agents.network.hidden", "6"]
DESIGNER = ["--designer.network.hidden", "8", "--designer.network.filters", "2"]
OPTIONS = {
    "free-market": ["--seeds", "2"],
    "us-federal": ["--seeds", "2", "--task.anneal", "paper"],
    "saez": ["--seeds", "2", "--agents.epochs", "2"],
    "fixed": ["--seeds", "1", "--agents.minibatches", "1"],
    "metagrad": ["--seeds", "2"],
    "metagrad-no-cv": ["--seeds", "1", "--agents.minibatches", "1"],
    "dual-rl": ["--seeds", "2", "--task.anneal", "paper", *DESIGNER],
}


def train(method, out, *options):
    return cli.main(["train", "gtb", *RUN, *SMALL, "--method", method, "--out", str(out), *options])


def last(folder):
    return sorted((folder / "checkpoints").iterdir())[-1] / "state.safetensors"


@pytest.mark.parametrize("method", list(OPTIONS))
def test_runs_resume_bit_for_bit(method, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(method, whole, *OPTIONS[method]) == 0
    shutil.copytree(whole, cut)
    (cut / "results.json").unlink()
    shutil.rmtree(last(cut).parent)
    assert cli.main(["train", "--resume", str(cut)]) == 0
    a, b = load_file(last(whole)), load_file(last(cut))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name
    one, two = (json.loads((f / "results.json").read_text()) for f in (whole, cut))
    assert {**one, "wall_time": 0} == {**two, "wall_time": 0}
    assert (whole / "figure.png").exists()
    assert cli.main(["evaluate", str(whole)]) == 0
    shown = capsys.readouterr().out
    assert all(f"{v:.3f}" in shown for v in one["welfare"])
    assert cli.main(["compare", str(whole), str(cut)]) == 0
    assert cli.main(["plot", str(whole), str(cut), "--out", str(tmp_path / "both.png")]) == 0
    header = (whole / "metrics.csv").read_text().split("\n")[0].split(",")
    assert {"welfare", "trades", "rate_6", "coin_rank_3", "net_tax_rank_0"} <= set(header)
    assert ({"chain_norm", "chain_cosine", "direct_norm", "direct_cosine"} <= set(header)) == ("metagrad" in method)


def agents_of(folder):
    """Policies by seed, however many trainers a run had."""
    found = load_file(last(folder))
    names = [n for n in found if "/agents/policy/" in n and n.startswith("training/")]
    if any(n.startswith("training/1/") for n in names):
        return [{n.split("policy/")[1]: found[n] for n in names if n.startswith(f"training/{i}/")} for i in range(2)]
    return [{n.split("policy/")[1]: found[n][s : s + 1] for n in names} for s in range(2)]


@pytest.mark.parametrize("method", ["metagrad", "dual-rl"])
def test_the_second_phase_starts_with_the_agents_of_the_first(method, tmp_path, capsys):
    """Seed by seed, of a run that trained its seeds side by side, whether the second does or not."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert train("free-market", one, "--seeds", "2", "--first-seed", "5") == 0
    still = ["--agents.optimiser.lr", "1e-9", "--episodes", "4", "--preset", "gtb_phase_2", "--seeds", "2"]
    small = DESIGNER if method == "dual-rl" else []
    start = [*still, *small, "--init-from", str(one)]
    assert train(method, two, *start, "--first-seed", "5") == 0
    for mine, theirs in zip(agents_of(two), agents_of(one), strict=True):
        for name, p in theirs.items():
            np.testing.assert_allclose(mine[name], p, atol=1e-6)
    steps = [int(t.max()) for f in (one, two) for n, t in load_file(last(f)).items()
             if n == "training/0/agents/policy_opt/t"]  # fmt: skip
    assert steps == [18, 20]  # the optimisers went on, two steps
    assert train(method, tmp_path / "three", *start, "--first-seed", "77") == 2
    assert "no agents of seed 77" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()
    assert train(method, tmp_path / "four", *start, "--first-seed", "5", "--agents.network.hidden", "9") == 2
    shown = capsys.readouterr().err
    assert "policy" in shown
    assert "see other things" not in shown
    assert train(method, tmp_path / "six", *start, "--first-seed", "5", "--task.brackets", "0", "9") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(r"see other things .*--task.brackets 0.0 9.0", shown)
    if method == "metagrad":  # some of the seeds
        assert train(method, tmp_path / "five", *start[:-2], *start[-2:], "--seeds", "1", "--first-seed", "6") == 0
        (mine, *_), (_, theirs) = agents_of(tmp_path / "five"), agents_of(one)
        for name, p in theirs.items():
            np.testing.assert_allclose(mine[name], p, atol=1e-6)


def test_the_second_phase_asks_for_agents(tmp_path, capsys):
    assert train("metagrad", tmp_path / "run", "--preset", "gtb_phase_2") == 2
    assert "metagrad train gtb --method free-market" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_episode_as_an_animation(tmp_path):
    run = tmp_path / "run"
    assert train("us-federal", run, "--episodes", "4", "--seeds", "2") == 0
    assert cli.main(["replay", str(run), "--out", str(tmp_path / "episode.gif")]) == 0
    with Image.open(tmp_path / "episode.gif") as gif:
        assert gif.n_frames == 20
    assert cli.main(["replay", str(run), "--seed", "3"]) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--method", "fixed", "--task.fixed-rates", "2"], "--task.fixed-rates must"),
        (["--task.steps", "4"], "tax day"),
        (["--task.tax-period", "0"], "--task.tax-period must"),
        (["--task.brackets", "0", "9", "5"], "--task.brackets must"),
        (["--task.planner-objective", "inverse_income_utility"], "planner_objective"),
        (["--designer.incentive.start", "1"], "start"), (["--k", "1", "--episodes", "4"], "baseline"),
        (["--task.map", "nowhere"], "map"), (["--designer.path.stride", "0"], "stride"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_are_refused(options, named, tmp_path, capsys):
    assert train("metagrad", tmp_path / "r", *options) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_the_published_setting_trains(tmp_path):
    """Two convolutions, a recurrent critic, networks for the designer; one episode an update."""
    small = [
        *(
            "--agents.network.filters",
            "2",
            "--agents.network.hidden",
            "6",
            "--agents.critic.network.trunk.filters",
            "2",
        ),
        *("--agents.critic.network.trunk.hidden", "6", "5", "--designer.incentive.network.hidden", "6"),
        *("--designer.critic.critic.network.hidden", "6", "--k", "1", "--episodes", "4", "--agents.minibatches", "1"),
    ]
    run = tmp_path / "run"
    assert cli.main(["train", "gtb", "--preset", "gtb_paper", *RUN, *small, "--out", str(run)]) == 0
    assert json.loads((run / "results.json").read_text())["welfare"][0] > 0
