"""Episodes of the economy as tidy tables: agents by step, trades, tax days, episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastenvs import log
from fastenvs.gtb.env import GatherTradeBuild
from fastenvs.log import Table, bounds, by_agent, columns
from fastenvs.market import TRADE_FIELDS

GOODS = np.array(["stone", "wood"])


class EpisodeLog(log.EpisodeLog):
    """An economy that records what its agents do, trade, pay and have.

    It is stepped in the environment's place, as :class:`fastenvs.log.EpisodeLog`.

    Parameters
    ----------
    env : GatherTradeBuild
        With any options, in any mode of autoreset.

    Notes
    -----
    :meth:`tables` gives, with ``env``, ``episode`` and ``step`` in front,

    - ``agents``, one row an agent and step, as things stand after it: ``agent``, ``action``, ``reward``, ``row``,
      ``column``; at hand ``coin``, ``stone``, ``wood``, and behind open orders ``escrow_coin``, ``escrow_stone``,
      ``escrow_wood``; ``labor`` of the episode, ``utility``; what the step brought, ``gathered_stone``,
      ``gathered_wood``, ``built``; and ``pay``, the coins that the agent gets for a house
    - ``trades``, one row a trade: ``good``, ``buyer``, ``seller``, ``bid``, ``ask``, ``price`` (coins), and the orders'
      ages ``bid_age``, ``ask_age`` (steps)
    - ``taxes``, one row an agent and tax day: ``period`` (from 1), ``agent``, ``income`` of the period, ``coin`` at
      hand before the tax, ``tax``, ``rebate``, ``net_tax`` (tax less rebate), ``marginal_rate``, and the rates in
      force, ``rate_0`` up
    - ``steps``, one row a copy and step: ``designer_reward``, ``terminated``, ``truncated``, ``welfare``,
      ``productivity``, ``equality``, and the rates in force
    - ``episodes``: ``steps``, ``designer_reward`` (its sum), ``terminated``, ``truncated``; ``welfare``,
      ``productivity`` and ``equality`` after the last step; ``houses`` built and ``trades`` made

    Examples
    --------
    >>> import fastenvs
    >>> log = EpisodeLog(fastenvs.make("gtb", 2, tax_mode="us_federal", steps=20))
    >>> _ = log.reset(seed=0)
    >>> for _ in range(20):
    ...     _ = log.step([[48, 48, 48, 48]] * 2)
    >>> {name: len(table["env"]) for name, table in log.tables().items()}
    {'agents': 160, 'trades': 0, 'taxes': 16, 'steps': 40, 'episodes': 2}
    """

    by_copy = (*log.EpisodeLog.by_copy, "welfare", "productivity", "equality", "rate")

    def __init__(self, env: GatherTradeBuild) -> None:
        if not isinstance(env, GatherTradeBuild):
            raise TypeError(f"env must be a GatherTradeBuild, got {type(env).__name__}")
        super().__init__(env)

    def _look(self, actions: np.ndarray, result: Any) -> Table:
        info, live, kept, begun = result[4], self.env.state, self.env.finished, self.restarted

        def now(group: str, name: str) -> np.ndarray:
            x = getattr(getattr(live, group), name).copy()
            if begun.any():
                x[begun] = getattr(getattr(kept, group), name)[begun]
            return x

        common = super()._look(actions, result)
        seen = {name: common[name] for name in (*log.EpisodeLog.by_copy, "action")}
        seen["reward"] = info["reward"].copy()  # in double precision
        seen["row"], seen["column"] = np.moveaxis(now("agents", "loc"), -1, 0)
        seen["coin"], seen["escrow_coin"] = now("agents", "coin"), now("agents", "escrow_coin")
        for g, good in enumerate(GOODS.tolist()):
            seen[good] = info["units"][..., g].copy()
            seen[f"escrow_{good}"] = info["escrow_units"][..., g].copy()
            seen[f"gathered_{good}"] = info["gathered"][..., g].copy()
        seen |= {"labor": info["labor"].copy(), "utility": now("clock", "utility"), "built": info["built"].copy()}
        seen |= {"pay": now("agents", "pay"), "rate": now("taxes", "live")}
        shared = ("welfare", "productivity", "equality", "tax_day", "trades", "n_trades")
        seen |= {name: info[name].copy() for name in (*shared, "tax_income", "tax_paid", "tax_rate")}
        rebate = np.broadcast_to(info["tax_rebate"].reshape(len(actions), -1), info["tax_paid"].shape).copy()
        return seen | {"tax_coin": info["coin"].copy(), "tax_rebate": rebate}

    def _tables(self, kept: Table) -> dict[str, Table]:
        taxes = {name: kept.pop(name) for name in [*kept] if name.startswith("tax_")}
        shared = super()._tables(kept)
        keys = {name: kept[name] for name in ("env", "episode", "step")}
        first, last = bounds(keys)
        ends = {name: kept[name][last] for name in ("welfare", "productivity", "equality")}
        counts = {"houses": kept["built"].sum(1, dtype=np.int64), "trades": kept["n_trades"].astype(np.int64)}
        sums = {name: np.add.reduceat(x, first) for name, x in counts.items()}
        day = taxes.pop("tax_day")
        at = {name: x[day] for name, x in {**keys, **taxes, "rate": kept["rate"]}.items()}
        return {
            "agents": shared["agents"],
            "trades": self._trades(keys, kept["trades"], kept["n_trades"]),
            "taxes": self._taxes(at),
            "steps": shared["steps"],
            "episodes": {**shared["episodes"], **ends, **sums},
        }

    def _trades(self, keys: Table, trades: np.ndarray, n_trades: np.ndarray) -> Table:
        row, place = np.nonzero(np.arange(trades.shape[1]) < n_trades[:, None])
        fields = dict(zip(TRADE_FIELDS, trades[row, place].T, strict=True))
        return {**{name: x[row] for name, x in keys.items()}, **fields, "good": GOODS[fields["good"]]}

    def _taxes(self, at: Table) -> Table:
        """The table of tax days from what was recorded of them ``[D, ...]``."""
        keys = {name: at[name] for name in ("env", "episode", "step")}
        keys["period"] = at["step"] // self.env.options.tax_period
        mine = {
            "income": at["tax_income"], "coin": at["tax_coin"], "tax": at["tax_paid"], "rebate": at["tax_rebate"],
            "net_tax": at["tax_paid"] - at["tax_rebate"], "marginal_rate": at["tax_rate"],
        }  # fmt: skip
        rates = {name: x.repeat(self.env.n_agents) for name, x in columns("rate", at["rate"]).items()}
        return {**by_agent(keys, mine), **rates}
