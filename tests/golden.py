"""Replays of recorded traces of the reference games, one function a trace format."""

import json
from pathlib import Path

import numpy as np

import fastenvs


def find_traces(folders):
    """Traces below ``folders`` by test id, ``game/trace-name``; a file that is found twice counts once."""
    traces, seen = {}, set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of traces: {folder}")
        for path in sorted(folder.rglob("*.npz")):
            config = read_config(path)
            if config is None or path.resolve() in seen:
                continue
            seen.add(path.resolve())
            key = f"{game_of(config)}/{config.get('name', path.stem)}"
            while key in traces:
                key += "+"
            traces[key] = path
    return traces


def read_config(path: Path):
    """Configuration of a trace, or None for an archive that is not a trace."""
    with np.load(path) as archive:
        if "config_json" not in archive.files:
            return None
        return json.loads(str(archive["config_json"]))


def game_of(config):
    """``escape_room`` for the format ``escape-room-trace-1``."""
    return config["format"].rsplit("-trace-", 1)[0].replace("-", "_")


def replay_escape_room(config, trace):
    """Play a trace with autoreset; starts are handed in as draws."""
    options = {key: config[key] for key in ("n_agents", "min_at_lever", "max_steps", "randomize")}
    env = fastenvs.make("escape_room", 1, seed=0, **options)
    draws = trace["start_state"][:, None]

    def draw(t):
        return {"place": draws[t]} if config["randomize"] and t < len(draws) else None

    obs, _ = env.reset(options={"draws": draw(0)})
    levels = _level_table(config["incentive_levels"])
    for t, actions in enumerate(trace["actions"]):
        if levels is not None:
            paid = levels[trace["designer_action"][t]][actions]
            np.testing.assert_array_equal(paid, trace["incentives"][t], err_msg=f"step {t}")
        np.testing.assert_array_equal(env.state.place[0], trace["start_state"][t], err_msg=f"step {t}")
        np.testing.assert_array_equal(env.state.time[0], trace["step_in_episode"][t])
        np.testing.assert_array_equal(obs["agents"][0], trace["start_obs"][t])
        np.testing.assert_array_equal(obs["designer"][0], trace["start_designer_obs"][t])
        obs, rewards, terminated, truncated, info = env.step(actions[None], draws=draw(t + 1))
        done = terminated[0] or truncated[0]
        np.testing.assert_array_equal(rewards[0], trace["rewards"][t], err_msg=f"step {t}")
        assert info["designer_reward"][0] == trace["designer_reward"][t]
        assert info["door_open"][0] == trace["door_open"][t]
        assert done == trace["done"][t], f"step {t}"
        assert terminated[0] == (trace["door_open"][t] and (actions == 2).any())
        last = info["final_obs"] if done else obs
        np.testing.assert_array_equal(last["agents"][0], trace["next_obs"][t])
        np.testing.assert_array_equal(last["designer"][0], trace["next_designer_obs"][t])
        if not done:
            np.testing.assert_array_equal(env.state.place[0], trace["next_state"][t])


def _level_table(levels):
    """Incentives of every designer action; None where the learner's packages are not installed."""
    try:
        from metagrad.baselines import level_table
    except ImportError:
        return None
    return level_table(levels, 3)


REPLAYS = {"escape_room": replay_escape_room}
