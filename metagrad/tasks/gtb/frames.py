"""An episode of Gather-Trade-Build as pictures, whose parts are drawn once and then moved from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from fastenvs.render import AGENT_COLOURS

#: Open orders at one price that an order book has room for.
MOST_ORDERS = 8


class Dashboard:
    """A camera on one copy: map, order books, tax schedule, what the agents have.

    Called, it gives a picture of the copy as it stands, uint8 ``[h, w, 3]``.
    """

    def __init__(self, env: Any, copy: int) -> None:
        self._env, self._copy, options = env, copy, env.options
        self._figure = Figure((11, 6.4), layout="constrained")
        self._canvas = FigureCanvasAgg(self._figure)
        (self._world, *books), (rates, *owned) = self._figure.subplots(2, 3)
        self._world.set_axis_off()
        self._texts = [axis.set_title("tax", fontsize=10) for axis in (self._world, rates)]
        n_prices = options.max_price + 1
        self._books = [_book(axis, good, n_prices) for axis, good in zip(books, ("stone", "wood"), strict=True)]
        self._edges = [*options.cutoffs, options.cutoffs[-1] * 1.2]
        (self._schedule,) = rates.step(self._edges, np.zeros(len(self._edges)), where="post")
        rates.set(ylim=(-0.02, 1.02), xlabel="income")
        names = [f"{pay:.0f}" for pay in env.state.agents.pay[copy]]
        titles = ("coin", "income since the last tax day")
        self._owned = [_Amounts(axis, title, names) for axis, title in zip(owned, titles, strict=True)]
        owned[0].set_xlabel("coins that the agent gets for a house")
        self._background: Any = None

    def __call__(self) -> np.ndarray:
        """Picture of the copy as it stands."""
        moving = [*self._texts, self._schedule, *self._books, *(amounts.bars for amounts in self._owned)]
        if self._move() or self._background is None:
            for artist in moving:
                artist.set_animated(True)
            self._canvas.draw()
            self._figure.set_layout_engine("none")
            self._background = self._canvas.copy_from_bbox(self._figure.bbox)  # type: ignore[attr-defined]
        self._canvas.restore_region(self._background)  # type: ignore[attr-defined]
        for artist in moving:
            self._figure.draw_artist(artist)
        picture = np.array(Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB"))
        self._paste(picture)
        return picture

    def _move(self) -> bool:
        """Bring every part up to date; returns whether an axis has grown."""
        e, s, options = self._copy, self._env.state, self._env.options
        total, equality = s.events.productivity[e], s.events.equality[e]
        self._texts[0].set_text(f"step {s.clock.time[e]}: coin {total:.0f}, equality {equality:.2f}")
        self._texts[1].set_text(f"marginal rate (tax in {options.tax_period - s.taxes.position[e] + 1} steps)")
        self._schedule.set_ydata([*s.taxes.live[e], s.taxes.live[e, -1]])
        for good, book in enumerate(self._books):
            asks, bids = s.books.depth[e].reshape(2, 2, -1)[:, good].astype(int)
            book.set_verts(_boxes(np.arange(len(asks)), np.concatenate([-bids, asks]), flat=True))
        coin = s.agents.coin[e] + s.agents.escrow_coin[e]
        grown = [bars.move(x) for bars, x in zip(self._owned, (coin, coin - s.taxes.last_coin[e]), strict=True)]
        return any(grown)

    def _paste(self, picture: np.ndarray) -> None:
        """Put the map where its axis is, as large as it fits, in whole pixels a cell."""
        box, height = self._world.bbox, len(picture)
        cells = self._env.options.cells.shape
        size = max(4, int(min(box.height / cells[0], box.width / cells[1])))
        world = self._env.render(self._copy, size)
        top, left = round(height - box.y1), round((box.x0 + box.x1 - world.shape[1]) / 2)
        room = picture[top : top + len(world), max(0, left) : max(0, left) + world.shape[1]]
        room[:] = world[: room.shape[0], : room.shape[1]]


class _Amounts:
    """Bars by agent, on an axis that doubles when one does not fit."""

    def __init__(self, axis: Any, title: str, names: Sequence[str]) -> None:
        self._axis, self._low, self._high = axis, 0.0, 20.0
        colours = AGENT_COLOURS[np.arange(len(names)) % len(AGENT_COLOURS)] / 255
        self.bars = axis.add_collection(PolyCollection([], facecolors=colours), autolim=False)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=title, xlim=(-0.6, len(names) - 0.4), xticks=range(len(names)), xticklabels=names, ylim=(0, 20))

    def move(self, amounts: np.ndarray) -> bool:
        """Set the bars; returns whether the axis has grown."""
        self.bars.set_verts(_boxes(np.arange(len(amounts)), amounts, flat=False))
        before = self._low, self._high
        while self._high < amounts.max():
            self._high *= 2
        while self._low > amounts.min():
            self._low = min(2 * self._low, -5.0)
        self._axis.set_ylim(self._low, self._high)
        return before != (self._low, self._high)


def _book(axis: Any, good: str, n_prices: int) -> Any:
    """An order book by price: bids to the left, asks to the right."""
    colours = ["C2"] * n_prices + ["C3"] * n_prices
    for label, colour in (("bids", "C2"), ("asks", "C3")):
        axis.barh(0, 0, color=colour, label=label)
    axis.set(title=f"order book: {good}", ylabel="price", xlim=(-MOST_ORDERS, MOST_ORDERS), ylim=(-0.9, n_prices - 0.1))
    axis.legend(fontsize=7, loc="upper right")
    return axis.add_collection(PolyCollection([], facecolors=colours), autolim=False)


def _boxes(places: np.ndarray, lengths: np.ndarray, flat: bool) -> np.ndarray:
    """Corners ``[n, 4, 2]`` of bars that start at 0, upright or flat; places repeat."""
    at, zero = np.resize(places, len(lengths)), np.zeros(len(lengths))
    along, across = [zero, zero, lengths, lengths], [at - 0.4, at + 0.4, at + 0.4, at - 0.4]
    return np.stack([np.stack(along if flat else across, 1), np.stack(across if flat else along, 1)], 2)
