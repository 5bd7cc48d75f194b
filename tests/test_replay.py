"""Episodes to look at: pages in a real browser, and GIFs."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastenvs
from fastenvs.gtb import EpisodeLog
from fastenvs.log import EpisodeLog as PlainLog
from metagrad.experiment import cli
from metagrad.reports.replay import Film, page

REFERENCE = Path(__file__).parent / "replays" / "economy.png"
SHOWN = 61  # the step of the picture


def legal(rng, obs):
    """Random legal actions that follow from the numbers alone, with houses and moves more often."""
    mask = obs["agents"]["mask"].astype(float)
    mask[..., 1] *= 30
    mask[..., 46:] *= 8
    return (mask.cumsum(-1) > rng.random(mask.shape[:2])[..., None] * mask.sum(-1, keepdims=True)).argmax(-1)


def economy(autoreset="disabled", steps=100):
    """A log of an episode of random play with its film."""
    log = EpisodeLog(fastenvs.make("gtb", 2, seed=4, autoreset=autoreset, tax_mode="us_federal", steps=steps))
    log.reset()
    rng, film = np.random.default_rng(0), Film(1)
    for _ in range(steps):
        log.step(legal(rng, log.obs))
        film.look(log)
    return log, film


def of_one(log, copy=1):
    """The tables of a copy's first episode."""
    tables = log.tables()
    rows = {name: (table["env"] == copy) & (table["episode"] == 0) for name, table in tables.items()}
    return {name: {column: x[rows[name]] for column, x in table.items()} for name, table in tables.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    log, film = economy()
    path = tmp_path_factory.mktemp("page") / "economy.html"
    path.write_text(page('Random play, <b>"bold" & brave</b></script>', of_one(log), film), encoding="utf-8")
    return path, of_one(log)


def data_of(path):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.S).group(1))


def test_a_page_holds_the_episode_and_is_small(written):
    path, tables = written
    text, data, agents = path.read_text(), data_of(path), tables["agents"]
    assert path.stat().st_size < 2_000_000
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched
    assert data["steps"] == len(data["pictures"]) == len(data["books"]) == 100
    coin = (agents["coin"] + agents["escrow_coin"]).reshape(100, 4)
    np.testing.assert_allclose(data["curves"][0]["values"], coin, rtol=1e-5)
    income = np.array(data["curves"][1]["values"])
    np.testing.assert_allclose(income[9::10].ravel(), tables["taxes"]["income"], rtol=1e-5, atol=1e-9)
    assert len(data["trades"]) == len(tables["trades"]["price"]) > 5
    assert data["rates"][3] == [0.1, 0.12, 0.22, 0.24, 0.32, 0.35, 0.37]
    assert data["names"][data["actions"][50][2]] != ""


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_a_film_ends_with_its_episode(autoreset):
    """Where the environment goes on to another episode, the page is the same but for what the last step left."""
    one, other = economy("disabled", 20), economy(autoreset, 20)
    other[0].step(np.zeros((2, 4), int))
    other[1].look(other[0])
    first, second = (json.loads(re.search(r'"data"[^>]*>(.*?)</script>', page("", of_one(log), film), re.S).group(1))
                     for log, film in (one, other))  # fmt: skip
    assert len(second["pictures"]) == 20
    for name in ("pictures", "books"):
        assert first[name][:-1] == second[name][:-1]
    assert first["agents"] == second["agents"]


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


class Opened:
    """A page in the browser, without a network, and everything that it complains of."""

    def __init__(self, browser, path, anchor=""):
        self.complaints = []
        self.tab = browser.new_page(viewport={"width": 1200, "height": 900})
        self.tab.context.set_offline(True)
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self._asked(request.url))
        self.tab.goto(path.as_uri() + anchor)

    def _asked(self, url):
        if not url.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {url}")

    @property
    def step(self):
        return int(re.match(r"step (\d+)", self.tab.inner_text("#now")).group(1))

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)
        return self.step


def test_a_page_plays_pauses_and_scrubs(browser, written):
    opened = Opened(browser, written[0])
    tab = opened.tab
    assert tab.title() == tab.inner_text("h1") == 'Random play, <b>"bold" & brave</b></script>'
    assert opened.step == 1
    assert opened.press("ArrowRight", "ArrowRight") == 3
    assert opened.press("Shift+ArrowRight") == 13
    assert opened.press("ArrowLeft") == 12
    assert opened.press("End") == 100
    assert opened.press("ArrowRight") == 100
    assert opened.press("Home", "ArrowLeft") == 1
    tab.select_option("#speed", "15")
    tab.locator("h1").click()
    opened.press("Space")
    tab.wait_for_function("document.getElementById('scrub').value >= 3")
    assert tab.inner_text("#play") == "Pause"
    stopped = opened.press("Space")
    tab.wait_for_timeout(200)
    assert opened.step == stopped < 100
    opened.press("End", "ArrowLeft", "ArrowLeft")
    tab.click("#play")
    tab.wait_for_function("document.getElementById('play').textContent === 'Play'")  # it stops at the end
    assert opened.step == 100
    tab.locator("#scrub").evaluate("node => { node.value = 42; node.dispatchEvent(new Event('input')); }")
    assert opened.step == 42
    assert opened.press("ArrowRight") == 43
    assert opened.complaints == []


