"""The one-step economy: all rules of the game.

Agents with different skills choose how many hours to work, once. An hour earns an agent its skill in coins; the tax on
what it earned is shared out equally; its utility is that of the coin it has then, less the cost of its labour.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastenvs import checks, rng, saez, tax
from fastenvs.bound import call, handle
from fastenvs.checks import integers_of
from fastenvs.cycle import restart
from fastenvs.draws import Draw
from fastenvs.guard import exclusive
from fastenvs.jit import inline, kernel, wrapping
from fastenvs.metrics import inverse_income_mean, isoelastic
from fastenvs.one_step.config import OBJECTIVES, Options
from fastenvs.one_step.welfare import social
from fastenvs.render import render_bars
from fastenvs.snapshots import iter_leaves, refuse
from fastenvs.turns import SAME_STEP, Turns, after_step, before_step
from fastenvs.vecenv import Buffers, VecEnv


class Config(NamedTuple):
    """Rules that the kernels need."""

    steps: int
    draw_skills: bool
    skill_tail: float
    skill_cap: float
    eta: float
    objective: int
    announce: bool
    agent_ids: bool
    skills: np.ndarray  # float64 [A]
    hours: np.ndarray  # float64 [L]
    costs: np.ndarray  # float64 [L], utility that an action costs
    choices: np.ndarray  # float64 [R], rates to choose from


class Events(NamedTuple):
    """Records of the last episode that ended, which resets leave."""

    reward: np.ndarray  # float64 [N, A], of the last step
    labor: np.ndarray  # float64 [N, A], hours
    utility: np.ndarray  # float64 [N, A]
    welfare: np.ndarray  # float64 [N]
    productivity: np.ndarray  # float64 [N]
    equality: np.ndarray  # float64 [N]


class State(NamedTuple):
    """State of N copies."""

    time: np.ndarray  # int32 [N], steps done in the episode
    skill: np.ndarray  # float64 [N, A], coins an hour
    coin: np.ndarray  # float64 [N, A]
    taxes: tax.Taxes
    chosen: np.ndarray  # int32 [N, B], the designer's choices for the next step
    saez: saez.Memory
    events: Events


class Views(NamedTuple):
    """Observations of N copies."""

    agents: np.ndarray  # float32 [N, A, F], F = 1, plus B with `announce`, plus A with `agent_ids`
    mask: np.ndarray  # uint8 [N, A, L], or without rows
    designer: np.ndarray  # float32 [N, B + A]


class Game(NamedTuple):
    """All that a call works on."""

    steps: bool  # or only begins episodes
    config: Config
    state: State
    streams: rng.Streams
    buffers: Buffers
    turns: Turns
    tax: tuple[int, int]  # the tax cycle's step
    skill: np.ndarray  # float64 [N, A], drawn skills that are handed in
    scratch: np.ndarray  # float64 [N, A]
    obs: Views
    final: Views  # last observations of the copies that ended


@inline
def work(config, state, buffers, lo, hi):
    """Let the agents of the active copies of ``[lo, hi)`` earn, in the last step of the episode."""
    for e in range(lo, hi):
        if buffers.active[e]:
            state.time[e] += 1
            if state.time[e] >= config.steps:
                for i in range(state.coin.shape[1]):
                    hours = config.hours[buffers.actions[e, i]]
                    state.events.labor[e, i] = hours
                    state.coin[e, i] = state.skill[e, i] * hours


@inline
def settle(config, state, buffers, scratch, lo, hi):
    """Rewards, once the tax is collected: utility and welfare less those of having and doing nothing."""
    n_agents, events = state.coin.shape[1], state.events
    nothing = isoelastic(0.0, config.eta)
    for e in range(lo, hi):
        over = buffers.active[e] and state.time[e] >= config.steps
        buffers.designer_reward[e] = 0.0
        for i in range(n_agents):
            events.reward[e, i] = 0.0
            buffers.rewards[e, i] = 0.0
        if buffers.active[e]:
            buffers.terminated[e] = over
            buffers.truncated[e] = False
        if not over:
            continue
        coin = state.coin[e]
        for i in range(n_agents):
            utility = isoelastic(coin[i], config.eta) - config.costs[buffers.actions[e, i]]
            events.utility[e, i] = utility
            events.reward[e, i] = utility - nothing
            buffers.rewards[e, i] = utility - nothing
        found = social(config.objective, coin, events.utility[e], scratch[e])
        events.welfare[e], events.equality[e], events.productivity[e] = found
        buffers.designer_reward[e] = events.welfare[e] - (nothing if config.objective == 2 else 0.0)


@inline
def reset(config, state, streams, drawn, mask, lo, hi):
    """Begin an episode in the copies of ``[lo, hi)`` that ``mask`` names."""
    live = state.taxes.live
    for e in range(lo, hi):
        if not mask[e]:
            continue
        state.time[e] = 0
        for i in range(state.coin.shape[1]):
            state.coin[e, i] = 0.0
            if not config.draw_skills:
                state.skill[e, i] = config.skills[i]
            elif drawn.shape[0] > 0:
                state.skill[e, i] = drawn[e, i]
            else:
                above = 1.0 - rng.uniform(streams, e)
                state.skill[e, i] = min(config.skill_cap, above ** (-1.0 / config.skill_tail))
        for b in range(live.shape[1]):
            if config.choices.shape[0] > 0:
                live[e, b] = config.choices[0]
            elif state.saez.running_mean.shape[0] > 0:
                live[e, b] = state.saez.running_mean[e, b]
        restart(state.taxes, state.coin, state.coin, e)


@inline
def observe(config, state, out, mask, lo, hi):
    """Write what agents and designer see of the copies that ``mask`` names."""
    n_agents, n_brackets = state.coin.shape[1], state.taxes.live.shape[1]
    for e in range(lo, hi):
        if not mask[e]:
            continue
        choosing = state.time[e] == config.steps - 1
        over = state.time[e] >= config.steps
        for b in range(n_brackets):
            out.designer[e, b] = state.taxes.live[e, b]
        for i in range(n_agents):
            out.designer[e, n_brackets + i] = 0.01 * state.taxes.income[e, i] if over else 0.0
            out.agents[e, i, 0] = np.log10(state.skill[e, i])
            if config.agent_ids:
                for j in range(n_agents):
                    out.agents[e, i, out.agents.shape[2] - n_agents + j] = 1.0 if i == j else 0.0
            if config.announce:
                for b in range(n_brackets):
                    out.agents[e, i, 1 + b] = state.taxes.live[e, b]
                for action in range(out.mask.shape[2]):
                    out.mask[e, i, action] = action == 0 or choosing


@kernel
def play(game, lo, hi):
    """What a call does to the copies in ``[lo, hi)``; returns how many of them a step ended that are reset."""
    config, state, turns, n_fresh = game.config, game.state, game.turns, 0
    if game.steps:
        before_step(turns, game.buffers, lo, hi)
        work(config, state, game.buffers, lo, hi)
        call(game.tax, lo, hi)
        settle(config, state, game.buffers, game.scratch, lo, hi)
        n_fresh = after_step(turns, game.buffers, lo, hi)
        if turns.mode == SAME_STEP:
            observe(config, state, game.final, turns.fresh, lo, hi)
    if n_fresh > 0 or not game.steps:
        reset(config, state, game.streams, game.skill, turns.fresh, lo, hi)
    observe(config, state, game.obs, turns.seen if game.steps else turns.fresh, lo, hi)
    return n_fresh


class OneStepEconomy(VecEnv):
    """N copies of the one-step economy.

    Action k of an agent is to work ``options.hours[k]`` hours. Agents see, ``obs["agents"]["flat"]`` float32
    ``[N, A, F]``, the decimal logarithm of their skill, with ``announce`` the rates in force, and with ``agent_ids``
    who they are; with ``announce`` there is a ``mask`` uint8 ``[N, A, L]``. The designer sees,
    ``obs["designer"]["flat"]`` float32 ``[N, B + A]``, rates and, once the episode is over, incomes in hundreds of
    coins, not skills; in tax mode ``planner`` it has a ``mask`` uint8 ``[N, B, 1 + R]`` of ones.

    Rewards are utilities, less that of having and doing nothing. ``info`` has, besides ``designer_reward`` (welfare,
    likewise): ``reward`` float64 ``[N, A]``; of the last episode that ended ``labor`` and ``utility`` ``[N, A]``,
    ``welfare``, ``productivity``, ``equality`` ``[N]``, and what the tax found and did: ``tax_day`` bool ``[N]``,
    ``tax_income``, ``tax_paid``, ``tax_rate`` ``[N, A]`` and ``tax_rebate`` ``[N]``.

    Parameters
    ----------
    num_envs : int
        Number of copies.
    **options
        See :class:`fastenvs.one_step.config.Options` and :class:`fastenvs.vecenv.VecEnv`.
    """

    name = "one_step_economy"
    agent_info = ("reward", "labor", "utility", "tax_income", "tax_paid", "tax_rate")
    min_rows_per_thread = 256
    rows_per_chunk = 1024

    def __init__(self, num_envs: int, **options: Any) -> None:
        shared, options = self._split(options)
        self.options = o = checks.make_options(Options, "one-step economy", {"": {}}, "", options)
        super().__init__(num_envs, o.n_agents, bytes_each=o.bytes_each, designer_reward_dtype=np.float64, **shared)
        n, a, b = self.num_envs, self.n_agents, len(o.brackets)
        self.n_actions = o.labor_levels
        self._config = Config(
            o.steps, o.draw_skills, o.skill_tail, o.skill_cap, o.utility_eta, OBJECTIVES.index(o.planner_objective),
            o.announce, o.agent_ids, o.usual_skills, o.hours, o.labor_costs, o.rate_choices,
        )  # fmt: skip
        self._saez_config = saez.Config(
            o.cutoffs, 0.0, o.saez_welfare == "inverse_income",
            float("nan") if o.saez_elasticity is None else o.saez_elasticity,
        )  # fmt: skip
        self._saez_work = saez.make_work()
        self.state = State(
            np.zeros(n, np.int32), np.tile(o.usual_skills, (n, 1)), np.zeros((n, a)), tax.make_taxes(n, a, b),
            np.zeros((n, b), np.int32), saez.make_memory(n if o.tax_mode == "saez" else 0, b),
            Events(*(np.zeros((n, a)) for _ in range(3)), *(np.zeros(n) for _ in range(3))),
        )  # fmt: skip
        fixed = {"us_federal": tax.US_FEDERAL_RATES, "fixed": o.fixed_rates}.get(o.tax_mode)
        self.state.taxes.live[:] = 0.0 if fixed is None else fixed
        self._tax = tax.make_step(
            self.state.taxes, self.buffers.active, o.tax_period, o.cutoffs, self.state.chosen, o.rate_choices,
            self.state.coin, np.zeros((n, a)),
        )  # fmt: skip
        self._views = Views(
            np.zeros((n, a, 1 + b * o.announce + a * o.agent_ids), np.float32),
            np.zeros((n if o.announce else 0, a, o.labor_levels), np.uint8),
            np.zeros((n, b + a), np.float32),
        )
        self._obs = {"agents": {"flat": self._views.agents}, "designer": {"flat": self._views.designer}}
        if o.announce:
            self._obs["agents"]["mask"] = self._views.mask
        if o.tax_mode == "planner":
            self._obs["designer"]["mask"] = np.ones((n, b, 1 + len(o.rate_choices)), np.uint8)
        unused = "" if o.draw_skills else "without draw_skills everybody has the usual skill"
        self._offer_draws(skill=Draw((a,), np.float64, 1e-6, 1e6, unused=unused, made_by=("reset",)))
        self._bind()
        if o.tax_mode == "planner" and self._final_obs:
            self._final_obs["designer"]["mask"][:] = 1

    # ------------------------------------------------------------------ the designer's entries

    @exclusive
    def set_rates(self, new: ArrayLike) -> None:
        """Put rates ``[N, B]`` or ``[B]`` in [0, 1] in force at once, in tax mode ``external``; they survive resets.

        With ``announce`` agents see them in the next observations.
        """
        if self.options.tax_mode != "external":
            raise ValueError(f"set_rates needs tax_mode 'external', this one is {self.options.tax_mode!r}")
        live = self.state.taxes.live
        live[:] = tax.check_rates(new, live.shape)

    @exclusive
    def choose_rates(self, choices: ArrayLike) -> None:
        """Designer's actions ``[N, B]`` for the next step, in tax mode ``planner``.

        0 keeps the present rate, ``k`` takes rate choice ``k - 1``. They count in the first step of an episode alone.
        """
        if self.options.tax_mode != "planner":
            raise ValueError(f"choose_rates needs tax_mode 'planner', this one is {self.options.tax_mode!r}")
        most, entry = len(self.options.rate_choices), "choice {value} for bracket {1} in environment {0}"
        self.state.chosen[:] = integers_of("choices", choices, self.state.chosen.shape, 0, most, entry)

    # ------------------------------------------------------------------ hooks

    def _game(self) -> Game:
        views = self._views
        if self._final_obs:
            mask = self._final_obs["agents"].get("mask", views.mask)
            views = Views(self._final_obs["agents"]["flat"], mask, self._final_obs["designer"]["flat"])
        return Game(
            True, self._config, self.state, self.streams, self.buffers, self._turns, handle(self._tax),
            self._drawn["skill"], np.zeros_like(self.state.coin), self._views, views,
        )  # fmt: skip

    def _calls(self) -> tuple[Any, Any]:
        return self._calls_of(play, self._game())

    def _prepare(self) -> None:
        if self.options.tax_mode == "saez":
            s, n = self.state, self.num_envs
            idle = ~self._all if self.autoreset == "same_step" else self._done
            with wrapping():
                saez.set_rates(
                    self._saez_config, s.saez, self._saez_work, s.taxes.position, np.ones(n), s.taxes.live,
                    self.streams, idle,
                )  # fmt: skip

    def _finish(self) -> None:
        taxes = self.state.taxes
        if self.options.tax_mode == "planner":
            self.state.chosen.fill(0)
        elif self.options.tax_mode == "saez":
            saez.append(self.state.saez, taxes.income, taxes.marginal, taxes.tax_day)

    def _clear_final(self) -> None:
        super()._clear_final()
        if self.options.tax_mode == "planner":
            self._final_obs["designer"]["mask"][:] = 1

    def _step_info(self) -> dict[str, Any]:
        taxes = self.state.taxes
        return {
            **self.state.events._asdict(), "tax_day": taxes.tax_day, "tax_income": taxes.income,
            "tax_paid": taxes.paid, "tax_rate": taxes.marginal, "tax_rebate": taxes.rebate,
        }  # fmt: skip

    def _state_bounds(self) -> dict[str, tuple[float, float]]:
        o = self.options
        numbers = {name: (-1e30, 1e30) for name, x in iter_leaves(self.state) if x.dtype.kind == "f"}
        taxes = tax.bounds(o.tax_period, len(o.rate_choices))
        return {
            **numbers, **{f"taxes/{name}": limits for name, limits in taxes.items()}, "time": (0, o.steps),
            "coin": tax.MONEY, "skill": (1e-6, 1e6), "chosen": (0, len(o.rate_choices)),
            "saez/appended": (0, saez.MOST_PAIRS), "saez/running_mean": (0.0, 1.0), "events/labor": (0.0, o.max_labor),
        }  # fmt: skip

    def _check_state(self, state: State) -> None:
        late = state.taxes.position != 1 + state.time % self.options.steps
        refuse("state/taxes/position", state.taxes.position, late, "not the step of the episode")
        if not self.options.draw_skills:
            wrong = state.skill != self.options.usual_skills
            refuse("state/skill", state.skill, wrong, "not the skill of this agent")

    # ------------------------------------------------------------------ what an episode came to

    def metrics(self, env: int) -> dict[str, float]:
        """Metrics of the last episode of one copy that ended, by the names of Gather-Trade-Build; NaN before one."""
        e = self._copy_index(env)
        taxes, events = self.state.taxes, self.state.events
        coin = taxes.income[e] - taxes.paid[e] + taxes.rebate[e]
        equality, productivity = events.equality[e], events.productivity[e]
        out = {
            "social/productivity": productivity,
            "social/equality": equality,
            "social_welfare/coin_eq_times_productivity": equality * productivity / self.n_agents,
            "social_welfare/inv_income_weighted_coin_endow": inverse_income_mean(coin, coin),
            "social_welfare/inv_income_weighted_utility": inverse_income_mean(coin, events.utility[e]),
            "util/p": events.welfare[e],
            "PeriodicTax/total_collected_taxes": taxes.paid[e].sum(),
        }
        for i in range(self.n_agents):
            out[f"endow/{i}/Coin"] = coin[i]
            out[f"endogenous/{i}/Labor"] = events.labor[e, i]
            out[f"util/{i}"] = events.utility[e, i]
        return {name: float(value) for name, value in out.items()}

    def render(self, env: int = 0, cell_size: int = 20) -> np.ndarray:
        """Picture of one copy: income and coin by agent; see :func:`fastenvs.render.render_bars`."""
        e = self._copy_index(env)
        most = self._config.skills.max() * self.options.max_labor
        return render_bars(self.state.coin[e] / most, cell_size)

    @cached_property
    def single_observation_space(self):
        """``Dict(agents=Dict(flat), designer=Dict(flat))`` of one copy, with masks where there are any."""
        from gymnasium.spaces import Box, Dict

        def space(tree, name=""):
            if isinstance(tree, dict):
                return Dict({key: space(value, key) for key, value in tree.items()})
            low, high = (0, 1) if name == "mask" else (-np.inf, np.inf)
            return Box(low, high, tree.shape[1:], tree.dtype.type)

        return space(self._obs)
