"""The continuous double auction for one book, in lists, as the rules read."""


class NaiveMarket:
    def __init__(self, coins, units, max_orders, order_life):
        n_goods = len(units[0])
        self.coin, self.units = list(coins), [list(u) for u in units]
        self.escrow_coin = [0.0] * len(coins)
        self.escrow_units = [[0] * n_goods for _ in coins]
        self.max_orders, self.life = max_orders, order_life
        self.bids = [[] for _ in range(n_goods)]  # [agent, price, age], in the order of entry
        self.asks = [[] for _ in range(n_goods)]
        self.history = [{} for _ in range(n_goods)]
        self.placed = [0] * len(coins)

    def count(self, g, agent):
        return sum(order[0] == agent for order in self.bids[g] + self.asks[g])

    def step(self, bids, asks):
        goods = range(len(self.bids))
        for g in goods:
            self.history[g] = {p: h * 0.995 for p, h in self.history[g].items()}
            for i in range(len(self.coin)):
                price = bids[i][g]
                if price >= 0 and self.count(g, i) < self.max_orders and self.coin[i] >= price:
                    self.bids[g].append([i, price, 0])
                    self.coin[i] -= price
                    self.escrow_coin[i] += price
                    self.placed[i] += 1
                price = asks[i][g]
                if price >= 0 and self.count(g, i) < self.max_orders and self.units[i][g] > 0:
                    self.asks[g].append([i, price, 0])
                    self.units[i][g] -= 1
                    self.escrow_units[i][g] += 1
                    self.placed[i] += 1
        trades = [trade for g in goods for trade in self.match(g)]
        for g in goods:
            self.age(g)
        return trades

    def match(self, g):
        """Restart from the top after every trade; rule out a bidder that finds no ask."""
        trades, ruled_out = [], set()
        self.bids[g].sort(key=lambda o: (-o[1], -o[2]))
        self.asks[g].sort(key=lambda o: (o[1], -o[2]))
        while True:
            bid = next((b for b in self.bids[g] if b[0] not in ruled_out), None)
            if bid is None:
                return trades
            ask = next((a for a in self.asks[g] if a[0] != bid[0]), None)
            if ask is None or ask[1] > bid[1]:
                ruled_out.add(bid[0])
                continue
            price = ask[1] if bid[2] <= ask[2] else bid[1]
            self.bids[g].remove(bid)
            self.asks[g].remove(ask)
            self.escrow_units[ask[0]][g] -= 1
            self.coin[ask[0]] += price
            self.units[bid[0]][g] += 1
            self.escrow_coin[bid[0]] -= bid[1]
            self.coin[bid[0]] += bid[1] - price
            self.history[g][price] = self.history[g].get(price, 0.0) + 1
            trades.append((g, bid[0], ask[0], bid[1], ask[1], price, bid[2], ask[2]))

    def age(self, g):
        for side in (self.bids, self.asks):
            for order in list(side[g]):
                order[2] += 1
                if order[2] > self.life:
                    side[g].remove(order)
                    agent, price, _ = order
                    if side is self.bids:
                        self.escrow_coin[agent] -= price
                        self.coin[agent] += price
                    else:
                        self.escrow_units[agent][g] -= 1
                        self.units[agent][g] += 1

    def orders(self):
        """(good, 0 bid 1 ask, agent, price, age), sorted."""
        out = []
        for g in range(len(self.bids)):
            for code, side in enumerate((self.bids, self.asks)):
                out += [(g, code, *order) for order in side[g]]
        return sorted(out)
