"""Episodes as tables: every sum over them is what the environments themselves report."""

import copy
import csv
import pickle
import sys

import numpy as np
import pytest

import fastenvs
from fastenvs.gtb import EpisodeLog
from fastenvs.log import EpisodeLog as PlainLog
from metagrad.experiment import cli
from metagrad.experiment.run import load_learners
from metagrad.reports import export

N, STEPS = 3, 24
MODES = ("same_step", "next_step", "disabled")
ECONOMY = {"tax_mode": "us_federal", "steps": STEPS, "tax_period": 6, "gather_skill": "pareto", "fixed_four": False}


def legal(rng, obs):
    """Random legal actions, orders and houses as often as moves."""
    mask = obs["agents"]["mask"].astype(float)
    mask[..., 1] *= 30
    mask[..., 46:] *= 8
    return (mask.cumsum(-1) > rng.random(mask.shape[:2])[..., None] * mask.sum(-1, keepdims=True)).argmax(-1)


def economy(autoreset="same_step", **options):
    env = fastenvs.make("gtb", N, seed=4, autoreset=autoreset, **{**ECONOMY, **options})
    env.reset()
    return env


def finished_metrics(env, e):
    return env.metrics(e, final=env.autoreset == "same_step")


def play(log, steps, seed=0):
    """Random episodes; returns the metrics of those that ended, by copy and number."""
    rng, found = np.random.default_rng(seed), {}
    log.reset(seed=seed)
    count, over = np.zeros(N, int), np.zeros(N, bool)
    for _ in range(steps):
        if log.env.options.tax_mode == "planner":
            log.choose_rates(rng.integers(0, 22, (N, 7)))
        _, _, terminated, truncated, _ = log.step(legal(rng, log.obs))
        for e in np.flatnonzero((terminated | truncated) & ~over):
            found[e, count[e]] = finished_metrics(log.env, e)
            count[e] += 1
        if log.autoreset == "disabled":
            over |= terminated | truncated
    return found


