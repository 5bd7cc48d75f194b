"""The Saez tax against the recorded cases, and in the economy."""

import json

import numpy as np
import pytest

import fastenvs
from fastenvs import saez


@pytest.mark.parametrize("case", range(5))
def test_recorded_cases(case, saez_path):
    with np.load(saez_path) as archive:
        z = {k.removeprefix(f"case{case}_"): archive[k] for k in archive.files if k.startswith(f"case{case}_")}
    if not z:
        pytest.skip(f"no case {case} in {saez_path.name}")
    options = json.loads(str(z["options_json"]))
    fixed = options["fixed_elasticity"]
    config = saez.Config(z["cutoffs"], 0.0, options["weights"] == "inverse_income", np.nan if fixed is None else fixed)
    memory, work, live = saez.make_memory(1, 7), saez.make_work(), np.zeros((1, 7))
    for k in range(4):
        memory.pairs[0] = z["buffer"][k]
        saez.update(config, memory, work, 0, float(z["rate_cap"]), live, 0)
        close = {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(
            [memory.elasticity_before[0], memory.elasticity[0]], z["elasticity_before_after"][k], **close
        )
        np.testing.assert_allclose(work.log_z0[0], z["log_z0"][k], **close)
        np.testing.assert_allclose(work.g, z["g"][k], **close)
        np.testing.assert_allclose(work.a, z["a"][k], **close)
        np.testing.assert_allclose(work.tau, z["bin_rates"][k], **close)
        np.testing.assert_allclose(live[0], z["rates"][k], **close)
        np.testing.assert_allclose(memory.running_mean[0], z["running_mean"][k], **close)


def test_a_shared_memory_is_clipped_to_the_cap_of_each_copy():
    config = saez.Config(np.array([0.0, 10.0, 50.0]), 0.0, True, np.nan)
    memory, work, live = saez.make_memory(1, 3), saez.make_work(), np.zeros((2, 3))
    rng = np.random.default_rng(0)
    memory.pairs[0] = np.column_stack([rng.uniform(1, 100, saez.MEMORY), rng.uniform(0, 0.9, saez.MEMORY)])
    memory.appended[0] = saez.MEMORY
    position, idle = np.ones(2, np.int32), np.zeros(2, np.bool_)
    streams = fastenvs.rng.make_streams(0, 2)
    saez.set_rates(config, memory, work, position, np.array([0.1, 1.0]), live, streams, idle)
    assert live[0].max() == 0.1
    assert live[1].max() > 0.1
    np.testing.assert_array_equal(live[0], np.minimum(live[1], 0.1))


@pytest.mark.parametrize("shared", [False, True])
def test_in_the_economy(shared):
    """Random rates until a memory has been full, then made ones; memories survive resets."""
    n = 3
    env = fastenvs.make("gtb", n, seed=0, tax_mode="saez", saez_shared=shared, steps=20)
    obs, _ = env.reset()
    rng = np.random.default_rng(0)
    appended, made = 0, False
    for _ in range(2700):
        mask = obs["agents"]["mask"]
        first_day = env.state.taxes.position == 1
        full = env.state.saez.appended >= saez.MEMORY
        obs, _, _, truncated, info = env.step((mask * rng.random(mask.shape)).argmax(-1))
        days = int(info["tax_day"].sum())
        appended += days * 4
        assert env.state.saez.appended.sum() == appended
        live = env.state.taxes.live
        assert ((live >= 0) & (live <= 1)).all()
        if first_day.all() and full.all() and not truncated.any():
            made = True
            if shared:
                assert (live == live[0]).all()
    assert made
    assert (env.state.saez.elasticity != saez.FIRST_ELASTICITY).all()
    mean = env.state.saez.running_mean
    assert (mean > 0).any()
    env.reset()
    np.testing.assert_array_equal(env.state.taxes.live, np.broadcast_to(mean, (n, 7)))
    np.testing.assert_array_equal(env.state.taxes.shown, env.state.taxes.live)
