"""An episode of a run to look at: a page that plays and scrubs it, or a GIF."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastenvs import gtb
from fastenvs.log import EpisodeLog, Table
from fastenvs.render import save_gif
from metagrad.experiment.learners import Learners
from metagrad.reports.episodes import play

#: Columns of the agents' table that are no state of an agent, or are shown otherwise.
_KEYS = ("seed", "env", "episode", "step", "agent", "action")
#: Columns of the steps that stand beside their number.
_TOTALS = ("welfare", "productivity", "equality")


def replay(learners: Learners, out: Path, seed: int | None = None) -> Path:
    """Write a fresh episode of a seed's agents (the first one's by default); returns the file.

    Parameters
    ----------
    learners : Learners
        Of a run.
    out : Path
        A page that needs nothing else if it ends in ``.html``, or a ``.gif``.
    seed : int, optional
        Seed of the run.

    Raises
    ------
    ValueError
        If ``out`` is neither, or the seed is none of the run's; nothing is played then.
    """
    if out.suffix not in (".gif", ".html"):
        raise ValueError(f"--out must end in .gif or .html, got {out}")
    experiment = learners.experiment
    chosen = experiment.run.seeds[0] if seed is None else seed
    place = next((t.seeds.index(chosen) for t in learners.trainers if chosen in t.seeds), 0)  # play() refuses others
    film = Film(place) if out.suffix == ".html" else Film(place, experiment.task.camera)
    (played,) = play(learners, 1, [chosen], film.look)
    if out.suffix == ".gif":
        save_gif(film.pictures, out, 0.2)
    else:
        title = f"{experiment.task.name}, {experiment.method}, seed {chosen}"
        out.write_text(page(title, played.tables([chosen]), film), encoding="utf-8")
    return out


class Film:
    """What is seen of one copy after every step of its first episode.

    Parameters
    ----------
    copy : int
        The copy.
    camera : callable, optional
        What makes of an environment and the copy's number what gives pictures of it; by default the environment's own
        ``render``, of which one that has none gives no pictures.
    """

    def __init__(self, copy: int, camera: Callable[[Any, int], Callable[[], np.ndarray]] | None = None) -> None:
        self.copy, self.pictures = copy, list[np.ndarray]()
        self.books, self.income = list[np.ndarray](), list[np.ndarray]()
        self.env: Any = None
        self._camera, self._over = camera, False
        self._shot: Callable[[], np.ndarray] | None = None

    def look(self, log: EpisodeLog) -> None:
        """See the copy after a step; where it shows its next episode already, the last look stays."""
        if self._over or not log.stepped[self.copy]:
            return
        if self.env is None:
            self.env = log.env
            if self._camera is not None:
                self._shot = self._camera(log.env, self.copy)
            elif hasattr(log, "render"):
                self._shot = lambda: log.render(self.copy)
        self._over = bool(log.restarted[self.copy])
        seen = (self.pictures, self.books, self.income)
        for kept, new in zip(seen, self._see(), strict=True):
            if new is not None:
                kept.append(kept[-1] if self._over and kept else new)

    def _see(self) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """A picture; the open orders of an economy, and income since the last tax day."""
        picture = None if self._shot is None else self._shot()
        if not isinstance(self.env, gtb.GatherTradeBuild):
            return picture, None, None
        s, e = self.env.state, self.copy
        due = s.agents.coin[e] + s.agents.escrow_coin[e] - s.taxes.last_coin[e]
        income = s.taxes.income[e] if s.taxes.tax_day[e] else due
        return picture, s.books.depth[e].reshape(2, 2, -1).copy(), income.copy()


def page(title: str, tables: dict[str, Table], film: Film) -> str:
    """A page that plays an episode, which needs no other file and no network.

    Parameters
    ----------
    title : str
        What stands above it.
    tables : dict of dict of ndarray
        Of this episode alone, as :class:`fastenvs.log.EpisodeLog` gives them.
    film : Film
        What was seen of it.
    """
    template = resources.files("metagrad.reports").joinpath("replay.html").read_text("utf-8")
    data = json.dumps(_shown(title, tables, film), separators=(",", ":"), allow_nan=False)
    # Within a page nothing may look like the end of a script.
    return template.replace("{{data}}", data.replace("<", "\\u003c"))


def _shown(title: str, tables: dict[str, Table], film: Film) -> dict[str, Any]:
    """All that the page shows: pictures, curves by agent, the agents' tables, and what an economy has besides."""
    agents, env = tables["agents"], film.env
    n_agents = int(agents["agent"].max()) + 1
    by_step = {name: x.reshape(-1, n_agents) for name, x in agents.items()}
    names = getattr(env, "action_names", None)
    actions = by_step["action"].tolist()
    shown = {
        "title": title, "steps": len(actions), "names": names and [*names], "actions": actions,
        "colours": ["#" + colour.tobytes().hex() for colour in _colours(env, n_agents)],
        "pictures": [_png(picture) for picture in film.pictures],
        "agents": {name: _short(x) for name, x in by_step.items() if name not in _KEYS},
        "totals": {name: _short(x) for name, x in tables["steps"].items() if name in _TOTALS},
        "curves": _curves(by_step, film),
    }  # fmt: skip
    return shown | (_economy(tables, film) if film.books else {})


def _curves(by_step: Table, film: Film) -> list[dict[str, Any]]:
    """What is drawn over the steps, ``[T, A]`` each."""
    if film.books:
        found = {"coin, that behind bids included": by_step["coin"] + by_step["escrow_coin"],
                 "income since the last tax day": np.array(film.income)}  # fmt: skip
    else:
        found = {"reward so far": by_step["reward"].cumsum(0)}
    if "incentive" in by_step and not (film.books and not by_step["incentive"].any()):
        found["incentives received so far"] = by_step["incentive"].cumsum(0)
    return [{"title": name, "values": _short(x)} for name, x in found.items()]


def _economy(tables: dict[str, Table], film: Film) -> dict[str, Any]:
    """Order books, trades, and the schedule."""
    trades, steps = tables["trades"], tables["steps"]
    fields = ("step", "good", "buyer", "seller", "price")
    rates = np.stack([steps[name] for name in steps if name.startswith("rate_")], 1)
    return {
        "goods": gtb.log.GOODS.tolist(),
        "books": np.array(film.books).tolist(),  # [T, asks or bids, good, price]
        "trades": list(zip(*(trades[name].tolist() for name in fields), strict=True)),
        "cutoffs": _short(film.env.options.cutoffs), "rates": _short(rates), "period": film.env.options.tax_period,
    }  # fmt: skip


def _colours(env: Any, n_agents: int) -> np.ndarray:
    colours = getattr(env, "agent_colours", gtb.GatherTradeBuild.agent_colours)
    return colours[np.arange(n_agents) % len(colours)]


def _short(x: np.ndarray) -> Any:
    """Numbers to six digits as nested lists, None for those that are not finite."""
    if x.dtype.kind != "f":
        return x.astype(int).tolist()
    flat = [float(f"{value:.6g}") if math.isfinite(value) else None for value in x.ravel().tolist()]
    return np.array(flat, object).reshape(x.shape).tolist()


def _png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return base64.b64encode(file.getvalue()).decode("ascii")
