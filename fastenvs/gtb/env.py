"""The economy: its components, composed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import market, saez, tax
from fastenvs.checks import MAX_INT, as_array, has_shape, integers_of, shown
from fastenvs.draws import Draw
from fastenvs.gtb import build, consistency, gather, observe, rates, regrow, reward, summary
from fastenvs.gtb.config import STONE, WOOD, make_options
from fastenvs.gtb.state import (
    AGENT,
    N_CHANNELS,
    N_GOODS,
    OWNER,
    SOURCE,
    ResetDraws,
    State,
    make_start,
    make_state,
    reset,
)
from fastenvs.guard import exclusive
from fastenvs.jit import kernel, wrapping
from fastenvs.render import render_gtb
from fastenvs.snapshots import rows_of
from fastenvs.vecenv import VecEnv


class _AgentView(NamedTuple):
    """The parts of the agents that are observed."""

    loc: np.ndarray
    coin: np.ndarray
    units: np.ndarray
    pay: np.ndarray
    skill: np.ndarray
    bonus: np.ndarray


class _BookView(NamedTuple):
    """The parts of the books that are observed, orders flattened: asks stone, asks wood, bids stone, bids wood."""

    n_open: np.ndarray  # int32 [N, 2, A]
    own_depth: np.ndarray  # uint8 [N, A, 4 P]
    depth: np.ndarray  # uint16 [N, 4 P]
    history: np.ndarray  # float64 [N, 2, P]


class _TaxView(NamedTuple):
    """The parts of the taxes that are observed."""

    position: np.ndarray
    shown: np.ndarray
    last_income: np.ndarray
    last_marginal: np.ndarray
    sorted_income: np.ndarray
    marginal_now: np.ndarray


class GatherTradeBuild(VecEnv):
    """N copies of the Gather-Trade-Build economy.

    Actions of an agent: 0 nothing, 1 build, then P bids for stone, P asks for stone, P bids for wood, P asks for wood
    (prices 0 .. max_price), then moves left, right, up, down. Illegal ones do nothing.

    Observations are a dict. ``agents``: ``map`` uint8 ``[N, A, d, d, 9]`` (channels: stone, wood, house, water, stone
    source, wood source, house owner, agent, inside the world; owner and agent hold 0 for nobody, 1 for oneself,
    j + 2 for agent j), ``flat`` float32 ``[N, A, F]``, ``mask`` uint8 ``[N, A, n_actions]``. ``designer``: ``map``
    uint8 ``[N, H, W, 8]`` (a read-only view of the world, without the last channel), ``flat`` ``[N, F]``, ``agents``
    ``[N, A, 8]``, ``mask``. :meth:`channel_first` gives the published layout.

    ``info`` has, besides ``designer_reward`` (change of welfare): ``reward`` float64 ``[N, A]``; ``welfare``,
    ``productivity``, ``equality`` ``[N]``; ``built``, ``gathered``; ``trades``, ``n_trades`` (see
    :data:`fastenvs.market.TRADE_FIELDS`); ``labor`` ``[N, A]`` and goods ``units``, ``escrow_units`` ``[N, A, 2]``
    after the step and before any reset; ``tax_day`` bool ``[N]`` and, for rows where it is set, what the tax day found
    and did: ``tax_income``, ``tax_paid``, ``tax_rate``, ``coin``, ``escrow_coin`` ``[N, A]`` (before the tax) and
    ``tax_rebate`` ``[N]``.

    Parameters
    ----------
    num_envs : int
        Number of copies.
    preset : {"paper", "upstream"}
        Options to start from.
    **options
        See :class:`fastenvs.gtb.config.Options` and :class:`fastenvs.vecenv.VecEnv`.
    """

    name = "gtb"
    agent_info = (
        "reward", "built", "gathered", "tax_income", "tax_paid", "tax_rate", "coin", "escrow_coin", "labor", "units",
        "escrow_units",
    )  # fmt: skip
    time_leaf = "clock/time"
    min_rows_per_thread = 64
    rows_per_chunk = 256

    def __init__(self, num_envs: int, *, preset: str = "paper", **options: Any) -> None:
        shared, options = self._split(options)
        self.options = o = make_options(preset, **options)
        super().__init__(num_envs, o.n_agents, bytes_each=o.bytes_each, designer_reward_dtype=np.float64, **shared)
        n, a = self.num_envs, self.n_agents
        self.n_actions = o.n_actions
        self.state = make_state(n, o)
        self._start = make_start(o)
        self._sources = np.argwhere(self._start.cells[0, ..., [SOURCE + WOOD, SOURCE + STONE]]).astype(np.int32)
        self._sources[:, 0] = np.where(self._sources[:, 0] == 0, WOOD, STONE)
        self._rate_config = rates.make_config(o)
        self._saez_work = saez.make_work()
        self._saez_config = saez.Config(
            o.cutoffs,
            o.rate_min,
            o.saez_welfare == "inverse_income",
            float("nan") if o.saez_elasticity is None else o.saez_elasticity,
        )
        self._any_fresh = [False]  # whether any copy was reset in this call
        self._bid = np.full((n, a, N_GOODS), -1, np.int16)
        self._ask = np.full((n, a, N_GOODS), -1, np.int16)
        self._configure_components()
        self._allocate_observations()
        self._offer_draws(**self._draws())
        self._refresh_rates()
        self._finished = summary.Finished(self.state)
        self._bind()

    def _configure_components(self) -> None:
        o, p = self.options, self.state
        self._reward_config = reward.RewardConfig(
            o.utility_eta,
            o.energy_cost,
            o.energy_warmup,
            o.energy_warmup_by == "positive_steps",
            reward.OBJECTIVES.index(o.planner_objective),
            o.productivity_only_weight,
            o.steps,
        )
        self._view_config = observe.ViewConfig(
            -1 if o.full_view else o.view_radius,
            o.planner_sees_map,
            o.designer_obs == "decision",
            0.01 if o.scale_obs else 1.0,
            1.0 / o.steps if o.scale_obs else 1.0,
            o.build_pay,
            o.tax_period,
            o.order_limit,
        )
        a = p.agents
        self._builders = build.Builders(a.loc, a.coin, a.units, a.labor, a.pay, a.houses)
        self._gatherers = gather.Gatherers(a.loc, a.units, a.labor, a.bonus)
        self._workers = reward.Workers(a.coin, a.escrow_coin, a.labor, a.units, a.escrow_units)
        self._labor = np.array([o.move_labor, o.collect_labor], float)
        self._goods = market.Goods(a.coin, a.escrow_coin, a.units, a.escrow_units, a.labor)
        self._market_rules = consistency.rules(o)

    def _allocate_observations(self) -> None:
        o, n, a = self.options, self.num_envs, self.n_agents
        height, width = o.cells.shape
        n_brackets = len(o.cutoffs)
        side = 2 * o.view_radius + 1
        window = (height, width, observe.DESIGNER_CHANNELS) if o.full_view else (side, side, N_CHANNELS)
        flat = 10 * o.n_prices + n_brackets + a + (13 if o.full_view else 15)
        self._agent_views = observe.AgentViews(
            np.zeros((n, a, *window), np.uint8),
            np.zeros((n, a, flat), np.float32),
            np.zeros((n, a, o.n_actions), np.uint8),
        )
        choices = (n, n_brackets, 1 + len(o.rate_choices)) if o.tax_mode == "planner" else (n, 1, 1)
        per_agent = 3 if o.full_view else 8 if o.planner_sees_map else 6
        self._designer_views = observe.DesignerViews(
            np.zeros((n, 1, 6 * o.n_prices + n_brackets + a + 9), np.float32),
            np.zeros((n, a, per_agent), np.float32),
            np.ones(choices, np.uint8),
        )
        designer = self._designer_views._asdict()
        designer["flat"] = designer["flat"][:, 0]
        if o.planner_sees_map:
            world = self.state.world.cells[..., : observe.DESIGNER_CHANNELS]
            world.flags.writeable = False
            designer = {"map": world, **designer}
        self._obs = {"agents": self._agent_views._asdict(), "designer": designer}
        s = self.state
        self._views = observe.Views(
            s.world,
            _AgentView(*(getattr(s.agents, name) for name in _AgentView._fields)),
            _BookView(
                s.books.n_open, s.books.own_depth.reshape(n, a, -1), s.books.depth.reshape(n, -1), s.books.history
            ),
            _TaxView(*(getattr(s.taxes, name) for name in _TaxView._fields)),
            s.rates.limit,
            s.clock.time,
            (0, 0) if o.full_view else (height, width),
            o.rate_choices,
            observe.order_masks(o.n_prices),
        )

    def _draws(self) -> dict[str, Draw]:
        o, a, (height, width) = self.options, self.n_agents, self.options.cells.shape
        placed = "fixed_four puts everybody into place" if o.fixed_four else ""
        ranked = "" if o.fixed_four else "only fixed_four gives the agents ranks"
        skilled = "build_skill is 'none'" if o.build_skill == "none" else ""
        lucky = "gather_skill is 'none'" if o.gather_skill == "none" else ""
        starts = {
            "location": Draw((a, 2), np.int16, 0, max(height, width) - 1, unused=placed),
            "build_skill": Draw((a,), np.float64, 0, np.inf, unused=skilled),
            "bonus": Draw((a,), np.float64, 0, 1, unused=lucky),
            "agent_order": Draw((a,), np.int16, 0, a - 1, unused=ranked),
        }
        steps = {
            "gather_order": Draw((a,), np.int16, 0, a - 1),
            "collect": Draw((a,), np.float64, 0, 1, optional=True, unused=lucky),
            "regrow": Draw((N_GOODS, height, width), np.uint8, 0, 1),
        }
        made = ((starts, "reset"), (steps, "step"))
        return {name: spec._replace(made_by=(by,)) for draws, by in made for name, spec in draws.items()}

    # ------------------------------------------------------------------ the designer's entries

    @exclusive
    def set_rates(self, new: ArrayLike) -> None:
        """Put rates ``[N, B]`` or ``[B]`` in [0, 1] in force at once, in tax mode ``external``; they survive resets."""
        if self.options.tax_mode != "external":
            raise ValueError(f"set_rates needs tax_mode 'external', this one is {self.options.tax_mode!r}")
        taxes = self.state.taxes
        self.state.rates.external[:] = tax.check_rates(new, taxes.live.shape)
        np.multiply(self.state.rates.external, self.state.rates.cap[:, None], out=taxes.live)

    @exclusive
    def choose_rates(self, choices: ArrayLike) -> None:
        """Designer's actions ``[N, B]`` for the next step, in tax mode ``planner``.

        0 keeps the present rate, ``k`` takes rate choice ``k - 1``. They count on the first day of a period alone;
        the mask is advice.
        """
        if self.options.tax_mode != "planner":
            raise ValueError(f"choose_rates needs tax_mode 'planner', this one is {self.options.tax_mode!r}")
        shape, most = self.state.rates.chosen.shape, len(self.options.rate_choices)
        entry = "choice {value} for bracket {1} in environment {0}"
        self.state.rates.chosen[:] = integers_of("choices", choices, shape, 0, most, entry)

    @exclusive
    def reset_completed(self, episodes: ArrayLike = 0) -> None:
        """Set the count of completed episodes, one for all or ``[N]``.

        It drives annealing and the energy warm-up; resets leave it. Cap and rates in force follow at once, what was
        observed already does not: call it before a reset.
        """
        counts = as_array("episodes", episodes, "iu", "counts")
        has_shape("episodes", counts, (), (self.num_envs,))
        if (counts < 0).any() or (counts > MAX_INT).any():
            raise ValueError(f"episodes must be counts from 0 to {MAX_INT}, got {shown(episodes)}")
        self.state.clock.completed[:] = counts
        self.state.clock.positive_steps[:] = 0
        self._refresh_rates()

    def _refresh_rates(self) -> None:
        s = self.state
        rates.refresh(self._rate_config, s.rates, s.taxes.live, s.clock.completed, self._all, 0, self.num_envs)

    # ------------------------------------------------------------------ hooks

    def _step(self, lo: int, hi: int) -> None:
        o, p, b = self.options, self.state, self.buffers
        actions, active = b.actions, b.active
        before_auction(
            actions, active, o.n_prices, self._bid, self._ask, p.clock.time, p.world, self._builders, p.events.built,
            o.build_labor, lo, hi,
        )  # fmt: skip
        market.run(p.books, self._goods, self._market_rules, self._bid, self._ask, active, lo, hi)
        gather.gather(
            actions, active, o.n_prices, p.world.cells, self._gatherers, p.events.gathered, self._labor, self.streams,
            (self._drawn["gather_order"], self._drawn["collect"]), p.clock.scratch, lo, hi,
        )  # fmt: skip
        tax.run_periodic(
            p.taxes, lo, hi, active, o.tax_period, o.cutoffs, self.state.rates.chosen, o.rate_choices,
            p.agents.coin, p.agents.escrow_coin,
        )  # fmt: skip
        after_tax(
            p.world.cells, self._sources, self.streams, o.regen_prob, self._drawn["regrow"], self._reward_config,
            self._workers, p.clock, p.events, p.books.trades, p.books.n_trades, b, lo, hi,
        )  # fmt: skip

    def _reset(self, mask: np.ndarray, lo: int, hi: int) -> None:
        p = self.state
        self._any_fresh[0] = True
        draws = ResetDraws(
            self._drawn["location"],
            self._drawn["build_skill"],
            self._drawn["bonus"],
            self._drawn["agent_order"],
        )
        reset(self._start, p.world, p.agents, p.clock, p.events, self.streams, draws, mask, lo, hi)
        market.clear(p.books, mask, lo, hi)
        rates.begin(self._rate_config, p.rates, p.taxes, p.agents, p.clock, p.saez.running_mean, mask, lo, hi)
        regrow.restart(p.clock, self.streams, self.options.regen_prob, mask, lo, hi)
        reward.begin(self._reward_config, self._workers, p.clock, mask, lo, hi)

    def _observe(self, out: dict[str, Any], mask: np.ndarray, lo: int, hi: int) -> None:
        final = out is not self._obs
        agents, designer = self._agent_views, self._designer_views
        if final:
            agents = observe.AgentViews(**out["agents"])
            d = out["designer"]
            designer = observe.DesignerViews(d["flat"][:, None], d["agents"], d["mask"])
            if self.options.planner_sees_map:
                rows = rows_of(mask, lo, hi)
                out["designer"]["map"][rows] = self._obs["designer"]["map"][rows]
            if self.options.tax_mode != "planner":
                designer.mask[rows_of(mask, lo, hi)] = 1
        config = self._view_config
        if final:  # a last observation is complete, whatever the day
            config = config._replace(decision_only=False)
        observe.observe(config, self._views, agents, designer, mask, lo, hi)
        if not final and self._any_fresh[0]:
            s = self.state
            rates.unveil(self._rate_config, s.rates, s.taxes.live, s.clock.completed, mask, lo, hi)

    def _keep_finished(self, mask: np.ndarray, lo: int, hi: int) -> None:
        self._finished.keep(mask, lo, hi)

    def _restate(self, mask: np.ndarray, lo: int, hi: int) -> None:
        reward.restate(self.state.agents, self.state.clock, self.state.events, mask, lo, hi)

    def _restored(self) -> None:
        self._any_fresh[0] = True
        self._finished.forget()

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        return consistency.state_bounds(self.options, self.state)

    def _check_state(self, state: State) -> None:
        consistency.check_state(self.options, self._start, state)

    def _prepare(self) -> None:
        if self.options.tax_mode == "saez":
            s = self.state
            idle = ~self._all if self.autoreset == "same_step" else self._done
            with wrapping():
                saez.set_rates(
                    self._saez_config, s.saez, self._saez_work, s.taxes.position, s.rates.cap, s.taxes.live,
                    self.streams, idle,
                )  # fmt: skip

    def _finish(self) -> None:
        self._any_fresh[0] = False
        if self.options.tax_mode == "planner":
            self.state.rates.chosen.fill(0)
        elif self.options.tax_mode == "saez":
            taxes = self.state.taxes
            saez.append(self.state.saez, taxes.income, taxes.marginal, taxes.tax_day)

    def _step_info(self) -> dict[str, Any]:
        p = self.state
        return {
            "reward": p.events.reward,
            "welfare": p.events.welfare,
            "productivity": p.events.productivity,
            "equality": p.events.equality,
            "built": p.events.built,
            "gathered": p.events.gathered,
            "trades": p.books.trades,
            "n_trades": p.books.n_trades,
            "tax_day": p.taxes.tax_day,
            "tax_income": p.taxes.income,
            "tax_paid": p.taxes.paid,
            "tax_rate": p.taxes.marginal,
            "tax_rebate": p.taxes.rebate,
            "coin": p.taxes.coin_before,
            "escrow_coin": p.taxes.escrow_before,
            "labor": p.events.labor,
            "units": p.events.units,
            "escrow_units": p.events.escrow_units,
        }

    def metrics(self, env: int, *, final: bool = False) -> dict[str, float]:
        """Metrics of one copy's episode so far, by the reference's names (``docs/spec/gtb.md``, section 11).

        Parameters
        ----------
        env : int
            Number of the copy.
        final : bool
            Of its last finished episode instead, which a reset has replaced by a new one since; after the last step
            of an episode in mode ``same_step``, it is what there is to read. Copies and snapshots do not keep it.

        Raises
        ------
        ValueError
            If there is no such copy, or it has finished no episode.
        """
        e = self._copy_index(env)
        return summary.metrics(self.options, self._finished.state(e) if final else self.state, e)

    def render(self, env: int = 0, cell_size: int = 20) -> np.ndarray:
        """Picture of one copy, uint8 ``[H * cell_size, W * cell_size, 3]``."""
        return render_gtb(self.state.world.cells[self._copy_index(env)], cell_size)

    def _check_draws(self, draws: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        checked = super()._check_draws(draws)
        for name in ("gather_order", "agent_order"):
            if name in checked and (np.sort(checked[name], axis=1) != np.arange(self.n_agents)).any():
                raise ValueError(f"draw {name!r} must hold a permutation of the agents in every row")
        if self.options.fixed_four and "build_skill" in checked and "agent_order" not in checked:
            raise ValueError(
                "draw 'build_skill' is only seen under fixed_four, pay goes by rank: hand in 'agent_order' with it"
            )
        if "location" in checked:
            height, width = self.options.cells.shape
            row, column = checked["location"][..., 0], checked["location"][..., 1]
            if (row >= height).any() or (column >= width).any() or (self.options.cells[row, column] == "@").any():
                raise ValueError("draw 'location' has cells outside the map or in water")
            cells = np.sort(row.astype(np.int64) * width + column, axis=1)
            if (np.diff(cells, axis=1) == 0).any():
                raise ValueError("draw 'location' puts two agents on one cell")
        return checked

    # ------------------------------------------------------------------ spaces

    @cached_property
    def single_observation_space(self):
        """``Dict(agents=Dict(map, flat, mask), designer=Dict(map, flat, agents, mask))`` of one copy."""
        from gymnasium.spaces import Box, Dict

        def space(tree, name=""):
            if isinstance(tree, dict):
                return Dict({key: space(value, key) for key, value in tree.items()})
            shape = tree.shape[1:]
            if name == "map":
                most = np.ones(shape, np.uint8)
                most[..., [OWNER, AGENT]] = self.n_agents + 1
                return Box(np.zeros_like(most), most, dtype=np.uint8)  # type: ignore[arg-type]
            low, high = (0, 1) if name == "mask" else (-np.inf, np.inf)
            return Box(low, high, shape, tree.dtype.type)

        return space(self._obs)


@kernel
def before_auction(actions, active, n_prices, bid, ask, time, world, builders, built, build_labor, lo, hi):
    """Components before the auction, in one call."""
    build.read_orders(actions, active, n_prices, bid, ask, time, lo, hi)
    build.build(actions, active, world, builders, built, build_labor, lo, hi)


@kernel
def after_tax(
    cells, sources, streams, regen_prob, regrowth, config, workers, clock, events, trades, n_trades, buffers, lo, hi
):
    """Components after the tax, in one call."""
    regrow.regrow(buffers.active, cells, sources, clock, streams, regen_prob, regrowth, lo, hi)
    reward.reward(config, workers, clock, events, trades, n_trades, buffers, lo, hi)


def channel_first(maps: np.ndarray) -> np.ndarray:
    """View ``[..., channels, row, column]`` of maps ``[..., row, column, channels]``, the published layout."""
    return np.moveaxis(maps, -1, -3)
