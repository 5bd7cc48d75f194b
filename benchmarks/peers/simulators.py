"""Other people's simulators: one function a peer, which gives a call that advances all copies by a step.

Actions are random and all observations are made. Each runs in an interpreter of its own (see README.md beside this
file), on one core, and so do ours, whose nearest setting is named beside it. The interpreter may be as old as Python
3.8.
"""

import os

import numpy as np
from blocks import Block, serve

#: Steps in a call of a peer that runs on JAX, so that what a call costs does not count.
SCAN = 16


def foundation(copies):
    """The AI Economist's Foundation: Gather-Trade-Build with 4 agents on 15 x 15 cells (Python)."""
    from ai_economist import foundation as peer

    env = peer.make_env_instance(
        scenario_name="layout_from_file/simple_wood_and_stone",
        components=[
            ("Build", {"skill_dist": "pareto", "payment_max_skill_multiplier": 3}),
            ("ContinuousDoubleAuction", {"max_num_orders": 5}),
            ("Gather", {}),
            ("PeriodicBracketTax", {"period": 10, "bracket_spacing": "us-federal", "usd_scaling": 1000}),
        ],
        env_layout_file="env-pure_and_mixed-15x15.txt",
        starting_agent_coin=10,
        fixed_four_skill_and_loc=True,
        n_agents=4,
        world_size=[15, 15],
        episode_length=100,
        multi_action_mode_agents=False,
        multi_action_mode_planner=True,
        flatten_observations=True,
        flatten_masks=True,
    )
    rng = np.random.default_rng(0)
    env.reset()

    def step():
        actions = {str(i): int(rng.integers(50)) for i in range(4)}
        _, _, done, _ = env.step({**actions, "p": [0] * 7})
        if done["__all__"]:
            env.reset()

    return Block(step, 100), 4


def econojax(copies):
    """EconoJax: an economy of 4 agents without a map (JAX)."""
    from econojax import EconoJax

    env = EconoJax(num_population=4, max_steps_in_episode=100, tax_period_length=10)
    return _jax(env.reset, env.step, env.sample_action, copies), 4


def socialjax(copies):
    """SocialJax's Clean Up: its own map, 7 agents (JAX)."""
    return _clean_up(copies, 7)


def socialjax_small(copies):
    """SocialJax's Clean Up on our map of 7 x 7 cells, 2 agents (JAX)."""
    rows = ["WWWWWWW", "WH  PBW", "WH   BW", "W    BW", "W    BW", "W P  BW", "WWWWWWW"]
    return _clean_up(copies, 2, map_ASCII=rows)


def _clean_up(copies, n_agents, **options):
    import jax
    import socialjax as peer

    env = peer.make("clean_up", num_agents=n_agents, **options)
    spaces = [env.action_space(agent) for agent in env.agents]

    def sample(key):
        return [space.sample(k) for space, k in zip(spaces, jax.random.split(key, len(spaces)))]  # noqa: B905

    return _jax(env.reset, env.step, sample, copies), n_agents


def _jax(reset, step, sample, copies):
    """Compiled steps of all copies, ``SCAN`` a call; copies start anew by themselves.

    The last observations are carried from step to step: a scan that carries states alone makes none, since the compiler
    leaves out what nobody asks for.
    """
    import jax

    def advance(carry, _):
        key, states, _ = carry
        key, a, b = jax.random.split(key, 3)
        actions = jax.vmap(sample)(jax.random.split(a, copies))
        seen, states = jax.vmap(step)(jax.random.split(b, copies), states, actions)[:2]
        return (key, states, seen), None

    def scan(key, states, seen):
        return jax.lax.scan(advance, (key, states, seen), None, SCAN)[0]

    key = jax.random.PRNGKey(0)
    states = jax.jit(jax.vmap(reset))(jax.random.split(key, copies))[1]
    shapes = jax.eval_shape(lambda k, s: advance((k, s, None), None)[0][2], key, states)
    held = [key, states, jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)]
    compiled = jax.jit(scan)

    def call():
        held[:] = jax.block_until_ready(compiled(*held))

    return Block(call)


def pufferlib_snake(copies):
    """PufferLib's Snake: 256 snakes on each of 16 maps, 11 x 11 cells seen (C); another game, of the fastest kind."""
    from cy_snake import CySnake

    n, maps = 4096, 16
    arrays = _arrays(n, (11, 11), np.int8)
    sizes = maps * [640], maps * [360], maps * [256], maps * [4096]
    return _puffer(CySnake(*arrays, *sizes, 5, 1024, True, 0.1, 0.1, -1.0), arrays), 256


def pufferlib_squared(copies):
    """PufferLib's Squared: one agent looks for a target on 11 x 11 cells (C); the least game that it has."""
    from cy_squared import CySquared

    arrays = _arrays(copies, (121,), np.uint8)
    return _puffer(CySquared(*arrays, copies, 11), arrays), 1


def _arrays(n, shape, dtype):
    """Observations, actions, rewards and ends of ``n`` agents, which C keeps the addresses of."""
    return np.zeros((n, *shape), dtype), np.zeros(n, np.int32), np.zeros(n, np.float32), np.zeros(n, np.uint8)


def _puffer(env, arrays):
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 4, len(arrays[1])).astype(np.int32) for _ in range(16)]
    calls = iter(range(10**12))
    env.reset()

    def step():
        arrays[1][:] = draws[next(calls) % 16]
        env.step()

    before = arrays[0].copy()
    step()
    if (arrays[0] == before).all():
        raise RuntimeError("a step changes nothing")
    return Block(step)


def ours(setting, copies):
    """Our simulator in one of the settings of ``test_step.py``."""
    from measuring import stepping
    from test_step import make

    env = make(setting, copies)
    return stepping(setting, env).block, env.n_agents


#: Peer: the interpreter's name for ``--peer``, its copies, and our nearest setting.
PEERS = {
    "foundation": (foundation, "foundation", (1,), "gtb_paper"),
    "econojax": (econojax, "jax", (1, 1024), "gtb_paper"),
    "socialjax": (socialjax, "jax", (1, 64), "cleanup_large"),
    "socialjax 7 x 7": (socialjax_small, "jax", (1, 1024), "cleanup_paper_7x7"),
    "pufferlib snake": (pufferlib_snake, "pufferlib", (16,), "cleanup_large"),
    "pufferlib squared": (pufferlib_squared, "pufferlib", (1, 4096), "er_5_2"),
}


def prepare(case):
    """The block of ``NAME/COPIES``: of a peer, or of ours in a setting."""
    name, _, copies = case.rpartition("/")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # threads that start later inherit it
    if name in PEERS:
        block, agents = PEERS[name][0](int(copies))
    else:
        block, agents = ours(name, int(copies))
    return block, {"agents": agents, "steps": SCAN if name in PEERS and PEERS[name][1] == "jax" else 1}


if __name__ == "__main__":
    serve(prepare)