def rows(table, **where):
    """A table's columns, where others have these values."""
    kept = np.logical_and.reduce([table[name] == value for name, value in where.items()])
    return {name: x[kept] for name, x in table.items()}


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("tax_mode", ["us_federal", "planner", "saez", "none"])
def test_sums_are_the_economys_own_metrics(autoreset, tax_mode):
    log = EpisodeLog(economy(autoreset, tax_mode=tax_mode))
    found = play(log, 2 * STEPS + 5)
    assert len(found) == (N if autoreset == "disabled" else 2 * N)
    tables = log.tables()
    close = {"rtol": 0, "atol": 1e-9}
    traded = 0
    for (e, number), metrics in found.items():
        at = {"env": e, "episode": number}
        (ends,) = zip(*rows(tables["episodes"], **at).values(), strict=True)
        episode = dict(zip(tables["episodes"], ends, strict=True))
        agents, steps = rows(tables["agents"], **at), rows(tables["steps"], **at)
        assert episode["steps"] == STEPS
        assert episode["truncated"]
        last = rows(agents, step=STEPS)
        wealth = last["coin"] + last["escrow_coin"]
        np.testing.assert_allclose(wealth.sum(), metrics["social/productivity"], **close)
        np.testing.assert_allclose(episode["productivity"], metrics["social/productivity"], **close)
        np.testing.assert_allclose(episode["equality"], metrics["social/equality"], **close)
        np.testing.assert_allclose(episode["welfare"], metrics["util/p"], **close)
        np.testing.assert_allclose(steps["designer_reward"].sum(), episode["designer_reward"], **close)
        assert episode["houses"] == agents["built"].sum() == metrics["Build/total_builds"]
        trades, taxes = rows(tables["trades"], **at), rows(tables["taxes"], **at)
        assert episode["trades"] == len(trades["env"]) == metrics["Trade/n_trades"]
        traded += len(trades["env"])
        for i in range(4):
            mine = rows(agents, agent=i)
            np.testing.assert_allclose(wealth[i], metrics[f"endow/{i}/Coin"], **close)
            np.testing.assert_allclose(last["labor"][i], metrics[f"endogenous/{i}/Labor"], **close)
            np.testing.assert_allclose(last["utility"][i], metrics[f"util/{i}"], **close)
            np.testing.assert_allclose(mine["reward"][1:].sum(), last["utility"][i] - mine["utility"][0], **close)
            assert mine["built"].sum() == metrics[f"Build/{i}/n_builds"]
            for good in ("stone", "wood"):
                assert last[good][i] + last[f"escrow_{good}"][i] == metrics[f"endow/{i}/{good.title()}"]
                for side, verb in (("seller", "Sell"), ("buyer", "Buy")):
                    deals = rows(trades, good=good, **{side: i})
                    key = f"Trade/{i}/{verb}{good.title()}"
                    assert len(deals["price"]) == metrics[f"{key}/n_sales"]
                    mean = deals["price"].mean() if len(deals["price"]) else np.nan
                    np.testing.assert_allclose(mean, metrics[f"{key}/price"], **close)
        if tax_mode == "none":
            assert not taxes["tax"].any()
            continue
        assert len(taxes["env"]) == 4 * (STEPS // 6)
        np.testing.assert_allclose(taxes["tax"].sum(), metrics["PeriodicTax/total_collected_taxes"], **close)
        np.testing.assert_allclose(taxes["rebate"].sum(), taxes["tax"].sum(), **close)
        np.testing.assert_allclose(taxes["net_tax"], taxes["tax"] - taxes["rebate"], **close)
        poorest = rows(taxes, agent=wealth.argmin())
        rate = poorest["tax"].sum() / max(0.001, poorest["income"][poorest["income"] > 0].sum())
        np.testing.assert_allclose(rate, metrics["PeriodicTax/avg_tax_rate/poorest"], **close)
        for b, cutoff in enumerate(log.options.cutoffs):
            mean = metrics[f"PeriodicTax/avg_bracket_rate/{int(cutoff):03d}"]
            np.testing.assert_allclose(taxes[f"rate_{b}"].mean(), mean, **close)
    assert traded > 3


def test_income_and_coin_follow_from_one_another():
    """Between tax days an agent's coin grows by its income; on them by its rebate less its tax."""
    log = EpisodeLog(economy())
    play(log, STEPS)
    tables = log.tables()
    for e in range(N):
        for i in range(4):
            mine, taxes = (rows(tables[name], env=e, agent=i) for name in ("agents", "taxes"))
            wealth = mine["coin"] + mine["escrow_coin"]
            after = np.concatenate([[log.options.start_coin], wealth[taxes["step"] - 1]])
            np.testing.assert_allclose(np.diff(after), taxes["income"] - taxes["net_tax"], rtol=0, atol=1e-9)


def test_all_modes_tell_the_same():
    """The first episodes of all copies, however they go on."""
    tables = []
    for autoreset in MODES:
        log = EpisodeLog(economy(autoreset))
        play(log, STEPS)
        tables.append(log.tables())
    for other in tables[1:]:
        for name, table in tables[0].items():
            for column, x in table.items():
                np.testing.assert_array_equal(x, other[name][column], err_msg=f"{name}.{column}")


def test_what_is_recorded_is_what_the_environment_shows():
    """State by state, in a mode that keeps the last one."""
    log = EpisodeLog(economy("disabled"))
    log.reset()
    rng, seen = np.random.default_rng(3), []
    for _ in range(STEPS):
        actions = legal(rng, log.obs)
        log.step(actions)
        agents = log.state.agents
        seen.append({"action": actions, "row": agents.loc[..., 0], "column": agents.loc[..., 1], "coin": agents.coin,
                     "wood": agents.units[..., 1], "escrow_stone": agents.escrow_units[..., 0], "pay": agents.pay,
                     "utility": log.state.clock.utility, "labor": agents.labor})  # fmt: skip
        seen[-1] = {name: x.copy() for name, x in seen[-1].items()}
    agents = log.tables()["agents"]
    for name in seen[0]:
        np.testing.assert_array_equal(agents[name], np.stack([s[name] for s in seen], 1).reshape(-1), err_msg=name)


def test_episodes_are_counted_through_resets_by_hand():
    log = EpisodeLog(economy("disabled"))
    log.reset()
    idle = np.zeros((N, 4), int)
    log.step(idle)
    log.reset(options={"reset_mask": np.array([False, True, False])})
    log.reset(options={"reset_mask": np.array([False, True, False])})  # an episode without a step is none
    log.step(idle)
    steps = log.tables()["steps"]
    assert steps["env"].tolist() == [0, 0, 1, 1, 2, 2]
    assert steps["episode"].tolist() == [0, 0, 0, 1, 0, 0]
    assert steps["step"].tolist() == [1, 2, 1, 1, 1, 2]
    log.clear()
    log.step(idle)
    assert log.tables()["steps"]["step"].tolist() == [3, 2, 3]


def test_what_is_refused_leaves_no_row():
    log = EpisodeLog(economy())
    with pytest.raises(RuntimeError, match=r"reset\(\) of the log"):
        log.step(np.zeros((N, 4), int))
    log.reset()
    with pytest.raises(ValueError, match="no step was recorded"):
        log.tables()
    with pytest.raises(ValueError, match="action"):
        log.step(np.full((N, 4), 99))
    with pytest.raises(ValueError, match="no step was recorded"):
        log.tables()
    with pytest.raises(TypeError, match="must be a GatherTradeBuild, got EscapeRoom"):
        EpisodeLog(fastenvs.make("escape_room", 1))


def test_a_log_is_copied_and_pickled():
    log = EpisodeLog(economy())
    log.reset()
    log.step(np.zeros((N, 4), int))
    for other in (copy.deepcopy(log), pickle.loads(pickle.dumps(log))):
        other.step(np.zeros((N, 4), int))
        assert len(other.tables()["steps"]["env"]) == 2 * N
    assert len(log.tables()["steps"]["env"]) == N


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("game", ["escape_room", "cleanup"])
def test_the_other_games(game, autoreset):
    options = {"n_agents": 3, "min_at_lever": 1} if game == "escape_room" else {"steps": 9}
    log = PlainLog(fastenvs.make(game, N, seed=1, autoreset=autoreset, **options))
    log.reset()
    rng, shape, earned, over = np.random.default_rng(0), (N, log.n_agents), [], np.zeros(N, bool)
    for _ in range(30):
        active = ~over
        _, rewards, terminated, truncated, info = log.step(rng.integers(0, log.n_actions, shape))
        earned.append([rewards[active].sum(), info["designer_reward"][active].sum()])
        over = (over if autoreset == "disabled" else False) | ((terminated | truncated) & (autoreset != "same_step"))
    tables = log.tables()
    agents, episodes = tables["agents"], tables["episodes"]
    assert agents["reward"].sum() == sum(row[0] for row in earned)
    assert episodes["designer_reward"].sum() == sum(row[1] for row in earned)
    assert episodes["steps"].sum() * log.n_agents == len(agents["reward"])
    ended = episodes["terminated"] | episodes["truncated"]
    assert ended.sum() == len(ended) if autoreset == "disabled" else ended.sum() > N
    if game == "cleanup":
        assert {"row", "column", "cleaned", "collected", "n_cleaned", "action_type"} <= agents.keys()
        known = agents["row"] >= 0
        assert known.all() == (autoreset != "same_step")
        last = {(e, number): step for e, number, step, _, _, _ in zip(*episodes.values(), strict=True)}
        assert all(last[e, n] == s for e, n, s in zip(*(agents[c][~known] for c in ("env", "episode", "step")),
                                                      strict=True))  # fmt: skip


# ---------------------------------------------------------------------- files


def read(path):
    with open(path, newline="") as file:
        header, *found = csv.reader(file)
    return header, found


def test_csv_reads_back_exactly(tmp_path):
    log = EpisodeLog(economy())
    play(log, STEPS)
    tables = log.tables()
    paths = log.write(tmp_path / "out")
    assert [p.name for p in paths] == ["agents.csv", "trades.csv", "taxes.csv", "steps.csv", "episodes.csv"]
    for path in paths:
        header, found = read(path)
        table = tables[path.stem]
        assert header == list(table)
        for column, cells in zip(header, zip(*found, strict=True), strict=True):
            x = table[column]
            kind = {"b": lambda cell: cell == "True", "i": int, "u": int, "f": float, "U": str}[x.dtype.kind]
            np.testing.assert_array_equal(np.array([kind(cell) for cell in cells]), x, err_msg=column)


def test_parquet_reads_back_exactly(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    log = EpisodeLog(economy(tax_mode="none"))
    play(log, STEPS)
    for path in log.write(tmp_path, "parquet"):
        found, table = parquet.read_table(path), log.tables()[path.stem]
        assert found.column_names == list(table)
        for name, x in table.items():
            np.testing.assert_array_equal(np.array(found[name].to_pylist(), x.dtype), x, err_msg=name)


def test_formats_that_cannot_be_written(tmp_path, monkeypatch):
    log = EpisodeLog(economy())
    play(log, 2)
    with pytest.raises(ValueError, match="format must be one of csv, parquet, got 'xlsx'"):
        log.write(tmp_path / "out", "xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastenvs\[parquet\]'"):
        log.write(tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- of runs


TINY = ["--episodes", "4", "--k", "2", "--eval-period", "2", "--eval-episodes", "2", "--test-episodes", "3",
        "--checkpoint-period", "2", "--seeds", "2", "--first-seed", "7"]  # fmt: skip
RUNS = {
    "escape-room": ["--method", "metagrad", "--task.n-agents", "3"],
    "cleanup": ["--method", "metagrad", "--task.steps", "6"],
    "gtb": ["--method", "us-federal", "--task.steps", "30", "--agents.network.hidden", "6"],
    "own:task": [],
    "central": ["--method", "central", "--task.task.steps", "6"],
}


def mean(values, tables, like="episodes"):
    """Sum of a column by seed, over three episodes."""
    return np.array([values[tables[like]["seed"] == seed].sum() for seed in (7, 8)]) / 3


def economy_scores(tables):
    episodes, taxes = tables["episodes"], tables["taxes"]
    found = {name: mean(episodes[name], tables) for name in ("productivity", "equality", "houses", "trades")}
    found["welfare"] = mean(episodes["equality"] * episodes["productivity"], tables) / 4
    found["rate"] = np.stack([mean(taxes[f"rate_{b}"], tables, "taxes") / 12 for b in range(7)], 1)  # 3 days, 4 agents
    found |= {"tax_rank": mean(taxes["tax"], tables, "taxes"), "income_rank": mean(taxes["income"], tables, "taxes")}
    coin = (tables["agents"]["coin"] + tables["agents"]["escrow_coin"]) * (tables["agents"]["step"] == 30)
    found["coin_rank"] = mean(coin, tables, "agents")
    return found | {"net_tax_rank": mean(taxes["net_tax"], tables, "taxes")}


def cleanup_scores(tables):
    agents, found = tables["agents"], {"welfare": mean(tables["episodes"]["designer_reward"], tables)}
    found["waste_cleared"] = mean(agents["n_cleaned"], tables, "agents")
    incentives = tables["episodes"].get("incentives", np.zeros(6))
    found["incentives_paid"] = mean(incentives, tables)
    for kind, name in enumerate(("cleaned", "collected", "other")):
        chosen = agents["action_type"] == kind
        found[f"n_{name}"] = mean(chosen, tables, "agents")
        found[f"received_{name}"] = mean(chosen * agents.get("incentive", np.zeros(len(chosen))), tables, "agents")
    return found


def room_scores(tables):
    agents, episodes = tables["agents"], tables["episodes"]
    earned, paid = mean(episodes["designer_reward"], tables), mean(episodes["incentives"], tables)
    found = {"r_id": earned - paid, "incentives_paid": paid, "steps_per_episode": mean(episodes["steps"], tables)}
    found["environment_return"] = mean(agents["reward"], tables, "agents")
    for action, place in enumerate(("lever", "start", "door")):
        found[f"incentive_{place}"] = mean(agents["incentive"] * (agents["action"] == action), tables, "agents")
    return found


def own_scores(tables):
    found = {"welfare": mean(tables["steps"]["designer_reward"], tables, "steps")}
    return found | {"payments": mean(tables["steps"]["incentives"], tables, "steps"),
                    "steps": mean(tables["episodes"]["steps"], tables)}  # fmt: skip


SCORES = {"escape-room": room_scores, "cleanup": cleanup_scores, "central": cleanup_scores, "gtb": economy_scores,
          "own:task": own_scores}  # fmt: skip


@pytest.mark.parametrize("game", list(RUNS))
def test_sums_are_the_runs_own_scores(game, tmp_path, capsys):
    """Of the very episodes that ``metagrad evaluate`` scores."""
    run, out = tmp_path / "run", tmp_path / "tables"
    assert cli.main(["train", "cleanup" if game == "central" else game, *TINY, *RUNS[game], "--out", str(run)]) == 0
    learners = load_learners(run)
    made = export.tables(learners)
    scores = learners.evaluators("test", 3)()
    for name, found in SCORES[game](made).items():
        expected = scores[name]
        if expected.ndim > found.ndim:  # by agent or rank
            expected = expected.sum(-1)
        # A run keeps rewards in single precision, and those of this game are no whole numbers.
        rounded = game == "own:task" and name == "welfare"
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if rounded else 1e-9, err_msg=name)
    for table in made.values():
        assert set(table["seed"]) <= {7, 8}
        assert set(table["episode"]) <= {0, 1, 2}
    assert ("incentive" in made["agents"]) == (game != "central")
    assert cli.main(["export", str(run), "--seed", "8", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.replace("\n", "")  # which wraps
    assert all(str(out / f"{name}.csv") in shown for name in made)
    header, found = read(out / "agents.csv")
    only = rows(made["agents"], seed=8)
    assert header == list(only)
    assert len(found) == len(only["seed"])
    np.testing.assert_array_equal([float(row[header.index("reward")]) for row in found], only["reward"])


def test_what_cannot_be_exported(tmp_path, capsys, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "tables"
    assert cli.main(["train", "own:task", *TINY, "--out", str(run)]) == 0
    for wrong, message in (
        (["--seed", "3"], "--seed must be one of [7, 8], got 3"),
        (["--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["--format", "xlsx"], "format must be one of csv, parquet, got 'xlsx'"),
    ):  # fmt: skip
        assert cli.main(["export", str(run), "--out", str(out), *wrong]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert cli.main(["export", str(run), "--out", str(out), "--format", "parquet"]) == 2
    assert "pip install 'fastenvs[parquet]'" in capsys.readouterr().err
    assert not out.exists()
