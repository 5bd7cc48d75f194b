"""Other people's simulators, where they can be imported: one function a peer that makes a stepping function.

Each takes a number of copies and returns a call that advances them all by one step of random actions, all observations
made, and the number of copies that one call really steps. They raise ``ImportError`` where the peer is missing.
"""

import numpy as np


def foundation(copies):
    """The AI Economist's Foundation, Gather-Trade-Build with 4 agents (Python, one copy)."""
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

    return step, 1


def econojax(copies):
    """EconoJax with its default economy (JAX)."""
    import jax
    from econojax import EconoJax

    env = EconoJax()
    return _jax(jax, env.reset, lambda key, state, actions: env.step(key, state, actions), env, copies), copies


def socialjax(copies):
    """SocialJax's Clean Up with 7 agents (JAX)."""
    import jax
    import socialjax as peer

    env = peer.make("clean_up")
    return _jax(jax, env.reset, env.step, env, copies), copies


def _jax(jax, reset, step, env, copies):
    """A jitted, vectorised step with random actions."""
    sample = jax.vmap(lambda key: jax.tree.map(lambda space: space.sample(key), _spaces(env)))
    reset_all, step_all = jax.jit(jax.vmap(reset)), jax.jit(jax.vmap(step))
    key = jax.random.PRNGKey(0)
    held = {"state": reset_all(jax.random.split(key, copies))[1], "key": key}

    def call():
        held["key"], a, b = jax.random.split(held["key"], 3)
        out = step_all(jax.random.split(a, copies), held["state"], sample(jax.random.split(b, copies)))
        jax.block_until_ready(out)
        held["state"] = out[1]

    return call


def _spaces(env):
    space = env.action_space
    if callable(space):
        return [space(agent) for agent in env.agents]
    return space


def sequential_social_dilemmas(copies):
    """Sequential Social Dilemma Games, Cleanup with 5 agents (Python, one copy)."""
    from social_dilemmas.envs.cleanup import CleanupEnv

    env = CleanupEnv(num_agents=5)
    rng = np.random.default_rng(0)
    env.reset()

    def step():
        env.step({f"agent-{i}": int(rng.integers(9)) for i in range(5)})

    return step, 1


#: Peer, and the nearest setting of ours in test_step.py.
PEERS = {
    foundation: "gtb_paper",
    econojax: "gtb_paper",
    socialjax: "cleanup_large",
    sequential_social_dilemmas: "cleanup_large",
}
