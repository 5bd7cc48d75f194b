"""An episode of a trained run as an animation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from fastenvs import rng
from fastenvs.gtb.env import GatherTradeBuild
from fastenvs.render import AGENT_COLOURS, save_gif
from metagrad.legacy.economy import make_economy, play
from metagrad.legacy.rollout import purpose_streams
from metagrad.legacy.turns import TurnLearner

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg


class Camera:
    """Draws the economy after every step: map, order books, tax schedule, and what the agents have."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.figure, self.axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")

    def before_step(self, env: GatherTradeBuild) -> None:
        """The first frame is that after the first step."""

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Add a frame."""
        s, step = env.state, len(self.frames) + 1
        for axis in self.axes.flat:
            axis.clear()
        world, stone, wood = self.axes[0]
        world.imshow(env.render(0, 16))
        world.set_axis_off()
        equality, coins = s.events.equality[0], s.events.productivity[0]
        world.set_title(f"step {step}: coin {coins:.0f}, equality {equality:.2f}", fontsize=10)
        for axis, good, name in ((stone, 0, "stone"), (wood, 1, "wood")):
            asks, bids = s.books.depth[0].reshape(2, 2, -1)[:, good]
            prices = np.arange(len(asks))
            axis.barh(prices, -bids.astype(int), color="C2", label="bids")
            axis.barh(prices, asks, color="C3", label="asks")
            axis.set(xlim=(-8, 8), title=f"order book: {name}", ylabel="price")
            axis.legend(fontsize=7, loc="upper right")
        self._schedule(env)
        colours = AGENT_COLOURS[np.arange(env.n_agents) % len(AGENT_COLOURS)] / 255
        names = [f"{p:.0f}" for p in s.agents.pay[0]]
        places = range(env.n_agents)
        held, income = self.axes[1, 1], self.axes[1, 2]
        held.bar(places, s.agents.coin[0] + s.agents.escrow_coin[0], color=colours)
        held.set(title="coin", xlabel="coins that the agent gets for a house", xticks=list(places), xticklabels=names)
        income.bar(places, s.agents.coin[0] + s.agents.escrow_coin[0] - s.taxes.last_coin[0], color=colours)
        income.set(title="income since the last tax day", xticks=list(places), xticklabels=names)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        self.frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    def _schedule(self, env: GatherTradeBuild) -> None:
        axis, edges = self.axes[1, 0], env.options.cutoffs
        axis.step([*edges, edges[-1] * 1.2], [*env.state.taxes.live[0], env.state.taxes.live[0, -1]], where="post")
        left = env.options.tax_period - int(env.state.taxes.position[0]) + 1
        axis.set(ylim=(-0.02, 1.02), title=f"marginal rate (tax in {left} steps)", xlabel="income")


def replay(learner: TurnLearner, out: Path, seed: int | None = None) -> Path:
    """Write a fresh episode of a seed's agents (the first one's by default) as a GIF."""
    config = learner.config
    seed = config.seeds[0] if seed is None else seed
    workers = learner.workforces[config.seeds.index(seed)]
    env = make_economy(config, seed, "test", 1)
    env.reset_completed(workers.episodes)
    camera = Camera()
    own: list[rng.Streams] = [purpose_streams([seed], f"test {use}") for use in ("actions", "designer")]
    designer = workers.observer(own[1])
    play(workers, env, own[0], 0.0, [o for o in (designer, camera) if o is not None])
    plt.close(camera.figure)
    save_gif(camera.frames, out, 0.2)
    return out
