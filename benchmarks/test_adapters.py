"""What adapters add to a step of the environment, at 1,024 copies, with fresh arrays on both sides or on neither."""

import numpy as np
import pytest
from measuring import Stepper, overhead
from test_step import MAIN, make

COPIES = 1024


class Alternating:
    """Steps by one method, over a few actions made before."""

    def __init__(self, step, actions):
        self.step, self.actions, self.calls = step, actions, 0

    def __call__(self):
        self.calls += 1
        self.step(self.actions[self.calls % len(self.actions)])


def report(benchmark, call, bare, most=np.inf):
    """Keep the overhead; one above ``most`` is measured again, since what else runs on the machine can only add."""
    bare = Stepper(bare)
    for _ in range(60):
        call()
    benchmark.pedantic(call, rounds=15, warmup_rounds=2)
    for _ in range(3):
        benchmark.extra_info["overhead"] = added = overhead(call, bare)
        if added < most:
            return
    pytest.fail(f"the adapter adds {added:.0%} to a step, more than {most:.0%}")


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("view", ["agents", "team"])
@pytest.mark.parametrize("setting", MAIN)
def test_gymnasium(benchmark, setting, view, copy):
    from fastenvs.adapters.gymnasium import VectorAgents, VectorTeam

    env = (VectorAgents if view == "agents" else VectorTeam)(make(setting, COPIES), copy=copy)
    env.reset(seed=0)
    bare = make(setting, COPIES, copy=copy)
    actions = [a.reshape(env.action_space.shape) for a in Stepper(bare, 0).actions]
    report(benchmark, Alternating(env.step, actions), bare, most=0.15)


@pytest.mark.parametrize("setting", MAIN)
def test_pettingzoo(benchmark, setting):
    pytest.importorskip("pettingzoo")
    from fastenvs.adapters.pettingzoo import ParallelCopy

    env = ParallelCopy(make(setting, 1, autoreset="disabled"))

    def step(actions):
        if not env.agents:
            env.reset()
        env.step(actions)

    rng = np.random.default_rng(0)
    actions = [
        dict(zip(env.possible_agents, rng.integers(0, env.env.n_actions, env.env.n_agents), strict=True))
        for _ in range(16)
    ]
    report(benchmark, Alternating(step, actions), make(setting, 1, copy=True))


@pytest.mark.parametrize("setting", MAIN)
def test_sb3(benchmark, setting):
    pytest.importorskip("stable_baselines3")
    from fastenvs.adapters.sb3 import VecAgents

    env, bare = VecAgents(make(setting, COPIES)), make(setting, COPIES, copy=True)
    env.reset()
    report(benchmark, Alternating(env.step, [a.ravel() for a in Stepper(bare, 0).actions]), bare)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("setting", MAIN)
def test_torchrl(benchmark, setting, copy):
    pytest.importorskip("torchrl")
    import torch

    from fastenvs.adapters.torchrl import TorchRLEnv

    env = TorchRLEnv(make(setting, COPIES, autoreset="disabled"), copy=copy)
    now = env.reset()
    bare = make(setting, COPIES, copy=copy)
    actions = [torch.from_numpy(a) for a in Stepper(bare, 0).actions]
    rates = env.full_action_spec.rand() if "designer" in env.full_action_spec else None

    def step(acts):
        nonlocal now
        now["agents", "action"] = acts
        if rates is not None:
            now["designer", "action"] = rates["designer", "action"]
        _, now = env.step_and_maybe_reset(now)

    report(benchmark, Alternating(step, actions), bare)
