"""Options of a task are those of its game, on the command line too; schedules from files and functions; old runs."""

import dataclasses
import json
from typing import Literal

import numpy as np
import pytest

import fastenvs
from fastenvs import cleanup, escape_room, gtb
from metagrad.designers.incentives import Incentive
from metagrad.experiment import cli
from metagrad.experiment.config import dump, from_dict, load
from metagrad.experiment.registry import experiment, flags, label_of, parse
from metagrad.optim import Adam, Linear
from metagrad.tasks.cleanup import Cleanup
from metagrad.tasks.escape_room import EscapeRoom
from metagrad.tasks.gtb import GatherTradeBuild

GAMES = {
    "escape-room": (EscapeRoom, escape_room.Options), "cleanup": (Cleanup, cleanup.Options),
    "gtb": (GatherTradeBuild, gtb.Options),
}  # fmt: skip
SMALL = [
    "--episodes", "8", "--k", "4", "--eval-period", "4", "--eval-episodes", "2", "--test-episodes", "2",
    "--checkpoint-period", "8", "--task.steps", "12", "--task.tax-period", "4", "--agents.minibatches", "2",
    "--agents.network.map-width", "8", "--agents.network.hidden", "8",
]  # fmt: skip
THREE = ["--task.brackets", "0", "2", "7.5"]


@pytest.mark.parametrize("game", GAMES)
def test_every_option_of_a_game_is_one_of_its_task_and_of_the_command_line(game, capsys):
    task, options = GAMES[game]
    names = [f.name for f in dataclasses.fields(options)]
    assert [f.name for f in dataclasses.fields(task)] == names
    with pytest.raises(SystemExit):
        cli.parse_train([game, "--help"])
    shown = capsys.readouterr().out
    for name in names:
        flag = name.replace("_", "-")
        assert f"--task.{flag} " in shown or f"--task.{flag}," in shown, name


def test_texts_are_read_as_the_options_they_are_of():
    line = (
        "gtb --method fixed --task.brackets 0 10 50 --task.fixed-rates 0.1 0.2 0.3 --task.skills 1 2 3 4 "
        "--task.places 0 5 1 6 2 5 3 6 --task.build-skill-log 0 1 --task.rebate need --task.max-orders None "
        "--task.start-coin 3 --task.anneal -5 0.1"
    )
    _, e = cli.parse_train(line.split())
    assert e.task == GatherTradeBuild(
        tax_mode="fixed", brackets=(0, 10, 50), fixed_rates=(0.1, 0.2, 0.3), skills=(1, 2, 3, 4), rebate="need",
        places=((0, 5), (1, 6), (2, 5), (3, 6)), build_skill_log=(0, 1), max_orders=None, start_coin=3,
        anneal=(-5, 0.1),
    )  # fmt: skip
    assert load(dump(e), "here") == e
    _, e = cli.parse_train(["gtb", *THREE])
    assert label_of(e) == "metagrad (brackets 0 2 7.5)"
    assert cli.parse_train(["cleanup", "--task.global-ref-point", "3", "2"])[1].task.global_ref_point == (3, 2)


def test_a_number_may_be_a_schedule(capsys):
    line = "gtb --agents.optimiser.lr 6.4e-4:4e-5:25000 --designer.optimiser.lr 0.015:0:9.5 --agents.exploration 0.25"
    _, e = cli.parse_train(line.split())
    assert e.agents.optimiser.lr == Linear(6.4e-4, 4e-5, 25_000)
    assert e.designer.optimiser.lr == Linear(0.015, 0, 9.5)
    assert (e.agents.exploration, e.agents.critic.optimiser.lr) == (0.25, 1e-3)
    changed = "agents.exploration 0.25, agents.optimiser.lr 0.00064:4e-05:25000.0, designer.optimiser.lr 0.015:0.0:9.5"
    assert sorted(label_of(e)[len("metagrad (") : -1].split(", ")) == changed.split(", ")
    _, e = cli.parse_train(["gtb", "--agents.optimiser.lr", "4e-4:4e-5:15000:10000"])
    assert e.agents.optimiser.lr == Linear(4e-4, 4e-5, 15_000, after=10_000)
    assert label_of(e) == "metagrad (agents.optimiser.lr 0.0004:4e-05:15000.0:10000.0)"
    neither = "neither a number nor START:END:OVER[:AFTER]"
    for wrong, why in (
        ("1:2", neither),
        ("a:b:c", neither),
        ("x", neither),
        ("1:0:0", "over must be a number above 0"),
    ):
        with pytest.raises(SystemExit):
            cli.parse_train(["gtb", "--agents.optimiser.lr", wrong])
        assert why in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_schedule_that_was_made_a_number_has_no_words():
    falling = experiment("gtb", "gtb_steady")
    agents = dataclasses.replace(falling.agents, optimiser=Adam(1e-3))
    assert flags(falling, dataclasses.replace(falling, agents=agents)) == []


@dataclasses.dataclass(frozen=True)
class Mixed(Incentive):
    """An incentive with schedules among other things."""

    none: float | Linear | None = 0.5
    word: float | Literal["measured"] | Linear = 1.0
    whole: int | Linear = 5
    many: tuple[Linear, ...] = ()


