"""Evaluation of the economy: who earns what, who pays what, and what comes of it (metagrad specification, 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastenvs.gtb.env import GatherTradeBuild
from metagrad.economy import Workforce, make_economy, play
from metagrad.turns import TurnEvaluator, TurnLearner

#: What is reported of each skill rank, from low to high: coin at the end; of an episode, units gathered, income from
#: building and from trade (sales less purchases), income, tax, and tax less rebate.
BY_RANK = ("coin", "gathered", "build_income", "trade_income", "income", "tax", "net_tax")


class Ledger:
    """Keeps the accounts of an episode; without a tax day those of income, tax and rates are 0."""

    def __init__(self, env: GatherTradeBuild) -> None:
        self.gathered = np.zeros(env.state.agents.pay.shape, np.int64)
        self.income, self.tax, self.net_tax = np.zeros((3, *self.gathered.shape))
        self._rates: list[np.ndarray] = []
        self._brackets = env.state.taxes.live.shape[1]

    def before_step(self, env: GatherTradeBuild) -> None:
        """Nothing is known yet."""

    def after_step(self, env: GatherTradeBuild, info: dict[str, Any]) -> None:
        """Add what the step brought."""
        self.gathered = self.gathered + info["gathered"].sum(-1, dtype=np.int64)
        if info["tax_day"][0]:
            self._rates.append(env.state.taxes.live.copy())
            self.income = self.income + info["tax_income"]
            self.tax = self.tax + info["tax_paid"]
            self.net_tax = self.net_tax + info["tax_paid"] - info["tax_rebate"][:, None]

    def rates(self) -> np.ndarray:
        """Rates in force, means over tax days and copies, ``[B]``."""
        return np.mean(self._rates, (0, 1)) if self._rates else np.zeros(self._brackets)

    def by_rank(self, env: GatherTradeBuild) -> dict[str, np.ndarray]:
        """Means over the copies, ``[A]`` each, skill ranks from low to high."""
        agents, events = env.state.agents, env.state.events
        traded = events.trade_value.sum(-1)
        accounts = {
            "coin": agents.coin + agents.escrow_coin,
            "gathered": self.gathered,
            "build_income": agents.houses * agents.pay,
            "trade_income": traded[..., 0] - traded[..., 1],
            "income": self.income,
            "tax": self.tax,
            "net_tax": self.net_tax,
        }
        order = agents.pay.argsort(axis=1, kind="stable")
        return {name: np.take_along_axis(accounts[name], order, axis=1).mean(0) for name in BY_RANK}


@dataclass(frozen=True)
class EconomyScores:
    """Means over the episodes of an evaluation, one entry a seed, float64 ``[S]``."""

    FIELDS: ClassVar[tuple[str, ...]] = ("welfare", "productivity", "equality", "houses")

    welfare: np.ndarray  # equality times mean coin at the end
    productivity: np.ndarray  # sum of coin at the end
    equality: np.ndarray
    houses: np.ndarray
    trades: np.ndarray
    rates: np.ndarray  # [S, B], in force on the tax days
    by_rank: dict[str, np.ndarray]  # [S, A] each, see BY_RANK
    designer: dict[str, np.ndarray]  # [S] each, what the designer noted of its gradient

    @property
    def score(self) -> np.ndarray:
        """What counts: welfare."""
        return self.welfare

    def headline(self) -> str:
        """A line for the progress bar."""
        return f"welfare {self.welfare.mean():.2f}  houses {self.houses.mean():.1f}"

    def row(self, s: int) -> dict[str, float]:
        """Flat record of seed ``s``, as in metrics.csv."""
        record = {name: float(getattr(self, name)[s]) for name in (*self.FIELDS, "trades")}
        record |= {f"rate_{b}": float(r) for b, r in enumerate(self.rates[s])}
        for name in BY_RANK:
            record |= {f"{name}_rank_{i}": float(v) for i, v in enumerate(self.by_rank[name][s])}
        return record | {name: float(values[s]) for name, values in self.designer.items()}


class EconomyEvaluator(TurnEvaluator):
    """Evaluates learners of the economy, exploration off, actions sampled."""

    make_env = staticmethod(make_economy)

    def __call__(self, learner: TurnLearner) -> EconomyScores:
        """Scores of every seed; annealing and Saez's memory are those of training."""
        rows = [self._score(s, w, env) for s, (w, env) in enumerate(zip(learner.workforces, self.envs, strict=True))]
        plain = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "by_rank"}
        by_rank = {name: np.array([row["by_rank"][name] for row in rows]) for name in BY_RANK}
        notes = [w.diagnostics for w in learner.workforces]
        designer = {name: np.array([note[name] for note in notes]) for name in notes[0]}
        return EconomyScores(**plain, by_rank=by_rank, designer=designer)

    def _score(self, s: int, workers: Workforce, env: GatherTradeBuild) -> dict[str, Any]:
        _copy_schedule(workers, env)
        own = self.streams_of(s)
        ledger, designer = Ledger(env), workers.observer(own["designer"])
        play(workers, env, own["actions"], 0.0, [o for o in (designer, ledger) if o is not None])
        events = env.state.events
        return {
            "welfare": (events.equality * events.productivity).mean() / env.n_agents,
            "productivity": events.productivity.mean(),
            "equality": events.equality.mean(),
            "houses": env.state.agents.houses.sum(1).mean(),
            "trades": events.n_trades[:, :, 0].sum((1, 2)).mean(),
            "rates": ledger.rates(),
            "by_rank": ledger.by_rank(env),
        }


def _copy_schedule(workers: Workforce, target: GatherTradeBuild) -> None:
    """Let evaluation see the schedule of training as it stands, and not advance it.

    A designer's rates survive resets and are seen at the start of an episode: those of the last evaluation must not be,
    since a resumed run has not held it. Every evaluation starts like the first one, and like the test.
    """
    target.state.rates.external[...] = 0
    target.reset_completed(workers.episodes)
    saez, mine = target.state.saez, workers.env.state.saez
    for array, of_training in zip(saez, mine, strict=True):
        if len(array):
            array[...] = of_training[np.arange(len(array)) % len(of_training)]
