"""Gather-Trade-Build for the learner: its environment, what is kept of a step, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastenvs.gtb import Options
from metagrad.batch import Batch
from metagrad.tasks.base import FastTask, TaskError
from metagrad.tasks.figures import Panels, Runs
from metagrad.tasks.gtb import figures
from metagrad.tasks.taxes import share_memories

#: What is reported of each skill rank, from low to high: coin at the end; of an episode, units gathered, income from
#: building and from trade (sales less purchases), income, tax, and tax less rebate.
BY_RANK = ("coin", "gathered", "build_income", "trade_income", "income", "tax", "net_tax")


@dataclass(frozen=True)
class GatherTradeBuild(FastTask, Options):  # type: ignore[misc]
    """Gather-Trade-Build: agents with different skills gather, trade and build, and are taxed.

    Its parameters are the :class:`options of the game <fastenvs.gtb.Options>`.
    """

    name = "gtb"
    fields = ("welfare", "productivity", "equality", "houses")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.schedule if self.tax_mode == "fixed" else None
        if isinstance(given, np.ndarray) and (highest := given.max()) > self.rate_max:  # the game would lower it
            raise TaskError(f"GatherTradeBuild.fixed_rates has {highest:g}, above rate_max, which is {self.rate_max:g}")

    @classmethod
    def upgraded(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """Runs once held rates, whatever the tax mode, and the paper's annealing or none."""
        now = {name: value for name, value in saved.items() if name != "rates"}
        if "rates" in saved and now.get("tax_mode") == "fixed":
            now["fixed_rates"] = saved["rates"]
        if isinstance(now.get("anneal"), bool):
            now["anneal"] = "paper" if now["anneal"] else None
        return now

    def prepare(self, env: Any, episodes: int, source: Any = None, n_seeds: int = 1) -> None:
        """Let annealing go by training episodes, and evaluations see the schedule of training as it stands."""
        if source is None:
            env.state.clock.completed[:] = episodes
            return
        env.reset_completed(episodes)
        share_memories(env.state.saez, source.state.saez, n_seeds)

    def record(self, env: Any, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """What scores and taxes need of a step.

        After every step ``wealth`` (total coin), ``coin`` at hand, ``income_so_far`` since the last tax day, ``goods``
        at hand and on offer, and units ``gathered``; in the first step skill ranks; on tax days alone what the tax
        found and did; in the last step what the episode came to.
        """
        s = env.state
        agents, taxes = s.agents, s.taxes
        wealth = agents.coin + agents.escrow_coin
        kept = {
            "wealth": wealth, "coin": agents.coin, "income_so_far": wealth - taxes.last_coin,
            "goods": agents.units + agents.escrow_units, "gathered": s.events.gathered, "tax_day": taxes.tax_day,
        }  # fmt: skip
        if s.clock.time[0] == 1:
            kept["rank"] = agents.pay.argsort(1, kind="stable").argsort(1)
        if taxes.tax_day[0]:
            kept |= {
                "income": taxes.income, "taxed_coin": taxes.coin_before, "rates": taxes.live, "cap": s.rates.cap,
                "tax": taxes.paid, "net_tax": taxes.paid - taxes.rebate.reshape(len(wealth), -1),
            }  # fmt: skip
        if s.clock.time[0] == self.steps:
            traded = s.events.trade_value.sum(-1)
            kept |= {
                "equality": s.events.equality, "productivity": s.events.productivity, "houses": agents.houses,
                "trades": s.events.n_trades[:, :, 0].sum((1, 2)), "build_income": agents.houses * agents.pay,
                "trade_income": traded[..., 0] - traded[..., 1],
            }  # fmt: skip
        return kept

    def scores(self, batch: Batch) -> dict[str, np.ndarray]:
        """Welfare at the end of an episode and its parts, rates on the tax days, and the accounts by skill rank."""
        extra, n = batch.extra, self.n_agents
        last = {name: extra[name][:, -1].double() for name in ("equality", "productivity", "houses", "trades")}
        scores = {
            "welfare": (last["equality"] * last["productivity"]).mean(1) / n,
            "productivity": last["productivity"].mean(1),
            "equality": last["equality"].mean(1),
            "houses": last["houses"].sum(2).mean(1),
            "trades": last["trades"].mean(1),
            "rate": _mean_rates(extra, len(self.cutoffs)),
        }
        scores |= {f"{name}_rank": _by_rank(extra, name) for name in BY_RANK}
        return {name: x.cpu().numpy() for name, x in scores.items()}

    def panels(self, runs: Runs) -> Panels:
        """Panels of runs: training, rates, who earns and pays."""
        return figures.panels(runs)

    def camera(self, env: Any, copy: int) -> Callable[[], np.ndarray]:
        """Pictures of one copy: map, order books, tax schedule, what the agents have."""
        from metagrad.tasks.gtb.frames import Dashboard  # matplotlib takes its time

        return Dashboard(env, copy)


def _mean_rates(extra: dict[str, Tensor], n_brackets: int) -> Tensor:
    """Rates in force on the tax days, ``[S, B]``; 0 without any."""
    days = extra["tax_day"][0, :, 0].bool()
    if not days.any():
        return torch.zeros(len(extra["tax_day"]), n_brackets, dtype=torch.float64)
    return extra["rates"][:, days].mean((1, 2))


def _by_rank(extra: dict[str, Tensor], name: str) -> Tensor:
    """An account of an episode by skill rank, mean over the episodes, ``[S, A]``."""
    if name == "coin":
        account = extra["wealth"][:, -1]
    elif name == "gathered":
        account = extra[name].sum((1, 4), dtype=torch.int64)
    else:  # not there without a tax day
        account = extra.get(name, torch.zeros_like(extra["wealth"])).sum(1)
    return account.double().gather(-1, extra["rank"][:, 0].argsort(-1)).mean(1)
