"""The economy: its components, composed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import market, saez, tax
from fastenvs.bound import bind, handle, rebind
from fastenvs.checks import MAX_INT, as_array, has_shape, integers_of, shown
from fastenvs.draws import Draw
from fastenvs.gtb import build, consistency, observe, rates, reward, step, summary
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
)
from fastenvs.guard import exclusive
from fastenvs.jit import wrapping
from fastenvs.render import render_gtb
from fastenvs.schedule import Schedule
from fastenvs.snapshots import rows_of
from fastenvs.turns import SAME_STEP
from fastenvs.vecenv import VecEnv


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
    ``tax_rebate`` ``[N]``, or ``[N, A]`` where shares of the revenue differ.

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
        self._seen = np.zeros(n, np.bool_)  # copies that a step observes
        self._bid = np.full((n, a, N_GOODS), -1, np.int16)
        self._ask = np.full((n, a, N_GOODS), -1, np.int16)
        self._order = np.zeros((n, a), np.int16)
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
            False,
            0.01 if o.scale_obs else 1.0,
            1.0 / o.steps if o.scale_obs else 1.0,
            o.build_pay,
            o.tax_period,
            o.order_limit,
        )
        self._orders = build.order_table(o.n_prices)
        self._tables = observe.Tables(
            o.rate_choices,
            observe.order_masks(o.n_prices),
            observe.column_masks(o.cells.shape[1], 0 if o.full_view else o.view_radius),
        )
        a = p.agents
        goods = market.Goods(a.coin, a.escrow_coin, a.units, a.escrow_units, a.labor)
        active = self.buffers.active
        self._auction = market.make_step(p.books, goods, consistency.rules(o), self._bid, self._ask, active)
        self._tax = tax.make_step(
            p.taxes, active, o.tax_period, o.cutoffs, p.rates.chosen, o.rate_choices, a.coin, a.escrow_coin, o.rebate
        )

    def _game(self) -> step.Play:
        o, given = self.options, self._drawn
        return step.Play(
            steps=True,
            state=self.state,
            buffers=self.buffers,
            streams=self.streams,
            turns=self._turns,
            mask=self._seen,
            labors=step.Labors(o.build_labor, o.move_labor, o.collect_labor),
            rewards=self._reward_config,
            rates=self._rate_config,
            regen_prob=o.regen_prob,
            sources=self._sources,
            orders=self._orders,
            bid=self._bid,
            ask=self._ask,
            auction=handle(self._auction),
            tax=handle(self._tax),
            order=self._order,
            gather_order=given["gather_order"],
            collect=given["collect"],
            regrowth=given["regrow"],
            viewing=self._view_config,
            tables=self._tables,
            agents=self._agent_views,
            designer=self._designer_views,
        )

    @cached_property
    def _play(self) -> Any:
        return bind(step.play, self._game())

    @cached_property
    def _look(self) -> Any:
        """Write the first observations of fresh copies."""
        return rebind(self._play, self._game()._replace(steps=False, mask=self._turns.fresh))

    @cached_property
    def _look_last(self) -> Any:
        """Write the last observations of fresh copies; they are complete, whatever the day."""
        views, w = self._final_obs["designer"], self._game()
        final = w._replace(
            steps=False,
            mask=self._turns.fresh,
            viewing=w.viewing._replace(decision_only=False, final=True),
            agents=observe.AgentViews(**self._final_obs["agents"]),
            designer=observe.DesignerViews(views["flat"], views["flat"], views["agents"], views["mask"]),
        )
        return rebind(self._play, final)

    @cached_property
    def _begin_episodes(self) -> Any:
        return bind(step.begin, self._beginning())

    def _beginning(self) -> step.Beginning:
        draws = ResetDraws(*(self._drawn[name] for name in ("location", "build_skill", "bonus", "agent_order")))
        return step.Beginning(
            self.state, self.streams, self._start, draws, self.options.regen_prob, self._rate_config,
            self._reward_config, self._turns.fresh,
        )  # fmt: skip

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
        common = np.zeros((n, 6 * o.n_prices + n_brackets + a + 9), np.float32)
        self._designer_views = observe.DesignerViews(
            common,
            np.zeros_like(common) if o.designer_obs == "decision" else common,
            np.zeros((n, a, per_agent), np.float32),
            np.ones(choices, np.uint8),
        )
        designer = self._designer_views._asdict()
        del designer["common"]
        if o.planner_sees_map:
            world = self.state.world.cells[..., : observe.DESIGNER_CHANNELS]
            world.flags.writeable = False
            designer = {"map": world, **designer}
        self._obs = {"agents": self._agent_views._asdict(), "designer": designer}

    def _draws(self) -> dict[str, Draw]:
        o, a, (height, width) = self.options, self.n_agents, self.options.cells.shape
        placed = "fixed_four puts everybody into place" if o.ranked else ""
        placed = placed if o.places is None else "places are given by agent"
        ranked = "" if o.ranked else "only fixed_four gives the agents ranks"
        skilled = "build_skill is 'none'" if o.build_skill == "none" else ""
        skilled = skilled if o.skills is None else "skills are given by agent"
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
        rates.refresh(self._rate_config, s.rates, s.taxes, s.clock.completed, self._all, 0, self.num_envs)

    # ------------------------------------------------------------------ hooks

    def _calls(self) -> tuple[Callable[[int, int], int], Callable[[int, int], int]]:
        play = rebind(self._play, self._game())
        start = rebind(self._begin_episodes, self._beginning())
        state, fresh, done = self.state, self._turns.fresh, self._done
        same_step = self._turns.mode == SAME_STEP

        def advance(lo: int, hi: int) -> int:
            n_fresh = play(lo, hi)
            if n_fresh:
                if same_step:
                    self._observe_last(lo, hi)
                self._finished.keep(fresh, lo, hi)
                market.clear(state.books, fresh, lo, hi)
                start(lo, hi)
                if not same_step:
                    reward.restate(state.agents, state.clock, state.events, fresh, lo, hi)
                self._look(lo, hi)
            return n_fresh

        def begin(lo: int, hi: int) -> int:
            self._finished.keep(done & fresh, lo, hi)
            market.clear(state.books, fresh, lo, hi)
            start(lo, hi)
            self._look(lo, hi)
            return 0

        return advance, begin

    def _observe_last(self, lo: int, hi: int) -> None:
        """Write the last observations of the copies that begin an episode."""
        designer, rows = self._final_obs["designer"], rows_of(self._turns.fresh, lo, hi)
        if self.options.planner_sees_map:
            designer["map"][rows] = self._obs["designer"]["map"][rows]
        if self.options.tax_mode != "planner":
            designer["mask"][rows] = 1
        self._look_last(lo, hi)

    def _restored(self) -> None:
        self._finished.forget()

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        return consistency.state_bounds(self.options, self.state)

    def _check_state(self, state: State) -> None:
        consistency.check_state(self.options, self._start, state)

    def _prepare(self) -> None:
        if self._rate_config.mode not in (rates.SAEZ, rates.FUNCTION):
            return
        s, idle = self.state, ~self._all if self.autoreset == "same_step" else self._done
        if callable(self.options.schedule):
            self._consult(self.options.schedule, (s.taxes.position == 1) & ~idle)
        else:
            with wrapping():
                saez.set_rates(
                    self._saez_config, s.saez, self._saez_work, s.taxes.position, s.rates.cap, s.taxes.live,
                    self.streams, idle,
                )  # fmt: skip

    def _consult(self, schedule: Schedule, first: np.ndarray) -> None:
        """Put in force, up to the cap, what a function of the designer's observations says on a period's first day."""
        if first.any():
            taxes = self.state.taxes
            new = tax.check_rates(schedule(self._obs["designer"]), taxes.live.shape)
            np.minimum(new, self.state.rates.cap[:, None], out=taxes.live, where=first[:, None])

    def _finish(self) -> None:
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

    @property
    def action_names(self) -> tuple[str, ...]:
        """What the actions are called, by their numbers."""
        return build.action_names(self.options.n_prices)

    @property
    def finished(self) -> State:
        """State whose arrays of agents, clock, taxes and totals are of the last episode of every copy that a reset has
        replaced; some are kept alone, see :class:`fastenvs.gtb.summary.Finished`.
        """
        return self._finished.kept

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
        if self.options.ranked and "build_skill" in checked and "agent_order" not in checked:
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


def channel_first(maps: np.ndarray) -> np.ndarray:
    """View ``[..., channels, row, column]`` of maps ``[..., row, column, channels]``, the published layout."""
    return np.moveaxis(maps, -1, -3)