@pytest.mark.parametrize(
    ("words", "value"),
    [("--none None", Mixed(none=None)), ("--word measured", Mixed(word="measured")), ("--whole 7", Mixed(whole=7)),
     ("--none 0.25", Mixed(none=0.25)), ("--many 1:2:3", None)],
)  # fmt: skip
def test_other_things_beside_schedules_are_read_as_before(words, value):
    base = experiment("gtb")
    base = dataclasses.replace(base, designer=dataclasses.replace(base.designer, incentive=Mixed()))
    args = words.replace("--", "--designer.incentive.").split()
    if value is None:
        with pytest.raises(SystemExit):
            parse(base, args, "test")
    else:
        assert parse(base, args, "test").designer.incentive == value


@pytest.mark.parametrize("method", ["metagrad", "dual-rl", "saez", "fixed"])
def test_own_brackets_are_trained(method, tmp_path):
    more = ["--designer.network.hidden", "6", "--designer.network.filters", "2"] if method == "dual-rl" else []
    more += ["--task.fixed-rates", "0.1", "0.2", "0.6"] if method == "fixed" else []
    more += ["--designer.incentive.start", "0.1", "0.3", "0.5"] if method == "metagrad" else []
    run = tmp_path / "run"
    people = ["--task.skills", "0.5", "1", "1.5", "3", "--task.rebate", "rank"]
    assert cli.main(["train", "gtb", "--method", method, *SMALL, *THREE, *people, *more, "--out", str(run)]) == 0
    header = (run / "metrics.csv").read_text().split("\n")[0].split(",")
    assert [name for name in header if name.startswith("rate_")] == ["rate_0", "rate_1", "rate_2"]
    assert cli.main(["evaluate", str(run)]) == 0


# ---------------------------------------------------------------------- schedules


def test_rates_that_the_limit_would_lower_are_refused():
    steady = ["gtb", "--preset", "gtb_steady", "--method", "fixed", "--task.fixed-rates", *["0.3"] * 6]
    assert cli.parse_train([*steady, "0.6"])[1].task.fixed_rates[-1] == 0.6
    assert cli.parse_train([*steady, "0.8", "--task.rate-max", "0.9"])[1].task.rate_max == 0.9
    with pytest.raises(ValueError, match=r"--task\.fixed-rates.*0\.8.*rate_max"):
        cli.parse_train([*steady, "0.8"])
    assert tax_days(fixed_rates=(0.1, 0.2, 0.8), rate_max=0.6)[0] == [0.1, 0.2, 0.6]  # the game's own rule


def tax_days(**options):
    """Rates in force on every tax day of an episode."""
    game = {"tax_mode": "fixed", "brackets": (0, 2, 7.5), "tax_period": 4, "steps": 12, "autoreset": "disabled"}
    env = fastenvs.make("gtb", 2, seed=0, **game, **options)
    env.reset()
    days = []
    for _ in range(12):
        *_, info = env.step(np.zeros((2, 4), int))
        if info["tax_day"][0]:
            days.append(env.state.taxes.live[0].tolist())
    return days


def test_schedules_from_files(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("bracket,rate\n2, 0.2\n0, 0.1\n7.5, 0.3\n")
    assert tax_days(fixed_rates=file) == [[0.1, 0.2, 0.3]] * 3
    file.write_text("period,bracket,rate\n1,0,.1\n1,2,.2\n1,7.5,.3\n2,0,.4\n2,2,.5\n2,7.5,.6\n")
    assert tax_days(fixed_rates=str(file)) == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.4, 0.5, 0.6]]
    assert tax_days(fixed_rates=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))[1] == [0.4, 0.5, 0.6]
    assert tax_days(fixed_rates=file, anneal=(0.0, 0.25))[0] == [0.0] * 3  # capped as any rates are
    file.write_text("bracket,rate\n0,0.1\n2,0.2\n7.5,0.3\n")
    _, e = cli.parse_train(["gtb", "--method", "fixed", *THREE, "--task.fixed-rates", str(file)])
    file.unlink()  # a run holds the rates, and does not read the file again
    assert e.task.fixed_rates == (0.1, 0.2, 0.3)
    assert load(dump(e), "here") == e


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no column bracket"), ("bracket,tax\n0,1\n", "no column rate"),
        ("bracket,rate\n0,a\n", "line 2: rate must"), ("bracket,rate\n0,.1\n", "each of 3 brackets"),
        ("bracket,rate\n0,.1\n3,.1\n", "line 3: no bracket begins at 3"),
        ("bracket,rate\n0,.1\n0,.2\n", "line 3: period 1"), ("bracket,rate\n0,.1\n2,.2\n7.5,1.3\n", "numbers in"),
        ("period,bracket,rate\n2,0,.1\n2,2,.1\n2,7.5,.1\n", "in periods 1, 2"),
        ("period,bracket,rate\nx,0,1\n", "period must"),
    ],
)  # fmt: skip
def test_files_that_are_no_schedules(text, named, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=f"^fixed_rates.*{named}"):
        tax_days(fixed_rates=tmp_path / "bad.csv")