def test_a_page_shows_what_the_tables_say(browser, written):
    path, tables = written
    opened = Opened(browser, path, f"#{SHOWN}")
    tab, agents = opened.tab, tables["agents"]
    assert opened.step == SHOWN
    rows = [row.split("\t") for row in tab.inner_text("#agents table").splitlines()]
    header = [name.replace(" ", "_") for name in rows[0]]
    for i, row in enumerate(rows[1:]):
        cells, at = dict(zip(header, row, strict=True)), (agents["step"] == SHOWN) & (agents["agent"] == i)
        for name in ("coin", "stone", "row", "utility"):
            assert float(cells[name]) == pytest.approx(agents[name][at].item(), abs=0.06)
    trades = tables["trades"]
    last = np.flatnonzero(trades["step"] <= SHOWN)[-1]
    expected = "step {step}: agent {seller} sold {good} to agent {buyer} for {price}".format(
        **{name: trades[name][last] for name in ("step", "seller", "good", "buyer", "price")}
    )
    assert tab.inner_text("#trades li >> nth=0") == expected
    assert tab.locator("#curve0 path").count() == 4
    shown = tab.evaluate("[document.getElementById('map').naturalWidth, document.getElementById('map').complete]")
    assert shown == [300, True]
    assert opened.complaints == []


def test_a_page_looks_as_it_did(browser, written):
    """Close to a stored picture, blurred, since fonts and edges are not the same everywhere; to renew it, delete it."""
    opened = Opened(browser, written[0], f"#{SHOWN}")
    found = Image.open(io.BytesIO(opened.tab.screenshot(full_page=True))).convert("RGB")
    if not REFERENCE.exists():
        found.quantize(64).save(REFERENCE, optimize=True)
        pytest.skip(f"{REFERENCE} was made anew: look at it")
    with Image.open(REFERENCE) as file:
        reference = file.convert("RGB")
    assert abs(found.height - reference.height) < 0.1 * reference.height
    a, b = (np.asarray(image.resize((60, 50), Image.Resampling.BOX), float) for image in (found, reference))
    assert np.abs(a - b).mean() < 6
    assert (np.abs(a - b).max(-1) > 60).mean() < 0.02


@pytest.mark.parametrize("game", ["escape_room", "cleanup", "own"])
def test_pages_of_the_other_games(browser, game, tmp_path):
    """Of games with pictures, incentives, and of one that has neither."""
    if game == "own":
        log = PlainLog(Plain())
    else:
        log = PlainLog(fastenvs.make(game, 1, autoreset="disabled", **GAMES[game]))
    log.reset()
    rng, film = np.random.default_rng(0), Film(0)
    for _ in range(6):
        log.step(rng.integers(0, 2, (1, log.n_agents)))
        film.look(log)
    tables = of_one(log, 0)
    steps = len(tables["steps"]["step"])
    tables["agents"]["incentive"] = np.full(steps * log.n_agents, 0.5)
    tables["agents"]["odd"] = np.resize([np.nan, np.inf], steps * log.n_agents)
    path = tmp_path / "page.html"
    path.write_text(page(game, tables, film), encoding="utf-8")
    opened = Opened(browser, path, "#2")
    assert opened.press("End") == steps
    titles = opened.tab.locator("h2").all_inner_texts()
    pictured = [] if game == "own" else ["the world after the step"]
    assert titles == [
        *pictured, "reward so far", "incentives received so far", "agents: what they did, and have after it",
    ]  # fmt: skip
    assert "not finite" in opened.tab.inner_text("#agents table")
    assert data_of(path)["curves"][1]["values"][-1] == [0.5 * steps] * log.n_agents
    assert opened.complaints == []


GAMES = {"escape_room": {"n_agents": 3, "min_at_lever": 3}, "cleanup": {"steps": 6}}


class Plain:
    """A game of a user's own, with no pictures and no names of actions."""

    num_envs, n_agents, n_actions = 1, 2, 2

    def reset(self):
        return {"agents": np.zeros((1, 2, 1)), "designer": np.zeros((1, 1))}, {}

    def step(self, actions):
        rewards, over = np.asarray(actions, float), np.zeros(1, bool)
        return *self.reset()[:1], rewards, over, over, {"designer_reward": rewards.sum(1)}


# ---------------------------------------------------------------------- of runs


TINY = ["--episodes", "4", "--k", "2", "--eval-period", "2", "--eval-episodes", "2", "--test-episodes", "2",
        "--checkpoint-period", "2", "--seeds", "2"]  # fmt: skip


@pytest.mark.parametrize(
    ("game", "options", "steps"),
    [
        ("escape-room", ["--method", "metagrad"], None),
        ("cleanup", ["--method", "metagrad", "--task.steps", "5"], 5),
        ("cleanup", ["--method", "central", "--task.task.steps", "5"], 5),
        ("gtb", ["--method", "us-federal", "--task.steps", "10", "--agents.network.hidden", "6"], 10),
        ("own:task", [], None),
    ],
    ids=["escape-room", "cleanup", "central", "gtb", "own"],
)
def test_runs_are_replayed(game, options, steps, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "episode.html"
    assert cli.main(["train", game, *TINY, *options, "--out", str(run)]) == 0
    assert cli.main(["replay", str(run), "--out", str(out)]) == 0
    data = data_of(out)
    assert steps in (None, data["steps"])
    assert ("incentives received so far" in [c["title"] for c in data["curves"]]) == (
        game != "gtb" and "central" not in options
    )
    if game != "own:task":
        assert len(data["pictures"]) == data["steps"]
        gif = tmp_path / "episode.gif"
        assert cli.main(["replay", str(run), "--out", str(gif)]) == 0
        with Image.open(gif) as pictures:
            assert pictures.n_frames <= data["steps"]
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert cli.main(["replay", str(run), "--out", str(tmp_path / "episode.mp4")]) == 2
    assert "--out must end in .gif or .html" in capsys.readouterr().err
    assert cli.main(["replay", str(run), "--seed", "3", "--out", str(out)]) == 2
    assert "--seed must be one of" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}
