"""Escape Room for one environment, in lists."""


class NaiveEscapeRoom:
    def __init__(self, n_agents, min_at_lever, max_steps, start):
        self.n, self.m, self.limit = n_agents, min_at_lever, max_steps
        self.places, self.steps = list(start), 0

    def step(self, actions):
        is_open = sum(a == 0 for a in actions) >= self.m
        rewards = []
        for old, new in zip(self.places, actions, strict=True):
            if is_open and new == 2:
                rewards.append(10)
            elif new == old:
                rewards.append(0)
            else:
                rewards.append(-1)
        self.places = list(actions)
        self.steps += 1
        escaped = is_open and 2 in actions
        return rewards, escaped, self.steps == self.limit and not escaped, is_open

    def designer_obs(self):
        return [float(p == k) for p in self.places for k in range(3)]

    def agent_obs(self, i):
        order = [i] + [j for j in range(self.n) if j != i]
        return [float(self.places[j] == k) for j in order for k in range(3)]
