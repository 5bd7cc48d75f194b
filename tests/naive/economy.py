"""One copy of the whole economy, from docs/spec/gtb.md (its sections are numbered here), in lists and dictionaries.

A cell is (row, column), goods are stone and wood. Everything random is handed in, so nothing here draws.
"""

import math
from functools import cache

import numpy as np

from naive import tax
from naive.market import NaiveMarket
from naive.regrow import regrow as regrown

STONE, WOOD = GOODS = (0, 1)
MOVES = [(0, -1), (0, 1), (-1, 0), (1, 0)]  # left, right, up, down
NOBODY, ONESELF, FIRST_AGENT = 0, 1, 2  # in the maps of owners and agents
US_DOLLARS = (0, 9700, 39475, 84200, 160725, 204100, 510300)
US_RATES = (0.10, 0.12, 0.22, 0.24, 0.32, 0.35, 0.37)


@cache
def rank_pays(n, cap, build_pay, shape):
    """Pay of each skill rank, worst first: averages of order statistics (2, step 8)."""
    draws = np.random.RandomState(1).pareto(shape, (100_000, n))
    return (np.sort(np.minimum(cap, (cap - 1) * draws + 1), axis=1).mean(axis=0) * build_pay).tolist()


def rank_cells(n, height, width):
    """Starting cell of each rank: a corner for each quarter, filled inward in rows of four (16)."""
    corners = [(0, width - 1, 1, -1), (height - 1, 0, -1, 1), (0, 0, 1, 1), (width - 1, width - 1, -1, -1)]
    cells, members = [], [0, 0, 0, 0]
    for rank in range(n):
        group = 4 * rank // n
        row, column, down, right = corners[group]
        p = members[group]
        members[group] += 1
        cells.append((row + down * (p // 4), column + right * (p % 4)))
    return cells


def cutoffs_of(o):
    """Lower edges of the brackets (9.1)."""
    if isinstance(o.brackets, tuple):
        return list(o.brackets)
    if o.brackets == "us":
        return [dollars / o.usd_scale for dollars in US_DOLLARS]
    b, top = o.n_brackets, o.top_cutoff
    if o.brackets == "linear":
        return [top * k / (b - 1) for k in range(b)]
    lowest, highest = math.log2(top / 2 ** (b - 2)), math.log2(top)
    return [0.0] + [2 ** (lowest + (highest - lowest) * k / max(1, b - 2)) for k in range(b - 1)]


def equality_of(x):
    """One minus the Gini coefficient, which has another formula from 30 agents on (11)."""
    n, total = len(x), sum(x)
    if n < 30:
        spread = sum(abs(a - b) for a in x for b in x)
        return 1 - spread / (2 * n * total + 1e-10) / ((n - 1) / n)
    cumulated = np.cumsum(sorted(x))
    return 1 - (1 - 2 / (n + 1) * sum(c / (total + 1e-10) for c in cumulated))


class NaiveEconomy:
    """An economy with the options ``o`` (15) on the map ``text`` (1.2), in any tax mode but ``saez``."""

    def __init__(self, o, text):
        self.o, self.n, self.n_prices = o, o.n_agents, o.max_price + 1
        rows = text.rstrip(";").split(";")
        self.height, self.width = len(rows), len(rows[0])
        self.sources = [[[int(c == symbol) for c in row] for row in rows] for symbol in "SW"]
        self.water = [[int(c == "@") for c in row] for row in rows]
        self.max_orders = o.order_life if o.max_orders is None else o.max_orders
        self.cutoffs = cutoffs_of(o)
        self.choices = []  # rates that a planner may choose (4.2)
        while o.tax_mode == "planner" and o.rate_min + len(self.choices) * o.rate_step <= o.rate_max:
            self.choices.append(o.rate_min + len(self.choices) * o.rate_step)
        # What survives resets (14):
        self.completed = self.positive_steps = 0
        self.external = [0.0] * len(self.cutoffs)
        self.cap = self.annealed_cap()

    def reset(self, location, build_skill, bonus, agent_order=None):
        """Start an episode (2); ``agent_order`` lists the agents by rank, worst first."""
        o, n = self.o, self.n
        self.time = 0
        self.lying = [[list(row) for row in source] for source in self.sources]
        self.owner = {}  # of the house on a cell
        self.market = NaiveMarket([o.start_coin] * n, [[0, 0] for _ in range(n)], self.max_orders, o.order_life)
        self.coin, self.units = self.market.coin, self.market.units  # at hand; the same lists
        self.labor = [0.0] * n
        self.location = [tuple(map(int, cell)) for cell in location]
        self.skill, self.bonus = list(build_skill), list(bonus)
        cap = o.build_skill_cap
        drawn = o.build_skill != "none"
        self.pay = [(min(cap, (cap - 1) * s + 1) if drawn else 1.0) * o.build_pay for s in self.skill]
        if o.fixed_four:  # place and pay alone: the raw draws stay and are observed
            pays, cells = rank_pays(n, cap, o.build_pay, o.build_skill_shape), rank_cells(n, self.height, self.width)
            for rank, i in enumerate(agent_order):
                self.pay[i], self.location[i] = pays[rank], cells[rank]
        if o.skills is not None:
            self.skill, self.pay = list(o.skills), [skill * o.build_pay for skill in o.skills]
        if o.places is not None:
            self.location = list(o.places)
        self.position, self.tax_days, self.in_force = 1, 0, 0
        self.rate_index = [0] * len(self.cutoffs)
        self.last_coin = self.total_coin()
        self.last_income, self.last_marginal = [0.0] * n, [0.0] * n
        self.shown = self.live_rates()
        self.rate_limit = max(self.choices, default=0) * self.annealed_share()
        self.value()
        self.observe()

    # ------------------------------------------------------------------ a step (3)

    def step(self, actions, gather_order, collect, regrow, planner_actions=None):
        """Everything in order; ``collect`` are uniforms by agent, ``regrow`` successes by good and cell."""
        self.time += 1
        self.build(actions)
        self.trade(actions)
        self.gather(actions, gather_order, collect)
        self.tax(planner_actions)
        self.lying = [regrown(self.lying[g], self.sources[g], regrow[g]) for g in GOODS]
        self.observe()
        utility, welfare = self.utility, self.welfare
        self.value()
        self.reward = [new - old for new, old in zip(self.utility, utility, strict=True)]
        self.planner_reward = self.welfare - welfare
        self.positive_steps += sum(self.reward) / self.n > 0
        self.done = self.time >= self.o.steps
        self.completed += self.done

    def deed(self, action):
        """What an action means (4.1): kind, good, price or direction."""
        orders = 4 * self.n_prices
        if action < 2:
            return ("nothing", "build")[action], None, None
        if action < 2 + orders:
            kind, price = divmod(action - 2, self.n_prices)
            return ("bid", "ask")[kind % 2], (STONE, WOOD)[kind // 2], price
        return "move", None, MOVES[action - 2 - orders]

    def can_build(self, i):
        """A unit of each good at hand, and a cell without resource, source, water and house (5)."""
        r, c = self.location[i]
        taken = any(self.lying[g][r][c] or self.sources[g][r][c] for g in GOODS)
        return min(self.units[i]) > 0 and not taken and not self.water[r][c] and (r, c) not in self.owner

    def build(self, actions):
        """Houses for goods (5); every agent acts on its own cell and goods, so the order does not matter."""
        self.built = [int(self.deed(a)[0] == "build" and self.can_build(i)) for i, a in enumerate(actions)]
        for i in np.flatnonzero(self.built).tolist():
            for g in GOODS:
                self.units[i][g] -= 1
            self.owner[self.location[i]] = i
            self.coin[i] += self.pay[i]
            self.labor[i] += self.o.build_labor

    def trade(self, actions):
        """Orders and their trades (6); only entering an order is labor."""
        bids, asks = ([[-1, -1] for _ in actions] for _ in range(2))
        for i, action in enumerate(actions):
            kind, good, price = self.deed(action)
            if kind in ("bid", "ask"):
                (bids if kind == "bid" else asks)[i][good] = price
        before = list(self.market.placed)
        self.trades = self.market.step(bids, asks)
        for i in range(self.n):
            self.labor[i] += max(0.0, self.o.order_labor) * (self.market.placed[i] - before[i])

    def can_enter(self, i, step):
        """Where a step leads agent ``i`` now, None if it is barred (7)."""
        r, c = cell = (self.location[i][0] + step[0], self.location[i][1] + step[1])
        inside = 0 <= r < self.height and 0 <= c < self.width
        if not inside or self.water[r][c] or self.owner.get(cell, i) != i or cell in self.location:
            return None
        return cell

    def gather(self, actions, order, uniforms):
        """Move, then collect what lies on the cell, moved or not (7)."""
        self.gathered = [[0, 0] for _ in actions]
        for i in order:
            kind, _, step = self.deed(actions[i])
            target = self.can_enter(i, step) if kind == "move" else None
            if target is not None:
                self.location[i] = target
                self.labor[i] += self.o.move_labor
            r, c = self.location[i]
            for g in GOODS:
                if self.lying[g][r][c]:
                    self.lying[g][r][c] = 0
                    self.gathered[i][g] = 1 + int(uniforms[i] < self.bonus[i])
                    self.units[i][g] += self.gathered[i][g]
                    self.labor[i] += self.o.collect_labor

    # ------------------------------------------------------------------ tax (9)

    def tax(self, planner_actions):
        """The cycle (9.3) and its tax day (9.4)."""
        if self.position == 1:
            self.in_force = self.tax_days
            if self.o.tax_mode == "planner" and planner_actions is not None:
                pairs = zip(planner_actions, self.rate_index, strict=True)
                self.rate_index = [int(a) - 1 if a > 0 else kept for a, kept in pairs]
            self.shown = self.live_rates()
        self.tax_day = self.position >= self.o.tax_period
        if self.tax_day:
            rates, incomes = self.live_rates(), self.income_now()
            self.untaxed = list(self.coin), list(self.market.escrow_coin)
            self.tax_paid, self.rebate, self.coin[:] = tax.collect(
                incomes, self.coin, rates, self.cutoffs, self.o.rebate
            )
            self.tax_days += 1
            self.last_income = incomes
            self.last_marginal = [tax.marginal_rate(z, rates, self.cutoffs) for z in incomes]
            self.last_coin = self.total_coin()  # with the rebate, which is no income therefore
            self.position = 0
        self.position += 1

    def live_rates(self):
        """Rates in force (9.2)."""
        mode = self.o.tax_mode
        if mode == "external":
            return [rate * self.cap for rate in self.external]
        if mode == "planner":
            return [self.choices[k] for k in self.rate_index]  # the cap acts by the mask alone
        given = {"us_federal": US_RATES, "fixed": self.o.fixed_rates, "none": [0.0] * len(self.cutoffs)}[mode]
        if isinstance(given[0], tuple):  # by period, of which the last holds on
            given = given[min(self.in_force, len(given) - 1)]
        return [min(rate, self.cap) for rate in given]

    def annealed_share(self):
        """Share of the largest rate that is allowed after the episodes completed so far (9.5)."""
        if self.o.anneal is None:
            return 1.0
        warmup, slope = self.o.anneal
        return min(1.0, max(0.0, slope * (self.completed - warmup)))

    def annealed_cap(self):
        """Cap on the rates in force; in mode ``none`` the largest rate is 0."""
        return (0.0 if self.o.tax_mode == "none" else self.o.rate_max) * self.annealed_share()

    # ------------------------------------------------------------------ worth (11)

    def total_coin(self):
        """Coin at hand and behind bids."""
        return [coin + escrow for coin, escrow in zip(self.coin, self.market.escrow_coin, strict=True)]

    def income_now(self):
        """Income since the last tax day."""
        return [x - last for x, last in zip(self.total_coin(), self.last_coin, strict=True)]

    def value(self):
        """Utilities and welfare as of now."""
        o, x = self.o, self.total_coin()
        k = self.completed if o.energy_warmup_by == "episodes" else self.positive_steps
        self.energy_weight = 1.0 if o.energy_warmup <= 0 else 1 - math.exp(-k / o.energy_warmup)
        eta = o.utility_eta
        worth = [math.log(max(1, c)) if eta == 1 else (c ** (1 - eta) - 1) / (1 - eta) for c in x]
        cost = o.energy_cost * self.energy_weight
        self.utility = [w - cost * labor for w, labor in zip(worth, self.labor, strict=True)]
        self.productivity, self.equality = sum(x), equality_of(x)
        if o.planner_objective == "equality_x_productivity":
            v = o.productivity_only_weight
            self.welfare = ((1 - v) * self.equality + v) * self.productivity / self.n
        else:
            valued = x if o.planner_objective == "inverse_income_coin" else self.utility
            weights = [1 / max(c, 1) for c in x]
            self.welfare = sum(w * y for w, y in zip(weights, valued, strict=True)) / sum(weights)

    # ------------------------------------------------------------------ observations (12) and masks (13)

    def observe(self):
        """What everybody sees, then the masks, with which alone the cap is refreshed (9.5)."""
        o, everyone = self.o, range(self.n)
        self.obs = {
            "map": [self.window(i) for i in everyone],
            "flat": [self.agent_vector(i) for i in everyone],
            "designer_map": self.view(None) if o.planner_sees_map else None,
            "designer_flat": self.designer_vector(),
            "designer_agents": [self.designer_agent_vector(i) for i in everyone],
        }
        self.obs["mask"] = [self.mask(i) for i in everyone]
        self.obs["designer_mask"] = self.designer_mask()
        self.cap = self.annealed_cap()

    def cell_view(self, r, c, me):
        """Stone, wood, house, water, sources of stone and wood, owner, agent; ``me`` sees itself as 1."""

        def seen(who):
            return NOBODY if who is None else ONESELF if who == me else FIRST_AGENT + who

        owner = self.owner.get((r, c))
        here = self.location.index((r, c)) if (r, c) in self.location else None
        lying, sources = ([layer[g][r][c] for g in GOODS] for layer in (self.lying, self.sources))
        return [*lying, int(owner is not None), self.water[r][c], *sources, seen(owner), seen(here)]

    def view(self, me):
        """The whole map."""
        return [[self.cell_view(r, c, me) for c in range(self.width)] for r in range(self.height)]

    def window(self, i):
        """The square around an agent, whose last channel is 1 inside the world; or the whole map."""
        if self.o.full_view:
            return self.view(i)
        (row, column), radius = self.location[i], self.o.view_radius

        def cell(r, c):
            inside = 0 <= r < self.height and 0 <= c < self.width
            return [*self.cell_view(r, c, i), 1] if inside else [0] * 9

        around = range(-radius, radius + 1)
        return [[cell(row + dr, column + dc) for dc in around] for dr in around]

    def open_orders(self, side, who):
        """Open orders of the agents ``who``, by good and price in one list."""
        counts = [[0] * self.n_prices for _ in GOODS]
        for g in GOODS:
            for agent, price, _ in side[g]:
                counts[g][price] += agent in who
        return counts[STONE] + counts[WOOD]

    def history(self, g):
        """Price history of a good by price, summed over sellers."""
        return [self.market.history[g].get(p, 0.0) for p in range(self.n_prices)]

    def market_rate(self, g):
        """Mean price of the history of a good."""
        return sum(p * h for p, h in enumerate(self.history(g))) / max(0.001, sum(self.history(g)))

    def scaled(self, values):
        """Goods and history as they are observed."""
        return [(0.01 if self.o.scale_obs else 1.0) * v for v in values]

    def clock(self):
        """Time as it is observed (12.5)."""
        return self.time / self.o.steps if self.o.scale_obs else self.time

    def days(self):
        """Is it the first day of the period, is it tax day."""
        return [float(self.position == 1), float(self.position >= self.o.tax_period)]

    def marginal_now(self, i):
        """Rate on the next coin, by the rates in force rather than shown."""
        return tax.marginal_rate(self.income_now()[i], self.live_rates(), self.cutoffs)

    def incomes_seen(self):
        """Incomes of the last tax day, a step."""
        return [z / self.o.tax_period for z in self.last_income]

    def place_seen(self, i):
        """Column before row."""
        row, column = self.location[i]
        return [column / self.width, row / self.height]

    def agent_vector(self, i):
        """What an agent knows besides the map (12.2)."""
        others, me = set(range(self.n)) - {i}, {i}
        asks, bids = self.market.asks, self.market.bids
        return [
            self.pay[i] / self.o.build_pay, self.skill[i],
            *self.open_orders(asks, others), *self.open_orders(bids, others),
            self.market_rate(STONE), self.market_rate(WOOD),
            *self.open_orders(asks, me), *self.open_orders(bids, me),
            *self.scaled(self.history(STONE) + self.history(WOOD)),
            self.bonus[i],
            *self.shown, *self.days(), *sorted(self.incomes_seen()), self.marginal_now(i),
            self.position / self.o.tax_period, self.clock(),
            *self.scaled([self.coin[i], *self.units[i]]),
            *([] if self.o.full_view else self.place_seen(i)),
        ]  # fmt: skip

    def designer_vector(self):
        """Market, rates and cycle (12.3); the designer owns nothing."""
        everyone = range(self.n)
        return [
            *self.open_orders(self.market.asks, everyone), *self.open_orders(self.market.bids, everyone),
            self.market_rate(STONE), self.market_rate(WOOD),
            *self.scaled(self.history(STONE) + self.history(WOOD)),
            *self.shown, *self.days(), *sorted(self.incomes_seen()),
            self.position / self.o.tax_period, self.clock(), 0, 0, 0,
        ]  # fmt: skip

    def designer_agent_vector(self, i):
        """What the designer knows of an agent (12.4), less with ``full_view`` or without a map of its own (12.1)."""
        vector = [self.marginal_now(i), self.incomes_seen()[i], self.last_marginal[i]]
        if self.o.full_view:
            return vector
        vector += self.scaled([self.coin[i], *self.units[i]])
        return vector + self.place_seen(i) if self.o.planner_sees_map else vector

    def mask(self, i):
        """What would have an effect now, by action."""
        mask = [1, int(self.can_build(i))]
        for g in GOODS:
            room = self.market.count(g, i) < self.max_orders
            mask += [int(room and price <= self.coin[i]) for price in range(self.n_prices)]
            mask += [int(room and self.units[i][g] > 0)] * self.n_prices
        return mask + [int(self.can_enter(i, step) is not None) for step in MOVES]

    def designer_mask(self):
        """Keeping a rate is always allowed, choosing one on the first day and up to the limit of the episode."""
        if self.o.tax_mode != "planner":
            return [[1]]
        row = [int(self.position == 1 and abs(rate) <= self.rate_limit) for rate in self.choices]
        return [[1, *row] for _ in self.cutoffs]