MODULE = """
import numpy as np
def rates(seen):
    first = seen["flat"][:, -4] == 0  # time
    return np.where(first[:, None], 0.1, [0.2, 0.4, 0.9])
def too_high(seen):
    return 2.0
number = 3
"""


def test_schedules_from_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_taxes.py").write_text(MODULE)
    want = [[0.1] * 3, [0.2, 0.4, 0.9], [0.2, 0.4, 0.9]]
    assert tax_days(fixed_rates="my_taxes:rates") == want
    assert tax_days(fixed_rates=lambda seen: (0.3, 0.3, 0.3)) == [[0.3] * 3] * 3
    command = ["train", "gtb", "--method", "fixed", *SMALL, *THREE, "--task.fixed-rates", "my_taxes:rates"]
    assert cli.main([*command, "--out", "run"]) == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["task"]["fixed_rates"] == "my_taxes:rates"
    with pytest.raises(ValueError, match="rates must have shape"):
        tax_days(fixed_rates="my_taxes:too_high")
    for name in ("number", "missing"):
        with pytest.raises(ValueError, match=f"^fixed_rates 'my_taxes:{name}'"):
            tax_days(fixed_rates=f"my_taxes:{name}")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"brackets": (1, 2)}, "brackets"), ({"brackets": (0, 5, 5)}, "brackets"), ({"brackets": "uk"}, "brackets"),
        ({"brackets": ()}, "brackets"), ({"brackets": range(1001)}, "brackets"),
        ({"brackets": (0,), "tax_mode": "saez"}, "brackets"),
        ({"skills": (1, 2)}, "skills"), ({"skills": (1, 2, 3, -1)}, "skills"), ({"places": ((0, 0),) * 4}, "places"),
        ({"places": ((0, 0), (0, 1), (0, 2), (0, 99))}, r"places\[3\]"), ({"rebate": "all"}, "rebate"),
        ({"build_skill_shape": 0.5}, "build_skill_shape"), ({"build_skill_log": (0, -1)}, "build_skill_log"),
        ({"tax_mode": "fixed", "fixed_rates": ((0.1,) * 7, (0.1,))}, "fixed_rates"),
        ({"tax_mode": "fixed", "fixed_rates": "nowhere.csv"}, "fixed_rates"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_ones_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        fastenvs.make("gtb", 1, **options)
    with pytest.raises(ValueError, match=rf"^GatherTradeBuild\.{named}"):
        GatherTradeBuild(**options)


def test_own_people_stay_who_they_are():
    options = {"skills": (0.5, 1, 2, 4), "places": ((0, 5), (1, 6), (2, 5), (3, 6)), "build_pay": 5.0}
    env = fastenvs.make("gtb", 3, seed=0, **options)
    for seed in range(3):
        env.reset(seed=seed)
        assert env.state.agents.pay.tolist() == [[2.5, 5.0, 10.0, 20.0]] * 3
        assert env.state.agents.loc.tolist() == [[list(place) for place in options["places"]]] * 3
    for unused in ("location", "agent_order", "build_skill"):
        assert unused not in env.draw_shapes
    few = {"fixed_four": False, "build_skill": "pareto", "build_skill_cap": 100.0}
    shapes = [fastenvs.make("gtb", 500, seed=0, build_skill_shape=shape, **few) for shape in (1.5, 8.0)]
    spread = [env.reset()[0]["agents"]["flat"][..., 1].mean() for env in shapes]
    assert spread[0] == pytest.approx(1 / 0.5, rel=0.3)  # the mean of a Lomax distribution, 1 / (shape - 1)
    assert spread[1] == pytest.approx(1 / 7, rel=0.1)


# ---------------------------------------------------------------------- runs of before


def test_runs_of_before_are_read():
    """Their tasks held other names, and fewer options."""
    old = {
        "type": "metagrad.tasks.gtb.task:GatherTradeBuild", "tax_mode": "us_federal", "map": "pure_mixed_15",
        "n_agents": 4, "fixed_four": True, "steps": 50, "tax_period": 5, "anneal": True, "rates": [0.5] * 7,
    }  # fmt: skip
    assert from_dict(old) == GatherTradeBuild(tax_mode="us_federal", steps=50, tax_period=5, anneal="paper")
    fixed = from_dict({**old, "tax_mode": "fixed", "anneal": False})
    assert (fixed.fixed_rates, fixed.anneal) == ((0.5,) * 7, None)
    river = from_dict({"type": "metagrad.tasks.cleanup:Cleanup", "preset": "authors_10x10", "steps": 50})
    assert dataclasses.replace(river, observation="planes") == experiment("cleanup", "cleanup_10x10").task


def test_options_of_today_leave_snapshots_of_before_valid():
    """Later options at their defaults are not part of what a snapshot is of."""
    first, *others = (
        fastenvs.make("gtb", 2, seed=0, **more) for more in ({}, {"rebate": "equal"}, {"skills": (1, 2, 3, 4)})
    )
    first.reset()
    others[0].restore(first.snapshot())
    with pytest.raises(ValueError, match="options"):
        others[1].restore(first.snapshot())
